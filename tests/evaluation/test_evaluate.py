import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from test_train import SETTINGS, command, header, settings, split, write_two_caches

from pipeline.cache import SplitRows, open_cache, write_cache
from pipeline.config import Rivals
from pipeline.evaluation.baselines import make_contender
from pipeline.evaluation.loop import feed_then_test
from pipeline.evaluation.tables import HeadResult, make_tables
from pipeline.stages import evaluate as stage
from pipeline.stages.baselines import measure_rivals
from pipeline.stages.train import train

HEADS = ["nearest_class_mean", "streaming_lda", "linear_probe", "joint_linear_probe"]
OUTPUTS = ("metrics.json", "curves.csv", "prequential.csv", "matrices.json", "confidence.json", "audit.json")


BESIDE_RIVALS = SETTINGS | {"rivals": "pets"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(scope="module")
def found(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        return stage.evaluate(settings(), own, keys)


@pytest.fixture(scope="module")
def rivals(found, paths, tmp_path_factory):
    """Return a folder of rivals' tables, as the stage before leaves it."""
    entry = Rivals(embeddings="own", keys="keys", stream=SETTINGS["stream"], heads=HEADS)
    with open_cache(paths[1]) as keys:
        results = measure_rivals(entry, found.bench, [keys.read("train")])
    path = tmp_path_factory.mktemp("rivals") / "pets.json"
    path.write_text(json.dumps(asdict(make_tables(found.bench, results))))
    return path.parent


@pytest.fixture(scope="module")
def written(paths, rivals, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    assert run_stage(folder, paths, "--rivals", str(rivals), run=BESIDE_RIVALS) == 0
    return folder


def run_stage(folder, paths, *more, **changes):
    outputs = (word for name in OUTPUTS[1:] for word in (f"--{name.partition('.')[0]}", str(folder / name)))
    return stage.console.run(stage.main, stage.build_parser(), [*command(folder, paths, **changes), *outputs, *more])


def digits_cache(path):
    images, labels = load_digits(return_X_y=True)
    parts = {
        name: SplitRows(
            blocks=[images[rows].astype(np.float32)], labels=labels[rows], sample_ids=[f"{i}" for i in rows]
        )
        for name, rows in {"train": range(1200), "test": range(1200, 1797)}.items()
    }
    write_cache(path, replace(header("digits"), class_names=tuple("0123456789")), parts)
    return path


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory):
    """Return the evaluation of a small estimator on scikit-learn's digits, and the numbers of the probes beside it."""
    run = settings(
        keys="own",
        stream=SETTINGS["stream"] | {"order_seeds": [0]},
        estimator=SETTINGS["estimator"] | {"n_heads": 32, "n_keys": 64},
    )
    with open_cache(digits_cache(tmp_path_factory.mktemp("digits") / "digits.h5")) as own:
        found, scale = stage.evaluate(run, own, own), own.read("train")
    results, bench = {"dkvb": found.result}, found.bench
    for name in ("linear_probe", "mlp"):
        probe = make_contender(name, bench, [scale], normalize=True).make(0)
        outcome = feed_then_test(probe, bench.orders[0], bench.X, bench.y, bench.X_test, bench.y_test)
        results[name] = HeadResult([outcome], outcome.predictions)
    return found, make_tables(bench, results).metrics


def test_the_estimator_learns_every_order(found):
    assert len(found.result.outcomes) == 2
    assert found.bench.seeds == (0, 1)
    assert all(outcome.all_accuracy[-1] > 0.9 for outcome in found.result.outcomes)


def test_probes_learn_each_stage_and_forget_while_the_bottleneck_remembers(on_digits):
    _, metrics = on_digits
    for head in ("linear_probe", "mlp"):
        assert metrics[head]["learning_accuracy"] > 0.9
        assert metrics[head]["forgetting_first"] > metrics["dkvb"]["forgetting_first"] + 0.05
        assert metrics[head]["final_accuracy"] < metrics["dkvb"]["final_accuracy"] - 0.05
    assert metrics["mlp"]["forgetting_first"] > 0.3
    assert metrics["dkvb"]["final_accuracy"] > 0.88


def test_calibration_on_rows_held_out_brings_confidence_and_accuracy_together(on_digits):
    trust = on_digits[0].trust
    for name in ("expected_calibration_error", "negative_log_likelihood"):
        assert trust["calibrated"][name] < trust["plain"][name]
    assert trust["plain"]["temperature"] == 1.0


def test_classes_not_yet_seen_look_stranger_than_those_learned(on_digits):
    found, metrics = on_digits
    scores = {name: numbers["auroc"] for name, numbers in found.result.novelty.items()}
    assert scores["relative_novelty"] > 0.7
    assert scores["relative_novelty"] > scores["novelty"] + 0.1
    assert metrics["dkvb"]["max_softmax_auroc"] > 0.6


def test_no_rows_held_out_means_no_calibration(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        assert stage.evaluate(settings(held_out_share=0.0), own, keys).trust == {}


def test_a_shuffled_stream_has_nothing_unseen(paths):
    stream = {"kind": "shuffled", "n_stages": 2, "order_seeds": [0]}
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        assert stage.evaluate(settings(stream=stream), own, keys).result.novelty == {}


def test_audit_names_classes_and_counts_their_samples(found):
    assert found.audit["classes"] == ["ant", "bee", "cat", "dog"]
    assert len(found.audit["used_share"]) == 8
    assert np.diagonal(found.audit["overlap"]).tolist() == [1.0] * 4
    busiest = found.audit["busiest"]
    hits = [sum(key["served"].values()) for key in busiest]
    assert hits == sorted(hits, reverse=True)
    assert len(hits) == stage.N_BUSIEST


def test_costs_that_no_clock_tells(found):
    assert found.result.facts["passes"] == 1
    assert found.result.facts["needs_classes"] == 0
    assert found.result.facts["state_bytes"] > 8 * 16 * 4 * 4


def test_first_order_ends_where_training_ends(found, paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        _, metrics, _ = train(settings(), own, keys)
    assert found.result.outcomes[0].all_accuracy[-1] == pytest.approx(metrics["accuracy"], abs=1e-6)


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


def test_metrics_file_maps_head_to_metric_to_number(written):
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(metrics) == ["dkvb", *HEADS]
    for head in ["dkvb", *HEADS[:-1]]:
        assert {
            "final_accuracy",
            "average_incremental_accuracy",
            "forgetting_best",
            "forgetting_first",
            "backward_transfer",
            "prequential_accuracy",
            "accuracy_std_over_orders",
            "state_bytes",
            "passes",
            "needs_classes",
        } <= set(metrics[head])
    assert all(isinstance(number, float | int) for numbers in metrics.values() for number in numbers.values())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_hold_one_line_a_head_order_and_stage(written):
    rows = rows_of(written / "curves.csv")
    assert [(row["head"], row["order_seed"], row["stage"]) for row in rows] == [
        (head, seed, number) for head in ["dkvb", *HEADS[:-1]] for seed in "01" for number in "12"
    ]
    assert [(row["samples_seen"], row["classes_seen"]) for row in rows[:2]] == [("40", "2"), ("80", "4")]
    assert all(row["seen_accuracy"] == row["all_accuracy"] for row in rows if row["stage"] == "2")


def test_prequential_file_holds_one_line_a_head_and_batch(written):
    rows = rows_of(written / "prequential.csv")
    ends = ["16", "32", "48", "64", "80"]
    assert [(row["head"], row["samples_seen"]) for row in rows] == [
        (head, end) for head in ["dkvb", *HEADS[:-1]] for end in ends
    ]
    assert rows[0]["accuracy"] == "0.0"


def test_matrices_file_names_classes_and_counts_every_test_row(written):
    matrices = json.loads((written / "matrices.json").read_text())
    assert matrices["task_classes"] == [["ant", "bee"], ["cat", "dog"]]
    assert list(matrices["heads"]) == ["dkvb", *HEADS[:-1]]
    for head in ["dkvb", *HEADS]:
        assert np.sum(matrices["confusion"][head], axis=1).tolist() == [10, 10, 10, 10]
    assert matrices["heads"]["dkvb"][0][1] == 0.0


def test_confidence_file_holds_scores_of_run_and_rivals(written):
    confidence = json.loads((written / "confidence.json").read_text())
    assert {head: list(scores) for head, scores in confidence["novelty"].items()} == {
        "dkvb": ["novelty", "relative_novelty", "max_softmax"],
        "streaming_lda": ["mahalanobis"],
    }
    assert set(confidence["trust"]) == {"plain", "calibrated"}


def test_two_runs_give_the_same_bytes(written, tmp_path, paths, rivals):
    assert run_stage(tmp_path, paths, "--rivals", str(rivals), run=BESIDE_RIVALS) == 0
    for name in OUTPUTS:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_seconds_stand_apart(written):
    seconds = json.loads((written / "timings.json").read_text())
    assert {head: set(parts) for head, parts in seconds.items()} == {"dkvb": {"keys", "encode", "fit", "predict_1000"}}


def test_a_run_without_rivals_stands_alone(tmp_path, paths, rivals):
    assert run_stage(tmp_path, paths, "--rivals", str(rivals)) == 0
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["dkvb"]


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
