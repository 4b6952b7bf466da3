"""The stage that embeds images with a frozen backbone, once.

Enters: a manifest and the settings of one ``embeddings`` entry. Leaves: a cache, its card, seconds. Must not know:
labels' meaning, estimators.

Every image goes through a batch of the same shape, the last one padded: so neither the batch size of the machine nor
where a killed extraction went on changes a bit of the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from pipeline import console
from pipeline.backbones import Backbone, find_backbone, preprocess
from pipeline.cache import CacheHeader, SplitRows, describe_cache, file_sha256, write_cache
from pipeline.datasets import Images, Manifest, open_images, read_manifest
from pipeline.inline_backbones import describe_backbone
from pipeline.locks import remove_leftovers
from pipeline.networks import load_backbone
from pipeline.params import Embeddings, load_params
from pipeline.shards import ShardStore
from pipeline.weights import find_weights, read_weights, weights_sha256

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
            "crop_ratio": self.record.crop_ratio,
            "mean": list(self.record.mean),
            "std": list(self.record.std),
        }
        origin = {
            "backbone": backbone,
            "preprocessing": preprocessing,
            "tap": self.settings.tap,
            "compute_dtype": self.settings.compute_dtype,
            "storage_dtype": self.settings.storage_dtype,
            "manifest_sha256": self.manifest.sha256,
            "dataset": self.manifest.dataset,
        }
        fingerprint = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
        return CacheHeader(fingerprint=fingerprint, class_names=self.manifest.class_names, **origin)  # type: ignore[arg-type]


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
        record = find_backbone(settings.network, settings.tap)
        return Job(manifest, settings, record, find_weights(record))
    described = settings.network.recipe()
    record = describe_backbone(described, settings.tap, settings.image_side)
    return Job(manifest, settings, record, find_weights(record, described["file"]))


def extract(job: Job, output: str | Path, scratch: str | Path, *, device: str = "auto", workers: int = 2) -> int:
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
    int
        Images embedded now; the rest came from shards.

    Raises
    ------
    ValueError
        If the weights do not fit, or an embedding is not finite; the sample is named.
    OSError
        If an image is missing, damaged, or not the one that the manifest lists; the sample is named.
    RuntimeError
        If another process extracts the same embeddings.
    """
    header = job.header()
    with ShardStore(scratch, header.fingerprint) as store:
        embedded = _fill(store, job, _device(device), workers)
        splits = {name: _split_rows(store, job.manifest, name) for name in sorted(set(job.manifest.splits))}
        remove_leftovers(Path(output))
        write_cache(output, header, splits)
        store.clear()
    return embedded


def _fill(store: ShardStore, job: Job, device: torch.device, workers: int) -> int:
    """Compute every shard that is not there yet, with a progress bar."""
    n = len(job.manifest.sample_ids)
    finished = store.finished()
    shards = [index for index in range(-(-n // SHARD_ROWS)) if index not in finished]
    if not shards:
        return 0
    network = load_backbone(job.record, job.settings.tap, read_weights(job.weights))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    todo = [np.arange(n)[index * SHARD_ROWS : (index + 1) * SHARD_ROWS] for index in shards]
    total = sum(map(len, todo))
    # in a log, where every refresh becomes a line of its own, a few are enough
    live = sys.stderr.isatty()
    name, interval = f"extract {job.manifest.dataset}", 0.5 if live else 15.0
    with tqdm(total=total, unit=" images", desc=name, mininterval=interval, leave=not live) as bar:
        batches = _prefetch(job, [batch for rows in todo for batch in _batches(rows)], workers)
        for index, rows in zip(shards, todo, strict=True):
            parts = []
            for batch in _batches(rows):
                found = _forward(network, next(batches), job.settings.compute_dtype, device)[: len(batch)]
                _check_finite(found, batch, job)
                parts.append(found)
                bar.update(len(batch))
            store.write(index, np.concatenate(parts))
    return total


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]


def _prefetch(job: Job, batches: list[np.ndarray], workers: int) -> Iterator[torch.Tensor]:
    """Yield prepared batches in order, while threads read and prepare the next few."""
    images, prepare = open_images(job.manifest), preprocess(job.record, job.settings.image_side)
    ahead = 2
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting = [pool.map(lambda row: _load(images, prepare, row), rows.tolist()) for rows in batches[:ahead]]
        for position in range(len(batches)):
            if position + ahead < len(batches):
                rows = batches[position + ahead]
                waiting.append(pool.map(lambda row: _load(images, prepare, row), rows.tolist()))
            batch = torch.stack(list(waiting[position]))
            waiting[position] = iter(())
            padding = batch.new_zeros((BATCH_ROWS - len(batch), *batch.shape[1:]))
            yield torch.cat([batch, padding]) if len(padding) else batch


def _load(images: Images, prepare: Callable[[Image.Image], torch.Tensor], row: int) -> torch.Tensor:
    return prepare(images[row])


def _forward(network: nn.Module, batch: torch.Tensor, compute_dtype: str, device: torch.device) -> np.ndarray:
    batch = batch.to(device, memory_format=torch.channels_last, non_blocking=True)
    lower = compute_dtype != "float32"
    with torch.inference_mode(), torch.autocast(device.type, dtype=getattr(torch, compute_dtype), enabled=lower):
        return network(batch).float().cpu().numpy()


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


def _workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"DKVB_WORKERS is {text!r}; expected a number of threads, 1 or more. Correct it, or unset it.")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line of this stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.extract",
        description="Embed the images of a manifest with a frozen backbone. DKVB_DEVICE, DKVB_WORKERS and DKVB_SCRATCH "
        "say how; they change no result.",
    )
    parser.add_argument("name", help="an entry of embeddings in the settings file")
    for option, text in {
        "--params": "settings file to read",
        "--manifest": "manifest to read",
        "--output": "cache to write (.h5)",
        "--card": "JSON file to write: where the cache comes from, and its sha256",
        "--timings": "JSON file to write: seconds",
    }.items():
        parser.add_argument(option, required=True, help=text)
    return parser


def main(args: argparse.Namespace) -> None:
    """Extract the entry that the arguments name and write the files that they name."""
    start = time.perf_counter()
    settings = load_params(args.params).embedding(args.name)
    job = make_job(read_manifest(args.manifest), settings)
    if "-nc" in job.record.licence.lower():
        console.say(f"extract {args.name}", f"the weights of {job.record.id} are licensed {job.record.licence}")
    embedded = extract(
        job,
        args.output,
        os.environ.get("DKVB_SCRATCH", ".scratch"),
        device=os.environ.get("DKVB_DEVICE", "auto"),
        workers=_workers(os.environ.get("DKVB_WORKERS", str(os.cpu_count() or 1))),
    )
    seconds = time.perf_counter() - start
    console.write_json(args.card, describe_cache(args.output) | {"file_sha256": file_sha256(args.output)})
    console.write_json(args.timings, {"seconds": round(seconds, 3), "images": embedded})
    resumed = len(job.manifest.sample_ids) - embedded
    note = f" ({resumed:,} were finished already)" if resumed else ""
    rate = f", {embedded / seconds:.0f} images/s" if embedded else ""
    console.say(f"extract {args.name}", f"{embedded:,} images{note}{rate} → {args.output}")


if __name__ == "__main__":
    raise SystemExit(console.run(main, build_parser()))
