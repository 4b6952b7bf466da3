"""Settings changed after learning take effect at the next call, or are refused by name."""

import copy
import pickle
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import flat, placed
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
from dkvb_estimator._classifier import solve_jointly
from dkvb_estimator._validation import GRADIENT

RNG = np.random.default_rng(3)
Y = np.arange(60) % 3
X = (RNG.standard_normal((60, 6)) + 2 * np.eye(6)[Y]).astype(np.float32)
SHAPE = {"n_heads": 4, "n_keys": 8, "key_dim": 3, "random_state": 0, "learning_rate": 50.0}
CHANGEABLE = {
    "alpha": st.sampled_from(["auto", 1e-6, 0.1, 30.0]),
    "objective": st.sampled_from(["auto", "ridge", "discriminant"]),
    "curvature": st.sampled_from(["auto", 0.0, 1.5]),
    "smoothing": st.sampled_from([0.01, 1.0, 20.0]),
    "class_weight": st.sampled_from([None, "balanced", {0: 3.0}, {0: 0.2, 2: 5.0}]),
    "device": st.sampled_from(["auto", "cpu"]),
    "solver_params": st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": st.sampled_from([1.0, 80.0]),
            "batch_size": st.sampled_from([16, 256]),
            "label_smoothing": st.sampled_from([0.0, 0.3]),
            "clip_norm": st.sampled_from([0.01, 1.0]),
            "max_iter": st.sampled_from([1, 4]),
            "partial_fit_epochs": st.sampled_from([1, 3]),
        },
    ),
    "verbose": st.just(0),
    "codes_dir": st.none(),
    "encoder__device": st.sampled_from(["auto", "cpu"]),
    "encoder__memory": st.none(),
    "encoder__verbose": st.just(0),
}
FIXED = {
    "encoder__n_heads": 5, "encoder__n_keys": 9, "encoder__key_dim": 2, "encoder__n_selected": 2,
    "encoder__normalize": False, "encoder__projection": "sparse", "encoder__density": 0.7,
    "encoder__key_init": "sample", "encoder__feature_blocks": (2, 4),
    "encoder__random_state": 7, "solver": "ridge", "remember": False,
    "encoder": FrozenEstimator(KeyEncoder(3, 4, 2, random_state=1).fit(X)),
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
    before = model.encoder if name == "encoder" else model.get_params()[name]
    model.set_params(**{name: FIXED[name]})
    calls = [
        lambda each: each.predict(X), lambda each: each.predict_proba(X), lambda each: each.values_,
        lambda each: each.temperature_, lambda each: each.score_samples(X), lambda each: each.partial_fit(X, Y),
        lambda each: each.forget(X[:3], Y[:3]), lambda each: each.key_usage(),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(
            ValueError,
            match=rf"{name}.*was (set after fitting|fitted with).*expected .*Set it back, or",
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
    of_both = flat(**SHAPE).get_params().keys()
    assert CHANGEABLE.keys() | FIXED.keys() | {"random_state"} == of_both


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"alpha": -1.0}, "alpha"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"class_weight": np.ones(3)}, "class_weight"),
        ({"solver_params": {"max_iter": 0}}, "max_iter"),
        ({"solver_params": {"rate": 1.0}}, "solver_params"),
        ({"device": "abacus"}, "device"),
        ({"encoder": 3}, "encoder"),
        ({"encoder": FrozenEstimator(StandardScaler())}, "encoder"),
        ({"encoder__n_keys": 0}, "encoder__n_keys"),
    ],
)
@pytest.mark.parametrize("solver", READ)
def test_a_setting_that_becomes_wrong_is_refused_at_the_next_prediction(solver, wrong, named):
    model = flat(**SHAPE, solver=solver).fit(X, Y)
    expected, (name,) = model.predict(X), wrong
    before = model.get_params()[name]
    with pytest.raises((TypeError, ValueError), match=rf"{named}[\s\S]*; expected"):
        model.set_params(**wrong).predict(X)
    np.testing.assert_array_equal(model.set_params(**{name: before}).predict(X), expected)


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
    assert model.set_params(smoothing=5.0, solver_params={"max_iter": 3}).temperature_ == chosen
    assert model.set_params(alpha=9.0).temperature_ == 1
    assert model.set_params(alpha="auto").temperature_ == chosen


def test_values_are_solved_once_while_nothing_that_they_are_made_from_changes():
    model = flat(**SHAPE, solver="ridge").fit(X, Y)
    with mock.patch("dkvb_estimator._classifier.solve_jointly", wraps=solve_jointly) as solved:
        for change in ({"smoothing": 3.0}, {"solver_params": {"learning_rate": 2.0, "max_iter": 2}}, {"verbose": 0}):
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


def test_a_dict_of_settings_of_steps_that_is_written_into_counts_as_changed():
    steps = {"learning_rate": 50.0}
    model, twin = (DKVBClassifier(KeyEncoder(4, 8, 3, random_state=0), solver="sgd") for _ in range(2))
    model.set_params(solver_params=steps).fit(X[:30], Y[:30])
    steps["learning_rate"] = 1.0
    twin.set_params(solver_params={"learning_rate": 50.0}).fit(X[:30], Y[:30])
    twin.set_params(solver_params={"learning_rate": 1.0})
    assert_same(model.partial_fit(X[30:], Y[30:]), twin.partial_fit(X[30:], Y[30:]))


def test_settings_of_steps_that_are_left_out_have_their_defaults():
    one, other = (DKVBClassifier(KeyEncoder(4, 8, 3, random_state=0), solver="sgd") for _ in range(2))
    assert_same(one.fit(X, Y), other.set_params(solver_params=dict(GRADIENT)).fit(X, Y))


@pytest.mark.parametrize("changed", [{"random_state": 7}, {"encoder__n_keys": 9}, {"encoder": KeyEncoder(4, 8, 3)}])
def test_what_the_default_encoder_rests_on_is_fixed_too(changed, monkeypatch):
    def small_default(self):
        return KeyEncoder(6, 8, 3, random_state=self.random_state)

    monkeypatch.setattr(DKVBClassifier, "_default_encoder", small_default)
    model = DKVBClassifier(random_state=0).fit(X, Y)
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match=r"encoder__\w+=.* was set after fitting with .*Set it back"):
        model.set_params(**changed).predict(X)
    np.testing.assert_array_equal(model.set_params(encoder=None, random_state=0).predict_proba(X), expected)
    assert model.set_params(**changed).fit(X, Y).predict(X).shape == (60,)


def test_a_frozen_encoder_may_be_swapped_for_one_with_the_same_keys():
    encoder = KeyEncoder(4, 8, 3, random_state=0).fit(X)
    model = DKVBClassifier(FrozenEstimator(encoder)).fit(X, Y)
    expected = model.predict_proba(X)
    model.set_params(encoder=FrozenEstimator(pickle.loads(pickle.dumps(encoder))))
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    np.testing.assert_array_equal(model.set_params(encoder=FrozenEstimator(model.encoder_)).predict_proba(X), expected)
    other = FrozenEstimator(KeyEncoder(4, 8, 3, random_state=1).fit(X))
    with pytest.raises(ValueError, match=r"encoder has fingerprint_ \w{12}, but .*expected the same keys"):
        model.set_params(encoder=other).predict(X)
