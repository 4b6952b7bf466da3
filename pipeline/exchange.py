"""Embeddings that a user has already become a cache, and a cache becomes plain files again.

Enters: arrays in ``.npy``, ``.npz``, ``.pt`` or Parquet files. Leaves: a cache that says which files it was made of; or
such files. Must not know: images, networks, settings files, HDF5.

A file of several arrays is followed by the name of one, as in ``data.npz:train_embeddings``. Nothing that is read may
run code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache import CacheHeader, CacheReader, SplitRows, file_sha256, open_cache, write_cache
from pipeline.datasets import UNLABELLED, stratified_splits
from pipeline.locks import replaced

READABLE = (".npy", ".npz", ".pt", ".pth", ".parquet")
WRITABLE = (".npz", ".npy", ".parquet")
_BLOCK_ROWS = 4096
_LARGEST_LABEL = 2**16 - 1
_OPTIONS = {
    "--embeddings": "embeddings (n, f)",
    "--labels": "labels (n,): integers from 0, −1 where there is none, or text",
    "--ids": "names of the samples (n,), distinct",
    "--splits": "the split of each sample (n,): text, such as train and test",
    "--test-embeddings": "embeddings of test samples, where they lie apart",
    "--test-labels": "their labels",
    "--test-ids": "their names",
}


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`import_arrays` is told on the command line."""
    for option, text in _OPTIONS.items():
        parser.add_argument(option, metavar="FILE[:NAME]", required=option == "--embeddings", help=text)
    parser.add_argument("--output", required=True, help="cache to write, such as imported/mine.h5")
    parser.add_argument("--backbone", required=True, help="a name for the network; keys and samples must share it")
    parser.add_argument("--tap", default="imported", help="the layer that was read (default: imported)")
    parser.add_argument("--dataset", help="a name for the data (default: that of the embeddings' file)")
    parser.add_argument("--class-names", metavar="FILE", help="text file, a class a line; label 0 is the first")
    parser.add_argument("--test-fraction", type=float, help="draw this share of every class for the test")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (default: 0)")
    parser.add_argument("--storage-dtype", choices=("float32", "float16"), default="float32", help="(default: float32)")


def import_arrays(args: argparse.Namespace) -> Path:
    """Write a cache of the arrays that the arguments name, and return its path.

    Parameters
    ----------
    args : argparse.Namespace
        As :func:`add_import_options` describes them.

    Raises
    ------
    ValueError
        If an array has another shape or type than its part needs, lengths differ, a label is out of range, ids repeat,
        a value is not finite, or the split is said in two ways.
    OSError
        If a file is missing or damaged.
    ImportError
        If a Parquet file is given and pyarrow is not installed.
    """
    _check_options(args)
    parts = [_read_part(args, "")]
    if args.test_embeddings:
        parts.append(_read_part(args, "test_"))
    names, labels = _number(args.class_names, [part["labels"] for part in parts])
    splits = _splits(args, parts, labels)
    rows = {name: _rows_of(name, parts, labels, splits) for name in np.unique(np.concatenate(splits)).tolist()}
    files = {_path(value)[0] for option in _OPTIONS if (value := vars(args)[option[2:].replace("-", "_")])}
    origin = {
        "backbone": {"id": args.backbone},
        "preprocessing": {"imported": [{"file": f.name, "sha256": file_sha256(f)} for f in sorted(files)]},
        "tap": args.tap,
        "compute_dtype": "imported",
        "storage_dtype": args.storage_dtype,
        "manifest_sha256": _listing_sha256(names, rows),
        "dataset": args.dataset or _path(args.embeddings)[0].stem,
    }
    fingerprint = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    write_cache(args.output, CacheHeader(fingerprint=fingerprint, class_names=names, **origin), rows)
    return Path(args.output)


def export_cache(path: str | Path, output: str | Path, split: str | None = None) -> list[Path]:
    """Write a cache's embeddings, labels and ids as plain files, each whole or not at all; return their paths.

    Parameters
    ----------
    path : str or Path
        A cache; every block that is read is checked.
    output : str or Path
        ``.npz``: arrays ``<split>_embeddings``, ``<split>_labels``, ``<split>_ids`` and ``class_names``. ``.parquet``:
        columns ``id``, ``split``, ``label``, ``class_name`` and ``embeddings``. ``.npy``: embeddings of one split,
        with ``.labels.npy`` and ``.ids.npy`` beside it.
    split : str or None
        None: all of them.

    Raises
    ------
    ValueError
        If the suffix is another one, or ``.npy`` is asked for several splits.
    KeyError
        If there is no such split.
    OSError
        If the cache is damaged.
    ImportError
        If Parquet is asked for and pyarrow is not installed.
    """
    output = Path(output)
    if output.suffix not in WRITABLE:
        raise ValueError(f"{output.name} was asked for; expected a file ending in {', '.join(WRITABLE)}. Rename it.")
    with open_cache(path) as reader:
        names = reader.split_names if split is None else (split,)
        for name in names:
            reader.n_rows(name)  # an unknown split is named before anything is written
        return _WRITERS[output.suffix](reader, names, output)


