import json

import numpy as np
import pytest
import yaml
from models import encoder_of

from dkvb_estimator import DKVBClassifier, load_model
from pipeline.cache import CacheHeader, SplitRows, open_cache, write_cache
from pipeline.config import Run
from pipeline.stages import train as stage

CENTRES = np.random.default_rng(7).normal(size=(4, 24)).astype(np.float32)


def header(dataset, backbone="tiny"):
    return CacheHeader(
        fingerprint="f" * 64,
        backbone={"id": backbone, "weights_sha256": "w" * 64},
        preprocessing={"side": 8},
        tap="avgpool",
        compute_dtype="float32",
        storage_dtype="float32",
        manifest_sha256="m" * 64,
        dataset=dataset,
        class_names=("ant", "bee", "cat", "dog"),
    )


def split(n, seed, labelled=True):
    rng, y = np.random.default_rng(seed), np.arange(n) % 4
    X = (CENTRES[y] + 0.2 * rng.normal(size=(n, 24))).astype(np.float32)
    ids = [f"{seed}-{i}" for i in range(n)]
    return SplitRows(blocks=[X], labels=y if labelled else np.full(n, -1), sample_ids=ids)


def write_two_caches(folder):
    write_cache(folder / "own.h5", header("pets"), {"train": split(80, 0), "test": split(40, 1)})
    write_cache(folder / "keys.h5", header("noise"), {"train": split(60, 2, labelled=False)})
    return folder / "own.h5", folder / "keys.h5"


SETTINGS = {
    "embeddings": "own",
    "keys": "keys",
    "stream": {"kind": "class_incremental", "classes_per_stage": 2, "order_seeds": [0, 1], "batch_rows": 16},
    "estimator": {"n_heads": 8, "n_keys": 16, "key_dim": 4, "random_state": 0},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_two_caches(tmp_path_factory.mktemp("caches"))


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))


@pytest.fixture
def readers(paths):
    with open_cache(paths[0]) as own, open_cache(paths[1]) as keys:
        yield own, keys


def settings(**changes):
    return Run.model_validate(SETTINGS | changes)


def command(folder, paths, name="pets", run=SETTINGS):
    (folder / "params.yaml").write_text(
        yaml.safe_dump(
            {
                "datasets": {"d": {"kind": "photos", "n_crops": 1, "seed": 0}},
                "embeddings": {
                    entry: {
                        "dataset": "d",
                        "backbone": "tiny",
                        "tap": "avgpool",
                        "image_side": 8,
                        "compute_dtype": "float32",
                        "storage_dtype": "float32",
                    }
                    for entry in ("own", "keys")
                },
                "rivals": {"pets": {key: SETTINGS[key] for key in ("embeddings", "keys", "stream")}},
                "runs": {"pets": run},
            }
        )
    )
    return [
        name,
        *("--params", str(folder / "params.yaml")),
        *("--cache", str(paths[0])),
        *("--key-cache", str(paths[1])),
        *("--metrics", str(folder / "metrics.json")),
        *("--timings", str(folder / "timings.json")),
    ]


def run_stage(folder, paths, **changes):
    argv = [*command(folder, paths, **changes), "--model", str(folder / "models/pets.npz")]
    return stage.console.run(stage.main, stage.build_parser(), argv)


def test_learns_the_stream_and_says_what_it_found(readers):
    model, metrics, seconds = stage.train(settings(), *readers)
    assert metrics["n_samples"] == 80
    assert metrics["n_classes"] == 4
    assert metrics["accuracy"] > 0.9
    assert 0 <= metrics["unused_keys"] <= 1
    assert 0 < metrics["used_keys_after_training"] <= 1
    assert metrics["key_fingerprint"] == encoder_of(model).fingerprint_
    assert set(seconds) == {"keys", "encode", "learn", "predict"}


def test_batches_of_another_length_teach_the_same(readers):
    stream = SETTINGS["stream"] | {"batch_rows": 7}
    one, _, _ = stage.train(settings(), *readers)
    other, _, _ = stage.train(settings(stream=stream), *readers)
    np.testing.assert_array_equal(one.values_, other.values_)


def test_several_epochs_count_each_sample_once(readers):
    estimator = SETTINGS["estimator"] | {"solver": "sgd", "learning_rate": 30.0}
    one, _, _ = stage.train(settings(estimator=estimator), *readers)
    more, metrics, _ = stage.train(settings(estimator=estimator, epochs_per_stage=5), *readers)
    np.testing.assert_array_equal(one.key_counts_, more.key_counts_)
    assert not np.array_equal(one.values_, more.values_)
    assert metrics["accuracy"] > 0.9


def test_declared_classes_are_known_before_they_come(readers):
    seen = []

    def note(self, X, y, classes=None, **rest):
        seen.append(classes)
        return original(self, X, y, classes=classes, **rest)

    with pytest.MonkeyPatch.context() as patch:
        original = stage.DKVBClassifier.partial_fit
        patch.setattr(stage.DKVBClassifier, "partial_fit", note)
        stage.train(settings(declare_classes=True), *readers)
        assert all(classes.tolist() == [0, 1, 2, 3] for classes in seen)
        seen.clear()
        stage.train(settings(), *readers)
        assert all(classes is None for classes in seen)


