"""Values are pooled by means, and a gradient step changes them only for keys with hits."""

import numpy as np
import oracle
import pytest
import torch

from dkvb_estimator._values.gradient import GradientSettings, descend_, read_values, step_


def settings(**changes):
    return GradientSettings(
        **({"learning_rate": 0.3, "batch_size": 2, "label_smoothing": 0.1, "clip_norm": 1.0, "n_unseen": 0} | changes)
    )


def wide(codes):
    return torch.from_numpy(codes.astype(np.int64))


def step(table, codes, labels, weights=None, **changes):
    """Return the table after one step, as an array; the given table does not change."""
    moved = torch.from_numpy(np.float32(table)).clone()
    weights = np.ones(len(codes)) if weights is None else weights
    step_(moved, wide(codes), wide(labels), torch.from_numpy(np.float32(weights)), settings(**changes))
    return moved.numpy()


def random_table(n_columns, *, n_heads=4, n_keys=7):
    return np.random.default_rng(1).standard_normal((n_heads, n_keys, n_columns)).astype(np.float32)


def test_logits_have_one_column_a_class_not_one_a_head(coded):
    codes, _, _ = coded
    assert read_values(wide(codes), torch.from_numpy(random_table(3))).shape == (90, 3)


def test_logits_equal_the_oracle(coded):
    codes, _, _ = coded
    found = read_values(wide(codes), torch.from_numpy(random_table(3))).numpy()
    np.testing.assert_allclose(found, oracle.pool(codes, random_table(3)), atol=1e-6)


def test_permuting_heads_leaves_logits_as_they_were(coded):
    codes, _, _ = coded
    order, table = [2, 0, 3, 1], random_table(3)
    plain = read_values(wide(codes), torch.from_numpy(table))
    permuted = read_values(wide(codes[:, order]), torch.from_numpy(table[order]))
    np.testing.assert_allclose(permuted, plain, atol=1e-6)


def test_a_head_with_fewer_used_keys_averages_those_it_has():
    values = torch.tensor([[[2.0], [4.0], [100.0]]])
    usable = torch.tensor([[True, True, False]])
    assert read_values(torch.tensor([[[0, 1, 2]]]), values, usable).item() == 3.0


def test_unused_rows_may_hold_nan_without_effect():
    values = torch.tensor([[[2.0], [float("nan")]]])
    usable = torch.tensor([[True, False]])
    assert read_values(torch.tensor([[[0, 1]]]), values, usable).item() == 2.0


def test_the_first_step_equals_the_published_vector():
    codes, labels = np.array([[[0], [1]], [[0], [0]]]), np.array([0, 2])
    moved = step(np.zeros((2, 2, 4)), codes, labels)[:, :, :3]
    expected = [
        [[0.0225, -0.045, 0.0225], [0, 0, 0]],
        [[-0.0225, -0.0225, 0.045], [0.045, -0.0225, -0.0225]],
    ]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("n_unseen", [0, 1])
def test_a_step_equals_the_oracle(coded, n_unseen):
    codes, labels, weights = coded
    table = random_table(4)
    columns = 3 + n_unseen  # a hidden column that counts once is like any other class
    moved = step(table, codes, labels, weights, batch_size=90, n_unseen=n_unseen)
    expected = oracle.sgd_step(
        table[:, :, :columns],
        codes,
        labels,
        weights,
        learning_rate=0.3,
        batch_size=90,
        label_smoothing=0.1,
        clip_norm=1,
    )
    np.testing.assert_allclose(moved[:, :, :columns], expected, atol=1e-6)


def test_a_hidden_column_for_three_classes_moves_as_three_equal_columns_would(coded):
    codes, labels, weights = coded
    table = random_table(4)
    spread = np.concatenate([table, table[:, :, -1:], table[:, :, -1:]], axis=2)
    expected = oracle.sgd_step(
        spread, codes, labels, weights, learning_rate=0.3, batch_size=90, label_smoothing=0.1, clip_norm=9
    )
    moved = step(table, codes, labels, weights, batch_size=90, n_unseen=3, clip_norm=9)
    np.testing.assert_allclose(moved, expected[:, :, :4], atol=1e-6)


