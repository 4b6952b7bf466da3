"""Turn existing embeddings into a cache, and a cache into plain files.

Enters: arrays in ``.npy``, ``.npz``, ``.pt`` or Parquet files. Leaves: a cache that records its source files; or
such files. Must not know: images, networks, settings files, HDF5.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cache.array_readers import import_pyarrow, path_and_name, read_array
from pipeline.cache.format import CacheHeader, LayerColumns, SplitRows, fingerprint_of, layers_in_order, tap_of
from pipeline.cache.reader import CacheReader, file_sha256, open_cache
from pipeline.cache.writer import write_cache
from pipeline.data import UNLABELLED, stratified_splits
from pipeline.io import check_files, read_names, replaced
from pipeline.suppression import refuse_forgotten

WRITABLE = (".npz", ".npy", ".parquet")
CACHES = (".h5", ".hdf5")
_BESIDE_NPY = (".labels.npy", ".ids.npy")
_BLOCK_ROWS = 4096
_LARGEST_LABEL = 2**16 - 1
_OPTIONS = {
    "--embeddings": "embeddings (n, f)",
    "--labels": "labels (n,): integers from 0 (−1: unlabelled), or text",
    "--ids": "distinct names of the samples (n,)",
    "--splits": "the split of each sample (n,), such as train or test",
    "--test-embeddings": "embeddings of test samples, if they are in a separate file",
    "--test-labels": "their labels",
    "--test-ids": "their names",
}


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add the command-line options of :func:`import_arrays`."""
    for option, text in _OPTIONS.items():
        parser.add_argument(option, metavar="FILE[:NAME]", required=option == "--embeddings", help=text)
    parser.add_argument("--output", required=True, help="cache to write, such as imported/mine.h5")
    parser.add_argument(
        "--backbone", required=True, help="a name for the network; must be the same for keys and samples"
    )
    layers = parser.add_mutually_exclusive_group()
    layers.add_argument("--layer", default="imported", help="the layer of the network (default: imported)")
    layers.add_argument("--tap", help=argparse.SUPPRESS)  # the option's old name
    layers.add_argument(
        "--layers",
        nargs="+",
        metavar="NAME:WIDTH",
        help="several layers, each with its number of columns, in order",
    )
    parser.add_argument("--dataset", help="a name for the data (default: the name of the embeddings file)")
    parser.add_argument("--class-names", metavar="FILE", help="text file, one class per line; label 0 is the first")
    parser.add_argument("--test-fraction", type=float, help="draw this share of every class as test samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw (default: 0)")
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
        If an array has a wrong shape or type, lengths differ, a label is out of range, ids repeat, a value is not
        finite, the split is given in two ways, or layers do not add up to the features.
    OSError
        If a file is missing or damaged.
    ImportError
        If a Parquet file is given and pyarrow is not installed.
    """
    _check_options(args)
    files = {path_and_name(value)[0] for option in _OPTIONS if (value := vars(args)[option[2:].replace("-", "_")])}
    check_files([*files, *([args.class_names] if args.class_names else [])], [args.output])
    parts = [_read_part(args, "")]
    if args.test_embeddings:
        parts.append(_read_part(args, "test_"))
    layers = _layers(args.layers, parts[0]["embeddings"].shape[1]) if args.layers else ()
    names, labels = _number(args.class_names, [part["labels"] for part in parts])
    splits = _splits(args, parts, labels)
    split_names = np.unique(np.concatenate(splits)).tolist()
    rows = {name: _rows_of(name, args.storage_dtype, parts, labels, splits) for name in split_names}
    _check_ids(rows)
    dataset = args.dataset or path_and_name(args.embeddings)[0].stem
    refuse_forgotten(dataset, (sample_id for part in rows.values() for sample_id in part.sample_ids))
    origin = {
        "backbone": {"id": args.backbone},
        "preprocessing": {"imported": [{"file": f.name, "sha256": file_sha256(f)} for f in sorted(files)]},
        "tap": tap_of(layer.name for layer in layers) or args.layer,
        "compute_dtype": "imported",
        "storage_dtype": args.storage_dtype,
        "manifest_sha256": listing_sha256(names, rows),
        "dataset": dataset,
        "layers": layers,
    }
    write_cache(args.output, CacheHeader(fingerprint=fingerprint_of(origin), class_names=names, **origin), rows)
    return Path(args.output)


def export_cache(path: str | Path, output: str | Path, split: str | None = None) -> list[Path]:
    """Write a cache's embeddings, labels and ids as plain files, each completely or not at all; return their paths.

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
    beside = [output.with_suffix(suffix) for suffix in _BESIDE_NPY] if output.suffix == ".npy" else []
    check_files([path], [output, *beside])
    with open_cache(path) as reader:
        names = reader.split_names if split is None else (split,)
        for name in names:
            reader.n_rows(name)  # an unknown split is an error before anything is written
        return _WRITERS[output.suffix](reader, names, output)


