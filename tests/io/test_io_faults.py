"""Real faults: killed processes, full disks, read-only folders, damaged files. Nothing is lost."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cache_bytes import regions
from damage import try_ways
from models import encoder_of, placed
from reliability import note
from small_cache import write_small

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
from pipeline.cache import open_cache
from pipeline.cli import write_json
from pipeline.data import build_manifest, read_manifest, write_manifest
from pipeline.evaluation.tables import Tables, write_csv
from pipeline.io import folder_beside, remove_leftovers, replaced
from pipeline.scratch import Checkpoint, stored_codes
from pipeline.store import EmbeddingStore

ROOT = Path(__file__).resolve().parents[2]
N = 20
WORKS = {"extract": "extraction", "run": "a run", "save": "saving a model"}


def break_work(kind, how, n):
    """Run ``break_work.py`` in a folder that other users can access."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [
            sys.executable,
            "-W",
            "ignore",
            str(ROOT / "tests/support/break_work.py"),
            kind,
            how,
            folder,
            "0",
            str(n),
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check_tries(kind, tries, fault):
    note("faults", f"{fault} during {WORKS[kind]}", [f"left {each['left']}, then {each['then']}" for each in tries])
    assert {each["then"] for each in tries} == {"equal"}
    assert "broken" not in {each["left"] for each in tries}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKS)
def test_a_killed_work_leaves_nothing_broken_and_the_next_run_equals_an_uninterrupted_one(kind):
    result = break_work(kind, "kill", N)
    tries = result["tries"]
    check_tries(kind, tries, "kill -9")
    assert len(tries) == N
    assert sum(each["code"] == -9 for each in tries) > 0.8 * N
    if kind != "save":  # work kept in the scratch folder is not repeated
        assert min(each["calls_again"] for each in tries) < 0.95 * result["calls"]
        assert sum(each["leftovers"] for each in tries) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKS)
def test_a_full_disk_is_an_error_that_leaves_nothing_broken(kind):
    tries = break_work(kind, "full", N // 2)["tries"]
    check_tries(kind, tries, "a full disk")
    assert {each["code"] for each in tries} == {1}
    assert {each["left"] for each in tries} == {"old" if kind == "save" else "nothing"}
    assert all("Error" in " ".join(each["said"]) or "error: " in " ".join(each["said"]) for each in tries)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORKS)
def test_a_folder_that_may_not_be_written_is_an_error_that_leaves_everything_as_it_was(kind):
    tries = break_work(kind, "readonly", 3)["tries"]
    check_tries(kind, tries, "a read-only folder")
    assert {each["code"] for each in tries} == {1}
    assert all("ermission denied" in " ".join(each["said"]) for each in tries)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("cache") / "small.h5")


@pytest.mark.slow
def test_a_flipped_byte_in_every_region_of_a_cache_is_never_believed(cache, tmp_path):
    rng, found = np.random.default_rng(3), regions(cache)
    assert {"chunk indexes", "array class_names", "array train/embeddings", "attribute train/block_rows"} <= set(found)
    for region, places in found.items():
        is_content = region.startswith(("array", "attribute"))
        n = 24 if is_content else 200
        chosen = rng.choice(places, min(len(places), n), replace=False)
        endings = try_ways(cache, tmp_path, [[[int(place), int(rng.integers(1, 256))]] for place in chosen])
        note("caches", f"a flipped byte in {region}", endings)
        assert set(endings) <= {"same", "error", "stopped", "MemoryError"}
        assert "error" in endings
        if is_content:
            assert set(endings) == {"error"}, region


@pytest.mark.slow
def test_a_cache_cut_at_twenty_lengths_is_an_error(cache, tmp_path):
    lengths = np.linspace(0, cache.stat().st_size - 1, 20).astype(int).tolist()
    endings = try_ways(cache, tmp_path, lengths)
    note("caches", "a truncated file", endings)
    assert endings == ["error"] * 20


