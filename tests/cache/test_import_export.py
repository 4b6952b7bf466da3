"""Import and export of embeddings lose nothing, guess nothing and run no code."""

import hashlib
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import __main__ as command
from pipeline import cli as console
from pipeline.cache import array_readers as array_files
from pipeline.cache import describe_cache, open_cache
from pipeline.cache import import_export as exchange
from pipeline.cache import writer as cache_writer
from pipeline.cache.reader import check_everything

ROOT = Path(__file__).resolve().parents[2]
N, F = 12, 5
X = (np.random.default_rng(3).standard_normal((N, F)) * 3).astype(np.float32)
Y = np.arange(N) % 3
NAMES = np.array(["ant", "bee", "cat"])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Verify files in this process, because starting another one takes a while."""
    monkeypatch.setattr(cache_writer, "check_in_child", check_everything)


@pytest.fixture
def files(tmp_path):
    """The same twelve rows in every kind of file that needs only NumPy and torch."""
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.save(tmp_path / "names.npy", NAMES[Y])
    np.savez(tmp_path / "both.npz", embeddings=X, labels=Y, other=X[:3])
    torch.save(torch.from_numpy(X), tmp_path / "X.pt")
    torch.save({"X": torch.from_numpy(X), "y": torch.from_numpy(Y)}, tmp_path / "both.pt")
    return tmp_path


def run(*arguments):
    return console.run(command.main, command.build_parser(), [str(argument) for argument in arguments])


def import_(folder, *arguments, **files):
    """Import files of a folder with some options; return the exit code."""
    options = [part for option, value in files.items() for part in (f"--{option.replace('_', '-')}", folder / value)]
    return run("import", *options, "--backbone", "mine", "--output", folder / "out/a.h5", *arguments)


def read(folder, split="train"):
    with open_cache(folder / "out/a.h5") as reader:
        return reader.read(split), reader.labels(split), reader.sample_ids(split), reader.header


def assert_one_sentence(capsys, text):
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert text in printed


# into a cache


@pytest.mark.parametrize(
    "given",
    [
        {"embeddings": "X.npy", "labels": "y.npy"},
        {"embeddings": "both.npz", "labels": "both.npz"},
        {"embeddings": "both.npz:embeddings", "labels": "y.npy"},
        {"embeddings": "X.pt", "labels": "both.pt:y"},
        {"embeddings": "both.pt", "labels": "both.pt"},
    ],
)
def test_every_kind_of_file_gives_the_same_rows(files, given):
    assert import_(files, **given) == 0
    found, labels, ids, header = read(files)
    np.testing.assert_array_equal(found, X)
    assert labels.tolist() == Y.tolist()
    assert len(set(ids)) == N
    assert header.class_names == ("0", "1", "2")
    assert (header.backbone, header.tap, header.storage_dtype) == ({"id": "mine"}, "imported", "float32")


def test_one_layer_is_named_by_layer_and_its_old_option_is_answered(files, capsys):
    assert import_(files, "--layer", "avgpool", embeddings="X.npy", labels="y.npy") == 0
    assert read(files)[3].tap == "avgpool"
    capsys.readouterr()
    assert import_(files, "--tap", "avgpool", embeddings="X.npy", labels="y.npy") == 1
    assert_one_sentence(capsys, "--tap was given; expected its new name, --layer. Rename the option.")


def test_the_cache_says_which_files_it_was_made_of(files):
    assert import_(files, embeddings="X.npy", labels="y.npy") == 0
    card = describe_cache(files / "out/a.h5")
    assert card["preprocessing"] == {
        "imported": [
            {"file": name, "sha256": hashlib.sha256((files / name).read_bytes()).hexdigest()}
            for name in ("X.npy", "y.npy")
        ]
    }
    assert card["dataset"] == "X"
    assert str(files) not in str(card)


def test_the_same_files_give_the_same_bytes_and_others_another_fingerprint(files):
    content, fingerprints = [], []
    for seed in (0, 0, 1):
        assert import_(files, "--test-fraction", 0.5, "--seed", seed, embeddings="X.npy", labels="y.npy") == 0
        content.append((files / "out/a.h5").read_bytes())
        fingerprints.append(read(files)[3].fingerprint)
    assert content[0] == content[1] != content[2]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_text_labels_are_numbered_in_sorted_order(files):
    assert import_(files, embeddings="X.npy", labels="names.npy") == 0
    _, labels, _, header = read(files)
    assert header.class_names == ("ant", "bee", "cat")
    assert labels.tolist() == Y.tolist()


def test_class_names_of_a_file_say_the_order(files):
    (files / "classes.txt").write_text("cat\nbee\nant\n", encoding="utf-8")
    assert import_(files, embeddings="X.npy", labels="names.npy", class_names="classes.txt") == 0
    _, labels, _, header = read(files)
    assert header.class_names == ("cat", "bee", "ant")
    assert labels.tolist() == (2 - Y).tolist()


def test_without_labels_every_row_is_unlabelled(files):
    assert import_(files, embeddings="X.npy") == 0
    _, labels, _, header = read(files)
    assert set(labels.tolist()) == {-1}
    assert header.class_names == ()


def test_a_stratified_share_is_drawn_for_the_test(files):
    assert import_(files, "--test-fraction", "0.25", embeddings="X.npy", labels="y.npy") == 0
    rows = {split: read(files, split) for split in ("train", "test")}
    assert np.bincount(rows["test"][1]).tolist() == [1, 1, 1]
    for found, labels, ids, _ in rows.values():
        places = [int(name.split("/")[1]) for name in ids]
        np.testing.assert_array_equal(found, X[places])
        assert labels.tolist() == Y[places].tolist()


def test_unlabelled_rows_are_never_drawn_for_the_test(files):
    np.save(files / "y.npy", np.where(np.arange(N) < 6, -1, Y))
    assert import_(files, "--test-fraction", "0.5", embeddings="X.npy", labels="y.npy") == 0
    assert (read(files, "test")[1] >= 0).all()
    assert (read(files, "train")[1] == -1).sum() == 6


def test_test_files_become_the_test_split(files):
    np.save(files / "Z.npy", X[:3] + 1)
    np.save(files / "z.npy", NAMES[[2, 2, 0]])
    given = {"embeddings": "X.npy", "labels": "names.npy", "test_embeddings": "Z.npy", "test_labels": "z.npy"}
    assert import_(files, **given) == 0
    found, labels, ids, _ = read(files, "test")
    np.testing.assert_array_equal(found, X[:3] + 1)
    assert labels.tolist() == [2, 2, 0]
    assert ids[0] == "Z/0000000"
    assert len(read(files, "train")[0]) == N


def test_splits_and_ids_may_be_given_row_by_row(files):
    splits = np.array(["train", "val", "test"])[np.arange(N) % 3]
    np.savez(files / "more.npz", splits=splits, ids=[f"größe {row}" for row in range(N)])
    assert import_(files, embeddings="X.npy", labels="y.npy", splits="more.npz", ids="more.npz") == 0
    found, _, ids, _ = read(files, "val")
    np.testing.assert_array_equal(found, X[1::3])
    assert ids[0] == "größe 1"


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_numbers_of_any_type_are_stored_as_asked(files, dtype):
    np.save(files / "X.npy", X.astype(dtype))
    assert import_(files, "--storage-dtype", "float16", embeddings="X.npy") == 0
    np.testing.assert_array_equal(read(files)[0], X.astype(dtype).astype(np.float16).astype(np.float32))


def test_brain_floats_are_widened(files):
    torch.save(torch.from_numpy(X).bfloat16(), files / "X.pt")
    assert import_(files, embeddings="X.pt") == 0
    np.testing.assert_array_equal(read(files)[0], torch.from_numpy(X).bfloat16().float().numpy())


# mistakes


class Malice:
    """Creates a folder when an unguarded reader loads its pickle."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        import os

        return os.mkdir, (self.target,)


