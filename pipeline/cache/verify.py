"""Check a cache in another process: a damaged file can make HDF5 hang or crash, which must not end a stage.

Enters: a path. Leaves: the result of the check, or its error. Must not know: HDF5.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

SECONDS, BYTES_PER_SECOND = 60, 20e6
"""Seconds that any check may take, and the slowest accepted reading rate."""
_CRASHES = tuple(-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
"""Exit codes of a process that a damaged file has crashed; other codes say nothing about the file."""
_CODE = """
import json, sys
from pipeline.cache.reader import check_everything
try:
    print(json.dumps({"facts": check_everything(sys.argv[1])}))
except (OSError, ValueError, MemoryError) as error:
    kind = next(kind.__name__ for kind in (OSError, ValueError, MemoryError) if isinstance(error, kind))
    number = getattr(error, "errno", None)
    print(json.dumps({"error": error.strerror if number else str(error), "kind": kind, "number": number}))
"""


def check_in_child(path: str | Path) -> list[str]:
    """Return the result of ``pipeline.cache.reader.check_everything``, or raise its error.

    Raises
    ------
    OSError
        If the file is missing or damaged, or if reading it crashes or hangs.
    ValueError
        If it is not a cache of this version.
    """
    path = Path(path)
    limit = SECONDS + (path.stat().st_size if path.exists() else 0) / BYTES_PER_SECOND
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", _CODE, str(path)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise OSError(_broken(path, f"reading it did not finish within {limit:.0f} s")) from error
    try:
        found = json.loads(done.stdout)
    except ValueError as error:
        ended = f"ended with code {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}"
        if done.returncode in _CRASHES:
            raise OSError(_broken(path, f"reading it {ended}")) from error
        raise RuntimeError(
            f"cache {path.name} could not be checked, because the checking process {ended}; expected it to finish "
            "normally. Check the free memory, then try again."
        ) from error
    if found.get("number"):
        raise OSError(found["number"], found["error"])
    if "error" in found:
        raise {"OSError": OSError, "ValueError": ValueError, "MemoryError": MemoryError}[found["kind"]](found["error"])
    return found["facts"]


def _broken(path: Path, what: str) -> str:
    return (
        f"cache {path.name} is damaged ({' '.join(what.split())}); expected an unchanged file. Run `dvc repro extract` "
        "to rebuild it, or restore a copy."
    )