# what is given


def _check_options(args: argparse.Namespace) -> None:
    ways = {"--test-embeddings": args.test_embeddings, "--splits": args.splits, "--test-fraction": args.test_fraction}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(
            f"{' and '.join(given)} both say which samples are for the test; expected one. Drop the other."
        )
    if not args.test_embeddings and (args.test_labels or args.test_ids):
        raise ValueError("--test-labels or --test-ids came without --test-embeddings; expected them too. Add them.")
    if args.test_fraction is not None and (args.labels is None or not 0 < args.test_fraction < 1):
        raise ValueError(
            f"--test-fraction {args.test_fraction} was given; expected a share between 0 and 1, and --labels, since "
            "every class gives its share. Correct it."
        )


def _read_part(args: argparse.Namespace, prefix: str) -> dict[str, np.ndarray]:
    """Read embeddings, labels and ids of the given, or of the test samples, all of one length."""
    named = {field: vars(args)[prefix + field] for field in ("embeddings", "labels", "ids")}
    X = read_array(named["embeddings"], "embeddings")
    if X.ndim != 2 or X.dtype.kind not in "fiu" or 0 in X.shape:
        raise ValueError(
            f"the embeddings in {named['embeddings']} have shape {X.shape} and type {X.dtype}; expected numbers (n, "
            "f). Name another array, or reshape it."
        )
    stem = _path(named["embeddings"])[0].stem
    part = {
        "embeddings": X,
        "labels": np.full(len(X), UNLABELLED),
        "ids": np.array([f"{stem}/{row:07d}" for row in range(len(X))]),
    }
    for field in ("labels", "ids"):
        if named[field]:
            part[field] = _column(named[field], field, len(X))
    return part


def _column(value: str, field: str, n: int) -> np.ndarray:
    """Return one value for each of n samples, whole numbers or text."""
    found = read_array(value, field)
    if found.shape != (n,) or found.dtype.kind not in "iuUSO" or (field != "labels" and found.dtype.kind in "iu"):
        kinds = "integers from 0, −1 where there is none, or text" if field == "labels" else "text"
        raise ValueError(
            f"the {field} in {value} have shape {found.shape} and type {found.dtype} beside {n} embeddings; expected "
            f"({n},), {kinds}. Give those of these samples."
        )
    return found if found.dtype.kind in "iu" else found.astype(str)


