"""Embed the images of a manifest with a frozen backbone, each image once, and write the cache.

Enters: a manifest, the settings of one ``embeddings`` entry, a scratch folder. Leaves: a cache, and a count of the
work. Must not know: the meaning of labels, command lines, estimators.

Rows that are already in the embedding store are reused; the others are computed and added block by block. The cache is
then written from the store. All batches have the same shape, the last one padded, so that neither the machine's batch
size nor earlier results change a bit of the result. Layers that are read in one pass have one store each; only layers
that some image lacks are read. Several processes share the work: each takes the next free block, and one of them writes
the cache.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from pipeline import cli as console
from pipeline.backbones import (
    Backbone,
    describe_backbone,
    find_backbone,
    find_weights,
    load_backbone,
    preprocess,
    read_weights,
    weights_sha256,
)
from pipeline.cache import CacheHeader, SplitRows, fingerprint_of, layers_in_order, open_cache, tap_of, write_cache
from pipeline.config import Embeddings
from pipeline.data import Manifest, open_images
from pipeline.extraction.claims import Claims
from pipeline.extraction.inference import Batch, Forward, embed
from pipeline.store import LostRowsError, SideBySide, image_names

BATCH_ROWS = 32
"""Images per forward pass: always this many, because the last bits of results may depend on the shape."""
BLOCK_ROWS = 256
"""Images per block of the store; a killed extraction keeps its finished blocks."""
RULES = 1
"""Version of the preparation and embedding of pixels: raised when rows would change, to invalidate old ones."""
ATTEMPTS = 3
"""How often lost rows of the store are computed again."""
_NOT_IN_ROWS = ("id", "weights_file", "weights_url", "sha256", "layers", "license", "paper", "package")
"""Fields of a network's record that change no bit of a row."""


