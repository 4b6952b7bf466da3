"""Cross between NumPy state and torch tensors on a device.

Enters: arrays. Leaves: tensors, made once and kept until the state behind them changes. Must not know: what the
arrays mean.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def resolve_device(device: str) -> torch.device:
    """Return the named torch device; ``"auto"`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ValueError
        If the name is none that torch knows, or CUDA is asked for where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a torch device; expected 'auto', 'cpu' or 'cuda'. Pass one."
        ) from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} asks for CUDA; expected a machine that has it. Use device='auto' or 'cpu'."
        )
    return found


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Bring an array to a device; unsigned integers become int64, since torch indexes with nothing smaller."""
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    if not array.flags.writeable:
        array = array.copy()  # torch warns about sharing memory that must not be written
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


class DeviceCache:
    """Hold derived tensors, each made once, by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: dict[str, Any] = {}

    def __reduce__(self) -> tuple[type[DeviceCache], tuple[()]]:
        """Travel empty: what is derived is made again where it is wanted."""
        return DeviceCache, ()

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the item, making it if it is not there."""
        with self._lock:
            if name not in self._items:
                self._items[name] = make()
            return self._items[name]

    def drop(self, *names: str) -> None:
        """Forget items, because what they were made from changed."""
        with self._lock:
            for name in names:
                self._items.pop(name, None)
