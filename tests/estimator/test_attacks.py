"""Malicious files cannot run code, unpack beyond their claimed size, or read beyond an array."""

import io
import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pytest
import skops.io
import torch
import yaml
from models import flat
from reliability import note
from small_cache import forge, write_small

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, read_card, save_model
from pipeline.backbones import read_weights
from pipeline.cache import open_cache
from pipeline.config import load_params
from pipeline.data import open_images, read_manifest
from pipeline.scratch import Checkpoint
from pipeline.store import EmbeddingStore

REFUSED = "is not a readable model file"


class Bomb:
    """Unpickling this object creates a file."""

    def __reduce__(self):
        return open, ("exploded", "w")


@pytest.fixture(autouse=True)
def nothing_explodes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "exploded").exists()


def model(solver="counts", **settings):
    X = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    layout = {"n_heads": 3, "n_keys": 8, "key_dim": 2, "random_state": 0}
    return flat(**layout, solver=solver, **settings).fit(X, np.arange(30) % 3)


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def claiming(shape, descr="<f4", content=b""):
    """A .npy member that claims a shape."""
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def refused(path, group):
    with pytest.raises(ValueError, match=REFUSED):
        load_model(path)
    note("attacks", group, ["refused"])


MEMBERS = {
    "a pickle among the arrays": npy(np.array([Bomb()], dtype=object)),
    "10^12 rows claimed": claiming((10**12, 8, 2)),
    "more rows than an integer holds": claiming((2**62, 2**62)),
    "a negative length": claiming((-1, 8, 2)),
    "a header that is code": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true') ",
    "a type of objects": claiming((1,), "|O", b"\0" * 8),
    "a type of records": claiming((1,), [("a", "<f4")], b"\0" * 4),
    "NaN among the keys": npy(np.full((3, 8, 2), np.nan, np.float32)),
    "keys of another shape": npy(np.zeros((3, 7, 2), np.float32)),
    "keys of integers": npy(np.zeros((3, 8, 2), np.int64)),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_model_with_a_forged_array_is_refused(tmp_path, name):
    save_model(model(), tmp_path / "m.npz")
    write(tmp_path / "m.npz", members(tmp_path / "m.npz") | {"encoder_._codebook.keys.npy": MEMBERS[name]})
    refused(tmp_path / "m.npz", f"a model: {name}")


FORGED = {
    "_learned.counts.classes": lambda a: a + 200,
    "_learned.counts.pointers": lambda a: a[::-1].copy(),
    "_learned.counts.hits": lambda a: np.zeros_like(a),
    "_learned.counts.shape": lambda a: a * 10**6,
    "_learned.labels": lambda a: a - 5,
    "_learned.hashes": lambda a: a[:-1],
    "_learned.classes": lambda a: a[::-1].copy(),
    "_learned.codes": lambda a: a + 100,
    "_learned.weights": lambda a: -a,
    "encoder_._codebook.projection": lambda a: a[:, :2],
    "encoder_._codebook.centres": lambda a: a * np.inf,
}


@pytest.mark.parametrize("name", FORGED)
def test_a_model_whose_arrays_do_not_fit_each_other_is_refused(tmp_path, name):
    save_model(model("ridge"), tmp_path / "m.npz")
    contents = members(tmp_path / "m.npz")
    array = np.load(io.BytesIO(contents[f"{name}.npy"]))
    with np.errstate(invalid="ignore"):
        write(tmp_path / "m.npz", contents | {f"{name}.npy": npy(FORGED[name](array))})
    refused(tmp_path / "m.npz", f"a model: another {name}")


@pytest.mark.parametrize("weight", [-1e304, -1.0, 1e250])
def test_counts_with_an_impossible_weight_are_refused(tmp_path, weight):
    X, y = np.random.default_rng(0).normal(size=(30, 6)), np.arange(30) % 3
    weighted = DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)).fit(X, y, sample_weight=np.full(30, 0.5))
    save_model(weighted, tmp_path / "m.npz")
    contents = members(tmp_path / "m.npz")
    array = np.load(io.BytesIO(contents["_learned.counts.weights.npy"]))
    array[0] = weight
    write(tmp_path / "m.npz", contents | {"_learned.counts.weights.npy": npy(array)})
    refused(tmp_path / "m.npz", f"a model: counts that weigh {weight:g}")


@pytest.mark.parametrize("part", ["indices", "indptr"])
def test_an_index_of_a_sparse_projection_that_points_outside_is_refused(tmp_path, part):
    save_model(model(projection="sparse"), tmp_path / "m.npz")
    contents = members(tmp_path / "m.npz")
    array = np.load(io.BytesIO(contents[f"encoder_._codebook.projection.{part}.npy"]))
    array[1] = 10**6
    write(tmp_path / "m.npz", contents | {f"encoder_._codebook.projection.{part}.npy": npy(array)})
    refused(tmp_path / "m.npz", f"a model: a sparse projection whose {part} point outside")


