"""Does reading a cache with checksums keep up with the disk?

``python benchmarks/cache_reading.py [n_rows]`` (default 100,000: 256 MB) reads a cache of 1,280 features in float16, in
order, by ``iter_batches`` in batches of 512 rows. The reference is ``np.fromfile`` of the same bytes, block by block.
It checks the same crc32 of each block and converts to float32 in the same batches, which is the minimum for any reader
that checks. Both are measured alternately, best of five, with the files in the page cache. Prints JSON lines; exits
with 1 below the goal.
"""

import json
import struct
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cache import CacheHeader, SplitRows, open_cache, write_cache
from pipeline.cache.writer import CHUNK_BYTES

N_FEATURES, BATCH, GOAL = 1280, 512, 0.8
BLOCK = CHUNK_BYTES // (2 * N_FEATURES)


def write(folder, n_rows):
    """Write the same rows as a cache and as a plain file, and return the checksums of the plain file's blocks."""
    rng, crcs = np.random.default_rng(0), []

    def blocks():
        with (folder / "plain").open("wb") as file:
            for start in range(0, n_rows, BLOCK):
                rows = rng.standard_normal((min(BLOCK, n_rows - start), N_FEATURES), dtype=np.float32).astype(
                    np.float16
                )
                rows.tofile(file)
                crcs.append(zlib.crc32(rows, zlib.crc32(struct.pack("<q", len(crcs)))))
                yield rows

    origin = {"backbone": {"id": "none"}, "preprocessing": {}, "tap": "none", "compute_dtype": "none"}
    origin |= {"storage_dtype": "float16", "manifest_sha256": "none", "dataset": "noise", "fingerprint": "none"}
    header = CacheHeader(class_names=("0",), **origin)
    ids = [f"{row:07d}" for row in range(n_rows)]
    write_cache(folder / "a.h5", header, {"train": SplitRows(blocks(), np.zeros(n_rows, np.int64), ids)})
    return crcs


def plain(path, n_rows, crcs):
    """Read, check and convert; yield batches."""
    waiting = np.empty((0, N_FEATURES), np.float32)
    with path.open("rb") as file:
        for number, crc in enumerate(crcs):
            stored = np.fromfile(file, np.float16, min(BLOCK, n_rows - number * BLOCK) * N_FEATURES)
            if zlib.crc32(stored, zlib.crc32(struct.pack("<q", number))) != crc:
                raise OSError(f"block {number} is damaged")
            rows = stored.reshape(-1, N_FEATURES).astype(np.float32)
            waiting = np.concatenate([waiting, rows]) if len(waiting) else rows
            whole = len(waiting) // BATCH * BATCH
            yield from (waiting[start : start + BATCH] for start in range(0, whole, BATCH))
            waiting = waiting[whole:]
    if len(waiting):
        yield waiting


def rows_of(batches):
    return sum(len(batch) for batch in batches)


def main():
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crcs = write(folder, n_rows)
        with open_cache(folder / "a.h5") as reader:
            calls = {
                "ours": lambda: rows_of(X for X, _ in reader.iter_batches("train", BATCH)),
                "shuffled": lambda: rows_of(X for X, _ in reader.iter_batches("train", BATCH, seed=0)),
                "theirs": lambda: rows_of(plain(folder / "plain", n_rows, crcs)),
            }
            seconds = dict.fromkeys(calls, np.inf)
            for _ in range(5):
                for name, call in calls.items():
                    begun = time.perf_counter()
                    if call() != n_rows:
                        raise AssertionError(f"{name} lost rows")
                    seconds[name] = min(seconds[name], time.perf_counter() - begun)
    rate = {name: n_rows * N_FEATURES * 2 / 1e6 / spent for name, spent in seconds.items()}
    ratio = rate["ours"] / rate["theirs"]
    line = {"name": "reading a cache in order, checked", "ratio": round(ratio, 2), "ours": round(rate["ours"])}
    line |= {"theirs": round(rate["theirs"]), "unit": "MB/s", "goal": GOAL, "met": bool(ratio >= GOAL)}
    print(json.dumps(line), flush=True)
    line |= {"name": "reading a cache shuffled, checked", "ours": round(rate["shuffled"])}
    line |= {"ratio": round(rate["shuffled"] / rate["theirs"], 2), "goal": ""}
    line.pop("met")
    print(json.dumps(line), flush=True)
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