@pytest.mark.parametrize("name", ["X.npy", "both.npz", "X.pt"])
def test_code_in_a_file_is_refused_and_not_run(files, capsys, name):
    trap = np.array([Malice(str(files / "ran"))], dtype=object)
    if name == "X.pt":
        torch.save({"X": Malice(str(files / "ran"))}, files / name)
    elif name == "X.npy":
        np.save(files / name, trap, allow_pickle=True)
    else:
        np.savez(files / name, embeddings=trap, allow_pickle=True)
    assert import_(files, embeddings=name) == 1
    assert_one_sentence(capsys, f"{name} cannot be read without running code, or is damaged (")
    assert not (files / "ran").exists()
    pickle.loads(pickle.dumps(Malice(str(files / "ran"))))
    assert (files / "ran").exists()


@pytest.mark.parametrize("shape", ["(1000000000000, 4)", "(1, 4)", "(-1, 4)"])
def test_an_archive_that_claims_other_rows_than_it_has_is_refused(files, capsys, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    with zipfile.ZipFile(files / "claims.npz", "w") as archive:
        archive.writestr(
            "embeddings.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64
        )
    assert import_(files, embeddings="claims.npz") == 1
    assert_one_sentence(capsys, "claims.npz cannot be read without running code, or is damaged (")


def test_a_flipped_byte_in_a_packed_archive_is_a_sentence_or_changes_nothing(files):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 4)).astype(np.float32)
    np.savez_compressed(files / "packed.npz", embeddings=X)
    content = (files / "packed.npz").read_bytes()
    for place in rng.choice(len(content), 200, replace=False):
        (files / "packed.npz").write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            read = array_files.read_array(str(files / "packed.npz"), "embeddings")
        except ValueError as error:
            assert re.search(r"packed\.npz.*(Save arrays with|Write )", str(error))  # noqa: PT017
        else:
            assert np.array_equal(read, X)


