"""How much memory do placing keys and encoding take, apart from the data?

``python benchmarks/key_memory.py [n_heads]`` (default 256, some minutes) places 4096 keys of 14 coordinates from 50,000
rows of 1,280 features, by k-means and by moving averages, then encodes those rows, each in a separate process. The peak
does not grow with the number of heads, which are placed a few at a time, nor with the number of rows, which are encoded
block by block. Needs Linux. Prints JSON lines; exits with 1 above the goals of 512 and 128 MiB.
"""

import json
import subprocess
import sys
from pathlib import Path

GOALS_MIB = {"placing keys, kmeans": 512, "placing keys, ema": 512, "encoding": 128}
PROGRAM = r"""
import ctypes, re, sys
from pathlib import Path
import numpy as np
from dkvb_estimator import KeyEncoder

rng = np.random.default_rng(0)
X = np.empty((50_000, 1280), dtype=np.float32)
for start in range(0, 50_000, 1000):
    X[start : start + 1000] = rng.standard_normal((1000, 1280))
def peak():
    # MiB at most since the last call; what was freed since does not count
    found = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return found
KeyEncoder(1, 2, 2, random_state=0).fit(X[:100]).transform(X[:1])
work = sys.argv[2].split(", ")
encoder = KeyEncoder(int(sys.argv[1]), 4096, 14, key_init=work[-1] if len(work) > 1 else "gaussian", random_state=0)
if len(work) > 1:
    peak()
    before = peak()
    encoder.fit(X)
    print(peak() - before)
else:
    encoder.fit(X[:4096]).transform(X[:1])
    peak()
    before = peak()
    codes = encoder.transform(X)
    print(peak() - before - codes.nbytes / 2**20)
"""


def main():
    n_heads, met = sys.argv[1] if len(sys.argv) > 1 else "256", True
    root = Path(__file__).resolve().parents[1]
    for work, goal in GOALS_MIB.items():
        command = [sys.executable, "-c", PROGRAM, n_heads, work]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        mib = float(done.stdout)
        line = {"name": f"memory of {work}", "ours": round(mib), "goal": goal, "unit": "MiB"}
        print(json.dumps(line | {"n_heads": int(n_heads)}), flush=True)
        met &= mib <= goal
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
