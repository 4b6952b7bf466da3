"""``python -m fuzz TARGET --seconds 900``: fuzz one target, or each of them for that long, and keep the findings.

Enters: names of targets, seconds. Leaves: an input that breaks a promise as ``fuzz/corpus/TARGET/DIGEST``; with
``--keep`` the inputs with the largest coverage as ``fuzz/corpus/TARGET.zip``; a line of JSON per target; exit code 1 if
something was found. Must not know: what the targets check.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz.targets import CORPUS, TARGETS, pack, unpack

ROOT = Path(__file__).parents[1]
LIMITS = ["-timeout=60", "-rss_limit_mb=6000", "-max_len=20000", "-print_final_stats=1", "-verbosity=0"]
LONGEST_KEPT = 1024
"""Largest size in bytes of an input that is kept for its coverage; seeds are made again for each run."""


def fuzz(target: str, seconds: int, seed: int, *, keep: bool) -> dict[str, Any]:
    """Fuzz a target for some seconds, or until something is found; return the counts.

    A hang or crash inside HDF5 is not a finding. It is counted as a stop, and fuzzing continues with another seed (see
    SECURITY.md).
    """
    record: dict[str, Any] = {"kind": "fuzz", "target": target, "seconds": seconds, "executions": 0, "stops": 0}
    record["findings"] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        for content in [*TARGETS[target][1](), *unpack(target)]:
            (work / _digest(content)).write_bytes(content)
        while (left := int(end - time.monotonic())) > 0 and not record["findings"]:
            seed += 1
            options = [f"-max_total_time={left}", f"-seed={seed}", f"-artifact_prefix={folder}/found-"]
            done = _work(target, *options, str(work))
            record["executions"] += _statistic(done.stderr, "number_of_executed_units")
            found = sorted(Path(folder).glob("found-*"))
            if not found and done.returncode:
                raise RuntimeError(f"the fuzzer ended with exit code {done.returncode}: {done.stderr[-2000:]}")
            for path in found:
                _judge(path, done.stderr, record)
        record["inputs_that_reach_something_new"] = _keep_few(work, target) if keep else len(list(work.iterdir()))
    return record


def _work(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "fuzz.worker", target, *LIMITS, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")


def _statistic(text: str, name: str) -> int:
    match = re.search(rf"stat::{name}:\s+(\d+)", text)
    return int(match[1]) if match else 0


def _judge(path: Path, said: str, record: dict[str, Any]) -> None:
    """Move a finding to the corpus, or count a stop."""
    content = path.read_bytes()
    path.unlink()
    raised = "Uncaught Python exception" in said
    if record["target"] == "cache" and not raised:
        record["stops"] += 1
        return
    home = CORPUS / record["target"]
    home.mkdir(parents=True, exist_ok=True)
    (home / _digest(content)).write_bytes(content)
    lines = [line for line in said.splitlines() if re.match(r"(\w+\.)*\w*(Error|Finding|Exception|SUMMARY)\b", line)]
    finding = {"input": _digest(content), "said": lines[0][:300] if lines else path.name}
    record["findings"].append(finding)
    print(f"[fuzz {record['target']}] {finding['input']}: {finding['said']}", file=sys.stderr, flush=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _keep_few(work: Path, target: str) -> int:
    """Pack the smallest inputs that together have the full coverage; return their number."""
    with tempfile.TemporaryDirectory() as folder:
        _work(target, "-merge=1", folder, str(work))
        contents = sorted((path.read_bytes() for path in Path(folder).iterdir()), key=lambda each: (len(each), each))
    pack(target, [content for content in contents if len(content) <= LONGEST_KEPT])
    return len(contents)


def main() -> int:
    """Parse, fuzz, record."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz the code that reads untrusted bytes.")
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"names from {', '.join(TARGETS)}; by default, all"
    )
    parser.add_argument("--seconds", type=int, default=15, help="seconds per target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="rewrite the packed corpus")
    parser.add_argument("--record", help="file to which to append one line of JSON per target")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(
            f"unknown target {', '.join(sorted(unknown))}; expected names from {', '.join(TARGETS)}. Correct the name."
        )
    if importlib.util.find_spec("atheris") is None:
        parser.error('atheris is not installed; install the extra: pip install -e ".[fuzz]"')
    found = 0
    for target in arguments.targets or TARGETS:
        record = fuzz(target, arguments.seconds, arguments.seed, keep=arguments.keep)
        found += len(record["findings"])
        print(json.dumps(record), flush=True)
        if arguments.record:
            with Path(arguments.record).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
