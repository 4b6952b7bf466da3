"""Run every benchmark of speed and memory, or some: ``python -m benchmarks [nearest] [layer] …`` (all: twenty minutes).

Needs ``pip install -e ".[bench]"``. Prints the output of each script, and updates the measured rows of
``docs/benchmarks.md``. Benchmarks of accuracy and growth take longer and have their own options: ``python -m benchmarks
accuracy --help``. The same holds for ``defaults``, ``foreign_keys``, ``growth``, ``imagenet``, ``layers``, ``novelty``,
``projections`` and ``scaling``. ``python -m benchmarks stale`` lists tables that are older than the measured code.
"""

import importlib
import json
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import pages, stale

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = stale.SPEED
ALONE = (
    "accuracy", "defaults", "deletion", "foreign_keys", "gpu", "growth", "imagenet", "layers", "novelty", "projections",
    "scaling", "stale", "streams",
)  # fmt: skip
"""Benchmarks with their own options and pages."""


def lines_of(script):
    """Run one script, print its lines, and return them as records."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(f"[bench] {script} missed a goal or failed", file=sys.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode == 0


def processor():
    """Return the name of the processor, if the system provides it."""
    path = Path("/proc/cpuinfo")
    names = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return names[0].partition(": ")[2] if names else platform.processor()


def merged(text, rows):
    """Return the rows of the page's table; new measurements replace old rows or are appended."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    old = [tuple(line[2:-2].split(" | ")) for line in lines]
    named = {row[0]: row for row in old} | {row[0]: row for row in rows}
    return list(named.values())


def main():
    if sys.argv[1:2] and sys.argv[1] in ALONE:
        return importlib.import_module(f"benchmarks.{sys.argv.pop(1)}").main()
    chosen, _ = pages.arguments(SCRIPTS)
    if unknown := set(chosen) - set(SCRIPTS):
        known = ", ".join((*SCRIPTS, *ALONE))
        print(f"{min(unknown)!r} is not a benchmark; expected one of {known}. Correct the name.", file=sys.stderr)
        return 2
    results = [lines_of(script) for script in chosen]
    rows = [
        (line["name"], *(line.get(name, "") for name in ("ratio", "ours", "theirs", "unit", "goal")))
        for lines, _ in results
        for line in lines
    ]
    page = ROOT / "docs" / "benchmarks.md"
    all_of_it = set(chosen) == set(SCRIPTS)
    if not all_of_it:
        rows = merged(page.read_text(encoding="utf-8"), rows)
    table = pages.table(("what", "ratio", "ours", "theirs", "unit", "goal"), rows)
    pages.fill(page, {"speed": f"{processor()}, {platform.machine()}\n\n{table}"}, measured_now=all_of_it)
    return 0 if all(met for _, met in results) else 1


if __name__ == "__main__":
    sys.exit(main())
