"""Fuzz the readers of files: each target takes bytes, and raises ``Finding`` if a reader breaks its promise.

Enters: bytes. Leaves: nothing. Must not know: which fuzzer calls.

The promise: whatever a reader does not refuse with its documented exception is intact and usable.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
from fuzz import Finding
from pipeline.cache import CacheHeader, SplitRows, open_cache, write_cache
from pipeline.config import load_params
from pipeline.data import build_manifest, read_manifest, remarks, write_manifest

ROOT = Path(__file__).parents[1]
N_FEATURES = 6


class _Scratch:
    """One file that is rewritten for each input, in memory if the machine has such a folder."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None)

    def write(self, name: str, content: bytes) -> Path:
        path = Path(self._folder.name) / name
        path.write_bytes(content)
        return path

    def make(self, name: str, write: Callable[[Path], None]) -> bytes:
        path = Path(self._folder.name) / name
        write(path)
        return path.read_bytes()


SCRATCH = _Scratch()


def _rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(24, N_FEATURES)).astype(np.float32)


# A cache: bytes 1… are either a whole file, or changes to a valid one.


def small_cache() -> bytes:
    """Return the bytes of a small valid cache of two splits."""
    header = CacheHeader("f" * 64, {"id": "b"}, {"side": 8}, "avgpool", "float32", "float32", "m" * 64, "d", ("a", "b"))
    X, labels = _rows(), np.arange(24) % 2
    splits = {"train": SplitRows([X], labels, [f"{i}" for i in range(24)])}
    splits["test"] = SplitRows([X[:5]], labels[:5], [f"t{i}" for i in range(5)])
    return SCRATCH.make("whole.h5", lambda path: write_cache(path, header, splits))


_CACHES: dict[str, object] = {}


def _cache_base() -> tuple[bytes, object]:
    if not _CACHES:
        _CACHES["bytes"] = small_cache()
        _CACHES["content"] = _cache_content(SCRATCH.write("input.h5", _CACHES["bytes"]))  # type: ignore[arg-type]
    return _CACHES["bytes"], _CACHES["content"]  # type: ignore[return-value]


def _cache_content(path: Path) -> object:
    with open_cache(path) as reader:
        names = reader.split_names
        arrays = {name: (reader.read(name), reader.labels(name), reader.sample_ids(name)) for name in names}
        if not all(len(X) == len(y) == len(ids) for X, y, ids in arrays.values()):
            raise Finding("a cache is read although its arrays differ in length")
        return reader.header, {name: (X.tobytes(), y.tobytes(), ids) for name, (X, y, ids) in arrays.items()}


def patched(whole: bytes, patches: bytes) -> bytes:
    """Change a file by repeated records of a position (three bytes) and a new value; an odd rest truncates the file."""
    damaged = bytearray(whole)
    for start in range(0, len(patches) - 3, 4):
        place, value = int.from_bytes(patches[start : start + 3], "little"), patches[start + 3]
        damaged[place % len(damaged)] = value
    return bytes(damaged[: len(damaged) * patches[-1] // 256] if len(patches) % 4 == 3 else damaged)


def fuzz_cache(data: bytes) -> None:
    """Check that a cache is refused with OSError or ValueError, or holds what was written."""
    whole, content = _cache_base()
    is_patch = not data.startswith(b"\x89HDF")
    path = SCRATCH.write("input.h5", patched(whole, data) if is_patch else data)
    try:
        read = _cache_content(path)
    except (OSError, ValueError, MemoryError):
        return
    if is_patch and read != content:
        raise Finding("a changed cache is read without an error, and its content differs")


# A model: a zip archive, or patches of one member of a small one, so that the archive's checksums do not hide it.


def small_models() -> list[bytes]:
    """Return small model files: each solver, weights, a sparse projection, pruned, only sums, learned from codes.

    The last two are an encoder alone, and a model that an earlier release wrote.
    """
    X, y = _rows(), np.arange(24) % 3
    models = [
        DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0), solver=solver).fit(X, y)
        for solver in ("counts", "joint", "sgd")
    ]
    models.append(
        DKVBClassifier(KeyEncoder(3, 8, 2, projection="sparse", random_state=0)).fit(
            X, y.astype(str), np.arange(1, 25.0)
        )
    )
    encoder, larger = (KeyEncoder(3, n_keys, 2, random_state=0).fit(X) for n_keys in (8, 20))
    models.append(DKVBClassifier(FrozenEstimator(larger)).partial_fit(X[:4], y[:4]).prune())
    models.append(DKVBClassifier(FrozenEstimator(encoder), remember=False).partial_fit(X, y))
    models.append(DKVBClassifier("precomputed").fit(encoder.transform(X), y))
    files = [
        SCRATCH.make("whole.npz", lambda path, model=model: save_model(model, path, compress=False))
        for model in [*models, encoder]
    ]
    return [*files, (ROOT / "tests/data/model_v1.npz").read_bytes()]


_MODELS: list[dict[str, bytes]] = []


def _model_members() -> list[dict[str, bytes]]:
    if not _MODELS:
        for content in small_models():
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _MODELS.append({name: archive.read(name) for name in archive.namelist()})
    return _MODELS


