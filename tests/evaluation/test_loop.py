from types import SimpleNamespace

import numpy as np
import pytest
from small_stream import TASKS, Y_TEST, Everything, LastTaskOnly, Y, bench, run

from dkvb_estimator.baselines import NearestClassMean
from pipeline.config import Stream
from pipeline.evaluation import factory
from pipeline.evaluation.course import Prequential, per_order, seen_half
from pipeline.evaluation.factory import make_method, set_method
from pipeline.evaluation.loop import (
    Scores,
    answer,
    batches,
    check_tasks,
    feed_then_test,
    make_bench,
    restricted_accuracy,
    rows_for_keys,
    summarise,
    tasks_of,
    timed,
)
from pipeline.evaluation.streams import Task
from pipeline.report.labels import METRICS


def test_every_task_is_tested_on_every_task():
    outcome = run(LastTaskOnly())
    np.testing.assert_array_equal(outcome.accuracy_matrix, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(outcome.seen_accuracy, [1.0, 0.5])
    np.testing.assert_array_equal(outcome.all_accuracy, [0.5, 0.5])
    np.testing.assert_array_equal(outcome.samples_seen, [4, 6])
    np.testing.assert_array_equal(outcome.classes_seen, [2, 3])
    np.testing.assert_array_equal(outcome.predictions, [-1, -1, 2, 2])
    assert outcome.task_classes == ((0, 1), (2,))


def test_rows_arrive_in_the_tasks_order():
    arrived = []
    feed_then_test(
        Everything(),
        TASKS,
        np.arange(6)[:, None],
        Y,
        Y_TEST[:, None],
        Y_TEST,
        learn=lambda model, X, y: (arrived.append(X[:, 0].tolist()), model.partial_fit(X, y)),
    )
    assert arrived == [[0, 1, 2, 3], [5, 4]]


def test_task_without_test_rows_is_refused():
    with pytest.raises(ValueError, match=r"the test rows contain none of the classes \(2,\) of a task; .* Use a split"):
        feed_then_test(Everything(), TASKS, Y[:, None], Y, np.zeros((2, 1)), np.array([0, 1]))


def test_classes_without_test_rows_are_named():
    with pytest.raises(ValueError, match=r"none of the classes c of a task; .* Use a split"):
        check_tasks(TASKS, np.array([0, 1]), ("a", "b", "c"))


def test_summary_is_the_mean_over_orders():
    summary = summarise([run(LastTaskOnly()), run(Everything())], Y_TEST)
    assert summary == {
        "final_accuracy": 0.75,
        "average_incremental_accuracy": 0.875,
        "forgetting_best": 0.5,
        "forgetting_first": 0.5,
        "backward_transfer": -0.5,
        "min_accuracy": 0.5,
        "learning_accuracy": 1.0,
        "mean_class_accuracy": round((1 / 3 + 1) / 2, 6),
        "accuracy_std_over_orders": 0.25,
    }


def test_the_report_has_words_for_every_number_of_a_summary():
    assert set(summarise([run(LastTaskOnly())], Y_TEST)) <= set(METRICS)


class Scoring:
    """A method with a random score for each class, row and task; it knows a class once it has arrived."""

    n_tasks, classes_ = 0, np.array([], dtype=int)

    def partial_fit(self, X, y):
        self.n_tasks += 1
        self.classes_ = np.union1d(self.classes_, y)

    def decision_function(self, X):
        rng = np.random.default_rng(self.n_tasks)
        scores = rng.normal(size=(len(X), 8)) + 1.5 * (X.astype(int) == np.arange(8))
        return scores[:, self.classes_]

    def predict(self, X):
        return self.classes_[self.decision_function(X).argmax(axis=1)]


def test_restricted_accuracy_is_that_of_predictions_among_the_classes_of_tasks_so_far():
    rng = np.random.default_rng(0)
    y, y_test = rng.permutation(np.arange(64) % 8), rng.integers(0, 8, 200)
    y_test[:8] = np.arange(8)
    # Class 1 returns in the third task.
    tasks = [Task(classes, np.flatnonzero(np.isin(y, classes))) for classes in ((5, 2), (0, 1, 7), (1, 3), (4, 6))]
    model = Scoring()
    outcome = feed_then_test(model, tasks, y[:, None], y, y_test[:, None], y_test)
    scores = model.decision_function(y_test[:, None])
    expected, known = [], set()
    for task in tasks:
        known |= set(task.classes)
        hits = [
            max(known, key=lambda k: row[k]) == label for row, label in zip(scores, y_test) if label in task.classes
        ]
        expected.append(np.mean(hits))
    np.testing.assert_allclose(outcome.restricted, expected, atol=1e-12)
    np.testing.assert_array_equal(outcome.predictions, scores.argmax(axis=1))
    assert outcome.restricted[-1] == outcome.accuracy_matrix[-1, -1]
    summary = summarise([outcome], y_test)
    lost = summary["real_forgetting"] + summary["label_growth"]
    assert lost == pytest.approx(summary["forgetting_first"], abs=2e-6)
    assert summary["label_growth"] > 0.1


def test_a_method_without_scores_has_no_restricted_accuracy():
    outcome = run(Everything())
    assert outcome.restricted is None
    assert "real_forgetting" not in summarise([outcome], Y_TEST)


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 1, 2]])
def test_answers_from_scores_are_predictions_whatever_the_number_of_classes(labels):
    X, y = np.random.default_rng(0).normal(size=(60, 3)), np.resize(labels, 60)
    model = NearestClassMean().fit(X, y)
    predicted, scores = answer(model, X)
    np.testing.assert_array_equal(predicted, model.predict(X))
    assert scores.values.shape == (60, len(labels))


