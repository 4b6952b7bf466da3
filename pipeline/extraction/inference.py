"""Embed images batch by batch; read the next while one is computed.

Enters: images by row, a network and its preprocessing. Leaves: the embeddings of each batch, in order. Must not know:
blocks, manifests, caches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from pipeline.backbones import Preprocessing
from pipeline.data import Images

AHEAD = 2
"""Number of batches that are read and prepared while others are computed."""
MAX_LANES = 4
"""Number of batches that are computed at once: each needs memory, half a gigabyte in a wide network."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Rows that go through the network together.

    Parameters
    ----------
    block : int
        The block of the rows.
    rows : ndarray of shape (n,), int64
    is_last : bool
        Whether they are the last of the block.
    """

    block: int
    rows: np.ndarray
    is_last: bool


@dataclass(frozen=True)
class Forward:
    """Turn pixels into embeddings on a device.

    Parameters
    ----------
    network : nn.Module
        On the device.
    prepare : Preprocessing
    compute_dtype : {"float32", "bfloat16", "float16"}
    device : torch.device
    """

    network: nn.Module
    prepare: Preprocessing
    compute_dtype: str
    device: torch.device

    def __call__(self, pixels: torch.Tensor) -> np.ndarray:
        """Return the embeddings (n, f), float32, of pixels (n, side, side, 3), uint8."""
        batch = self.prepare.scale(pixels.to(self.device, non_blocking=True)).to(memory_format=torch.channels_last)
        dtype, lower = getattr(torch, self.compute_dtype), self.compute_dtype != "float32"
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=lower):
            return self.network(batch).float().cpu().numpy()


def embed(
    images: Images, batches: Iterable[Batch], forward: Forward, batch_rows: int, workers: int
) -> Iterator[tuple[Batch, np.ndarray]]:
    """Yield batches in order with their embeddings.

    Parameters
    ----------
    images : Images
    batches : iterable of Batch
    forward : Forward
    batch_rows : int
        Rows of every batch that is computed: shorter ones are padded with black images.
    workers : int
        Threads that read and prepare images.

    Yields
    ------
    batch : Batch
    embeddings : ndarray of shape (n, f), float32
    """
    reading = closing(
        _read(images, batches, forward.prepare, batch_rows, workers)
    )  # its threads end after an error too
    with _lanes(forward.device) as (lanes, n_lanes), reading as read:
        begun = ((batch, lanes.submit(forward, pixels)) for batch, pixels in read)
        for batch, computing in _once_begun(begun, n_lanes):
            yield batch, computing.result()[: len(batch.rows)]


@contextmanager
def _lanes(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Run forward passes of several batches at once, sharing the threads of the processor.

    Threads that compute one batch together wait for each other whenever a thread that reads images interrupts one.
    """
    usual = torch.get_num_threads()
    n_lanes = max(n for n in range(1, MAX_LANES + 1) if usual % n == 0) if device.type == "cpu" else 1
    each = usual // n_lanes
    torch.set_num_threads(each)
    try:
        with ThreadPoolExecutor(n_lanes, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            yield pool, n_lanes
    finally:
        torch.set_num_threads(usual)


def _once_begun(items: Iterable[Item], n_more: int) -> Iterator[Item]:
    """Yield items in order, with several more already started, so that workers are never idle."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > n_more:
            yield waiting.popleft()
    yield from waiting


def _read(
    images: Images, batches: Iterable[Batch], prepare: Preprocessing, batch_rows: int, workers: int
) -> Generator[tuple[Batch, torch.Tensor], None, None]:
    """Yield batches in order with their pixels, while threads read and prepare the next few.

    These threads do not call torch: each would start torch threads, which would compete with the network.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:

        def begin(batch: Batch) -> tuple[Batch, np.ndarray, Iterator[None]]:
            pixels = np.zeros((batch_rows, prepare.side, prepare.side, 3), np.uint8)
            return batch, pixels, pool.map(partial(_load, images, prepare), batch.rows.tolist(), pixels)

        for batch, pixels, loading in _once_begun(map(begin, batches), AHEAD):
            deque(loading, maxlen=0)  # waits for every image, and raises the first error
            yield batch, torch.from_numpy(pixels)


def _load(images: Images, prepare: Preprocessing, row: int, pixels: np.ndarray) -> None:
    pixels[...] = prepare.pixels(images[row])
