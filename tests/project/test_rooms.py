"""Which package may import which, and the largest length of a function."""

import ast
import functools
import io
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = {"numpy", "scipy", "torch", "sklearn", "joblib"}
"""What the estimator may import; dask, matplotlib and tqdm only inside functions that need them."""
MAX_FUNCTION_LINES = 60

ARROWS = {  # package or module of one half → what it may import from the same half
    "dkvb_estimator": {
        "_version": set(),
        "_device": set(),
        "_progress": set(),
        "_validation": set(),
        "_labels": {"_validation"},
        "_atomic": {"_device"},
        "_kernel": set(),
        "_encoding": {"_device", "_kernel", "_labels", "_progress", "_validation"},
        "_values": {"_device", "_labels", "_progress", "_validation"},
        "_state_checks": {"_validation", "_values"},
        "_persistence": {"_classifier", "_encoder", "_validation", "_version"},
        "_blocks": {"_validation"},
        "distributed": {"_blocks", "_progress", "_validation", "_values"},
        "inspection": set(),
        "_encoder": {
            "_atomic", "_blocks", "_device", "_encoding", "_labels", "_progress", "_state_checks", "_validation",
            "distributed",
        },
        "plotting": set(),
        "_classifier": {
            "_atomic", "_blocks", "_device", "_encoder", "_encoding", "_labels", "_progress", "_state_checks",
            "_validation", "_values", "distributed", "inspection",
        },
        "metrics": set(),
        "baselines": {"_labels", "_validation"},
    },
    "pipeline": {
        "io": set(),
        "suppression": {"io"},
        "config": {"io"},
        "data": {"io", "suppression"},
        "backbones": {"config", "io"},
        "cache": {"data", "io", "suppression"},
        "scratch": {"cache", "io"},
        "store": {"io"},
        "extraction": {"backbones", "cache", "cli", "config", "data", "io", "store"},
        "evaluation": {"cache", "config", "io", "scratch"},
        "report": {"io"},
        "cli": {"io"},
        "forgetting": {"cache", "cli", "data", "io", "store", "suppression"},
        "stages": {
            "cache", "cli", "config", "data", "evaluation", "extraction", "io", "report", "scratch", "suppression",
        },
        "new": {"backbones", "cache", "config", "data"},
        "__main__": {"cache", "cli", "data", "forgetting", "io", "new", "store", "suppression"},
    },
}  # fmt: skip

FILES = {half: sorted((ROOT / half).rglob("*.py")) for half in ARROWS}
EVERY_FILE = [(half, path) for half in FILES for path in FILES[half]]


def room_of(half, path):
    """Return the package below a half to which a file belongs, or the module that it is."""
    return path.relative_to(ROOT / half).parts[0].removesuffix(".py")


@functools.cache
def imports(path):
    """Return the dotted names that a module imports anywhere in its text, with relative names resolved."""
    package, found = list(path.relative_to(ROOT).parts[:-1]), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            is_package = ROOT.joinpath(*base.split(".")).is_dir()
            found |= {f"{base}.{alias.name}" for alias in node.names} if is_package else {base}
    return found


def own_imports(half, path):
    """Return the packages and modules of its own half that a file imports, except the one it is in."""
    inside = {name.split(".")[1] for name in imports(path) if name.startswith(f"{half}.") and name.count(".")}
    there = {room_of(half, other) for other in FILES[half]}
    return (inside & there) - {room_of(half, path)}


def offences(files, find):
    """Return what a rule finds in each file, by path, without the files in which it finds nothing."""
    return {str(path.relative_to(ROOT)): found for half, path in files if (found := find(half, path))}


def test_packages_import_only_what_lies_below_them():
    rooms = {(half, room_of(half, path)) for half, path in EVERY_FILE}
    new = {(half, room) for half, room in rooms if room != "__init__" and room not in ARROWS[half]}
    assert not new, "write into ARROWS what they may import"

    def above(half, path):
        room = room_of(half, path)
        return room != "__init__" and own_imports(half, path) - ARROWS[half][room]

    assert offences(EVERY_FILE, above) == {}


