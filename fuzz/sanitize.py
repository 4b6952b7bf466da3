"""``python -m fuzz.sanitize``: the kernel under AddressSanitizer and UndefinedBehaviorSanitizer, every build.

Enters: the number of problems. Leaves: a line of JSON per build; exit code 1 if a sanitizer or the comparison with a
plain search found something. Must not know: the Python side of the kernel.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = [ROOT / "dkvb_estimator/_kernel/nearest.cpp", ROOT / "fuzz/kernel_driver.cpp"]
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-Wno-psabi",
    "-pthread",
]
LEVELS = {"x86-64": [], "x86-64-v3": ["-march=x86-64-v3"], "x86-64-v4": ["-march=x86-64-v4"]}


def sanitize(level: str, n: int, compiler: str) -> dict[str, Any]:
    """Build the kernel and its driver for an instruction set, and run n problems."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "driver"
        command = [compiler, *FLAGS, *LEVELS[level], *map(str, SOURCES), "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([str(program), str(n)], capture_output=True, text=True)
    said = (done.stdout + done.stderr).strip()
    return {"kind": "sanitizer", "build": level, "problems": n, "code": done.returncode, "said": said[-2000:]}


def supported() -> list[str]:
    """Return the instruction sets that this processor supports, according to the kernel."""
    from dkvb_estimator._kernel import native

    plain = native.open_kernel("_kernel")
    level = int(plain.dkvb_level()) if plain is not None else 1
    return list(LEVELS)[: max(1, level - 1)] if level else ["x86-64"]


def main() -> int:
    """Run every build that this processor supports."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.sanitize", description="Run the kernel under sanitizers.")
    parser.add_argument("--problems", type=int, default=3000)
    parser.add_argument("--record", help="file to which to append one line of JSON per build")
    arguments = parser.parse_args()
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        parser.error("no C++ compiler was found; expected g++ or clang++. Install one.")
    failed = False
    for level in supported():
        record = sanitize(level, arguments.problems, compiler)
        failed |= record["code"] != 0
        print(json.dumps(record), flush=True)
        if arguments.record:
            with Path(arguments.record).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