@pytest.mark.parametrize("name", ["X.npy", "both.npz", "X.pt"])
def test_a_truncated_file_is_one_sentence(files, capsys, name):
    (files / name).write_bytes((files / name).read_bytes()[:-30])
    assert import_(files, embeddings=name) == 1
    assert_one_sentence(capsys, f"{name} cannot be read without running code, or is damaged (")
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"embeddings": "gone.npy"}, "there is no file"),
        ({"embeddings": "X.csv"}, "expected a file ending in .npy, .npz, .pt, .pth, .ckpt, .parquet. Convert it."),
        ({"embeddings": "y.npy"}, "have shape (12,) and type int64; expected numbers (n, f)."),
        ({"embeddings": "names.npy"}, "have shape (12,) and type <U3; expected numbers (n, f)."),
        ({"embeddings": "both.npz:train"}, "both.npz contains embeddings, labels, other, but no train; expected the"),
        ({"labels": "short.npy"}, "have shape (3,) and type int64 for 12 embeddings; expected (12,), integers from"),
        ({"labels": "X.npy"}, "have shape (12, 5) and type float32 for 12 embeddings; expected (12,), integers"),
        ({"labels": "half.npy"}, "have shape (12,) and type float64 for 12 embeddings; expected (12,), integers"),
        ({"labels": "low.npy"}, "the labels run from -2 to 0; expected −1 (unlabelled) to 65535. Number the classes"),
        ({"labels": "y.npy", "class_names": "two.txt"}, "the labels run from 0 to 2; expected −1 (unlabelled) to 1."),
        ({"labels": "names.npy", "class_names": "two.txt"}, "two.txt; expected one of them. Add a line for it"),
        ({"ids": "twice.npy"}, "holds the sample id 'same' twice; expected distinct ids."),
        ({"ids": "y.npy"}, "the ids in"),
        ({"splits": "odd.npy"}, "odd.npy contain 'a/b'; expected names of letters, digits and"),
        ({"test_labels": "y.npy"}, "--test-labels or --test-ids came without --test-embeddings; expected that option"),
        ({"splits": "odd.npy", "test_embeddings": "X.npy"}, "--test-embeddings and --splits both choose the test"),
        ({"test_embeddings": "wide.npy"}, "the splits have different numbers of features: {'test': 6, 'train': 5};"),
        ({"embeddings": "nan.npy"}, "nan.npy holds NaN or infinity; expected finite numbers up to"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_file(files, capsys, changes, text):
    np.save(files / "short.npy", Y[:3])
    np.save(files / "half.npy", Y + 0.5)
    np.save(files / "low.npy", np.minimum(Y, 0) - 2 * (np.arange(N) == 5))
    np.save(files / "twice.npy", np.full(N, "same"))
    np.save(files / "odd.npy", np.full(N, "a/b"))
    np.save(files / "wide.npy", np.ones((N, F + 1)))
    np.save(files / "nan.npy", np.where(np.arange(N)[:, None] == 4, np.nan, X))
    (files / "X.csv").write_text("1,2\n")
    (files / "two.txt").write_text("ant\nbee\n")
    assert import_(files, **({"embeddings": "X.npy"} | changes)) == 1
    assert_one_sentence(capsys, text)
    assert not (files / "out/a.h5").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--test-fraction", "1.5"],
            "--test-fraction 1.5 was given; expected a share between 0 and 1, together with --labels",
        ),
        (["--test-fraction", "0.01"], "cannot be split into train and test: test_fraction is 0.01, "),
    ],
)
def test_a_share_that_cannot_be_drawn_is_one_sentence(files, capsys, arguments, text):
    assert import_(files, *arguments, embeddings="X.npy", labels="y.npy") == 1
    assert_one_sentence(capsys, text)


