"""The walls: who may import whom, and how large a room or a function may grow."""

import ast
import functools
import io
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PURE = {"numpy", "scipy", "torch"}
ESTIMATOR = PURE | {"sklearn"}
MAX_CODE_LINES, MAX_FUNCTION_LINES = 300, 60

ROOMS = {  # module of dkvb_estimator: the modules of ours that it may import
    "__init__": {"_classifier", "_files", "_version"},
    "_version": set(),
    "_device": set(),
    "_projection": {"_device", "_native"},
    "_native": set(),
    "_nearest": {"_native"},
    "_keys": {"_nearest"},
    "_values": set(),
    "_counts": set(),
    "_ledger": set(),
    "_confidence": set(),
    "_place": set(),
    "_prior": set(),
    "_joint": {"_confidence", "_prior"},
    "_validation": set(),
    "_learned_projection": {"_projection"},
    "_atomic": {"_device"},
    "_labels": {"_validation"},
    "_codebook": {
        "_device", "_keys", "_learned_projection", "_ledger", "_nearest", "_prior", "_projection", "_validation",
    },
    "_blocks": {"_place", "_store"},
    "_audit": set(),
    "_intact": {"_prior", "_validation"},
    "_store": {"_place"},
    "_learned": {"_counts", "_joint", "_labels", "_ledger", "_store", "_validation"},
    "_solvers": {"_counts", "_device", "_joint", "_learned", "_prior", "_validation", "_values"},
    "_frozen": {
        "_atomic", "_blocks", "_codebook", "_device", "_intact", "_labels", "_learned", "_nearest", "_validation",
    },
    "_lazy": {
        "_blocks", "_codebook", "_device", "_frozen", "_joint", "_learned", "_nearest", "_prior", "_validation",
    },
    "_solved": {"_blocks", "_device", "_joint", "_lazy", "_solvers", "_validation"},
    "_classifier": {
        "_atomic", "_audit", "_blocks", "_codebook", "_confidence", "_device", "_labels", "_learned", "_nearest",
        "_solved", "_solvers", "_validation",
    },
    "_files": {"_classifier", "_intact", "_validation", "_version"},
    "metrics": set(),
    "baselines": {"_labels", "_validation"},
}  # fmt: skip

BASELINES = {  # module of dkvb_estimator.baselines: the modules of that package that it may import
    "__init__": {"classwise", "discriminant", "nearest_mean", "random_features"},
    "_additive": set(),
    "_rows": set(),
    "_systems": set(),
    "_sums": {"_additive"},
    "_choosing": {"_additive", "_rows"},
    "_linear": {"_additive", "_choosing", "_rows", "_sums", "_systems"},
    "nearest_mean": {"_additive"},
    "discriminant": {"_additive", "_choosing", "_linear", "_sums"},
    "random_features": {"_additive", "_choosing", "_linear", "_rows", "_sums", "_systems", "discriminant"},
    "classwise": {"_additive", "_choosing", "_rows", "_sums", "_systems"},
}

LEAVES = {
    "params",
    "grids",
    "records",
    "datasets",
    "image_files",
    "folder_entries",
    "folder_layout",
    "plain_yaml",
    "reasons",
    "texts",
    "backbones",
    "inline_backbones",
    "networks",
    "cache",
    "codes",
    "embedding",
    "exchange",
    "locks",
    "processes",
    "shards",
    "sources",
    "streams",
    "probes",
    "weights",
}
STAGES = {"manifest", "folder", "extract", "adopt", "train", "rivals", "evaluate", "search", "report", "toy"}
PAGE = {"markup", "figures", "words", "measured", "sections", "findings"}
PIPELINE = {  # module of pipeline: the modules of pipeline that it may import; absent modules are not missed
    "__init__": set(),
    "console": {"locks", "reasons"},
    **{name: set() for name in LEAVES},
    "datasets": {"folder_entries", "folder_layout", "image_files", "locks"},
    "folder_layout": {"folder_entries"},
    "folder_entries": {"image_files"},
    "grids": {"sources"},
    "image_files": {"locks"},
    "params": {"grids", "plain_yaml", "records", "sources"},
    "plain_yaml": {"texts"},
    "embedding": {"backbones", "datasets"},
    "exchange": {"array_files", "cache", "datasets", "locks", "texts"},
    "array_files": {"reasons"},
    "networks": {"backbones", "reasons"},
    "inline_backbones": {"backbones", "networks", "reasons", "sources"},
    "weights": {"reasons"},
    "cache": {"cache_check", "cache_format", "cache_writer"},
    "codes": {"cache", "locks"},
    "cache_check": set(),
    "cache_format": {"reasons"},
    "cache_writer": {"cache_check", "cache_format", "locks"},
    "shards": {"locks"},
    "checkpoints": {"locks"},
    "records": {"sources"},
    "markup": set(),
    "figures": {"markup"},
    "words": {"markup"},
    "measured": {"texts"},
    "sections": {"figures", "markup", "measured", "words"},
    "findings": {"figures", "markup", "measured", "sections", "words"},
    "protocol": {"cache", "codes", "records", "streams"},
    "contenders": {"probes", "protocol"},
    "results": {"locks", "protocol", "texts"},
    "trust": set(),
    "candidates": {"cache", "protocol"},
    **{
        name: LEAVES | {"candidates", "checkpoints", "console", "contenders", "protocol", "results", "trust"}
        for name in STAGES
    },
    "report": PAGE | {"console", "locks", "params"},
    "__main__": LEAVES | STAGES | {"console"},
}


