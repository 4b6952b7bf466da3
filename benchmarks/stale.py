"""Which measured tables are older than the code that they measure? ``python -m benchmarks stale``

Every table that a benchmark writes into a page has a stamp: the date, and a digest of the project's sources that the
benchmark imports, directly or not, without comments, docstrings and the wording of messages, and wherever a module is.
This prints each table whose sources have changed since, and the command that measures it again.
"""

import ast
import datetime
import functools
import hashlib
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.io import code

ROOT = Path(__file__).resolve().parents[1]
STAGES = tuple(f"pipeline.stages.{name}" for name in ("extract", "baselines", "run", "search", "toy", "report"))
SPEED = ("nearest", "layer", "counts_memory", "key_memory", "import_time", "out_of_core", "dask_workers", "search",
         "extract", "store", "cache_reading", "storage_dtype")  # fmt: skip
ATTEMPTS = ("io.test_io_faults", "io.test_concurrency", "extraction.test_extract_faults", "stages.test_killed_repro",
            "estimator.test_attacks", "estimator.test_bad_input", "support.bad_inputs", "support.faults")  # fmt: skip
SOURCES = {
    "first_run": ("benchmarks.first_run", *STAGES),
    "reliability": ("fuzz.kernel", "fuzz.readers", "fuzz.sanitize", *STAGES, *(f"tests.{name}" for name in ATTEMPTS)),
    "speed": tuple(f"benchmarks.{name}" for name in SPEED),
}
"""The modules that a benchmark runs, if there are others beside its own."""
COMMANDS = {
    "speed": "python -m benchmarks",
    "first_run": "python benchmarks/first_run.py --page README.md",
    "reliability": "python -m fuzz.report, after the other commands of the page",
}
"""The command that measures a table, if it is not ``python -m benchmarks NAME --page PAGE``."""
TABLES = {
    "README.md": {"first run": "first_run", "summary": "accuracy"},
    "docs/benchmarks.md": {"speed": "speed"},
    "docs/deletion.md": {"deletion": "deletion", "foreign keys": "foreign_keys"},
    "docs/experiments/projections.md": {"digits": "projections", "photographs": "projections"},
    "docs/layers.md": {"layers": "layers"},
    "docs/reliability.md": {"attempts": "reliability"},
    "docs/scaling.md": {"coefficients": "scaling", "scaling": "scaling"},
    "docs/solvers.md": {
        **dict.fromkeys(("summary", "accuracy", "learn", "predict", "size", "calibration"), "accuracy"),
        "novelty": "novelty", "defaults": "defaults", "growth": "growth", "imagenet": "imagenet",
    },
    "docs/streams.md": {"streams": "streams", "updates": "streams"},
}  # fmt: skip
"""Maps a page and the name of a table to the benchmark."""
LEFT_OUT = ("benchmarks.pages", "benchmarks.stale", "pipeline.config.problems", "pipeline.io.code")
"""Modules that word pages and messages, or find what has changed; no figure depends on them."""
STAMP = re.compile(r"<em>Measured (?P<day>[\d-]+) with sources (?P<digest>[0-9a-f]{12})\.</em>")


def stamp(page, name):
    """Return the stamp of a table that is measured now; an empty text for a page outside this project."""
    path = Path(page).resolve()
    known = TABLES.get(path.relative_to(ROOT).as_posix(), {}) if path.is_relative_to(ROOT) else {}
    if name not in known:
        return ""
    return f"<em>Measured {datetime.date.today()} with sources {digest(known[name])}.</em>"


@functools.cache
def digest(benchmark):
    """Return twelve digits that identify the sources of a benchmark, wherever they are, without texts for people."""
    files = {}
    for module in SOURCES.get(benchmark, (f"benchmarks.{benchmark}",)):
        files |= code.closure(module, without=LEFT_OUT)
    return hashlib.sha256(b"".join(sorted(map(_content, files)))).hexdigest()[:12]


@functools.cache
def _content(path):
    content = path.read_bytes()
    if path.suffix == ".py":
        content = repr(_plain(_ordered(ast.parse(content), path.name == "__init__.py"))).encode()
    return hashlib.sha256(content).digest()


def _ordered(tree, is_package):
    """Return a module with its imports in a fixed order; a package without its imports and list of names."""
    imports, rest = [], []
    for part in tree.body:
        listed = isinstance(part, ast.Assign) and [getattr(target, "id", "") for target in part.targets] == ["__all__"]
        if isinstance(part, ast.Import | ast.ImportFrom):
            imports.append(part)
        elif not (is_package and listed):
            rest.append(part)
    tree.body = [*([] if is_package else sorted(imports, key=lambda part: repr(_plain(part)))), *rest]
    return tree


def _plain(node, said=False):
    """Return a syntax tree as lists and text, without empty parts, positions, docstrings and what it says to people.

    Of an import the names count, and not where they come from.
    """
    if isinstance(node, list):
        return [_plain(part, said) for part in node if not _is_docstring(part)]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.ImportFrom):
        return ["ImportFrom", _plain(node.names)]
    said = said or _is_message(node)
    if said and (isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))):
        return "text"
    fields = [(name, _plain(value, said)) for name, value in sorted(ast.iter_fields(node)) if value not in (None, [])]
    return [type(node).__name__, *fields]


def _is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_message(node):
    """Return whether a statement raises an exception or prints a line."""
    prints = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    return prints or isinstance(node, ast.Raise)


def stamps(root=ROOT):
    """Yield page, table, benchmark, and the match of its stamp or None, for every known table."""
    for page, tables in TABLES.items():
        text = (root / page).read_text(encoding="utf-8")
        for name, benchmark in tables.items():
            line = re.search(rf"^<!-- {name} -->(.*)$", text, flags=re.MULTILINE)
            yield page, name, benchmark, line and STAMP.fullmatch(line[1].strip())


def main():
    stale = 0
    for page, name, benchmark, found in stamps():
        now = digest(benchmark)
        if found and found["digest"] == now:
            continue
        stale += 1
        command = COMMANDS.get(benchmark, f"python -m benchmarks {benchmark} --page {page}")
        since = f"was measured {found['day']} with sources {found['digest']}, now {now}" if found else "has no stamp"
        print(f"{page}: {name} {since}: `{command}`")
    print(f"{stale} of {sum(map(len, TABLES.values()))} tables are older than their code")


if __name__ == "__main__":
    sys.exit(main())
