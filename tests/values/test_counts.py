"""Counts: sparse sums over samples, and the log-likelihoods of keys computed from them."""

import numpy as np
import oracle
import pytest

from dkvb_estimator._values import counts as _counts
from dkvb_estimator._values.counts import ClassCounts, Likelihoods

SHAPE = (4, 7, 3)
KEYS = np.random.default_rng(5).integers(-63, 64, size=(4, 7, 2)).astype(np.int8)


def counted(codes, labels, weights=None, shape=SHAPE):
    return ClassCounts.empty(*shape[:2]).with_classes([], shape[2]).plus(codes, labels, weights)


def likelihoods(coded, smoothing=1.0, class_weights=None, weights=None, keys=None):
    codes, labels, _ = coded
    return Likelihoods(counted(codes, labels, weights), class_weights, codes.shape[2], smoothing, None, keys)


def test_counts_equal_the_oracle(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(counted(codes, labels).dense(), oracle.counts(SHAPE, codes, labels, np.ones(90)))


def test_weighted_counts_equal_the_oracle(coded):
    codes, labels, weights = coded
    expected = oracle.counts(SHAPE, codes, labels, weights)
    np.testing.assert_allclose(counted(codes, labels, weights).dense(), expected)


@pytest.mark.parametrize("few_hits", [1e-9, 1e9])
@pytest.mark.parametrize("weighted", [False, True])
def test_counting_by_bins_and_by_sorting_are_the_same(coded, monkeypatch, few_hits, weighted):
    codes, labels, weights = coded
    monkeypatch.setattr(_counts, "FEW_HITS", few_hits)
    counts = counted(codes, labels, weights if weighted else None)
    np.testing.assert_allclose(
        counts.dense(), oracle.counts(SHAPE, codes, labels, weights if weighted else np.ones(90))
    )


def test_counting_a_head_at_a_time_is_counting_all(coded, monkeypatch):
    codes, labels, weights = coded
    together = counted(codes, labels, weights)
    monkeypatch.setattr(_counts, "GROUP_ENTRIES", 1)
    apart = counted(codes, labels, weights)
    np.testing.assert_array_equal(apart.dense(), together.dense())
    np.testing.assert_array_equal(apart.pointers, together.pointers)


def test_counts_of_parts_add_up_to_the_counts_of_all(coded):
    codes, labels, _ = coded
    parts = [counted(codes[part], labels[part]) for part in (slice(0, 13), slice(13, 90))]
    np.testing.assert_array_equal(parts[0].merged(parts[1]).dense(), counted(codes, labels).dense())


def test_plain_and_weighted_counts_merge(coded):
    codes, labels, weights = coded
    merged = counted(codes, labels).merged(counted(codes, labels, weights))
    np.testing.assert_allclose(merged.dense(), oracle.counts(SHAPE, codes, labels, 1 + weights))


def test_subtracting_leaves_the_bits_of_a_table_that_never_had_the_samples(coded):
    codes, labels, _ = coded
    left, never = counted(codes, labels).minus(codes[:40], labels[:40], None), counted(codes[40:], labels[40:])
    for name in ("pointers", "classes", "hits"):
        np.testing.assert_array_equal(getattr(left, name), getattr(never, name))


@pytest.mark.parametrize("weighted", ["never", "always", "at last"])
@pytest.mark.parametrize("sign", [1, -1])
def test_changing_a_few_pairs_gives_the_bits_of_a_sum_of_whole_tables(monkeypatch, weighted, sign):
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(9, size=(700, 5, 2)).astype(np.uint8), rng.integers(40, size=700)
    weights, shape = rng.uniform(0.5, 2.0, size=700), (5, 9, 40)
    labels[:9] = np.arange(9)
    codes[:260] = codes[0]  # pairs with more than 255 hits, which come or go
    labels[:260] = labels[0]
    for some in (slice(0, 0), slice(0, 1), slice(3, 5), slice(200, 700)):
        first = slice(None) if sign < 0 else np.setdiff1d(np.arange(700), np.arange(700)[some])
        before = counted(codes[first], labels[first], weights[first] if weighted == "always" else None, shape)
        change = before.plus if sign > 0 else before.minus
        tables, arrays = [], {name: np.copy(getattr(before, name)) for name in ("pointers", "classes", "hits")}
        for few in (0, np.inf):
            monkeypatch.setattr(_counts, "FEW_CHANGES", few)
            tables.append(change(codes[some], labels[some], None if weighted == "never" else weights[some]))
        for name in ("pointers", "classes", "hits", "weights"):
            alike, whole = (getattr(table, name) for table in tables)
            assert (alike is None) == (whole is None)
            assert alike is None or (alike.dtype == whole.dtype and np.array_equal(alike, whole))
        assert all(np.array_equal(getattr(before, name), array) for name, array in arrays.items())


@pytest.mark.parametrize("few", [0, np.inf])
def test_taking_back_a_pair_that_is_not_there_is_refused(coded, monkeypatch, few):
    codes, labels, _ = coded
    counts = counted(codes, labels * 0)
    monkeypatch.setattr(_counts, "FEW_CHANGES", few)
    with pytest.raises(ValueError, match="codes hold more hits than were counted"):
        counts.minus(codes[:1], np.array([2]), None)


def test_a_pair_without_hits_is_gone_whatever_rounding_left():
    codes, labels = np.zeros((3, 1, 1), dtype=np.uint8), np.zeros(3, dtype=int)
    counts = counted(codes, labels, np.array([0.1, 0.2, 0.3]), (1, 1, 1))
    for weight in (0.3, 0.2, 0.1):  # 0.1 + 0.2 + 0.3 − 0.3 − 0.2 − 0.1 is not zero
        counts = counts.minus(codes[:1], labels[:1], np.array([weight]))
    assert len(counts.hits) == len(counts.weights) == 0
    assert not counts.used().any()


def test_taking_back_more_than_there_is_is_refused(coded):
    codes, labels, _ = coded
    with pytest.raises(ValueError, match="codes hold more hits than were counted"):
        counted(codes[:5], labels[:5]).minus(codes, labels, None)


def test_counting_leaves_the_table_it_started_from_as_it_was(coded):
    codes, labels, _ = coded
    before = counted(codes[:40], labels[:40])
    dense = before.dense()
    before.plus(codes, labels, None)
    np.testing.assert_array_equal(before.dense(), dense)


def test_codes_of_key_65535_are_counted_in_their_own_head():
    codes = np.array([[[65535], [0]]], dtype=np.uint16)
    hits = counted(codes, np.array([0]), None, (2, 65536, 1)).dense()
    assert hits[0, 65535, 0] == hits[1, 0, 0] == 1
    assert hits.sum() == 2


def test_hits_outgrow_their_type_without_a_loss():
    codes, labels = np.zeros((200, 1, 1), dtype=np.uint8), np.zeros(200, dtype=int)
    counts = counted(codes, labels, None, (1, 1, 1))
    assert counts.hits.dtype == np.uint8
    assert counts.plus(codes, labels, None).hits.tolist() == [400]


def test_pairs_take_four_bytes_and_keys_at_most_eight():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(300, size=(2000, 2, 1)).astype(np.uint16), rng.integers(1000, size=2000)
    counts = counted(codes, labels, None, (2, 300, 1000))
    assert counts.nbytes <= 4 * len(counts.hits) + 8 * (2 * 300 + 1)


def test_key_counts_and_class_counts_are_sums_of_the_table(coded):
    codes, labels, weights = coded
    for each in (None, weights):
        counts = counted(codes, labels, each)
        np.testing.assert_allclose(counts.key_counts(), counts.dense().sum(axis=2))
        np.testing.assert_allclose(counts.class_counts(), counts.dense()[0].sum(axis=0))
        np.testing.assert_array_equal(counts.key_hits(), counted(codes, labels).dense().sum(axis=2))


def test_classes_move_and_leave(coded):
    codes, labels, weights = coded
    counts = counted(codes, labels, weights)
    grown = counts.with_classes(np.array([0, 2, 5]), 6)
    np.testing.assert_array_equal(grown.dense()[:, :, [0, 2, 5]], counts.dense())
    assert grown.without(np.array([2])).dense()[:, :, 2].sum() == 0
    np.testing.assert_array_equal(grown.without(np.array([2])).dense()[:, :, 5], grown.dense()[:, :, 5])


def test_classes_that_keep_their_places_keep_their_pairs_in_the_type_for_all_classes(coded):
    codes, labels, _ = coded
    counts = counted(codes, labels)
    for n_classes, dtype in ((3, np.uint8), (300, np.uint16)):
        same = counts.with_classes([0, 1, 2], n_classes)
        assert same.classes.dtype == dtype
        np.testing.assert_array_equal(same.dense()[:, :, :3], counts.dense())


def test_keys_are_renumbered(coded):
    codes, labels, weights = coded
    counts = counted(codes, labels, weights)
    order = np.stack([np.random.default_rng(c).permutation(7) for c in range(4)])
    expected = np.take_along_axis(counts.dense(), order[..., None], axis=1)
    np.testing.assert_array_equal(counts.with_keys(order).dense(), expected)


def test_values_equal_the_oracle(coded):
    codes, labels, weights = coded
    expected = oracle.counts_to_values(
        oracle.counts(SHAPE, codes, labels, weights), np.bincount(labels, weights=weights), 2, 0.5
    )
    np.testing.assert_allclose(likelihoods(coded, 0.5, weights=weights).values(), expected, rtol=1e-6)


def test_pseudo_hits_are_spread_as_normal_distributions_would_be(coded):
    codes, labels, weights = coded
    table = oracle.counts(SHAPE, codes, labels, weights)
    expected = oracle.counts_to_values(
        table, np.bincount(labels, weights=weights), 2, 0.5, oracle.class_ratios(table, KEYS)
    )
    np.testing.assert_allclose(likelihoods(coded, 0.5, weights=weights, keys=KEYS).values(), expected, rtol=1e-5)


def test_each_class_selects_one_key_of_a_head_or_another(coded):
    codes, labels, _ = coded
    one = codes[:, :, :1], labels, None
    found, shares = likelihoods(one).values().astype(float), np.bincount(labels) / 90
    likely = np.exp(found - np.log(shares) / 2) * likelihoods(one).counts.used()[:, :, None]
    np.testing.assert_allclose(likely.sum(axis=1), np.ones((4, 3)), rtol=1e-6)


def test_a_key_without_hits_holds_nothing():
    counts = counted(np.zeros((4, 1, 1), dtype=np.uint8), np.array([0, 0, 0, 1]), None, (1, 2, 2))
    np.testing.assert_array_equal(Likelihoods(counts, None, 1, 1.0).values()[0, 1], np.zeros(2))


def test_a_class_without_samples_is_below_all_others(coded):
    codes, labels, _ = coded
    counts = counted(codes, labels, None, (4, 7, 4))
    found = Likelihoods(counts, None, 2, 1.0).values()
    assert (oracle.pool(codes, found)[:, 3] < oracle.pool(codes, found)[:, :3].min(axis=1)).all()


def test_class_weights_change_the_prior_alone(coded):
    codes, labels, _ = coded
    factor = np.array([1.0, 3.0, 2.0])
    per_class = np.bincount(labels, minlength=3)
    shares = per_class * factor / (per_class * factor).sum()
    moved = np.log(shares / (per_class / per_class.sum())) / np.sqrt(codes.shape[1])
    plain, weighted = likelihoods(coded).values(), likelihoods(coded, class_weights=factor).values()
    used = plain.any(axis=2)
    np.testing.assert_allclose(weighted[used], (plain + moved)[used], rtol=1e-5)
    assert not weighted[~used].any()


def test_a_weight_of_zero_leaves_a_class_out(coded):
    codes, labels, _ = coded
    rest = labels != 1
    counts = counted(codes, labels, None)
    found = Likelihoods(counts, np.array([1.0, 0.0, 1.0]), 2, 1.0).values()
    other = Likelihoods(counted(codes[rest], labels[rest], None, counts.shape), None, 2, 1.0).values()
    used = other.any(axis=2)
    np.testing.assert_allclose(found[used], other[used], rtol=1e-6)


def test_balanced_weights_help_rare_classes():
    """One row of a rare class says little about the class: weights must not undo the smoothing."""
    rng = np.random.default_rng(0)
    chances = rng.dirichlet(np.full(8, 0.5), size=(3, 64))  # for each key of 64 heads and three classes

    def drawn(labels):
        ends, draws = chances[labels].cumsum(axis=2), rng.random((len(labels), 64, 1))
        return np.minimum((draws > ends).sum(axis=2), 7)[:, :, None].astype(np.uint8)

    labels, test_labels = np.repeat([0, 1, 2], [400, 20, 2]), np.repeat([0, 1, 2], 200)
    counts, tested = counted(drawn(labels), labels, None, (64, 8, 3)), drawn(test_labels)
    balanced = len(labels) / (3 * np.bincount(labels))
    right = []
    for weights in (None, balanced):
        found = oracle.pool(tested, Likelihoods(counts, weights, 1, 1.0).values()).argmax(axis=1)
        right.append([(found == test_labels)[test_labels == k].mean() for k in range(3)])
    assert np.mean(right[1]) > np.mean(right[0])
    assert right[1][2] > right[0][2]


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize("class_weights", [None, np.array([1.0, 0.0, 2.5])])
def test_reading_pairs_equals_pooling_the_table(coded, class_weights, keys):
    codes, _, weights = coded
    each = likelihoods(coded, 0.7, class_weights, weights, keys)
    pooled = oracle.pool(codes, each.values())
    equal = np.full(codes.shape, 1 / (codes.shape[1] * codes.shape[2]))
    np.testing.assert_allclose(each.read(codes.astype(np.int64), equal), pooled, rtol=1e-5)


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize("smoothing", [1e-30, 1e-9, 1.0, 1e30])
def test_values_stay_finite_for_any_smoothing(coded, smoothing, keys):
    assert np.isfinite(likelihoods(coded, smoothing, keys=keys).values()).all()