@dataclass(frozen=True)
class Job:
    """The inputs of an extraction.

    Parameters
    ----------
    manifest : Manifest
    settings : Embeddings
    record : Backbone
    weights : Path
    """

    manifest: Manifest
    settings: Embeddings
    record: Backbone
    weights: Path

    def header(self) -> CacheHeader:
        """Return the origin of the embeddings; its fingerprint covers everything that determines them."""
        backbone = self.record.record() | {"weights_sha256": weights_sha256(self.weights)}
        preprocessing = {
            "image_side": self.settings.image_side,
            "interpolation": self.record.interpolation,
            "crop_pct": self.record.crop_pct,
            "mean": list(self.record.mean),
            "std": list(self.record.std),
        }
        names = self.settings.layer_names
        widths = {name: self.record.layers[name] for name in names} if len(names) > 1 else {}
        origin = {
            "backbone": backbone,
            "preprocessing": preprocessing,
            "tap": tap_of(names),
            "compute_dtype": self.settings.compute_dtype,
            "storage_dtype": self.settings.storage_dtype,
            "manifest_sha256": self.manifest.sha256,
            "dataset": self.manifest.dataset,
            "layers": layers_in_order(widths),
        }
        return CacheHeader(fingerprint=fingerprint_of(origin), class_names=self.manifest.class_names, **origin)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Computed:
    """The work of an extraction and its helpers since the start.

    Parameters
    ----------
    images : int
        The others were in the store, or are copies of another image.
    blocks : tuple of int
        Number that each process computed, this process first.
    """

    images: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Images that are computed together and become one block of the store.

    Parameters
    ----------
    name : str
        Derived from the images and their missing layers.
    rows : ndarray of shape (n,), int64
        Rows of the manifest.
    lacks : ndarray of shape (n, layers), bool
        Which layers of each are missing from the store.
    """

    name: str
    rows: np.ndarray
    lacks: np.ndarray


def make_job(manifest: Manifest, settings: Embeddings) -> Job:
    """Return the inputs of an extraction: find its network by name or description, and its weights on this machine.

    Raises
    ------
    ValueError
        If the network, its layer or its weights are not what the settings say.
    FileNotFoundError
        If the weights are missing; with the command to run.
    """
    if isinstance(settings.network, str):
        record = find_backbone(settings.network, settings.layer_names)
        return Job(manifest, settings, record, find_weights(record))
    described = settings.network.recipe()
    record = describe_backbone(described, settings.layer_names, settings.image_side)
    return Job(manifest, settings, record, find_weights(record, described["file"]))


def extract(job: Job, output: str | Path, scratch: str | Path, *, device: str = "auto", workers: int = 2) -> Computed:
    """Write the cache of a manifest; compute the rows that are not in the store.

    Parameters
    ----------
    job : Job
    output : str or Path
        The cache; it is replaced at the end, or left unchanged.
    scratch : str or Path
        Folder of the store, and of the claims of processes.
    device : str
    workers : int
        Threads that read and prepare images.

    Returns
    -------
    Computed

    Raises
    ------
    ValueError
        If the weights do not fit, or an embedding is not finite; the sample is named.
    OSError
        If an image is missing, damaged, or not the one that the manifest lists; the sample is named. If the store
        loses rows repeatedly.
    RuntimeError
        If another process extracts the same embeddings.
    """
    header, place = job.header(), _device(device)
    with _telling_of_full_disks(scratch), _claims(scratch, header, place) as claims:
        store = SideBySide(Path(scratch) / "store", networks_of(header, place))
        store.clear_leftovers()
        images, computed = image_names(job.manifest.digests), Counter[int]()
        for _ in range(ATTEMPTS):
            parts = _parts(store, job, images)
            _fill(store, claims, job, images, parts, place, workers, wait=True)
            computed += _count(claims, parts)
            try:
                _assemble(output, header, job, store, images)
            except LostRowsError as error:
                console.say(f"extract {job.manifest.dataset}", f"{error}; computing them again.")
                store.mend(error)
            else:
                claims.clear()
                return _computed(computed)
    raise OSError(
        f"rows of the store in {scratch} were lost {ATTEMPTS} times after they were computed; expected them to "
        "stay unchanged. Check the disk, and that no other program deletes them, then run the same command again."
    )


def add_blocks(
    job: Job,
    output: str | Path,
    scratch: str | Path,
    *,
    parent: int | None = None,
    device: str = "auto",
    workers: int = 2,
) -> int:
    """Add rows to the store beside an extraction that runs, or will run, elsewhere; see :func:`extract`.

    Blocks that another process has claimed are left to it. If the cache exists, nothing is done, unless the id of the
    parent process is given: the parent then rewrites the cache, and when it ends, this process ends one block later.

    Returns
    -------
    int
        Images embedded.
    """
    header = job.header()
    if parent is None and _is_written(Path(output), header.fingerprint):
        return 0
    place = _device(device)
    claims = _claims(scratch, header, place, helper=True, parent=parent)
    with _telling_of_full_disks(scratch), claims:
        store = SideBySide(Path(scratch) / "store", networks_of(header, place))
        images = image_names(job.manifest.digests)
        return _fill(store, claims, job, images, _parts(store, job, images, quiet=True), place, workers, wait=False)


def networks_of(header: CacheHeader, device: torch.device) -> list[dict[str, Any]]:
    """Return for each layer everything except the image that determines a row: rows of equal names have equal bytes.

    Other layers of the same pass have no influence. Another kind of processor, or another release of the libraries for
    decoding and computing, changes the last bits.
    """
    backbone = {name: value for name, value in header.backbone.items() if name not in _NOT_IN_ROWS}
    is_cpu = device.type == "cpu"
    kind = torch.backends.cpu.get_cpu_capability() if is_cpu else torch.cuda.get_device_name(device)
    names = [layer.name for layer in header.layers] or [header.tap]
    alike = {
        "backbone": backbone,
        "preprocessing": dict(header.preprocessing),
        "compute_dtype": header.compute_dtype,
        "storage_dtype": header.storage_dtype,
        "device": f"{device.type} {kind}",
        "libraries": {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "pillow")},
        "rules": RULES,
    }
    return [alike | {"layer": name} for name in names]


def _claims(scratch: str | Path, header: CacheHeader, device: torch.device, **options: Any) -> Claims:
    suffix = "" if device.type == "cpu" else f"-{device.type}"  # its rows differ in their last bits
    return Claims(Path(scratch) / "extractions", f"{header.fingerprint}{suffix}", **options)


def _is_written(path: Path, fingerprint: str) -> bool:
    try:
        with open_cache(path) as reader:
            return reader.header.fingerprint == fingerprint
    except (OSError, ValueError):
        return False


@contextmanager
def _telling_of_full_disks(scratch: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"the disk is full ({os.strerror(error.errno)}); expected space for the store in {scratch} and for the "
            "cache. Finished rows are kept. Free some space, then run the same command again.",
        ) from error


def _parts(store: SideBySide, job: Job, images: np.ndarray, *, quiet: bool = False) -> list[Part]:
    """Divide the images that are not in the store into blocks; images with the same bytes are computed once."""
    found, seen = store.look_up(images), set[str]()
    digests = job.manifest.digests
    fresh = [row for row in found.missing.tolist() if not (digests[row] in seen or seen.add(digests[row]))]  # type: ignore[func-returns-value]
    rows = np.array(fresh, np.int64)
    if not quiet:
        remarks = store.take_remarks()
        progress = [f"{len(images) - len(rows):,} known · {len(rows):,} to compute"] if len(images) else []
        console.say(f"extract {job.manifest.dataset}", *remarks, *progress)
    blocks, lacks = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)), found.lacks
    return [Part(_part_name(images[block], lacks[block]), block, lacks[block]) for block in blocks]


def _part_name(images: np.ndarray, lacks: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes() + lacks.tobytes()).hexdigest()[:32]


def _count(claims: Claims, parts: list[Part]) -> Counter[int]:
    """Return the number of images under 0, and the number of blocks of each process."""
    return Counter([claims.process_of(part.name) for part in parts]) + Counter({0: sum(len(p.rows) for p in parts)})


def _computed(counts: Counter[int]) -> Computed:
    images = counts.pop(0, 0)
    own = [counts.pop(os.getpid())] if os.getpid() in counts else []
    return Computed(images, (*own, *sorted(counts.values(), reverse=True)))


def _fill(
    store: SideBySide,
    claims: Claims,
    job: Job,
    images: np.ndarray,
    parts: list[Part],
    device: torch.device,
    workers: int,
    *,
    wait: bool,
) -> int:
    """Compute every part that no other process has claimed, with a progress bar; return the number of images.

    Finally, if told to wait, compute the parts that others did not finish.
    """
    if not parts:
        return 0
    columns = _columns(job, np.concatenate([part.lacks for part in parts]))
    layers = [job.settings.layer_names[position] for position in columns]
    network = load_backbone(job.record, layers, read_weights(job.weights))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # only the owner waits, which avoids deadlock, and shows a progress bar, which also counts the parts of others
    with _bar(job, sum(len(part.rows) for part in parts), hidden=not wait) as bar:
        keep = partial(_keep, store, claims, images, parts, columns)
        embed_parts = partial(_embed, keep, job, network, device, workers, bar)
        taken: list[int] = []
        embedded = embed_parts(parts, _free(claims, parts, taken, bar))
        if wait:
            embedded += embed_parts(parts, _abandoned(claims, parts, taken, bar))
    return embedded


def _columns(job: Job, lacks: np.ndarray) -> dict[int, slice]:
    """Return the columns in the network's output of the layers that any image lacks, by position."""
    positions = np.flatnonzero(lacks.any(axis=0)).tolist()
    if len(positions) == 1:
        return {positions[0]: slice(None)}
    stops = np.cumsum([job.record.layers[job.settings.layer_names[position]] for position in positions]).tolist()
    return {position: slice(*bounds) for position, bounds in zip(positions, zip([0, *stops], stops))}


