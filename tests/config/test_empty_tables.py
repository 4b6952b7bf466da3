"""`dvc repro` succeeds with any missing or empty tables in params.yaml, and with any valid ids."""

import functools
import re

import numpy as np
import pytest
import yaml
from small_project import ROOT, call, copy_project, run_stage

from pipeline.__main__ import build_parser, main
from pipeline.stages import __main__ as stages

pytestmark = pytest.mark.slow

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SAME = {"embeddings": "e", "keys": "e"}
ON_STREAM = SAME | {"stream": "s"}
TABLES = {
    "datasets": {"p": {"kind": "photos", "n_crops": 4, "seed": 0}},
    "imports": {"e": {"cache": "e.h5"}},
    "streams": {"s": {"kind": "class_incremental", "classes_per_task": 2}},
    "baselines": {"r": ON_STREAM | {"methods": ["nearest_class_mean"]}},
    "runs": {"a": ON_STREAM | {"baselines": "r", "method": {"encoder": {"n_heads": 4, "n_keys": 8}}}},
    "searches": {"q": SAME | {"method": {"encoder": {"n_heads": 4}}, "grid": {"encoder__n_keys": [4, 8]}}},
    "toy": {"steps": 5},
}


code_digest = functools.cache(stages.code_digest)
"""Digest the code of a stage once for all cases, which do not change it."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that sets up a project that starts from embeddings, with these settings, and enters it."""
    monkeypatch.setattr(stages, "code_digest", code_digest)

    def set_up(tables):
        folder = tmp_path / "copy"
        copy_project(folder, tables)
        monkeypatch.chdir(folder)
        np.savez("e.npz", X=np.random.default_rng(0).normal(size=(60, 12)), y=np.arange(60) % 4)
        given = "import --embeddings e.npz --labels e.npz --test-fraction 0.3 --output e.h5 --backbone b"
        main(build_parser().parse_args(given.split()))
        return folder

    return set_up


def repro(folder):
    """Run ``dvc repro``, which must not warn, and return the stages that ran and all that was said."""
    said = call(folder, "dvc", "repro")
    assert "WARNING" not in said
    return re.findall(r"Running stage '(\S+)'", said), said


def without_entries(folder):
    """Return what the page says has no entries."""
    page = (folder / "report/index.html").read_text(encoding="utf-8")
    return ", ".join(re.findall(r"has no entries under (.*?), so there is", page))


def without(*tables):
    return {name: entries for name, entries in TABLES.items() if name not in tables}


def alone(tables):
    run = {name: value for name, value in TABLES["runs"]["a"].items() if name != "baselines"}
    return tables | {"runs": {"a": run}}


@pytest.mark.parametrize(
    ("tables", "missing"),
    [
        (TABLES, ""),
        (without("searches", "toy"), "searches"),
        (without("runs"), "runs"),
        (TABLES | {"searches": {}, "datasets": {}}, "searches"),
        (alone(without("baselines", "searches")), "baselines, searches"),
        (alone(TABLES), ""),
        (without("imports", "streams", "baselines", "runs", "searches"), "runs, baselines, searches"),
        (without(*TABLES), "runs, baselines, searches"),
        ({table: {} for table in TABLES if table != "toy"}, "runs, baselines, searches"),
        (dict.fromkeys(TABLES), "runs, baselines, searches"),
        (TABLES | {"searches": None, "toy": None, "datasets": None, "embeddings": None}, "searches"),
        (alone(TABLES | {"baselines": None}), "baselines"),
    ],
)
def test_a_missing_table_is_named_on_the_page_and_stops_nothing(project, tables, missing):
    """DVC refuses a stage whose dependency or output is missing, and warns of an empty folder at every command."""
    folder = project(tables)
    for name, stage in STAGES.items():
        run_stage(name)
        for entry in [entry for group in ("deps", "outs", "metrics", "plots") for entry in stage.get(group, [])]:
            path = folder / (next(iter(entry)) if isinstance(entry, dict) else entry)
            assert path.is_file() or any(path.iterdir()), (name, path)
    assert without_entries(folder) == missing


def test_dvc_repro_without_any_table_ends_with_a_page(project):
    folder = project({})
    assert repro(folder)[0] == [*STAGES]
    assert without_entries(folder) == "runs, baselines, searches"
    assert repro(folder)[0] == ["manifest"]


def test_a_search_that_was_removed_leaves_the_page(project):
    few = without("runs", "baselines", "toy")
    folder = project(few)
    assert repro(folder)[0] == [*STAGES]
    assert without_entries(folder) == "runs, baselines"
    assert 'id="search-q"' in (folder / "report/index.html").read_text()
    (folder / "params.yaml").write_text(yaml.safe_dump({name: few[name] for name in few if name != "searches"}))
    repro(folder)
    assert 'id="search-q"' not in (folder / "report/index.html").read_text()
    assert not [*(folder / "searches").glob("q.*")]
    assert without_entries(folder) == "runs, baselines, searches"


def test_quoted_ids_and_merge_keys_reach_every_stage(project):
    text = """
datasets: {"2024": {kind: photos, n_crops: 4, seed: 0}}
imports: {"no": {cache: e.h5}}
streams: {"1e3": {kind: class_incremental, classes_per_task: 2}}
baselines:
  "yes": {embeddings: "no", keys: "no", stream: "1e3", methods: [nearest_class_mean]}
runs:
  "null": &a {embeddings: "no", keys: "no", stream: "1e3", baselines: "yes", method: {encoder: {n_heads: 4, n_keys: 8}}}
  "on": {<<: *a, epochs_per_task: 2}
searches:
  # q: {}
"""
    folder = project({})
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    repro(folder)
    assert (folder / "manifests/2024.jsonl").exists()
    assert {"null.json", "on.json"} <= {path.name for path in (folder / "metrics").iterdir()}
    (folder / "params.yaml").write_text(text.replace("epochs_per_task: 2", "epochs_per_task: 3"), encoding="utf-8")
    ran, said = repro(folder)
    assert ran == ["manifest", "run", "report"]
    assert "[run] on to do; null unchanged" in said