def test_files_of_one_name_give_ids_that_name_one_sample_each(files):
    (files / "test").mkdir()
    np.save(files / "test/X.npy", X[:2] + 1)
    assert import_(files, embeddings="X.npy", test_embeddings="test/X.npy") == 0
    assert read(files)[2][0] == "train/X/0000000"
    assert read(files, "test")[2] == ["test/X/0000000", "test/X/0000001"]


def test_an_id_in_two_splits_is_refused(files, capsys):
    ids = [f"{row}.png" for row in range(N)]
    np.savez(files / "ids.npz", ids=ids)
    np.savez(files / "test.npz", embeddings=X[:2] + 1, ids=["new.png", "3.png"])
    parts = {"embeddings": "X.npy", "ids": "ids.npz", "test_embeddings": "test.npz:embeddings"}
    assert import_(files, **parts, test_ids="test.npz:ids") == 1
    assert_one_sentence(capsys, "id '3.png' is in split 'test' and in split 'train'; expected distinct ids.")
    assert not (files / "out/a.h5").exists()


# out of a cache


@pytest.fixture
def cache(files):
    """A cache of two splits, some rows unlabelled."""
    np.savez(files / "odd.npz", labels=np.where(Y == 2, -1, Y), splits=np.array(["test", "train"])[np.arange(N) % 2])
    assert import_(files, embeddings="X.npy", labels="odd.npz", splits="odd.npz") == 0
    return files / "out/a.h5"


def test_what_is_exported_as_npz_comes_back(cache, files, capsys):
    assert run("export", cache, "--output", files / "new/all.npz") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(files / "new/all.npz")
    assert [path.name for path in (files / "new").iterdir()] == ["all.npz"]
    before = {split: read(files, split) for split in ("train", "test")}
    given = {
        f"{prefix}{what}": f"new/all.npz:{split}_{what}"
        for prefix, split in (("", "train"), ("test_", "test"))
        for what in ("embeddings", "labels", "ids")
    }
    assert import_(files, **given) == 0
    for split, (found, labels, ids, _) in before.items():
        again = read(files, split)
        np.testing.assert_array_equal(again[0], found)
        assert (again[1].tolist(), again[2]) == (labels.tolist(), ids)