def test_other_packages_are_imported_through_their_door():
    """A package exports names in its ``__init__``."""
    known = {"dkvb_estimator._kernel.native", "pipeline.cache.import_export"}

    def deep(half, path):
        return {
            name
            for name in imports(path) - known
            if name.startswith(f"{half}.")
            and (ROOT / half / name.split(".")[1]).is_dir()
            and name.split(".")[1] != room_of(half, path)
            and (ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file()
        }

    assert offences(EVERY_FILE, deep) == {}


@pytest.mark.parametrize("half", ARROWS)
def test_there_is_no_cycle_among_packages(half):
    waiting = {room: set(needed) for room, needed in ARROWS[half].items()}
    while free := [room for room, needed in waiting.items() if not needed & set(waiting)]:
        for room in free:
            del waiting[room]
    assert waiting == {}


def test_the_estimator_needs_four_libraries_and_joblib():
    optional = {"distributed": {"dask"}, "_progress": {"tqdm"}, "plotting": {"matplotlib"}}
    ours = set(sys.stdlib_module_names) | {"dkvb_estimator"} | LIBRARIES

    def others(_, path):
        return {name.split(".")[0] for name in imports(path)} - ours - optional.get(path.stem, set())

    assert offences([each for each in EVERY_FILE if each[0] == "dkvb_estimator"], others) == {}


def imports_of_the_estimator(_, path):
    return {name for name in imports(path) if name.startswith("dkvb_estimator")}


def test_the_pipeline_uses_public_names_of_the_estimator():
    def private(half, path):
        return {
            name
            for name in imports_of_the_estimator(half, path)
            if any(part.startswith("_") and part != "__version__" for part in name.split(".")[1:])
        }

    assert offences([each for each in EVERY_FILE if each[0] == "pipeline"], private) == {}


def test_what_comes_before_learning_does_not_import_the_estimator():
    before = {"io", "config", "data", "backbones", "cache", "extraction", "store"}
    files = [(half, path) for half, path in EVERY_FILE if half == "pipeline" and room_of(half, path) in before]
    assert {room_of(*each) for each in files} == before
    assert offences(files, imports_of_the_estimator) == {}


def test_the_report_draws_with_the_estimators_displays_and_knows_nothing_else_of_it():
    ours = {name for path in (ROOT / "pipeline" / "report").glob("*.py") for name in imports(path)}
    assert {name for name in ours if name.startswith("dkvb_estimator")} == {"dkvb_estimator.plotting"}


def test_only_the_cache_opens_hdf5():
    elsewhere = [each for each in EVERY_FILE if room_of(*each) not in ("cache", "scratch")]
    assert offences(elsewhere, lambda _, path: {name for name in imports(path) if name.split(".")[0] == "h5py"}) == {}


@functools.cache
def code_lines(source):
    """Return the numbers of the lines with code, without docstrings, comments and blank lines."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else []:
            if (
                isinstance(item, ast.Expr)
                and isinstance(item.value, ast.Constant)
                and isinstance(item.value.value, str)
            ):
                docstrings |= set(range(item.lineno, item.end_lineno + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def long_functions(source):
    lines = code_lines(source)
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: len(lines & set(range(node.lineno, node.end_lineno + 1))) for node in functions}
    return {name: length for name, length in lengths.items() if length >= MAX_FUNCTION_LINES}


def test_functions_stay_under_sixty_lines_of_code():
    assert offences(EVERY_FILE, lambda _, path: long_functions(path.read_text(encoding="utf-8"))) == {}


def test_code_lines_leave_out_docstrings_comments_and_blank_lines():
    source = (
        '"""Doc\nstring."""\n\n# why\nx = """not\na docstring"""\n\n\ndef f():\n    """Doc."""\n    return x  # so\n'
    )
    assert len(code_lines(source)) == 4


def test_a_long_function_is_found():
    assert long_functions("def f():\n" + "    x = 1\n" * 60) == {"f": 61}
