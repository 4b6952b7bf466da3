"""Does memory grow with the rows of a cache?

``python benchmarks/out_of_core.py [n_rows]`` (default 20,000) learns and predicts from a cache of this many rows of 512
features, and from one of ten times as many: ``counts``, ``sgd`` in one pass, ``joint`` with its codes in a file, and
``joint`` that keeps only sums; 64 heads × 256 keys × 8, four keys selected. Each runs in a separate process, whose
memory is measured every 5 ms. Memory-mapped pages of files do not count, because the system drops them when it needs
the memory. Prints JSON lines; goal: at most 1.1 times the memory.
"""

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.noise import write_noise
from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline.cache import open_cache

N_FEATURES, N_CLASSES, BLOCK, GOAL = 512, 10, 1000, 1.1
SETTINGS = {
    "counts": {"solver": "counts"},
    "sgd": {"solver": "sgd", "solver_params": {"max_iter": 1}},
    "joint, codes in a file": {"solver": "joint"},
    "joint, remember=False": {"solver": "joint", "remember": False},
}


def write(path, n_rows):
    centres = np.random.default_rng(0).standard_normal((N_CLASSES, N_FEATURES))
    labels = np.arange(n_rows) % N_CLASSES

    def blocks():
        for start in range(0, n_rows, BLOCK):
            means = centres[labels[start : start + BLOCK]]
            yield (means + 2 * np.random.default_rng([1, start]).standard_normal(means.shape)).astype(np.float32)

    write_noise(path, blocks(), labels)


class Peak(threading.Thread):
    """Peak of the private memory of this process, in bytes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.bytes, self.over = 0, threading.Event()

    def run(self):
        """Measure until told to stop."""
        while not self.over.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.bytes = max(self.bytes, 1024 * int(status.partition("RssAnon:")[2].split()[0]))


def learn(path, name):
    """Learn and predict in this process, and print its peak."""
    peak = Peak()
    peak.start()
    with open_cache(path) as cache, tempfile.TemporaryDirectory() as folder:
        model = DKVBClassifier(KeyEncoder(64, 256, 8, n_selected=4, random_state=0), **SETTINGS[name])
        model.set_params(codes_dir=folder if "file" in name else None)
        model.fit(cache.lazy("train"), cache.labels("train"))
        accuracy = float((model.predict(cache.lazy("train")) == cache.labels("train")).mean())
    peak.over.set()
    print(json.dumps({"peak": peak.bytes, "accuracy": accuracy}))


def main():
    if len(sys.argv) > 2:
        return learn(Path(sys.argv[1]), sys.argv[2])
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    met = True
    with tempfile.TemporaryDirectory() as folder:
        paths = {times: Path(folder) / f"{times}.h5" for times in (1, 10)}
        for times, path in paths.items():
            write(path, times * n_rows)
        for name in SETTINGS:
            peaks = {}
            for times, path in paths.items():
                command = [sys.executable, str(Path(__file__).resolve()), str(path), name]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                peaks[times] = json.loads(done.stdout)["peak"]
            ratio = peaks[10] / peaks[1]
            met = met and ratio <= GOAL
            line = {"name": f"memory at ten times the rows, {name}", "ratio": round(ratio, 3)}
            line |= {"ours": peaks[10] >> 20, "theirs": peaks[1] >> 20, "unit": "MiB", "goal": GOAL}
            print(json.dumps(line | {"rows": 10 * n_rows, "rows_mib": 10 * n_rows * N_FEATURES * 4 >> 20}), flush=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
