"""The benchmark for CUDA devices runs with the CPU as its device, and meets its bounds there."""

import json
import sys

import pytest
import torch

from benchmarks import gpu


def test_the_benchmark_of_devices_runs_on_the_cpu_and_finds_no_difference(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--small"])
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before  # the benchmark changes it
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["what"] for line in lines if line["bound"]} == {"codes", "scores", "features"}
    assert all(line["value"] == 0 for line in lines if line["bound"])
