"""`dvc repro` succeeds with any missing or empty tables in params.yaml, and with any valid ids."""

import re

import numpy as np
import pytest
import yaml
from small_project import call, copy_project

pytestmark = pytest.mark.slow

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


def project(folder, tables):
    """Set up a project that starts from embeddings, with these tables or this text as settings."""
    copy_project(folder, tables if isinstance(tables, dict) else {})
    if isinstance(tables, str):
        (folder / "params.yaml").write_text(tables, encoding="utf-8")
    np.savez(folder / "e.npz", X=np.random.default_rng(0).normal(size=(60, 12)), y=np.arange(60) % 4)
    given = "--embeddings e.npz --labels e.npz --test-fraction 0.3 --output e.h5 --backbone b"
    call(folder, "pipeline", "import", *given.split())
    return folder


def ran(folder):
    """Run ``dvc repro``, and return the stages that ran."""
    return re.findall(r"Running stage '(\S+)'", call(folder, "dvc", "repro"))


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
        ({table: {} for table in TABLES}, "runs, baselines, searches"),
        (dict.fromkeys(TABLES), "runs, baselines, searches"),
        (TABLES | {"searches": None, "toy": None, "datasets": None, "embeddings": None}, "searches"),
        (alone(TABLES | {"baselines": None}), "baselines"),
    ],
)
def test_a_missing_table_is_named_on_the_page_and_stops_nothing(tmp_path, tables, missing):
    folder = project(tmp_path / "copy", tables)
    assert "WARNING" not in call(folder, "dvc", "repro")
    page = (folder / "report/index.html").read_text()
    assert re.findall(r"has no entries under (.*?), so there is", page) == ([missing] if missing else [])
    assert ran(folder) == ["manifest"]


def test_a_search_that_was_removed_leaves_the_page(tmp_path):
    folder = project(tmp_path / "copy", without("runs", "baselines", "toy"))
    call(folder, "dvc", "repro")
    assert 'id="search-q"' in (folder / "report/index.html").read_text()
    (folder / "params.yaml").write_text(yaml.safe_dump(without("runs", "baselines", "toy", "searches")))
    assert "WARNING" not in call(folder, "dvc", "repro")
    page = (folder / "report/index.html").read_text()
    assert 'id="search-q"' not in page
    assert not [*(folder / "searches").glob("q.*")]
    assert "has no entries under runs, baselines, searches" in page


def test_quoted_ids_and_merge_keys_reach_every_stage(tmp_path):
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
toy: {steps: 5}
"""
    folder = project(tmp_path / "copy", text)
    call(folder, "dvc", "repro")
    assert (folder / "manifests/2024.jsonl").exists()
    assert {"null.json", "on.json"} <= {path.name for path in (folder / "metrics").iterdir()}
    (folder / "params.yaml").write_text(text.replace("epochs_per_task: 2", "epochs_per_task: 3"))
    said = call(folder, "dvc", "repro")
    assert re.findall(r"Running stage '(\S+)'", said) == ["manifest", "run", "report"]
    assert "[run] on to do; null unchanged" in said
