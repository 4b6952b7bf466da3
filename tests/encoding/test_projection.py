"""Projection: every head reads its own fixed directions, and each row is projected independently."""

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dkvb_estimator._encoding.projection import HEAD_LIMIT, Projector, draw_projection, normalize_rows, select_heads
from dkvb_estimator._kernel import native


def rng():
    return np.random.default_rng(3)


CPU = torch.device("cpu")


def apply(X, projection, *, normalize=False):
    projector = Projector(projection, projection.shape[1:], CPU, normalize=normalize)
    return projector.project(torch.from_numpy(X)).numpy()


def test_gaussian_columns_have_unit_length_over_features():
    P = draw_projection("gaussian", 9, 4, 3, rng())
    np.testing.assert_allclose((P.astype(np.float64) ** 2).sum(axis=0), np.ones((4, 3)), rtol=1e-6)


def test_gaussian_columns_differ_between_heads():
    P = draw_projection("gaussian", 9, 4, 3, rng()).reshape(9, -1)
    assert np.abs(P.T @ P - np.eye(12)).max() < 0.999


def test_sparse_columns_have_unit_length_and_none_is_empty():
    P = draw_projection("sparse", 16, 50, 3, rng())
    lengths = np.sqrt((P.toarray().astype(np.float64) ** 2).sum(axis=0))
    np.testing.assert_allclose(lengths, np.ones(150), rtol=1e-6)


def test_sparse_columns_hold_about_root_f_entries():
    P = draw_projection("sparse", 100, 40, 5, rng())
    assert P.nnz / 200 == pytest.approx(10, rel=0.1)


def test_the_density_decides_how_many_entries_a_sparse_column_has():
    matrix = draw_projection("sparse", 400, 30, 5, np.random.default_rng(0), 0.25)
    assert np.diff(matrix.tocsc().indptr).mean() == pytest.approx(100, rel=0.02)


def test_chunk_heads_read_consecutive_features():
    P = draw_projection("chunk", 6, 3, 2, rng())
    X = np.arange(12, dtype=np.float32).reshape(2, 6)
    np.testing.assert_array_equal(apply(X, P), X.reshape(2, 3, 2))


def test_identity_head_reads_all_features():
    P = draw_projection("identity", 5, 1, 5, rng())
    X = np.arange(10, dtype=np.float32).reshape(2, 5)
    np.testing.assert_array_equal(apply(X, P)[:, 0], X)


@pytest.mark.parametrize("kind", ["gaussian", "sparse"])
def test_one_seed_draws_one_projection(kind):
    first, second = (draw_projection(kind, 8, 3, 2, rng()) for _ in range(2))
    dense = [P if isinstance(P, np.ndarray) else P.toarray() for P in (first, second)]
    np.testing.assert_array_equal(*dense)


def test_heads_equal_the_oracle():
    P = draw_projection("gaussian", 10, 4, 3, rng())
    X = rng().standard_normal((20, 10)).astype(np.float32)
    np.testing.assert_allclose(apply(X, P), oracle.project(X, P), atol=10 * 2**-23)


def test_normalized_heads_equal_the_oracle():
    P = draw_projection("gaussian", 10, 4, 3, rng())
    X = 50 * rng().standard_normal((20, 10)).astype(np.float32)
    expected = oracle.project(oracle.normalize(X), P)
    np.testing.assert_allclose(apply(X, P, normalize=True), expected, atol=10 * 2**-23)


