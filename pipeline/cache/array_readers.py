"""Read one array from a NumPy, torch or Parquet file, without running code from the file.

Enters: ``FILE``, or ``FILE:NAME`` where it holds several arrays, as in ``data.npz:train_embeddings``. Leaves: an array.
Must not know: what the array is for, except the usual names of such arrays.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.io import first_sentence, system_error

READABLE = (".npy", ".npz", ".pt", ".pth", ".ckpt", ".parquet")


def read_array(value: str, role: str) -> np.ndarray:
    """Return the array at ``FILE`` or ``FILE:NAME``; ``.npy`` is memory-mapped.

    Raises
    ------
    ValueError
        If the suffix is unknown, the file would run code or is damaged, or the choice of array is ambiguous.
    OSError
        If there is no such file.
    ImportError
        If it is Parquet and pyarrow is not installed.
    """
    path, name = path_and_name(value)
    suffix = path.suffix.lower()
    if suffix not in READABLE:
        raise ValueError(f"{path} was given; expected a file ending in {', '.join(READABLE)}. Convert it.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected the {role} there. Correct the path.")
    if suffix == ".parquet":
        return _parquet_column(path, name, role)
    with path.open("rb"):
        pass  # raises here if the file may not be read, which is not damage
    try:
        if suffix == ".npy":
            _refuse_name(path, name)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            return _npz_array(path, name, role)
        return _of_checkpoint(path, name, role)
    except (_ChoiceError, MemoryError):
        raise
    except Exception as error:  # NumPy and its decompressors raise almost any error on a damaged file
        if system_error(error) is not None:
            raise
        raise ValueError(
            f"{path.name} cannot be read without running code, or is damaged ({first_sentence(error)}); expected "
            "arrays of numbers or text. Save arrays with np.savez, or tensors with torch.save."
        ) from error


def _npz_array(path: Path, name: str | None, role: str) -> np.ndarray:
    """Read an array of an archive, after checking that its claimed size matches its bytes."""
    with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as found:
        chosen = _choose(path, list(found), name, role)
        if f"{chosen}.npy" in archive.namelist():
            with archive.open(f"{chosen}.npy") as member:
                version = np.lib.format.read_magic(member)
                read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
                shape, _, dtype = (read_header or np.lib.format.read_array_header_2_0)(member)
                room = archive.getinfo(f"{chosen}.npy").file_size - member.tell()
            if math.prod(shape) * dtype.itemsize != room and not dtype.hasobject:
                raise ValueError(f"{chosen} has {room:,} bytes, but its header states {dtype} of shape {shape}")
        return found[chosen]


class _ChoiceError(ValueError):
    """The choice of an array in a file is ambiguous."""


def path_and_name(value: str) -> tuple[Path, str | None]:
    """Split ``FILE:NAME`` at the first colon that follows an existing file; other colons belong to the file name.

    Examples
    --------
    >>> path_and_name("absent.npz:train/X")
    (PosixPath('absent.npz'), 'train/X')
    """
    ends = [found.end() for found in re.finditer("|".join(map(re.escape, READABLE)), value.lower())]
    pairs = [(Path(value[:end]), value[end + 1 :]) for end in ends if value[end:].startswith(":") and value[end + 1 :]]
    if not pairs or Path(value).is_file():
        return Path(value), None
    return next((pair for pair in pairs if pair[0].is_file()), pairs[0])


def _refuse_name(path: Path, name: str | None) -> None:
    if name is not None:
        raise _ChoiceError(f"{path.name} contains one unnamed array; expected no name. Remove :{name}.")


def _choose(path: Path, names: Sequence[str], name: str | None, role: str) -> str:
    """Return the given name, or the only one, or the one that matches the role."""
    if name is None:
        called = [known for known in _CALLED[role] if known in names]
        name = names[0] if len(names) == 1 else called[0] if called else None
    if name not in names:
        raise _ChoiceError(
            f"{path.name} contains {', '.join(names) or 'nothing'}, but no {name or role}; expected the name of "
            f"one array. Write {path}:NAME."
        )
    return str(name)


_CALLED = {
    "embeddings": ("embeddings", "X"),
    "labels": ("labels", "label", "y"),
    "ids": ("ids", "id"),
    "splits": ("splits", "split"),
}


def _of_checkpoint(path: Path, name: str | None, role: str) -> np.ndarray:
    """Return a torch tensor, or a list of integers or text stored with it."""
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, torch.Tensor):
        _refuse_name(path, name)
        return _numpy(content)
    if not isinstance(content, Mapping):
        raise ValueError(f"it contains a {type(content).__name__} instead of tensors")
    found = {str(key): array for key, value in content.items() if (array := _numpy(value)) is not None}
    if name in {str(key) for key in content} - set(found):
        raise _ChoiceError(
            f"{name} in {path.name} is neither a tensor nor a list of whole numbers or text; expected one of "
            f"{', '.join(found) or '(none)'}. Name one of these, or save it as a tensor."
        )
    return found[_choose(path, list(found), name, role)]


def _numpy(value: Any) -> Any:
    """Return a tensor, or a list of integers or text, as an array; None for anything else."""
    import torch

    if isinstance(value, torch.Tensor):
        # NumPy has no bfloat16
        return (value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy(force=True)
    kinds = set(map(type, value)) if isinstance(value, list | tuple) else set()
    return np.array(value) if kinds in ({int}, {str}) else None


def _parquet_column(path: Path, name: str | None, role: str) -> np.ndarray:
    """Return a column: (n,) of numbers or text, (n, f) of lists of one length."""
    pa, pq = import_pyarrow()
    try:
        name = _choose(path, pq.read_schema(path).names, name, role)
        column = pq.read_table(path, columns=[name])[name].combine_chunks()
    except (pa.ArrowInvalid, OSError) as error:
        if system_error(error) is not None:
            raise
        raise ValueError(
            f"{path.name} is not a Parquet file ({first_sentence(error)}); expected one. Write it again."
        ) from error
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    values = column.flatten() if lists or pa.types.is_fixed_size_list(column.type) else column
    width, ragged = divmod(len(values), len(column)) if len(column) else (0, 0)
    lengths = np.diff(column.offsets.to_numpy()) if lists else np.array([width])
    if column.null_count or values.null_count or ragged or (lengths != width).any():
        raise ValueError(
            f"column {name!r} of {path.name} has missing values, or lists of different lengths; expected a "
            "complete column. Fill it."
        )
    found = values.to_numpy(zero_copy_only=False)
    return found if values is column else found.reshape(len(column), width)


def import_pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow, which is not installed; expected the package. Run `pip install pyarrow`, or "
            "use .npz."
        ) from error
    return pa, pq