def test_keys_may_come_from_the_first_stage_alone(readers):
    own, _ = readers
    from_all, _, _ = stage.train(settings(keys="own"), own, own)
    from_first, metrics, _ = stage.train(settings(keys="own", key_rows="first_stage"), own, own)
    assert encoder_of(from_first).fingerprint_ != encoder_of(from_all).fingerprint_
    assert metrics["n_samples"] == 80


def test_run_without_labels_is_refused(readers):
    with pytest.raises(ValueError, match="none of 60 training rows carries a label"):
        stage.train(settings(), readers[1], readers[1])


def test_accuracy_is_empty_without_a_test_split(tmp_path, readers):
    write_cache(tmp_path / "c.h5", header("pets"), {"train": split(16, 0)})
    with open_cache(tmp_path / "c.h5") as own:
        assert stage.train(settings(), own, readers[1])[1]["accuracy"] is None


def test_command_writes_model_metrics_and_seconds(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    model = load_model(tmp_path / "models/pets.npz")
    with open_cache(paths[0]) as own:
        X, y = own.as_numpy("test")
    assert round(float((model.predict(X) == y).mean()), 6) == metrics["accuracy"]
    assert set(json.loads((tmp_path / "timings.json").read_text())) == {"keys", "encode", "learn", "predict"}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "80 samples" in captured.err


def test_two_runs_give_the_same_bytes(tmp_path, paths):
    results = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert run_stage(tmp_path / name, paths) == 0
        results.append([(tmp_path / name / file).read_bytes() for file in ("models/pets.npz", "metrics.json")])
    assert results[0] == results[1]


@pytest.mark.parametrize("solver", ["counts", "ridge", "sgd"])
def test_a_training_that_broke_off_goes_on_after_its_last_stage_to_the_same_model(
    readers, tmp_path, monkeypatch, capsys, solver
):
    run = settings(
        estimator=SETTINGS["estimator"] | {"solver": solver}, stream=SETTINGS["stream"] | {"classes_per_stage": 1}
    )
    whole, metrics, _ = stage.train(run, *readers)
    learned, learn = [], stage.learn_codes

    def break_off(model, codes, y, **settings):
        learned.append(tuple(np.unique(y)))
        if len(learned) == 3:
            raise KeyboardInterrupt
        learn(model, codes, y, **settings)

    monkeypatch.setattr(stage, "learn_codes", break_off)
    with stage.Checkpoint(tmp_path, "f") as checkpoint, pytest.raises(KeyboardInterrupt):
        stage.train(run, *readers, checkpoint=checkpoint)
    with stage.Checkpoint(tmp_path, "f") as checkpoint:
        model, again, _ = stage.train(run, *readers, checkpoint=checkpoint)
    assert learned == [(0,), (1,), (2,), (2,), (3,)]
    assert "going on after stage 2" in capsys.readouterr().err
    assert again == metrics
    np.testing.assert_array_equal(model.values_, whole.values_)


def test_a_finished_training_leaves_no_checkpoint_but_the_codes_it_made(tmp_path, paths):
    assert run_stage(tmp_path, paths) == 0
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["codes"]


def test_no_row_is_encoded_twice_by_the_same_keys(tmp_path, readers, monkeypatch):
    encoded, encode = [], DKVBClassifier.encode

    def count(model, X):
        encoded.append(len(X))
        return encode(model, X)

    monkeypatch.setattr(DKVBClassifier, "encode", count)
    first, _, _ = stage.train(settings(), *readers, scratch=tmp_path)
    again, _, _ = stage.train(settings(epochs_per_stage=2), *readers, scratch=tmp_path)
    assert sum(encoded) == readers[0].n_rows("train")
    np.testing.assert_array_equal(encoder_of(first).keys_, encoder_of(again).keys_)
    stage.train(settings(estimator=SETTINGS["estimator"] | {"n_selected": 2}), *readers, scratch=tmp_path)
    assert sum(encoded) == 2 * readers[0].n_rows("train")


@pytest.mark.parametrize("change", [{"epochs_per_stage": 2}, {"declare_classes": True}])
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
    assert load_model(tmp_path / "models/pets.npz").device == "auto"


def test_unknown_run_is_one_sentence(tmp_path, paths, capsys):
    assert run_stage(tmp_path, paths, name="pet") == 1
    err = capsys.readouterr().err
    assert "'pet' is not an entry of runs, did you mean 'pets'?" in err
    assert "Traceback" not in err


def test_unknown_estimator_setting_is_one_sentence(tmp_path, paths, capsys):
    run = SETTINGS | {"estimator": {"n_head": 3}}
    assert run_stage(tmp_path, paths, run=run) == 1
    assert "'n_head' is not an estimator setting, did you mean 'n_heads'?" in capsys.readouterr().err