def test_restricted_to_one_class_everything_of_it_is_right():
    tasks = [Task((4,), np.array([0])), Task((2,), np.array([1]))]
    scores = Scores(np.array([2, 4]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert restricted_accuracy(tasks, scores, np.array([4, 2]), np.array([4, 2])).tolist() == [1.0, 1.0]


def test_rows_of_other_classes_in_a_blurry_task_are_known_from_then_on():
    tasks = [Task((4,), np.array([0, 1])), Task((2,), np.array([2]))]
    scores = Scores(np.array([2, 4]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert restricted_accuracy(tasks, scores, np.array([4, 2, 2]), np.array([4, 2])).tolist() == [0.0, 1.0]


def meet(given):
    met, model = Prequential(given, lambda model, rows: model.partial_fit(given.X[rows], given.y[rows])), Everything()
    for task in TASKS:
        met(model, task.rows)
    return met.met


def test_a_stream_meets_the_method_in_batches_each_predicted_before_it_is_learned():
    labels, predicted = meet(bench())
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    # At the first batch the method knows nothing; class 1 is new in the second batch, class 2 in the third.
    assert predicted.tolist() == [-1] * 6
    assert meet(bench(3))[1].tolist() == [-1, -1, -1, 1, -1, -1]


def test_half_of_the_tasks_is_known_and_rows_of_later_classes_are_left_out_of_it():
    blurred = [Task((0, 1), np.array([0, 4, 2])), Task((2,), np.array([5, 1, 3]))]
    half = seen_half(blurred, Y, Y_TEST)
    assert [task.rows.tolist() for task in half.tasks] == [[0, 2]]
    assert half.known.tolist() == [True, True, False, False]


def test_a_shuffled_stream_leaves_no_class_unknown():
    assert seen_half([Task((0, 1, 2), np.arange(6))] * 2, Y, Y_TEST) is None


def test_seconds_are_told_per_order_and_per_thousand_rows():
    clock = {"keys": 1.0, "fit": 6.0, "predict": 0.8}
    # Two orders × two tasks × four test rows are 16 predictions.
    assert per_order(clock, bench()) == {"keys": 1.0, "fit": 3.0, "predict_1000": 50.0}
    assert per_order(clock, bench(), n_orders=1, n_tasks=1) == {"keys": 1.0, "fit": 6.0, "predict_1000": 200.0}


def test_the_clock_of_a_stream_has_two_parts():
    clock = {}
    feed_then_test(Everything(), TASKS, Y[:, None], Y, Y_TEST[:, None], Y_TEST, seconds=clock)
    assert set(clock) == {"fit", "predict"}


def test_a_stream_has_tasks_for_every_order():
    stream = Stream(kind="class_incremental", classes_per_task=2, class_orders=[[2, 1, 0], [0, 1, 2]])
    assert [[task.classes for task in tasks] for tasks in tasks_of(stream, Y)] == [
        [(1, 2), (0,)],
        [(0, 1), (2,)],
    ]


class Reader(SimpleNamespace):
    feature_blocks = None

    def as_numpy(self, split):
        labels = np.array([0, 1, -1, 1]) if split == "test" else np.array([0, 1, -1, 0])
        return np.arange(4, dtype=np.float32)[:, None], labels


def test_a_bench_leaves_out_test_rows_without_a_label():
    header = SimpleNamespace(dataset="d", class_names=("a", "b"))
    made = make_bench(Reader(split_names=("train", "test"), header=header), Stream(kind="shuffled", order_seeds=[3]))
    assert made.y_test.tolist() == [0, 1, 1]
    assert made.X_test.ravel().tolist() == [0, 1, 3]
    assert made.classes.tolist() == [0, 1]
    assert made.seeds == (3,)
    assert sorted(made.orders[0][0].rows.tolist()) == [0, 1, 3]


def test_a_bench_without_test_rows_is_refused():
    reader = Reader(split_names=("train",), header=SimpleNamespace(dataset="d"))
    with pytest.raises(ValueError, match=r"dataset d has the splits train; expected a split named test\. Choose"):
        make_bench(reader, Stream(kind="shuffled"))


def test_batches_hold_every_row_once_in_order():
    parts = batches(np.arange(10), 4)
    assert [len(part) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(10))


def test_settings_reach_the_method():
    model = make_method({"encoder": {"n_heads": 3, "random_state": 5}, "solver": "sgd"}, device="cpu")
    encoder = model.encoder
    assert (encoder.n_heads, model.solver, encoder.random_state, model.device, encoder.device) == (
        3,
        "sgd",
        5,
        *["cpu"] * 2,
    )
    assert str(make_method({})) == str(factory.DKVBClassifier(factory.KeyEncoder()))


@pytest.mark.parametrize(
    ("settings", "wrong", "right"),
    [
        ({"encoder": {"n_head": 1}}, r"method\.encoder\.n_head", "n_heads"),
        ({"smooth": 1}, r"method\.smooth", "smoothing"),
        ({"encodr": {}}, r"method\.encodr", "encoder"),
    ],
)
def test_unknown_setting_names_the_nearest(settings, wrong, right):
    with pytest.raises(ValueError, match=rf"{wrong} is not a setting \(did you mean '{right}'\?\); expected one of "):
        make_method(settings)
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=rf"{wrong} is not a setting"):
        set_method(
            make_method({}), {f"encoder__{key}": 1 for key in value} if name == "encoder" and value else settings
        )


@pytest.mark.parametrize(
    ("name", "place"), [("device", "DKVB_DEVICE"), ("verbose", "progress itself"), ("feature_blocks", "the cache")]
)
def test_setting_that_is_said_elsewhere_names_the_place(name, place):
    for settings, where in (({name: 1}, "method"), ({"encoder": {name: 1}}, "method.encoder")):
        with pytest.raises(ValueError, match=rf"{where}\.{name} cannot be set for .*; expected it from .*{place}"):
            make_method(settings)


def fake_reader(X, *, backbone="a", tap="avgpool", blocks=None):
    header = SimpleNamespace(backbone={"id": backbone}, tap=tap, dataset="d")
    read = {"read": lambda split, rows=slice(None): X[rows], "feature_blocks": blocks}
    return SimpleNamespace(header=header, n_features=X.shape[1], **read)


def test_keys_come_from_all_rows_of_their_cache_or_from_the_first_task():
    own, other = np.arange(8.0).reshape(4, 2), np.ones((3, 2))
    task = Task((0,), np.array([2, 0]))
    np.testing.assert_array_equal(rows_for_keys(fake_reader(own), fake_reader(other), "all", task), other)
    np.testing.assert_array_equal(rows_for_keys(fake_reader(own), fake_reader(own), "first_task", task), own[[0, 2]])


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (fake_reader(np.ones((2, 2)), backbone="b"), "backbone"),
        (fake_reader(np.ones((2, 2)), tap="layer3"), "layer"),
        (fake_reader(np.ones((2, 3))), "number of features"),
        (fake_reader(np.ones((2, 2)), blocks=(1, 1)), "columns of each layer"),
    ],
)
def test_keys_of_another_embedding_space_are_refused(other, what):
    with pytest.raises(ValueError, match=f"has {what} .* Extract both with the same backbone and layer"):
        rows_for_keys(fake_reader(np.ones((4, 2))), other, "all", TASKS[0])


def test_seconds_add_up():
    seconds = {"part": 5.0}
    with timed(seconds, "part"):
        pass
    assert 5.0 <= seconds["part"] < 6.0