def test_one_split_is_exported_as_npy_with_its_labels_and_ids(cache, files, capsys):
    assert run("export", cache, "--output", files / "train.npy", "--split", "train") == 0
    found, labels, ids, _ = read(files)
    np.testing.assert_array_equal(np.load(files / "train.npy"), found)
    assert np.load(files / "train.npy").dtype == np.float32
    assert np.load(files / "train.labels.npy").tolist() == labels.tolist()
    assert np.load(files / "train.ids.npy").tolist() == ids
    np.save(files / "same.npy", found)
    assert (files / "train.npy").read_bytes() == (files / "same.npy").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--output", "a.csv"], "a.csv was asked for; expected a file ending in .npz, .npy, .parquet. Rename it."),
        (
            ["--output", "a.npy"],
            ".npy holds one split, but the cache has test, train; expected one split. Choose it with --split.",
        ),
        (["--output", "a.npz", "--split", "val"], "cache a.h5 has no split 'val'; expected one of test, train."),
    ],
)
def test_an_export_that_makes_no_sense_is_one_sentence(cache, files, capsys, monkeypatch, arguments, text):
    monkeypatch.chdir(files)
    capsys.readouterr()
    before = sorted(path.name for path in files.iterdir())
    assert run("export", cache, *arguments) == 1
    assert_one_sentence(capsys, text)
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_damaged_block_stops_the_export_and_leaves_the_old_file(cache, files, capsys):
    content = bytearray(cache.read_bytes())
    content[content.find(X[1].tobytes())] ^= 1
    cache.write_bytes(content)
    (files / "all.npz").write_bytes(b"old")
    capsys.readouterr()
    assert run("export", cache, "--output", files / "all.npz") == 1
    assert_one_sentence(capsys, "differ from their checksum")
    assert (files / "all.npz").read_bytes() == b"old"


def test_parquet_comes_back(cache, files):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    before = {split: read(files, split) for split in ("train", "test")}
    assert run("export", cache, "--output", files / "all.parquet") == 0
    given = dict.fromkeys(("embeddings", "labels", "ids", "splits"), "all.parquet")
    assert import_(files, **given) == 0
    for split, (found, labels, ids, _) in before.items():
        again = read(files, split)
        np.testing.assert_array_equal(again[0], found)
        assert (again[1].tolist(), again[2]) == (labels.tolist(), ids)


def test_lists_of_any_length_alike_and_text_labels_are_read_from_parquet(files, capsys):
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"X": X.tolist(), "y": NAMES[Y].tolist()}), files / "a.parquet", row_group_size=5)
    assert import_(files, embeddings="a.parquet", labels="a.parquet") == 0
    found, labels, _, header = read(files)
    np.testing.assert_array_equal(found, X)
    assert (labels.tolist(), header.class_names) == (Y.tolist(), ("ant", "bee", "cat"))
    for rows in ([[1.0], [1.0, 2.0]], [[1.0, 2.0], None], [[1.0, None], [2.0, 3.0]]):
        pq.write_table(pa.table({"X": rows}), files / "a.parquet")
        assert import_(files, embeddings="a.parquet") == 1
        assert_one_sentence(capsys, "column 'X' of a.parquet has missing values, or lists of different lengths;")
    (files / "a.parquet").write_bytes(b"PAR1 no")
    assert import_(files, embeddings="a.parquet") == 1
    assert_one_sentence(capsys, "a.parquet is not a Parquet file (")