# what is given


def _check_options(args: argparse.Namespace) -> None:
    if args.tap is not None:
        raise ValueError("--tap was given; expected its new name, --layer. Rename the option.")
    if Path(args.output).suffix.lower() not in CACHES:
        raise ValueError(f"--output {args.output} was given; expected a file ending in {', '.join(CACHES)}. Rename it.")
    ways = {"--test-embeddings": args.test_embeddings, "--splits": args.splits, "--test-fraction": args.test_fraction}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both choose the test samples; expected one of them. Drop the other.")
    if not args.test_embeddings and (args.test_labels or args.test_ids):
        raise ValueError(
            "--test-labels or --test-ids came without --test-embeddings; expected that option too. Add it."
        )
    if args.test_fraction is not None and (args.labels is None or not 0 < args.test_fraction < 1):
        raise ValueError(
            f"--test-fraction {args.test_fraction} was given; expected a share between 0 and 1, together with "
            "--labels, because the share is drawn from every class. Correct it."
        )


def _layers(given: Sequence[str], n_features: int) -> tuple[LayerColumns, ...]:
    """Return the columns of two or more layers, each given by name and number of columns."""
    pairs = [text.rpartition(":")[::2] for text in given]
    whole = all(name and width.isdecimal() and int(width) for name, width in pairs)
    widths = {name: int(width) for name, width in pairs} if whole else {}
    if len(widths) < max(2, len(given)) or sum(widths.values()) != n_features:
        raise ValueError(
            f"--layers {' '.join(given)} was given for {n_features} features; expected two or more different "
            f"names, each with its number of columns, adding up to {n_features}, such as layer3:1024 "
            "avgpool:2048. Correct it, or use --layer for one layer."
        )
    return layers_in_order(widths)


def _read_part(args: argparse.Namespace, prefix: str) -> dict[str, Any]:
    """Read embeddings, labels and ids of the main or of the test samples, all of the same length."""
    named = {field: vars(args)[prefix + field] for field in ("embeddings", "labels", "ids")}
    X = read_array(named["embeddings"], "embeddings")
    if X.ndim != 2 or X.dtype.kind not in "fiu" or 0 in X.shape:
        raise ValueError(
            f"the embeddings in {named['embeddings']} have shape {X.shape} and type {X.dtype}; expected numbers (n, "
            "f). Name another array, or reshape it."
        )
    given = [path_and_name(value)[0].stem for value in (args.embeddings, args.test_embeddings) if value]
    stem = path_and_name(named["embeddings"])[0].stem
    if len(set(given)) < len(given):  # files with the same name, as train/X.npy and test/X.npy
        stem = f"{'test' if prefix else 'train'}/{stem}"
    part = {
        "file": named["embeddings"],
        "embeddings": X,
        "labels": np.full(len(X), UNLABELLED),
        "ids": np.array([f"{stem}/{row:07d}" for row in range(len(X))]),
    }
    for field in ("labels", "ids"):
        if named[field]:
            part[field] = _column(named[field], field, len(X))
    return part


def _column(value: str, field: str, n: int) -> np.ndarray:
    """Return one value, an integer or text, for each of n samples."""
    found = read_array(value, field)
    if found.shape != (n,) or found.dtype.kind not in "iuUSO" or (field != "labels" and found.dtype.kind in "iu"):
        kinds = "integers from 0 (−1: unlabelled), or text" if field == "labels" else "text"
        raise ValueError(
            f"the {field} in {value} have shape {found.shape} and type {found.dtype} for {n} embeddings; "
            f"expected ({n},), {kinds}. Pass the {field} of these samples."
        )
    return found if found.dtype.kind in "iu" else found.astype(str)


