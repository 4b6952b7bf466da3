"""The stage that checks folders detects every change, and writes the same bytes if nothing changed."""

import errno
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline import cli as console
from pipeline.data import datasets, read_manifest
from pipeline.stages import manifest as stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of two classes with five images each, a missing folder, and the settings that name both."""
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (4, 4), (number, len(name), ord(name[0]))).save(tmp_path / f"pets/{name}/{number}.png")
    folders = {name: {"root": str(tmp_path / name)} for name in ("pets", "gone")}
    write_settings(tmp_path, folders)
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path


def write_settings(folder, folders):
    folders = {name: {"kind": "folder"} | entry for name, entry in folders.items()}
    tables = {"datasets": folders, "embeddings": {}, "runs": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tables))


def run(folder, name="pets"):
    argv = [name, "--params", str(folder / "params.yaml"), "--output", str(folder / "out/m.jsonl")]
    return console.run(stage.main, stage.build_parser(), argv)


def test_the_stage_writes_a_manifest_and_counts_both_splits(project, capsys):
    assert run(project) == 0
    assert len(read_manifest(project / "out/m.jsonl").sample_ids) == 10
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"[manifest pets] 10 images (2 test, 8 train) → {project / 'out/m.jsonl'}\n"


def test_nothing_changed_means_the_same_bytes_and_no_image_is_decoded(project, monkeypatch):
    usual = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: usual() + 60 * 10**9)
    assert run(project) == 0
    before = (project / "out/m.jsonl").read_bytes()
    monkeypatch.setattr(datasets, "read_image", None)
    assert run(project) == 0
    assert (project / "out/m.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_every_change_of_the_folder_is_seen(project, change):
    assert run(project) == 0
    before = (project / "out/m.jsonl").read_bytes()
    image = project / "pets/ant/2.png"
    if change == "edit":
        Image.new("RGB", (4, 4), "white").save(image)
    elif change == "add":
        image.with_name("9.png").write_bytes(image.read_bytes())
    elif change == "remove":
        image.unlink()
    else:
        image.rename(image.with_name("two.png"))
    assert run(project) == 0
    assert (project / "out/m.jsonl").read_bytes() != before


def test_skipped_and_shared_images_are_lines_of_their_own(project, capsys):
    for split in ("train", "test"):
        (project / "both" / split).mkdir(parents=True)
        (project / "pets" / "ant").rename(project / "both" / split / "ant")
        (project / "pets" / "bee").rename(project / "pets" / "ant")
        (project / "pets" / "bee").mkdir()
    (project / "both/test/ant/0.png").write_bytes((project / "both/train/ant/0.png").read_bytes())
    (project / "both/train/ant/4.png").write_text("no image")
    write_settings(project, {"pets": {"root": str(project / "both"), "skip_corrupt": True}})
    assert run(project) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [
        "[manifest pets] warning: 1 images are in two splits: train/ant/0.png = test/ant/0.png. "
        "Remove one of each pair.",
        "[manifest pets] warning: 1 images cannot be decoded and were skipped: train/ant/4.png.",
    ]


def test_what_is_not_used_is_told_line_by_line(project, capsys):
    for split in ("train", "val", "test"):
        for number, name in enumerate(("ant", "bee")):
            (project / "all" / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (number, len(split), ord(split[0]))).save(project / f"all/{split}/{name}/0.png")
    (project / "all/notes\n.txt").write_text("notes")
    write_settings(project, {"pets": {"root": str(project / "all")}})
    assert run(project) == 0
    assert capsys.readouterr().err.splitlines()[1:] == [
        "[manifest pets] warning: 2 images of val are left out: they are neither training nor test images. Move them "
        "to train or test to use them.",
        r"[manifest pets] files in unsupported formats, left out: 1 ('notes\n.txt'). Convert images among them "
        "to PNG or JPEG.",
    ]


def link_out(folder):
    (folder / "outside").mkdir()
    (folder / "pets/cat").symlink_to(folder / "outside")


def link_nowhere(folder):
    (folder / "pets/ant/7.png").symlink_to("gone.png")


def nest(folder):
    (folder / "pets/ant").rename(folder / "pets/train")
    (folder / "pets/train/ant").mkdir()
    (folder / "pets/train/0.png").rename(folder / "pets/train/ant/0.png")


def save_integers(folder):
    Image.new("I", (4, 4), 200).save(folder / "pets/ant/7.tif")


REFUSED = {
    link_out: r"link cat in .* leads to .*/outside, which is outside it; expected a target inside it\. Set follow",
    link_nowhere: r"link ant/7\.png in .* leads to gone\.png, which does not exist; expected a file or a folder\. F",
    nest: r"folders that are named like splits \(train\) beside others \(bee\) in .*; expected either splits or",
    save_integers: r"image ant/7\.tif in .* has 32-bit or signed integer pixels.*; expected 8-bit or unsigned",
}


@pytest.mark.parametrize("spoil", REFUSED)
def test_a_folder_that_cannot_be_understood_is_one_sentence_and_leaves_the_old_manifest(project, capsys, spoil):
    assert run(project) == 0
    before = (project / "out/m.jsonl").read_bytes()
    capsys.readouterr()
    spoil(project)
    assert run(project) == 1
    printed = capsys.readouterr().err
    assert re.match(f"error: .*{REFUSED[spoil]}", printed), printed
    assert printed.count("\n") == 1
    assert (project / "out/m.jsonl").read_bytes() == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("what", ["image", "folder"])
def test_a_disk_that_fails_is_one_sentence_and_leaves_the_old_manifest(project, capsys, monkeypatch, number, what):
    assert run(project) == 0
    before = (project / "out/m.jsonl").read_bytes()
    (project / "scratch/folders/pets.digests").unlink()
    capsys.readouterr()

    owner, name = (Path, "read_bytes") if what == "image" else (os, "scandir")
    as_ever = getattr(owner, name)

    def fail(path, *options):
        if Path(path).suffix == ".yaml":  # the settings are read as usual
            return as_ever(path, *options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(owner, name, fail)
        assert run(project) == 1
    printed = capsys.readouterr().err
    assert re.match(rf"error: {what} .* cannot be read \({os.strerror(number)}\); expected it to be readable", printed)
    assert printed.count("expected") == printed.count("\n") == 1
    assert (project / "out/m.jsonl").read_bytes() == before


@pytest.mark.parametrize(("name", "text"), [("pet", "did you mean 'pets'"), ("gone", "which is not a folder")])
def test_a_mistake_is_one_sentence_and_leaves_no_file(project, capsys, name, text):
    assert run(project, name) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert text in printed
    assert printed.count("\n") == 1
    assert not (project / "out").exists()
