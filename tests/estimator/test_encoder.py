"""The frozen half, seen through the estimator: keys from blocks, codes, pruning, state."""

import numpy as np
import pytest
from models import by_codes, codes_of, encoder_of, flat, placed

SOLVERS = ["joint", "counts", "ridge", "sgd"]


def started(X, **settings):
    options = {"n_heads": 6, "n_keys": 32, "key_dim": 4, "n_selected": 2, "random_state": 0, "learning_rate": 100.0}
    return placed(flat(**options | settings), X)


def test_keys_from_blocks_of_any_size_are_those_from_the_whole(blobs):
    X, _ = blobs
    blocks = (X[start : start + 50] for start in (200, 0, 150, 50, 100))
    assert encoder_of(started(blocks)).fingerprint_ == encoder_of(started(X)).fingerprint_


def test_blocks_are_read_one_at_a_time(blobs):
    X, _ = blobs
    alive = []

    def blocks():
        for start in range(0, 240, 40):
            alive.append(start)
            yield X[start : start + 40].copy()

    started(blocks())
    assert alive == [0, 40, 80, 120, 160, 200]


def test_labels_beside_blocks_are_passed_over_where_nothing_wants_them(blobs):
    X, y = blobs
    assert encoder_of(started(iter([(X, y)]))).fingerprint_ == encoder_of(started(X)).fingerprint_


def test_no_blocks_at_all_is_refused():
    with pytest.raises(ValueError, match=r"yielded no block; expected at least one.*Pass a fresh one"):
        started(iter([]))


def test_a_block_with_other_features_is_refused(blobs):
    X, _ = blobs
    with pytest.raises(ValueError, match="X has 5 features, but DKVBClassifier is expecting 12"):
        started(iter([X, X[:, :5]]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_pruning_keeps_every_prediction_bit_for_bit(blobs, solver):
    X, y = blobs
    model = started(X, solver=solver).partial_fit(X[:60], y[:60])
    before, values = model.predict_proba(X), model.values_
    unused = model.key_counts_ == 0
    assert unused.any()
    model.prune()
    assert encoder_of(model).keys_.shape[1] < 32
    np.testing.assert_array_equal(model.predict_proba(X), before)
    np.testing.assert_array_equal(model.values_[encoder_of(model).key_mask_], values[~unused])
    assert (model.key_counts_[encoder_of(model).key_mask_] > 0).all()


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_a_pruned_model_forgets_as_exactly_as_before(blobs, solver):
    X, y = blobs
    model = started(X, solver=solver).partial_fit(X[:90], y[:90]).prune()
    kept = started(X, solver=solver).partial_fit(X[30:90], y[30:90])
    model.forget(X[:30], y[:30])
    np.testing.assert_array_equal(model.predict_proba(X), kept.predict_proba(X))
    with pytest.raises(ValueError, match=r"30 of the 30 samples to forget were never learned.*Nothing was changed"):
        model.forget(X[:30], y[:30])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pruned_model_learns_on_among_the_keys_that_are_left(blobs, solver):
    X, y = blobs
    model = started(X, solver=solver).partial_fit(X[:60], y[:60]).prune()
    keys = encoder_of(model).keys_.copy()
    model.partial_fit(X[60:], y[60:])
    np.testing.assert_array_equal(encoder_of(model).keys_, keys)
    assert (model.key_counts_[~encoder_of(model).key_mask_] == 0).all()
    assert model.score(X, y) > 0.8


def test_pruning_twice_is_pruning_once(blobs):
    X, y = blobs
    once, twice = (started(X).partial_fit(X[:60], y[:60]).prune() for _ in range(2))
    assert encoder_of(twice.prune()).fingerprint_ == encoder_of(once).fingerprint_
    np.testing.assert_array_equal(twice.predict_proba(X), once.predict_proba(X))


def test_a_pruned_model_does_not_merge_with_the_whole_one(blobs):
    X, y = blobs
    pruned, whole = (started(X).partial_fit(X[:60], y[:60]) for _ in range(2))
    with pytest.raises(ValueError, match=r"the other model has .* expected the same.*prune after merging"):
        whole.merge(pruned.prune())


def test_codes_from_before_pruning_are_refused(blobs):
    X, y = blobs
    model = started(X).partial_fit(X[:60], y[:60])
    codes = codes_of(model, X)
    with pytest.raises(ValueError, match=r"codes name key.*Encode again with encode\(X\)"):
        by_codes(model.prune(), "partial_fit", codes, y)


def test_a_projection_that_changed_its_settings_is_refused(blobs):
    X, y = blobs
    model = started(X).partial_fit(X, y).set_params(normalize=False)
    with pytest.raises(ValueError, match=r"normalize=False was set after the keys were placed.*Set it back"):
        model.prune()
