"""Convert NumPy arrays to torch tensors on a device, and cache what is derived from them.

Enters: arrays. Leaves: tensors, kept until the arrays behind them change. Must not know: what the arrays mean.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def resolve_device(device: str) -> torch.device:
    """Return the named torch device; ``"auto"`` is CUDA if available, else the CPU.

    Raises
    ------
    ValueError
        If torch does not know the name, or the machine lacks the device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not a torch device; expected 'auto', 'cpu' or 'cuda'. Pass one of these."
        ) from error
    if found.type == "meta":
        raise ValueError(f"device={device!r} cannot compute; expected 'auto', 'cpu' or 'cuda'. Pass one of these.")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} needs CUDA, which torch does not find; expected a machine with CUDA. Use device='auto' "
            "or 'cpu'."
        )
    try:
        torch.empty(0, dtype=torch.uint8, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} does not work here ({str(error).partition('. ')[0]}); expected 'auto', 'cpu' or "
            "'cuda'. Pass one of these."
        ) from error
    return found


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device; unsigned integers become int64, the type that torch indexes with."""
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    if not array.flags.writeable:
        array = array.copy()  # torch warns about sharing read-only memory
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


class DeviceCache:
    """Cache of derived objects that threads share; each is computed once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._items: dict[str, tuple[Any, Any]] = {}
        _CACHES.add(self)

    def __reduce__(self) -> tuple[type[DeviceCache], tuple[()]]:
        """Pickle as an empty cache."""
        return DeviceCache, ()

    def get(self, name: str, make: Callable[[], Any], made_from: Any = None) -> Any:
        """Return an item; compute it if it is missing or was made from something else."""
        with self._lock:
            if name not in self._items or self._items[name][0] != made_from:
                self._items[name] = made_from, make()
            return self._items[name][1]

    def renew(self, name: str, make: Callable[[Any], Any], made_from: Any) -> Any:
        """Return what ``make`` returns for an item, and cache it; for None if it was made from something else."""
        with self._lock:
            known, item = self._items.get(name, (None, None))
            self._items[name] = made_from, make(item if known == made_from else None)
            return self._items[name][1]

    def drop(self, *names: str) -> None:
        """Drop items, because what they were made from has changed."""
        with self._lock:
            for name in names:
                self._items.pop(name, None)


_CACHES: weakref.WeakSet[DeviceCache] = weakref.WeakSet()


def _after_fork() -> None:
    """Make a forked process usable: it has one thread, and copies of locks that lost threads may hold."""
    torch.set_num_threads(1)
    for cache in list(_CACHES):
        cache._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
