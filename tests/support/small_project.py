"""A copy of the project in a separate folder, with its own settings, in which DVC is called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.config.defaults import with_defaults
from pipeline.stages import __main__ as stages

ROOT = Path(__file__).resolve().parents[2]
OURS = ("pipeline", "dkvb_estimator")
TABLES = with_defaults(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))
"""The shipped settings, with defaults filled in."""
SMALL_PHOTOS = {"kind": "photos", "n_crops": 24, "seed": 0}
SMALL_METHOD = {"solver": "counts", "encoder": {"n_heads": 8, "n_keys": 16, "key_dim": 4, "random_state": 0}}


def copy_project(folder, tables):
    """Copy what ``dvc repro`` needs, with these tables as settings; what DVC and runs have left here stays here.

    Compiled modules come along: they are valid there, as files keep their time, and a dozen processes read them.
    """
    for name in OURS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))  # half-written ones
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "forgotten/list.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tables, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)


def start(folder, *words, **environment):
    """Start ``python -m WORDS`` in a folder and in a separate process group; stages find the same Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, text=True, start_new_session=True,
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "DKVB_DEVICE": "cpu"} | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    """Wait for a process and all processes that it started; return its exit code and output."""
    said = process.communicate(timeout=280)
    return process.returncode, "".join(said)


def call(folder, *words, **environment):
    """Run ``python -m WORDS`` in a folder, check that it succeeds, and return its output."""
    code, said = finish(start(folder, *words, **environment))
    assert code == 0, said
    return said


def small_tables():
    """Return the shipped settings with one run that is small enough to be reproduced in seconds."""
    search = {"method": {"encoder": {"n_heads": 8, "key_dim": 4, "random_state": 0}}, "heat_map": None}
    return TABLES | {
        "datasets": TABLES["datasets"] | {"photos": SMALL_PHOTOS},
        "embeddings": {name: entry | {"image_side": 32} for name, entry in TABLES["embeddings"].items()},
        "baselines": {
            "digits": TABLES["baselines"]["digits"] | {"methods": ["nearest_class_mean", "joint_linear_probe"]}
        },
        "runs": {"digits": TABLES["runs"]["counts"] | {"method": SMALL_METHOD}},
        "searches": {"digits": TABLES["searches"]["digits"] | search | {"grid": {"encoder__n_keys": [8, 16]}}},
        "toy": TABLES["toy"] | {"steps": 20},
    }


def run_stage(name):
    """Run a stage's commands from dvc.yaml in this process, in the current folder."""
    commands = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]["cmd"]
    for text in commands if isinstance(commands, list) else [commands]:
        python, flag, module, *argv = text.split()
        assert (python, flag, module) == ("python", "-m", "pipeline.stages")
        assert stages.main(argv) == 0
