"""Time the README's first command as on a new machine: ``python benchmarks/first_run.py [--page README.md]``.

Clones the committed state of the checkout, creates a virtual environment, installs the package, and runs ``dvc repro``
twice. Needs a package index; pip uses its own cache if there is one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import pages  # noqa: E402
from benchmarks.__main__ import processor  # noqa: E402

STEPS = (
    ("a virtual environment", "python3 -m venv .venv"),
    ('`pip install -e ".[pipeline]"`', ".venv/bin/pip install --quiet --disable-pip-version-check -e '.[pipeline]'"),
    ("`dvc repro`", "PATH=$PWD/.venv/bin:$PATH dvc repro"),
    ("`dvc repro` again", "PATH=$PWD/.venv/bin:$PATH dvc repro"),
)


def timed(command, folder):
    """Run a command, and return its seconds."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    started = time.perf_counter()
    subprocess.run(command, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main():
    _, page = pages.arguments(())
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkout"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for name, command in STEPS:
            seconds = timed(command, folder)
            print(json.dumps({"name": name.replace("`", ""), "ours": round(seconds), "unit": "s"}), flush=True)
            rows.append((name, f"{seconds:.0f}"))
        if not (folder / "report" / "index.html").exists():
            raise FileNotFoundError(
                "dvc repro did not write report/index.html; expected the report. Run dvc repro by hand to see why."
            )
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    machine = f"{processor()}, {os.cpu_count()} cores, " + ("busy with other work" if busy > 1.5 else "otherwise idle")
    pages.fill(page, {"first run": f"{machine}:\n\n{pages.table(('step', 'seconds'), rows)}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
