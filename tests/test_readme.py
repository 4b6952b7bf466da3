"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_python_block_runs_when_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert float(capsys.readouterr().out) > 0.9
    assert 3 not in names["model"].classes_


def test_ci_runs_the_two_commands():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pairs = [block.strip().split(" && ") for block in blocks("") if "&&" in block]
    assert len(pairs) == 2
    for install, main in pairs:
        assert install.removeprefix("pip install ") in script
        assert f"\n{main}" in script


def test_every_link_to_a_file_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
