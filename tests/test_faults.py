"""What no extraction can prevent: it is killed, or the disk is full. What was finished stays, what was there stays."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
N, SHARD_ROWS = 43, 8


@pytest.fixture
def run(tmp_path):
    """Carry out orders one after the other in one folder; see ``faults.py``."""

    def call(*orders):
        command = [sys.executable, str(ROOT / "tests/faults.py"), str(tmp_path)]
        done = subprocess.run(
            command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, input=json.dumps(orders),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def outputs(folder):
    return [hashlib.sha256((folder / "out" / name).read_bytes()).hexdigest() for name in ("a.h5", "a.json")]


def remains(folder):
    """Everything that an extraction should not leave behind."""
    return [path.name for path in folder.rglob("*") if path.suffix in (".part", ".shard", ".claim", ".gone")]


def said(ended, word):
    return next(line for line in ended["said"] if word in line)


@pytest.mark.slow
def test_an_extraction_killed_anywhere_goes_on_to_the_same_bytes(run, tmp_path):
    (whole,) = run({})
    assert whole["code"] == 0
    expected, total = outputs(tmp_path), int(said(whole, "operations").split()[1])
    assert total > 50
    points = sorted(np.random.default_rng(0).choice(np.arange(1, total + 1), size=24, replace=False).tolist())
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    ended = run(*(order for kill in points for order in ({"kill": kill}, {})))
    for killed, resumed in zip(ended[::2], ended[1::2], strict=True):
        assert killed["code"] == -9
        assert resumed["code"] == 0, resumed["said"]
    assert outputs(tmp_path) == expected
    assert remains(tmp_path) == []
    resumed = [said(end, "[extract digits]") for end in ended[1::2]]
    finished = [N - int(line.split()[2]) for line in resumed]
    assert len(set(finished)) >= 4  # points lie before, between and after the shards
    assert all(number % SHARD_ROWS == 0 or number == N for number in finished)


@pytest.mark.slow
def test_killed_again_and_again_it_gets_there(run, tmp_path):
    run({})
    expected = outputs(tmp_path)
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    ended = run(*[{"kill": 40}] * 12, {})
    assert ended[0]["code"] == -9
    assert ended[-1]["code"] == 0
    assert outputs(tmp_path) == expected


@pytest.mark.parametrize(("limit", "shards"), [(300, 0), (2000, 6)], ids=["in a shard", "in the cache"])
def test_a_full_disk_keeps_finished_shards_and_the_old_output(run, tmp_path, limit, shards):
    """A shard takes 516 bytes here, the cache some thousands."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.h5").write_bytes(b"old")
    full, after = run({"limit": limit}, {})
    assert full["code"] == 1
    errors = [line for line in full["said"] if line.startswith("error: ")]
    assert len(errors) == 1
    assert "the disk is full (File too large); expected room for the shards in" in errors[0]
    assert "What was finished is kept: free some space, then run the same command again." in errors[0]
    assert after["code"] == 0
    resumed = f" ({min(N, shards * SHARD_ROWS)} were finished already)" if shards else ", "
    assert f"[extract digits] {N - min(N, shards * SHARD_ROWS)} images{resumed}" in said(after, "[extract digits]")
    assert remains(tmp_path) == []


def test_a_full_disk_leaves_the_old_output_and_no_parts(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.h5").write_bytes(b"old")
    assert run({"limit": 2000})[0]["code"] == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.h5"]
    assert (tmp_path / "out/a.h5").read_bytes() == b"old"
    assert len(list((tmp_path / "scratch").rglob("*.shard"))) == 6
    assert not list((tmp_path / "scratch").rglob("*.part"))
