"""Damage a cache in many ways, read each result in a separate process, and print the outcomes as JSON.

Run as ``python damage.py FILE FOLDER < ways.json``. A way is a list of [position, bits to flip], or a length to
truncate the file to. The outcome is "error", "same" (all content equals that of the intact file), "wrong" (something
differs without an error), "stopped" (a crash or a hang), or the name of an error that users should not see.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.cache import open_cache

SECONDS = 0.7
ENDINGS = {0: "same", 1: "error", 2: "wrong", 3: "MemoryError", 4: "another error"}


def try_ways(path, folder, ways):
    """Return the outcome of reading after each kind of damage; this file runs in a separate process for it."""
    done = subprocess.run(
        [sys.executable, __file__, str(path), str(folder)],
        input=json.dumps(ways),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def content(path):
    """Return the complete content of a cache."""
    with open_cache(path) as reader:
        splits = {
            name: [
                reader.read(name).tobytes(),
                reader.labels(name).tobytes(),
                reader.sample_ids(name),
                reader.max_rounding_error(name),
            ]
            for name in reader.split_names
        }
        return reader.header, reader.n_features, splits


def damage(whole, way):
    if isinstance(way, int):
        return whole[:way]
    damaged = bytearray(whole)
    for position, bits in way:
        damaged[position] ^= bits
    return bytes(damaged)


def ending(path, expected):
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process even inside C code
    try:
        return 0 if content(path) == expected else 2
    except (OSError, ValueError):
        return 1
    except MemoryError:
        return 3
    except Exception:
        return 4


def in_fork(path, expected):
    child = os.fork()
    if child == 0:
        os._exit(ending(path, expected))
    _, status = os.waitpid(child, 0)
    return "stopped" if os.WIFSIGNALED(status) else ENDINGS[os.WEXITSTATUS(status)]


def main():
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    whole, expected, target = path.read_bytes(), content(path), folder / "damaged.h5"
    np.seterr(all="ignore")
    endings = []
    for way in json.load(sys.stdin):
        target.write_bytes(damage(whole, way))
        endings.append(in_fork(target, expected))
    print(json.dumps(endings))


if __name__ == "__main__":
    main()
