"""Small seeded data for all tests, and a fresh process for tests that need one."""

import json
import os
import subprocess
import sys
from pathlib import Path

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # hundreds of processes would compile every module again
    sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: more threads would wait for each other
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import numpy as np
import pytest
import torch

collect_ignore_glob = ["data/avalanche_metrics.py"]  # was run once, and needs a package that is not installed

LONGEST = [
    f"tests/{path}.py"
    for path in (
        "estimator/test_life", "stages/test_killed_repro", "stages/test_photographs", "stages/test_graph",
        "config/test_empty_tables", "project/test_packaging", "kernel/test_fuzz", "stages/test_new",
        "project/test_examples", "project/test_docs", "io/test_io_faults", "values/test_normals",
        "estimator/test_cluster", "report/test_report", "extraction/test_extract", "evaluation/test_run",
        "extraction/test_layers", "estimator/test_device", "backbones/test_custom_backbones",
    )
]  # fmt: skip
"""Files that take longest. They begin first, so that no process is left with one of them when the other has ended."""

torch.set_num_threads(1)  # tiny products are slower on two threads, and ten times slower on a busy machine


def pytest_collection_modifyitems(items):
    places = {path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


@pytest.fixture
def blobs():
    """Embeddings (240, 12), float32, around five directions, and their classes 0…4."""
    rng = np.random.default_rng(7)
    centres = 3 * rng.standard_normal((5, 12))
    y = np.arange(240) % 5
    return (centres[y] + rng.standard_normal((240, 12))).astype(np.float32), y


@pytest.fixture
def heads():
    """Heads (300, 3, 4) and keys (3, 20, 4), float32, from one normal."""
    rng = np.random.default_rng(11)
    return (
        rng.standard_normal((300, 3, 4)).astype(np.float32),
        rng.standard_normal((3, 20, 4)).astype(np.float32),
    )


@pytest.fixture
def coded():
    """Codes (90, 4, 2), uint8, of seven keys per head, distinct within a head; labels (90,) below 3; weights (90,)."""
    rng = np.random.default_rng(13)
    codes = np.array([[rng.choice(7, size=2, replace=False) for _ in range(4)] for _ in range(90)])
    return codes.astype(np.uint8), rng.integers(3, size=90), rng.uniform(0.5, 2.0, size=90)


SERVER = """
import dkvb_estimator, dkvb_estimator.plotting, sys
imported = sorted({name.partition(".")[0] for name in sys.modules})
import contextlib, io, json, traceback
for line in sys.stdin:
    failed = ""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(json.loads(line), {"imported": imported})
        except BaseException:
            failed = traceback.format_exc()
    print(json.dumps([printed.getvalue(), failed]), flush=True)
"""


@pytest.fixture(scope="session")
def elsewhere_timed():
    """Run a program in a new process with a time limit of a minute, and return its output."""

    def run(program):
        command, root = [sys.executable, "-c", program], Path(__file__).parent.parent
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def elsewhere():
    """Run a program in a process that shares only files with this one, and return its output.

    There, ``imported`` holds the packages that importing ours, including its displays, has imported. One process serves
    all tests, because the import takes seconds.
    """
    command, root = [sys.executable, "-c", SERVER], Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(program):
            process.stdin.write(json.dumps(program) + "\n")
            process.stdin.flush()
            printed, failed = json.loads(process.stdout.readline())
            assert not failed, failed
            return printed

        yield run
        process.kill()  # there is nothing left to do, and a regular exit takes a while