def test_without_pyarrow_parquet_says_what_to_install(files, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (files / "a.parquet").write_bytes(b"")
    assert import_(files, embeddings="a.parquet") == 1
    assert_one_sentence(capsys, "expected the package. Run `pip install pyarrow`, or use .npz.")


def test_a_large_npy_is_read_block_by_block(files, monkeypatch):
    monkeypatch.setattr(exchange, "_BLOCK_ROWS", 5)
    assert isinstance(array_files.read_array(str(files / "X.npy"), "embeddings"), np.memmap)
    assert import_(files, embeddings="X.npy", labels="y.npy") == 0
    np.testing.assert_array_equal(read(files)[0], X)


# from the command line


def test_import_runs_from_the_command_line_and_says_one_line(files):
    arguments = ["--embeddings", "X.npy", "--labels", "y.npy", "--backbone", "mine", "--output", "a.h5"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "import", *arguments],
        cwd=files, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.h5: 12 train; 5 features, 3 classes\n"
    assert done.stderr == ""


def test_debug_may_stand_after_the_verb(files):
    with pytest.raises(FileNotFoundError, match=re.escape("there is no file")):
        import_(files, "--debug", embeddings="gone.npy")


# messages about the content of a file


def test_a_checkpoint_of_tensors_and_other_things_gives_what_is_named(files):
    content = {"X": torch.tensor(X), "labels": ["ant", "bee", "cat"] * 4, "model": "resnet18", "epoch": 3}
    torch.save(content, files / "m.pt")
    assert import_(files, embeddings="m.pt:X", labels="m.pt:labels") == 0
    with open_cache(files / "out/a.h5") as reader:
        assert np.array_equal(reader.read("train"), X)
        assert reader.header.class_names == ("ant", "bee", "cat")


def test_a_name_with_a_slash_is_taken(files):
    np.savez(files / "s.npz", **{"train/X": X, "b:c": X[:, :2]})
    assert import_(files, embeddings="s.npz:train/X") == 0
    assert array_files.read_array(f"{files / 's.npz'}:b:c", "embeddings").shape == (N, 2)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            "m.pt:model",
            "model in m.pt is neither a tensor nor a list of whole numbers or text; expected one of X. Name",
        ),
        ("m.pt:gone", "m.pt contains X, but no gone; expected the name of one array."),
        ("t.pt:X", "t.pt contains one unnamed array; expected no name. Remove :X."),
        ("X.npy:X", "X.npy contains one unnamed array; expected no name. Remove :X."),
        ("n.pt", "(it holds a NumPy array); expected arrays of numbers or text. Save arrays with np.savez, or"),
        (
            "large.npy --storage-dtype float16",
            "large.npy holds a number too large for float16; expected finite numbers",
        ),
    ],
)
def test_a_refused_file_is_told_what_it_does_hold(files, capsys, given, text):
    torch.save({"X": torch.tensor(X), "model": "resnet18"}, files / "m.pt")
    torch.save(torch.tensor(X), files / "t.pt")
    torch.save({"X": X}, files / "n.pt")
    np.save(files / "large.npy", X * 1e9)
    name, *more = given.split()
    assert import_(files, *more, embeddings=name) == 1
    assert_one_sentence(capsys, text)
    assert not (files / "out/a.h5").exists()


def test_class_names_may_come_from_any_editor_and_more_lines_are_no_classes(files):
    (files / "c.txt").write_text("ant\nbee\ncat\n\n\n", encoding="utf-16", newline="\r\n")
    assert import_(files, embeddings="X.npy", labels="y.npy", class_names="c.txt") == 0
    with open_cache(files / "out/a.h5") as reader:
        assert reader.header.class_names == ("ant", "bee", "cat")


# several layers


def test_layers_are_imported_with_their_columns_and_told_by_an_export(files, capsys):
    assert import_(files, "--layers", "inner:2", "pool:3", embeddings="X.npy", labels="y.npy") == 0
    with open_cache(files / "out/a.h5") as reader:
        assert [(layer.name, layer.start, layer.stop) for layer in reader.header.layers] == [
            ("inner", 0, 2), ("pool", 2, 5),
        ]  # fmt: skip
        assert (reader.header.tap, reader.feature_blocks) == ("inner+pool", (2, 3))
    content = (files / "out/a.h5").read_bytes()
    capsys.readouterr()
    assert run("export", files / "out/a.h5", "--output", files / "all.npz") == 0
    said = capsys.readouterr()
    assert "do not record the layers: import them with --layers inner:2 pool:3" in said.err
    assert said.out.splitlines() == [str(files / "all.npz")]
    assert import_(files, "--layers", "inner:3", "pool:2", embeddings="X.npy", labels="y.npy") == 0
    assert (files / "out/a.h5").read_bytes() != content


@pytest.mark.parametrize(
    "given", [["a:2"], ["a:5"], ["a:2", "b:4"], ["a:2", "a:3"], ["a", "b:5"], ["a:0", "b:5"], [":2", "b:3"]]
)
def test_layers_that_do_not_add_up_are_one_sentence(files, capsys, given):
    assert import_(files, "--layers", *given, embeddings="X.npy", labels="y.npy") == 1
    assert_one_sentence(capsys, f"--layers {' '.join(given)} was given for 5 features; expected two or more different")
    assert not (files / "out").exists()


def test_an_export_of_one_layer_says_nothing_of_layers(cache, files, capsys):
    capsys.readouterr()
    assert run("export", cache, "--output", files / "all.npz") == 0
    assert "layers" not in capsys.readouterr().err
