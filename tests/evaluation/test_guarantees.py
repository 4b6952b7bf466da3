"""The guarantees of a run are measured, and stated only if they hold."""

import numpy as np
import pytest

from pipeline.evaluation import guarantees
from pipeline.evaluation.factory import encode, make_method, place_keys
from pipeline.evaluation.guarantees import measure_guarantees

ENCODER = {"n_heads": 8, "n_keys": 8, "key_dim": 3, "random_state": 0}


@pytest.fixture
def learned(blobs):
    X, y = blobs
    return X, y.astype(np.int64)


@pytest.mark.parametrize("solver", ["joint", "counts"])
def test_additive_solvers_forget_and_merge_to_the_bit(learned, solver):
    X, y = learned
    start = place_keys(make_method({"encoder": ENCODER, "solver": solver}), X)
    found = measure_guarantees(start, encode(start, X), y, X)
    assert list(found) == ["Forgetting 50 samples", "Merging two models"]
    assert all(
        said.startswith(f"scores of {len(X)} test rows are equal to those of a model that ") for said in found.values()
    )
    assert not hasattr(start, "classes_")


def test_gradient_steps_claim_nothing(learned):
    X, y = learned
    start = place_keys(make_method({"encoder": ENCODER, "solver": "sgd"}), X)
    assert measure_guarantees(start, encode(start, X), y, X) == {}


def test_a_model_that_does_not_forget_is_found_out(learned, monkeypatch):
    X, y = learned
    start = place_keys(make_method({"encoder": ENCODER, "solver": "counts"}), X)
    monkeypatch.setattr(guarantees, "forget_codes", lambda model, codes, y: model)
    said = measure_guarantees(start, encode(start, X), y, X)["Forgetting 50 samples"]
    assert said.startswith("scores differ from those of a model that never saw them by")
