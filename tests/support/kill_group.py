"""End a whole group of processes at one function call, as if the machine went down.

A copy of this file, named ``sitecustomize.py`` in a folder of PYTHONPATH, is imported by every Python process. If the
command of a process contains the word KILL_IN, its function calls are counted, in Python and in C, from the moment when
it first opens a file whose path contains KILL_FROM, in that thread. At call number KILL_AT the kernel ends the process
and all others of its group, by a signal that they cannot catch. Without KILL_AT the process continues, and writes to
the file KILL_TOLD the number of calls, and the call at which each file of its folder was opened.
"""

import atexit
import json
import os
import signal
import sys
from pathlib import Path


def watch(begin, point, told):
    calls, opened, is_counting = 0, [], False

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls == point:
            os.killpg(0, signal.SIGKILL)

    def look(event, values):
        nonlocal is_counting
        if event != "open" or not isinstance(values[0], str) or values[0].endswith(".py"):
            return
        if not is_counting and begin in values[0]:
            is_counting = True
            sys.setprofile(count)
        if is_counting and told:
            opened.append((os.path.relpath(values[0]), calls))

    def tell():
        sys.setprofile(None)
        Path(told).write_text(json.dumps({"calls": calls, "opened": opened}), encoding="utf-8")

    sys.addaudithook(look)
    if told:
        atexit.register(tell)


if os.environ.get("KILL_IN") in sys.orig_argv:
    watch(os.environ["KILL_FROM"], int(os.environ.get("KILL_AT", "-1")), os.environ.get("KILL_TOLD"))
