"""Interrupt some work at many points, run it again, and print how each attempt ended, as JSON.

Run as ``python break_work.py WORK HOW FOLDER SEED N``. Each attempt is a separate process. HOW is ``kill`` (SIGKILL at
one of N function calls, drawn with a seed from all calls of the work), ``full`` (no file may grow beyond one of N sizes
up to that of the largest file, as on a full disk) or ``readonly`` (a write-protected folder). The output says what was
in place after the attempt ("nothing", "old", "new", or the defect "broken"), and what the next run left: "equal" to an
uninterrupted run byte for byte, or "different".
"""

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from small_run import SETTINGS, run_stage, with_method, write_two_caches
from torch import nn

from dkvb_estimator import DKVBClassifier, KeyEncoder, save_model
from pipeline import cli as console
from pipeline.backbones.registry import BACKBONES
from pipeline.cache import describe_cache
from pipeline.cache import writer as cache_writer
from pipeline.cache.reader import check_everything
from pipeline.config import Embeddings
from pipeline.data import build_manifest
from pipeline.extraction import job as extraction

N_IMAGES = 43


class Quarters(nn.Module):
    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch, 2).flatten(1)


def prepare_extract(shared):
    """Give the stage a tiny network, blocks of eight rows, and a check of the cache within this process."""
    extraction.tqdm.monitor_interval = 0  # its thread may hold a lock when a process is forked
    extraction.tqdm.set_lock(threading.RLock())  # forked processes share the default, and a killed one may hold it
    extraction.load_backbone = lambda record, layers, state: Quarters()
    extraction.read_weights = lambda path: {}
    extraction.BLOCK_ROWS, extraction.BATCH_ROWS = 8, 4
    cache_writer.check_in_child = check_everything
    (shared / "weights.pth").write_bytes(b"weights")
    digits = build_manifest("digits", {"kind": "digits", "test_fraction": 0.3, "seed": 0})
    few = {field: getattr(digits, field)[:N_IMAGES] for field in ("sample_ids", "labels", "splits", "digests")}
    entry = {"dataset": "digits", "backbone": "efficientnet_lite0", "layer": "avgpool", "image_side": 8}
    settings = Embeddings.model_validate({**entry, "compute_dtype": "float32", "storage_dtype": "float32"})
    job = extraction.Job(replace(digits, **few), settings, BACKBONES["efficientnet_lite0"], shared / "weights.pth")

    def work(folder):
        extraction.extract(job, folder / "out/cache.h5", folder / "scratch", device="cpu", workers=1)
        console.write_json(folder / "out/card.json", describe_cache(folder / "out/cache.h5"))

    return work


def prepare_run(shared):
    """Learn and measure four classes in four tasks, with a solver that depends on the order."""
    paths = write_two_caches(shared)
    stream = SETTINGS["stream"] | {"classes_per_task": 1}
    run = (
        SETTINGS
        | {"stream": stream, "epochs_per_task": 3}
        | with_method(solver="sgd", solver_params={"learning_rate": 30.0})
    )

    def work(folder):
        os.environ["DKVB_SCRATCH"] = str(folder / "scratch")
        assert run_stage(shared, paths, outputs=folder / "out", run=run) == 0

    return work


def prepare_save(shared):
    """Overwrite an older model."""
    X = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    model = DKVBClassifier(KeyEncoder(4, 16, 3, random_state=0), solver="ridge").fit(X, np.arange(60) % 3)
    save_model(DKVBClassifier(KeyEncoder(2, 4, 2, random_state=0)).fit(X, np.arange(60) % 2), shared / "old.npz")

    def work(folder):
        save_model(model, folder / "out/model.npz")

    return work


WORKS = {"extract": prepare_extract, "run": prepare_run, "save": prepare_save}


def whole():
    """Break nothing."""


def killed_at(point):
    def start():
        n = 0

        def count(frame, event, argument):
            nonlocal n
            n += event in ("call", "c_call")
            if n == point:
                os.kill(os.getpid(), signal.SIGKILL)
            COUNTED[0] = n

        sys.setprofile(count)

    return start


def full_at(n_bytes):
    def start():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return start


def obey_permissions():
    """Drop root's right to ignore write permissions; other users do not have it."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110  # effective CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


COUNTED = [0]


def in_process(work, folder, fault=whole):
    """Run the work in a process with a fault; return how it ended, and the number of calls that it counted."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(said, 2)
        code = 0
        try:
            fault()
            work(folder)
        except BaseException as error:
            sys.setprofile(None)
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            code = 1 if isinstance(error, OSError | AssertionError) else 3
        sys.setprofile(None)
        os.write(writing, str(COUNTED[0]).encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as told:
        calls = told.read()
    _, status = os.waitpid(child, 0)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return code, int(calls or 0)


def new_folder(path, old):
    (path / "out").mkdir(parents=True)
    for name, content in old.items():
        (path / "out" / name).write_bytes(content)
    return path


def outputs(folder):
    """Return the contents of outputs by name, without temporary files of a killed run."""
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if not path.name.endswith(".part")}


def left(found, expected, old):
    states = set()
    for name, content in found.items():
        states.add("new" if content == expected[name] else "old" if content == old.get(name) else "broken")
    return "broken" if "broken" in states else "+".join(sorted(states)) or "nothing"


def faults(how, seed, n, calls, largest):
    """Return n ways to interrupt work, given its number of calls and the size of its largest file in bytes."""
    rng = np.random.default_rng(seed)
    if how == "readonly":
        return [obey_permissions] * n
    if how == "full":
        return [full_at(int(size)) for size in rng.integers(0, largest, n)]
    return [killed_at(int(point)) for point in rng.choice(np.arange(1, calls), n, replace=False)]


def one_try(work, folder, fault, expected, old):
    here = new_folder(folder, old)
    (here / "out").chmod(0o555 if fault is obey_permissions else 0o755)
    code, _ = in_process(work, here, fault)
    (here / "out").chmod(0o755)
    found = left(outputs(here), expected, old)
    again, calls = in_process(work, here, killed_at(-1))
    same = again == 0 and outputs(here) == expected
    leftovers = sum(path.name not in expected for path in (here / "out").iterdir())
    said = (here / "said.txt").read_text().strip().splitlines()
    then = "equal" if same else "different"
    return {"code": code, "left": found, "then": then, "leftovers": leftovers, "calls_again": calls, "said": said}


def main():
    kind, how, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    shared = folder / "shared"
    shared.mkdir()
    work = WORKS[kind](shared)
    old = {"model.npz": (shared / "old.npz").read_bytes()} if kind == "save" else {}
    work(new_folder(folder / "first", old))  # one-time imports and parsing of libraries are not counted
    reference = new_folder(folder / "whole", old)
    code, calls = in_process(work, reference, killed_at(-1))
    assert code == 0, (reference / "said.txt").read_text()
    expected = outputs(reference)
    ways = faults(how, int(sys.argv[4]), int(sys.argv[5]), calls, max(map(len, expected.values())))
    tries = [one_try(work, folder / f"try{i}", fault, expected, old) for i, fault in enumerate(ways)]
    print(json.dumps({"calls": calls, "tries": tries}))


if __name__ == "__main__":
    main()
