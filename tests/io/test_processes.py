"""Helper processes: the device of each, and that none outlives the work."""

import signal
import subprocess
import sys

import pytest

from pipeline.io.processes import helpers, place


@pytest.mark.parametrize(
    ("device", "n_cuda", "expected"),
    [
        ("auto", 0, ["auto"] * 4),
        ("auto", 1, ["auto"] * 4),
        ("auto", 2, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ("auto", 8, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        ("cuda", 3, ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]),
        ("cuda", 1, ["cuda"] * 4),
        ("cuda:1", 4, ["cuda:1"] * 4),
        ("cpu", 4, ["cpu"] * 4),
    ],
)
def test_each_process_has_the_next_device_unless_one_is_named(device, n_cuda, expected):
    assert [place(position, device, n_cuda) for position in range(4)] == expected


@pytest.mark.parametrize("end", ["well", "badly"])
def test_no_process_outlives_the_work(monkeypatch, end):
    started, usual = [], subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *given, **options: started.append(usual(*given, **options)) or started[-1]
    )
    try:
        with helpers([sys.executable, "-c", "import signal; signal.pause()"], 3, "cpu", 1):
            assert len(started) == 2
            if end == "badly":
                raise OSError("the disk is full")
    except OSError:
        assert end == "badly"
    assert [process.returncode for process in started] == [-signal.SIGTERM] * 2


def test_one_process_starts_no_other(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with helpers(["unheard-of"], 1, "auto", 1):
        pass
