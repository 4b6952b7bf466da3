"""Sample hashes: a multiset of hashes records what was learned."""

import numpy as np

from dkvb_estimator._values.sample_hashes import find_samples, hash_samples, merge_rows, with_weights


def hashes_of(*values):
    return np.array(values, dtype=np.uint64)


def test_equal_samples_have_equal_hashes(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(hash_samples(codes, labels), hash_samples(codes.copy(), labels.copy()))


def test_distinct_samples_have_distinct_hashes(coded):
    codes, labels, _ = coded
    rows = {(row.tobytes(), label) for row, label in zip(np.sort(codes, axis=2), labels.tolist(), strict=True)}
    assert len(set(hash_samples(codes, labels).tolist())) == len(rows)


def test_a_hash_depends_on_the_label(coded):
    codes, labels, _ = coded
    assert (hash_samples(codes, labels) != hash_samples(codes, labels + 1)).all()


def test_text_and_number_labels_do_not_share_hashes(coded):
    codes, labels, _ = coded
    assert (hash_samples(codes, labels) != hash_samples(codes, labels.astype(str))).all()


def test_a_hash_ignores_the_order_of_keys_within_a_head(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(hash_samples(codes[:, :, ::-1], labels), hash_samples(codes, labels))


def test_a_hash_depends_on_the_order_of_heads():
    codes = np.array([[[0], [1]], [[1], [0]]], dtype=np.uint8)
    first, second = hash_samples(codes, np.zeros(2, int))
    assert first != second


def test_a_hash_ignores_the_width_of_the_codes_type(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(hash_samples(codes.astype(np.uint16), labels), hash_samples(codes, labels))


def test_whole_numbers_hash_alike_whether_integer_or_float(coded):
    codes, labels, _ = coded
    np.testing.assert_array_equal(hash_samples(codes, labels.astype(float)), hash_samples(codes, labels))


def test_a_label_may_hold_half_a_sign_as_names_of_files_do(coded):
    codes, _, _ = coded
    assert len(set(hash_samples(codes[:1].repeat(3, axis=0), np.array(["a", "b", "\udcff"])).tolist())) == 3


def test_a_hash_ignores_the_width_of_text_labels(coded):
    codes, labels, _ = coded
    names = np.array(["a", "bb", "c"])[labels]
    np.testing.assert_array_equal(hash_samples(codes, names.astype("U30")), hash_samples(codes, names))


def test_another_weight_is_another_entry(coded):
    hashes = hash_samples(*coded[:2])
    assert (with_weights(hashes, np.ones(90)) != with_weights(hashes, np.full(90, 2.0))).all()


def test_merged_rows_sum_the_weights_of_equal_samples():
    positions, hashes, weights = merge_rows(hashes_of(9, 4, 9), np.array([1.0, 2.0, 0.5]))
    assert (hashes.tolist(), weights.tolist()) == ([4, 9], [2.0, 1.5])
    assert hashes_of(9, 4, 9)[positions].tolist() == [4, 9]


def test_merged_rows_do_not_depend_on_the_order_of_arrival():
    rng = np.random.default_rng(0)
    hashes, weights, order = rng.integers(5, size=60).astype(np.uint64), rng.random(60), rng.permutation(60)
    for ours, theirs in zip(
        merge_rows(hashes, weights)[1:], merge_rows(hashes[order], weights[order])[1:], strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_each_wanted_sample_takes_one_entry_away():
    positions, n_missing = find_samples(hashes_of(7, 5, 7, 3), hashes_of(7, 3))
    assert hashes_of(7, 5, 7, 3)[positions].tolist() == [3, 7]
    assert n_missing == 0


def test_entries_that_run_out_are_counted_as_missing():
    positions, n_missing = find_samples(hashes_of(7, 5, 7), hashes_of(7, 7, 7, 8))
    assert (sorted(positions.tolist()), n_missing) == ([0, 2], 2)


def test_nothing_is_found_in_an_empty_ledger():
    positions, n_missing = find_samples(hashes_of(), hashes_of(1))
    assert (len(positions), n_missing) == (0, 1)
