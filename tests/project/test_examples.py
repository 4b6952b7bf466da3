"""Each example runs like a user runs it, without a warning, and prints what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_cache

from pipeline.cache import open_cache

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
ABOVE_ZERO = r"\d\.\de[-+]\d\d"
DIFFERS = rf"{ABOVE_ZERO} +{ABOVE_ZERO} "
PROMISES = {
    "quickstart.py": [
        *(rf"^classes 0 to {last}: accuracy (0\.9\d\d|1\.000) over all seen so far$" for last in (1, 3, 5, 7, 9)),
        r"^loaded again: accuracy 0\.9\d\d$",
        r"^next: ",
    ],
    "partial_fit_loop.py": [r"^ 160 samples learned: accuracy 0\.", r"^ 957 samples learned: accuracy 0\.9\d\d$"],
    "grid_search.py": [r"^0\.9\d\d  \{'encoder__n_heads': \d+, 'encoder__n_keys': \d\d, 'objective': '\w+'\}$"],
    "out_of_core.py": [r"^accuracy 0\.[89]\d\d$", r"^dask.array<", "^the same predictions: True$"],
    "dask_cluster.py": [
        *(rf"^{solver}: accuracy on its own rows [01]\.\d\d\d$" for solver in ("joint", "counts")),
        *(rf"^{solver}: same keys True, values differ by 0e\+00$" for solver in ("joint", "counts")),
    ],
    "merge_models.py": [
        rf"^{solver}: merged and whole .* True, accuracy [01]\.\d\d\d$" for solver in ("joint", "counts")
    ],
    "read_cache.py": [
        r"^test: 7 rows of 8 features, 5 labelled, first id 'test/größe_0\.png'$",
        r"^train: 20 rows of 8 features, 15 labelled, first id 'train/größe_0\.png'$",
    ],
    "forgetting.py": [
        r"^counts: accuracy 0\.9\d\d, .* exact forgetting: True$",
        r"^joint: accuracy 0\.9\d\d, .* exact forgetting: True$",
        r"^sgd: accuracy 0\.[89]\d\d, .* exact forgetting: False$",
        *(
            rf"^{solver} +\d+\.\d ms +\d+\.\d ms +\d+\.\d ms +\d+\.\d +\d+\.\d$"
            for solver in ("joint", "counts", "sgd")
        ),
        *(rf"^{n} +{solver} +forget +0\.0 +0\.0$" for n in (1, 10, 100) for solver in ("joint", "counts")),
        *(rf"^{n} +sgd +forget +{ABOVE_ZERO} +{ABOVE_ZERO}$" for n in (1, 10, 100)),
        r"^64 x 128( +\d+ %){8}$",
        *(rf"^{solver} +exact +0\.0 +0\.0 +0\.9\d\d +0\.000 +\+0\.000$" for solver in ("joint", "counts")),
        *(rf"^{solver} +logit masked +{DIFFERS}" for solver in ("joint", "counts", "sgd")),
        rf"^sgd +forget +{DIFFERS}",
    ],
}


IN_ONE_PROCESS = """
import contextlib, io, runpy, warnings
with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()) as said:
    warnings.simplefilter("error")
    runpy.run_path("examples/{name}", run_name="__main__")
assert not said.getvalue(), said.getvalue()
"""
ALONE = {"dask_cluster.py", "read_cache.py"}
"""Examples that run as files: workers of the first import the main file; the second works without the package."""


def run_example(name, elsewhere):
    """Run an example from the root of the checkout and return what it printed."""
    if name not in ALONE:
        return elsewhere(IN_ONE_PROCESS.format(name=name))
    command = [sys.executable, "-W", "error", str(Path("examples") / name)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs_and_prints_what_it_promises(name, elsewhere):
    printed = run_example(name, elsewhere)
    assert printed
    missing = [line for line in PROMISES.get(name, []) if not re.search(line, printed, flags=re.MULTILINE)]
    assert not missing, printed
    if name == "forgetting.py":
        check_probes(printed)


def check_probes(printed):
    """Table (b): only exact forgetting equals the model that never saw the class, to every digit."""
    rows = re.findall(r"^(joint|counts|sgd) +([^\d\n]+?) +((?:\d\.\d{3} *){6})$", printed, flags=re.MULTILINE)
    numbers = {(solver, method): found.split() for solver, method, found in rows}
    for solver, method in numbers:
        same = numbers[solver, method] == numbers[solver, "never saw it"]
        assert same or method not in ("exact", "never saw it")
        assert not same or method not in ("logit masked", "forget")
    assert len(numbers) == 10


def test_every_promise_is_that_of_an_example():
    assert PROMISES.keys() <= set(NAMES)


def test_the_reader_of_the_format_page_is_the_example():
    page = (ROOT / "docs/cache_format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    function = code[code.index("def ") :].strip()
    assert function in (ROOT / "examples/read_cache.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", [1, 2])
def test_the_reader_of_the_format_page_agrees_with_ours_and_notices_damage(tmp_path, version):
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from read_cache import read_split
    finally:
        sys.path.pop(0)
    path = ROOT / f"tests/data/cache_v{version}.h5"
    with open_cache(path) as reader:
        for split in reader.split_names:
            X, y, ids = read_split(path, split)
            assert (reader.read(split) == X).all()
            assert y.tolist() == reader.labels(split).tolist()
            assert ids == reader.sample_ids(split)
    damaged = small_cache.write_small(tmp_path / "damaged.h5")
    content = bytearray(damaged.read_bytes())
    content[content.rindex(small_cache.embeddings("train")[:2].astype("<f2").tobytes())] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(OSError, match="block 0 of train is damaged"):
        read_split(damaged, "train")
