"""``python -m pipeline.stages STAGE`` runs a stage once, or for the entries of a table that have changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.stages import __main__ as stages

ROOT = Path(__file__).resolve().parents[2]
DATASETS = {name: {"kind": "photos", "n_crops": 4, "seed": seed} for seed, name in enumerate(["a", "b"])}
MANIFESTS = ["manifest", "--entries", "settings/datasets.json", "--record", "records/manifest.json", "--"]
MANIFESTS += ["--params", "params.yaml", "--output", "manifests/{name}.jsonl"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes the settings of two datasets, and runs the stages that list their images."""
    monkeypatch.chdir(tmp_path)

    def run(datasets):
        Path("params.yaml").write_text(yaml.safe_dump({"datasets": datasets}), encoding="utf-8")
        assert stages.main(["settings", "--", "--params", "params.yaml", "--output", "settings"]) == 0
        return stages.main(MANIFESTS)

    return run


def test_a_stage_without_entries_runs_once(project):
    project(DATASETS)
    assert list(json.loads(Path("settings/datasets.json").read_text())) == ["a", "b"]


def test_entries_that_changed_are_made_again_and_those_that_went_are_deleted(project, capsys):
    assert project(DATASETS) == 0
    assert "[manifest] a, b to do" in capsys.readouterr().err
    assert project(DATASETS | {"b": DATASETS["b"] | {"n_crops": 5}}) == 0
    assert "[manifest] b to do; a unchanged" in capsys.readouterr().err
    assert project({"b": DATASETS["b"] | {"n_crops": 5}}) == 0
    assert "[manifest] b unchanged" in capsys.readouterr().err
    assert [path.name for path in Path("manifests").glob("*.jsonl")] == ["b.jsonl"]


def test_the_code_of_an_entry_that_failed_is_that_of_the_process(project, capsys):
    project(DATASETS)
    Path("params.yaml").unlink()
    Path("records/manifest.json").unlink()
    assert stages.main(MANIFESTS) == 1
    assert capsys.readouterr().err.count("error: ") == 1  # the first entry; the second was not tried
    at = MANIFESTS.index("--")
    with pytest.raises(FileNotFoundError):
        stages.main([*MANIFESTS[:at], "--debug", *MANIFESTS[at:]])


def test_one_of_entries_and_record_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        stages.main(["manifest", "--entries", "settings/datasets.json", "--"])
    assert caught.value.code == 2
    assert "only one of --entries and --record was given; expected both" in capsys.readouterr().err


def test_garbage_is_collected_again_once_a_stage_is_imported():
    program = "import gc, sys; from pipeline.stages import __main__ as stages; gc.disable(); "
    program += "stages._imported('settings'); print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
