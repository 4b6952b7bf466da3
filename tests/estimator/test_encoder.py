"""KeyEncoder: scikit-learn's contract, keys from blocks, codes and their encoder, memory, pruning."""

import copy
import pickle
import re
import warnings

import dask.array as da
import joblib
import numpy as np
import oracle
import pandas as pd
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.estimator_checks import check_estimator

from dkvb_estimator import Codes, DKVBClassifier, KeyEncoder, _encoder
from dkvb_estimator._encoding import DeviceEncoder
from dkvb_estimator._validation import FROZEN

SOLVERS = ["joint", "counts", "ridge", "sgd"]


def started(X, **settings):
    options = {"n_heads": 6, "n_keys": 32, "key_dim": 4, "n_selected": 2, "random_state": 0, "learning_rate": 100.0}
    return placed(flat(**options | settings), X)


def small(**settings):
    return KeyEncoder(**{"n_heads": 6, "n_keys": 16, "key_dim": 3, "random_state": 0} | settings)


# scikit-learn's contract

LABELS_ARE_ASKED_FOR = "projection='learned' asks for labels in words of its own"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"n_selected": 3, "key_init": "sample"}, {}),
        ({"projection": "learned"}, {"check_requires_y_none": LABELS_ARE_ASKED_FOR}),
    ],
)
def test_scikit_learns_checks_pass(settings, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(small(**settings), on_fail=None, on_skip=None, expected_failed_checks=expected)
    assert sum(result["status"] in ("passed", "xfail") for result in results) >= 50
    assert [result for result in results if result["status"] == "failed"] == []


def test_codes_equal_the_oracle(blobs):
    X, _ = blobs
    encoder = small(n_selected=2).fit(X)
    heads = oracle.project(oracle.normalize(X[:40]), encoder.projection_)
    found = encoder.transform(X[:40])
    assert (found.shape, found.dtype) == ((40, 12), np.uint8)
    np.testing.assert_array_equal(found.reshape(40, 6, 2), oracle.nearest(heads, encoder.keys_, 2))


def test_distances_equal_the_oracle(blobs):
    X, _ = blobs
    encoder = small(normalize=False).fit(X)
    expected = oracle.distances(oracle.project(X[:20], encoder.projection_), encoder.keys_).min(axis=2)
    np.testing.assert_allclose(encoder.distances(X[:20]), expected, rtol=1e-3, atol=1e-4)


def test_columns_are_named_after_the_class_one_per_head_and_key_read(blobs):
    encoder = small(n_selected=2).fit(blobs[0])
    assert encoder.get_feature_names_out().tolist() == [f"keyencoder{place}" for place in range(12)]


def test_codes_come_as_a_table_where_one_is_asked_for(blobs):
    X, _ = blobs
    table = pd.DataFrame(X, columns=[f"x{place}" for place in range(12)])
    encoder = small().set_output(transform="pandas").fit(table)
    codes = encoder.transform(table)
    assert codes.columns.tolist() == encoder.get_feature_names_out().tolist()
    assert encoder.feature_names_in_.tolist() == table.columns.tolist()
    np.testing.assert_array_equal(codes, small().fit_transform(X))


def test_keys_come_back_from_codes(blobs):
    X, _ = blobs
    encoder = small(n_selected=2).fit(X)
    codes = encoder.transform(X[:20])
    found, keys = encoder.inverse_transform(codes), encoder.keys_
    assert (found.shape, found.dtype) == ((20, 18), np.float32)
    expected = [[keys[head, codes[row].reshape(6, 2)[head]].mean(axis=0) for head in range(6)] for row in range(20)]
    np.testing.assert_allclose(found.reshape(20, 6, 3), expected, rtol=1e-6)


def test_keys_of_codes_are_as_far_as_distances_say(blobs):
    X, _ = blobs
    encoder = small(normalize=False).fit(X)
    heads = oracle.project(X, encoder.projection_)
    apart = heads - encoder.inverse_transform(encoder.transform(X)).reshape(-1, 6, 3)
    np.testing.assert_allclose(np.square(apart).sum(axis=2), encoder.distances(X), rtol=1e-3, atol=1e-4)


def test_codes_that_name_no_key_have_no_coordinates(blobs):
    encoder = small().fit(blobs[0])
    with pytest.raises(ValueError, match="codes hold key 16; expected keys below 16"):
        encoder.inverse_transform(np.full((1, 6), 16, dtype=np.uint8))


@pytest.mark.parametrize("method", ["transform", "distances", "inverse_transform"])
def test_what_needs_keys_says_so_and_how_to_get_them(blobs, method):
    with pytest.raises(
        NotFittedError,
        match=f"this KeyEncoder has no keys, which {method} needs; expected a fitted encoder. Call fit first",
    ):
        getattr(small(), method)(blobs[0])


@pytest.mark.parametrize("name", ["keys_", "projection_", "key_mask_", "key_report_", "fingerprint_"])
def test_attributes_need_keys_too(name):
    assert not hasattr(small(), name)


@pytest.mark.parametrize("method", ["transform", "distances"])
def test_another_number_of_features_is_refused(blobs, method):
    with pytest.raises(ValueError, match="X has 11 features, but KeyEncoder is expecting 12 features"):
        getattr(small().fit(blobs[0]), method)(blobs[0][:, :11])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_heads": 0}, "n_heads=0 is not valid; expected a whole number ≥ 1"),
        ({"n_keys": 65_537}, "n_keys=65537 is not valid; expected .* ≤ 65,536"),
        ({"n_selected": 17}, "n_selected=17 is not valid; expected .*16"),
        ({"n_keys": 4, "n_selected": 5}, "n_selected=5 is not valid; expected at most n_keys=4"),
        ({"normalize": 1}, "normalize=1 is not valid; expected True or False"),
        ({"projection": "magic"}, "projection='magic' is not valid; expected one of 'orthogonal'"),
        ({"projection": "chunk"}, "projection='chunk' .* reads 18 features; expected 12"),
        ({"projection": "identity"}, "n_heads=6 is not valid; expected 1 with projection='identity'"),
        (
            {"projection": "sparse", "density": 1.5},
            r"density=1.5 is not valid; expected .auto. or a number in \(0",
        ),
        ({"key_init": "magic"}, "key_init='magic' is not valid; expected one of 'kmeans'"),
        ({"device": "abacus"}, "device='abacus' is not a torch device; expected"),
    ],
)
def test_bad_settings_are_refused_by_name_and_change_nothing(blobs, settings, message):
    X, _ = blobs
    with pytest.raises(ValueError, match=message):
        small(**settings).fit(X)
    encoder = small().fit(X)
    before = encoder.fingerprint_
    with pytest.raises(ValueError, match=message):
        encoder.set_params(**settings).fit(X)
    assert encoder.fingerprint_ == before


