"""Writing never destroys devices, pipes, links, folders, or the inputs of a command."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import cli as console
from pipeline.__main__ import build_parser, main
from pipeline.io import check_files, folder_beside, replaced
from pipeline.stages import import_cache as stage_of_imports

ROOT = Path(__file__).parents[2]


def write(path, text="new"):
    with replaced(path) as neighbour:
        neighbour.write_text(text)


@pytest.fixture
def pipe(tmp_path):
    """A named pipe, and the bytes that were read from it after it was written and closed."""
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()), daemon=True)
    reader.start()
    return path, lambda: (reader.join(20), read)[1]


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(pipe):
    path, what_came = pipe
    console.write_json(path, {"seconds": 1})
    assert [json.loads(text) for text in what_came()] == [{"seconds": 1}]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def device():
    """A terminal, and what was written to it; not /dev/null, since a bug would delete it from the machine."""
    master, slave = os.openpty()
    yield Path(os.ttyname(slave)), lambda: os.read(master, 1000)
    os.close(master), os.close(slave)


def test_a_device_gets_the_bytes_and_stays_a_device(device):
    path, what_came = device
    write(path, "to the terminal")
    assert what_came() == b"to the terminal"
    assert path.is_char_device()


def test_what_a_process_has_open_already_is_written_to_and_not_replaced(tmp_path):
    program = (
        "from pipeline import cli as console; print('before', flush=True); console.write_json('/dev/stdout', {'a': 1})"
    )
    with (tmp_path / "said.txt").open("w") as said:
        subprocess.run([sys.executable, "-c", program], stdout=said, cwd=ROOT, check=True)
    assert (tmp_path / "said.txt").read_text().split() == ["before", "{", '"a":', "1", "}"]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_its_target_is_written(tmp_path, there):
    target, link = tmp_path / "far" / "target.json", tmp_path / "link.json"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_link_to_what_dvc_has_stored_is_refused(tmp_path):
    stored, link = tmp_path / "stored", tmp_path / "link.json"
    stored.write_text("old")
    stored.chmod(0o444)
    link.symlink_to(stored)
    with pytest.raises(
        OSError, match=r"is a link to .*stored, which is write-protected; expected .* Run `dvc unprotect"
    ):
        write(link)
    assert stored.read_text() == "old"


def test_a_hard_link_of_what_dvc_has_stored_is_replaced_and_leaves_the_store_alone(tmp_path):
    (tmp_path / "stored").write_text("old")
    (tmp_path / "out.json").hardlink_to(tmp_path / "stored")
    write(tmp_path / "out.json")
    assert (tmp_path / "stored").read_text() == "old"


def test_a_link_that_leads_in_a_circle_a_folder_and_a_socket_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket must be short
    Path("one").symlink_to("two")
    Path("two").symlink_to("one")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        for name, kind in {"one": "a circular link", "folder": "a folder", "socket": "a socket"}.items():
            with pytest.raises(OSError, match=rf"^the output {name} is {kind}; expected a file.*\. Name another\.$"):
                write(name)
    assert Path("one").is_symlink()
    assert Path("socket").is_socket()


def test_a_folder_beside_a_pipe_lies_elsewhere(pipe, tmp_path):
    path, _ = pipe
    with folder_beside(path) as folder:
        assert folder.is_dir()
        assert folder.parent != tmp_path
    write(path, "")  # ends the reader


# inputs


def stage(tmp_path, *words):
    """Run a stage that reads --cache and --params and writes --model and --card; return its exit code."""
    files = {"--cache": "cache to read", "--model": "file to write", "--card": "file to write"}

    def do(args):
        console.write_json(args.model, {})
        console.write_json(args.card, {})

    return console.run(do, console.stage_parser("train", "Learn.", files), words)


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.h5").write_text("a cache")
    Path("params.yaml").write_text("runs: {}\n")
    Path("linked.h5").symlink_to("a.h5")
    Path("hard.h5").hardlink_to("a.h5")
    Path("folder").mkdir()
    return ("--params", "params.yaml", "--cache", "a.h5")


@pytest.mark.parametrize("name", ["a.h5", "./folder/../a.h5", "linked.h5", "hard.h5", "params.yaml"])
def test_no_stage_writes_over_what_it_reads(inputs, tmp_path, capsys, name):
    for model, card in ((name, "card.json"), ("model.npz", name)):
        assert stage(tmp_path, *inputs, "--model", model, "--card", card) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: the output {Path(name)} would overwrite the input ")
        assert said.endswith("; expected another file. Rename it.\n")
    assert Path("a.h5").read_text() == "a cache"
    assert not Path("model.npz").exists()  # nothing was written


def test_outputs_that_are_folders_or_named_twice_are_refused_before_anything_is_written(inputs, tmp_path, capsys):
    assert stage(tmp_path, *inputs, "--model", "model.npz", "--card", "folder") == 1
    assert capsys.readouterr().err == "error: the output folder is a folder; expected a file. Add a file's name.\n"
    assert stage(tmp_path, *inputs, "--model", "x", "--card", "folder/../x") == 1
    assert "is named twice; expected different files. Rename one." in capsys.readouterr().err
    assert not Path("model.npz").exists()
    assert not Path("x").exists()


def test_one_device_may_take_several_outputs(inputs, tmp_path, device):
    path, what_came = device
    assert stage(tmp_path, *inputs, "--model", str(path), "--card", str(path)) == 0
    assert what_came().split() == [b"{}", b"{}"]
    assert path.is_char_device()


def test_a_file_inside_a_folder_that_is_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="would overwrite the input"):
        check_files([tmp_path], [tmp_path / "new.json"])
    check_files([tmp_path], [tmp_path / "below" / "new.json"])


# caches


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("e.npz", X=np.eye(6), y=np.arange(6))
    Path("names.txt").write_text("a\nb\nc\nd\ne\nf\n")
    return ("import", "--embeddings", "e.npz", "--labels", "e.npz", "--class-names", "names.txt", "--backbone", "b")


def run(*words):
    return console.run(main, build_parser(), words)


@pytest.mark.parametrize("name", ["e.npz", "o", "o.hdf", "o.h5.npz", "null"])
def test_an_import_writes_only_what_is_called_a_cache(embeddings, capsys, name):
    before = Path("e.npz").read_bytes()
    assert run(*embeddings, "--output", name) == 1
    assert capsys.readouterr().err == (
        f"error: --output {name} was given; expected a file ending in .h5, .hdf5. Rename it.\n"
    )
    assert Path("e.npz").read_bytes() == before


@pytest.mark.parametrize("target", ["e.npz", "names.txt"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_import_does_not_write_over_its_input_under_another_name(embeddings, capsys, target, link):
    before = Path(target).read_bytes()
    link(target, "o.h5")
    assert run(*embeddings, "--output", "o.h5") == 1
    assert f"the output o.h5 would overwrite the input {target}; expected" in capsys.readouterr().err
    assert Path(target).read_bytes() == before


def test_an_export_checks_all_its_files_before_it_writes_one(embeddings, capsys):
    assert run(*embeddings, "--output", "c.H5") == 0
    Path("x.labels.npy").symlink_to("c.H5")
    assert run("export", "c.H5", "--output", "x.npy") == 1
    assert "the output x.labels.npy would overwrite the input c.H5" in capsys.readouterr().err
    Path("x.labels.npy").unlink()
    Path("x.ids.npy").mkdir()
    assert run("export", "c.H5", "--output", "x.npy") == 1
    assert "the output x.ids.npy is a folder; expected a file" in capsys.readouterr().err
    assert not Path("x.npy").exists()
    assert run("verify", "c.H5") == 0


@pytest.mark.parametrize("option", ["--output", "--card"])
def test_a_cache_is_not_imported_over_itself(embeddings, capsys, option):
    assert run(*embeddings, "--output", "c.h5") == 0
    Path("params.yaml").write_text(yaml.safe_dump({"imports": {"c": {"cache": "c.h5"}}}))
    files = {"--output": "o.h5", "--card": "o.json"} | {option: "./c.h5"}
    words = ["c", "--params", "params.yaml", *(word for pair in files.items() for word in pair)]
    assert console.run(stage_of_imports.main, stage_of_imports.build_parser(), words) == 1
    assert "the output c.h5 would overwrite the input c.h5; expected" in capsys.readouterr().err
    assert run("verify", "c.h5") == 0