def _free(claims: Claims, parts: list[Part], taken: list[int], bar: tqdm) -> Iterator[int]:
    """Yield the parts that this process claims, and list those of others."""
    for index, part in enumerate(parts):
        if claims.claim(part.name):
            yield index
        else:
            taken.append(index)
            bar.update(len(part.rows))


def _abandoned(claims: Claims, parts: list[Part], taken: list[int], bar: tqdm) -> Iterator[int]:
    """Wait for each part of another process, and yield the unfinished ones."""
    for index in taken:
        if claims.claim(parts[index].name, wait=True):
            bar.update(-len(parts[index].rows))  # counted too early
            yield index


def _keep(
    store: SideBySide,
    claims: Claims,
    images: np.ndarray,
    parts: list[Part],
    columns: Mapping[int, slice],
    index: int,
    rows: list[np.ndarray],
) -> None:
    """Round the rows of a part, one array per batch, and add the missing ones to the store, layer by layer."""
    every, part, written = np.concatenate(rows), parts[index], []
    for position, where in columns.items():
        layer, lacks = store.stores[position], part.lacks[:, position]
        if lacks.any():
            computed = every[lacks, where]
            stored = computed.astype(layer.network["storage_dtype"])
            rounding = np.abs(stored.astype(np.float64) - computed).max(axis=1)
            written.append(layer.add(images[part.rows[lacks]], stored, rounding))
    claims.finish(part.name, *written)


