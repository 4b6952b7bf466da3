import numpy as np
import pytest

from pipeline.evaluation.streams import blurry, class_incremental, class_order, make_tasks, shuffled

LABELS = np.array([2, 0, 1, -1, 3, 2, 4, 0, 1, 4, -1, 3] * 5)
LABELLED = np.flatnonzero(LABELS >= 0)


def rows_of(tasks):
    return np.concatenate([task.rows for task in tasks])


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
    tasks = make(3)
    assert sorted(rows_of(tasks)) == LABELLED.tolist()
    np.testing.assert_array_equal(rows_of(tasks), rows_of(make(3)))
    assert not np.array_equal(rows_of(tasks), rows_of(make(4)))


def test_class_incremental_tasks_hold_their_classes_and_no_other():
    tasks = class_incremental(LABELS, 2, 1)
    assert [len(task.classes) for task in tasks] == [2, 2, 1]
    for task in tasks:
        assert set(LABELS[task.rows].tolist()) == set(task.classes)


def test_rows_within_a_task_are_mixed():
    (task,) = class_incremental(np.repeat([0, 1], 50), 2, 0)
    assert not np.array_equal(task.rows, np.sort(task.rows))


def test_written_order_is_followed():
    tasks = class_incremental(LABELS, 2, 0, order=[4, 0, 3, 1, 2])
    assert [task.classes for task in tasks] == [(0, 4), (1, 3), (2,)]


def test_written_order_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\] does not match the classes \[0, 1, 2, 3, 4\]"):
        class_incremental(LABELS, 2, 0, order=[0, 1])


def test_shuffled_tasks_have_equal_length_and_all_classes():
    tasks = shuffled(LABELS, 3, 0)
    assert max(len(s.rows) for s in tasks) - min(len(s.rows) for s in tasks) <= 1
    assert all(task.classes == (0, 1, 2, 3, 4) for task in tasks)


def test_no_blur_is_class_incremental():
    for plain, blurred in zip(class_incremental(LABELS, 2, 5), blurry(LABELS, 2, 5, blur=0.0)):
        np.testing.assert_array_equal(plain.rows, blurred.rows)


def test_blur_scatters_about_the_share_asked_for():
    labels = np.arange(4000) % 4
    tasks = blurry(labels, 1, 1, blur=0.4)
    away = np.mean([~np.isin(labels[row], task.classes) for task in tasks for row in task.rows])
    # A scattered row falls into its own task one time in four: 0.4 * 3/4 = 0.3, standard error 0.008.
    assert abs(away - 0.3) < 0.03


@pytest.mark.parametrize("kind", ["class_incremental", "shuffled", "blurry"])
def test_kind_names_its_function(kind):
    made = make_tasks(kind, LABELS, 2, classes_per_task=2, n_tasks=3, blur=0.5)
    wanted = {
        "class_incremental": class_incremental(LABELS, 2, 2),
        "shuffled": shuffled(LABELS, 3, 2),
        "blurry": blurry(LABELS, 2, 2, blur=0.5),
    }[kind]
    np.testing.assert_array_equal(rows_of(made), rows_of(wanted))


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"kind is 'sorted'; expected class_incremental, .* Correct it"):
        make_tasks("sorted", LABELS, 0)


def test_unlabelled_rows_alone_make_no_stream():
    with pytest.raises(ValueError, match="none of 3 training rows carries a label"):
        class_incremental(np.full(3, -1), 1, 0)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: class_incremental(LABELS, 0, 0), "classes_per_task is 0"),
        (lambda: shuffled(LABELS, 0, 0), "n_tasks is 0"),
        (lambda: shuffled(LABELS, 999, 0), "n_tasks is 999 for 50 labelled rows"),
        (lambda: blurry(LABELS, 2, 0, blur=1.5), "blur is 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()