def a_model(folder, cache):
    X = np.random.default_rng(0).normal(size=(40, 6))
    save_model(DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)).fit(X, np.arange(40) % 3), folder / "m.npz")

    def read():
        save_model(load_model(folder / "m.npz"), folder / "again.npz", compress=False)
        return (folder / "again.npz").read_bytes()

    return folder / "m.npz", read


def a_checkpoint(folder, cache):
    model = placed(DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)), np.random.default_rng(0).normal(size=(40, 6)))
    checkpoint = Checkpoint(folder, "f")
    with checkpoint:
        checkpoint.write(model, [np.arange(3)] * 2, ([np.arange(4)], [np.zeros(4, dtype=int)]))

    def read():
        kept = checkpoint.read()
        return kept and (encoder_of(kept.model).keys_.tobytes(), str(kept.tested), str(kept.met))

    return folder / "f/checkpoint.npz", read


def a_block_of_the_store(folder, cache):
    images = np.random.default_rng(0).integers(0, 2**63, (8, 4), np.uint64)
    rows = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    path = EmbeddingStore(folder, {}).add(images, rows, np.zeros(8))

    def read():
        store = EmbeddingStore(folder, {})
        found = store.look_up(images)
        return None if len(found.missing) else store.read(found, np.arange(8)).tobytes()

    return path, read


def a_file_of_codes(folder, cache):
    def read():
        with open_cache(cache) as reader:
            return stored_codes(reader, "train", lambda X: (X > 0).astype(np.uint8)[..., None], "k", folder).tobytes()

    read()
    (path,) = folder.iterdir()
    return path, read


def a_manifest(folder, cache):
    write_manifest(build_manifest("photos", {"kind": "photos", "n_crops": 5, "seed": 0}), folder / "m.jsonl")
    return folder / "m.jsonl", lambda: read_manifest(folder / "m.jsonl").sha256


def tables_of_baselines(folder, cache):
    write_json(folder / "t.json", Tables({"x": {"final_accuracy": 0.5}}, [["x", 1]], [], {}, {}).record())
    return folder / "t.json", lambda: Tables.read(folder / "t.json").record()


def ending(path, read, damaged, expected):
    """Return the outcome of reading a damaged file; ignoring or remaking a scratch file is as good as an error."""
    path.write_bytes(damaged)
    try:
        found = read()
    except (OSError, ValueError):
        return "error"
    return "taken for none" if found is None else "equal" if found == expected else "WRONG"


FILES = [a_model, a_checkpoint, a_block_of_the_store, a_file_of_codes, a_manifest, tables_of_baselines]
CHECKED = FILES[:4]  # files with a checksum; text files rely on DVC's hash


@pytest.mark.parametrize("make", FILES, ids=lambda make: make.__name__)
def test_a_file_cut_at_twenty_lengths_is_never_believed(cache, tmp_path, make):
    (tmp_path / "own").mkdir()
    path, read = make(tmp_path / "own", cache)
    whole, expected = path.read_bytes(), read()
    lengths = np.linspace(0, len(whole) - 2, 20).astype(int)  # the last byte of a text file is its line end
    endings = [ending(path, read, whole[:length], expected) for length in lengths]
    note("caches", f"{make.__name__.replace('_', ' ')} cut short", endings)
    none = dict.fromkeys((a_block_of_the_store, a_checkpoint), "taken for none")
    assert set(endings) == {(none | {a_file_of_codes: "equal"}).get(make, "error")}


@pytest.mark.parametrize("make", CHECKED, ids=lambda make: make.__name__)
def test_a_flipped_byte_of_any_file_with_a_checksum_is_never_believed(cache, tmp_path, make):
    (tmp_path / "own").mkdir()
    path, read = make(tmp_path / "own", cache)
    whole, expected, endings = path.read_bytes(), read(), []
    rng = np.random.default_rng(5)
    for place in rng.choice(len(whole), 60, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        endings.append(ending(path, read, bytes(damaged), expected))
    note("caches", f"a flipped byte in {make.__name__.replace('_', ' ')}", endings)
    assert "WRONG" not in endings
    assert set(endings) & {"error", "taken for none"} or make is a_file_of_codes


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "without predictions"])
def test_a_damaged_checkpoint_is_none(blobs, tmp_path, damage):
    model = DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)).fit(*blobs)
    with Checkpoint(tmp_path, "f") as checkpoint:
        checkpoint.write(model, [np.arange(3)] * 2, ([np.arange(4)], [np.zeros(4, dtype=int)]))
        assert len(checkpoint.read().tested) == 2
        path = tmp_path / "f/checkpoint.npz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        changed = {"cut": content[:-200], "flipped": content, "foreign": b"no model"}
        if damage == "without predictions":
            save_model(model, path)
        else:
            path.write_bytes(changed[damage])
        assert checkpoint.read() is None


