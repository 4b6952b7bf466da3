"""How much memory does placing keys take, beside the data?

``python benchmarks/key_memory.py [n_heads]`` (default 256, some minutes): 4096 keys of 14 coordinates from 50,000
rows of 1,280 features, by k-means and by moving averages, each in a process of its own. The peak does not grow with
the number of heads, which are placed a few at a time. Prints JSON lines; exits with 1 above the goal of 512 MiB.
"""

import json
import subprocess
import sys
from pathlib import Path

GOAL_MIB = 512
PROGRAM = """
import resource, sys
import numpy as np
from dkvb_estimator import DKVBClassifier

rng = np.random.default_rng(0)
X = np.empty((50_000, 1280), dtype=np.float32)
for start in range(0, 50_000, 1000):
    X[start : start + 1000] = rng.standard_normal((1000, 1280))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
DKVBClassifier(1, 2, 2, random_state=0).init_keys(X[:100])
before = peak()
DKVBClassifier(int(sys.argv[1]), 4096, 14, key_init=sys.argv[2], random_state=0).init_keys(X)
print(peak() - before)
"""


def main():
    n_heads, met = sys.argv[1] if len(sys.argv) > 1 else "256", True
    for method in ("kmeans", "ema"):
        command = [sys.executable, "-c", PROGRAM, n_heads, method]
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        mib = float(done.stdout)
        line = {"name": f"memory of placing keys, {method}", "ours": round(mib), "goal": GOAL_MIB, "unit": "MiB"}
        print(json.dumps(line | {"n_heads": int(n_heads)}), flush=True)
        met &= mib <= GOAL_MIB
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