def _archive(data: bytes) -> bytes:
    """Build an archive with a changed member: bytes select the model, the member, the kind of change, the content."""
    members = dict(_model_members()[data[0] % len(_model_members())])
    name = sorted(members)[data[1] % len(members)]
    members[name] = data[3:] if data[2] % 4 == 3 else patched(members[name], data[3:])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return buffer.getvalue()


def fuzz_model(data: bytes) -> None:
    """Check that a model is refused with ValueError, or can be saved, predicts finite numbers and learns more."""
    if len(data) < 4:
        return
    path = SCRATCH.write("input.npz", data if data.startswith(b"PK") else _archive(data))
    try:
        model = load_model(path)
    except ValueError as error:
        if "is not a readable model file" not in str(error):
            raise Finding(f"the message is not the expected one: {error}") from error
        return
    save_model(model, SCRATCH.write("again.npz", b""), compress=False)
    if isinstance(model, KeyEncoder):
        if hasattr(model, "keys_") and model.n_features_in_ < 1000:
            _encode(model)
        return
    if not hasattr(model, "classes_") or not len(model.classes_) or model.n_features_in_ >= 1000:
        return
    try:
        _use(model)
    except ValueError as error:  # settings that disagree with the keys are refused when they are used
        if "expected" not in str(error):
            raise


def _use(model: DKVBClassifier) -> None:
    X = np.resize(_rows(), (5, model.n_features_in_))
    if model.encoder == "precomputed":
        X = np.zeros(X.shape, dtype=np.uint8)
    model.set_params(device="cpu")  # a device named in the file is checked against this machine only when it is used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not np.isfinite(model.predict_proba(X)).all():
            raise Finding("a loaded model predicts NaN")
        model.partial_fit(X, np.resize(model.classes_, 5))


def _encode(encoder: KeyEncoder) -> None:
    X = np.resize(_rows(), (5, encoder.n_features_in_))
    try:
        codes = encoder.set_params(device="cpu").transform(X)
    except ValueError as error:
        if "expected" not in str(error):
            raise
        return
    if codes.max() >= encoder.keys_.shape[1]:
        raise Finding("a loaded encoder returns a code of a key that it does not have")


# Settings.


def fuzz_params(data: bytes) -> None:
    """Check that settings are refused with a one-sentence ValueError, or that every reference is valid."""
    path = SCRATCH.write("params.yaml", data)
    try:
        params = load_params(path)
    except ValueError as error:
        if len(str(error)) < 20:
            raise Finding(f"the message is too short: {error}") from error
        return
    for run in params.runs.values():
        params.embedding_of(run)


# A list of images.


def fuzz_manifest(data: bytes) -> None:
    """Check that a manifest is refused with ValueError, or is the same when written again, and can be described."""
    try:
        manifest = read_manifest(SCRATCH.write("manifest.jsonl", data))
    except ValueError as error:
        if "is damaged" not in str(error):
            raise Finding(f"the message is not the expected one: {error}") from error
        return
    again = SCRATCH.write("again.jsonl", b"")
    write_manifest(manifest, again)
    if read_manifest(again).sha256 != manifest.sha256:
        raise Finding("a manifest differs after it is written again")
    remarks(manifest)


def _patches() -> Iterator[bytes]:
    for place, value in itertools.product((0, 9, 500, 900, 2000), (0, 255)):
        yield struct.pack("<I", place)[:3] + bytes([value])
    yield b"\x00\x00\x80"


def cache_seeds() -> list[bytes]:
    """Return a valid cache and some patches."""
    return [small_cache(), *_patches()]


def model_seeds() -> list[bytes]:
    """Return valid models, patches of their members, and members of other kinds."""
    odd = [
        json.dumps({"format": "dkvb-model", "version": 1, "card": {}, "state": {}}).encode(),
        b"\x93NUMPY\x01\x00v\x00",
    ]
    places = [bytes([model, member, 0]) for model in range(8) for member in range(0, 14, 3)]
    return [
        *small_models(),
        *(place + patch for place, patch in zip(places, itertools.cycle(_patches()))),
        b"\0\5\3" + odd[0],
    ]


def params_seeds() -> list[bytes]:
    """Return the shipped settings, parts of them, and forms of YAML that settings do not use."""
    shipped = (ROOT / "params.yaml").read_bytes()
    pieces = [b"a: &x [1]\nb: *x\n", b"!!python/object:os.system {}\n", b"? [1]\n: 2\n", b"runs:\n  a: {<<: {b: 1}}\n"]
    return [shipped, *(line + b"\n" for line in shipped.split(b"\n\n") if len(line) < 800), *pieces]


def manifest_seeds() -> list[bytes]:
    """Return manifests: a small one, a truncated one, one with one image, one with none, and other kinds of lines."""
    manifest = build_manifest("photos", {"kind": "photos", "n_crops": 2, "seed": 0})
    whole = SCRATCH.make("manifest.jsonl", lambda path: write_manifest(manifest, path))
    header, row, _ = whole.splitlines()
    empty, one = (header.replace(b'"n_samples": 2', b'"n_samples": %d' % n) for n in (0, 1))
    odd = [
        b"{}",
        b"[]",
        b"1",
        b'{"n_samples": 0}',
        b'{"n_samples": 1e999}',
        b"[" * 50,
        header.replace(b"[", b"[null, "),
    ]
    return [whole, whole[:-9], empty, b"\n".join([one, row]), *odd]
