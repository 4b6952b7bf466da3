"""Key placement: keys depend only on the data, not on its order."""

import numpy as np
import oracle
import pytest
import torch

from dkvb_estimator._encoding.key_placement import (
    KEY_INITIALISATIONS,
    RowSketch,
    ema_step,
    place_keys,
    report_keys,
    sketch_size,
)
from dkvb_estimator._validation import CHOICES

METHODS = sorted(KEY_INITIALISATIONS)


def test_every_key_init_that_parameters_may_name_places_keys():
    assert set(CHOICES["key_init"]) == set(KEY_INITIALISATIONS)


def place(heads, n_keys, method, seed=0):
    return place_keys(torch.from_numpy(heads), n_keys, method, np.random.default_rng(seed)).numpy()


def clustered(n=1200):
    rng = np.random.default_rng(5)
    centres = 4 * rng.standard_normal((12, 2, 3))
    return (centres[rng.integers(12, size=n)] + rng.standard_normal((n, 2, 3))).astype(np.float32)


def report(method, n_keys=48):
    heads = torch.from_numpy(clustered(500))
    return report_keys(heads, place_keys(heads, n_keys, method, np.random.default_rng(0)))


def sketched(X, n_rows, seed=0):
    sketch = RowSketch(n_rows, seed)
    for block in X if isinstance(X, list) else [X]:
        sketch.add(block)
    return sketch.rows()


def test_ema_steps_equal_the_published_vector():
    keys, size = torch.tensor([[[0.0], [1.0]]]), torch.zeros((1, 2), dtype=torch.float64)
    batch, total, seen = torch.tensor([[[0.1]], [[0.2]], [[0.9]]]), keys.double(), []
    for _ in range(3):
        keys, size, total = ema_step(batch, keys, size, total)
        seen.append(keys.flatten().tolist())
    expected = [[0.150005, 19.898673], [0.303070, 19.897171], [0.341059, 19.896520]]
    np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-6)


def test_ema_running_size_and_sum_equal_the_published_vector():
    keys, size = torch.tensor([[[0.0], [1.0]]]), torch.zeros((1, 2), dtype=torch.float64)
    _, size, total = ema_step(torch.tensor([[[0.1]], [[0.2]], [[0.9]]]), keys, size, keys.double())
    np.testing.assert_allclose(size, [[0.1, 0.05]], rtol=1e-6)
    np.testing.assert_allclose(total, [[[0.015], [0.995]]], rtol=1e-6)


def test_an_ema_step_equals_the_oracle(heads):
    rows, keys = heads
    size, total = np.full((3, 20), 0.5), 0.5 * keys.astype(np.float64)
    expected = oracle.ema_step(rows[:50], keys, size, total)
    found = ema_step(*map(torch.from_numpy, (rows[:50], keys, size, total)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_rows", [1, 3, 50])
def test_every_codebook_has_all_its_keys(method, n_rows):
    keys = place(clustered(n_rows), 16, method)
    assert keys.shape == (2, 16, 3)
    assert keys.dtype == np.float32
    assert np.isfinite(keys).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_seed_places_keys_once(method):
    heads = clustered(100)
    np.testing.assert_array_equal(place(heads, 8, method), place(heads, 8, method))


@pytest.mark.parametrize("method", ["kmeans", "sample", "ema"])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e18])
def test_equal_rows_give_finite_keys(method, value):
    assert np.isfinite(place(np.full((1, 2, 3), value, np.float32), 8, method)).all()


@pytest.mark.parametrize("method", ["kmeans", "ema"])
def test_learned_keys_are_closer_to_the_data_than_sampled_ones(method):
    assert report(method)[1] < report("sample")[1]


@pytest.mark.parametrize("method", ["kmeans", "ema"])
def test_learned_keys_are_used_at_least_as_often_as_sampled_ones(method):
    assert report(method)[0] <= report("sample")[0]


def test_mended_ema_leaves_fewer_keys_unused_than_the_faithful_one():
    assert report("ema", n_keys=128)[0] < report("ema-faithful", n_keys=128)[0]


def test_sampled_keys_are_rows_of_the_data():
    heads = clustered(40)
    np.testing.assert_array_equal(place(heads, 8, "sample"), heads[:8].transpose(1, 0, 2))


def test_uniform_keys_stay_in_the_box_of_the_data():
    heads = clustered(40)
    keys = place(heads, 64, "uniform")
    assert (keys >= heads.min(axis=0)[:, None]).all()
    assert (keys <= heads.max(axis=0)[:, None]).all()


def test_gaussian_keys_follow_mean_and_spread_of_the_data():
    heads = clustered(400)
    keys = place(heads, 4000, "gaussian")
    np.testing.assert_allclose(keys.mean(axis=1), heads.mean(axis=0), atol=0.5)
    np.testing.assert_allclose(keys.std(axis=1), heads.std(axis=0), rtol=0.1)


def test_kmeans_leaves_no_key_without_rows_where_rows_abound():
    assert report("kmeans", n_keys=16)[0] == 0


def test_report_counts_unused_keys_and_squared_distance():
    heads, keys = torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[[0.0], [3.0], [9.0], [9.0]]])
    assert report_keys(heads, keys) == (0.75, 0.5)


def test_a_sketch_ignores_order_duplicates_and_blocks():
    X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    again = np.concatenate([X[::-1], X[40:90]])
    np.testing.assert_array_equal(sketched(X, 50), sketched([again[:7], again[7:200], again[200:]], 50))


def test_a_sketch_ignores_the_sign_of_zero():
    assert len(sketched(np.float32([[0.0, 1.0], [-0.0, 1.0]]), 5)) == 1


def test_a_sketch_of_blocks_larger_than_its_buffer_is_the_sketch_of_all_rows():
    X = np.random.default_rng(0).standard_normal((3000, 2)).astype(np.float32)
    np.testing.assert_array_equal(sketched(X, 10), sketched([X[2000:], X[:2000]], 10))


def test_another_seed_keeps_another_sample():
    X = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    assert not np.array_equal(sketched(X, 20, seed=0), sketched(X, 20, seed=1))


def test_a_sketch_keeps_its_rows_when_the_caller_overwrites_the_batch():
    X = np.ones((3, 2), np.float32) * np.arange(3, dtype=np.float32)[:, None]
    sketch = RowSketch(3, seed=0)
    sketch.add(X)
    X[:] = 99
    assert sorted(sketch.rows()[:, 0].tolist()) == [0.0, 1.0, 2.0]


def test_sample_looks_at_as_many_rows_as_keys_and_the_others_at_more():
    assert (sketch_size("sample", 64), sketch_size("kmeans", 64), sketch_size("kmeans", 10**6)) == (64, 4096, 32768)
