"""Codebook: the frozen half, whose codes are a function of the row alone."""

import numpy as np
import oracle
import pytest
import torch

from dkvb_estimator import _codebook
from dkvb_estimator._codebook import Encoder, draw_codebook, fingerprint
from dkvb_estimator._validation import Layout

CPU = torch.device("cpu")
PARAMS = {"projection": "gaussian", "key_init": "kmeans", "normalize": True}


def rows(n=300, n_features=37):
    return np.random.default_rng(2).standard_normal((n, n_features)).astype(np.float32)


def draw(X, seed=0, layout=(5, 16, 3), **params):
    return draw_codebook(X, Layout(*layout, 1), PARAMS | params, seed, CPU)


def encoder(X, **params):
    projection, keys, _ = draw(X, **params)
    return Encoder(projection, keys, normalize=(PARAMS | params)["normalize"], device=CPU)


def test_codes_equal_the_oracle():
    X = rows(40, 10)
    projection, keys, _ = draw(X)
    codes = Encoder(projection, keys, normalize=True, device=CPU).encode(X, 2)
    np.testing.assert_array_equal(codes, oracle.nearest(oracle.project(oracle.normalize(X), projection), keys, 2))


@pytest.mark.parametrize("projection", ["gaussian", "sparse"])
@pytest.mark.parametrize("batch", [1, 2, 7, 128, 129])
def test_codes_are_the_same_in_batches_of_any_size(projection, batch):
    X = rows()
    encode = encoder(X, projection=projection).encode
    together = encode(X, 2)
    stop = min(300, 12 * batch)
    parts = [encode(X[start : start + batch], 2) for start in range(0, stop, batch)]
    np.testing.assert_array_equal(np.concatenate(parts)[:stop], together[:stop])


def test_codes_are_the_same_at_any_position_of_a_batch():
    X, order = rows(), np.random.default_rng(0).permutation(300)
    encode = encoder(X).encode
    np.testing.assert_array_equal(encode(X[order], 2), encode(X, 2)[order])


def test_codes_are_the_same_across_the_rows_held_at_a_time(monkeypatch):
    X = rows()
    encode = encoder(X).encode
    together = encode(X, 1)
    monkeypatch.setattr(_codebook, "ENCODE_ROWS", 50)
    np.testing.assert_array_equal(encode(X, 1), together)


def test_codes_are_the_same_for_one_and_two_threads():
    X = rows(300, 200)
    encode = encoder(X, layout=(16, 32, 14)).encode
    before, codes = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            codes.append(encode(X, 3))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*codes)


def test_codes_take_the_smallest_unsigned_type():
    assert encoder(rows()).encode(rows(), 1).dtype == np.uint8
    assert encoder(rows(), layout=(2, 300, 2)).encode(rows(), 1).dtype == np.uint16


def test_keys_ignore_order_and_duplicates_of_rows():
    X = rows()
    shuffled = np.concatenate([X[::-1], X[:50]])
    np.testing.assert_array_equal(draw(shuffled)[1], draw(X)[1])


def test_keys_are_on_the_data():
    _, _, report = draw(rows())
    assert report["unused_share"] < 0.05
    assert report["n_rows"] == 300


def test_the_report_equals_the_oracle():
    X = rows(60, 6)
    projection, keys, report = draw(X)
    away = oracle.distances(oracle.project(oracle.normalize(X), projection), keys)
    assert report["quantisation_error"] == pytest.approx(away.min(axis=2).mean(), rel=1e-4)
    hit = np.zeros(keys.shape[:2], bool)
    for c in range(len(keys)):
        hit[c, away[:, c].argmin(axis=1)] = True
    assert report["unused_share"] == pytest.approx(1 - hit.mean(), abs=1e-9)


def test_heads_placed_in_groups_fill_every_head(monkeypatch):
    X = rows(60, 6)
    monkeypatch.setattr(_codebook, "KEY_BUDGET_BYTES", 4 * 60 * 3 * 2)
    projection, keys, report = draw(X)
    heads = torch.from_numpy(np.float32(oracle.project(oracle.normalize(X), projection)))
    assert keys.shape == (5, 16, 3)
    assert report["quantisation_error"] == pytest.approx(
        oracle.distances(heads.numpy(), keys).min(axis=2).mean(), rel=1e-4
    )


def test_predicting_finds_the_nearest_usable_keys():
    X = rows(40, 10)
    projection, keys, _ = draw(X)
    usable = np.arange(80).reshape(5, 16) % 2 == 0
    found = Encoder(projection, keys, normalize=True, device=CPU).nearest_usable(X, 2, torch.from_numpy(usable))
    expected = oracle.nearest(oracle.project(oracle.normalize(X), projection), keys, 2, usable)
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("projection", ["gaussian", "sparse"])
def test_a_fingerprint_tells_codebooks_apart(projection):
    first, again, other = (draw(rows(), seed, projection=projection) for seed in (0, 0, 1))
    prints = [fingerprint(P, keys, normalize=True) for P, keys, _ in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(*first[:2], normalize=False) != prints[0]


def test_a_fingerprint_depends_on_every_key():
    projection, keys, _ = draw(rows())
    moved = keys.copy()
    moved[-1, -1, -1] = np.nextafter(moved[-1, -1, -1], np.float32(9))
    assert fingerprint(projection, moved, normalize=True) != fingerprint(projection, keys, normalize=True)
