"""After ``dvc repro`` is killed with all its processes, the next ``dvc repro`` ends as if nothing had happened.

It is killed at function calls that are drawn with a seed from all calls of the work, so at any point of it.
"""

import json
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from reliability import note
from small_project import ROOT, call, copy_project, finish, start

pytestmark = pytest.mark.slow

N = int(os.environ.get("DKVB_KILLS", "4"))  # kills of each work; twenty take ten minutes
BY_CLASS = {"embeddings": "digits", "keys": "digits", "stream": "by_class", "baselines": "digits"}
ENCODER = {"n_heads": 8, "n_keys": 16, "key_dim": 4, "random_state": 0}
METHOD = {"solver": "sgd", "solver_params": {"learning_rate": 30.0}, "encoder": ENCODER}
TABLES = {
    "datasets": {"digits": {"kind": "digits", "test_fraction": 0.3, "seed": 0}},
    "embeddings": {
        "digits": {
            "dataset": "digits",
            "backbone": "efficientnet_lite0",
            "layer": "avgpool",
            "image_side": 16,
            "compute_dtype": "float32",
            "storage_dtype": "float16",
        }
    },
    "imports": {},
    "streams": {"by_class": {"kind": "class_incremental", "order_seeds": [0]}},
    "baselines": {
        "digits": {name: BY_CLASS[name] for name in ("embeddings", "keys", "stream")}
        | {"methods": ["nearest_class_mean"]}
    },
    "runs": {"digits": BY_CLASS | {"epochs_per_task": 3, "held_out_share": 0.0, "method": METHOD}},
    "searches": {},
}
IN_PLACE = ("dvc.lock", ".dvc/tmp/rwlock")
OUTPUTS = ("manifests/digits.jsonl", "caches/digits.h5", "cards/digits.json", "models/digits.npz")
OUTPUTS = (*OUTPUTS, "metrics/train_digits.json")


@dataclass(frozen=True)
class Work:
    """The work to kill: a process of ``dvc repro TARGET``, between two files that it opens, in a copy of a project."""

    before: str
    target: str
    word: str
    begin: str
    end: str | None = None


EXTRACTION = Work("before extraction", "extract", "settings/embeddings.json", ".claim")
TRAINING = Work("before training", "run", "settings/runs.json", ".scratch/", "models/.digits.npz")
SAVING = Work("before training", "run", "settings/runs.json", "models/.digits.npz", "timings/")
KEEPING = Work("before training", "run", "repro", "models/digits.npz")
WORKS = {
    "extraction": EXTRACTION,
    "training": TRAINING,
    "saving a model": SAVING,
    "DVC's own keeping of a model": KEEPING,
}


def repro(folder, work, **hook):
    words = {"PYTHONPATH": str(folder.parent / "hook"), "KILL_IN": work.word, "KILL_FROM": work.begin, **hook}
    return start(folder, "dvc", "repro", work.target, DKVB_WORKERS="1", **words)


