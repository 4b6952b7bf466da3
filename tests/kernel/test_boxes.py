"""A search that visits only the boxes near a head finds the same as a scan, and is used where it pays off."""

import numpy as np
import pytest

from dkvb_estimator._kernel import native

pytestmark = pytest.mark.skipif(native.KERNEL is None, reason="the package was installed without its kernel")


def search(rng, n_keys, key_dim, draw, usable=1.0, n_heads=3):
    """Return keys of some heads in the kernel's layout, and 300 samples from the same distribution."""
    keys, heads = draw((n_heads, n_keys, key_dim)), draw((300, n_heads, key_dim))
    with np.errstate(over="ignore"):
        half_norms = ((keys.astype(np.float64) ** 2).sum(axis=2) / 2).astype(np.float32)
    half_norms[rng.random(half_norms.shape) > usable] = np.inf
    centres = np.zeros((n_heads, key_dim), np.float32)
    return native.NativeKeys(native.KERNEL, keys, half_norms, centres), heads


@pytest.fixture
def always_boxed(monkeypatch):
    monkeypatch.setattr(native, "MIN_BOXES", 1)
    monkeypatch.setattr(native, "MAX_LOOKED_INTO", 1)
    monkeypatch.setattr(native, "MAX_GRID_KEYS", 0)


DRAWS = {
    "normal": lambda rng: lambda shape: rng.standard_normal(shape).astype(np.float32),
    "many ties": lambda rng: lambda shape: rng.integers(-2, 3, shape).astype(np.float32),
    "near ties": lambda rng: lambda shape: (100 + rng.standard_normal(shape)).astype(np.float32),
    "clusters": lambda rng: (
        lambda shape: (10 * rng.integers(0, 3, shape) + 0.01 * rng.standard_normal(shape)).astype(np.float32)
    ),
    "one point": lambda rng: lambda shape: np.ones(shape, np.float32),
    "a line": lambda rng: (
        lambda shape: np.repeat(rng.standard_normal((*shape[:-1], 1)), shape[-1], axis=-1).astype(np.float32)
    ),
    "tiny": lambda rng: lambda shape: (1e-25 * rng.standard_normal(shape)).astype(np.float32),
    "subnormal squares": lambda rng: lambda shape: (1e-21 * rng.standard_normal(shape)).astype(np.float32),
    "huge": lambda rng: lambda shape: (3e18 * rng.standard_normal(shape)).astype(np.float32),
    "beyond float32's squares": lambda rng: lambda shape: (1e30 * rng.standard_normal(shape)).astype(np.float32),
}


@pytest.mark.parametrize("usable", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("kind", DRAWS)
def test_boxes_give_the_codes_of_a_scan(kind, usable, always_boxed):
    for seed, (n_keys, key_dim) in enumerate([(1, 1), (31, 2), (500, 3), (1024, 8), (1025, 5), (700, 16)]):
        rng = np.random.default_rng(seed)
        keys, heads = search(rng, n_keys, key_dim, DRAWS[kind](rng), usable)
        assert keys._boxed is not None
        scanned = keys.nearest(heads, 1, 1)
        keys._searched = n_keys
        for n in (300, 100, 7, 1):
            np.testing.assert_array_equal(keys.nearest(heads[:n], 1, 2), scanned[:n])


def test_heads_far_from_every_key_find_what_a_scan_finds(always_boxed):
    rng = np.random.default_rng(0)
    keys, heads = search(rng, 800, 4, DRAWS["normal"](rng))
    scanned = keys.nearest(heads * 1e4, 1, 1)
    keys._searched = 800
    np.testing.assert_array_equal(keys.nearest(heads * 1e4, 1, 1), scanned)


def test_boxes_are_drawn_once_as_many_rows_as_keys_were_searched_but_never_for_few(monkeypatch):
    rng = np.random.default_rng(0)
    keys, heads = search(rng, 513, 2, DRAWS["normal"](rng))
    drawn = []
    box_keys = native.box_keys
    monkeypatch.setattr(native, "box_keys", lambda *given: drawn.append(1) or box_keys(*given))
    for _ in range(100):
        keys.nearest(heads[:10], 1, 1)
        keys.nearest(heads, 2, 1)
    keys.nearest(heads, 1, 1)
    keys.nearest(heads, 1, 1)
    assert not drawn
    keys.nearest(heads[:1], 1, 1)
    keys.nearest(heads, 1, 1)
    assert len(drawn) == 1


@pytest.mark.parametrize(
    ("n_keys", "key_dim", "worth"),
    [(4096, 4, True), (4096, 8, True), (4096, 14, False), (100, 2, False), (4096, 20, False)],
)
def test_boxes_are_drawn_where_a_search_looks_into_few(n_keys, key_dim, worth):
    rng = np.random.default_rng(0)
    keys, _ = search(rng, n_keys, key_dim, DRAWS["normal"](rng))
    assert (keys._boxed is not None) == worth
