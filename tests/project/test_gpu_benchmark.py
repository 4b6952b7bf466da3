"""The benchmark for CUDA devices runs, with the CPU as its device, and keeps its own bounds there."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_benchmark_of_devices_runs_on_the_cpu_and_finds_no_difference():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--small"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["what"] for line in lines if line["bound"]} == {"codes", "scores", "features"}
    assert all(line["value"] == 0 for line in lines if line["bound"])