CHANGED = {
    "n_heads": 5, "n_keys": 9, "key_dim": 2, "n_selected": 2, "normalize": False, "projection": "sparse",
    "density": 0.7, "key_init": "sample", "feature_blocks": (4, 8), "random_state": 7,
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_a_setting_that_codes_rest_on_waits_for_the_next_fit(blobs, name):
    X, _ = blobs
    encoder = small().fit(X).set_params(**{name: CHANGED[name]})
    changed = re.escape(f"{name}={CHANGED[name]!r}")
    with pytest.raises(ValueError, match=f"{changed} was set after fitting with .*Set it"):
        encoder.transform(X)
    np.testing.assert_array_equal(encoder.fit_transform(X), clone(encoder).fit_transform(X))


def test_settings_that_codes_do_not_rest_on_may_change(blobs, tmp_path):
    X, _ = blobs
    encoder = small().fit(X)
    before = encoder.transform(X)
    encoder.set_params(memory=str(tmp_path), device="cpu", verbose=0)
    np.testing.assert_array_equal(encoder.transform(X), before)


def test_one_random_state_gives_one_codebook_and_another_another(blobs):
    X, _ = blobs
    assert small().fit(X).fingerprint_ == small().fit(X).fingerprint_ != small(random_state=1).fit(X).fingerprint_
    drawn = [small(random_state=np.random.RandomState(3)).fit(X).fingerprint_ for _ in range(2)]
    assert drawn[0] == drawn[1] == small(random_state=3).fit(X).fingerprint_


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_and_pickles_have_the_keys_and_go_their_own_way(blobs, again):
    X, _ = blobs
    encoder = small().fit(X)
    expected, before = encoder.transform(X), encoder.fingerprint_
    twin = again(encoder)
    np.testing.assert_array_equal(twin.transform(X), expected)
    assert twin.fit(X[:100]).fingerprint_ != before == encoder.fingerprint_


def test_a_clone_has_no_keys_but_a_frozen_one_has(blobs):
    encoder = small().fit(blobs[0])
    assert not hasattr(clone(encoder), "keys_")
    assert clone(FrozenEstimator(encoder)).estimator is encoder
    np.testing.assert_array_equal(FrozenEstimator(encoder).transform(blobs[0]), encoder.transform(blobs[0]))


def test_a_pickle_of_another_state_version_is_refused(blobs):
    state = small().fit(blobs[0]).__getstate__() | {"_schema_version": 1}
    with pytest.raises(ValueError, match="_schema_version=1 of the stored model is not supported; expected 2"):
        small().__setstate__(state)


def test_tensors_come_in_and_codes_go_out(blobs):
    X, _ = blobs
    encoder = small().fit(torch.from_numpy(X))
    assert isinstance(encoder.transform(torch.from_numpy(X)), Codes)
    assert encoder.fingerprint_ == small().fit(X).fingerprint_


def test_a_notebook_shows_what_is_stored(blobs):
    page = small().fit(blobs[0])._repr_html_()
    for name in ("keys_", "projection_", "key_report_", "n_features_in_"):
        assert name in page
    assert "fingerprint_" not in page


# Weights and labels


def test_rows_of_weight_zero_are_as_if_never_given_and_other_weights_change_nothing(blobs):
    X, _ = blobs
    weights = np.where(np.arange(240) < 150, np.linspace(0.1, 9, 240), 0)
    assert small().fit(X, sample_weight=weights).fingerprint_ == small().fit(X[:150]).fingerprint_
    table = pd.DataFrame(X, columns=list("abcdefghijkl"))
    encoder = small().fit(table, sample_weight=weights)
    assert encoder.fingerprint_ == small().fit(X[:150]).fingerprint_
    assert encoder.feature_names_in_.tolist() == list("abcdefghijkl")


def test_weights_of_labelled_rows_go_with_them(blobs):
    X, y = blobs
    weights = np.arange(240) % 2.0
    weighted = small(projection="learned").fit(X, y, sample_weight=weights)
    assert weighted.fingerprint_ == small(projection="learned").fit(X[1::2], y[1::2]).fingerprint_


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(240), "sample_weight is zero for all 240 samples; expected at least one"),
        (-np.ones(240), "(?i)negative"),
        (np.ones(3), "sample_weight.shape"),
    ],
)
def test_weights_that_mean_nothing_are_refused(blobs, weights, message):
    with pytest.raises(ValueError, match=message):
        small().fit(blobs[0], sample_weight=weights)


