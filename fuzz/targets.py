"""What is fuzzed: each target takes bytes, and raises ``Finding`` (or anything else) where a promise is broken.

Enters: bytes. Leaves: nothing. Must not know: which fuzzer calls.

A promise is: what a reader does not refuse with its documented exception is whole, and can be used.
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
from unittest.mock import patch

import numpy as np

from dkvb_estimator import DKVBClassifier, _native, load_model, save_model
from pipeline.cache import CacheHeader, SplitRows, open_cache, write_cache
from pipeline.params import load_params

ROOT = Path(__file__).parents[1]
CORPUS = Path(__file__).parent / "corpus"
N_FEATURES = 6


class Finding(AssertionError):
    """A promise that an input breaks."""


class _Scratch:
    """One file in memory, where the machine has such a folder, rewritten for each input."""

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


# A cache: bytes 1… are either a whole file, or places to change in a whole one.


def small_cache() -> bytes:
    """Return the bytes of a small whole cache of two splits."""
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
            raise Finding("a cache was read whose arrays differ in length")
        return reader.header, {name: (X.tobytes(), y.tobytes(), ids) for name, (X, y, ids) in arrays.items()}


def patched(whole: bytes, patches: bytes) -> bytes:
    """Change a file: three bytes of place and one of new value, again and again; an odd rest cuts the file."""
    damaged = bytearray(whole)
    for start in range(0, len(patches) - 3, 4):
        place, value = int.from_bytes(patches[start : start + 3], "little"), patches[start + 3]
        damaged[place % len(damaged)] = value
    return bytes(damaged[: len(damaged) * patches[-1] // 256] if len(patches) % 4 == 3 else damaged)


def fuzz_cache(data: bytes) -> None:
    """Demand that a cache is refused with OSError or ValueError, or holds what was written."""
    whole, content = _cache_base()
    is_patch = not data.startswith(b"\x89HDF")
    path = SCRATCH.write("input.h5", patched(whole, data) if is_patch else data)
    try:
        read = _cache_content(path)
    except (OSError, ValueError, MemoryError):
        return
    if is_patch and read != content:
        raise Finding("a changed cache was read without a word, and holds something else")


# A model: a zip archive, or patches of one member of a small one, so that the archive's checksums do not hide it.


def small_models() -> list[bytes]:
    """Return the files of small fitted models: each solver, weights, a sparse projection, pruned."""
    X, y = _rows(), np.arange(24) % 3
    models = [DKVBClassifier(3, 8, 2, solver=solver, random_state=0).fit(X, y) for solver in ("counts", "ridge", "sgd")]
    models.append(
        DKVBClassifier(3, 8, 2, projection="sparse", random_state=0).fit(X, y.astype(str), np.arange(1, 25.0))
    )
    models.append(DKVBClassifier(3, 20, 2, random_state=0).init_keys(X).partial_fit(X[:4], y[:4]).prune())
    return [
        SCRATCH.make("whole.npz", lambda path, model=model: save_model(model, path, compress=False)) for model in models
    ]


_MODELS: list[dict[str, bytes]] = []


def _model_members() -> list[dict[str, bytes]]:
    if not _MODELS:
        for content in small_models():
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _MODELS.append({name: archive.read(name) for name in archive.namelist()})
    return _MODELS


def _archive(data: bytes) -> bytes:
    """Build an archive around a changed member: which model, which member, how, then what."""
    members = dict(_model_members()[data[0] % len(_model_members())])
    name = sorted(members)[data[1] % len(members)]
    members[name] = data[3:] if data[2] % 4 == 3 else patched(members[name], data[3:])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return buffer.getvalue()


def fuzz_model(data: bytes) -> None:
    """Demand that a model is refused with ValueError, or saves itself again, predicts finite numbers and learns on."""
    if len(data) < 4:
        return
    path = SCRATCH.write("input.npz", data if data.startswith(b"PK") else _archive(data))
    try:
        model = load_model(path)
    except ValueError as error:
        if "is not a readable model file" not in str(error):
            raise Finding(f"refused in other words: {error}") from error
        return
    save_model(model, SCRATCH.write("again.npz", b""), compress=False)
    if not hasattr(model, "classes_") or not len(model.classes_) or model.n_features_in_ >= 1000:
        return
    try:
        _use(model)
    except ValueError as error:  # a setting that disagrees with the keys, as set_params can make it, is refused in use
        if "expected" not in str(error):
            raise


def _use(model: DKVBClassifier) -> None:
    X = np.resize(_rows(), (5, model.n_features_in_))
    model.set_params(device="cpu")  # what the file says is checked against this machine when it is used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not np.isfinite(model.predict_proba(X)).all():
            raise Finding("a loaded model predicts NaN")
        model.partial_fit(X, np.resize(model.classes_, 5))


# Settings.


def fuzz_params(data: bytes) -> None:
    """Demand that settings are refused with ValueError in a sentence, or every reference holds."""
    path = SCRATCH.write("params.yaml", data)
    try:
        params = load_params(path)
    except ValueError as error:
        if len(str(error)) < 20:
            raise Finding(f"refused in few words: {error}") from error
        return
    for run in params.runs.values():
        params.embedding_of(run)


# The kernel.


def fuzz_kernel(data: bytes) -> None:
    """Demand that codes are keys that are there, distinct, and no other is nearer by more than rounding."""
    if _native.KERNEL is None or len(data) < 12:
        return
    n, heads, keys, dim, selected, threads, shape = struct.unpack("<7B", data[:7])
    sizes = 1 + n % 40, 1 + heads % 5, 1 + keys, 1 + dim % 20
    n_selected = min(1 + selected % 16, sizes[2])
    rows, centred, halves, centres = _kernel_arrays(data[7:], *sizes, scale=10.0 ** (shape % 37 - 18))
    native = _native.NativeKeys(_native.KERNEL, centred, halves, centres)
    codes = native.nearest(rows, n_selected, 1 + threads % 3)
    if n_selected == 1:
        _check_boxes(native, rows, codes)
    if codes.max(initial=0) >= sizes[2]:
        raise Finding(f"code {codes.max()} of {sizes[2]} keys")
    ordered = np.sort(codes, axis=2)
    if n_selected > 1 and (np.diff(ordered.astype(np.int64), axis=2) == 0).any():
        raise Finding("one key was selected twice")
    _check_nearness(rows - centres, centred, halves, codes)


def _check_boxes(native: _native.NativeKeys, rows: np.ndarray, codes: np.ndarray) -> None:
    """Demand the same codes of a search in boxes, were they worth drawing or not."""
    with patch.object(_native, "MIN_BOXES", 1), patch.object(_native, "MAX_LOOKED_INTO", 1):
        boxes = native._boxed
    if boxes is None:
        return
    with patch.object(native, "_boxes_for", lambda n_rows, n_selected: boxes):
        if not np.array_equal(native.nearest(rows, 1, 1), codes):
            raise Finding("a search in boxes gives other codes than a scan")


def _kernel_arrays(
    data: bytes, n: int, heads: int, keys: int, dim: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw arrays that repeat a few of the input's own numbers: ties, zeros, huge and tiny ones."""
    few = np.frombuffer(data[: len(data) // 4 * 4], dtype=np.float32)
    few = np.where(np.isfinite(few), few, 0).clip(-1e18, 1e18)
    rng = np.random.default_rng(list(data[:8]))
    pool = np.concatenate([few, rng.normal(size=8) * scale, [0]]).astype(np.float32)
    rows = rng.choice(pool, size=(n, heads, dim))
    centred = rng.choice(pool, size=(heads, keys, dim))
    halves = (np.square(centred, dtype=np.float64).sum(axis=2) / 2).astype(np.float32)
    halves[rng.random(halves.shape) < 0.2 * (data[0] % 2)] = np.inf
    return rows, centred, halves, rng.choice(pool, size=(heads, dim))


def _check_nearness(rows: np.ndarray, keys: np.ndarray, halves: np.ndarray, codes: np.ndarray) -> None:
    scores = halves.astype(np.float64) - np.einsum("ncd,cjd->ncj", rows.astype(np.float64), keys.astype(np.float64))
    sizes = np.einsum("ncd,cjd->ncj", np.abs(rows, dtype=np.float64), np.abs(keys, dtype=np.float64))
    sizes = sizes + np.where(np.isinf(halves), 0, halves).astype(np.float64)
    slack = 1e-6 * (1 + keys.shape[2]) * sizes.max(axis=2, keepdims=True) + 1e-37
    found = np.take_along_axis(scores, codes.astype(np.int64), axis=2)
    best = np.sort(scores, axis=2)[:, :, : codes.shape[2]]
    usable = np.isfinite(best)
    if (np.isfinite(found) != usable).any() or (
        (found - best)[usable] > np.broadcast_to(slack, best.shape)[usable]
    ).any():
        raise Finding("a nearer key was passed over")


def _patches() -> Iterator[bytes]:
    for place, value in itertools.product((0, 9, 500, 900, 2000), (0, 255)):
        yield struct.pack("<I", place)[:3] + bytes([value])
    yield b"\x00\x00\x80"


def cache_seeds() -> list[bytes]:
    """Return a whole cache and some patches."""
    return [small_cache(), *_patches()]


def model_seeds() -> list[bytes]:
    """Return whole models, patches of their members, and members of other kinds."""
    odd = [
        json.dumps({"format": "dkvb-model", "version": 1, "card": {}, "state": {}}).encode(),
        b"\x93NUMPY\x01\x00v\x00",
    ]
    places = [bytes([model, member, 0]) for model in range(5) for member in range(0, 14, 3)]
    return [
        *small_models(),
        *(place + patch for place, patch in zip(places, itertools.cycle(_patches()))),
        b"\0\5\3" + odd[0],
    ]


def params_seeds() -> list[bytes]:
    """Return the shipped settings, pieces of them, and forms of YAML that settings do not use."""
    shipped = (ROOT / "params.yaml").read_bytes()
    pieces = [b"a: &x [1]\nb: *x\n", b"!!python/object:os.system {}\n", b"? [1]\n: 2\n", b"runs:\n  a: {<<: {b: 1}}\n"]
    return [shipped, *(line + b"\n" for line in shipped.split(b"\n\n") if len(line) < 800), *pieces]


def kernel_seeds() -> list[bytes]:
    """Return shapes at the edges of the kernel's blocks."""
    values = struct.pack("<4f", 0.0, 1.0, -1e18, 1e-38)
    shapes = itertools.product((0, 12, 31), (0,), (0, 15, 64), (0, 13, 19), (0, 7), (0,), (0, 18))
    return [struct.pack("<7B", *shape) + values for shape in shapes]


def unpack(target: str) -> list[bytes]:
    """Return the inputs that are kept: those that broke a promise once, and those that reach most."""
    packed, folder = CORPUS / f"{target}.zip", CORPUS / target
    once = [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []
    if not packed.is_file():
        return once
    with zipfile.ZipFile(packed) as archive:
        return [*once, *(archive.read(name) for name in archive.namelist())]


def pack(target: str, contents: list[bytes]) -> None:
    """Keep inputs in one file whose bytes depend on them alone."""
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(CORPUS / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(zipfile.ZipInfo(f"{number:04d}"), content)


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "cache": (fuzz_cache, cache_seeds),
    "model": (fuzz_model, model_seeds),
    "params": (fuzz_params, params_seeds),
    "kernel": (fuzz_kernel, kernel_seeds),
}
