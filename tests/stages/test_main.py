"""``python -m pipeline info FILE`` and ``verify FILE``."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_cache

from pipeline import cli
from pipeline.__main__ import build_parser, main
from pipeline.cache import describe_cache
from pipeline.data import build_manifest, write_manifest
from pipeline.stages import settings
from pipeline.store import EmbeddingStore, image_names

ROOT = Path(__file__).resolve().parents[2]
V1 = ROOT / "tests" / "data" / "cache_v1.h5"


def run(*arguments):
    return cli.run(main, build_parser(), [str(argument) for argument in arguments])


def test_info_prints_where_a_cache_comes_from_as_json(capsys):
    assert run("info", V1) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == describe_cache(V1)
    assert "りんご" in out
    assert err == ""


def test_verify_prints_what_it_found_and_the_files_digest(capsys):
    assert run("verify", V1) == 0
    out = capsys.readouterr().out.splitlines()
    assert "train: 20 rows of 8 features, finite, unchanged" in out
    assert out[-1] == f"{V1} is intact (sha256 {small_cache.sha256(V1)})"


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_a_damaged_cache_is_one_sentence_and_exit_code_1(tmp_path, capsys, verb):
    (tmp_path / "cut.h5").write_bytes(V1.read_bytes()[:-100])
    assert run(verb, tmp_path / "cut.h5") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: cache cut.h5 is damaged or incomplete (")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb", ["info", "verify"])
def test_a_missing_cache_is_one_sentence_and_exit_code_1(tmp_path, capsys, verb):
    assert run(verb, tmp_path / "absent.h5") == 1
    assert capsys.readouterr().err.startswith("error: there is no cache absent.h5 in ")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(FileNotFoundError, match="no cache"):
        run("--debug", "info", tmp_path / "absent.h5")


@pytest.mark.parametrize("arguments", [[], ["info"], ["show", "x"]])
def test_wrong_arguments_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: python -m pipeline" in capsys.readouterr().err


@pytest.fixture
def stored(tmp_path):
    """A store with rows of six images, and a manifest that names three of them."""
    manifest = build_manifest("photos", {"kind": "photos", "n_crops": 6, "seed": 0})
    network = {"backbone": {"library": "timm", "model": "m", "weights_sha256": "ab" * 32}, "layer": "avgpool"}
    network |= {"preprocessing": {"image_side": 96}, "compute_dtype": "float32", "storage_dtype": "float16"}
    store = EmbeddingStore(tmp_path / "scratch/store", network | {"device": "cpu AVX2"})
    store.add(image_names(manifest.digests), np.ones((6, 4), np.float16), np.zeros(6))
    few = {field: getattr(manifest, field)[:3] for field in ("sample_ids", "labels", "splits", "digests")}
    write_manifest(replace(manifest, **few), tmp_path / "manifests/photos.jsonl")
    return ["--scratch", tmp_path / "scratch", "--manifests", tmp_path / "manifests"]


def test_store_prints_rows_by_network_and_what_no_manifest_names(stored, capsys):
    for _ in range(2):
        assert run("store", *stored) == 0
        network, total = capsys.readouterr().out.splitlines()
        assert network.startswith(
            "timm m, avgpool, 96 px, weights abababab, float32 → float16, cpu AVX2: 6 rows in 1 bl"
        )
        assert network.endswith("; not in any manifest: 3")
        assert "scratch/store: 6 rows, 0.0 MiB" in total


def test_store_frees_what_no_manifest_names_and_keeps_the_rest(stored, capsys):
    assert run("store", "--free", *stored) == 0
    assert "freed 3 rows that no manifest lists, " in capsys.readouterr().out
    assert run("store", *stored) == 0
    assert "3 rows in 1 blocks, 0.0 MiB; not in any manifest: 0" in capsys.readouterr().out


def test_store_frees_nothing_where_there_is_no_manifest(stored, tmp_path, capsys):
    (tmp_path / "manifests/photos.jsonl").unlink()
    assert run("store", "--free", *stored) == 1
    assert "there is no manifest in " in capsys.readouterr().err
    assert len(list(tmp_path.rglob("*.rows"))) == 1


def test_the_module_runs_from_the_command_line():
    command = [sys.executable, "-m", "pipeline", "info", str(V1)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["dataset"] == "früchte"


def test_the_help_fits_one_screen_and_names_every_stage():
    lines = build_parser().format_help().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    commands = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    stages = set(re.findall(r"python -m pipeline\.stages[. ](\w+)", commands))
    assert len(stages) >= 5
    assert not [stage for stage in stages if not any(line.startswith(f"  {stage} ") for line in lines)]


@pytest.mark.parametrize(("given", "used"), [({}, "4"), ({"OPENBLAS_THREAD_TIMEOUT": "20"}, "20")])
def test_threads_of_openblas_sleep_between_products_unless_the_user_says_otherwise(given, used):
    program = "import os, sys, pipeline.stages; print(os.environ['OPENBLAS_THREAD_TIMEOUT'], 'numpy' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"} | given
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [used, "False"]


STAGES = ("settings", "manifest", "extract", "import_cache", "baselines", "run", "toy", "search", "report")


@pytest.mark.parametrize("stage", STAGES)
def test_usage_of_a_stage_names_the_module_that_runs_it(stage):
    module = importlib.import_module(f"pipeline.stages.{stage}")
    assert module.build_parser().prog == f"python -m {module.__name__}"


def test_settings_are_written_again_into_their_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))
    words = ["--params", str(ROOT / "params.yaml"), "--output", str(tmp_path / "settings")]
    for _ in "ab":
        assert cli.run(settings.main, settings.build_parser(), words) == 0
    assert (tmp_path / "settings/runs.json").is_file()