def test_weights_beside_blocks_are_refused(blobs):
    with pytest.raises(
        TypeError, match=r"sample_weight is given, but X is a list_iterator, an iterable of blocks; expected s"
    ):
        small().fit(iter([blobs[0]]), sample_weight=np.ones(240))


# Lazy rows


@pytest.mark.parametrize("weighted", [False, True])
def test_a_dask_array_is_placed_and_encoded_as_the_whole(blobs, weighted):
    X, _ = blobs
    weights = (np.arange(240) % 3 > 0).astype(float) if weighted else None
    lazy, whole = small(n_selected=2), small(n_selected=2).fit(X, sample_weight=weights)
    lazy.fit(da.from_array(X, chunks=(70, 12)), sample_weight=weights)
    assert lazy.fingerprint_ == whole.fingerprint_
    codes = lazy.transform(da.from_array(X, chunks=(70, 12)))
    assert isinstance(codes, da.Array)
    assert (codes.shape, codes.dtype) == ((240, 12), np.uint8)
    np.testing.assert_array_equal(codes.compute(), whole.transform(X))
    away = lazy.distances(da.from_array(X, chunks=(70, 5))).compute()
    np.testing.assert_allclose(away, whole.distances(X), rtol=1e-5, atol=1e-6)


# Codes carry their encoder


