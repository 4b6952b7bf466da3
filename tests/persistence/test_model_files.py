"""Model files: complete, the same bytes for the same model, and unable to run code."""

import io
import json
import os
import pickle
import socket
import stat
import threading
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from models import encoder_of, flat, placed
from scipy.sparse import csr_array
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, read_card, save_model

SOLVERS = ["joint", "counts", "ridge", "sgd"]


def small(**settings):
    return flat(**({"n_heads": 3, "n_keys": 8, "key_dim": 2, "random_state": 0} | settings))


@pytest.fixture
def saved(blobs, tmp_path):
    """The path of the file of a small fitted model."""
    path = tmp_path / "model.npz"
    save_model(small().fit(*blobs), path, {"cache": "abc"})
    return path


def rewrite(path, **changes):
    """Write the archive again with some members replaced; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | changes).items():
            if content is not None:
                archive.writestr(name, content)


def header(path, **changes):
    with zipfile.ZipFile(path) as archive:
        return json.dumps(json.loads(archive.read("header.json")) | changes)


@pytest.mark.parametrize("labels", ["numbers", "text", "objects"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loaded_model_predicts_the_same(blobs, tmp_path, solver, labels):
    X, y = blobs
    y = {"numbers": y, "text": y.astype(str), "objects": y.astype(str).astype(object)}[labels]
    model = small(solver=solver).fit(X, y)
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loaded_model_learns_on_as_the_saved_one_does(blobs, tmp_path, solver):
    X, y = blobs
    model = placed(small(solver=solver), X).partial_fit(X[y < 3], y[y < 3])
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz").partial_fit(X[y > 1], y[y > 1])
    np.testing.assert_array_equal(loaded.values_, model.partial_fit(X[y > 1], y[y > 1]).values_)


def test_counters_and_mask_survive(blobs, tmp_path):
    X, y = blobs
    model = placed(small(n_keys=32), X).partial_fit(X[:10], y[:10], sample_weight=np.full(10, 0.5))
    save_model(model, tmp_path / "model.npz")
    np.testing.assert_array_equal(load_model(tmp_path / "model.npz").key_counts_, model.key_counts_)


@pytest.mark.parametrize("projection", ["gaussian", "sparse"])
def test_projection_and_keys_survive_bit_for_bit(blobs, tmp_path, projection):
    model = placed(small(projection=projection), blobs[0])
    save_model(model, tmp_path / "model.npz")
    assert encoder_of(load_model(tmp_path / "model.npz")).fingerprint_ == encoder_of(model).fingerprint_


def test_parameters_survive(blobs, tmp_path):
    model = small(class_weight={0: 2.0, 3: 0.5}, alpha=3.0, max_iter=4, normalize=False).fit(*blobs)
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    found, expected = (each.get_params() | {"encoder": type(each.encoder)} for each in (loaded, model))
    assert found == expected
    assert loaded.encoder_.get_params() == model.encoder_.get_params()


def test_a_frozen_encoder_comes_back_frozen_and_is_stored_once(blobs, tmp_path):
    X, y = blobs
    model = placed(small(), X[:50]).fit(X, y)
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert isinstance(loaded.encoder, FrozenEstimator)
    assert loaded.encoder.estimator is loaded.encoder_
    assert loaded.encoder_.fingerprint_ == model.encoder_.fingerprint_
    assert loaded.forgetting_is_exact_
    with zipfile.ZipFile(tmp_path / "model.npz") as archive:
        assert len([name for name in archive.namelist() if name.endswith("keys.npy")]) == 1


def test_a_pruned_model_keeps_its_frozen_encoder_beside_the_pruned_one(blobs, tmp_path):
    X, y = blobs
    model = placed(small(n_keys=32), X).partial_fit(X[:10], y[:10]).prune()
    save_model(model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert loaded.encoder_.fingerprint_ == model.encoder_.fingerprint_
    assert loaded.encoder.estimator.fingerprint_ == model.encoder.estimator.fingerprint_
    np.testing.assert_array_equal(loaded.fit(X, y).predict_proba(X), model.fit(X, y).predict_proba(X))


@pytest.mark.parametrize("projection", ["orthogonal", "sparse"])
def test_an_encoder_is_saved_alone_without_its_cache(blobs, tmp_path, projection):
    X, _ = blobs
    encoder = KeyEncoder(3, 8, 2, projection=projection, random_state=0, memory=str(tmp_path / "cache")).fit(X)
    save_model(encoder, tmp_path / "encoder.npz", {"rows": 240})
    loaded = load_model(tmp_path / "encoder.npz")
    assert loaded.get_params() == encoder.get_params() | {"memory": None}
    assert (loaded.fingerprint_, read_card(tmp_path / "encoder.npz")) == (encoder.fingerprint_, {"rows": 240})
    np.testing.assert_array_equal(loaded.transform(X), encoder.transform(X))


def test_a_model_of_codes_is_loaded_with_its_encoder(blobs, tmp_path):
    X, y = blobs
    codes = small().encoder.fit(X).transform(X)
    save_model(DKVBClassifier("precomputed").fit(codes, y), tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_array_equal(
        loaded.predict_proba(codes), DKVBClassifier("precomputed").fit(codes, y).predict_proba(codes)
    )
    np.testing.assert_array_equal(loaded.encoder_.transform(X), codes)


@pytest.mark.parametrize("fitted", [False, True])
def test_a_model_with_the_default_encoder_survives(blobs, tmp_path, fitted):
    X, y = blobs
    model = DKVBClassifier(random_state=3)
    save_model(model.fit(X, y) if fitted else model, tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert loaded.get_params() == model.get_params()
    assert hasattr(loaded, "encoder_") is fitted


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_model_always_gives_the_same_bytes(blobs, tmp_path, solver):
    X, y = blobs
    for name in ("a", "b"):
        model = small(solver=solver).fit(X, y)
        model.predict(X)
        save_model(model, tmp_path / name, {"z": 1, "a": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path):
    save_model(load_model(saved), tmp_path / "again", read_card(saved))
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_the_card_comes_back(saved):
    assert read_card(saved) == {"cache": "abc"}


def test_nothing_but_the_file_is_left_behind(saved):
    assert [path.name for path in saved.parent.iterdir()] == ["model.npz"]


def test_a_model_that_cannot_be_saved_leaves_the_old_file(blobs, saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError, match=r"smoothing is a longdouble, which a model file cannot hold.*expected.*Set it"):
        save_model(small(smoothing=np.longdouble(1)).fit(*blobs), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model.npz"]


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_pickled_content_is_refused_and_never_run(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    np.save(content, np.array([Bomb()], dtype=object), allow_pickle=True)
    rewrite(saved, **{"encoder_._codebook.keys.npy": content.getvalue()})
    with pytest.raises(ValueError, match=r"not a readable model file .*expected a file that save_model wrote. Restore"):
        load_model(saved)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_place_of_the_file_is_refused_and_never_run(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    saved.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a readable model file"):
        load_model(saved)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"model.npz is not a readable model file .*Restore it"):
        load_model(saved)


def outcome(path, X, expected):
    """Return the outcome of loading a damaged file: "refused", "harmless", or the unexpected error."""
    try:
        same = np.array_equal(load_model(path).predict_proba(X), expected)
    except Exception as error:
        refused = isinstance(error, ValueError) and "is not a readable model file" in str(error)
        return "refused" if refused else repr(error)
    return "harmless" if same else "another model"


def test_a_flipped_bit_is_refused_or_harmless(blobs, saved):
    X, _ = blobs
    content, expected, outcomes = saved.read_bytes(), load_model(saved).predict_proba(X), set()
    for position in np.linspace(0, len(content) - 1, 300).astype(int):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        saved.write_bytes(damaged)
        outcomes.add(outcome(saved, X, expected))
    assert outcomes <= {"refused", "harmless"}
    assert "refused" in outcomes


def test_a_foreign_archive_is_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.arange(3))
    with pytest.raises(ValueError, match=r"foreign.npz is not a readable model file .*expected a file that save_model"):
        load_model(tmp_path / "foreign.npz")


def test_another_format_is_refused(saved):
    rewrite(saved, **{"header.json": header(saved, format="other")})
    with pytest.raises(ValueError, match="header does not name the format dkvb-model"):
        load_model(saved)


def test_a_newer_version_is_refused_by_number(saved):
    rewrite(saved, **{"header.json": header(saved, version=3)})
    with pytest.raises(ValueError, match="has version 3; expected 1 or 2, which this release reads"):
        load_model(saved)


@pytest.mark.parametrize("state", [None, [], {"keys_": {"array": "gone", "object": False}}, {"classes_": {}}])
def test_a_header_that_does_not_describe_a_model_is_refused(saved, state):
    rewrite(saved, **{"header.json": header(saved, state=state)})
    with pytest.raises(ValueError, match="not a readable model file"):
        load_model(saved)


def test_a_file_without_one_of_its_arrays_is_refused(saved):
    rewrite(saved, **{"encoder_._codebook.keys.npy": None})
    with pytest.raises(ValueError, match="not a readable model file"):
        load_model(saved)


def test_a_missing_file_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.npz"):
        load_model(tmp_path / "nowhere.npz")


def test_a_model_written_by_version_one_is_read_for_ever():
    path = Path(__file__).parents[1] / "data" / "model_v1.npz"
    model, card = load_model(path), read_card(path)
    expected = np.array(["ant", "bee", "cow"])[np.argmax(card["predict_proba"], axis=1)]
    np.testing.assert_array_equal(model.predict(card["X"]), expected)  # the formula of probabilities has changed
    np.testing.assert_allclose(model.predict_proba(card["X"]).sum(axis=1), np.ones(5))
    assert encoder_of(model).fingerprint_ == card["fingerprint"]
    assert model.partial_fit(card["X"], ["dog"] * 5).classes_.tolist() == ["ant", "bee", "cow", "dog"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_joblib_predicts_the_same(blobs, tmp_path, solver):
    X, y = blobs
    model = small(solver=solver).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_skops_needs_to_trust_no_class_but_the_two_estimators(blobs, tmp_path, solver):
    X, y = blobs
    model = small(solver=solver).fit(X, y, sample_weight=1 + np.arange(240) % 2)
    skops.io.dump(model, tmp_path / "model.skops")
    untrusted = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert untrusted == ["dkvb_estimator._classifier.DKVBClassifier", "dkvb_estimator._encoder.KeyEncoder"]
    loaded = skops.io.load(tmp_path / "model.skops", trusted=untrusted)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_stored_state_is_numpy_and_plain_values(blobs, solver):
    plain = (np.ndarray, csr_array, str, int, float, bool, type(None), np.generic)

    def kinds(value):
        if isinstance(value, KeyEncoder):
            return kinds(value.__getstate__())
        if isinstance(value, dict):
            return set().union(*map(kinds, value.values()))
        if isinstance(value, list | tuple):
            return set().union(*map(kinds, value)) if value else set()
        return set() if isinstance(value, plain) else {type(value)}

    assert kinds(small(solver=solver).fit(*blobs).__getstate__()) == set()


def test_a_pipe_is_written_into(blobs, saved, tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    model = load_model(saved)
    save_model(model, pipe)
    reader.join(20)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "read.npz").write_bytes(read[0])
    np.testing.assert_array_equal(
        load_model(tmp_path / "read.npz").predict_proba(blobs[0]), model.predict_proba(blobs[0])
    )


@pytest.mark.parametrize("name", ["null", "full"])
def test_a_device_stays_a_device(saved, name):
    device, before = Path("/dev", name), Path("/dev", name).stat()
    if name == "null":
        save_model(load_model(saved), device)
    else:
        with pytest.raises(OSError, match="No space left on device"):
            save_model(load_model(saved), device)
    assert (stat.S_ISCHR(device.stat().st_mode), device.stat().st_rdev) == (True, before.st_rdev)


def test_a_socket_is_refused_and_stays(saved, tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="No such device or address"):
            save_model(load_model(saved), tmp_path / "s")
    assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "s"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_is_followed(blobs, saved, tmp_path, there, relative):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target.npz", tmp_path / "link.npz"
    if there:
        target.write_bytes(b"old")
    middle = tmp_path / "middle.npz"
    middle.symlink_to("folder/target.npz" if relative else target)
    link.symlink_to(middle)
    save_model(load_model(saved), link)
    assert link.is_symlink()
    assert middle.is_symlink()
    np.testing.assert_array_equal(encoder_of(load_model(target)).keys_, encoder_of(load_model(saved)).keys_)
    assert [path.name for path in target.parent.iterdir()] == ["target.npz"]


def test_links_in_a_circle_are_refused_and_stay(saved, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    with pytest.raises(OSError, match="symbolic links"):
        save_model(load_model(saved), one)
    assert one.is_symlink()
    assert other.is_symlink()


def test_a_folder_is_refused_and_stays(saved, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        save_model(load_model(saved), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "model.npz"]


def test_what_could_not_be_read_back_is_not_written_over_what_can(blobs, saved):
    before, model = saved.read_bytes(), small().fit(*blobs)
    model._learned.classes = np.array(["2020-01-01"] * 5, dtype="datetime64[D]")
    with pytest.raises(ValueError, match=r"classes is datetime64\[D\]"):
        save_model(model, saved)
    assert saved.read_bytes() == before


def test_names_of_features_that_a_file_would_cut_are_refused(blobs, saved):
    X, y = blobs
    before, model = saved.read_bytes(), small().fit(pd.DataFrame(X, columns=[f"c{i}\0" for i in range(12)]), y)
    with pytest.raises(TypeError, match=r"feature_names_in_ holds text that ends in NUL.*expected .*Remove the NUL"):
        save_model(model, saved)
    assert saved.read_bytes() == before


def test_a_random_generator_is_saved_as_the_seed_that_it_gave(blobs, tmp_path):
    X, y = blobs
    encoder = KeyEncoder(3, 8, 2, random_state=np.random.RandomState(3))
    for model in (
        DKVBClassifier(encoder, random_state=np.random.RandomState(4)),
        DKVBClassifier(FrozenEstimator(encoder.fit(X))),
    ):
        save_model(model.fit(X, y), tmp_path / "model.npz")
        read = load_model(tmp_path / "model.npz")
        np.testing.assert_array_equal(read.predict_proba(X), model.predict_proba(X))
        again = KeyEncoder(3, 8, 2, random_state=read.encoder_.random_state)
        assert isinstance(again.random_state, int)
        assert read.random_state is None


def test_a_folder_given_as_a_path_is_saved(blobs, tmp_path):
    save_model(small(codes_dir=tmp_path).fit(*blobs), tmp_path / "model.npz")
    assert load_model(tmp_path / "model.npz").codes_dir == str(tmp_path)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_memory_mapped_copy_predicts_without_a_warning(blobs, tmp_path, solver):
    X, y = blobs
    for remember in (True, False) if solver == "joint" else (True,):
        model = small(solver=solver, remember=remember).fit(X, y)
        joblib.dump(model, tmp_path / "model.joblib")
        read = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
        np.testing.assert_array_equal(read.predict_proba(X), model.predict_proba(X))
