"""End a whole group of processes at one call of a function, as a machine does that goes down.

A copy of this file, named ``sitecustomize.py`` in a folder of PYTHONPATH, is imported by every Python that is started.
Where the command of a process holds the word KILL_IN, its calls of functions are counted from the moment when it first
opens a file whose path holds KILL_FROM: in that thread, in Python and in C. At call number KILL_AT the kernel ends the
process and all others of its group, by a signal that none can catch. Without KILL_AT the process is let through, and
writes into the file KILL_TOLD how many calls there were, and at which of them each file of its folder was opened.
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
