"""A search that scores only the keys of a sample's cell finds the same as a scan, and is used where it pays off."""

import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_boxes import DRAWS, search

from dkvb_estimator._kernel import native

pytestmark = pytest.mark.skipif(native.KERNEL is None, reason="the package was installed without its kernel")

BUILDS = {name: native.open_kernel(name) for name in ("_kernel", "_kernel_v3", "_kernel_v4")}
NEEDED = {"_kernel": 0, "_kernel_v3": 3, "_kernel_v4": 4}


@pytest.fixture(scope="module", autouse=True)
def grids_of_any_lists():
    """Build grids even if cells list nearly all keys, where scans are as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "MAX_LISTED", 1)
        yield


def runnable():
    level = BUILDS["_kernel"].dkvb_level()
    return [build for name, build in BUILDS.items() if build is not None and NEEDED[name] <= level]


def codes_of(build, problem, arranged=None):
    heads, keys, half_norms, centres = problem
    searched = native.NativeKeys(build, keys, half_norms, centres)
    searched._arranged_for = lambda n, m: getattr(searched, arranged) if arranged else None
    return searched.nearest(heads, 1, 1 + len(heads) % 3)[:, :, 0]


def brute_force(problem):
    """Score every key in float32, like a kernel that does not fuse products with sums."""
    heads, keys, half_norms, centres = problem
    rows, scores = heads - centres, np.broadcast_to(half_norms, (len(heads), *half_norms.shape))
    for u in range(keys.shape[2]):
        scores = scores - rows[:, :, None, u] * keys[None, :, :, u]
    return scores.argmin(axis=2)


@st.composite
def problems(draw):
    """Heads, centred keys, half norms and centres: samples near keys of many shapes, on keys, and far from them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["normal", "many ties", "near ties", "clusters", "one point", "a line", "a column"]))
    n, c, d = (draw(st.sampled_from(sizes)) for sizes in ([1, 17, 256, 512, 700], [1, 7, 8, 9, 20], [1, 2, 3]))
    j = draw(st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 200, 256, 257, 1000]))
    sample = DRAWS["normal" if kind == "a column" else kind](rng)
    keys, heads = sample((c, j, d)), sample((n, c, d))
    if kind == "a column":
        keys[:, :, 0] = heads[:, :, 0] = 1
    heads[rng.random(heads.shape) < draw(st.sampled_from([0, 0.1]))] *= draw(st.sampled_from([2, 100, 1e6]))
    on_keys = rng.random((n, c)) < draw(st.sampled_from([0, 0.2]))
    heads[on_keys] = keys[np.arange(c)[None], rng.integers(j, size=(n, c))][on_keys]
    scale = np.float32(10.0) ** draw(st.sampled_from([0, 0, 0, -40, -30, -22, -20, -19, -15, -5, 5, 11]))
    keys, heads = (keys * scale).astype(np.float32), (heads * scale).astype(np.float32)
    centres = (keys.mean(axis=1) * draw(st.sampled_from([0, 1]))).astype(np.float32)
    keys = keys - centres[:, None]
    half_norms = (np.square(keys, dtype=np.float64).sum(axis=2) / 2).astype(np.float32)
    half_norms[rng.random((c, j)) < draw(st.sampled_from([0, 0, 0.5, 1]))] = np.inf
    return heads, keys, half_norms, centres


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(problems())
def test_a_grid_gives_the_codes_of_a_scan_to_the_last_tie(problem):
    for build in runnable():
        np.testing.assert_array_equal(codes_of(build, problem, "_gridded"), codes_of(build, problem))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere the plain build fuses products")
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(problems())
def test_a_grid_gives_the_codes_of_brute_force(problem):
    found = codes_of(BUILDS["_kernel"], problem, "_gridded")
    np.testing.assert_array_equal(found, brute_force(problem))


@pytest.mark.parametrize("usable", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("key_dim", [1, 2, 3])
@pytest.mark.parametrize("kind", DRAWS)
def test_rows_have_the_codes_of_a_scan_in_every_batch(kind, key_dim, usable):
    rng = np.random.default_rng(key_dim)
    keys, heads = search(rng, 300, key_dim, DRAWS[kind](rng), usable)
    scanned = keys.nearest(heads, 1, 1)
    keys._arranged_for = lambda n, m: keys._gridded
    for n in (300, 100, 7, 1):
        np.testing.assert_array_equal(keys.nearest(heads[:n], 1, 2), scanned[:n])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_find_what_they_find_in_a_scan(value):
    rng = np.random.default_rng(0)
    keys, heads = search(rng, 256, 2, DRAWS["normal"](rng))
    heads[rng.random(heads.shape) < 0.2] = value
    scanned = keys.nearest(heads, 1, 1)
    keys._arranged_for = lambda n, m: keys._gridded
    np.testing.assert_array_equal(keys.nearest(heads, 1, 1), scanned)


@pytest.mark.parametrize("key_dim", [1, 2, 3])
def test_cells_list_few_of_the_keys(key_dim):
    rng = np.random.default_rng(0)
    keys, _ = search(rng, 256, key_dim, DRAWS["normal"](rng))
    n_cells = 3 * native.KERNEL.dkvb_cells()
    assert len(keys._gridded.names) / n_cells < {1: 8, 2: 24, 3: 64}[key_dim]


def test_no_grid_is_made_where_its_cells_list_nearly_everything(monkeypatch):
    rng = np.random.default_rng(0)
    keys, heads = search(rng, 256, 2, DRAWS["one point"](rng))
    monkeypatch.setattr(native, "MAX_LISTED", 0.5)
    assert keys._gridded is None
    for _ in range(3):
        assert (keys.nearest(heads, 1, 1) == 0).all()


@pytest.mark.parametrize(
    ("n_keys", "key_dim", "n_rows", "made"),
    [
        (256, 2, 300, True),
        (4, 1, 64, True),
        (256, 3, 64, True),
        (512, 2, 128, True),
        (512, 2, 127, False),
        (256, 2, 63, False),
        (256, 4, 300, False),
        (513, 2, 300, False),
    ],
)
def test_a_grid_is_made_once_as_many_rows_as_keys_were_searched_but_not_for_few(n_keys, key_dim, n_rows, made):
    rng = np.random.default_rng(0)
    keys, heads = search(rng, n_keys, key_dim, DRAWS["normal"](rng))
    keys.nearest(heads[:60], 1, 1)
    assert keys._searched == 0
    while keys._searched < n_keys:
        assert native.grid_keys not in keys._made
        keys.nearest(heads, 1, 1)
    keys.nearest(heads[:n_rows], 1, 1)
    assert (keys._made.get(native.grid_keys) is not None) == made
