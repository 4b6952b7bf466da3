"""The code of the user guide runs, page by page, and its sessions print the output that they show."""

import ast
import doctest
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = sorted(path.name for path in GUIDE.glob("*.md"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, code in re.findall(
        r"^```(python|pycon)\n(.*?)^```", (GUIDE / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    ):
        if language == "python":
            exec(compile(code, page, "exec"), names)
        else:
            session = doctest.DocTestParser().get_doctest(code, names, page, page, 0)
            results = doctest.DocTestRunner(optionflags=FLAGS).run(session, clear_globs=False)
            names |= session.globs
            assert results.attempted
            assert not results.failed


def test_the_code_of_most_pages_is_there_to_be_run():
    assert sum("```py" in (GUIDE / page).read_text(encoding="utf-8") for page in PAGES) >= 8


def test_messages_that_the_page_of_errors_quotes_are_those_of_the_pipeline():
    page = (GUIDE / "errors.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (GUIDE.parents[1] / "pipeline").rglob("*.py"))
    quoted = re.findall(r"^\| `([^`]+)`", page, flags=re.MULTILINE)
    assert len(quoted) >= 4
    for message in quoted:
        assert all(part.strip(" '") in source for part in message.split("…")), message


def test_every_guarantee_names_a_test_that_exists():
    page = (GUIDE / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 12
    for row in rows:
        ((path, name),) = re.findall(r"\| `(tests/[\w/]+\.py)::(\w+)` \|$", row)
        tree = ast.parse((GUIDE.parents[1] / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row


def test_no_page_names_what_was_renamed():
    gone = r"init_keys|key_data|fit_codes|forget_codes|mask_keys|\.novelty\(|\.encode\(|\.audit\("
    pages = [*GUIDE.glob("*.md"), *GUIDE.parent.glob("*.md"), GUIDE.parents[1] / "README.md"]
    found = {path.name for path in pages if re.search(gone, path.read_text(encoding="utf-8"))}
    assert found == set()
