"""Does extraction keep its network busy?

``python benchmarks/extract.py [IMAGES] [n_images] [image_side]``: EfficientNet-Lite0 over photographs (default: those
of ``shared/data/cifar10-images`` beside the checkout, 4,096 of them, at 96 px), read, decoded, prepared, embedded,
checked and written to shards and a cache, by as many threads as there are cores. The rival is a bare loop of forward
passes over batches of the same shape that lie ready in memory. Starting the process that checks the cache is part of
our time, some seconds whatever the number of images. In turns, the best of two. Prints JSON lines; exits
with 1 below the goal.
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
from pipeline.weights import read_weights

GOAL, REPEATS = 0.95, 2


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


def main():
    words = sys.argv[1:]
    images = Path(words[0]) if words else features.SHARED / "data" / "cifar10-images"
    n_images, side = (int(word) for word in (*words[1:], *("4096", "96")[len(words[1:]) :]))
    if not images.is_dir():
        raise SystemExit(f"{images} is no folder of images; give the path of one as the first argument")
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    job = job_of(images, n_images, side)
    n_images = len(job.manifest.labels)
    network = load_backbone(job.record, "avgpool", read_weights(job.weights)).to(memory_format=torch.channels_last)
    prepare, opened = preprocess(job.record, side), open_images(job.manifest)
    rows = [range(start, min(start + stage.BATCH_ROWS, n_images)) for start in range(0, n_images, stage.BATCH_ROWS)]
    batches = [torch.stack([prepare(opened[row]) for row in part]) for part in rows]
    batches = [batch.to(memory_format=torch.channels_last) for batch in batches]
    seconds = {"ours": np.inf, "theirs": np.inf}
    bare(network, batches[:2])
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "theirs": lambda: bare(network, batches),
            "ours": lambda: stage.extract(job, f"{folder}/a.h5", folder, device="cpu", workers=threads),
        }
        for _ in range(REPEATS):
            for name, call in calls.items():
                begun = time.perf_counter()
                call()
                seconds[name] = min(seconds[name], time.perf_counter() - begun)
    rate = {name: n_images / spent for name, spent in seconds.items()}
    ratio = rate["ours"] / rate["theirs"]
    line = {"name": f"extraction at {side} px against bare forward passes", "ratio": round(ratio, 3)}
    line |= {"ours": round(rate["ours"], 1), "theirs": round(rate["theirs"], 1), "unit": "images/s", "goal": GOAL}
    print(json.dumps(line | {"met": bool(ratio >= GOAL), "n_images": n_images, "threads": threads}), flush=True)
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