def _number(class_names: str | None, given: Sequence[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return class names, and labels (n,), int64, of each part; text labels are numbered in sorted order."""
    named = read_names(class_names, "class name") if class_names else ()
    texts = [labels for labels in given if labels.dtype.kind == "U"]
    if texts:
        named = named or tuple(np.unique(np.concatenate(texts)).tolist())
        numbers = {name: label for label, name in enumerate(named)}
        unknown = next((name for labels in texts for name in labels.tolist() if name not in numbers), None)
        if unknown is not None:
            raise ValueError(
                f"label {unknown!r} is not among the {len(named)} class names in {class_names}; expected one of "
                "them. Add a line for it, or correct the label."
            )
        given = [np.array([numbers[x] for x in y.tolist()]) if y.dtype.kind == "U" else y for y in given]
    largest, smallest = max(int(labels.max()) for labels in given), min(int(labels.min()) for labels in given)
    limit = len(named) - 1 if named else _LARGEST_LABEL
    if smallest < UNLABELLED or largest > limit:
        raise ValueError(
            f"the labels run from {smallest} to {largest}; expected −1 (unlabelled) to {limit}. Number the classes "
            "from 0, or name all of them."
        )
    return named or tuple(map(str, range(largest + 1))), [labels.astype(np.int64) for labels in given]


def _splits(args: argparse.Namespace, parts: Sequence[Mapping[str, Any]], labels: Sequence[np.ndarray]) -> Any:
    """Return the split of each sample of each part."""
    if args.splits:
        return [_checked_names(_column(args.splits, "splits", len(labels[0])), args.splits)]
    splits = [np.full(len(part["ids"]), split) for part, split in zip(parts, ("train", "test"))]
    if args.test_fraction is not None:
        known = np.flatnonzero(labels[0] != UNLABELLED)
        splits[0][known] = stratified_splits(args.embeddings, labels[0][known], args.test_fraction, args.seed)
    return splits


def _checked_names(splits: np.ndarray, file: str) -> np.ndarray:
    wrong = next((name for name in np.unique(splits).tolist() if not name.isidentifier()), None)
    if wrong is not None:
        raise ValueError(
            f"the splits in {file} contain {wrong!r}; expected names of letters, digits and underscores, such as "
            "train. Rename it."
        )
    return splits


def _rows_of(
    split: str,
    dtype: str,
    parts: Sequence[Mapping[str, Any]],
    labels: Sequence[np.ndarray],
    splits: Sequence[np.ndarray],
) -> SplitRows:
    chosen = [np.flatnonzero(of == split) for of in splits]

    def blocks() -> Iterator[np.ndarray]:
        for part, rows in zip(parts, chosen):
            for start in range(0, len(rows), _BLOCK_ROWS):
                here = rows[start : start + _BLOCK_ROWS]
                block = np.asarray(part["embeddings"][here])
                _check_values(block, here, part["file"], dtype)
                yield block

    ids = np.concatenate([part["ids"][rows] for part, rows in zip(parts, chosen)])
    return SplitRows(blocks(), np.concatenate([y[rows] for y, rows in zip(labels, chosen)]), ids.tolist())


def _check_values(block: np.ndarray, rows: np.ndarray, file: str, dtype: str) -> None:
    """Refuse values that the cache cannot store, naming their row in the source file."""
    with np.errstate(over="ignore"):
        for values, what in ((block, "NaN or infinity"), (block.astype(dtype), f"a number too large for {dtype}")):
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"row {rows[int(bad.argmax())]} of {file} holds {what}; expected finite numbers up to "
                    f"{np.finfo(dtype).max:.3g}. Correct the row, or remove it with its label and id."
                )


def _check_ids(rows: Mapping[str, SplitRows]) -> None:
    """Refuse an id in two splits: a learned sample could be used for testing."""
    home: dict[str, str] = {}
    for split, part in rows.items():
        for sample_id in part.sample_ids:
            if home.setdefault(sample_id, split) != split:
                raise ValueError(
                    f"id {sample_id!r} is in split {home[sample_id]!r} and in split {split!r}; expected "
                    "distinct ids. Correct --ids or --splits, or rename the file of test samples."
                )


def listing_sha256(class_names: Sequence[str], rows: Mapping[str, SplitRows]) -> str:
    """Return the sha256 of a manifest's content: the samples, their splits and labels, in order."""
    listed = {split: [list(part.sample_ids), part.labels.tolist()] for split, part in rows.items()}
    return hashlib.sha256(json.dumps([list(class_names), listed], sort_keys=True).encode()).hexdigest()


# out of a cache


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
        raise ValueError(
            f".npy holds one split, but the cache has {', '.join(names)}; expected one split. Choose it with --split."
        )
    name, n = names[0], reader.n_rows(names[0])
    beside = dict(zip(_BESIDE_NPY, (reader.labels(name), np.array(reader.sample_ids(name), dtype=str))))
    with replaced(output) as neighbour, neighbour.open("wb") as file:
        # not a memory map: a full disk would kill the process without a message
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": (n, reader.n_features)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, _BLOCK_ROWS):
            file.write(reader.read(name, slice(start, start + _BLOCK_ROWS)).tobytes())
    for suffix, array in beside.items():
        with replaced(output.with_suffix(suffix)) as neighbour, neighbour.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    return [output, *(output.with_suffix(suffix) for suffix in beside)]


def _export_parquet(reader: CacheReader, names: Sequence[str], output: Path) -> list[Path]:
    pa, pq = import_pyarrow()
    classes = [*reader.header.class_names, None]  # the last one, at index −1, is that of unlabelled samples
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
