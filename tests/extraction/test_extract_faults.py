"""Killed extractions and full disks: finished work and existing files are kept."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reliability import note

from pipeline.cache import open_cache

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
N, BLOCK_ROWS = 43, 8


@pytest.fixture
def run(tmp_path):
    """Carry out orders one after another in one folder; see ``faults.py``."""

    def call(*orders):
        command = [sys.executable, str(ROOT / "tests/support/faults.py"), str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, input=json.dumps(orders),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def outputs(ended):
    return [ended["files"].get(f"out/{name}") for name in ("a.h5", "a.json")]


def remains(folder):
    """Return all files that an extraction should not leave behind."""
    return [path.name for path in folder.rglob("*") if path.suffix in (".part", ".claim", ".gone")]


def said(ended, word):
    return next(line for line in ended["said"] if word in line)


def test_an_extraction_killed_anywhere_goes_on_to_the_same_bytes(run, tmp_path):
    points = sorted(np.random.default_rng(0).choice(np.arange(1, 60), size=20, replace=False).tolist())
    whole, *ended = run({}, *(order for kill in points for order in ({"kill": kill, "fresh": True}, {})))
    assert whole["code"] == 0
    assert int(said(whole, "operations").split()[1]) > 50  # the points cover all of it
    finished = set()
    for killed, resumed in zip(ended[::2], ended[1::2], strict=True):
        assert killed["code"] == -9
        assert outputs(killed)[0] in (None, outputs(whole)[0])
        assert resumed["code"] == 0, resumed["said"]
        assert outputs(resumed) == outputs(whole)
        finished.add(N - int(said(resumed, " images").split()[2]))
    assert len(finished) >= 4  # before, between and after the blocks
    assert all(number % BLOCK_ROWS == 0 or number == N for number in finished)
    assert remains(tmp_path) == []
    left = ["nothing" if outputs(killed)[0] is None else "new" for killed in ended[::2]]
    note("faults", "kill -9 at an operation on files of extraction", [f"left {each}, then equal" for each in left])


def test_killed_again_and_again_it_gets_there(run):
    whole, first, *ended = run({}, {"kill": 40, "fresh": True}, *[{"kill": 40}] * 8, {})
    assert (whole["code"], first["code"], ended[-1]["code"]) == (0, -9, 0)
    assert outputs(ended[-1]) == outputs(whole)


def test_a_full_disk_keeps_finished_blocks_and_the_old_output(run, tmp_path):
    """A block takes about 2,000 bytes here, and the cache a few thousand more."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.h5").write_bytes(b"old")
    in_a_block, in_the_cache, after = run({"limit": 300}, {"limit": 3000}, {})
    for full, n_blocks in ((in_a_block, 0), (in_the_cache, 6)):
        assert full["code"] == 1
        (error,) = [line for line in full["said"] if line.startswith("error: ")]
        assert "the disk is full (File too large); expected space for the store in" in error
        assert "Finished rows are kept. Free some space, then run the same command again." in error
        assert full["files"]["out/a.h5"] == hashlib.sha256(b"old").hexdigest()
        assert sum(name.endswith(".rows") for name in full["files"]) == n_blocks
        assert not [name for name in full["files"] if name.endswith(".part") or name.startswith("out/a.j")]
    assert after["code"] == 0
    assert f"[extract digits] 0 images ({N} already known)" in said(after, " images")
    with open_cache(tmp_path / "out/a.h5") as reader:
        assert sum(map(reader.n_rows, reader.split_names)) == N
    assert remains(tmp_path) == []