def test_a_second_process_may_not_measure_the_same_run(tmp_path):
    with Checkpoint(tmp_path, "f"), pytest.raises(RuntimeError, match=r"measuring the same run .*expected one.*Wait"):
        Checkpoint(tmp_path, "f").__enter__()


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".a.h5.{gone.pid}.part", f".a.h5.{os.getpid()}.part", f".b.h5.{gone.pid}.part", ".a.h5.x.part"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path / "a.h5")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".a.h5.{os.getpid()}.part", f".b.h5.{gone.pid}.part", ".a.h5.x.part"}


WRITERS = {
    "a record": lambda path: write_json(path, {"a": 1}),
    "a table": lambda path: write_csv(path, ("a",), [[1]] * 5),
    "a manifest": lambda path: write_manifest(build_manifest("p", {"kind": "photos", "n_crops": 2, "seed": 0}), path),
}


def test_a_folder_beside_a_file_is_gone_afterwards_and_after_a_kill(tmp_path):
    kill = f"""
import os
from pipeline.io.atomic import folder_beside
with folder_beside({str(tmp_path / "t.csv")!r}) as folder:
    (folder / "codes").write_text("")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", kill], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert len(list(tmp_path.iterdir())) == 1
    with folder_beside(tmp_path / "t.csv") as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", WRITERS)
def test_a_result_that_cannot_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch, what):
    target = tmp_path / "r"
    target.write_text("old")

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        WRITERS[what](target)
    assert (target.read_text(), [path.name for path in tmp_path.iterdir()]) == ("old", ["r"])


def test_a_file_is_replaced_whole_after_what_a_killed_process_left_is_gone(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / f".r.{gone.pid}.part").write_text("half")
    with replaced(tmp_path / "r") as neighbour:
        neighbour.write_text("whole")
        assert not (tmp_path / "r").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"r": "whole"}


def pipeline_writes(path):
    with replaced(path) as neighbour:
        neighbour.write_text("whole")


def estimator_writes(path):
    save_model(placed(DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)), np.eye(9)), path)


@pytest.mark.parametrize("write", [pipeline_writes, estimator_writes])
def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch, write):
    done, replace = [], Path.replace
    monkeypatch.setattr("os.fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").resolve()))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("replace") or replace(self, target))
    write(tmp_path / "r")
    assert done[:2] == [tmp_path / f".r.{os.getpid()}.part", "replace"]
    assert done[2:] == ([tmp_path] if write is pipeline_writes else [])


@pytest.mark.parametrize(("number", "is_told"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_synchronise_folders_is_good_enough(tmp_path, monkeypatch, number, is_told):
    def sync(handle):
        if Path(f"/proc/self/fd/{handle}").resolve() == tmp_path:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", sync)
    if is_told:
        with pytest.raises(OSError, match=os.strerror(number)):
            pipeline_writes(tmp_path / "r")
    else:
        pipeline_writes(tmp_path / "r")
    assert (tmp_path / "r").read_text() == "whole"


def test_what_the_faults_are_tried_on_can_be_read(cache, blobs, tmp_path):
    with open_cache(cache) as reader:
        assert reader.n_rows("train") == 20
    save_model(DKVBClassifier(KeyEncoder(3, 8, 2, random_state=0)).fit(*blobs), tmp_path / "m.npz", compress=False)
    assert load_model(tmp_path / "m.npz").classes_.tolist() == [0, 1, 2, 3, 4]
