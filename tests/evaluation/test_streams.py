import numpy as np
import pytest

from pipeline.evaluation.streams import blurry, class_incremental, class_order, make_stages, shuffled

LABELS = np.array([2, 0, 1, -1, 3, 2, 4, 0, 1, 4, -1, 3] * 5)
LABELLED = np.flatnonzero(LABELS >= 0)


def rows_of(stages):
    return np.concatenate([stage.rows for stage in stages])


def test_seed_zero_is_the_sorted_order():
    assert class_order([3, 1, 2], 0) == [1, 2, 3]


def test_other_seeds_shuffle_and_differ():
    orders = {tuple(class_order(range(10), seed)) for seed in range(1, 6)}
    assert len(orders) == 5
    assert tuple(range(10)) not in orders


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: class_incremental(LABELS, 2, seed),
        lambda seed: shuffled(LABELS, 3, seed),
        lambda seed: blurry(LABELS, 2, seed, blur=0.4),
    ],
    ids=["class_incremental", "shuffled", "blurry"],
)
def test_every_labelled_row_arrives_once_and_a_seed_repeats_it(make):
    stages = make(3)
    assert sorted(rows_of(stages)) == LABELLED.tolist()
    np.testing.assert_array_equal(rows_of(stages), rows_of(make(3)))
    assert not np.array_equal(rows_of(stages), rows_of(make(4)))


def test_class_incremental_stages_hold_their_classes_and_no_other():
    stages = class_incremental(LABELS, 2, 1)
    assert [len(stage.classes) for stage in stages] == [2, 2, 1]
    for stage in stages:
        assert set(LABELS[stage.rows].tolist()) == set(stage.classes)


def test_rows_within_a_stage_are_mixed():
    (stage,) = class_incremental(np.repeat([0, 1], 50), 2, 0)
    assert not np.array_equal(stage.rows, np.sort(stage.rows))


def test_written_order_is_followed():
    stages = class_incremental(LABELS, 2, 0, order=[4, 0, 3, 1, 2])
    assert [stage.classes for stage in stages] == [(0, 4), (1, 3), (2,)]


def test_written_order_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\] does not match the classes \[0, 1, 2, 3, 4\]"):
        class_incremental(LABELS, 2, 0, order=[0, 1])


def test_shuffled_stages_have_equal_length_and_all_classes():
    stages = shuffled(LABELS, 3, 0)
    assert max(len(s.rows) for s in stages) - min(len(s.rows) for s in stages) <= 1
    assert all(stage.classes == (0, 1, 2, 3, 4) for stage in stages)


def test_no_blur_is_class_incremental():
    for plain, blurred in zip(class_incremental(LABELS, 2, 5), blurry(LABELS, 2, 5, blur=0.0)):
        np.testing.assert_array_equal(plain.rows, blurred.rows)


def test_blur_scatters_about_the_share_asked_for():
    labels = np.arange(4000) % 4
    stages = blurry(labels, 1, 1, blur=0.4)
    away = np.mean([~np.isin(labels[row], stage.classes) for stage in stages for row in stage.rows])
    # A scattered row lands in its own stage one time in four: 0.4 * 3/4 = 0.3, standard error 0.008.
    assert abs(away - 0.3) < 0.03


@pytest.mark.parametrize("kind", ["class_incremental", "shuffled", "blurry"])
def test_kind_names_its_function(kind):
    made = make_stages(kind, LABELS, 2, classes_per_stage=2, n_stages=3, blur=0.5)
    wanted = {
        "class_incremental": class_incremental(LABELS, 2, 2),
        "shuffled": shuffled(LABELS, 3, 2),
        "blurry": blurry(LABELS, 2, 2, blur=0.5),
    }[kind]
    np.testing.assert_array_equal(rows_of(made), rows_of(wanted))


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind is 'sorted'; .* name one"):
        make_stages("sorted", LABELS, 0)


def test_unlabelled_rows_alone_make_no_stream():
    with pytest.raises(ValueError, match="none of 3 training rows carries a label"):
        class_incremental(np.full(3, -1), 1, 0)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: class_incremental(LABELS, 0, 0), "classes_per_stage is 0"),
        (lambda: shuffled(LABELS, 0, 0), "n_stages is 0"),
        (lambda: shuffled(LABELS, 999, 0), "n_stages is 999 for 50 labelled rows"),
        (lambda: blurry(LABELS, 2, 0, blur=1.5), "blur is 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()
