"""Faults, for real: processes are killed, disks fill up, folders are closed, files are damaged; nothing is lost."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from reliability import note
from small_cache import write_small

from dkvb_estimator import DKVBClassifier, load_model, save_model
from pipeline.cache import open_cache
from pipeline.checkpoints import Checkpoint
from pipeline.locks import remove_leftovers

ROOT = Path(__file__).resolve().parents[1]
N = 20
WORKS = {"extract": "extraction", "train": "training", "save": "saving a model"}


def break_work(kind, how, n):
    """Run ``break_work.py`` in a folder that other users can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        command = [sys.executable, "-W", "ignore", str(ROOT / "tests/break_work.py"), kind, how, folder, "0", str(n)]
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
    if kind != "save":  # what was kept in the scratch folder is not done again
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


def try_ways(path, folder, ways):
    command = [sys.executable, str(ROOT / "tests/damage.py"), str(path), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(ways), env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    return json.loads(done.stdout)


def regions(path):
    """Where the bytes of each kind lie: the file's header, arrays by name, attributes, and all the rest."""
    content = path.read_bytes()
    found = {"superblock": range(48)}
    with h5py.File(path, "r") as file:
        for name in ("train", "test"):
            for member in ("embeddings", "labels", "sample_ids", "block_crc32"):
                array = file[name][member]
                chunk = array.id.get_chunk_info(0) if array.chunks else None
                start, length = (chunk.byte_offset, chunk.size) if chunk else (array.id.get_offset(), array.nbytes)
                found[f"{name}/{member}"] = range(start, start + length)
        for name in ("fingerprint", "backbone", "meta_sha256", "dataset"):
            text = file.attrs[name]
            found[f"attribute {name}"] = range(content.index(text), content.index(text) + len(text))
    known = {place for places in found.values() for place in places}
    found["object headers, group and chunk index"] = [i for i in range(len(content)) if i not in known]
    return found


@pytest.mark.slow
def test_a_flipped_byte_in_every_region_of_a_cache_is_never_believed(cache, tmp_path):
    rng = np.random.default_rng(3)
    for region, places in regions(cache).items():
        places = np.asarray(places)
        chosen = rng.choice(places, min(len(places), 200 if region.startswith("object") else 12), replace=False)
        endings = try_ways(cache, tmp_path, [[[int(place), int(rng.integers(1, 256))]] for place in chosen])
        note("caches", f"a flipped byte in {region}", endings)
        assert set(endings) <= {"same", "error", "stopped", "MemoryError"}
        if "/" in region or region.startswith("attribute"):
            assert set(endings) == {"error"}, region


@pytest.mark.slow
def test_a_cache_cut_at_twenty_lengths_is_an_error(cache, tmp_path):
    lengths = np.linspace(0, cache.stat().st_size - 1, 20).astype(int).tolist()
    endings = try_ways(cache, tmp_path, lengths)
    note("caches", "a truncated file", endings)
    assert endings == ["error"] * 20


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "without stages"])
def test_a_damaged_checkpoint_is_none(blobs, tmp_path, damage):
    model = DKVBClassifier(3, 8, 2, random_state=0).fit(*blobs)
    with Checkpoint(tmp_path, "f") as checkpoint:
        checkpoint.write(model, 2)
        assert checkpoint.read()[1] == 2
        path = tmp_path / "f/checkpoint.npz"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        changed = {"cut": content[:-200], "flipped": content, "foreign": b"no model"}
        if damage == "without stages":
            save_model(model, path)
        else:
            path.write_bytes(changed[damage])
        assert checkpoint.read() is None


def test_a_second_process_may_not_train_the_same_run(tmp_path):
    with Checkpoint(tmp_path, "f"), pytest.raises(RuntimeError, match=r"training the same run .*expected one.*Wait"):
        Checkpoint(tmp_path, "f").__enter__()


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".a.h5.{gone.pid}.part", f".a.h5.{os.getpid()}.part", f".b.h5.{gone.pid}.part", ".a.h5.x.part"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path / "a.h5")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f".a.h5.{os.getpid()}.part", f".b.h5.{gone.pid}.part", ".a.h5.x.part"}


def test_what_the_faults_are_tried_on_can_be_read(cache, blobs, tmp_path):
    with open_cache(cache) as reader:
        assert reader.n_rows("train") == 20
    save_model(DKVBClassifier(3, 8, 2, random_state=0).fit(*blobs), tmp_path / "m.npz", compress=False)
    assert load_model(tmp_path / "m.npz").classes_.tolist() == [0, 1, 2, 3, 4]