def test_codes_carry_the_encoder_through_slices_pickles_and_joblib(blobs, tmp_path):
    X, _ = blobs
    encoder = small().fit(X)
    codes = encoder.transform(X)
    joblib.dump(codes, tmp_path / "codes")
    for again in (codes[3:9], codes[np.arange(5)], pickle.loads(pickle.dumps(codes)), joblib.load(tmp_path / "codes")):
        assert again.encoder.fingerprint_ == encoder.fingerprint_
    assert np.asarray(codes).__class__ is np.ndarray
    assert Codes.of(np.asarray(codes), encoder).encoder is encoder


def test_numbers_made_of_codes_are_no_codes(blobs):
    codes = small().fit_transform(blobs[0])
    assert type(codes + 1) is np.ndarray
    assert isinstance(codes.max(), np.uint8)
    assert type(codes == codes) is np.ndarray


def test_codes_keep_the_keys_they_were_made_with(blobs):
    X, y = blobs
    encoder = small().fit(X)
    before, codes = encoder.fingerprint_, encoder.transform(X)
    encoder.fit(X[:50])
    assert codes.encoder.fingerprint_ == before != encoder.fingerprint_
    assert DKVBClassifier("precomputed").fit(codes, y).encoder_.fingerprint_ == before


# Memory


def counted(monkeypatch):
    """Count how often rows are encoded and keys are placed."""
    calls = {"encode": 0, "draw": 0}
    encode, draw = DeviceEncoder.encode, _encoder.draw_codebook

    def counted_encode(*arguments):
        calls["encode"] += 1
        return encode(*arguments)

    def counted_draw(*arguments, **options):
        calls["draw"] += 1
        return draw(*arguments, **options)

    monkeypatch.setattr(DeviceEncoder, "encode", counted_encode)
    monkeypatch.setattr(_encoder, "draw_codebook", counted_draw)
    return calls


@pytest.mark.parametrize("kind", [str, lambda folder: joblib.Memory(folder, verbose=0)])
def test_a_memory_places_and_encodes_once_and_changes_nothing(blobs, tmp_path, monkeypatch, kind):
    X, _ = blobs
    expected, calls = small().fit_transform(X), counted(monkeypatch)
    for _ in range(3):
        encoder = small(memory=kind(tmp_path)).fit(X)
        np.testing.assert_array_equal(encoder.transform(X), expected)
        assert encoder.transform(X).encoder.fingerprint_ == encoder.fingerprint_
    assert calls == {"encode": 1, "draw": 1}
    encoder.transform(X[:9])
    small(memory=kind(tmp_path), random_state=1).fit(X).transform(X)
    small(memory=kind(tmp_path)).fit(X[:90]).transform(X)
    assert calls == {"encode": 4, "draw": 3}


def test_without_a_memory_nothing_is_kept(blobs, monkeypatch):
    calls = counted(monkeypatch)
    for _ in range(2):
        small().fit(blobs[0]).transform(blobs[0])
    assert calls == {"encode": 2, "draw": 2}


