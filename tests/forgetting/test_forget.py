"""Forgetting changes every file of a project or none, and the receipt says what it did not reach."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import codes_of, placed
from PIL import Image

from dkvb_estimator import DKVBClassifier, KeyEncoder, load_model, save_model
from pipeline import cli as console
from pipeline.__main__ import build_parser, main
from pipeline.cache import CacheHeader, SplitRows, describe_cache, file_sha256, open_cache, write_cache
from pipeline.cache import writer as cache_writer
from pipeline.data import DigestIndex, build_manifest, read_manifest, write_manifest
from pipeline.extraction import Claims
from pipeline.forgetting import forget, resume
from pipeline.forgetting import journal as journal_module
from pipeline.report import build_page, read_receipts
from pipeline.scratch import stored_codes
from pipeline.stages import settings
from pipeline.store import EmbeddingStore, image_names
from pipeline.suppression import Suppression, read_suppression

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"kind": "digits", "test_fraction": 0.3, "seed": 0}
N, N_FEATURES = 200, 12
NETWORK = {"network": 1}


def rows_of(manifest):
    """A network whose features depend only on the image."""
    seeds = [int(digest[:12], 16) for digest in manifest.digests]
    return np.array([np.random.default_rng(seed).normal(size=N_FEATURES) for seed in seeds]).astype(np.float16)


def write_cache_of(manifest, path):
    X, splits = rows_of(manifest), np.array(manifest.splits)
    parts = {}
    for split in ("test", "train"):
        rows = np.flatnonzero(splits == split)
        if len(rows):
            parts[split] = SplitRows([X[rows]], manifest.labels[rows], [manifest.sample_ids[row] for row in rows])
    backbone = {"id": "b", "weights_sha256": "ab"}
    header = CacheHeader("f", backbone, {}, "t", "float32", "float16", manifest.sha256, manifest.dataset,
                         manifest.class_names)  # fmt: skip
    write_cache(path, header, parts)
    card = path.parents[1] / f"cards/{path.stem}.json"
    console.write_json(card, describe_cache(path) | {"file_sha256": file_sha256(path)})


def with_keys_of(reader, **settings):
    return placed(DKVBClassifier(KeyEncoder(16, 8, 3, random_state=0), **settings), reader.read("train"))


def save_run(project, name, cache, keys, **settings):
    with open_cache(cache) as reader, open_cache(keys) as other:
        model = with_keys_of(other, **settings).partial_fit(*reader.as_numpy("train"))
        encoder = model.encoder_
        encode = lambda X: np.asarray(encoder.transform(X))  # noqa: E731
        stored_codes(reader, "train", encode, encoder.fingerprint_, project / ".scratch/codes")
    card = {"run": name, "cache_sha256": file_sha256(cache), "key_cache_sha256": file_sha256(keys)}
    (project / "models").mkdir(exist_ok=True)
    save_model(model, project / f"models/{name}.npz", card)


@pytest.fixture(autouse=True)
def checked_here(monkeypatch):
    monkeypatch.setattr(cache_writer, "check_in_child", lambda path: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The project of which each test gets a copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "check_in_child", lambda path: None)
        return make_project(tmp_path_factory.mktemp("made"))


@pytest.fixture
def project(made, tmp_path):
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def make_project(tmp_path):
    """Make a project of digits and photographs with caches, a store, codes, checkpoints, a file index and models."""
    (tmp_path / "params.yaml").write_text("datasets: {}\n")
    digits = build_manifest("digits", RECIPE)
    few = {field: getattr(digits, field)[:N] for field in ("sample_ids", "labels", "splits", "digests")}
    manifests = [replace(digits, **few), build_manifest("photos", {"kind": "photos", "n_crops": 40, "seed": 0})]
    store = EmbeddingStore(tmp_path / ".scratch/store", NETWORK)
    for manifest in manifests:
        write_manifest(manifest, tmp_path / f"manifests/{manifest.dataset}.jsonl")
        write_cache_of(manifest, tmp_path / f"caches/{manifest.dataset}.h5")
        for start in range(0, len(manifest.digests), 64):
            here = slice(start, start + 64)
            rows = rows_of(manifest)[here]
            store.add(image_names(manifest.digests[here]), rows, np.zeros(len(rows)))
    index = DigestIndex(tmp_path / ".scratch/folders/digits.digests")
    index._seen = bytearray(b"".join(bytes(16) + bytes.fromhex(digest) for digest in manifests[0].digests))
    index.save()
    (tmp_path / ".scratch/aa").mkdir()
    cache, photos = tmp_path / "caches/digits.h5", tmp_path / "caches/photos.h5"
    for solver in ("counts", "joint", "sgd"):
        save_run(tmp_path, solver, cache, photos, solver=solver)
    save_run(tmp_path, "own_keys", cache, cache, solver="counts")
    shutil.copy(tmp_path / "models/joint.npz", tmp_path / ".scratch/aa/checkpoint.npz")
    return tmp_path


def run(project, monkeypatch, *arguments):
    monkeypatch.chdir(project)
    return console.run(main, build_parser(), ["forget", *map(str, arguments)])


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unpacked(folder):
    """Return the bytes of every file; models are unpacked."""
    found = []
    for path, content in contents(folder).items():
        found.append((path, content))
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                found += [(path, archive.read(name)) for name in archive.namelist()]
    return found


def train_ids(project, n=5, label=None):
    manifest = read_manifest(project / "manifests/digits.jsonl")
    rows = [r for r in range(N) if manifest.splits[r] == "train" and label in (None, manifest.labels[r])]
    return [manifest.sample_ids[row] for row in rows[:n]]


def test_no_byte_of_the_samples_is_left_in_any_file(project):
    before = read_manifest(project / "manifests/digits.jsonl")
    ids = train_ids(project, 5) + [before.sample_ids[row] for row in range(N) if before.splits[row] == "test"][:2]
    rows = [before.sample_ids.index(sample_id) for sample_id in ids]
    X = rows_of(before)[rows]
    model = load_model(project / "models/joint.npz")
    codes = codes_of(model, X[:5].astype(np.float32))
    names = image_names([before.digests[row] for row in rows])
    wanted = [row.tobytes() for row in X] + [row.astype(np.float32).tobytes() for row in X]
    wanted += [code.tobytes() for code in codes]
    hashes = [bytes.fromhex(before.digests[row]) for row in rows] + [before.digests[row].encode() for row in rows]
    hashes += [name.tobytes() for name in names]
    everything = unpacked(project)
    assert all(any(one in content for _, content in everything) for one in [*wanted[:7], *wanted[14:], *hashes])
    receipt = forget(project, project / ".scratch", ids=ids, reason="asked")
    for path, content in unpacked(project):
        for one in [*wanted, *hashes, *(sample_id.encode() for sample_id in ids)]:
            assert one not in content, path
    assert not list((project / ".scratch/codes").iterdir())
    told = json.loads(receipt.read_text())
    assert told["n_samples"] == {"digits": 7}
    assert told["n_rows_of_store"] == 7
    for path in ("manifests/digits.jsonl", "caches/digits.h5", "cards/digits.json", ".scratch/folders/digits.digests"):
        (file,) = [file for file in told["files"] if file["path"] == path]
        assert file["sha256_after"] == file_sha256(project / path) != file["sha256_before"]
    assert all(file["sha256_after"] is None for file in told["files"] if file["what"].endswith("deleted"))
    after = read_manifest(project / "manifests/digits.jsonl")
    kept = [row for row in range(N) if row not in rows]
    assert after.sample_ids == tuple(before.sample_ids[row] for row in kept)
    assert after.splits == tuple(before.splits[row] for row in kept)


def test_caches_and_cards_are_those_of_the_remaining_samples(project, tmp_path):
    ids = train_ids(project)
    forget(project, project / ".scratch", ids=ids, reason="asked")
    manifest = read_manifest(project / "manifests/digits.jsonl")
    write_cache_of(manifest, tmp_path / "expected.h5")
    with open_cache(project / "caches/digits.h5") as ours, open_cache(tmp_path / "expected.h5") as theirs:
        assert ours.split_names == theirs.split_names
        for split in ours.split_names:
            assert ours.read(split).tobytes() == theirs.read(split).tobytes()
            assert ours.sample_ids(split) == theirs.sample_ids(split)
            assert ours.labels(split).tolist() == theirs.labels(split).tolist()
        assert ours.header.manifest_sha256 == manifest.sha256
        assert ours.header.fingerprint != "f"
    card = json.loads((project / "cards/digits.json").read_text())
    assert card["file_sha256"] == file_sha256(project / "caches/digits.h5")


@pytest.mark.parametrize("solver", ["counts", "joint"])
def test_a_model_equals_one_trained_without_the_samples_and_the_receipt_says_by_how_much(project, solver):
    ids = train_ids(project)
    receipt = json.loads(forget(project, project / ".scratch", ids=ids, reason="asked").read_text())
    model = load_model(project / f"models/{solver}.npz")
    told = next(one for one in receipt["models"] if one["run"] == solver)
    assert told["how"] == "forgot exactly"
    with open_cache(project / "caches/digits.h5") as reader, open_cache(project / "caches/photos.h5") as keys:
        never = with_keys_of(keys, solver=solver).partial_fit(*reader.as_numpy("train"))
        X = reader.read("test")
    save_model(never, project / "never.npz")
    with np.load(project / "never.npz") as theirs, np.load(project / f"models/{solver}.npz") as ours:
        arrays = [name for name in theirs.files if not name.endswith(".json")]
        assert arrays == [name for name in ours.files if not name.endswith(".json")]
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in arrays)
    assert np.array_equal(model.values_, never.values_)
    assert np.array_equal(model.decision_function(X), never.decision_function(X))
    assert (told["gap"]["bits_of_values"], told["gap"]["largest_difference_of_scores"]) == (0, 0.0)
    assert told["gap"]["n_rows_compared"] > 50


def test_what_cannot_forget_exactly_is_deleted_and_named(project):
    receipt = json.loads(forget(project, project / ".scratch", ids=train_ids(project), reason="asked").read_text())
    again = {one["run"]: one["why"] for one in receipt["models"] if one["how"] == "trained again"}
    assert set(again) == {"sgd", "own_keys"}
    assert "keys were placed on rows that are deleted" in again["own_keys"]
    assert "cannot forget exactly" in again["sgd"]
    assert sorted(path.stem for path in (project / "models").iterdir()) == ["counts", "joint"]
    assert any("keys or gradient steps" in text for text in receipt["what_saw_them"])


def test_forgetting_what_keys_were_placed_among_deletes_every_model(project):
    receipt = json.loads(forget(project, project / ".scratch", ids=["photos/00003"], reason="asked").read_text())
    assert {one["how"] for one in receipt["models"] if one["run"] != "own_keys"} == {"trained again"}
    assert [path.stem for path in (project / "models").iterdir()] == ["own_keys"]


def test_the_receipt_names_every_result_that_was_measured_with_the_samples(project):
    tables = {
        "run": ("runs", {"a": ["models/counts.npz", "metrics/a.json"], "b": ["metrics/b.json"]}),
        "search": ("searches", {"s": ["searches/s.csv"]}),
        "baselines": ("baselines", {"r": ["baselines/r.json", "baselines/gone.json"]}),
    }
    read = {name: {"embeddings": "photos" if name == "b" else "digits", "keys": "photos"} for name in "abrs"}
    for stage, (table, files) in tables.items():
        console.write_json(project / f"settings/{table}.json", {name: read[name] for name in files})
        record = {name: {"made_from": "", "files": dict.fromkeys(files[name], "ab")} for name in files}
        console.write_json(project / f"records/{stage}.json", record)
        for path in (path for paths in files.values() for path in paths):
            if not (project / path).exists() and "gone" not in path:
                console.write_json(project / path, {})
    told = json.loads(forget(project, project / ".scratch", ids=train_ids(project), reason="asked").read_text())
    assert told["what_saw_them"][0].endswith("again): baselines/r.json, metrics/a.json, searches/s.csv")


def test_twice_in_a_row_works(project):
    first, second = train_ids(project, 6)[:3], train_ids(project, 6)[3:]
    forget(project, project / ".scratch", ids=first, reason="asked")
    receipt = json.loads(forget(project, project / ".scratch", ids=second, reason="asked").read_text())
    assert [one["gap"]["bits_of_values"] for one in receipt["models"]] == [0, 0]
    assert len(read_suppression(project / "forgotten").hashes) == 12  # the image and the id of each


def test_a_class_goes_with_all_its_samples_and_its_name_stays_in_the_receipt(project, monkeypatch, capsys):
    assert run(project, monkeypatch, "--class", "3", "--reason", "withdrawn") == 0
    assert "forgot " in capsys.readouterr().out
    manifest = read_manifest(project / "manifests/digits.jsonl")
    assert 3 not in manifest.labels
    assert manifest.class_names[3] == "3"
    (receipt,) = (project / "forgotten/receipts").iterdir()
    told = json.loads(receipt.read_text())
    assert (told["kind"], told["reason"]) == ("a class's samples", "withdrawn")
    assert "the name of class 3 of digits, which stays in class_names" in told["what_saw_them"]
    assert all(one["gap"]["bits_of_values"] == 0 for one in told["models"] if one["how"] == "forgot exactly")


def test_images_with_the_same_bytes_go_too(project):
    photos = read_manifest(project / "manifests/photos.jsonl")
    digits = read_manifest(project / "manifests/digits.jsonl")
    copied = replace(photos, digests=(digits.digests[0], *photos.digests[1:]))
    write_manifest(copied, project / "manifests/photos.jsonl")
    write_cache_of(copied, project / "caches/photos.h5")
    told = json.loads(forget(project, project / ".scratch", ids=[digits.sample_ids[0]], reason="asked").read_text())
    assert (told["n_samples"], told["n_copies"]) == ({"digits": 1, "photos": 1}, 1)
    with open_cache(project / "caches/photos.h5") as reader:
        assert photos.sample_ids[0] not in reader.sample_ids("train")


def test_the_report_shows_every_receipt(project):
    forget(project, project / ".scratch", ids=train_ids(project), reason="asked by somebody")
    forget(project, project / ".scratch", class_name="3", reason="withdrawn")
    first, second = receipts = read_receipts(project / "forgotten/receipts")
    assert (first["kind"], second["kind"]) == ("samples", "a class's samples")
    page = build_page([], receipts=receipts)
    assert "2 deletions in this project" in page
    for receipt in receipts:
        for file in receipt["files"]:
            assert f"{file['sha256_before']}</div><div>{file['sha256_after'] or 'deleted'}" in page
    assert "0 bits of values, 0 in scores of" in page
    assert "asked by somebody" not in page


# nothing changes


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--ids", "ids.txt"], "there is no sample 'digits/9999'; expected one that is known, such as 'digits/0"),
        (["--class", "33"], "there is no sample of class '33'; expected one that is known, such as '3'."),
        (
            ["--class", "3", "--dataset", "digit"],
            "there is no dataset 'digit'; expected one that is known, such a",
        ),
    ],
)
def test_what_is_unknown_is_one_sentence_and_changes_nothing(project, monkeypatch, capsys, options, text):
    (project / "ids.txt").write_text("digits/9999\n")
    before = contents(project)
    assert run(project, monkeypatch, *options, "--reason", "x") == 1
    assert capsys.readouterr().err.startswith(f"error: {text}")
    after = contents(project)
    assert {p: c for p, c in after.items() if "forgotten" not in p.parts and p.name != "lock"} == before


def test_a_name_that_stands_in_two_datasets_is_refused_until_one_is_named(project):
    digits = read_manifest(project / "manifests/digits.jsonl")
    ids = tuple(f"other/{row}" for row in range(N))
    other = replace(digits, dataset="other", sample_ids=ids, digests=tuple(d[::-1] for d in digits.digests))
    write_manifest(other, project / "manifests/other.jsonl")
    with pytest.raises(
        ValueError, match=r"in digits and other; expected samples of one dataset\. Choose it with --data"
    ):
        forget(project, project / ".scratch", class_name="3", reason="x")
    forget(project, project / ".scratch", class_name="3", dataset="other", reason="x")
    assert read_manifest(project / "manifests/digits.jsonl").sha256 == digits.sha256


def test_the_last_samples_of_a_dataset_are_refused(project):
    every = list(read_manifest(project / "manifests/photos.jsonl").sample_ids)
    with pytest.raises(ValueError, match=r"photos would keep none of its 40 samples; expected at least one\. Remove"):
        forget(project, project / ".scratch", ids=every, reason="x")


def test_a_cache_that_is_open_elsewhere_is_refused(project):
    code = f"""
