"""Nearest keys: exact where exactness means something, the lowest position on ties."""

import numpy as np
import oracle
import pytest
import torch

from dkvb_estimator._nearest import code_dtype, nearest_keys, squared_distances
from dkvb_estimator._projection import head_limit


def nearest(heads, keys, n_selected, usable=None):
    usable = None if usable is None else torch.from_numpy(usable)
    return nearest_keys(torch.from_numpy(heads), torch.from_numpy(keys), n_selected, usable).numpy()


def disagreements(heads, keys, n_selected, usable=None):
    """Count codes that differ from float64's although no candidate is within 1e-5 (relative) of the best ones."""
    away = np.sort(oracle.distances(heads, keys), axis=2)
    tied = (np.diff(away, axis=2) < 1e-5 * away[:, :, 1:])[:, :, :n_selected].any(axis=2)
    differs = (nearest(heads, keys, n_selected, usable) != oracle.nearest(heads, keys, n_selected)).any(axis=2)
    return int((differs & ~tied).sum())


@pytest.mark.parametrize("n_selected", [1, 3, 16])
def test_codes_equal_float64_except_at_rounding_ties(heads, n_selected):
    assert disagreements(*heads, n_selected) == 0


@pytest.mark.parametrize("n_selected", [1, 3])
def test_an_offset_of_a_thousand_does_not_change_what_is_nearest(heads, n_selected):
    rows, keys = heads
    assert disagreements(rows + np.float32(1000), keys + np.float32(1000), n_selected) == 0


@pytest.mark.parametrize("n_selected", [1, 3])
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_does_not_change_what_is_nearest(heads, scale, n_selected):
    rows, keys = heads
    assert disagreements(rows * np.float32(scale), keys * np.float32(scale), n_selected) == 0


@pytest.mark.parametrize("n_selected", [1, 2, 5])
def test_ties_go_to_the_lowest_position(n_selected):
    keys = np.zeros((2, 8, 3), np.float32)
    codes = nearest(np.ones((5, 2, 3), np.float32), keys, n_selected)
    np.testing.assert_array_equal(codes, np.broadcast_to(np.arange(n_selected), (5, 2, n_selected)))


def test_ties_behind_the_nearest_go_to_the_lowest_position():
    keys = np.float32([[[-2], [-1], [0], [1], [-1], [1], [2], [4]]])  # their mean is exact in float32
    assert nearest(np.float32([[[0]]]), keys, 4).ravel().tolist() == [2, 1, 3, 4]


def test_codes_come_nearest_first(heads):
    rows, keys = heads
    codes = nearest(rows, keys, 4)
    away = np.take_along_axis(oracle.distances(rows, keys), codes, axis=2)
    assert (np.diff(away, axis=2) >= -1e-5).all()


def test_unusable_keys_are_passed_over(heads):
    rows, keys = heads
    usable = np.arange(60).reshape(3, 20) % 3 == 0
    np.testing.assert_array_equal(nearest(rows, keys, 1, usable), oracle.nearest(rows, keys, 1, usable))


def test_the_farthest_key_is_returned_when_it_alone_is_usable():
    keys = np.float32([[[0], [1], [100]]])
    usable = np.array([[False, False, True]])
    assert nearest(np.float32([[[0]]]), keys, 1, usable).item() == 2


def test_usable_keys_come_before_unusable_ones_where_they_run_out():
    keys = np.float32([[[0], [1], [100]]])
    usable = np.array([[False, False, True]])
    assert nearest(np.float32([[[0]]]), keys, 2, usable)[0, 0, 0] == 2


def test_a_row_has_the_same_codes_in_every_batch_and_position(heads):
    rows, keys = heads
    together = nearest(rows, keys, 2)
    for part in (slice(0, 1), slice(3, 10), slice(127, 256), slice(255, 300)):
        np.testing.assert_array_equal(nearest(rows[part], keys, 2), together[part])


@pytest.mark.parametrize("n_selected", [1, 3])
def test_wide_heads_at_the_clipping_limit_never_select_an_unusable_key(n_selected):
    signs = np.array([1, 1, 1, -1, 1, -1, -1, -1], np.float32)
    keys = np.float32(head_limit(400)) * np.ones((1, 8, 400), np.float32) * signs[None, :, None]
    usable = np.arange(8)[None] >= 3
    assert (nearest(keys.transpose(1, 0, 2).copy(), keys, n_selected, usable) >= 3).all()


@pytest.mark.parametrize(("n_keys", "dtype"), [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65536, np.uint16)])
def test_codes_take_the_smallest_unsigned_type(n_keys, dtype):
    assert code_dtype(n_keys) is dtype


def test_squared_distances_equal_the_oracle(heads):
    rows, keys = heads
    codes = oracle.nearest(rows[:20], keys, 2)
    found = squared_distances(*map(torch.from_numpy, (rows[:20], keys, codes))).numpy()
    expected = np.take_along_axis(oracle.distances(rows[:20], keys), codes, axis=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