def test_a_sparse_projection_that_says_it_is_all_zero_and_points_on_is_refused(tmp_path):
    """SciPy checks no index if the last pointer is 0, and then reads wherever the others point."""
    save_model(model(projection="sparse"), tmp_path / "m.npz")
    contents = members(tmp_path / "m.npz")
    array = np.load(io.BytesIO(contents["encoder_._codebook.projection.indptr.npy"]))
    array[-1] = 0
    write(tmp_path / "m.npz", contents | {"encoder_._codebook.projection.indptr.npy": npy(array)})
    refused(tmp_path / "m.npz", "a model: a sparse projection that points on behind its end")


@pytest.mark.parametrize("order", "<>")
def test_a_label_of_signs_that_no_text_has_is_refused(tmp_path, order):
    """NumPy accepts any 32 bits as a character; Python raises a SystemError when it converts them to text."""
    save_model(model(), tmp_path / "m.npz")
    labels = np.array([1, 2, 0x110000], f"{order}u4").view(f"{order}U1")
    write(tmp_path / "m.npz", members(tmp_path / "m.npz") | {"_learned.classes.npy": npy(labels)})
    refused(tmp_path / "m.npz", "a model: a label that is no text")


def inside(state, part, **changes):
    """Change the description of a part, a list of names and values, in a header."""
    return state | {part: {"dict": [*state[part]["dict"], *map(list, changes.items())]}}


