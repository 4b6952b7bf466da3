"""Run one target under atheris in a separate process, because libFuzzer ends the process that it runs in.

Enters: a target's name, then libFuzzer's own arguments. Leaves: libFuzzer's exit code. Must not know: seconds, reports.
"""

import sys

import atheris

with atheris.instrument_imports(include=["pipeline", "dkvb_estimator", "yaml", "zipfile"]):
    import fuzz.targets

if __name__ == "__main__":
    run, _ = fuzz.targets.TARGETS[sys.argv[1]]
    run(b"\0" * 16)  # one-time work is done before the clock starts
    command = f"{sys.executable} -m fuzz.worker {sys.argv[1]}"  # merging restarts itself through the shell
    atheris.Setup([command, *sys.argv[2:]], run)
    atheris.Fuzz()