def _embed(
    keep: Callable[[int, list[np.ndarray]], None],
    job: Job,
    network: nn.Module,
    device: torch.device,
    workers: int,
    bar: tqdm,
    parts: list[Part],
    indices: Iterable[int],
) -> int:
    """Compute parts, and store each while the next is computed; return the number of images."""
    prepare = preprocess(job.record, job.settings.image_side)
    forward = Forward(network, prepare, job.settings.compute_dtype, device)
    embedded, rows, writing = 0, [], Future[None]()
    writing.set_result(None)
    with ThreadPoolExecutor(1) as writer:
        batches = _batches(parts, indices)
        for batch, found in embed(open_images(job.manifest), batches, forward, BATCH_ROWS, workers):
            _check_rows(found, batch.rows, job)
            rows.append(found)
            embedded += len(found)
            bar.update(len(found))
            if batch.is_last:
                writing.result()  # at most one part waits to be written, so that its error is not lost
                writing = writer.submit(keep, batch.block, rows)
                rows = []
        writing.result()
    return embedded


def _batches(parts: list[Part], indices: Iterable[int]) -> Iterator[Batch]:
    for index in indices:
        rows = parts[index].rows
        for start in range(0, len(rows), BATCH_ROWS):
            yield Batch(index, rows[start : start + BATCH_ROWS], start + BATCH_ROWS >= len(rows))


def _bar(job: Job, n_images: int, *, hidden: bool = False) -> tqdm:
    # in a log every refresh is a separate line, so a few are enough
    live = sys.stderr.isatty()
    name, interval = f"extract {job.manifest.dataset}", 0.5 if live else 15.0
    return tqdm(total=n_images, unit=" images", desc=name, mininterval=interval, leave=not live, disable=hidden)


def _check_rows(embeddings: np.ndarray, rows: np.ndarray, job: Job) -> None:
    """Refuse NaN, infinity and overflow before they reach the store: a later run would reuse them."""
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        lower = job.settings.compute_dtype == "float16"
        raise ValueError(
            f"the embedding of sample {job.manifest.sample_ids[rows[bad.argmax()]]} holds NaN or infinity; expected "
            f"finite numbers of {job.record.id}. "
            + ("Set compute_dtype: float32 in params.yaml." if lower else f"Get {job.record.weights_file} again.")
        )
    dtype = np.dtype(job.settings.storage_dtype)
    with np.errstate(over="ignore"):
        beyond = ~np.isfinite(embeddings.astype(dtype)).all(axis=1)
    if beyond.any():
        raise ValueError(
            f"the embedding of sample {job.manifest.sample_ids[rows[beyond.argmax()]]} overflows {dtype}; expected "
            f"magnitudes up to {np.finfo(dtype).max:g}. Set storage_dtype: float32 in params.yaml."
        )


def _assemble(output: str | Path, header: CacheHeader, job: Job, store: SideBySide, images: np.ndarray) -> None:
    """Write the cache from rows of the store; read each row once."""
    found = store.look_up(images)
    if len(found.missing):
        raise LostRowsError(store.folder, f"{len(found.missing)} rows of the store are missing")
    rounding, in_split = found.rounding, np.array(job.manifest.splits)
    splits = {}
    for name in sorted(set(job.manifest.splits)):
        rows = np.flatnonzero(in_split == name)
        ids = [job.manifest.sample_ids[row] for row in rows]
        blocks = store.windows(found, rows)
        splits[name] = SplitRows(blocks, job.manifest.labels[rows], ids, rounding[rows].max(initial=0.0))
    write_cache(output, header, splits)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    usable = torch.cuda.device_count() if kind == "cuda" else int(kind == "cpu")
    if (number or "0") not in map(str, range(usable)):
        raise ValueError(
            f"DKVB_DEVICE is {name!r}; expected auto, cpu or cuda (this machine has {torch.cuda.device_count()} "
            "CUDA devices). Set it to an existing device, or unset it."
        )
    return torch.device(name)
