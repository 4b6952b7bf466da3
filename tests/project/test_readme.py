"""The README's code runs, its commands match CI, and its numbers match their source pages."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import accuracy

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def blocks(language):
    found = re.findall(r"^```(.*?)\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def test_every_code_block_is_python_or_commands():
    assert len(blocks("python")) + len(blocks("")) == TEXT.count("\n```") / 2


def test_the_page_is_short():
    assert len(TEXT.splitlines()) < 120


def test_the_ten_lines_run_when_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) > 0.9
    assert 3 not in names["model"].classes_
    assert names["model"].forgetting_is_exact_
    assert (tmp_path / "digits.npz").exists()


def test_ci_runs_both_commands():
    commands = [block.strip() for block in blocks("") if "pip install" in block]
    assert commands == ['pip install -e ".[pipeline]" && dvc repro', 'pip install -e ".[dev]" && pytest']
    for command in commands:
        for part in command.split(" && "):
            assert part.removeprefix("pip install ") in CI, part


def own_data():
    """Return the lines for the user's own data, split into words."""
    (block,) = (block for block in blocks("") if "pip install" not in block)
    return [shlex.split(line) for line in block.splitlines()]


def test_lines_for_own_data_name_options_that_the_commands_have():
    images, embeddings, judged = own_data()
    for line, options in ((images, {"--images"}), (embeddings, {"--embeddings", "--labels"})):
        assert line[:5] == ["python", "-m", "pipeline", "new", "../mine"]
        assert {word for word in line if word.startswith("--")} == options
        done = subprocess.run([sys.executable, *line[1:4], "--help"], cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:  # the command exists
            assert all(option in done.stdout for option in options)
    assert judged == ["python", "-m", "benchmarks", "accuracy", "--data", "FOLDER"]


def test_the_comparison_on_own_data_takes_a_folder(monkeypatch, tmp_path):
    *_, line = own_data()
    np.savez(tmp_path / "mine.npz", X=np.eye(4), y=np.arange(4), X_test=np.eye(4), y_test=np.arange(4))
    monkeypatch.setattr(sys, "argv", ["accuracy", line[-2], str(tmp_path)])
    asked, there = accuracy.arguments()
    assert asked.data == tmp_path
    assert "mine" in there


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
