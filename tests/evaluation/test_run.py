import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_run import (
    OUTPUTS,
    SETTINGS,
    header,
    make_few_steps,
    params_file,
    run_stage,
    settings,
    split,
    with_method,
    write_two_caches,
)

from dkvb_estimator import load_model
from pipeline.cache import SplitRows, open_cache, write_cache
from pipeline.config import Baselines
from pipeline.evaluation import factory, measure_run
from pipeline.evaluation import runs as room
from pipeline.evaluation.baselines import make_baseline, measure_baselines
from pipeline.evaluation.loop import feed_then_test
from pipeline.evaluation.tables import MethodResult, make_tables
from pipeline.scratch import Checkpoint
from pipeline.stages import run as stage
from pipeline.stages import settings as settings_stage

BASELINES = ["nearest_class_mean", "streaming_lda", "linear_probe", "joint_linear_probe"]
BESIDE = SETTINGS | {"baselines": "pets"}


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture
def readers(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        yield own, keys


@pytest.fixture(scope="module")
def found(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        return measure_run(settings(), own, keys)


@pytest.fixture(scope="module")
def baselines(found, paths, tmp_path_factory):
    """Return the tables of baselines, as the preceding stage writes them."""
    entry = Baselines(embeddings="own", keys="keys", stream=SETTINGS["stream"], methods=BASELINES)
    with open_cache(paths[1]) as keys, pytest.MonkeyPatch.context() as patch:
        make_few_steps(patch)
        results = measure_baselines(entry, found.bench, [keys.read("train")])
    path = tmp_path_factory.mktemp("baselines") / "pets.json"
    path.write_text(json.dumps(asdict(make_tables(found.bench, results))))
    return path


@pytest.fixture(scope="module")
def written(paths, baselines, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DKVB_SCRATCH", str(folder / "scratch"))
        assert run_stage(folder, paths, "--baselines", str(baselines), run=BESIDE) == 0
    return folder


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
    """Return the evaluation of a small classifier on scikit-learn's digits, and the metrics of the probes."""
    run = settings(
        keys="own",
        stream=SETTINGS["stream"] | {"order_seeds": [0], "batch_rows": 120},  # values are solved for each batch
        **with_method({"n_heads": 32, "n_keys": 64}),
    )
    with open_cache(digits_cache(tmp_path_factory.mktemp("digits") / "digits.h5")) as own:
        found, scale = measure_run(run, own, own), own.read("train")
    results, bench = {"dkvb": found.result}, found.bench
    for name in ("linear_probe", "mlp"):
        probe = make_baseline(name, bench, [scale], normalize=True).make(0)
        outcome = feed_then_test(probe, bench.orders[0], bench.X, bench.y, bench.X_test, bench.y_test)
        results[name] = MethodResult([outcome], outcome.predictions)
    return found, make_tables(bench, results).metrics


def test_the_estimator_learns_every_order(found):
    assert len(found.result.outcomes) == 2
    assert found.bench.seeds == (0, 1)
    assert all(outcome.all_accuracy[-1] > 0.9 for outcome in found.result.outcomes)


def test_probes_learn_each_task_and_forget_while_the_bottleneck_remembers(on_digits):
    _, metrics = on_digits
    for method in ("linear_probe", "mlp"):
        assert metrics[method]["learning_accuracy"] > 0.9
        assert metrics[method]["forgetting_first"] > metrics["dkvb"]["forgetting_first"] + 0.05
        assert metrics[method]["final_accuracy"] < metrics["dkvb"]["final_accuracy"] - 0.05
    assert metrics["mlp"]["forgetting_first"] > 0.3
    assert metrics["dkvb"]["final_accuracy"] > 0.88


def test_calibration_on_rows_held_out_brings_confidence_and_accuracy_together(on_digits):
    calibration = on_digits[0].calibration
    for name in ("expected_calibration_error", "negative_log_likelihood"):
        assert calibration["calibrated"][name] < calibration["plain"][name]
    assert calibration["plain"]["temperature"] == 1.0


def test_classes_not_yet_seen_look_stranger_than_those_learned(on_digits):
    found, metrics = on_digits
    scores = {name: numbers["auroc"] for name, numbers in found.result.novelty.items()}
    assert scores["score_samples"] > 0.7
    assert metrics["dkvb"]["max_softmax_auroc"] > 0.6


def test_no_rows_held_out_means_no_calibration(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        assert measure_run(settings(held_out_share=0.0), own, keys).calibration == {}


def test_a_shuffled_stream_has_nothing_unseen(paths):
    stream = {"kind": "shuffled", "n_tasks": 2, "order_seeds": [0]}
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        assert measure_run(settings(stream=stream), own, keys).result.novelty == {}


def test_audit_names_classes_and_counts_their_samples(found):
    assert found.keys["classes"] == ["ant", "bee", "cat", "dog"]
    assert len(found.keys["used_share"]) == 8
    assert np.diagonal(found.keys["overlap"]).tolist() == [1.0] * 4
    busiest = found.keys["busiest"]
    hits = [sum(key["served"].values()) for key in busiest]
    assert hits == sorted(hits, reverse=True)
    assert len(hits) == factory.N_BUSIEST


def test_costs_that_no_clock_tells(found):
    assert found.result.facts["passes"] == 1
    assert found.result.facts["needs_classes"] == 0
    assert found.result.facts["state_bytes"] > 8 * 16 * 4 * 4


def test_the_model_that_is_kept_is_the_one_that_was_measured(found):
    (predictions,) = {tuple(found.model.predict(found.bench.X_test)), tuple(found.result.predictions)}
    accuracy = float((np.array(predictions) == found.bench.y_test).mean())
    assert found.result.outcomes[0].all_accuracy[-1] == pytest.approx(accuracy)
    assert found.training["accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_keys_are_placed_once_per_run(paths, monkeypatch):
    placed, original = [], room.place_keys
    monkeypatch.setattr(room, "place_keys", lambda model, X: (placed.append(len(X)), original(model, X))[1])
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        measure_run(settings(), own, keys)
        assert placed == [60]
        placed.clear()
        measure_run(settings(keys="own", key_rows="first_task"), own, own)
        assert placed == [40, 40]


def test_metrics_file_maps_method_to_metric_to_number(written):
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(metrics) == ["dkvb", *BASELINES]
    for method in ["dkvb", *BASELINES[:-1]]:
        assert {
            "final_accuracy",
            "average_incremental_accuracy",
            "forgetting_best",
            "forgetting_first",
            "backward_transfer",
            "real_forgetting",
            "label_growth",
            "prequential_accuracy",
            "accuracy_std_over_orders",
            "state_bytes",
            "passes",
            "needs_classes",
        } <= set(metrics[method])
    assert all(isinstance(number, float | int) for numbers in metrics.values() for number in numbers.values())


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_curves_hold_one_line_per_method_order_and_task(written):
    rows = rows_of(written / "curves.csv")
    assert [(row["method"], row["order_seed"], row["task"]) for row in rows] == [
        (method, seed, number) for method in ["dkvb", *BASELINES[:-1]] for seed in "01" for number in "12"
    ]
    assert [(row["samples_seen"], row["classes_seen"]) for row in rows[:2]] == [("40", "2"), ("80", "4")]
    assert all(row["seen_accuracy"] == row["all_accuracy"] for row in rows if row["task"] == "2")


def test_prequential_file_holds_one_line_per_method_and_batch(written):
    rows = rows_of(written / "prequential.csv")
    ends = ["16", "32", "48", "64", "80"]
    assert [(row["method"], row["samples_seen"]) for row in rows] == [
        (method, end) for method in ["dkvb", *BASELINES[:-1]] for end in ends
    ]
    assert rows[0]["accuracy"] == "0.0"


def test_matrices_file_names_classes_and_counts_every_test_row(written):
    matrices = json.loads((written / "matrices.json").read_text())
    assert matrices["task_classes"] == [["ant", "bee"], ["cat", "dog"]]
    assert list(matrices["methods"]) == ["dkvb", *BASELINES[:-1]]
    for method in ["dkvb", *BASELINES]:
        assert np.sum(matrices["confusion"][method], axis=1).tolist() == [10, 10, 10, 10]
    assert matrices["methods"]["dkvb"][0][1] == 0.0


def test_confidence_file_holds_scores_of_run_and_baselines(written):
    confidence = json.loads((written / "confidence.json").read_text())
    assert {method: list(scores) for method, scores in confidence["novelty"].items()} == {
        "dkvb": ["score_samples", "max_softmax"],
        "streaming_lda": ["mahalanobis"],
    }
    assert set(confidence["calibration"]) == {"plain", "calibrated"}


def test_two_runs_give_the_same_bytes(written, tmp_path, paths, baselines):
    assert run_stage(tmp_path, paths, "--baselines", str(baselines), run=BESIDE) == 0
    for name in OUTPUTS:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_seconds_stand_apart(written):
    seconds = json.loads((written / "timings.json").read_text())
    assert {method: set(parts) for method, parts in seconds.items()} == {
        "dkvb": {"keys", "encode", "prequential", "fit", "predict_1000"}
    }


def test_a_run_without_baselines_stands_alone(tmp_path, paths):
    assert run_stage(tmp_path, paths) == 0
    assert list(json.loads((tmp_path / "metrics.json").read_text())) == ["dkvb"]


def test_a_line_is_reported_beside_the_progress(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "[run pets] tasks" in captured.err
    last = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    assert "dkvb 0.9" in last or "dkvb 1.0" in last


def test_cache_without_test_images_is_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "c.h5", header("pets"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (tmp_path / "c.h5", paths[1])) == 1
    assert "expected a split named test" in capsys.readouterr().err


def test_keys_of_another_backbone_are_refused(tmp_path, paths, capsys):
    write_cache(tmp_path / "k.h5", header("noise", backbone="other"), {"train": split(16, 0)})
    assert run_stage(tmp_path, (paths[0], tmp_path / "k.h5")) == 1
    assert "Extract both with the same backbone" in capsys.readouterr().err


# The model that is learned and kept.


def test_learns_the_stream_and_says_what_it_found(found):
    training = found.training
    assert training["n_samples"] == 80
    assert training["n_classes"] == 4
    assert training["accuracy"] > 0.9
    assert 0 <= training["unused_keys"] <= 1
    assert 0 < training["used_keys_after_training"] <= 1
    assert training["key_fingerprint"] == found.model.encoder_.fingerprint_


def test_batches_of_another_length_teach_the_same(readers, found):
    other = measure_run(settings(stream=SETTINGS["stream"] | {"batch_rows": 7}), *readers).model
    np.testing.assert_array_equal(found.model.values_, other.values_)


def test_several_epochs_count_each_sample_once(readers):
    method = with_method(solver="sgd", solver_params={"learning_rate": 30.0})
    one = measure_run(settings(**method), *readers).model
    more = measure_run(settings(**method, epochs_per_task=5), *readers)
    np.testing.assert_array_equal(one.key_counts_, more.model.key_counts_)
    assert not np.array_equal(one.values_, more.model.values_)
    assert more.training["accuracy"] > 0.9


@pytest.mark.parametrize(("epochs", "calls"), [(1, [16, 16, 8] * 2), (3, [40, 40])])
def test_one_epoch_comes_in_batches_and_more_epochs_as_one_task(readers, monkeypatch, epochs, calls):
    learned, learn = [], room.learn_codes
    stream = SETTINGS["stream"] | {"order_seeds": [0]}
    run = settings(epochs_per_task=epochs, held_out_share=0.0, stream=stream, **with_method(solver="sgd"))
    monkeypatch.setattr(
        room, "learn_codes", lambda m, codes, y, **how: (learned.append(len(y)), learn(m, codes, y, **how))
    )
    measure_run(run, *readers)
    # With several epochs a second model predicts each batch before learning it.
    assert learned == calls + ([16, 16, 8] * 2 if epochs > 1 else [])


def test_declared_classes_are_known_before_they_come(readers, monkeypatch):
    seen, learn = [], room.learn_codes

    def note(*given, classes=None, **rest):
        seen.append(classes)
        learn(*given, classes=classes, **rest)

    monkeypatch.setattr(room, "learn_codes", note)
    measure_run(settings(declare_classes=True), *readers)
    assert all(classes.tolist() == [0, 1, 2, 3] for classes in seen)
    seen.clear()
    measure_run(settings(), *readers)
    assert all(classes is None for classes in seen)


def test_keys_may_come_from_the_first_task_alone(readers):
    own, _ = readers
    from_all = measure_run(settings(keys="own"), own, own).training
    from_first = measure_run(settings(keys="own", key_rows="first_task"), own, own).training
    assert from_first["key_fingerprint"] != from_all["key_fingerprint"]
    assert from_first["n_samples"] == 80


def test_run_without_labels_is_refused(readers, tmp_path):
    write_cache(tmp_path / "n.h5", header("noise"), {"train": split(60, 2, labelled=False), "test": split(40, 1)})
    with (
        open_cache(tmp_path / "n.h5") as own,
        pytest.raises(ValueError, match="none of 60 training rows carries a label"),
    ):
        measure_run(settings(), own, readers[1])


def test_a_file_holds_the_model_that_was_measured(written, paths):
    model = load_model(written / "model.npz")
    with open_cache(paths[0]) as own:
        X, y = own.as_numpy("test")
    training = json.loads((written / "training.json").read_text())
    assert round(float((model.predict(X) == y).mean()), 6) == training["accuracy"]


def broken_off(run, readers, folder, monkeypatch, task):
    """Interrupt a run when it begins to learn a task; return the labels learned before."""
    learned, learn = [], room.learn_codes

    def break_off(model, codes, y, **settings):
        if task in y:
            raise KeyboardInterrupt
        learned.append(set(y.tolist()))
        learn(model, codes, y, **settings)

    with monkeypatch.context() as patch, Checkpoint(folder, "f") as checkpoint:
        patch.setattr(room, "learn_codes", break_off)
        with pytest.raises(KeyboardInterrupt):
            measure_run(run, *readers, checkpoint=checkpoint)
    return learned


@pytest.mark.parametrize("solver", ["counts", "ridge", "joint", "sgd"])
def test_an_interrupted_run_resumes_after_its_last_task_to_the_same_model_and_numbers(
    readers, tmp_path, monkeypatch, solver
):
    stream = SETTINGS["stream"] | {"classes_per_task": 1, "order_seeds": [0]}
    run = settings(stream=stream, **with_method(solver=solver))
    whole = measure_run(run, *readers)
    broken_off(run, readers, tmp_path, monkeypatch, task=2)
    learned, learn = [], room.learn_codes
    monkeypatch.setattr(
        room, "learn_codes", lambda m, codes, y, **how: (learned.append(y[0]), learn(m, codes, y, **how))
    )
    with Checkpoint(tmp_path, "f") as checkpoint:
        resumed = measure_run(run, *readers, checkpoint=checkpoint)
    assert learned[:4] == [2, 2, 3, 3]
    np.testing.assert_array_equal(resumed.model.values_, whole.model.values_)
    np.testing.assert_array_equal(resumed.result.met, whole.result.met)
    assert make_tables(whole.bench, {"x": resumed.result}) == make_tables(whole.bench, {"x": whole.result})


def test_a_run_that_is_interrupted_after_its_last_task_ends_when_it_resumes(readers, tmp_path, monkeypatch):
    run = settings(stream=SETTINGS["stream"] | {"order_seeds": [0]}, held_out_share=0.0)
    with Checkpoint(tmp_path, "f") as checkpoint:
        whole = measure_run(run, *readers, checkpoint=checkpoint)
    with Checkpoint(tmp_path, "f") as checkpoint:
        resumed = measure_run(run, *readers, checkpoint=checkpoint)
    assert make_tables(whole.bench, {"x": resumed.result}) == make_tables(whole.bench, {"x": whole.result})


def test_a_finished_run_leaves_no_checkpoint_but_the_codes_it_made(tmp_path, paths):
    assert run_stage(tmp_path, paths) == 0
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["codes"]


def test_no_row_is_encoded_twice_by_the_same_keys(tmp_path, readers, monkeypatch):
    encoded, encode = [], room.encode
    monkeypatch.setattr(room, "encode", lambda model, X: (encoded.append(len(X)), encode(model, X))[1])
    measure_run(settings(), *readers, scratch=tmp_path)
    measure_run(settings(epochs_per_task=2), *readers, scratch=tmp_path)
    assert sum(encoded) == readers[0].n_rows("train")
    measure_run(settings(**with_method({"n_selected": 2})), *readers, scratch=tmp_path)
    assert sum(encoded) == 2 * readers[0].n_rows("train")


@pytest.mark.parametrize("change", [{"epochs_per_task": 2}, {"declare_classes": True}])
def test_another_setting_cache_device_or_version_never_sees_a_checkpoint(monkeypatch, change):
    digests = {"cache_sha256": "a", "key_cache_sha256": "b"}
    mine = stage._fingerprint(settings(), digests, "cpu")
    others = [
        stage._fingerprint(settings(**change), digests, "cpu"),
        stage._fingerprint(settings(), digests | {"cache_sha256": "c"}, "cpu"),
        stage._fingerprint(settings(), digests, "cuda"),
    ]
    monkeypatch.setattr(stage, "__version__", "99")
    assert mine not in [*others, stage._fingerprint(settings(), digests, "cpu")]


def test_device_of_the_environment_leaves_no_trace_in_the_model(tmp_path, paths, monkeypatch):
    monkeypatch.setenv("DKVB_DEVICE", "cpu")
    assert run_stage(tmp_path, paths) == 0
    assert load_model(tmp_path / "model.npz").device == "auto"


def test_unknown_run_is_one_sentence(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths, name="pet") == 1
    err = capsys.readouterr().err
    assert "'pet' is not an entry of runs (did you mean 'pets'?" in err
    assert "Traceback" not in err


def test_unknown_setting_of_the_method_is_one_sentence(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths, run=SETTINGS | {"method": {"encoder": {"n_head": 3}}}) == 1
    assert "method.encoder.n_head is not a setting (did you mean 'n_heads'?" in capsys.readouterr().err


def test_class_weights_name_classes(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        plain, weighted = (
            measure_run(settings(**with_method(solver="counts", **more)), own, keys).model
            for more in ({}, {"class_weight": {"bee": 1e6}})
        )
        with pytest.raises(ValueError, match=r"names 'bea', which is not a class \(did you mean 'bee'"):
            measure_run(settings(**with_method(class_weight={"bea": 2.0})), own, keys)
        X = own.read("test")
    assert weighted.class_weight == {1: 1e6}
    assert (weighted.predict_proba(X)[:, 1] > 2 * plain.predict_proba(X)[:, 1]).any()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"solver": "rigde"}, r"runs\.pets: solver='rigde' is not valid; expected .* Correct params\.yaml"),
        ({"smoothing": -1.0}, r"runs\.pets: smoothing=-1.0 is not valid; .* Correct params\.yaml"),
        ({"encoder": {"nheads": 3}}, r"runs\.pets: method\.encoder\.nheads is not a setting \(did you mean 'n_heads'"),
    ],
)
def test_settings_of_methods_are_checked_before_anything_is_extracted(tmp_path, method, message):
    given = ["--params", str(params_file(tmp_path, run=SETTINGS | {"method": method})), "--output", str(tmp_path)]
    with pytest.raises(ValueError, match=message):
        settings_stage.main(settings_stage.build_parser().parse_args(given))
