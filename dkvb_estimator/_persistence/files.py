"""Save an estimator to one file that cannot run code, and load it.

Enters: a :class:`DKVBClassifier` or a :class:`KeyEncoder`. Leaves: a ``.npz`` of arrays and JSON, whose bytes depend on
the model alone. Must not know: the meaning of the state.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from dkvb_estimator._classifier import DKVBClassifier
from dkvb_estimator._encoder import SCHEMA_VERSION, KeyEncoder
from dkvb_estimator._validation import GRADIENT, check_encoder, check_parameters, plain_setting
from dkvb_estimator._version import __version__

FORMAT, FORMAT_VERSION = "dkvb-model", 2
MAX_BYTES = 64 * 2**30
"""Largest size of an unpacked file."""
MAX_INFLATION = 1032
"""Largest ratio of deflate; a file that claims more is damaged or malicious."""
MAX_HEADER_BYTES = 64 * 2**20
_HEADER = "header.json"
_FITTED = {"n_features_in_", "feature_names_in_", "n_iter_"}
_STORED = {
    "_codebook", "_keys_were_frozen", "_learned", "_learned_with", "_schema_version", "_temperature",
    "_temperature_with", "encoder_", *_FITTED,
}  # fmt: skip


def save_model(
    model: DKVBClassifier | KeyEncoder,
    path: str | Path,
    card: Mapping[str, Any] | None = None,
    *,
    compress: bool = True,
) -> None:
    """Save a model atomically.

    The model is written to a temporary file in the same folder, which then replaces ``path``. Links are followed, and
    devices and pipes are written to directly. The encoder's ``memory`` is not saved.

    Parameters
    ----------
    model : DKVBClassifier or KeyEncoder
        Fitted or not.
    path : str or Path
        Usually ends in ``.npz``.
    card : mapping, optional
        Whatever JSON can hold. Description of the model, such as its origin; :func:`read_card` returns it.
    compress : bool, default=True
        False writes a larger file several times faster.

    Raises
    ------
    TypeError
        If the model is another estimator, or JSON and NumPy cannot hold a parameter, a label or the card without
        pickle.
    ValueError
        If :func:`load_model` would refuse the file.
    OSError
        If the folder is missing or not writable, or the disk is full; an existing file then stays unchanged.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
    >>> X, y = np.eye(4, dtype=np.float32), np.array(["a", "b", "a", "b"])
    >>> model = DKVBClassifier(KeyEncoder(2, 4, 2, normalize=False, random_state=0)).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder + "/model.npz")
    ...     load_model(folder + "/model.npz").predict(X).tolist()
    ['a', 'b', 'a', 'b']
    """
    if not isinstance(model, DKVBClassifier | KeyEncoder):
        raise TypeError(
            f"model is a {type(model).__name__}; expected a DKVBClassifier or a KeyEncoder. Pass the fitted estimator "
            "itself, and save other estimators with skops."
        )
    arrays: dict[str, np.ndarray] = {}
    whole = _state(model)
    # refuses a state that could not be loaded
    _rebuild({name: dict(value) if isinstance(value, dict) else value for name, value in whole.items()})
    state = {name: _pack(name, value, arrays) for name, value in sorted(whole.items())}
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "written_by": __version__,
        "card": _checked_card(card),
        "state": state,
    }
    text = json.dumps(header, sort_keys=True, indent=1, allow_nan=False)
    _publish(Path(path), text, arrays, zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)


def load_model(path: str | Path) -> Any:
    """Load a model that :func:`save_model` wrote. Nothing in the file is executed or unpickled.

    Raises
    ------
    ValueError
        If the file is not a model, is damaged, or was written by a newer version.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    header, arrays = _read(path)
    try:
        state = {name: _unpack(value, arrays) for name, value in header["state"].items()}
        return _rebuild(_from_version_1(state) if header["version"] == 1 else state)
    except Exception as error:
        raise _unreadable(path, f"its state is not valid: {error}") from error


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the card that was passed to :func:`save_model`."""
    return dict(_read(Path(path))[0]["card"])


def _checked_card(card: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(card or {}), sort_keys=True, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"card cannot be written as JSON ({error}); expected a dict from text to text, finite numbers, lists and "
            "dicts. Convert its values."
        ) from error


def _rebuild(state: dict[str, Any]) -> DKVBClassifier | KeyEncoder:
    """Return the estimator with the state in a file."""
    kind = state.pop("estimator", None)
    if kind == "KeyEncoder":
        return _with_state(KeyEncoder(), state, check_encoder)
    if kind != "DKVBClassifier":
        raise ValueError(f"it holds an estimator {kind!r}; expected 'DKVBClassifier' or 'KeyEncoder'")
    for name in ("encoder_", "encoder"):
        if isinstance(state.get(name), dict):
            state[name] = _rebuild(state[name]) if name == "encoder_" else _encoder_parameter(state)
    # codes_dir is a folder on the machine that saved the model; it has to exist only when it is written to
    return _with_state(DKVBClassifier(), state, lambda params: check_parameters(params | {"codes_dir": None}))


def _encoder_parameter(state: dict[str, Any]) -> Any:
    frozen = state["encoder"].pop("frozen")
    if not frozen:
        return _rebuild(state["encoder"])
    return FrozenEstimator(_rebuild(state["encoder"]) if state["encoder"] else state["encoder_"])


def _with_state(estimator: Any, state: dict[str, Any], check: Callable[[dict[str, Any]], None]) -> Any:
    known = estimator.get_params(deep=False)
    if foreign := set(state) - set(known) - _STORED:
        raise ValueError(
            f"it holds {', '.join(sorted(foreign))}; expected only parameters and attributes of the estimator"
        )
    params = {name: state.pop(name) for name in list(state) if name in known}
    check(known | params)
    estimator.set_params(**params)
    estimator.__setstate__(estimator.__getstate__() | state)
    return estimator


def _state(estimator: DKVBClassifier | KeyEncoder) -> dict[str, Any]:
    """Return an estimator as mappings, arrays and plain values, without ``memory``."""
    state = estimator.__getstate__()
    state.pop("_sklearn_version", None)
    if isinstance(state.get("codes_dir"), os.PathLike):
        state["codes_dir"] = os.fspath(state["codes_dir"])
    if not (state["random_state"] is None or isinstance(state["random_state"], int | np.integer)):
        state["random_state"] = state.get("_codebook", {}).get("seed")  # the seed that a generator gave
    if isinstance(estimator, KeyEncoder):
        blocks = plain_setting(state.pop("feature_blocks"))  # omitted if there are none, as in the codebook
        return state | {"estimator": "KeyEncoder", "memory": None} | ({"feature_blocks": blocks} if blocks else {})
    encoder, fitted = state["encoder"], state.get("encoder_")
    if isinstance(encoder, FrozenEstimator):
        same = fitted is not None and encoder.estimator.fingerprint_ == fitted.fingerprint_
        state["encoder"] = {"frozen": True, **({} if same else _state(encoder.estimator))}
    elif isinstance(encoder, KeyEncoder):
        state["encoder"] = {"frozen": False, **_state(clone(encoder))}
    if fitted is not None:
        state["encoder_"] = _state(fitted)
    return state | {"estimator": "DKVBClassifier"}


def _from_version_1(state: dict[str, Any]) -> dict[str, Any]:
    """Split the single state of releases before 0.2 into the states of a classifier and its encoder."""
    own = {name: state.pop(name) for name in list(KeyEncoder().get_params()) if name in state}
    shared = {name: own[name] for name in ("device", "random_state", "verbose") if name in own}
    state.pop("key_data", None)
    steps = {name: value for name in GRADIENT if (value := state.pop(name, None)) is not None}
    if state.get("solver") == "ridge" and "objective" not in state:
        state["alpha"] = "auto"  # was stored in hits of a key
    state |= {"estimator": "DKVBClassifier", "_schema_version": SCHEMA_VERSION, **shared}
    state["solver_params"] = steps if state.get("solver") == "sgd" else None
    own |= {"estimator": "KeyEncoder", "_schema_version": SCHEMA_VERSION}
    frozen = "_codebook" in state and state["_codebook"]["source"] != "X"
    state["encoder"] = {"frozen": frozen, **({} if frozen else own)}
    if "_codebook" in state:
        features = {name: state[name] for name in ("n_features_in_", "feature_names_in_") if name in state}
        state["encoder_"] = own | features | {"_codebook": state.pop("_codebook")}
        state["_keys_were_frozen"] = frozen
        state["_learned_with"] = {"solver": state.get("solver", "counts"), "remember": state.get("remember", True)}
    return state


def _pack(name: str, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Describe a value in JSON; arrays go into the archive and are referenced by name."""
    if isinstance(value, np.ndarray):
        return _pack_array(name, value, arrays)
    if isinstance(value, csr_array):
        parts = {part: _pack(f"{name}.{part}", getattr(value, part), arrays) for part in ("data", "indices", "indptr")}
        return {"csr": parts, "shape": list(value.shape)}
    if isinstance(value, list) and value:
        return {"list": _pack(name, np.concatenate(value), arrays)}
    if isinstance(value, dict):
        return {"dict": [[_plain(name, key), _pack(f"{name}.{key}", item, arrays)] for key, item in value.items()]}
    if isinstance(value, list):
        return {"list": None}
    if isinstance(value, tuple):
        return {"tuple": [_plain(name, item) for item in value]}
    return _plain(name, value)


