"""What a module imports is found in its code, and the digest of code ignores comments and docstrings."""

import ast
from pathlib import Path

import pytest

from pipeline.io import code

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for name in code.OURS for path in (ROOT / name).rglob("*.py"))


def imports_of_the_syntax_tree(path):
    """Return level, names and module of each import that a file's syntax tree contains."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((0, (), alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, tuple(alias.name for alias in node.names), node.module or ""


def test_imports_are_those_of_the_syntax_tree():
    assert len(FILES) > 100
    for path in FILES:
        compiled = compile(path.read_bytes(), path.name, "exec", dont_inherit=True, optimize=2)
        assert sorted(code._imports(compiled)) == sorted(imports_of_the_syntax_tree(path)), path


def test_an_import_behind_hundreds_of_names_is_found():
    names = "\n".join(f"name_{i} = 'text {i}'" for i in range(300))
    compiled = compile(f"{names}\nfrom ..far import thing\ndef f():\n    import pipeline.io.code as c\n", "f", "exec")
    assert list(code._imports(compiled)) == [(2, ("thing",), "far"), (0, (), "pipeline.io.code")]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a function that writes the files of a project, and returns the digest of its module ``pipeline.a``."""
    monkeypatch.setattr(code, "ROOT", tmp_path)
    (tmp_path / "pipeline").mkdir()

    def digest(**files):
        for name, text in files.items():
            (tmp_path / "pipeline" / f"{name}.py").write_text(text, encoding="utf-8")
        return code.code_digest("pipeline.a")

    return digest


def test_comments_and_docstrings_do_not_count_and_code_anywhere_does(project):
    first = project(__init__="", a='"""Say."""\nfrom pipeline import b\n', b="import os\n", c="")
    assert project(a='"""Say\nmore."""\n\nfrom pipeline import b  # why\n', b="# what\nimport os\n") == first
    assert project(c="changed = 1\n") == first  # is not imported
    assert project(b="import os\nchanged = 1\n") != first
    assert project(b="import os\n") == first
    assert project(a="def f():\n    from . import b, c\n") != first


def test_modules_left_out_take_along_what_only_they_import(project):
    project(__init__="", a="from pipeline import b, c\n", b="import pipeline.d\n", c="", d="")
    found = code.closure("pipeline.a", without=["pipeline.b"])
    assert sorted(path.stem for path in found) == ["__init__", "a", "c"]