def counted(folder, work):
    """Run the work to its end; return the number of its calls until it opens the file that ends it."""
    told = folder.parent / f"{folder.name}.json"
    code, said = finish(repro(folder, work, KILL_TOLD=str(told)))
    assert code == 0, said
    record = json.loads(told.read_text())
    ends = [n for path, n in record["opened"] if work.end is not None and work.end in path]
    return min(ends, default=record["calls"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the uninterrupted project before extraction, before training and at the end; calls by work."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "hook").mkdir()
    shutil.copy(ROOT / "tests/support/kill_group.py", folder / "hook/sitecustomize.py")
    end = folder / "end"
    copy_project(end, TABLES)
    call(end, "dvc", "repro", "manifest")
    copied(end, folder / EXTRACTION.before)
    calls = {EXTRACTION: counted(end, EXTRACTION)}
    copied(end, folder / TRAINING.before)
    others = {name: copied(end, folder / name) for name in ("kept", "saved")}
    calls |= {KEEPING: counted(others["kept"], KEEPING), SAVING: counted(others["saved"], SAVING)}
    return folder, calls | {TRAINING: counted(end, TRAINING)}


def copied(source, target):
    """Copy a project, except for what DVC knows of its place on the disk."""
    return Path(shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("tmp")))


def outputs(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS if (folder / name).exists()}


def killed_and_run_again(folder, work, point):
    """Return the outputs of a killed run, those of the next run, how that ended, and leftover temporary files."""
    here = copied(folder / work.before, folder / f"work {[*WORKS.values()].index(work)} at {point}")
    code, said = finish(repro(here, work, KILL_AT=str(point)))
    assert code == -signal.SIGKILL, said
    left, (_, how) = outputs(here), ended(here, work.target)
    return left, outputs(here), how, [path.name for path in here.rglob("*") if path.suffix in (".part", ".claim")]


def ended(folder, target):
    """Run to the end; delete the files that DVC writes in place and then refuses.

    Return the output, and a few words on how the run ended.
    """
    said, deleted = "", []
    for _ in range(len(IN_PLACE) + 1):
        code, now = finish(start(folder, "dvc", "repro", target))
        said += now
        if code == 0:
            break
        refused = [name for name in IN_PLACE if name in now and (folder / name).exists()]
        assert refused, said
        (folder / refused[0]).unlink()
        deleted.append(refused[0])
    assert code == 0, said
    kept = rf"were known already|resumes after task [1-9]|'{target}' (is cached|didn't change)"
    kept += rf"|^\[{target}\] digits unchanged"
    without = "".join(f"refused by DVC, without {name} " for name in deleted)
    return said, f"{without}then equal, " + (
        "from what was kept" if re.search(kept, said, re.MULTILINE) else "all done again"
    )


@pytest.mark.parametrize("name", WORKS)
def test_a_repro_that_is_killed_is_followed_by_one_that_ends_as_if_it_had_not_been(whole, name):
    folder, calls = whole
    work, expected = WORKS[name], outputs(folder / "end")
    assert calls[work] > 1  # the intended process was watched
    within = np.arange(1, int(0.95 * calls[work]))  # some calls depend on the clock
    points = np.random.default_rng(N).choice(within, min(N, len(within)), replace=False)
    with ThreadPoolExecutor(2) as pool:
        tries = list(pool.map(lambda point: killed_and_run_again(folder, work, int(point)), points))
    endings = []
    for left, after, how, begun in tries:
        assert left.items() <= expected.items()  # all existing outputs are complete
        assert after.items() <= expected.items()
        assert set(expected) - set(after) == (set() if work.target == TRAINING.target else {*OUTPUTS[3:]})
        assert begun == []
        endings.append(how)
    note("faults", f"kill -9 of a whole dvc repro during {name}", endings)
    if work in (EXTRACTION, SAVING):
        assert any("from what was kept" in each for each in endings), endings


def test_a_lock_file_of_dvc_that_is_cut_short_costs_no_work(whole):
    """DVC writes it in place, so a kill can leave any part of it. Nothing is learned again."""
    folder, _ = whole
    content, endings = (folder / "end/dvc.lock").read_bytes(), []
    for length in (0, *np.random.default_rng(N).integers(1, len(content), 3)):
        here = copied(folder / "end", folder / f"cut {length}")
        (here / "dvc.lock").write_bytes(content[:length])
        said, how = ended(here, TRAINING.target)
        assert " to do" not in said  # stages check their entries, and none is computed again
        assert outputs(here) == outputs(folder / "end")
        endings.append(how)
    note("faults", "dvc.lock cut short", endings)


def test_a_byte_changed_in_every_output_and_in_dvcs_copy_of_it_is_put_right(whole):
    """Without copy-on-write the two are one file, so a change affects both."""
    folder, _ = whole
    here = copied(folder / "end", folder / "changed")
    expected = outputs(here)
    for path in [*(here / name for name in OUTPUTS), *here.glob(".dvc/cache/files/md5/*/*")]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o644)
        path.write_bytes(content)
    call(here, "dvc", "repro", TRAINING.target)
    assert outputs(here) == expected
    note("faults", "a byte changed in an output and in DVC's copy of it", ["equal after dvc repro"] * len(OUTPUTS))
