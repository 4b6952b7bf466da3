"""Time ``import dkvb_estimator`` beyond what torch and scikit-learn take: ``python benchmarks/import_time.py``."""

import json
import subprocess
import sys
from pathlib import Path

GOAL_SECONDS, REPETITIONS = 0.2, 7
PROGRAM = """
import time
start = time.perf_counter()
import scipy.sparse, sklearn.base, torch
between = time.perf_counter()
import dkvb_estimator
print(between - start, time.perf_counter() - between)
"""


def main():
    root = Path(__file__).resolve().parents[1]
    times = []
    for _ in range(REPETITIONS):
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        times.append([float(number) for number in done.stdout.split()])
    theirs, ours = (min(column) for column in zip(*times, strict=True))
    line = {"name": "import, beyond torch and scikit-learn", "ours": round(ours, 3), "theirs": round(theirs, 3)}
    print(json.dumps(line | {"goal": GOAL_SECONDS, "unit": "s"}), flush=True)
    return 0 if ours <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
