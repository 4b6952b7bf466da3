"""The README's code runs, its commands are those of CI, its numbers are those of the pages they come from."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def blocks(language):
    found = re.findall(r"^```(.*?)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def test_every_code_block_is_python_or_commands():
    assert len(blocks("python")) + len(blocks("")) == TEXT.count("\n```") / 2


def test_the_ten_lines_run_when_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _ = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) > 0.9
    assert 3 not in names["model"].classes_
    assert (tmp_path / "digits.npz").exists()


def test_five_lines_lead_from_a_file_to_a_classifier(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    X, y = load_digits(return_X_y=True)
    np.save("embeddings.npy", X[:600])
    np.save("labels.npy", y[:600])
    _, code = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    exec(compile(code, "README.md", "exec"), {})
    assert float(capsys.readouterr().out) > 0.9


def test_ci_runs_every_command():
    commands = [line.partition("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    parts = [part for line in commands for part in line.split(" && ")]
    assert len(parts) == 9
    for part in parts:
        assert part.removeprefix("pip install ") in CI, part


def test_numbers_of_solvers_are_those_of_their_page():
    page = (ROOT / "docs" / "solvers.md").read_text(encoding="utf-8")
    here, there = (text.partition("<!-- summary -->")[2].partition("<!-- end -->")[0] for text in (TEXT, page))
    assert here == there
    assert len(here.strip().splitlines()) > 10


def test_the_setup_times_name_their_machine():
    table = TEXT.partition("<!-- first run -->")[2].partition("<!-- end -->")[0]
    assert re.search(r"\d+ cores", table)
    assert re.findall(r"\| `dvc repro` \| (\d+) \|", table)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
