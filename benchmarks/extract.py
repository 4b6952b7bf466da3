"""Does extraction keep its network busy?

``python benchmarks/extract.py [IMAGES] [n_images]`` runs EfficientNet-Lite0 over photographs (default: 512 of those in
``shared/data/cifar10-images`` beside the checkout) at 96 and 224 px. Images are read, decoded, prepared, embedded,
checked and added to the store, with one thread per core. The reference is a bare loop of forward passes over batches of
the same shape in memory. Loading the network and writing the cache are left out: their time hardly depends on the
number of images. Both run alternately, five times. ``ratio`` is the median over pairs of consecutive runs, ``best`` the
ratio of the best times. Prints JSON lines; exits with 1 below the goal at 224 px.

Readers and network share the cores. ``read_ms`` is the processor time per image of reading and preparing,
``forward_ms`` that of the forward pass in the bare loop. The bare loop computes one batch on all threads, which wait
for each other. Extraction computes one batch per thread, which may gain more time than reading costs.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features
from pipeline.backbones import load_backbone, preprocess, read_weights
from pipeline.config import Embeddings
from pipeline.data import build_manifest, open_images
from pipeline.extraction import Claims
from pipeline.extraction import job as extraction
from pipeline.store import SideBySide, image_names

GOALS, REPEATS = {96: 0.0, 224: 0.95}, 5


def job_of(images, n_images, side):
    """Return the extraction of some photographs, spread evenly over a folder, in complete batches."""
    manifest = build_manifest("photographs", {"kind": "folder", "root": str(images), "test_fraction": 0.2, "seed": 0})
    n_images = min(n_images, len(manifest.labels)) // extraction.BATCH_ROWS * extraction.BATCH_ROWS
    rows = np.linspace(0, len(manifest.labels) - 1, n_images).astype(int)
    few = {
        field: tuple(np.array(getattr(manifest, field))[rows].tolist()) for field in ("sample_ids", "splits", "digests")
    }
    settings = Embeddings(
        dataset="photographs", backbone="efficientnet_lite0", layer="avgpool", image_side=side,
        compute_dtype="float32", storage_dtype="float16",
    )  # fmt: skip
    return extraction.make_job(replace(manifest, labels=manifest.labels[rows], **few), settings)


def bare(network, batches):
    """Run forward passes over batches in memory, and nothing else."""
    with torch.inference_mode():
        for batch in batches:
            network(batch)


def measure(images, n_images, side, threads):
    """Time both at one side, print a line, and return whether the goal is met."""
    job, device = job_of(images, n_images, side), torch.device("cpu")
    network = load_backbone(job.record, "avgpool", read_weights(job.weights)).to(memory_format=torch.channels_last)
    n_images = len(job.manifest.sample_ids)
    begun = time.process_time()
    batches = list(read(job, side))
    read_cpu = time.process_time() - begun
    bare(network, batches[:2])
    images, networks = image_names(job.manifest.digests), extraction.networks_of(job.header(), device)
    ours, theirs = [], []
    for attempt in range(REPEATS):
        theirs.append(seconds(partial(bare, network, batches)))
        bar = extraction._bar(job, n_images)
        with tempfile.TemporaryDirectory() as folder, Claims(folder, str(attempt)) as claims, bar:
            store = SideBySide(folder, networks)
            parts = extraction._parts(store, job, images, quiet=True)
            keep = partial(extraction._keep, store, claims, images, parts, {0: slice(None)})
            free = extraction._free(claims, parts, [], bar)
            ours.append(seconds(partial(extraction._embed, keep, job, network, device, threads, bar, parts, free)))
    return report(side, threads, n_images, np.array(ours), np.array(theirs), read_cpu)


def read(job, side):
    """Read and prepare all images, one after the other, and yield them in batches."""
    prepare, opened = preprocess(job.record, side), open_images(job.manifest)
    for start in range(0, len(opened), extraction.BATCH_ROWS):
        pixels = np.stack([prepare.pixels(opened[row]) for row in range(start, start + extraction.BATCH_ROWS)])
        yield prepare.scale(torch.from_numpy(pixels))


def seconds(work):
    """Return the wall-clock and the processor seconds of some work."""
    begun = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun[0], time.process_time() - begun[1]


def report(side, threads, n_images, ours, theirs, read_cpu):
    """Print a line for wall-clock and processor times (repeat, 2), and return whether the goal is met."""
    (clock, _), (their_clock, forward_cpu) = np.median(ours, axis=0), np.median(theirs, axis=0)
    ratio, goal = float(np.median(theirs[:, 0] / ours[:, 0])), GOALS[side]
    line = {"name": f"extraction at {side} px against bare forward passes", "ratio": round(ratio, 3)}
    line |= {"ours": round(n_images / clock, 1), "theirs": round(n_images / their_clock, 1), "unit": "images/s"}
    line |= {"goal": goal or "", "met": bool(ratio >= goal)}
    line |= {"best": round(float(theirs[:, 0].min() / ours[:, 0].min()), 3)}
    line |= {"read_ms": round(1000 * read_cpu / n_images, 2), "forward_ms": round(1000 * forward_cpu / n_images, 2)}
    print(json.dumps(line | {"n_images": n_images, "threads": threads}), flush=True)
    return ratio >= goal


def main():
    words = sys.argv[1:]
    images = Path(words[0]) if words else features.SHARED / "data" / "cifar10-images"
    n_images = int(words[1]) if len(words) > 1 else 512
    if not images.is_dir():
        raise SystemExit(f"{images} is not a folder; expected a folder of images. Pass its path as the first argument.")
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    met = [measure(images, n_images, side, threads) for side in GOALS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
