"""Nearest keys: exact up to float32 rounding, with ties resolved to the lowest position."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dkvb_estimator._encoding.nearest import KeySearch, _smallest, nearest_keys, squared_distances
from dkvb_estimator._encoding.projection import head_limit
from dkvb_estimator._kernel import native
from dkvb_estimator._validation import code_dtype

KERNELS = {name: native.open_kernel(name) for name in ("_kernel", "_kernel_v3", "_kernel_v4")}
LEVELS = {"_kernel": 0, "_kernel_v3": 3, "_kernel_v4": 4}


@pytest.fixture(autouse=True, params=["torch", *(name + how for how in ("", " boxed", " gridded") for name in KERNELS)])
def path(request, monkeypatch):
    """Run each test with torch and with every build that this processor supports: with boxes, a grid, and neither."""
    name, _, how = request.param.partition(" ")
    kernel = KERNELS.get(name)
    if name != "torch":
        if kernel is None:
            pytest.skip("the package was installed without this build of its kernel")
        if KERNELS["_kernel"].dkvb_level() < LEVELS[name]:
            pytest.skip("this processor lacks the instructions")
    monkeypatch.setattr(native, "KERNEL", kernel)
    if how == "boxed":
        monkeypatch.setattr(native, "MIN_BOXES", 1)
        monkeypatch.setattr(native, "MAX_LOOKED_INTO", 1)
    if how:
        monkeypatch.setattr(native, "MAX_GRID_KEYS", 10**9)
        monkeypatch.setattr(native, "MAX_LISTED", 1)
        attribute = f"_{how}"
        monkeypatch.setattr(
            native.NativeKeys, "_arranged_for", lambda keys, n, m: getattr(keys, attribute) if m == 1 else None
        )
    return request.param


def nearest(heads, keys, n_selected, usable=None):
    usable = None if usable is None else torch.from_numpy(usable)
    return nearest_keys(torch.from_numpy(heads), torch.from_numpy(keys), n_selected, usable).numpy()


def disagreements(heads, keys, n_selected, usable=None):
    """Count codes that differ from those in float64 although no candidate is within 1e-5 (relative) of the best."""
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


@st.composite
def searches(draw):
    """Heads (n, c, d), keys (c, j, d), a number to select, and usable keys or None; some keys coincide."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, c, j, d = (draw(st.integers(1, largest)) for largest in (30, 4, 90, 20))
    offset, scale = draw(st.sampled_from([0.0, 100.0])), 10.0 ** draw(st.integers(-6, 6))
    keys = scale * (offset + rng.standard_normal((c, j, d)))
    keys[:, rng.integers(j, size=j // 3)] = keys[:, :1]
    heads = scale * (offset + rng.standard_normal((n, c, d)))
    usable = rng.random((c, j)) < 0.5 if draw(st.booleans()) else None
    return heads.astype(np.float32), keys.astype(np.float32), draw(st.integers(1, min(16, j))), usable


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the path is the same for all examples
)
@given(searches())
def test_codes_are_the_nearest_up_to_the_rounding_of_float32(search):
    heads, keys, n_selected, usable = search
    found, expected = nearest(heads, keys, n_selected, usable), oracle.nearest(heads, keys, n_selected, usable)
    away = oracle.distances(heads, keys)
    centre = keys.mean(axis=1, dtype=np.float64)
    size = ((heads - centre) ** 2).sum(axis=2)[:, :, None] + ((keys - centre[:, None]) ** 2).sum(axis=2).max(axis=1)[
        :, None
    ]
    bound = (8 + keys.shape[2]) * np.finfo(np.float32).eps * (size + np.abs(centre).max() ** 2 * 1e-6)
    there = expected >= 0
    chosen, best = (np.take_along_axis(away, np.maximum(codes, 0), axis=2) for codes in (found, expected))
    assert (np.abs(chosen - best) <= bound)[there].all()
    assert all(len(set(row)) == n_selected for row in found.reshape(-1, n_selected).tolist())


@pytest.mark.parametrize("n", [41, pytest.param(101, marks=pytest.mark.slow)])
def test_codes_are_the_same_bits_for_every_batch_position_and_number_of_threads(monkeypatch, n):
    monkeypatch.setattr(native, "SMALL_WORK", 0)
    rng = np.random.default_rng(0)
    heads = rng.standard_normal((n, 5, 14)).astype(np.float32).round(1)  # many near ties
    search = KeySearch(torch.from_numpy(rng.standard_normal((5, 300, 14)).astype(np.float32).round(1)))
    before, codes = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            for n_selected in (1, 5):
                whole = search.codes(torch.from_numpy(heads), n_selected)
                for size in (1, 3, 4, 13):
                    parts = [
                        search.codes(torch.from_numpy(heads[at : at + size]), n_selected) for at in range(0, n, size)
                    ]
                    np.testing.assert_array_equal(np.concatenate(parts), whole)
                codes.append(whole[:, :, :1])
    finally:
        torch.set_num_threads(before)
    for other in codes[1:]:
        np.testing.assert_array_equal(other, codes[0])


def test_codes_and_nearest_are_the_same_numbers(heads):
    rows, keys = map(torch.from_numpy, heads)
    search = KeySearch(keys)
    np.testing.assert_array_equal(search.codes(rows, 3), search.nearest(rows, 3).numpy())
    assert search.codes(rows[:0], 3).shape == (0, 3, 3)


def test_many_selected_keys_are_those_of_a_stable_sort_of_the_scores():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((3, 128, 90)).astype(np.float32).round(1)  # many ties, of both signs
    scores[rng.random(scores.shape) < 0.3] = np.inf
    for n_selected in (2, 32, 90):
        found = _smallest(torch.from_numpy(scores), n_selected)
        np.testing.assert_array_equal(found, np.argsort(scores + 0.0, axis=2, kind="stable")[:, :, :n_selected])