def test_sparse_heads_equal_the_dense_product():
    P = draw_projection("sparse", 12, 3, 2, rng())
    X = rng().standard_normal((150, 12)).astype(np.float32)
    heads = Projector(P, (3, 2), CPU, normalize=False).project(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(heads, oracle.project(X, P.toarray().reshape(12, 3, 2)), atol=12 * 2**-23)


def test_a_head_depends_on_its_own_matrix_only():
    P = draw_projection("gaussian", 8, 3, 2, rng())
    X = rng().standard_normal((5, 8)).astype(np.float32)
    other = P.copy()
    other[:, 1:] = 77
    np.testing.assert_array_equal(apply(X, other)[:, 0], apply(X, P)[:, 0])


def test_key_dimension_may_differ_from_features():
    P = draw_projection("gaussian", 3, 2, 5, rng())
    assert apply(np.ones((4, 3), np.float32), P).shape == (4, 2, 5)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("kind", ["gaussian", "sparse"])
def test_a_row_has_the_same_bits_in_every_batch_position_and_thread_count(kind, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(native, "KERNEL", None)
    projector = Projector(draw_projection(kind, 37, 5, 3, rng()), (5, 3), CPU, normalize=True)
    X = torch.from_numpy(rng().standard_normal((261, 37)).astype(np.float32))
    together = projector.project(X)
    monkeypatch.setattr(native, "SMALL_WORK", 0)
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=n_threads: count)
        for rows in (slice(0, 1), slice(5, 12), slice(127, 256), slice(130, 261), slice(0, 261)):
            assert torch.equal(projector.project(X[rows]), together[rows])


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 90), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("build", ["_kernel", "_kernel_v3", "_kernel_v4"])
def test_every_build_multiplies_any_shape(build, n, f, columns, seed):
    kernel, plain = native.open_kernel(build), native.open_kernel("_kernel")
    if kernel is None or (build != "_kernel" and plain.dkvb_level() < int(build[-1])):
        pytest.skip(f"{build} is absent, or needs a more capable processor")
    random = np.random.default_rng(seed)
    X, P = (random.standard_normal(shape).astype(np.float32) for shape in ((n, f), (f, columns)))
    heads = np.empty((n, columns), np.float32)
    native.NativeProjection(kernel, P).project(X, heads, 2)
    bound = f * 2**-23 * (np.abs(X).astype(np.float64) @ np.abs(P))
    assert (np.abs(heads - X.astype(np.float64) @ P) <= bound).all()


@pytest.mark.parametrize("n", [1, 8, 9, 300])
def test_small_products_equal_large_ones_up_to_rounding(n, monkeypatch):
    monkeypatch.setattr(native, "KERNEL", None)
    projector = Projector(draw_projection("gaussian", 37, 5, 3, rng()), (5, 3), CPU, normalize=False)
    X = torch.from_numpy(rng().standard_normal((n, 37)).astype(np.float32))
    torch.testing.assert_close(projector.project(X, small=True), projector.project(X), atol=1e-5, rtol=0)


def test_a_zero_row_stays_zero():
    assert not normalize_rows(torch.zeros((1, 4))).any()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-10, 1e10, 1e30, 3e38])
def test_rows_of_any_finite_scale_become_unit_length(scale):
    row = torch.full((1, 4), scale, dtype=torch.float32)
    assert normalize_rows(row).numpy() == pytest.approx(np.full((1, 4), 0.5), rel=1e-6)


def test_heads_are_clipped_before_their_square_overflows():
    P = draw_projection("gaussian", 4, 2, 2, rng())
    heads = apply(np.full((2, 4), 1e38, np.float32), P)
    assert np.isfinite(heads).all()
    assert np.abs(heads).max() <= HEAD_LIMIT


@pytest.mark.parametrize("kind", ["gaussian", "sparse"])
def test_selected_heads_project_as_all_heads_do(kind):
    P = draw_projection(kind, 6, 4, 2, rng())
    part = select_heads(P, slice(1, 3), 4)
    whole, some = (Q if kind == "gaussian" else Q.toarray() for Q in (P, part))
    np.testing.assert_array_equal(some.reshape(6, 2, 2), whole.reshape(6, 4, 2)[:, 1:3])


@pytest.mark.parametrize(("n_features", "n_heads"), [(5, 2), (5, 7), (20, 3)])
def test_rotations_keep_lengths_and_every_direction_alike(n_features, n_heads):
    P = draw_projection("orthogonal", n_features, n_heads, 2, np.random.default_rng(0)).reshape(n_features, -1)
    for start in range(0, 2 * n_heads, n_features):
        columns = P[:, start : start + n_features].astype(float)
        np.testing.assert_allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-6)


def test_heads_of_as_many_coordinates_as_features_are_no_rotations_of_each_other():
    P = draw_projection("orthogonal", 2, 30, 2, np.random.default_rng(0)).swapaxes(0, 1).astype(float)
    angles = np.abs(np.einsum("cf,cf->c", P[..., 0], P[..., 1]))
    assert angles.std() > 0.1
