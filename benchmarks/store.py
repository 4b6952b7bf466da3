"""What does an extraction cost when most of its rows are known?

``python benchmarks/store.py [SHARED]`` extracts 6,000 photographs (``data/cifar10-images`` in the shared folder beside
the checkout) with MobileNetV2 at 96 px and one thread per core: from scratch, with nothing new, and with one new image
in a hundred. These alternate three times. Each includes loading the weights and checking the cache in a separate
process. ``ratio`` is the time relative to the extraction from scratch, in processor seconds, which do not depend on
other programs; ``by_clock`` is the same in wall-clock seconds. For new images it is the cost beyond a run with nothing
new, which only copies. Then it measures the additional memory of building a cache, for synthetic stores of growing
size, and the look-up of a million names. Prints JSON lines; exits with 1 if a goal is missed.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features
from pipeline.data import build_manifest
from pipeline.extraction import extract, make_job

REPEATS, NEW_GOAL, SAME_GOAL, MEMORY_GOAL = 3, 0.03, 0.05, 256
SIZES = (100_000, 400_000)
ASSEMBLE = """
import json, sys
from pathlib import Path
import numpy as np
from pipeline.cache import CacheHeader, SplitRows, write_cache
from pipeline.store import EmbeddingStore
n, folder = int(sys.argv[1]), Path(sys.argv[2])
rng = np.random.default_rng(0)
images = rng.integers(0, 2**63, (n, 4), np.uint64)
store = EmbeddingStore(folder / "store", {})
for start in range(0, n, 256):
    here = images[start : start + 256]
    store.add(here, rng.normal(size=(len(here), 1280)).astype(np.float16), np.zeros(len(here)))
order = rng.permutation(n) if sys.argv[3] == "shuffled" else np.arange(n)
ids = [f"class_{row % 100:03d}/image_{row:08d}.jpg" for row in order]
found, rows = store.look_up(images[order]), np.arange(n)
header = CacheHeader("f", {"id": "b"}, {}, "t", "float32", "float16", "m", "d", tuple(map(str, range(100))))

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
write_cache(folder / "c.h5", header, {"train": SplitRows(store.windows(found, rows), order % 100, ids)})
print(json.dumps(resident("VmHWM") - before))
"""
LOOK_UP = """
import json, time
from pathlib import Path
import numpy as np
from pipeline.store import places_among
rng = np.random.default_rng(0)
known = rng.integers(0, 2**63, (1_000_000, 4), np.uint64)
asked = np.concatenate([rng.permutation(known)[:990_000], rng.integers(0, 2**63, (10_000, 4), np.uint64)])

def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024

Path("/proc/self/clear_refs").write_text("5")
begun, before = time.perf_counter(), resident("VmRSS")
assert (places_among(asked, known) < 0).sum() == 10_000
print(json.dumps([time.perf_counter() - begun, resident("VmHWM") - before]))
"""


def job_of(shared):
    """Return the extraction of all photographs."""
    root = features._there(Path(shared) / "data" / "cifar10-images")
    manifest = build_manifest("photographs", {"kind": "folder", "root": str(root)})
    return make_job(manifest, features._settings("photographs", "mobilenet", shared))


def without(job, new):
    """Return the job without some of the images."""
    rows = np.setdiff1d(np.arange(len(job.manifest.labels)), new)
    few = {f: tuple(getattr(job.manifest, f)[r] for r in rows) for f in ("sample_ids", "splits", "digests")}
    return replace(job, manifest=replace(job.manifest, labels=job.manifest.labels[rows], **few))


def seconds(job, folder, name):
    """Return the processor seconds of an extraction, including child processes, and the wall-clock seconds."""
    begun = os.times()
    extract(job, folder / f"{name}.h5", folder / "scratch", device="cpu", workers=os.cpu_count() or 1)
    *spent, passed = (end - start for start, end in zip(begun, os.times(), strict=True))
    return np.array([sum(spent), passed])


def one_turn(job, seed):
    """Return the seconds from scratch, with nothing new, and with one new image in a hundred."""
    new = np.random.default_rng(seed).choice(len(job.manifest.labels), len(job.manifest.labels) // 100, replace=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = seconds(job, folder, "a")
        same = seconds(job, folder, "b")
        equal = (folder / "a.h5").read_bytes() == (folder / "b.h5").read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds(without(job, new), folder, "a")
        return whole, same, seconds(job, folder, "b"), equal


def tell(name, ratio, ours, theirs, unit, goal, **more):
    """Print a line, and return whether the goal is met."""
    line = {"name": name, "ratio": round(ratio, 4), "ours": round(ours, 3), "theirs": round(theirs, 3), "unit": unit}
    print(json.dumps(line | {"goal": goal, "met": bool(ratio <= goal)} | more), flush=True)
    return ratio <= goal


def measured(code, *arguments):
    """Run code in a separate process and return its output."""
    with tempfile.TemporaryDirectory() as folder:
        words = [word.replace("FOLDER", folder) for word in arguments]
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, cwd=features.ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main():
    torch.set_num_threads(os.cpu_count() or 1)
    job = job_of(sys.argv[1] if len(sys.argv) > 1 else features.SHARED)
    turns = [one_turn(job, seed) for seed in range(REPEATS)]
    whole, same, new = np.median([turn[:3] for turn in turns], axis=0)
    met = [all(turn[3] for turn in turns)]
    for name, more, ours, goal in (
        ("extraction with nothing new", same, same, SAME_GOAL),
        ("one image in a hundred new, beyond copying", new - same, new, NEW_GOAL),
    ):
        share, by_clock = (more / whole).tolist()
        met.append(tell(name, share, float(ours[0]), float(whole[0]), "s", goal, by_clock=round(by_clock, 4)))
    for n, order in ((SIZES[0], "in order"), (SIZES[1], "in order"), (SIZES[0], "shuffled")):
        peak = measured(ASSEMBLE, str(n), "FOLDER", order)
        name = f"memory of assembling {n:,} rows, {order}"
        met.append(tell(name, peak / MEMORY_GOAL, peak, MEMORY_GOAL, "MiB", 1))
    spent, peak = measured(LOOK_UP)
    met.append(
        tell("memory of looking up a million names among a million", peak / MEMORY_GOAL, peak, MEMORY_GOAL, "MiB", 1)
    )
    print(json.dumps({"name": "looking up a million names among a million", "ours": round(spent, 2), "unit": "s"}))
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