def test_a_clipped_step_equals_the_oracle(coded):
    codes, labels, weights = coded
    moved = step(random_table(4), codes, labels, weights, batch_size=90, clip_norm=0.01, n_unseen=1)
    expected = oracle.sgd_step(
        random_table(4), codes, labels, weights, learning_rate=0.3, batch_size=90, label_smoothing=0.1, clip_norm=0.01
    )
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_the_hidden_column_rests_where_all_classes_are_declared(coded):
    codes, labels, _ = coded
    table = random_table(4)
    np.testing.assert_array_equal(step(table, codes, labels, n_unseen=0)[:, :, 3], table[:, :, 3])


def test_a_first_batch_of_one_class_teaches(coded):
    codes, labels, _ = coded
    moved = step(np.zeros((4, 7, 2)), codes, np.zeros_like(labels), n_unseen=1)
    hit = np.zeros((4, 7), bool)
    hit[np.arange(4)[None, :, None], codes] = True
    assert (moved[hit][:, 0] > moved[hit][:, 1]).all()


def test_rows_not_visited_keep_every_bit():
    table = random_table(4)
    codes = np.array([[[0], [1], [2], [3]], [[0], [1], [2], [4]]], dtype=np.uint8)
    moved = step(table, codes, np.array([0, 1]), learning_rate=5.0)
    rest = np.ones((4, 7), bool)
    rest[np.arange(4)[None, :, None], codes] = False
    np.testing.assert_array_equal(moved[rest].view(np.uint32), table[rest].view(np.uint32))


def test_a_sample_counts_the_same_in_a_short_batch():
    codes, labels, start = np.zeros((1, 4, 1), int), np.array([1]), np.zeros((4, 7, 4))
    alone = step(start, codes, labels, batch_size=8)
    filled = step(start, np.repeat(codes, 8, axis=0), np.repeat(labels, 8), batch_size=8)
    np.testing.assert_allclose(8 * alone, filled, rtol=1e-6)


def test_the_default_clipping_never_acts_with_two_heads_or_more(coded):
    codes, labels, _ = coded
    gradient = oracle.sgd_gradient(100 * random_table(3), codes, 0 * labels, np.ones(90), 90, 0.1)
    assert np.sqrt((gradient**2).sum()) <= np.sqrt(2 / 4)
    tight, loose = (
        step(100 * random_table(4), codes, 0 * labels, batch_size=90, clip_norm=norm) for norm in (1.0, 1e9)
    )
    np.testing.assert_array_equal(tight, loose)


def test_a_weight_of_two_moves_values_as_two_samples_do():
    codes, start = np.zeros((1, 4, 1), int), np.zeros((4, 7, 4))
    heavy = step(start, codes, np.array([1]), [2.0])
    np.testing.assert_allclose(heavy, step(start, codes.repeat(2, 0), np.array([1, 1])), rtol=1e-6)


def test_values_of_any_size_give_a_finite_step(coded):
    codes, labels, _ = coded
    assert np.isfinite(step(1e30 * random_table(4), codes, labels, n_unseen=1)).all()


def test_epochs_shuffle_by_the_given_generator_alone(coded):
    codes, labels, weights = coded
    tables = [torch.from_numpy(random_table(4)) for _ in range(3)]
    for table, seed in zip(tables, (1, 1, 2), strict=True):
        arguments = (wide(codes), wide(labels), torch.from_numpy(np.float32(weights)), settings(batch_size=16))
        descend_(table, *arguments, 2, np.random.default_rng(seed))
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_an_epoch_visits_every_sample_once():
    codes = np.arange(7)[:, None, None]
    table = torch.zeros((1, 7, 4))
    ones = torch.ones(7)
    descend_(table, wide(codes), wide(np.zeros(7, int)), ones, settings(batch_size=3), 1, np.random.default_rng(0))
    once = step(np.zeros((1, 7, 4)), codes, np.zeros(7, int), batch_size=3, clip_norm=9)
    np.testing.assert_allclose(table.numpy(), once, rtol=1e-6)


def test_a_step_has_the_same_bits_with_samples_of_no_weight_in_between(coded):
    codes, labels, _ = coded
    table = random_table(4)
    twice, off = np.repeat(codes, 2, axis=0), np.tile([1.0, 0.0], len(codes))
    twice[1::2] = codes[::-1]
    mixed = step(table, twice, np.repeat(labels, 2), off)
    np.testing.assert_array_equal(mixed, step(table, codes, labels))
