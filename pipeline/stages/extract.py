"""The stage that embeds images with a frozen backbone, once.

Enters: a manifest and the settings of one ``embeddings`` entry. Leaves: a cache, its card, seconds. Must not know:
labels' meaning, estimators.

Every image goes through a batch of the same shape, the last one padded: so neither the batch size of the machine nor
where a killed extraction went on changes a bit of the result. Several processes share the work shard by shard: each
takes the next that nobody has taken, and one of them puts all shards together by their index.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from pipeline.cache import CacheHeader, SplitRows, describe_cache, file_sha256, open_cache, write_cache
from pipeline.config import Embeddings, load_params
from pipeline.data import Manifest, open_images, read_manifest
from pipeline.extraction import Batch, Forward, ShardStore, embed
from pipeline.io import check_files, helpers, share_of_threads

BATCH_ROWS = 32
"""Images of one forward pass: always this many, since results may differ in their last bits with the shape."""
SHARD_ROWS = 256
"""Images of one shard, which is what a killed extraction does not lose."""


@dataclass(frozen=True)
class Job:
    """Hold what an extraction is made of.

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
        """Return where the embeddings come from; its fingerprint covers everything that decides them."""
        backbone = self.record.record() | {"weights_sha256": weights_sha256(self.weights)}
        preprocessing = {
            "image_side": self.settings.image_side,
            "interpolation": self.record.interpolation,
            "crop_pct": self.record.crop_pct,
            "mean": list(self.record.mean),
            "std": list(self.record.std),
        }
        origin = {
            "backbone": backbone,
            "preprocessing": preprocessing,
            "tap": self.settings.layer,
            "compute_dtype": self.settings.compute_dtype,
            "storage_dtype": self.settings.storage_dtype,
            "manifest_sha256": self.manifest.sha256,
            "dataset": self.manifest.dataset,
        }
        fingerprint = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        return CacheHeader(fingerprint=fingerprint, class_names=self.manifest.class_names, **origin)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Computed:
    """Say what an extraction has computed since it began, itself and by its helpers.

    Parameters
    ----------
    images : int
        The rest was finished before.
    shards : tuple of int
        How many each process computed, this one's first.
    """

    images: int
    shards: tuple[int, ...]


def make_job(manifest: Manifest, settings: Embeddings) -> Job:
    """Return what an extraction is made of, its network found by name or by description, its weights on this machine.

    Raises
    ------
    ValueError
        If the network, its layer or its weights are not what the settings say.
    FileNotFoundError
        If the weights are not there; with what to type.
    """
    if isinstance(settings.network, str):
        record = find_backbone(settings.network, settings.layer)
        return Job(manifest, settings, record, find_weights(record))
    described = settings.network.recipe()
    record = describe_backbone(described, settings.layer, settings.image_side)
    return Job(manifest, settings, record, find_weights(record, described["file"]))


def extract(job: Job, output: str | Path, scratch: str | Path, *, device: str = "auto", workers: int = 2) -> Computed:
    """Embed the images of a manifest into a cache, going on from shards that an earlier try has finished.

    Parameters
    ----------
    job : Job
    output : str or Path
        The cache; it is replaced at the end, or stays as it was.
    scratch : str or Path
        Folder for shards.
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
        If an image is missing, damaged, or not the one that the manifest lists; the sample is named.
    RuntimeError
        If another process extracts the same embeddings.
    """
    header, place = job.header(), _device(device)
    with _telling_of_full_disks(scratch), ShardStore(scratch, shards_of(header.fingerprint, place)) as store:
        missing = _missing(store, job)
        _fill(store, job, missing, place, workers, wait=True)
        computed = _count(store, job, missing)
        splits = {name: _split_rows(store, job.manifest, name) for name in sorted(set(job.manifest.splits))}
        write_cache(output, header, splits)
        store.clear()
    return computed


def add_shards(
    job: Job,
    output: str | Path,
    scratch: str | Path,
    *,
    parent: int | None = None,
    device: str = "auto",
    workers: int = 2,
) -> int:
    """Embed images into shards beside an extraction that runs, or will run, elsewhere; see :func:`extract`.

    Shards that another process has are left to it. Where the cache is there already, nothing is done, unless the number
    of this one's parent is given: that one makes it anew, and when it has ended this one ends too, a shard later.

    Returns
    -------
    int
        Images embedded.
    """
    fingerprint = job.header().fingerprint
    if parent is None and _is_written(Path(output), fingerprint):
        return 0
    place = _device(device)
    shards = ShardStore(scratch, shards_of(fingerprint, place), helper=True, parent=parent)
    with _telling_of_full_disks(scratch), shards as store:
        return _fill(store, job, _missing(store, job), place, workers, wait=False)