def _plain(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a model file cannot hold without pickle; expected finite numbers, "
        "text, arrays or None. Set it to one of these before saving."
    )


def _pack_array(name: str, array: np.ndarray, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    is_object = array.dtype.kind == "O"
    if is_object:
        if not all(isinstance(item, str) for item in array.flat):
            raise TypeError(
                f"{name} holds Python objects that are not text; expected labels of text or numbers. Convert them "
                "before fitting."
            )
        text = array.astype(str)
        if not np.array_equal(text, array):
            raise TypeError(
                f"{name} holds text that ends in NUL, which a model file cannot hold; expected text that does not end "
                "in NUL. Remove the NUL before fitting."
            )
        array = text
    arrays[name] = array
    return {"array": name, "object": is_object}


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        array = arrays[value["array"]]
        return array.astype(object) if value["object"] else array
    if "csr" in value:
        parts = [_unpack(value["csr"][part], arrays) for part in ("data", "indices", "indptr")]
        return csr_array(tuple(parts), shape=tuple(value["shape"]))
    if "tuple" in value:
        return tuple(value["tuple"])
    if "list" in value:
        return [] if value["list"] is None else [_unpack(value["list"], arrays)]
    return {key: _unpack(item, arrays) for key, item in value["dict"]}


def _publish(path: Path, header: str, arrays: Mapping[str, np.ndarray], compression: int) -> None:
    if _is_special(path):
        with path.open("wb") as file:
            return _write(file, header, arrays, compression)
    path = Path(os.path.realpath(path))
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with neighbour.open("wb") as file:
            _write(file, header, arrays, compression)
            file.flush()
            os.fsync(file.fileno())
        neighbour.replace(path)
    finally:
        neighbour.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Return whether a path leads to a device, pipe or socket, which must not be replaced."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _write(file: IO[bytes], header: str, arrays: Mapping[str, np.ndarray], compression: int) -> None:
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(zipfile.ZipInfo(_HEADER), header)
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = compression
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with path.open("rb") as file:
        try:
            return _read_archive(file, path.stat().st_size)
        except MemoryError:
            raise
        except Exception as error:  # zip, deflate, JSON and NumPy raise errors of many types
            raise _unreadable(path, str(error)) from error


def _read_archive(file: IO[bytes], length: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        _check_sizes(archive.infolist(), length)
        if members[_HEADER].file_size > MAX_HEADER_BYTES:
            raise ValueError(f"its header is longer than {MAX_HEADER_BYTES >> 20} MiB")
        header = json.loads(archive.read(_HEADER))
        _check_header(header)
        for name in members.keys() - {_HEADER}:
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = _read_array(member, members[name].file_size)
    return header, arrays


def _check_sizes(members: list[zipfile.ZipInfo], length: int) -> None:
    """Refuse an archive by its claimed sizes, before anything is unpacked."""
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it holds two entries with the same name")
    claimed = sum(member.file_size for member in members)
    largest = min(MAX_BYTES, MAX_INFLATION * length)
    if claimed > largest:
        raise ValueError(f"its {length:,} bytes claim to unpack to {claimed:,} bytes; expected at most {largest:,}")


def _read_array(member: IO[bytes], length: int) -> np.ndarray:
    """Read an array after checking that its header claims as many bytes as follow, before memory is allocated."""
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(member)
    if version not in reader:
        raise ValueError(f"an array has NumPy format {version}; expected (1, 0) or (2, 0)")
    shape, in_columns, dtype = reader[version](member)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != length - member.tell():
        raise ValueError(
            f"an array claims {dtype} with shape {shape} for {length - member.tell()} bytes; expected numbers or text "
            "of that size"
        )
    array = np.frombuffer(_exactly(member, length - member.tell()), dtype=dtype)
    return array.reshape(shape[::-1]).T if in_columns else array.reshape(shape)


def _exactly(member: IO[bytes], n_bytes: int) -> bytearray:
    content = bytearray(n_bytes)
    view, done = memoryview(content), 0
    while done < n_bytes:
        got = member.readinto(view[done : done + 2**20])  # type: ignore[attr-defined]
        if not got:
            raise EOFError(f"an array ends after {done:,} of {n_bytes:,} bytes")
        done += got
    return content


def _unreadable(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path.name} is not a readable model file ({why}); expected a file that save_model wrote. Restore it from a "
        "copy, run `dvc repro` to create it again, or update dkvb-estimator if a newer release wrote it."
    )


def _check_header(header: Any) -> None:
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("its header does not name the format " + FORMAT)
    if header.get("version") not in (1, FORMAT_VERSION):
        raise ValueError(
            f"it has version {header.get('version')}; expected 1 or {FORMAT_VERSION}, which this release reads"
        )
