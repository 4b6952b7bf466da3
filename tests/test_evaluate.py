import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_train import SETTINGS, command, header, settings, split, write_two_caches

from pipeline import evaluate as stage
from pipeline.cache import SplitRows, open_cache, write_cache
from pipeline.train import train

HEADS = ["dkvb", "nearest_class_mean", "linear_probe", "mlp"]
OUTPUTS = ("metrics.json", "curves.csv", "matrices.json")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def found(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        return stage.evaluate(settings(), own, keys)


@pytest.fixture(scope="module")
def written(paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    assert run_stage(folder, paths) == 0
    return folder


def run_stage(folder, paths, **changes):
    outputs = ("--curves", str(folder / "curves.csv"), "--matrices", str(folder / "matrices.json"))
    return stage.console.run(stage.main, stage.build_parser(), [*command(folder, paths, **changes), *outputs])


def test_every_head_learns_every_order(found):
    assert list(found.outcomes) == HEADS
    assert all(len(outcomes) == 2 for outcomes in found.outcomes.values())
    assert found.seeds == (0, 1)


def test_every_head_learns_easy_classes(found):
    metrics = stage._metrics(found)
    for head in HEADS:
        assert metrics[head]["learning_accuracy"] > 0.9
    for head in ("dkvb", "nearest_class_mean", "joint_linear_probe"):
        assert metrics[head]["final_accuracy"] > 0.9


def test_probes_learn_each_stage_and_forget_while_the_bottleneck_remembers(tmp_path):
    images, labels = load_digits(return_X_y=True)
    parts = {
        name: SplitRows(
            blocks=[images[rows].astype(np.float32)], labels=labels[rows], sample_ids=[f"{i}" for i in rows]
        )
        for name, rows in {"train": range(1200), "test": range(1200, 1797)}.items()
    }
    names = replace(header("digits"), class_names=tuple("0123456789"))
    write_cache(tmp_path / "digits.h5", names, parts)
    run = settings(
        keys="own",
        stream=SETTINGS["stream"] | {"order_seeds": [0]},
        estimator=SETTINGS["estimator"] | {"n_heads": 32, "n_keys": 64},
    )
    with open_cache(tmp_path / "digits.h5") as own:
        metrics = stage._metrics(stage.evaluate(run, own, own))
    for head in ("linear_probe", "mlp"):
        assert metrics[head]["learning_accuracy"] > 0.9
        assert metrics[head]["forgetting_first"] > metrics["dkvb"]["forgetting_first"] + 0.05
        assert metrics[head]["final_accuracy"] < metrics["dkvb"]["final_accuracy"] - 0.05
    assert metrics["mlp"]["forgetting_first"] > 0.3
    assert metrics["joint_linear_probe"]["final_accuracy"] > metrics["linear_probe"]["final_accuracy"]
    assert metrics["dkvb"]["final_accuracy"] > 0.88


def test_first_order_ends_where_training_ends(found, paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        _, metrics, _ = train(settings(), own, keys)
    assert found.outcomes["dkvb"][0].all_accuracy[-1] == pytest.approx(metrics["accuracy"], abs=1e-6)


def test_keys_are_placed_once_a_run(paths, monkeypatch):
    placed = []
    original = stage.DKVBClassifier.init_keys
    monkeypatch.setattr(
        stage.DKVBClassifier, "init_keys", lambda self, X: (placed.append(len(X)), original(self, X))[1]
    )
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        stage.evaluate(settings(), own, keys)
        assert placed == [60]
        placed.clear()
        stage.evaluate(settings(keys="own", key_rows="first_stage"), own, own)
        assert placed == [40, 40]


def test_class_means_see_the_features_that_the_estimator_sees(paths, monkeypatch):
    seen = []
    original = stage.NearestClassMean
    monkeypatch.setattr(
        stage, "NearestClassMean", lambda normalize: (seen.append(normalize), original(normalize=normalize))[1]
    )
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        stage.evaluate(settings(), own, keys)
        stage.evaluate(settings(estimator=SETTINGS["estimator"] | {"normalize": False}), own, keys)
    assert seen == [True, True, False, False]


def test_metrics_file_maps_head_to_metric_to_number(written):
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(metrics) == [*HEADS, "joint_linear_probe"]
    for head in HEADS:
        assert {
            "final_accuracy",
            "average_incremental_accuracy",
            "forgetting_best",
            "forgetting_first",
            "backward_transfer",
            "accuracy_std_over_orders",
        } <= set(metrics[head])
    assert all(isinstance(number, float) for numbers in metrics.values() for number in numbers.values())


def test_curves_hold_one_line_a_head_order_and_stage(written):
    with (written / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["head"], row["order_seed"], row["stage"]) for row in rows] == [
        (head, seed, number) for head in HEADS for seed in "01" for number in "12"
    ]
    assert [(row["samples_seen"], row["classes_seen"]) for row in rows[:2]] == [("40", "2"), ("80", "4")]
    assert all(row["seen_accuracy"] == row["all_accuracy"] for row in rows if row["stage"] == "2")


def test_matrices_file_names_classes_and_counts_every_test_row(written):
    matrices = json.loads((written / "matrices.json").read_text())
    assert matrices["task_classes"] == [["ant", "bee"], ["cat", "dog"]]
    assert list(matrices["heads"]) == list(matrices["confusion"]) == HEADS
    for head in HEADS:
        assert np.shape(matrices["heads"][head]) == (2, 2)
        assert np.sum(matrices["confusion"][head], axis=1).tolist() == [10, 10, 10, 10]
    assert matrices["heads"]["dkvb"][0][1] == 0.0


def test_confusion_has_one_row_a_true_class():
    counts = stage._confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_two_runs_give_the_same_bytes(written, tmp_path, paths):
    assert run_stage(tmp_path, paths) == 0
    for name in OUTPUTS:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_seconds_stand_apart(written):
    seconds = json.loads((written / "timings.json").read_text())
    assert {"dkvb_keys", "dkvb_encode", *HEADS, "joint_linear_probe"} == set(seconds)


def test_one_line_is_reported(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "dkvb 0.9" in captured.err or "dkvb 1.0" in captured.err


def test_cache_without_test_images_is_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "c.h5", header("pets"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (tmp_path / "c.h5", paths[1])) == 1
    assert "a split named test is expected" in capsys.readouterr().err


def test_keys_of_another_backbone_are_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "k.h5", header("noise", backbone="other"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (paths[0], tmp_path / "k.h5")) == 1
    assert "extract both with the same backbone" in capsys.readouterr().err