def _number(class_names: str | None, given: Sequence[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return class names, and labels (n,), int64, of each part: text is numbered in sorted order."""
    named = tuple(Path(class_names).read_text(encoding="utf-8").removesuffix("\n").split("\n")) if class_names else ()
    texts = [labels for labels in given if labels.dtype.kind == "U"]
    if texts:
        named = named or tuple(np.unique(np.concatenate(texts)).tolist())
        numbers = {name: label for label, name in enumerate(named)}
        unknown = next((name for labels in texts for name in labels.tolist() if name not in numbers), None)
        if unknown is not None:
            raise ValueError(f"label {unknown!r} is no class name; expected one of {len(named)}. Add it to the file.")
        given = [np.array([numbers[x] for x in y.tolist()]) if y.dtype.kind == "U" else y for y in given]
    largest, smallest = max(int(labels.max()) for labels in given), min(int(labels.min()) for labels in given)
    limit = len(named) - 1 if named else _LARGEST_LABEL
    if smallest < UNLABELLED or largest > limit:
        raise ValueError(
            f"the labels run from {smallest} to {largest}; expected −1 (unlabelled) to {limit}. Number the classes "
            "from 0, or name all of them."
        )
    return named or tuple(map(str, range(largest + 1))), [labels.astype(np.int64) for labels in given]


def _splits(args: argparse.Namespace, parts: Sequence[Mapping[str, np.ndarray]], labels: Sequence[np.ndarray]) -> Any:
    """Return the split of each sample of each part."""
    if args.splits:
        return [_column(args.splits, "splits", len(labels[0]))]
    splits = [np.full(len(part["ids"]), split) for part, split in zip(parts, ("train", "test"))]
    if args.test_fraction is not None:
        known = np.flatnonzero(labels[0] != UNLABELLED)
        splits[0][known] = stratified_splits(args.embeddings, labels[0][known], args.test_fraction, args.seed)
    return splits


def _rows_of(
    split: str, parts: Sequence[Mapping[str, np.ndarray]], labels: Sequence[np.ndarray], splits: Sequence[np.ndarray]
) -> SplitRows:
    chosen = [np.flatnonzero(of == split) for of in splits]

    def blocks() -> Iterator[np.ndarray]:
        for part, rows in zip(parts, chosen):
            for start in range(0, len(rows), _BLOCK_ROWS):
                yield np.asarray(part["embeddings"][rows[start : start + _BLOCK_ROWS]])

    ids = np.concatenate([part["ids"][rows] for part, rows in zip(parts, chosen)])
    return SplitRows(blocks(), np.concatenate([y[rows] for y, rows in zip(labels, chosen)]), ids.tolist())


def _listing_sha256(class_names: Sequence[str], rows: Mapping[str, SplitRows]) -> str:
    """Return the sha256 of what a manifest would say: the samples, their splits and labels, in order."""
    listed = {split: [list(part.sample_ids), part.labels.tolist()] for split, part in rows.items()}
    return hashlib.sha256(json.dumps([list(class_names), listed], sort_keys=True).encode()).hexdigest()


# files


def read_array(value: str, role: str) -> np.ndarray:
    """Return the array that ``FILE`` or ``FILE:NAME`` means; ``.npy`` stays on the disk until rows are asked for.

    Raises
    ------
    ValueError
        If the suffix is unknown, the file would run code or is damaged, or it is not clear which array is meant.
    OSError
        If there is no such file.
    ImportError
        If it is Parquet and pyarrow is not installed.
    """
    path, name = _path(value)
    if path.suffix not in READABLE:
        raise ValueError(f"{path} was given; expected a file ending in {', '.join(READABLE)}. Convert it.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected the {role} there. Correct the path.")
    if path.suffix == ".parquet":
        return _parquet_column(path, name, role)
    with path.open("rb"):
        pass  # a file that may not be read is told as one
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            return _npz_array(path, name, role)
        tensors = _tensors(path)
        return tensors if isinstance(tensors, np.ndarray) else tensors[_choose(path, list(tensors), name, role)]
    except _ChoiceError:
        raise
    except Exception as error:  # a damaged file makes NumPy, and what it unpacks with, raise nearly anything
        raise ValueError(
            f"{path.name} cannot be read without running code, or is damaged ({_first_line(error)}); expected arrays "
            "of numbers or text. Save it again from NumPy or torch."
        ) from error


def _npz_array(path: Path, name: str | None, role: str) -> np.ndarray:
    """Read an array of an archive that claims as many bytes as are there for it."""
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as found:
        chosen = _choose(path, list(found), name, role)
        if f"{chosen}.npy" in archive.namelist():
            with archive.open(f"{chosen}.npy") as member:
                version = np.lib.format.read_magic(member)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                shape, _, dtype = (read_header or np.lib.format.read_array_header_2_0)(member)
                room = archive.getinfo(f"{chosen}.npy").file_size - member.tell()
            if math.prod(shape) * dtype.itemsize != room and not dtype.hasobject:
                raise ValueError(f"{chosen} claims {dtype} of shape {shape} in {room:,} bytes")
        return found[chosen]


class _ChoiceError(ValueError):
    """It is not clear which array of a file is meant."""


def _path(value: str) -> tuple[Path, str | None]:
    """Divide ``FILE:NAME``; a colon elsewhere belongs to the file's name."""
    found = re.fullmatch(r"(.*\.(?:npz|pt|pth|parquet)):([^/\\]+)", value)
    return (Path(found[1]), found[2]) if found else (Path(value), None)


def _choose(path: Path, names: Sequence[str], name: str | None, role: str) -> str:
    """Return the name that was said, or the only one, or the one that is called like its part."""
    if name is None:
        called = [known for known in _CALLED[role] if known in names]
        name = names[0] if len(names) == 1 else called[0] if called else None
    if name not in names:
        raise _ChoiceError(
            f"{path.name} holds {', '.join(names) or 'nothing'}, but no {name or role}; expected the name of one. "
            f"Write {path}:NAME."
        )
    return str(name)


_CALLED = {
    "embeddings": ("embeddings", "X"),
    "labels": ("labels", "label", "y"),
    "ids": ("ids", "id"),
    "splits": ("splits", "split"),
}


def _tensors(path: Path) -> np.ndarray | Mapping[str, np.ndarray]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise ValueError(_first_line(error)) from error
    if isinstance(content, torch.Tensor):
        return _numpy(content)
    if isinstance(content, Mapping) and all(isinstance(value, torch.Tensor) for value in content.values()):
        return {str(name): _numpy(value) for name, value in content.items()}
    raise ValueError(f"it holds a {type(content).__name__}, no tensors")


def _numpy(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16
    return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy(force=True)


def _parquet_column(path: Path, name: str | None, role: str) -> np.ndarray:
    """Return a column: (n,) of numbers or text, (n, f) of lists of one length."""
    pa, pq = _pyarrow()
    try:
        name = _choose(path, pq.read_schema(path).names, name, role)
        column = pq.read_table(path, columns=[name])[name].combine_chunks()
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{path.name} is no Parquet file ({_first_line(error)}); expected one. Write it again."
        ) from error
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = column.flatten() if lists or pa.types.is_fixed_size_list(column.type) else column
    width, ragged = divmod(len(values), len(column)) if len(column) else (0, 0)
    lengths = np.diff(column.offsets.to_numpy()) if lists else np.array([width])
    if column.null_count or values.null_count or ragged or (lengths != width).any():
        raise ValueError(
            f"column {name!r} of {path.name} lacks values, or its lists differ in length; expected a whole column. "
            "Fill it."
        )
    found = values.to_numpy(zero_copy_only=False)
    return found if values is column else found.reshape(len(column), width)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            'Parquet needs pyarrow, which is not installed; expected it. Run `pip install "dkvb-estimator[parquet]"`, '
            "or take .npz."
        ) from error
    return pa, pq


def _export_npz(reader: CacheReader, names: Sequence[str], output: Path) -> list[Path]:
    arrays: dict[str, Any] = {"class_names": np.array(reader.header.class_names, dtype=str)}
    for name in names:
        arrays |= {f"{name}_embeddings": reader.read(name), f"{name}_labels": reader.labels(name)}
        arrays[f"{name}_ids"] = np.array(reader.sample_ids(name), dtype=str)
    with replaced(output) as neighbour, neighbour.open("wb") as file:
        np.savez(file, **arrays)
    return [output]


def _export_npy(reader: CacheReader, names: Sequence[str], output: Path) -> list[Path]:
    if len(names) != 1:
        raise ValueError(f".npy holds one split, the cache has {', '.join(names)}; expected one. Say --split.")
    name, n = names[0], reader.n_rows(names[0])
    beside = {".labels.npy": reader.labels(name), ".ids.npy": np.array(reader.sample_ids(name), dtype=str)}
    with replaced(output) as neighbour:
        X = np.lib.format.open_memmap(neighbour, "w+", np.float32, (n, reader.n_features))
        for start in range(0, n, _BLOCK_ROWS):
            X[start : start + _BLOCK_ROWS] = reader.read(name, slice(start, start + _BLOCK_ROWS))
        X.flush()
    for suffix, array in beside.items():
        with replaced(output.with_suffix(suffix)) as neighbour, neighbour.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    return [output, *(output.with_suffix(suffix) for suffix in beside)]


def _export_parquet(reader: CacheReader, names: Sequence[str], output: Path) -> list[Path]:
    pa, pq = _pyarrow()
    classes = [*reader.header.class_names, None]  # the last one, at −1, is that of unlabelled samples
    kinds = {"id": pa.string(), "split": pa.string(), "label": pa.int64(), "class_name": pa.string()}
    schema = pa.schema(kinds | {"embeddings": pa.list_(pa.float32(), reader.n_features)})
    with replaced(output) as neighbour, pq.ParquetWriter(neighbour, schema) as writer:
        for name in names:
            ids, labels = reader.sample_ids(name), reader.labels(name).tolist()
            for start in range(0, len(ids), _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                X = pa.FixedSizeListArray.from_arrays(pa.array(reader.read(name, rows).ravel()), reader.n_features)
                here = [ids[rows], [name] * len(ids[rows]), labels[rows], [classes[label] for label in labels[rows]], X]
                writer.write_table(pa.table(here, schema=schema))
    return [output]


_WRITERS: Mapping[str, Callable[[CacheReader, Sequence[str], Path], list[Path]]] = {
    ".npz": _export_npz,
    ".npy": _export_npy,
    ".parquet": _export_parquet,
}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
