"""Labels and weights that fit accepts stay exact in the model and in files; all others are refused."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed

from dkvb_estimator import load_model, save_model
from dkvb_estimator._labels import are_among, check_labels, merge_classes, positions_of

SOLVERS = ["joint", "counts", "ridge", "sgd"]
GROUP = np.repeat(np.arange(3), 20)
X = (np.random.default_rng(5).standard_normal((60, 8)) + 5 * np.eye(8)[GROUP]).astype(np.float32)
BIG = 2**53


def small(**settings):
    return flat(**({"n_heads": 5, "n_keys": 8, "key_dim": 3, "random_state": 0} | settings))


def survives(model, path):
    """Check that the model gives the same predictions after it is saved, pickled and copied."""
    save_model(model, path)
    for twin in (load_model(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
        assert twin.predict(X).tolist() == model.predict(X).tolist()
        assert twin.classes_.tolist() == model.classes_.tolist()


KEPT = {
    "integers of 8 bits": np.array([-3, 0, 9], dtype=np.int8),
    "large integers": np.array([BIG, BIG + 1, BIG + 2]),
    "integers beyond int64": np.array([2**64 - 1, 2**63, 1], dtype=np.uint64),
    "booleans": np.array([True, False, True]),
    "whole floats": np.array([0.0, 1.0, 2.0], dtype=np.float16),
    "extended floats": np.array([0, 1, 2], dtype=np.longdouble),
    "text": np.array(["", "b\0c", "ß\udc80"]),
    "text of objects": np.array(["a", "bb", "c"], dtype=object),
    "text of any length": np.array(["a", "bb", "c"], dtype=np.dtypes.StringDType()),
    "very long text": np.array(["a" * 50_000, "b", "c"]),
}


ALL_OF_ONE = [
    pytest.param(name, solver, marks=[] if solver == "counts" or name == "text" else pytest.mark.slow)
    for name in KEPT
    for solver in SOLVERS
]
"""All labels with one solver, and one kind of labels with all solvers; other combinations are marked slow."""


@pytest.mark.parametrize(("name", "solver"), ALL_OF_ONE)
def test_labels_come_back_as_they_were_given(name, solver, tmp_path):
    y = KEPT[name][GROUP]
    model = small(solver=solver, learning_rate=300.0).fit(X, y)
    assert set(model.classes_.tolist()) == set(y.tolist())
    survives(model, tmp_path / "m.npz")


def test_columns_of_tables_are_labels(tmp_path):
    for y in (pd.Series(pd.Categorical(np.array(list("abc"))[GROUP])), pd.Series(GROUP, dtype="Int64")):
        survives(small().fit(X, y), tmp_path / "m.npz")


REFUSED = {
    "dates": np.array(["2021-05-01", "2021-05-02", "NaT"], dtype="datetime64[D]"),
    "durations": np.array([1, 2, 3], dtype="timedelta64[h]"),
    "text that ends in NUL": np.array(["a", "a\0", "b"], dtype=object),
    "objects": np.array(["a", None, "b"], dtype=object),
    "numbers as objects": np.array([1, 2, 3], dtype=object),
    "records": np.zeros(3, dtype=[("a", "i4")]),
    "floats that have lost their unit": np.array([2.0**53, 2.0**60, 1.0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_cannot_be_kept_are_refused_by_every_door(name):
    y, model = REFUSED[name][GROUP], small()
    with pytest.raises(ValueError, match=r"y holds .*; expected .*(Convert y|Remove or replace the NUL)"):
        model.fit(X, y)
    assert not hasattr(model, "n_features_in_")
    placed(model, X)
    with pytest.raises(ValueError, match=r"y holds .*; expected"):
        by_codes(model, "partial_fit", codes_of(model, X), y)
    with pytest.raises(ValueError, match=r"classes holds .*; expected"):
        model.partial_fit(X, GROUP, classes=REFUSED[name])
    assert not hasattr(model, "_learned")


@pytest.mark.parametrize("pair", [["a", "a\0"], ["a", None], ["a", 1], ["a", float("nan")], [2**63, -1], [2**64, 1]])
def test_lists_that_numpy_would_change_are_refused(pair):
    with pytest.raises(ValueError, match=r"y holds .*; expected"):
        small().fit(X, [pair[i % 2] for i in range(60)])


@pytest.mark.parametrize("classes", [[0, np.nan], [0, np.inf], [0, None], ["a"], [[0, 1]], {1, "a"}])
def test_declared_labels_that_cannot_be_kept_are_refused_by_name(classes):
    model = placed(small(), X)
    with pytest.raises(ValueError, match=r"classes (holds|has) .*; expected .*(Convert|Pass) "):
        model.partial_fit(X, GROUP, classes=classes)
    assert not hasattr(model, "_learned")


@pytest.mark.parametrize(
    "classes",
    [
        {7, 2},
        frozenset([7]),
        {7: "seven"},
        {7: 0}.keys(),
        iter([7]),
        (7,),
        range(7, 8),
        7,
        torch.tensor([7]),
        pd.Series([7]),
    ],
)
def test_labels_to_come_are_declared_in_any_collection(classes, tmp_path):
    model = placed(small(), X).partial_fit(X, GROUP, classes=classes)
    assert model.classes_.tolist() == [0, 1, 2, 7]
    survives(model, tmp_path / "m.npz")
    assert model.forget_classes({2}).classes_.tolist() in ([0, 1, 7], [0, 1, 2, 7])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_large_labels_stay_what_they_are_through_integers_of_two_types(solver, order, tmp_path):
    labels = [np.int64(BIG + 1), np.uint64(2**63 + 1), np.int32(5)]
    model = placed(small(solver=solver, learning_rate=300.0), X)
    for group in order:
        model.partial_fit(X[20 * group : 20 * group + 20], np.full(20, labels[group]))
    assert model.classes_.tolist() == [5, BIG + 1, 2**63 + 1]
    found = model.predict(X).tolist()
    assert np.mean([label == int(labels[group]) for label, group in zip(found, GROUP)]) > 0.9
    survives(model, tmp_path / "m.npz")
    model.calibrate(X[40:], np.full(20, 5))
    model.forget(X[:20], np.full(20, BIG + 1))
    assert model.classes_.tolist() == [5, 2**63 + 1]


def test_models_merge_with_large_labels_of_two_types():
    one, other = (placed(small(), X) for _ in range(2))
    one.partial_fit(X[:20], np.full(20, BIG + 1))
    other.partial_fit(X[20:], np.array([BIG, 2**63], dtype=np.uint64)[GROUP[20:] - 1])
    assert one.merge(other).classes_.tolist() == [BIG, BIG + 1, 2**63]
    assert one.class_counts_.tolist() == [20, 20, 20]


def test_small_unsigned_labels_meet_signed_ones_as_integers():
    model = placed(small(), X).partial_fit(X[:30], np.full(30, -1)).partial_fit(X[30:], np.full(30, 3, dtype=np.uint64))
    assert model.classes_.dtype == np.int64
    assert model.classes_.tolist() == [-1, 3]


@pytest.mark.parametrize("second", [np.array([2**63], dtype=np.uint64), np.array([2.0])])
def test_labels_that_no_type_holds_are_refused_and_nothing_is_learned(second):
    model = placed(small(), X).partial_fit(X[:30], np.array([-1, BIG + 1])[np.arange(30) % 2])
    with pytest.raises(
        ValueError, match=r"y and the learned classes hold labels from -?\d.*expected labels that one type.*Convert"
    ):
        model.partial_fit(X[30:], second.repeat(30))
    assert model.classes_.tolist() == [-1, BIG + 1]
    assert model.class_counts_.sum() == 30


def test_unknown_labels_are_told_from_known_ones_that_are_close():
    model = placed(small(), X).partial_fit(X, np.array([2**63, 2**63 + 1], dtype=np.uint64)[GROUP % 2])
    with pytest.raises(ValueError, match=r"not among the \d learned classes"):
        model.calibrate(X, np.full(60, 2**63 - 1))
    with pytest.raises(ValueError, match="never learned"):
        model.forget(X[:5], np.full(5, 2**63 + 2, dtype=np.uint64))


def test_labels_are_compared_exactly():
    classes = np.array([1, 2**63 + 1, 2**63 + 3], dtype=np.uint64)
    assert are_among(np.array([1, 2**62, -1]), classes).tolist() == [True, False, False]
    assert positions_of(np.array([2**63 + 3, 1], dtype=np.uint64), classes).tolist() == [2, 0]
    assert merge_classes(np.array([True, False]), np.array([2], dtype=np.uint64)).tolist() == [0, 1, 2]
    assert check_labels(np.array([7], dtype=np.uint64)).dtype == np.int64


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("weight", [1e-300, 1e-3, 1e15])
def test_models_of_extreme_weights_come_back(solver, weight, tmp_path):
    model = small(solver=solver).fit(X, GROUP, sample_weight=np.where(GROUP == 1, weight, 1.0))
    assert np.isfinite(model.predict_proba(X)).all()
    survives(model, tmp_path / "m.npz")


@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_whose_sums_leave_the_numbers_are_refused(solver):
    model = small(solver=solver)
    with pytest.raises(ValueError, match=r"sample_weight holds 1e\+300; expected weights up to 1e\+15\. Divide"):
        model.fit(X, GROUP, sample_weight=np.where(GROUP == 1, 1e300, 1.0))
    assert not hasattr(model, "encoder_")


@pytest.mark.parametrize(
    "value",
    [
        np.ones(3),
        [1.0, 1.0, 1.0],
        pd.Series([1.0]),
        {0: 1e300},
        {0: "a"},
        {0: np.ones(2)},
        {np.nan: 1.0},
        {(0, 1): 1.0},
    ],
)
def test_class_weights_of_other_kinds_are_refused_by_name(value):
    with pytest.raises(
        ValueError, match=r"class_weight=[\s\S]* is not valid; expected .*Set it with set_params\(class_weight"
    ):
        small(class_weight=value).fit(X, GROUP)


@pytest.mark.parametrize(
    "settings",
    [{"normalize": np.True_}, {"n_heads": np.int64(5), "max_iter": np.int32(3)}, {"density": np.float32(0.5)},
     {"random_state": np.int64(3)}, {"class_weight": {np.int64(1): np.float32(2)}}, {"solver": np.str_("ridge")}],
)  # fmt: skip
def test_settings_as_numpys_numbers_come_back(settings, tmp_path):
    survives(small(**settings).fit(X, GROUP), tmp_path / "m.npz")


def test_large_rows_that_are_all_keys_come_back(tmp_path):
    shape = {"n_heads": 1, "n_keys": 60, "projection": "identity", "key_init": "sample", "normalize": False}
    model = small(**shape).fit(X * np.float32(1e37), GROUP)
    save_model(model, tmp_path / "m.npz")
    assert encoder_of(load_model(tmp_path / "m.npz")).key_report_ == encoder_of(model).key_report_
