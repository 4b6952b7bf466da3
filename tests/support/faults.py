"""Extract with a tiny network in processes that are killed, or whose disk is full, and print how each ended, as JSON.

Run as ``python faults.py FOLDER < orders.json``. An order is an object: ``kill`` (the process kills itself, by a signal
that it cannot catch, at this file operation, counted from the start of the extraction), ``limit`` (no file may grow
beyond this number of bytes), or neither; ``fresh`` first removes the outputs and the scratch folder of earlier orders.
Each order runs in a separate process, in FOLDER, by the stage's own command.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from torch import nn

from pipeline import cli as console
from pipeline.cache import writer as cache_writer
from pipeline.cache.reader import check_everything
from pipeline.data import build_manifest, write_manifest
from pipeline.extraction import job as extraction
from pipeline.stages import extract as stage

N, SIDE = 43, 8
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir")


class Tiny(nn.Module):
    """A network with twelve features: the mean of each quarter of an image."""

    def forward(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch, 2).flatten(1)


def prepare(folder):
    """Write settings, weights and a manifest of 43 digits; set up a tiny network and small blocks."""
    torch.set_num_threads(1)
    recipe = {"kind": "digits", "test_fraction": 0.3, "seed": 0}
    digits = build_manifest("digits", recipe)
    few = {field: getattr(digits, field)[:N] for field in ("sample_ids", "labels", "splits", "digests")}
    write_manifest(replace(digits, **few), folder / "digits.jsonl")
    entry = {"dataset": "digits", "backbone": "efficientnet_lite0", "layer": "avgpool", "image_side": SIDE}
    entry |= {"compute_dtype": "float32", "storage_dtype": "float32"}
    tables = {"datasets": {"digits": recipe}, "embeddings": {"digits": entry}, "runs": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tables))
    (folder / "weights.pth").write_bytes(b"weights")
    extraction.load_backbone = lambda record, layers, state: Tiny()
    extraction.find_weights = lambda record: folder / "weights.pth"
    extraction.read_weights = lambda path: {}
    extraction.BLOCK_ROWS, extraction.BATCH_ROWS = 8, 4
    cache_writer.check_in_child = check_everything
    # every child process would import and read these again
    record = extraction.find_backbone("efficientnet_lite0")
    extraction.preprocess(record, SIDE)(extraction.open_images(digits)[0])


def arguments(folder):
    paths = {"params": "params.yaml", "manifest": "digits.jsonl", "output": "out/a.h5", "card": "out/a.json"}
    paths["timings"] = "out/seconds.json"
    return ["digits", *(part for name, path in paths.items() for part in (f"--{name}", str(folder / path)))]


def watch(folder, kill):
    """Count file operations below the folder, and end the process at one of them."""
    count = [0]

    def hook(event, values):
        if event in EVENTS and str(values[0] if values else "").startswith(str(folder)):
            count[0] += 1
            if count[0] == kill:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def in_fork(folder, order):
    """Run the command; return how it ended, its output, and all files with their sha256."""
    if order.get("fresh"):
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(folder / "scratch", ignore_errors=True)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        if "limit" in order:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"], resource.RLIM_INFINITY))
        count = watch(folder, order.get("kill"))
        code = console.run(stage.main, stage.build_parser(), arguments(folder))
        print(f"\noperations {count[0]}", file=sys.stderr, flush=True)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as said:
        text = said.read().replace("\r", "\n")
    _, status = os.waitpid(child, 0)
    lines = [line for line in text.splitlines() if line.strip() and "images/s]" not in line]
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {"code": os.waitstatus_to_exitcode(status), "said": lines, "files": files}


def main():
    folder = Path(sys.argv[1])
    os.environ |= {"DKVB_SCRATCH": str(folder / "scratch"), "DKVB_DEVICE": "cpu", "DKVB_WORKERS": "2"}
    prepare(folder)
    print(json.dumps([in_fork(folder, order) for order in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
