"""Each example runs as a user runs it, without a warning, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
ABOVE_ZERO = r"\d\.\de[-+]\d\d"
MASKED_KEYS = rf"{ABOVE_ZERO} +{ABOVE_ZERO} "
PROMISES = {
    "quickstart.py": [
        *(rf"^classes 0 to {last}: accuracy (0\.9\d\d|1\.000) over all seen so far$" for last in (1, 3, 5, 7, 9)),
        r"^loaded again: accuracy 0\.9\d\d$",
        r"^next: ",
    ],
    "partial_fit_loop.py": [r"^ 160 samples learned: accuracy 0\.", r"^ 957 samples learned: accuracy 0\.9\d\d$"],
    "grid_search.py": [r"^0\.9\d\d  \{'key_dim': \d, 'n_keys': \d\d, 'solver': '\w+'\}$"],
    "out_of_core.py": [r"^accuracy 0\.[89]\d\d$", r"^dask.array<", "^the same predictions: True$"],
    "dask_cluster.py": [
        *(rf"^{solver}: accuracy on its own rows [01]\.\d\d\d$" for solver in ("counts", "ridge")),
        r"^counts: same keys True, values differ by 0e\+00$",
        r"^ridge: same keys True, values differ by \de-0[5-9]$",
    ],
    "merge_models.py": [
        rf"^{solver}: merged and whole .* True, accuracy [01]\.\d\d\d$" for solver in ("counts", "ridge")
    ],
    "forgetting.py": [
        r"^counts: accuracy 0\.9\d\d, .* exact forgetting: True$",
        r"^ridge: accuracy 0\.9\d\d, .* exact forgetting: True$",
        r"^sgd: accuracy 0\.[89]\d\d, .* exact forgetting: False$",
        *(
            rf"^{solver} +\d+\.\d ms +\d+\.\d ms +\d+\.\d ms +\d+\.\d +\d+\.\d$"
            for solver in ("counts", "ridge", "sgd")
        ),
        *(rf"^{n} +{solver} +forget +0\.0 +0\.0$" for n in (1, 10, 100) for solver in ("counts", "ridge")),
        *(rf"^{n} +sgd +{way} +{ABOVE_ZERO} +{ABOVE_ZERO}$" for n in (1, 10, 100) for way in ("forget", "mask_keys")),
        r"^64 x 128( +\d+ %){8}$",
        *(rf"^{solver} +exact +0\.0 +0\.0 +0\.9\d\d +0\.000 +\+0\.000$" for solver in ("counts", "ridge")),
        *(rf"^{solver} +logit masked +{MASKED_KEYS}" for solver in ("counts", "ridge", "sgd")),
        *(rf"^sgd +keys, by {way} +{MASKED_KEYS}" for way in ("examples", "activations")),
    ],
}


def run_example(name):
    """Run an example from the root of the checkout and return what it printed."""
    command = [sys.executable, "-W", "error", str(Path("examples") / name)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


SLOW = {"dask_cluster.py", "forgetting.py"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NAMES])
def test_the_example_runs_and_prints_what_it_promises(name):
    printed = run_example(name)
    assert printed
    missing = [line for line in PROMISES.get(name, []) if not re.search(line, printed, flags=re.MULTILINE)]
    assert not missing, printed
    if name == "forgetting.py":
        check_probes(printed)


def check_probes(printed):
    """Table (b): exact forgetting is the model that never saw the class, to every digit; masks are not."""
    rows = re.findall(r"^(counts|ridge|sgd) +([^\d\n]+?) +((?:\d\.\d{3} *){6})$", printed, flags=re.MULTILINE)
    numbers = {(solver, method): found.split() for solver, method, found in rows}
    for solver, method in numbers:
        same = numbers[solver, method] == numbers[solver, "never saw it"]
        assert same or method not in ("exact", "never saw it")
        assert not same or method not in ("logit masked", "keys, by examples", "keys, by activations")
    assert len(numbers) == 11


def test_every_promise_is_that_of_an_example():
    assert PROMISES.keys() <= set(NAMES)
