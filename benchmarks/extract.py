"""Does extraction keep its network busy?

``python benchmarks/extract.py [IMAGES] [n_images]``: EfficientNet-Lite0 over photographs (default: those of
``shared/data/cifar10-images`` beside the checkout, 512 of them), at 96 and 224 px: read, decoded, prepared, embedded,
checked and written to shards, by as many threads as there are cores. The rival is a bare loop of forward passes over
batches of the same shape that lie ready in memory. Loading the network and writing the cache, seconds whatever the
number of images, are left out. In turns, the best of three. Prints JSON lines; exits with 1 below the goal, which is
that of 224 px: at 96 px this network takes so little that reading an image, on the same cores, is a tenth of the work.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features
from pipeline import extract as stage
from pipeline.backbones import preprocess
from pipeline.datasets import build_manifest, open_images
from pipeline.networks import load_backbone
from pipeline.params import Embeddings
from pipeline.shards import ShardStore
from pipeline.weights import read_weights

GOALS, REPEATS = {96: 0.0, 224: 0.95}, 3


def job_of(images, n_images, side):
    """Return the extraction of some photographs of a folder, evenly spread over it."""
    manifest = build_manifest("photographs", {"kind": "folder", "root": str(images), "test_fraction": 0.2, "seed": 0})
    rows = np.linspace(0, len(manifest.labels) - 1, min(n_images, len(manifest.labels))).astype(int)
    few = {
        field: tuple(np.array(getattr(manifest, field))[rows].tolist()) for field in ("sample_ids", "splits", "digests")
    }
    settings = Embeddings(
        dataset="photographs", backbone="efficientnet_lite0", tap="avgpool", image_side=side,
        compute_dtype="float32", storage_dtype="float16",
    )  # fmt: skip
    return stage.make_job(replace(manifest, labels=manifest.labels[rows], **few), settings)


def bare(network, batches):
    """Forward passes over batches in memory, and nothing else."""
    with torch.inference_mode():
        for batch in batches:
            network(batch)


def measure(images, n_images, side, threads):
    """Time both at one side, print a line, and return whether the goal is met."""
    job, device = job_of(images, n_images, side), torch.device("cpu")
    network = load_backbone(job.record, "avgpool", read_weights(job.weights)).to(memory_format=torch.channels_last)
    prepare, opened = preprocess(job.record, side), open_images(job.manifest)
    n_images = len(opened) // stage.BATCH_ROWS * stage.BATCH_ROWS
    batches = [
        torch.stack([prepare(opened[row]) for row in range(start, start + stage.BATCH_ROWS)])
        for start in range(0, n_images, stage.BATCH_ROWS)
    ]
    batches = [batch.to(memory_format=torch.channels_last) for batch in batches]
    bare(network, batches[:2])
    shards = range(-(-n_images // stage.SHARD_ROWS))
    seconds = {"ours": np.inf, "theirs": np.inf}
    for attempt in range(REPEATS):
        begun = time.perf_counter()
        bare(network, batches)
        seconds["theirs"] = min(seconds["theirs"], time.perf_counter() - begun)
        with tempfile.TemporaryDirectory() as folder, ShardStore(folder, str(attempt)) as store:
            begun = time.perf_counter()
            with stage._bar(job, len(shards)) as bar:
                stage._embed(store, job, network, device, threads, bar, shards)
            seconds["ours"] = min(seconds["ours"], time.perf_counter() - begun)
    rate = {"ours": len(opened) / seconds["ours"], "theirs": n_images / seconds["theirs"]}
    ratio, goal = rate["ours"] / rate["theirs"], GOALS[side]
    line = {"name": f"extraction at {side} px against bare forward passes", "ratio": round(ratio, 3)}
    line |= {"ours": round(rate["ours"], 1), "theirs": round(rate["theirs"], 1), "unit": "images/s"}
    line |= {"goal": goal or "", "met": bool(ratio >= goal), "n_images": len(opened), "threads": threads}
    print(json.dumps(line), flush=True)
    return ratio >= goal


def main():
    words = sys.argv[1:]
    images = Path(words[0]) if words else features.SHARED / "data" / "cifar10-images"
    n_images = int(words[1]) if len(words) > 1 else 512
    if not images.is_dir():
        raise SystemExit(f"{images} is no folder of images; give the path of one as the first argument")
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    met = [measure(images, n_images, side, threads) for side in GOALS]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
