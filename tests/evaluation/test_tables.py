import json

import numpy as np
import pytest
from small_stream import TASKS, Y_TEST, Everything, LastTaskOnly, bench, run

from pipeline.evaluation.course import Prequential
from pipeline.evaluation.tables import MethodResult, Tables, make_tables, write_csv


def tables(name="x", model=Everything, **changes):
    outcome = run(model())
    other, given = model(), bench(3)
    met = Prequential(given, lambda model, rows: model.partial_fit(given.X[rows], given.y[rows]))
    for task in TASKS:
        met(other, task.rows)
    predictions = np.maximum(outcome.predictions, 0)
    result = MethodResult([outcome, outcome], predictions, met.met, facts={"passes": 1}, **changes)
    return make_tables(bench(3), {name: result})


def test_metrics_hold_accuracy_and_facts():
    numbers = tables().metrics["x"]
    assert numbers["final_accuracy"] == 1.0
    assert numbers["prequential_accuracy"] == pytest.approx(1 / 6, abs=1e-6)
    assert numbers["passes"] == 1


def test_curves_hold_one_row_per_order_and_task():
    assert tables().curves == [
        ["x", seed, i, 2 + 2 * i, 1 + i, 1.0, share] for seed in (0, 1) for i, share in ((1, 0.5), (2, 1.0))
    ]


def test_prequential_rows_say_the_share_right_so_far_after_every_batch():
    assert tables().prequential == [["x", 3, 0.0], ["x", 6, round(1 / 6, 6)]]


def test_confusion_has_one_row_per_true_class():
    found = tables(model=LastTaskOnly).matrices
    assert found["task_classes"] == [["a", "b"], ["c"]]
    # The method that knows only the last task predicts −1 for others, which is written here as class 0.
    assert found["confusion"]["x"] == [[1, 0, 0], [1, 0, 0], [0, 0, 2]]
    assert found["class_accuracy"]["x"] == [1.0, 0.0, 1.0]


def test_a_method_that_saw_everything_at_once_is_measured_at_the_end_alone():
    result = MethodResult([], Y_TEST.copy())
    found = make_tables(bench(), {"joint": result})
    assert set(found.metrics["joint"]) == {"final_accuracy", "mean_class_accuracy", "accuracy_std_over_orders"}
    assert found.curves == found.prequential == []
    assert found.matrices["methods"] == {}
    assert found.matrices["class_accuracy"]["joint"] == [1.0, 1.0, 1.0]


def test_tables_come_back_from_json(tmp_path):
    made = tables(novelty={"s": {"auroc": 0.5}})
    (tmp_path / "t.json").write_text(json.dumps(made.record()))
    assert Tables.read(tmp_path / "t.json") == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metrics": {}'])
def test_tables_that_are_none_are_an_error_of_three_parts(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ValueError, match=r"t\.json cannot be read \(.*\); expected tables as .* Run `dvc repro`"):
        Tables.read(tmp_path / "t.json")


def test_methods_of_two_tables_stand_side_by_side():
    both = tables("x").joined(tables("y", model=LastTaskOnly))
    assert list(both.metrics) == list(both.matrices["methods"]) == list(both.matrices["confusion"]) == ["x", "y"]
    assert [row[0] for row in both.curves] == ["x"] * 4 + ["y"] * 4


def test_tables_of_another_stream_are_refused():
    other = tables("y")
    other.matrices["task_classes"] = [["c"], ["a", "b"]]
    with pytest.raises(
        ValueError, match=r"the baselines' task_classes are .*expected the same stream\. Run `dvc repro`"
    ):
        tables("x").joined(other)


def test_csv_has_its_columns_and_makes_its_folder(tmp_path):
    write_csv(tmp_path / "new/x.csv", ("a", "b"), [[1, 2.5]])
    assert (tmp_path / "new/x.csv").read_text() == "a,b\n1,2.5\n"
