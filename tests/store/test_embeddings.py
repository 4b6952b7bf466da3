"""The embedding store returns what was added under a name, bit for bit, or nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.store import EmbeddingStore, LostRowsError, embeddings, image_names, list_networks, remove_rows

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {"weights_sha256": "abc", "storage_dtype": "float32"}


def names(*numbers):
    """Return a name for each number; the names differ only at the end."""
    return image_names([f"{'ab' * 31}{number:02x}" for number in numbers])


def made(numbers, dtype=np.float32):
    return np.array([np.random.default_rng(number).normal(size=5) for number in numbers], dtype)


def add(store, *numbers):
    return store.add(names(*numbers), made(numbers), np.array(numbers, float))


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path, NETWORK)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_back_bit_for_bit_in_any_order_and_number(store, dtype):
    for numbers in ([3, 1, 4], [15, 9], [2]):
        store.add(names(*numbers), made(numbers, dtype), np.array(numbers, float))
    wanted = [9, 4, 2, 3, 9, 1, 15, 4]
    found = store.look_up(names(*wanted))
    assert not len(found.missing)
    assert store.read(found, np.arange(8)).tobytes() == made(wanted, dtype).tobytes()
    assert np.concatenate(list(store.windows(found, np.arange(8)))).tobytes() == made(wanted, dtype).tobytes()
    assert found.rounding.tolist() == wanted


def test_windows_are_bounded_and_in_order(store, monkeypatch):
    add(store, *range(40))
    monkeypatch.setattr(embeddings, "_WINDOW_BYTES", 7 * 5 * 4)
    order = np.random.default_rng(0).permutation(40)
    windows = list(store.windows(store.look_up(names(*order)), np.arange(40)))
    assert [len(window) for window in windows] == [7] * 5 + [5]
    assert np.concatenate(windows).tobytes() == made(order).tobytes()


def test_what_is_missing_is_named_whatever_is_known(store):
    assert store.look_up(names(1, 2)).missing.tolist() == [0, 1]
    add(store, 2)
    found = store.look_up(names(1, 2, 3))
    assert found.missing.tolist() == [0, 2]
    assert (found.blocks.tolist(), found.positions.tolist()) == ([-1, 0, -1], [-1, 0, -1])
    assert store.look_up(names()).missing.tolist() == []


def test_names_with_zeros_at_their_end_are_told_apart(store):
    alike = image_names(["01" + "00" * 31, "0100" + "02" + "00" * 29, "00" * 32])
    for row in range(3):
        assert store.look_up(alike).missing.tolist() == list(range(row, 3))
        store.add(alike[row : row + 1], made([row]), np.zeros(1))
    assert store.read(store.look_up(alike), np.arange(3)).tobytes() == made(range(3)).tobytes()


def test_another_process_sees_what_was_added_and_another_network_does_not(store, tmp_path):
    add(store, 1)
    assert not len(EmbeddingStore(tmp_path, dict(reversed(NETWORK.items()))).look_up(names(1)).missing)
    assert len(EmbeddingStore(tmp_path, NETWORK | {"weights_sha256": "abd"}).look_up(names(1)).missing)


def test_a_row_that_is_added_twice_is_one_file(store):
    assert add(store, 1, 2) == add(store, 1, 2)
    add(store, 2)
    assert len(list(store.folder.iterdir())) == 2
    assert store.read(store.look_up(names(2)), np.array([0])).tobytes() == made([2]).tobytes()


def test_no_flipped_byte_is_believed(store):
    path = add(store, 1, 2, 3)
    whole, wanted = path.read_bytes(), made([1, 2, 3])
    rng = np.random.default_rng(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        store = EmbeddingStore(store.folder.parent, NETWORK)
        found = store.look_up(names(1, 2, 3))
        rows = np.setdiff1d(np.arange(3), found.missing)
        try:
            read = [store.read(found, np.array([row])) for row in rows]
        except LostRowsError:
            continue
        assert all(one.tobytes() == wanted[row].tobytes() for one, row in zip(read, rows, strict=True))
        assert len(rows) == 0  # checksums cover every byte, so every flip is detected
        assert store.remarks


@pytest.mark.parametrize("length", [0, 5, 40, 150, 300, -1])
def test_a_block_cut_short_is_deleted_and_said(store, length):
    path = add(store, 1, 2, 3)
    path.write_bytes(path.read_bytes()[:length])
    found = store.look_up(names(1, 2, 3))
    assert found.missing.tolist() == [0, 1, 2]
    assert path.name in store.remarks[0]
    assert not path.exists()


def test_a_block_cut_short_after_it_was_looked_up_is_lost(store):
    path = add(store, 1, 2, 3)
    found = store.look_up(names(1, 2, 3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LostRowsError, match=f"rows of block {path.name} in the store are damaged"):
        store.read(found, np.arange(3))


def test_rows_that_changed_places_are_not_believed(store):
    path = add(store, 1, 2)
    content = path.read_bytes()
    path.write_bytes(content[:-40] + content[-20:] + content[-40:-20])
    with pytest.raises(LostRowsError, match="2 rows"):
        store.read(store.look_up(names(1, 2)), np.arange(2))


def test_mending_keeps_the_rows_that_are_whole(store):
    path = add(store, 1, 2, 3)
    content = bytearray(path.read_bytes())
    content[-30] ^= 4  # in the second row
    path.write_bytes(content)
    store.mend(path)
    found = store.look_up(names(1, 2, 3))
    assert found.missing.tolist() == [1]
    assert store.read(found, np.array([0, 2])).tobytes() == made([1, 3]).tobytes()
    assert not path.exists()


def test_mending_what_is_whole_or_gone_changes_nothing(store):
    path = add(store, 1)
    store.mend(path)
    assert path.exists()
    store.mend(path.with_name("gone.rows"))
    store.mend(store.folder)


def test_a_disk_that_does_not_answer_is_not_called_damage(store, monkeypatch):
    path = add(store, 1)

    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output"):
        store.look_up(names(1))
    monkeypatch.undo()
    assert path.exists()


def test_what_killed_processes_were_writing_goes_and_what_runs_stays(store):
    add(store, 1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process in (gone.pid, os.getpid()):
        (store.folder / f".a.rows.{process}.part").write_text("half")
    store.clear_leftovers()
    assert [path.name for path in store.folder.glob(".*")] == [f".a.rows.{os.getpid()}.part"]
    assert not store.look_up(names(1)).missing.tolist()


def test_two_processes_add_and_read_at_once(store, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests/store")!r})
from test_embeddings import EmbeddingStore, NETWORK, add
store = EmbeddingStore({str(tmp_path)!r}, NETWORK)
for number in range(int(sys.argv[1]), 60, 2):
    add(store, number, number // 2)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(one)], cwd=ROOT) for one in (0, 1)]
    while any(writer.poll() is None for writer in writers):
        found = store.look_up(names(*range(60)))
        rows = np.setdiff1d(np.arange(60), found.missing)
        if len(rows):
            assert store.read(found, rows).tobytes() == made(rows).tobytes()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert not len(store.look_up(names(*range(60))).missing)


# the store as a whole


def test_networks_are_listed_with_what_stays(store, tmp_path):
    add(store, 1, 2, 3)
    add(store, 4)
    add(EmbeddingStore(tmp_path, {"other": 1}), 1)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/bad.rows").write_bytes(b"no block")
    stays = names(1, 4)
    found, remarks = list_networks(tmp_path, lambda images: (images[:, None] == stays).all(axis=2).any(axis=1))
    own = next(stored for stored in found if stored.network == NETWORK)
    assert (own.n_rows, own.n_blocks, own.n_kept) == (4, 2, 2)
    assert own.n_bytes == sum(path.stat().st_size for path in store.folder.iterdir())
    assert len(found) == 2
    assert remarks == ["block bad.rows does not begin with dkvbrows."]
    assert list_networks(tmp_path / "nowhere") == ([], [])


def test_removed_rows_leave_no_byte_and_the_others_stay(store, tmp_path):
    add(store, 1, 2, 3)
    add(store, 4)
    add(store, 5)
    goes = names(2, 4)
    n_removed = remove_rows(tmp_path, lambda images: ~(images[:, None] == goes).all(axis=2).any(axis=1))
    assert n_removed == 2
    found = store.look_up(names(1, 2, 3, 4, 5))
    assert found.missing.tolist() == [1, 3]
    assert store.read(found, np.array([0, 2, 4])).tobytes() == made([1, 3, 5]).tobytes()
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*.rows"))
    for number in (2, 4):
        assert made([number]).tobytes() not in left
        assert names(number).tobytes() not in left
    assert remove_rows(tmp_path, lambda images: np.zeros(len(images), bool)) == 3
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_a_whole_sha256(store):
    for wrong in ("ab", "g" * 64, "AB" * 32, "é" * 64):
        with pytest.raises(ValueError, match=r"; expected 64 hexadecimal digits\. Write the manifest again\."):
            image_names(["00" * 32, wrong])