from pipeline.cache import open_cache
with open_cache({str(project / "caches/digits.h5")!r}):
    print("open", flush=True)
    input()
"""
    before = contents(project)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(RuntimeError, match=r"caches/digits\.h5 is in use by another.*nothing was changed"):
            forget(project, project / ".scratch", ids=train_ids(project), reason="x")
        other.communicate("\n", 60)
    assert {p: c for p, c in contents(project).items() if p.name != "lock"} == before
    forget(project, project / ".scratch", ids=train_ids(project), reason="x")


def test_a_running_extraction_is_not_overtaken(project):
    with (
        Claims(project / ".scratch/extractions", "abc"),
        pytest.raises(
            RuntimeError, match=r"abc/lock is in use by another process; expected no other process to use it"
        ),
    ):
        forget(project, project / ".scratch", ids=train_ids(project), reason="x")
    forget(project, project / ".scratch", ids=train_ids(project), reason="x")


# a crash at any point


class KilledError(BaseException):
    pass


def kill_at(monkeypatch, point):
    """Raise an error at a file operation, counted over the functions below."""
    count = [0]

    def dying(usual):
        def call(*arguments, **options):
            count[0] += 1
            if count[0] == point:
                raise KilledError
            return usual(*arguments, **options)

        return call

    for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "replace"), (shutil, "rmtree"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    return count


@pytest.mark.parametrize("n_points", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_deletion_that_ends_anywhere_changed_nothing_or_is_finished(project, tmp_path_factory, monkeypatch, n_points):
    ids, outcomes = train_ids(project), []
    whole = shutil.copytree(project, tmp_path_factory.mktemp("whole") / "p")
    with monkeypatch.context() as context:
        count = kill_at(context, -1)
        forget(whole, whole / ".scratch", ids=ids, reason="asked")
        points = np.linspace(1, count[0], n_points).astype(int)
    before = {p.relative_to(project): c for p, c in contents(project).items()}
    for number, point in enumerate(points):
        here = shutil.copytree(project, tmp_path_factory.mktemp("killed") / f"p{number}")
        with monkeypatch.context() as context:
            kill_at(context, point)
            with pytest.raises(KilledError):
                forget(here, here / ".scratch", ids=ids, reason="asked")
        if (here / "forgotten/pending/journal.json").exists():
            with pytest.raises(RuntimeError, match=r"a deletion was interrupted.*; expected .*forget --resume"):
                read_suppression(here / "forgotten")
            assert resume(here / "forgotten").exists()
            outcomes.append("finished")
        elif (here / "forgotten/receipts").exists():
            outcomes.append("done")
        else:
            left = {p.relative_to(here): c for p, c in contents(here).items()}
            blocks = {p for p in left if p.suffix == ".rows"}
            known = {p: c for p, c in left.items() if p in before or not (p in blocks or "forgotten" in p.parts)}
            assert {p: c for p, c in known.items() if p.name != "lock" and p.suffix != ".part"} == before
            forget(here, here / ".scratch", ids=ids, reason="asked")
            outcomes.append("nothing")
        assert same(here) == same(whole), point
        assert resume(here / "forgotten") is None
    assert {"nothing", "finished"} <= set(outcomes)


def same(project):
    """Return what must be equal in two projects: everything but the key, what is derived from it, and the time."""
    skipped = ("lock", "key", "list.txt")
    files = {p.relative_to(project): c for p, c in contents(project).items() if p.name not in skipped}
    return {p: hashlib.sha256(c).hexdigest() for p, c in files.items() if "receipts" not in p.parts}


def test_a_staged_file_on_a_full_disk_changes_nothing(project, monkeypatch):
    before = contents(project)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(journal_module.Journal, "commit", full)
        with pytest.raises(OSError, match="No space"):
            forget(project, project / ".scratch", ids=train_ids(project), reason="x")
    after = contents(project)
    assert all(after[path] == content for path, content in before.items())
    forget(project, project / ".scratch", ids=train_ids(project), reason="x")


def test_nothing_is_reproduced_while_a_deletion_is_interrupted(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    Path("params.yaml").write_text("datasets: {}\n")
    console.write_json("forgotten/pending/journal.json", {})
    assert console.run(settings.main, settings.build_parser(), ["--params", "params.yaml", "--output", "s"]) == 1
    assert "error: a deletion was interrupted (in " in capsys.readouterr().err
    assert not Path("s").exists()


# forgotten samples do not return


def test_the_manifest_leaves_them_out_and_the_others_keep_their_splits(project, monkeypatch):
    forget(project, project / ".scratch", ids=train_ids(project), reason="asked")
    monkeypatch.chdir(project)
    again = build_manifest("digits", RECIPE, suppression=read_suppression())
    usual = build_manifest("digits", RECIPE)
    assert len(again.sample_ids) == len(usual.sample_ids) - 5
    assert "warning: 5 images were forgotten and are left out: digits/0" in again.notes[-1]
    splits = dict(zip(usual.sample_ids, usual.splits, strict=True))
    assert all(splits[i] == split for i, split in zip(again.sample_ids, again.splits, strict=True))


def test_an_imported_cache_forgets_by_id_and_does_not_come_back(project, monkeypatch, capsys):
    np.savez(project / "a.npz", X=np.eye(6, dtype=np.float32), y=np.arange(6) % 2, ids=np.array(list("abcdef")))
    words = ["import", "--embeddings", "a.npz:X", "--labels", "a.npz:y", "--ids", "a.npz:ids", "--backbone", "mine"]
    words += ["--dataset", "own", "--test-fraction", "0.34", "--output", "imported/own.h5"]
    monkeypatch.chdir(project)
    assert console.run(main, build_parser(), words) == 0
    forget(project, project / ".scratch", ids=["c"], dataset="own", reason="asked")
    with open_cache(project / "imported/own.h5") as reader:
        ids = [sample_id for split in reader.split_names for sample_id in reader.sample_ids(split)]
    assert sorted(ids) == list("abdef")
    assert console.run(main, build_parser(), words) == 1
    assert "sample 'c' of own was forgotten; expected arrays without it. Remove its row." in capsys.readouterr().err


def test_the_index_of_files_does_not_remember_them_again(tmp_path, monkeypatch):
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (ord(name[0]), int(name[2]), 0)).save(tmp_path / "pets" / name)
    recipe = {"kind": "folder", "root": str(tmp_path / "pets"), "test_fraction": 0.4, "seed": 0}
    gone = build_manifest("pets", recipe, tmp_path / "index").digests[4]
    assert bytes.fromhex(gone) in (tmp_path / "index").read_bytes()
    forgotten = Suppression(b"key", frozenset([Suppression(b"key", frozenset()).hash_of(gone)]))
    again = build_manifest("pets", recipe, tmp_path / "index", suppression=forgotten)
    assert gone not in again.digests
    assert bytes.fromhex(gone) not in (tmp_path / "index").read_bytes()


def test_the_list_without_its_key_is_refused(project):
    forget(project, project / ".scratch", ids=train_ids(project), reason="asked")
    (project / "forgotten/key").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no key in .*for the 10 hashes.*; expected the key that wrote the list.*backup"
    ):
        read_suppression(project / "forgotten")


def test_the_key_is_private_and_another_project_has_another(project, tmp_path_factory):
    other = shutil.copytree(project, tmp_path_factory.mktemp("other") / "p")
    for one in (project, other):
        forget(one, one / ".scratch", ids=train_ids(one), reason="asked")
    assert (project / "forgotten/key").stat().st_mode & 0o077 == 0
    ours, theirs = (read_suppression(one / "forgotten").hashes for one in (project, other))
    assert not ours & theirs


def test_the_command_needs_a_reason_and_prints_what_it_did_not_reach(project, monkeypatch, capsys):
    (project / "ids.txt").write_text("\n".join(train_ids(project)) + "\n")
    assert run(project, monkeypatch, "--ids", "ids.txt") == 1
    assert "no --reason was given; expected one for the receipt" in capsys.readouterr().err
    assert run(project, monkeypatch, "--ids", "ids.txt", "--reason", "asked") == 0
    out = capsys.readouterr().out
    assert out.startswith("forgot 5 of digits: ")
    assert "models/sgd.npz: trained again; " in out
    assert "not reached: remotes of DVC (dvc gc --workspace --cloud --remote NAME)" in out
    assert run(project, monkeypatch, "--resume") == 0
    assert capsys.readouterr().out == "no deletion was interrupted\n"


def test_only_the_files_of_one_project_are_searched(project, made):
    inner, ids = project / "inner", train_ids(project)
    shutil.copytree(made, inner)
    before = contents(inner)
    forget(project, project / ".scratch", ids=ids[:2], reason="asked")
    assert contents(inner) == before
    (project / "params.yaml").unlink()
    with pytest.raises(ValueError, match=r"there is no params\.yaml in .*; expected the folder of a project"):
        forget(project, project / ".scratch", ids=ids[2:], reason="asked")


def test_forgotten_images_do_not_come_back_as_arrays_of_their_embeddings(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert console.run(main, build_parser(), ["export", "caches/digits.h5", "--output", "a.npz"]) == 0
    ids = train_ids(project, 2)
    forget(project, project / ".scratch", ids=ids, reason="asked")
    words = ["import", "--embeddings", "a.npz:train_embeddings", "--labels", "a.npz:train_labels", "--backbone", "b"]
    words += ["--ids", "a.npz:train_ids", "--dataset", "digits", "--output", "again.h5", "--test-fraction", "0.3"]
    assert console.run(main, build_parser(), words) == 1
    assert "of digits was forgotten; expected arrays without it" in capsys.readouterr().err
