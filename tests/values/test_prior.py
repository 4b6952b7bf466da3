"""The prior: values are sums of a few integer functions of a key's coordinates, independent of labels."""

import numpy as np
import oracle
import pytest

from dkvb_estimator._values.prior import EXACT_ROWS, LEVELS, Prior

RNG = np.random.default_rng(3)


def made(n_heads=3, n_keys=7, key_dim=3, scale=1.0):
    keys = (scale * RNG.standard_normal((n_heads, n_keys, key_dim))).astype(np.float32)
    centres = keys.mean(axis=1)
    return Prior.of_keys(keys, centres, np.abs(keys - centres[:, None]).max(axis=(1, 2))), keys, centres


def drawn(n_selected=1, n=20):
    return np.stack([[RNG.permutation(7)[:n_selected] for _ in range(3)] for _ in range(n)]).astype(np.uint8)


def test_coordinates_are_within_half_a_step_of_the_keys():
    prior, keys, centres = made()
    steps = prior.steps.reshape(3, 6)[:, :3]
    found = prior.table[:, :, :3] * steps[:, None]
    assert (np.abs(found - (keys - centres[:, None])) <= 0.501 * steps[:, None]).all()


@pytest.mark.parametrize("key_dim", [1, 2, 5])
def test_curves_are_a_length_and_products_of_neighbours(key_dim):
    prior, keys, centres = made(key_dim=key_dim)
    steps = prior.steps.reshape(3, 2 * key_dim)
    places, reach = np.float64(keys) - centres[:, None], LEVELS * steps[:, :1]
    found = prior.table[:, :, key_dim:] * steps[:, None, key_dim:]
    half = 0.501 * steps[:, None, key_dim:]
    assert (np.abs(found[..., 0] - np.linalg.norm(places, axis=2)) <= half[..., 0]).all()
    products = (2 * places[..., :-1] * places[..., 1:] / reach[:, None]).clip(-reach[:, None], reach[:, None])
    assert (np.abs(found[..., 1:] - products) <= half[..., 1:]).all()


@pytest.mark.parametrize("n_selected", [1, 2, 5])
def test_features_equal_the_oracle(n_selected):
    prior, *_ = made()
    codes = drawn(n_selected)
    found = prior.features(codes)
    assert found.dtype == np.int8
    assert found.shape == (20, prior.width)
    np.testing.assert_array_equal(found, oracle.features(codes, prior.table))


def test_values_have_the_mean_over_heads_that_features_and_weights_give():
    prior, *_ = made()
    codes, weights, bias = drawn(), RNG.standard_normal((prior.width, 4)), RNG.standard_normal(4)
    expected = prior.features(codes) @ weights + bias
    np.testing.assert_allclose(oracle.pool(codes, prior.values(weights, bias)), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e18])
def test_keys_of_any_scale_have_finite_functions_within_the_levels(scale):
    prior, *_ = made(scale=scale)
    assert np.abs(prior.table.astype(int)).max() <= LEVELS
    assert np.isfinite(prior.steps).all()
    assert (prior.steps > 0).all()


def test_sums_of_a_block_stay_below_what_float32_counts_exactly():
    assert EXACT_ROWS * LEVELS**2 < 2**24
