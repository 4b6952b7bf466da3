"""Shards: a killed extraction goes on from exactly what was finished, and two never mix."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.extraction import ShardStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    with ShardStore(tmp_path, "abc") as store:
        yield store


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_shard_comes_back_bit_for_bit(store, dtype):
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    rows[0] = [np.nan, -0.0, np.inf]
    store.write(7, rows.T.copy().T)
    found = store.read(7)
    assert found.dtype == dtype
    assert found.tobytes() == rows.tobytes()


def test_finished_shards_are_seen_by_a_later_store(tmp_path):
    with ShardStore(tmp_path, "abc") as store:
        assert store.finished() == set()
        for index in (0, 3, 12):
            store.write(index, np.full((2, 2), index))
    with ShardStore(tmp_path, "abc") as store:
        assert store.finished() == {0, 3, 12}
        assert store.read(12)[0, 0] == 12


def test_another_fingerprint_never_sees_them(tmp_path):
    with ShardStore(tmp_path, "abc") as store, ShardStore(tmp_path, "abd") as other:
        store.write(0, np.ones((1, 1)))
        assert other.finished() == set()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "short"])
def test_a_damaged_shard_is_not_finished_and_the_others_are(store, damage):
    for index in (0, 1):
        store.write(index, np.ones((4, 4), np.float32))
    path = store.folder / "000001.shard"
    content = bytearray(path.read_bytes())
    content[140] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-1]), "empty": b"", "short": b"ab"}[damage])
    with pytest.raises(OSError, match=r"shard 1 is damaged; expected what was written\. Run"):
        store.read(1)
    assert store.finished() == {0}
    assert path.exists()  # whoever looks may not hold its claim, and another may just be writing it anew


def test_a_shard_that_was_being_written_does_not_count(store):
    (store.folder / "000002.part").write_bytes(b"half")
    assert store.finished() == set()
    with pytest.raises(FileNotFoundError):
        store.read(2)


def test_writing_leaves_no_neighbour(store):
    store.write(0, np.ones((1, 1)))
    store.write(0, np.zeros((1, 1)))
    assert sorted(path.name for path in store.folder.iterdir()) == ["000000.shard", "lock"]
    assert store.read(0)[0, 0] == 0


def test_objects_are_not_stored(store):
    with pytest.raises(ValueError, match="allow_pickle"):
        store.write(0, np.array([[object()]]))
    assert store.finished() == set()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path):
    code = (
        f"from pipeline.extraction.shards import ShardStore\nwith ShardStore({str(tmp_path)!r}, 'abc'): print('mine')"
    )

    def second():
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)

    with ShardStore(tmp_path, "abc"):
        refused = second()
        assert refused.returncode == 1
        assert "RuntimeError: another process is extracting the same embeddings" in refused.stderr
        assert "expected one at a time. Wait until it has finished, then start again." in refused.stderr
    assert second().stdout == "mine\n"


def test_clearing_deletes_this_extraction_only(tmp_path):
    with ShardStore(tmp_path, "abc") as store, ShardStore(tmp_path, "abd") as other:
        store.write(0, np.ones((1, 1)))
        other.write(0, np.ones((1, 1)))
        store.clear()
        assert store.finished() == set()
        assert other.finished() == {0}
        store.clear()


def test_a_shard_under_the_name_of_another_is_not_finished(store):
    store.write(0, np.ones((2, 3), np.float32))
    (store.folder / "000002.shard").write_bytes((store.folder / "000000.shard").read_bytes())
    assert store.finished() == {0}


def test_a_file_that_is_no_shard_is_left_alone(store):
    store.write(1, np.ones((2, 3), np.float32))
    (store.folder / "notes.shard").write_text("mine")
    assert store.finished() == {1}
    assert (store.folder / "notes.shard").exists()


# sharing the work


def helper(tmp_path):
    return ShardStore(tmp_path, "abc", helper=True)


def test_helpers_join_a_store_that_has_its_owner(tmp_path):
    with ShardStore(tmp_path, "abc") as owner, helper(tmp_path) as one, helper(tmp_path) as other:
        one.write(0, np.ones((1, 1)))
        other.write(1, np.ones((1, 1)))
        assert owner.finished() == {0, 1}


def test_a_shard_is_claimed_by_one_process_at_a_time(tmp_path):
    with ShardStore(tmp_path, "abc") as owner, helper(tmp_path) as other:
        assert owner.claim(0)
        assert not other.claim(0)
        assert other.claim(1)
        assert not owner.claim(1)


def test_a_finished_shard_cannot_be_claimed_and_a_damaged_one_can(tmp_path):
    with ShardStore(tmp_path, "abc") as owner, helper(tmp_path) as other:
        assert owner.claim(0)
        owner.write(0, np.ones((1, 1)))
        assert not other.claim(0)
        assert not owner.claim(0)
        (owner.folder / "000000.shard").write_bytes(b"damaged")
        assert other.claim(0)


def test_a_shard_tells_which_process_computed_it(tmp_path):
    code = f"""
import os, numpy
from pipeline.extraction.shards import ShardStore
with ShardStore({str(tmp_path)!r}, 'abc', helper=True) as store:
    assert store.claim(1)
    store.write(1, numpy.ones((1, 1)))
    assert store.claim(2)
    print(os.getpid())
"""
    with ShardStore(tmp_path, "abc") as owner:
        assert owner.claim(0)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert [owner.process_of(index) for index in (0, 1)] == [os.getpid(), int(done.stdout)]
        assert not owner.claim(1)  # a look changes nothing
        assert owner.process_of(1) == int(done.stdout)
        assert owner.claim(2)  # that one ended before it was finished
        assert owner.process_of(2) == os.getpid()


def test_a_claim_ends_with_its_store_and_with_its_process(tmp_path):
    code = (
        f"from pipeline.extraction import ShardStore\nimport os, signal\nstore = ShardStore({str(tmp_path)!r}, 'abc')\n"
    )
    code += "store.__enter__()\nassert store.claim(0)\nprint('mine', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    with helper(tmp_path) as one:
        assert one.claim(0)
        with helper(tmp_path) as other:
            assert not other.claim(0)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-9, "mine\n")
    with helper(tmp_path) as other:
        assert other.claim(0)


def test_a_helper_that_comes_after_the_end_gets_nothing(tmp_path):
    with ShardStore(tmp_path, "abc") as owner, helper(tmp_path) as late:
        owner.write(0, np.ones((1, 1)))
        owner.clear()
        assert not late.claim(0)
        assert not late.claim(1)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_cannot_be_written_leaves_no_part(store, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        store.write(0, np.ones((1, 1)))
    assert [path.name for path in store.folder.iterdir()] == ["lock"]