HEADERS = {
    "a method replaced": lambda state: state | {"predict": 3},
    "a class replaced": lambda state: state | {"__class__": "int"},
    "a parameter of another type": lambda state: state | {"smoothing": "many"},
    "an encoder with a parameter of another type": lambda state: inside(state, "encoder", n_heads="many"),
    "a fitted encoder with a parameter of another type": lambda state: inside(state, "encoder_", n_heads="many"),
    "an encoder with a method replaced": lambda state: inside(state, "encoder_", transform=3),
    "an encoder of another class": lambda state: inside(state, "encoder_", estimator="DKVBClassifier"),
    "an estimator of another class": lambda state: state | {"estimator": "Bomb"},
    "an encoder that is a number": lambda state: state | {"encoder_": 3},
    "no encoder": lambda state: {name: value for name, value in state.items() if name != "encoder_"},
    "a temperature of zero": lambda state: state | {"_temperature": 0.0},
    "an array that is not there": lambda state: state | {"encoder_": {"array": "x", "object": False}},
    "a part that is a number": lambda state: state | {"_learned": 3},
    "endless nesting": lambda state: state | {"class_weight": "@"},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_model_with_a_forged_header_is_refused(tmp_path, name):
    save_model(model(), tmp_path / "m.npz")
    contents = members(tmp_path / "m.npz")
    header = json.loads(contents["header.json"])
    header["state"] = HEADERS[name](header["state"])
    text = json.dumps(header).replace('"@"', "[" * 50_000 + "]" * 50_000)
    write(tmp_path / "m.npz", contents | {"header.json": text})
    refused(tmp_path / "m.npz", f"a model: {name}")


def test_an_archive_that_unpacks_to_more_than_deflate_can_make_is_refused_unread(tmp_path):
    save_model(model(), tmp_path / "m.npz")
    content = bytearray((tmp_path / "m.npz").read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = struct.pack("<I", 2**31)  # the claimed size of the first member
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(ValueError, match="claim to unpack to"):
        load_model(tmp_path / "m.npz")
    note("attacks", "a model: a member that claims 2 GiB", ["refused"])


def test_a_bomb_that_is_no_array_of_the_model_is_refused(tmp_path):
    save_model(model(), tmp_path / "m.npz")
    write(tmp_path / "m.npz", members(tmp_path / "m.npz") | {"z.npy": b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "m.npz", "a model: ten megabytes of zeros beside its arrays")


def test_a_member_given_twice_is_refused(tmp_path):
    save_model(model(), tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("header.json", "{}")
    refused(tmp_path / "m.npz", "a model: a member given twice")


def test_a_pickle_for_a_model_or_a_checkpoint_never_runs(tmp_path):
    (tmp_path / "m.npz").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "m.npz", "a model: a pickle")
    with Checkpoint(tmp_path, "f") as checkpoint:
        (tmp_path / "f/checkpoint.npz").write_bytes(pickle.dumps(Bomb()))
        assert checkpoint.read() is None
    note("attacks", "a training checkpoint: a pickle", ["refused"])


def test_a_card_is_read_without_believing_more(tmp_path):
    save_model(model(), tmp_path / "m.npz", {"../": "x"})
    assert read_card(tmp_path / "m.npz") == {"../": "x"}


def test_a_skops_file_with_another_type_is_refused(tmp_path):
    skops.io.dump({"model": model(), "bomb": Bomb()}, tmp_path / "m.skops")
    trusted = ["dkvb_estimator._classifier.DKVBClassifier", "dkvb_estimator._encoder.KeyEncoder"]
    with pytest.raises((TypeError, skops.io.exceptions.UntrustedTypesFoundException)):
        skops.io.load(tmp_path / "m.skops", trusted=trusted)
    note("attacks", "a skops file: another type", ["refused"])


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_weights_that_run_code_are_refused(tmp_path, how):
    path = tmp_path / "w.pth"
    if how == "torch":
        torch.save({"a": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(ValueError, match="without running code"):
        read_weights(path)
    note("attacks", f"weights: a {how} file that runs code", ["refused"])


def _reference(file):
    del file["train"]["sample_ids"]
    array = file["train"].create_dataset("sample_ids", (20,), dtype=h5py.ref_dtype)
    array[:] = file["train"]["labels"].ref


CACHES = {
    "an external link": lambda file: _relink(file, h5py.ExternalLink("/etc/passwd", "/")),
    "a soft link": lambda file: _relink(file, h5py.SoftLink("/test/labels")),
    "object references": _reference,
}


def _relink(file, link):
    del file["train"]["labels"]
    file["train"]["labels"] = link


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_points_elsewhere_is_refused(tmp_path, name):
    path = write_small(tmp_path / "c.h5")
    with h5py.File(path, "r+") as file:
        CACHES[name](file)
    with pytest.raises(OSError, match=r"damaged or incomplete"):
        open_cache(path)
    note("attacks", f"a cache: {name}", ["refused"])


def test_a_cache_that_claims_a_trillion_rows_is_refused_unread(tmp_path):
    path = write_small(tmp_path / "c.h5")

    def claim(file):
        del file["train"]["embeddings"]
        file["train"].create_dataset("embeddings", shape=(10**12, 8), dtype="<f2", chunks=(4, 8))

    with h5py.File(path, "r+") as file:
        claim(file)
    with pytest.raises(OSError, match="has shape"):
        open_cache(path)
    note("attacks", "a cache: 10^12 rows claimed", ["refused"])


def test_a_cache_signed_anew_is_still_held_to_its_own_sizes(tmp_path):
    path = write_small(tmp_path / "c.h5")
    forge(path, lambda file: file["train"].attrs.modify("block_rows", np.int64(1)))
    with pytest.raises(OSError, match="differ in length"):
        open_cache(path)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch exploded']", "!!python/name:os.system ''"])
def test_settings_that_build_objects_are_refused(tmp_path, text):
    (tmp_path / "params.yaml").write_text(f"datasets: {text}\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")
    note("attacks", "settings: an object of Python", ["refused"])


def test_settings_that_aliases_make_endless_are_refused(tmp_path):
    tables = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '1'] * 10)}]\n" for i in range(20))
    (tmp_path / "params.yaml").write_text(tables)
    assert yaml.safe_load("a: &a [1]\nb: *a\n")["b"] == [1]  # aliases themselves are fine
    with pytest.raises(ValueError, match="once its aliases are expanded"):
        load_params(tmp_path / "params.yaml")
    note("attacks", "settings: 10^20 values by aliases", ["refused"])


@pytest.mark.parametrize("escape", ["../secret.png", "/secret.png", "a/../../secret.png", "link.png"])
def test_a_manifest_cannot_name_an_image_outside_its_root(tmp_path, escape):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    if escape.startswith("/"):
        escape = str(tmp_path / "secret.png")
    head = {"dataset": "d", "recipe": {"kind": "folder", "root": str(root)}, "class_names": ["a"], "n_samples": 1}
    row = {"id": escape, "label": 0, "split": "train", "sha256": "0" * 64}
    (tmp_path / "d.jsonl").write_text(json.dumps(head) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="outside"):
        open_images(read_manifest(tmp_path / "d.jsonl"))[0]
    note("attacks", "a manifest: a path out of its folder", ["refused"])


def test_a_forged_block_of_the_store_is_done_again(tmp_path):
    images = np.arange(8, dtype=np.uint64).reshape(2, 4)
    path = EmbeddingStore(tmp_path, {}).add(images, np.ones((2, 3), np.float32), np.zeros(2))
    path.write_bytes(pickle.dumps(Bomb()))
    assert EmbeddingStore(tmp_path, {}).look_up(images).missing.tolist() == [0, 1]
    note("attacks", "a block of the store: a pickle", ["refused"])


def test_a_block_that_claims_more_than_its_file_takes_no_memory(tmp_path):
    head = struct.pack("<8sII", b"dkvbrows", 1, 2**32 - 1) + b'{"n_rows": 99999999999}'
    store = EmbeddingStore(tmp_path, {})
    store.folder.mkdir()
    (store.folder / "a.rows").write_bytes(head)
    assert store.look_up(np.zeros((1, 4), np.uint64)).missing.tolist() == [0]
    note("attacks", "a block of the store: sizes beyond its file", ["refused"])
