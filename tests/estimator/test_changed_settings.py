"""Settings that are changed after learning: they take effect at the next call, or are refused by name."""

import copy
import pickle
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import codes_of, flat, placed
from sklearn.base import clone

from dkvb_estimator import DKVBClassifier, load_model, save_model
from dkvb_estimator._values.solvers import solve_jointly

RNG = np.random.default_rng(3)
Y = np.arange(60) % 3
X = (RNG.standard_normal((60, 6)) + 2 * np.eye(6)[Y]).astype(np.float32)
SHAPE = {"n_heads": 4, "n_keys": 8, "key_dim": 3, "random_state": 0, "learning_rate": 50.0}
CHANGEABLE = {
    "alpha": st.sampled_from(["auto", 1e-6, 0.1, 30.0]),
    "objective": st.sampled_from(["auto", "ridge", "discriminant"]),
    "curvature": st.sampled_from(["auto", 0.0, 1.5]),
    "smoothing": st.sampled_from([0.01, 1.0, 20.0]),
    "max_iter": st.sampled_from([None, 1, 4]),
    "class_weight": st.sampled_from([None, "balanced", {0: 3.0}, {0: 0.2, 2: 5.0}]),
    "device": st.sampled_from(["auto", "cpu"]),
    "learning_rate": st.sampled_from([1.0, 80.0]),
    "batch_size": st.sampled_from([16, 256]),
    "label_smoothing": st.sampled_from([0.0, 0.3]),
    "clip_norm": st.sampled_from([0.01, 1.0]),
    "verbose": st.just(0),
    "codes_dir": st.none(),
}
FIXED = {
    "n_heads": 5, "n_keys": 9, "key_dim": 2, "n_selected": 2, "normalize": False, "projection": "sparse",
    "density": 0.7, "key_init": "sample", "key_data": X, "solver": "ridge", "random_state": 7,
    "remember": False,
}  # fmt: skip
SOLVED = {"alpha", "curvature", "class_weight"}
READ = {"counts": {"smoothing", "class_weight"}, "joint": SOLVED | {"objective"}, "ridge": SOLVED, "sgd": set()}


def answers(model):
    return [model.predict_proba(X), model.decision_function(X), model.values_, np.float64(model.temperature_)]


def assert_same(one, other):
    for found, expected in zip(answers(one), answers(other), strict=True):
        np.testing.assert_array_equal(found, expected)


@st.composite
def changes(draw):
    names = draw(st.lists(st.sampled_from(sorted(CHANGEABLE)), min_size=1, max_size=4, unique=True))
    return {name: draw(CHANGEABLE[name]) for name in names}


def through(model, way):
    return {
        "kept": lambda: model,
        "pickled": lambda: pickle.loads(pickle.dumps(model)),
        "copied": lambda: copy.deepcopy(model),
    }[way]()


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(sorted(READ)),
    st.lists(changes(), min_size=1, max_size=3),
    st.sampled_from(["kept", "pickled", "copied"]),
)
def test_a_changed_setting_takes_effect_at_the_next_prediction(solver, steps, way):
    model, now = flat(**SHAPE, solver=solver, n_selected=2).fit(X, Y), {}
    for step in steps:
        answers(model)
        model.set_params(**step)
        now |= step
        model = through(model, way)
    read = {name: value for name, value in now.items() if name in READ[solver]}
    assert_same(model, flat(**SHAPE, solver=solver, n_selected=2).set_params(**read).fit(X, Y))


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(changes())
def test_a_changed_setting_of_steps_holds_for_the_next_steps(step):
    model = flat(**SHAPE, solver="sgd").fit(X[:30], Y[:30])
    twin = pickle.loads(pickle.dumps(model)).set_params(**step)
    answers(model)
    model.set_params(**step).partial_fit(X[30:], Y[30:])
    assert_same(model, twin.partial_fit(X[30:], Y[30:]))