def shards_of(fingerprint: str, device: torch.device) -> str:
    """Return the name of the shards of one kind of device: results of another differ in their last bits.

    Examples
    --------
    >>> shards_of("3f", torch.device("cpu")), shards_of("3f", torch.device("cuda:1"))
    ('3f', '3f-cuda')
    """
    return fingerprint if device.type == "cpu" else f"{fingerprint}-{device.type}"


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
            f"the disk is full ({os.strerror(error.errno)}); expected room for the shards in {scratch} and for the "
            "cache. What was finished is kept: free some space, then run the same command again.",
        ) from error


def _missing(store: ShardStore, job: Job) -> list[int]:
    finished = store.finished()
    return [index for index in range(-(-len(job.manifest.sample_ids) // SHARD_ROWS)) if index not in finished]


def _rows(job: Job, index: int) -> np.ndarray:
    """Return the rows of the manifest that a shard holds."""
    return np.arange(len(job.manifest.sample_ids))[index * SHARD_ROWS : (index + 1) * SHARD_ROWS]


def _count(store: ShardStore, job: Job, indices: list[int]) -> Computed:
    by_process = Counter(map(store.process_of, indices))
    own = [by_process.pop(os.getpid())] if os.getpid() in by_process else []
    others = sorted(by_process.values(), reverse=True)
    return Computed(sum(len(_rows(job, index)) for index in indices), (*own, *others))


def _fill(store: ShardStore, job: Job, missing: list[int], device: torch.device, workers: int, *, wait: bool) -> int:
    """Compute every missing shard that no other process has, with a progress bar; return the number of its images.

    At last, if told to wait, what others had and did not finish.
    """
    if not missing:
        return 0
    network = load_backbone(job.record, job.settings.layer, read_weights(job.weights))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # only the owner waits, so that nobody waits for one who waits, and shows a bar, which counts the others' shards too
    with _bar(job, sum(len(_rows(job, index)) for index in missing), hidden=not wait) as bar:
        embed_shards = partial(_embed, store, job, network, device, workers, bar)
        taken: list[int] = []
        embedded = embed_shards(_free(store, job, missing, taken, bar))
        if wait:
            embedded += embed_shards(_abandoned(store, job, taken, bar))
    return embedded


def _free(store: ShardStore, job: Job, indices: list[int], taken: list[int], bar: tqdm) -> Iterator[int]:
    """Yield the shards that this process has claimed, and list those that others have."""
    for index in indices:
        if store.claim(index):
            yield index
        else:
            taken.append(index)
            bar.update(len(_rows(job, index)))


def _abandoned(store: ShardStore, job: Job, taken: list[int], bar: tqdm) -> Iterator[int]:
    """Wait for each shard that another process has, and yield those that it did not finish."""
    for index in taken:
        if store.claim(index, wait=True):
            bar.update(-len(_rows(job, index)))  # counted too early
            yield index


def _embed(
    store: ShardStore,
    job: Job,
    network: nn.Module,
    device: torch.device,
    workers: int,
    bar: tqdm,
    shards: Iterable[int],
) -> int:
    """Compute shards and write each while the next is computed; return the number of their images."""
    prepare = preprocess(job.record, job.settings.image_side)
    forward = Forward(network, prepare, job.settings.compute_dtype, device)
    embedded, parts, writing = 0, [], Future[None]()
    writing.set_result(None)
    with ThreadPoolExecutor(1) as writer:
        for batch, found in embed(open_images(job.manifest), _batches(job, shards), forward, BATCH_ROWS, workers):
            _check_finite(found, batch.rows, job)
            parts.append(found)
            embedded += len(found)
            bar.update(len(found))
            if batch.is_last:
                writing.result()  # one shard waits to be written at a time, and its error is not lost
                writing = writer.submit(store.write, batch.shard, np.concatenate(parts))
                parts = []
        writing.result()
    return embedded


def _batches(job: Job, shards: Iterable[int]) -> Iterator[Batch]:
    for shard in shards:
        rows = _rows(job, shard)
        for start in range(0, len(rows), BATCH_ROWS):
            yield Batch(shard, rows[start : start + BATCH_ROWS], start + BATCH_ROWS >= len(rows))


def _bar(job: Job, n_images: int, *, hidden: bool = False) -> tqdm:
    # in a log, where every refresh becomes a line of its own, a few are enough
    live = sys.stderr.isatty()
    name, interval = f"extract {job.manifest.dataset}", 0.5 if live else 15.0
    return tqdm(total=n_images, unit=" images", desc=name, mininterval=interval, leave=not live, disable=hidden)


def _check_finite(embeddings: np.ndarray, rows: np.ndarray, job: Job) -> None:
    """Refuse NaN and infinity before they reach a shard: a later try would go on from it."""
    bad = ~np.isfinite(embeddings).all(axis=1)
    if bad.any():
        lower = job.settings.compute_dtype == "float16"
        raise ValueError(
            f"the embedding of sample {job.manifest.sample_ids[rows[bad.argmax()]]} holds NaN or infinity; expected "
            f"finite numbers of {job.record.id}. "
            + ("Set compute_dtype: float32 in params.yaml." if lower else f"Get {job.record.weights_file} again.")
        )


def _split_rows(store: ShardStore, manifest: Manifest, split: str) -> SplitRows:
    rows = np.flatnonzero(np.array(manifest.splits) == split)
    ids = [manifest.sample_ids[row] for row in rows]
    return SplitRows(_gather(store, rows), manifest.labels[rows], ids)


def _gather(store: ShardStore, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the embeddings of ascending rows, one shard at a time."""
    for index in np.unique(rows // SHARD_ROWS):
        here = rows[rows // SHARD_ROWS == index]
        yield store.read(int(index))[here - index * SHARD_ROWS]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    usable = torch.cuda.device_count() if kind == "cuda" else int(kind == "cpu")
    if (number or "0") not in map(str, range(usable)):
        raise ValueError(
            f"DKVB_DEVICE is {name!r}; expected auto, cpu or cuda (this machine has {torch.cuda.device_count()} CUDA "
            "devices). Set it to one that is there, or unset it."
        )
    return torch.device(name)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name} is {text!r}; expected a number, 1 or more. Correct it, or unset it.")
    return int(text)


def _helping(args: argparse.Namespace) -> list[str]:
    """Return the command of a process that helps this one."""
    options = {"params": args.params, "manifest": args.manifest, "output": args.output}
    options |= {"card": args.card, "timings": args.timings}
    command = [
        sys.executable,
        "-m",
        "pipeline.stages.extract",
        args.name,
        "--shards-only",
        "--parent",
        str(os.getpid()),
    ]
    return command + [part for name, value in options.items() for part in (f"--{name}", value)]


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = console.stage_parser(
        "extract",
        "Embed the images of a manifest with a frozen backbone. DKVB_DEVICE, DKVB_WORKERS, DKVB_PROCESSES "
        "and DKVB_SCRATCH say how; only another kind of device changes results, in their last bits.",
        {
            "--manifest": "manifest to read",
            "--output": "cache to write (.h5)",
            "--card": "JSON file to write: where the cache comes from, and its sha256",
            "--timings": "JSON file to write: seconds",
        },
        table="embeddings",
    )
    parser.add_argument(
        "--shards-only",
        action="store_true",
        help="help another process with the same options, which writes the files, and write none",
    )
    parser.add_argument("--parent", type=int, help="the process that started this helper, which ends with it")
    return parser


def main(args: argparse.Namespace) -> None:
    """Extract the entry that the arguments name and write the files that they name."""
    start = time.perf_counter()
    settings = load_params(args.params).embedding(args.name)
    job = make_job(read_manifest(args.manifest), settings)
    check_files([job.weights], [args.output, args.card, args.timings])
    if "-nc" in job.record.license.lower():
        console.say(f"extract {args.name}", f"the weights of {job.record.id} are licensed {job.record.license}")
    device, number = os.environ.get("DKVB_DEVICE", "auto"), _number("DKVB_PROCESSES", 1)
    workers = _number("DKVB_WORKERS", share_of_threads(number))
    scratch = os.environ.get("DKVB_SCRATCH", ".scratch")
    if args.shards_only:
        embedded = add_shards(job, args.output, scratch, parent=args.parent, device=device, workers=workers)
        console.say(f"extract {args.name}", f"{embedded:,} images in shards, for the process that writes the cache")
        return
    with helpers(_helping(args), number, device, workers):
        computed = extract(job, args.output, scratch, device=device, workers=workers)
    _report(args, job, computed, time.perf_counter() - start)


def _report(args: argparse.Namespace, job: Job, computed: Computed, seconds: float) -> None:
    card = describe_cache(args.output) | {"file_sha256": file_sha256(args.output)}
    if job.manifest.skipped:
        card["skipped_images"] = list(job.manifest.skipped)
    console.write_json(args.card, card)
    console.write_json(args.timings, {"seconds": round(seconds, 3), "images": computed.images})
    resumed = len(job.manifest.sample_ids) - computed.images
    note = f" ({resumed:,} were finished already)" if resumed else ""
    rate = f", {computed.images / seconds:.0f} images/s" if computed.images else ""
    if len(computed.shards) > 1:
        *most, last = map(str, computed.shards)
        rate += f", {len(computed.shards)} processes computed {', '.join(most)} and {last} shards"
    console.say(f"extract {args.name}", f"{computed.images:,} images{note}{rate} → {args.output}")


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