def test_a_classifier_learns_from_the_memory_of_its_encoder(blobs, tmp_path, monkeypatch):
    X, y = blobs
    expected, calls = DKVBClassifier(small()).fit(X, y).predict_proba(X), counted(monkeypatch)
    for solver in ("joint", "counts", "joint"):
        model = DKVBClassifier(small(memory=str(tmp_path)), solver=solver).fit(X, y)
    assert calls == {"encode": 1, "draw": 1}
    np.testing.assert_array_equal(model.predict_proba(X), expected)


# Blocks


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
    with pytest.raises(ValueError, match=r"yielded no block; expected at least one.*Pass a new iterator"):
        started(iter([]))


def test_a_block_with_other_features_is_refused(blobs):
    X, _ = blobs
    with pytest.raises(ValueError, match="X has 5 features, but KeyEncoder is expecting 12"):
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
    with pytest.raises(
        ValueError, match=r"X holds samples that were never learned .* \(30 of 30\).*nothing was changed"
    ):
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
    with pytest.raises(ValueError, match=r"other has .*, this model has .*; expected the same.*prune after merging"):
        whole.merge(pruned.prune())


def test_codes_from_before_pruning_are_refused(blobs):
    X, y = blobs
    model = started(X).partial_fit(X[:60], y[:60])
    codes = codes_of(model, X)
    with pytest.raises(ValueError, match=r"codes hold key.*Encode again with encoder_?.transform\(X\)"):
        by_codes(model.prune(), "partial_fit", codes, y)


def test_codes_of_the_pruned_encoder_are_among_its_keys(blobs):
    X, y = blobs
    model = started(X).partial_fit(X[:60], y[:60]).prune()
    codes = codes_of(model, X)
    assert encoder_of(model).key_mask_[np.arange(6)[None, :, None], codes].all()
    assert by_codes(model, "partial_fit", codes, y).class_counts_.sum() == 300


def test_pruning_leaves_the_frozen_encoder_and_its_other_models_as_they_were(blobs):
    X, y = blobs
    model = started(X).partial_fit(X[:60], y[:60])
    other = clone(model).partial_fit(X, y)
    before, proba = model.encoder.estimator.fingerprint_, other.predict_proba(X)
    model.prune()
    assert model.encoder.estimator.fingerprint_ == before != model.encoder_.fingerprint_
    np.testing.assert_array_equal(other.predict_proba(X), proba)


@pytest.mark.parametrize("n_prunes", [1, 2])
def test_a_pruned_model_refuses_another_frozen_encoder_and_keeps_its_own(blobs, n_prunes):
    X, y = blobs
    model, expected = started(X).partial_fit(X[:60], y[:60]), None
    original = model.encoder
    for n_rows in (60, 30)[:n_prunes]:
        expected = (
            model.forget(X[n_rows:60], y[n_rows:60]).prune().predict(X) if n_rows < 60 else model.prune().predict(X)
        )
    for same in (original, FrozenEstimator(model.encoder_), FrozenEstimator(copy.deepcopy(original.estimator))):
        np.testing.assert_array_equal(model.set_params(encoder=same).predict(X), expected)
    pruned = model.encoder_.fingerprint_[:12]
    for other in (
        clone(original.estimator).set_params(random_state=1),
        clone(original.estimator).set_params(n_heads=3),
    ):
        model.set_params(encoder=FrozenEstimator(other.fit(X)))
        with pytest.raises(ValueError, match=rf"encoder .* this model was fitted with {pruned}; expected"):
            model.predict(X)
    moved = clone(original.estimator).set_params(normalize=not original.estimator.normalize).fit(X)
    with pytest.raises(ValueError, match="expected the same keys"):
        model.set_params(encoder=FrozenEstimator(moved)).predict(X)


def test_a_model_whose_encoder_changed_its_settings_is_not_pruned(blobs):
    X, y = blobs
    model = flat(6, 16, 3, random_state=0).fit(X, y).set_params(encoder__normalize=False)
    with pytest.raises(ValueError, match=r"normalize=False was set after fitting.*Set it back"):
        model.prune()
