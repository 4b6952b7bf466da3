import hashlib

import pytest
import yaml

from pipeline import cli as console
from pipeline.data import read_manifest
from pipeline.stages import manifest as stage


@pytest.fixture
def settings(tmp_path):
    """A settings file with a small photos entry and a missing CIFAR-10."""
    tables = {
        "datasets": {
            "photos": {"kind": "photos", "n_crops": 6, "seed": 0},
            "cifar": {"kind": "cifar10", "root": str(tmp_path / "cifar")},
        },
        "embeddings": {},
        "runs": {},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tables))
    return tmp_path


def run(folder, name, output="out/m.jsonl"):
    argv = [name, "--params", str(folder / "params.yaml"), "--output", str(folder / output)]
    return console.run(stage.main, stage.build_parser(), argv)


def test_the_stage_writes_a_manifest_and_says_one_line(settings, capsys):
    assert run(settings, "photos") == 0
    assert len(read_manifest(settings / "out/m.jsonl").sample_ids) == 6
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"[manifest photos] 6 images (6 train) → {settings / 'out/m.jsonl'}\n"


def test_the_stage_writes_the_same_bytes_twice(settings):
    digests = set()
    for output in ("one.jsonl", "two.jsonl"):
        assert run(settings, "photos", output) == 0
        digests.add(hashlib.sha256((settings / output).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("name", "text"), [("photo", "did you mean 'photos'"), ("cifar", "cifar10 is incomplete in")])
def test_a_mistake_is_one_sentence_and_leaves_no_file(settings, capsys, name, text):
    assert run(settings, name) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert text in printed
    assert printed.count("\n") == 1
    assert not (settings / "out").exists()


def test_a_failed_run_leaves_the_earlier_manifest_alone(settings):
    assert run(settings, "photos") == 0
    before = (settings / "out/m.jsonl").read_bytes()
    assert run(settings, "cifar") == 1
    assert (settings / "out/m.jsonl").read_bytes() == before
