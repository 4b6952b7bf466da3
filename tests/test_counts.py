"""Counts: sums over samples, and the values that follow from them."""

import numpy as np
import oracle
import pytest

from dkvb_estimator._counts import add_columns, class_prior, count_hits, counts_to_values

SHAPE = (4, 7, 3)


def table(coded):
    codes, labels, weights = coded
    return count_hits(SHAPE, codes, labels, weights), np.bincount(labels, weights=weights)


def test_counts_equal_the_oracle(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(
        count_hits(SHAPE, codes, labels, None), oracle.counts(SHAPE, codes, labels, np.ones(90))
    )


def test_weighted_counts_equal_the_oracle(coded):
    np.testing.assert_allclose(table(coded)[0], oracle.counts(SHAPE, *coded), rtol=1e-12)


def test_counts_without_weights_are_integers(coded):
    codes, labels, _ = coded
    assert count_hits(SHAPE, codes, labels, None).dtype.kind == "i"


def test_counts_of_parts_add_up_to_the_counts_of_all(coded):
    codes, labels, _ = coded
    parts = [count_hits(SHAPE, codes[part], labels[part], None) for part in (slice(0, 13), slice(13, 90))]
    np.testing.assert_array_equal(parts[0] + parts[1], count_hits(SHAPE, codes, labels, None))


def test_codes_of_key_65535_are_counted_in_their_own_head():
    codes = np.full((1, 2, 1), 65535, np.uint16)
    hits = count_hits((2, 65536, 1), codes, np.array([0]), None)
    assert np.argwhere(hits[:, :, 0]).tolist() == [[0, 65535], [1, 65535]]


def test_values_equal_the_oracle(coded):
    counts, class_counts = table(coded)
    expected = oracle.counts_to_values(counts, class_counts, 0.5)
    np.testing.assert_allclose(counts_to_values(counts, class_counts, None, 0.5), expected, rtol=1e-6)


def test_values_are_logs_of_shares_that_sum_to_one(coded):
    values = counts_to_values(*table(coded), None, 1.0)
    np.testing.assert_allclose(np.exp(values).sum(axis=2), np.ones((4, 7)), rtol=1e-6)


def test_a_key_without_hits_holds_the_log_prior():
    class_counts = np.array([3.0, 1.0])
    values = counts_to_values(np.zeros((1, 1, 2)), class_counts, None, 1.0)
    np.testing.assert_allclose(values[0, 0], np.log(class_prior(class_counts)), rtol=1e-6)


def test_class_weights_act_as_that_many_samples_of_the_class(coded):
    counts, class_counts = table(coded)
    factor = np.array([1.0, 2.0, 5.0])
    weighted = counts_to_values(counts, class_counts, factor, 1.0)
    repeated = counts_to_values(counts * factor, class_counts * factor, None, 1.0)
    np.testing.assert_array_equal(weighted, repeated)


def test_turning_counts_into_values_leaves_the_counts_as_they_were(coded):
    counts, class_counts = table(coded)
    before = counts.copy()
    counts_to_values(counts, class_counts, np.array([1.0, 2.0, 3.0]), 1.0)
    np.testing.assert_array_equal(counts, before)


@pytest.mark.parametrize("smoothing", [1e-30, 1e30])
def test_values_stay_finite_for_any_smoothing(coded, smoothing):
    assert np.isfinite(counts_to_values(*table(coded), None, smoothing)).all()


def test_a_prior_is_never_zero_and_sums_to_one():
    prior = class_prior(np.array([0.0, 4.0]))
    assert prior.min() > 0
    assert prior.sum() == pytest.approx(1)


def test_added_columns_move_old_ones_into_place():
    grown = add_columns(np.arange(4).reshape(1, 2, 2), np.array([0, 2]), 3)
    assert grown.tolist() == [[[0, 0, 1], [2, 0, 3]]]