@pytest.mark.parametrize("name", FIXED)
def test_what_cannot_change_is_refused_by_name_at_the_next_call(name):
    model = flat(**SHAPE).fit(X, Y)
    expected = model.predict_proba(X)
    before = model.get_params()[name]
    model.set_params(**{name: FIXED[name]})
    calls = [
        lambda each: each.predict(X), lambda each: each.predict_proba(X), lambda each: each.values_,
        lambda each: each.temperature_, lambda each: codes_of(each, X), lambda each: each.partial_fit(X, Y),
        lambda each: each.forget(X[:3], Y[:3]), lambda each: each.novelty(X),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(
            ValueError, match=rf"{name}.*was set after the keys were placed .*expected .*Set it back, or"
        ):
            call(model)
        with pytest.raises(ValueError, match=name):
            call(pickle.loads(pickle.dumps(model)))
    np.testing.assert_array_equal(model.set_params(**{name: before}).predict_proba(X), expected)


@pytest.mark.parametrize("name", FIXED)
def test_what_is_fixed_for_a_life_may_change_for_the_next_fit(name):
    changed = flat(**SHAPE).fit(X, Y).set_params(**{name: FIXED[name]})
    np.testing.assert_array_equal(changed.fit(X, Y).predict_proba(X), clone(changed).fit(X, Y).predict_proba(X))


def test_every_setting_is_one_that_may_change_or_one_that_may_not():
    assert CHANGEABLE.keys() | FIXED.keys() == DKVBClassifier().get_params().keys()


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"smoothing": 0.0}, {"class_weight": np.ones(3)}, {"max_iter": 0}, {"device": "abacus"}]
)
@pytest.mark.parametrize("solver", READ)
def test_a_setting_that_becomes_wrong_is_refused_at_the_next_prediction(solver, wrong):
    model = flat(**SHAPE, solver=solver).fit(X, Y)
    expected, (name,) = model.predict(X), wrong
    with pytest.raises(ValueError, match=rf"{name}=[\s\S]*; expected"):
        model.set_params(**wrong).predict(X)
    np.testing.assert_array_equal(model.set_params(**{name: DKVBClassifier().get_params()[name]}).predict(X), expected)


def test_a_dict_of_weights_that_is_written_into_counts_as_changed():
    weights = {0: 1.0}
    model = flat(**SHAPE, class_weight=weights).fit(X, Y)
    answers(model)
    weights[0] = 9.0
    assert_same(model, flat(**SHAPE, class_weight={0: 9.0}).fit(X, Y))


@pytest.mark.parametrize("way", ["kept", "pickled", "file"])
def test_a_chosen_temperature_belongs_to_the_settings_it_was_chosen_with(way, tmp_path):
    model = flat(**SHAPE, class_weight={1: 2.0}).fit(X, Y).calibrate(X[::2], Y[::2])
    chosen = model.temperature_
    assert chosen != 1
    if way == "file":
        save_model(model, tmp_path / "m.npz")
    model = load_model(tmp_path / "m.npz") if way == "file" else through(model, way)
    assert model.set_params(smoothing=5.0, max_iter=3).temperature_ == chosen
    assert model.set_params(alpha=9.0).temperature_ == 1
    assert model.set_params(alpha="auto").temperature_ == chosen


def test_values_are_solved_once_while_nothing_that_they_are_made_from_changes():
    model = flat(**SHAPE, solver="ridge").fit(X, Y)
    with mock.patch("dkvb_estimator._solved.solve_jointly", wraps=solve_jointly) as solved:
        for change in ({"smoothing": 3.0}, {"learning_rate": 2.0}, {"max_iter": 2}, {"verbose": 0}):
            model.set_params(**change).predict(X)
        assert solved.call_count == 1
        model.set_params(alpha=3.0).predict(X)
        assert solved.call_count == 2


def test_a_pruned_model_follows_its_settings_too():
    one, other = (placed(flat(**SHAPE, smoothing=s), X).partial_fit(X[:20], Y[:20]) for s in (1.0, 6.0))
    one.predict(X)
    np.testing.assert_array_equal(
        one.prune().set_params(smoothing=6.0).predict_proba(X), other.prune().predict_proba(X)
    )
