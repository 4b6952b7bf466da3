"""A call that fails at any point leaves the estimator unchanged."""

import copy
import threading

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from models import by_codes, codes_of, encoder_of, flat, placed

from dkvb_estimator import DKVBClassifier
from dkvb_estimator._atomic import all_or_nothing

SOLVERS = ["joint", "counts", "ridge", "sgd"]
STEPS = {  # functions that learning calls early and late
    "projection": "_encoding.codebook.draw_projection",
    "keys": "_encoding.codebook.place_keys",
    "report": "_encoding.codebook.report_keys",
    "codes": "_encoding.codebook.DeviceEncoder.encode",
    "counts": "_values.statistics.ClassCounts.plus",
    "size": "_classifier.DKVBClassifier._warn_about_size",
    "end": "_classifier.DKVBClassifier._after_change",
}


def small(**settings):
    return flat(**({"n_heads": 4, "n_keys": 8, "key_dim": 3, "random_state": 0} | settings))


def fails_with(error):
    def fails(*arguments, **options):
        raise error

    return fails


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("half", "call", "step"),
    [("classifier", call, step) for call in ("fit", "partial_fit") for step in STEPS]
    + [("encoder", "fit", step) for step in ("projection", "keys", "report")],
)
def test_a_first_call_that_fails_leaves_nothing_behind(blobs, monkeypatch, half, call, step, error):
    X, y = blobs
    model = small().encoder if half == "encoder" else small()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    before = dict(vars(model))
    monkeypatch.setattr(f"dkvb_estimator.{STEPS[step]}", fails_with(error))
    with pytest.raises(type(error)):
        getattr(model, call)(frame, y)
    monkeypatch.undo()
    assert vars(model) == before
    assert getattr(model, call)(X[:, :7], y).n_features_in_ == 7


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_a_later_call_that_fails_at_its_end_changes_no_answer(blobs, monkeypatch, call, solver, lazily):
    X, y = blobs
    model = small(solver=solver).fit(X, y)
    expected, learned = model.predict_proba(X), copy.copy(model._learned)
    monkeypatch.setattr("dkvb_estimator._classifier.DKVBClassifier._after_change", fails_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        getattr(model, call)(da.from_array(X[:60], chunks=20) if lazily else X[:60], y[:60] + 3)
    monkeypatch.undo()
    np.testing.assert_array_equal(model.predict_proba(X), expected)
    assert model._learned.n_samples == learned.n_samples
    assert model.classes_.tolist() == [0, 1, 2, 3, 4]


CHANGES = {
    "forget": lambda model, X, y: model.forget(X[:9], y[:9]),
    "forget_codes": lambda model, X, y: by_codes(model, "forget", codes_of(model, X[:9]), y[:9]),
    "forget_classes": lambda model, X, y: model.forget_classes([1]),
    "merge": lambda model, X, y: model.merge(copy.deepcopy(model).fit(X[200:], y[200:] + 5)),
    "partial_fit_codes": lambda model, X, y: by_codes(model, "partial_fit", codes_of(model, X[:9]), y[:9]),
    "fit_codes": lambda model, X, y: by_codes(model, "fit", codes_of(model, X[:9]), y[:9]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_interrupted_is_undone(blobs, monkeypatch, change):
    X, y = blobs
    model = placed(small(), X).partial_fit(X[:100], y[:100])
    expected = model.predict_proba(X)
    settings = dict(vars(model))
    original = DKVBClassifier._after_change

    def late(self):
        original(self)
        if self is model:
            raise KeyboardInterrupt

    monkeypatch.setattr(DKVBClassifier, "_after_change", late)
    with pytest.raises(KeyboardInterrupt):
        CHANGES[change](model, X, y)
    monkeypatch.undo()
    assert vars(model).keys() == settings.keys()
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_pruning_that_is_interrupted_keeps_keys_and_counts_together(blobs, monkeypatch):
    X, y = blobs
    model = placed(small(n_keys=32), X).partial_fit(X[:20], y[:20])
    expected = model.predict_proba(X)
    monkeypatch.setattr("dkvb_estimator._values.statistics.ClassCounts.with_keys", fails_with(MemoryError()))
    with pytest.raises(MemoryError):
        model.prune()
    assert encoder_of(model).keys_.shape == (4, 32, 3)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_a_warning_that_is_an_error_undoes_its_call(blobs):
    X, y = blobs
    model = small(n_keys=64)
    with pytest.raises(UserWarning, match="X has 5 distinct rows for 64 keys"):
        model.partial_fit(X[:5], y[:5])
    assert not hasattr(model, "n_features_in_")
    assert encoder_of(model.partial_fit(X, y)).key_report_["n_rows"] == 240


def test_steps_that_leave_the_numbers_are_refused_and_undone(blobs):
    X, y = blobs
    model = small(solver="sgd").fit(X, y)
    values = model.values_
    with pytest.raises(
        ValueError, match=r"learning_rate=1e\+300 leads to infinite values; expected .* Set a smaller one"
    ):
        model.set_params(solver_params={"learning_rate": 1e300}).partial_fit(X, y)
    np.testing.assert_array_equal(model.values_, values)


def test_threads_that_predict_meanwhile_are_not_disturbed_by_a_call_that_fails(blobs):
    X, y = blobs
    model = small().fit(X, y)
    expected, found = model.predict_proba(X), []

    def ask():
        found.extend(model.predict_proba(X) for _ in range(10))

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(10):
        with pytest.raises(ValueError, match="NaN"):
            model.partial_fit(np.full((3, 12), np.nan), y[:3])
    thread.join()
    for each in found:
        np.testing.assert_array_equal(each, expected)


def test_what_a_method_adds_and_changes_is_taken_back():
    class Held:
        kept = 1

        @all_or_nothing
        def change(self):
            self.kept, self.new = 2, 3
            raise KeyError

    held = Held()
    held.own = [1]
    with pytest.raises(KeyError):
        held.change()
    assert vars(held) == {"own": [1]}