@functools.cache
def modules(package):
    return {path.stem: path for path in sorted((ROOT / package.replace(".", "/")).glob("*.py"))}


@functools.cache
def imports(path, package):
    """Dotted names that a module imports anywhere in its text, ours spelled out in full."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(part for part in (package if node.level else "", node.module or "") if part)
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= names if base == package else {base}
    return found


def own_imports(path, package):
    """Modules of the same package that a module imports."""
    inside = {
        name.removeprefix(f"{package}.").partition(".")[0]
        for name in imports(path, package)
        if name.startswith(f"{package}.")
    }
    return inside & set(modules(package))


@functools.cache
def code_lines(source):
    """Numbers of the lines that hold code: no docstring, no comment, no blank."""
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


ESTIMATOR_PACKAGES = ("dkvb_estimator", "dkvb_estimator.baselines")
ESTIMATOR_MODULES = [(package, name) for package in ESTIMATOR_PACKAGES for name in modules(package)]
EVERY_MODULE = [*ESTIMATOR_MODULES, *(("pipeline", name) for name in modules("pipeline"))]


@pytest.mark.parametrize("name", sorted(modules("dkvb_estimator")))
def test_estimator_modules_import_only_the_rooms_below_them(name):
    assert name in ROOMS, f"{name} is a new room: write into ROOMS what it may import"
    assert own_imports(modules("dkvb_estimator")[name], "dkvb_estimator") <= ROOMS[name]


@pytest.mark.parametrize("name", sorted(modules("dkvb_estimator.baselines")))
def test_baselines_are_one_room_of_small_ones(name):
    package, path = "dkvb_estimator.baselines", modules("dkvb_estimator.baselines")[name]
    assert name in BASELINES, f"{name} is a new room: write into BASELINES what it may import"
    assert own_imports(path, package) <= BASELINES[name]
    outside = {module.split(".")[1] for module in imports(path, package) if module.startswith("dkvb_estimator.")}
    assert outside - {"baselines"} <= ROOMS["baselines"]


@pytest.mark.parametrize("name", sorted(modules("pipeline")))
def test_pipeline_modules_import_only_the_rooms_below_them(name):
    assert name in PIPELINE, f"{name} is a new room: write into PIPELINE what it may import"
    assert own_imports(modules("pipeline")[name], "pipeline") <= PIPELINE[name]


@pytest.mark.parametrize(("package", "name"), ESTIMATOR_MODULES)
def test_the_estimator_needs_four_libraries(package, name):
    others = {module.split(".")[0] for module in imports(modules(package)[name], package)}
    allowed = ESTIMATOR | {"dkvb_estimator"} | ({"dask"} if name == "_blocks" else set())
    assert others - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize(
    "name", sorted(set(ROOMS) & set(modules("dkvb_estimator")) - {"_classifier", "_frozen", "_solved", "_validation"})
)
def test_rooms_do_not_know_that_scikit_learn_exists(name):
    assert not any(
        module.startswith("sklearn") for module in imports(modules("dkvb_estimator")[name], "dkvb_estimator")
    )


@pytest.mark.parametrize("name", sorted(modules("pipeline")))
def test_the_pipeline_uses_public_names_of_the_estimator(name):
    ours = {module for module in imports(modules("pipeline")[name], "pipeline") if module.startswith("dkvb_estimator")}
    assert not any(part.startswith("_") for module in ours for part in module.split(".")[1:])


@pytest.mark.parametrize("name", sorted(set(modules("pipeline")) & (LEAVES | PAGE | {"console", "__init__"})))
def test_leaves_do_not_import_the_estimator(name):
    assert not any(module.startswith("dkvb_estimator") for module in imports(modules("pipeline")[name], "pipeline"))


@pytest.mark.parametrize(("package", "name"), EVERY_MODULE)
def test_only_the_cache_opens_hdf5(package, name):
    if (package, name) not in {("pipeline", room) for room in ("cache", "cache_format", "cache_writer", "codes")}:
        assert not any(module.split(".")[0] == "h5py" for module in imports(modules(package)[name], package))


@pytest.mark.parametrize("package", [*ESTIMATOR_PACKAGES, "pipeline"])
def test_there_is_no_import_cycle(package):
    waiting = {name: own_imports(path, package) - {name, "__init__"} for name, path in modules(package).items()}
    while free := [name for name, needed in waiting.items() if not needed & set(waiting)]:
        for name in free:
            del waiting[name]
    assert waiting == {}


@pytest.mark.parametrize(("package", "name"), EVERY_MODULE)
def test_modules_stay_under_three_hundred_lines_of_code(package, name):
    assert len(code_lines(modules(package)[name].read_text(encoding="utf-8"))) < MAX_CODE_LINES


@pytest.mark.parametrize(("package", "name"), EVERY_MODULE)
def test_functions_stay_under_sixty_lines_of_code(package, name):
    assert long_functions(modules(package)[name].read_text(encoding="utf-8")) == {}


def test_code_lines_leave_out_docstrings_comments_and_blank_lines():
    source = (
        '"""Doc\nstring."""\n\n# why\nx = """not\na docstring"""\n\n\ndef f():\n    """Doc."""\n    return x  # so\n'
    )
    assert len(code_lines(source)) == 4


def test_a_long_function_is_found():
    assert long_functions("def f():\n" + "    x = 1\n" * 60) == {"f": 61}
