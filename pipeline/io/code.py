"""Digest the code that a module runs: its imports from this project, direct or not, without comments and docstrings.

Enters: a module's name. Leaves: a digest. Must not know: what any module does.
"""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType

__all__ = ["closure", "code_digest"]

ROOT = Path(__file__).resolve().parents[2]
OURS = ("pipeline", "dkvb_estimator", "benchmarks")
IMPORT = dis.opmap["IMPORT_NAME"]
OTHER_SOURCES = (".h", ".cpp", ".html", ".css")
"""Other files that modules use; files with these suffixes beside a module count as part of it."""


def code_digest(module: str) -> str:
    """Return the sha256 of all code of this project that a module imports.

    Changes of comments and docstrings do not affect it; another version of Python may.

    Examples
    --------
    >>> code_digest("pipeline.io.code") == code_digest("pipeline.io.code")
    True
    """
    digest = hashlib.sha256()
    for path, code in sorted(closure(module).items()):
        digest.update(path.relative_to(ROOT).as_posix().encode())
        if code is not None:
            _update(digest, code)
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def closure(module: str, without: Iterable[str] = ()) -> dict[Path, CodeType | None]:
    """Return the code files that a module imports; Python files are compiled, without docstrings.

    Modules in `without` are left out, with the modules that only they import.
    """
    files: dict[Path, CodeType | None] = {}
    waiting, left_out = [module], {_file_of(name) for name in without}
    while waiting:
        path = _file_of(waiting.pop())
        if path is None or path in files or path in left_out:
            continue
        code = compile(path.read_bytes(), path.name, "exec", dont_inherit=True, optimize=2)
        files[path] = code
        files |= {other: None for other in path.parent.iterdir() if other.suffix in OTHER_SOURCES}
        waiting.extend(_imported(path, code))
    return files


def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


def _imported(path: Path, code: CodeType) -> Iterator[str]:
    """Yield the modules of this project that a file's code imports anywhere, and their parent packages."""
    package = path.relative_to(ROOT).parent.parts
    for level, names, module in _imports(code):
        above = package[: len(package) - level + 1] if level else ()
        base = ".".join([*above, *([module] if module else [])])
        for name in (base, *(f"{base}.{name}" for name in names)):
            parts = name.split(".")
            if parts[0] in OURS:
                yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _imports(code: CodeType) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """Yield the level, the names and the module of each import; this is several times as fast as a syntax tree."""
    if IMPORT in code.co_code[::2]:
        instructions = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
        for level, names, imported in zip(instructions, instructions[1:], instructions[2:], strict=False):
            if imported.opcode == IMPORT:
                yield level.argval, names.argval or (), imported.argval
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _imports(value)


def _update(digest: hashlib._Hash, code: CodeType) -> None:
    """Add the instructions of a code object, without line numbers."""
    shape = (code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
    names = (code.co_name, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    digest.update(repr((shape, names)).encode())
    digest.update(code.co_code)
    for value in code.co_consts:
        if isinstance(value, CodeType):
            _update(digest, value)
        else:
            digest.update(repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value).encode())
