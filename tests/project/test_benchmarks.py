"""``python -m benchmarks accuracy`` reads users' own sets, and says why it skips an unusable file."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import accuracy, features, pages, stale

QUICK = ("nearest class mean", "streaming LDA")


@pytest.fixture
def good():
    rng = np.random.default_rng(0)
    y, y_test = np.repeat(["ant", "bee", "cat"], 20), np.repeat(["ant", "bee", "cat"], 5)
    centres = {name: rng.standard_normal(6) for name in ("ant", "bee", "cat")}
    X, X_test = (
        np.stack([centres[label] + 0.1 * rng.standard_normal(6) for label in labels]) for labels in (y, y_test)
    )
    return {"X": X, "y": y, "X_test": X_test, "y_test": y_test}


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Hide all sets but those of a folder."""

    def missing(*arguments, **options):
        raise FileNotFoundError("images are missing; expected the shared folder. Add it.")

    monkeypatch.setattr(accuracy, "STORED", tmp_path / "none")
    for name in ("digits", "photographs"):
        monkeypatch.setattr(features, name, missing)


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "accuracy", *map(str, words)])
    code = benchmarks.main()
    printed = capsys.readouterr()
    return code, [json.loads(line) for line in printed.out.splitlines()], printed.err.splitlines()


BAD = {
    "other names": (lambda good: {"features": good["X"], "labels": good["y"]}, "it holds features, labels; expected X"),
    "labels missing": (lambda good: {k: v for k, v in good.items() if k != "y_test"}, "Add y_test"),
    "flat rows": (lambda good: good | {"X": good["X"].ravel()}, r"X has shape (360,)"),
    "too few labels": (lambda good: good | {"y": good["y"][:-1]}, "y has shape (59,); expected (60,)"),
    "other features": (lambda good: good | {"X_test": good["X_test"][:, :5]}, "X_test has 5 features; expected the 6"),
    "NaN": (lambda good: good | {"X": np.where(np.eye(60, 6), np.nan, good["X"])}, "X holds NaN"),
    "beyond float32": (lambda good: good | {"X_test": good["X_test"] * 1e300}, "X_test holds NaN, infinity or values"),
    "text for rows": (lambda good: good | {"X": good["X"].astype(str)}, "expected numbers (n, f)"),
    "one class": (lambda good: good | {"y": np.zeros(60, int), "y_test": np.zeros(15, int)}, "y holds one class"),
    "no test rows": (lambda good: good | {"X_test": good["X_test"][:0], "y_test": good["y_test"][:0]}, "at least one"),
    "no rows": (lambda good: good | {"X": good["X"][:0], "y": good["y"][:0]}, "at least one"),
    "an unknown test label": (lambda good: good | {"y_test": np.repeat("dog", 15)}, "'dog', which y does not hold"),
    "labels with fractions": (lambda good: good | {"y": np.linspace(0, 1, 60)}, "y has type float64"),
    "objects": (lambda good: good | {"y": good["y"].astype(object)}, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_line_that_says_why(case, good, alone, tmp_path, monkeypatch, capsys):
    change, reason = BAD[case]
    np.savez(tmp_path / "bad.npz", **change(good))
    np.savez(tmp_path / "good.npz", **good)
    _, lines, said = run(monkeypatch, capsys, "bad", "good", "--data", tmp_path, "--methods", *QUICK)
    (line,) = said
    assert line.startswith("bad is skipped: ")
    assert reason in line
    assert {entry["name"] for entry in lines} >= {f"good: {name}" for name in QUICK}


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive_gives_one_line(content, alone, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.npz").write_bytes(content)
    code, lines, said = run(monkeypatch, capsys, "broken", "--data", tmp_path, "--methods", QUICK[0])
    assert code == 1
    assert not lines
    assert said[0].startswith("broken is skipped: it cannot be read")
    assert len(said) == 2


def test_sets_of_a_folder_come_beside_the_others_which_may_be_missing(good, alone, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "digits.npz", **good)
    np.savez(tmp_path / "my_own_set.npz", **good)
    code, lines, said = run(monkeypatch, capsys, "--data", tmp_path, "--methods", *QUICK)
    assert code == 0
    assert [line.partition(" is skipped: ")[0] for line in said] == ["digits", "photographs", "squeezenet"]
    found = {line["name"]: line for line in lines}
    for name in (f"{tmp_path.name}/digits", "my_own_set"):
        assert found[f"{name}: nearest class mean"]["accuracy"] == 1.0
    assert found["mean of 2 sets: streaming LDA"]["rank"] == 1.5
    assert found["critical difference of mean ranks"]["ours"] == round(accuracy.critical_difference(2, 2), 2)


def test_the_critical_difference_is_that_of_the_published_table():
    """Demšar (2006), table 5: q of 0.05 is 1.960 for two classifiers, 2.728 for five, 3.164 for ten."""
    for n_methods, q in {2: 1.960, 5: 2.728, 10: 3.164}.items():
        expected = q * np.sqrt(n_methods * (n_methods + 1) / (6 * 14))
        assert accuracy.critical_difference(n_methods, 14) == pytest.approx(expected, abs=2e-3)
    assert accuracy.critical_difference(1, 14) is None
    assert accuracy.critical_difference(5, 1) is None


def test_figure_page_and_records_are_written(good, alone, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "one.npz", **good)
    np.savez(tmp_path / "two.npz", **good)
    page, figure, records = (tmp_path / name for name in ("page.md", "figure.png", "records.jsonl"))
    page.write_text("<!-- summary -->\n<!-- end -->\n", encoding="utf-8")
    words = ("one", "two", "--data", tmp_path, "--methods", *QUICK, "--page", page, "--figure", figure)
    assert run(monkeypatch, capsys, *words, "--records", records)[0] == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "| nearest class mean | 1.0000 |" in page.read_text(encoding="utf-8")
    assert "The critical difference of mean ranks is" in page.read_text(encoding="utf-8")
    measured = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert {(line["set"], line["method"]) for line in measured} == {(s, m) for s in ("one", "two") for m in QUICK}
    assert len(run(monkeypatch, capsys, *words, "--records", records, "--recorded")[1]) == 7
    assert len(records.read_text(encoding="utf-8").splitlines()) == len(measured)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nowhere"], "'nowhere' is not among the sets"),
        (["--methods", "guessing"], "'guessing' is not among the methods"),
        (["--data", "empty"], "empty has no .npz file"),
    ],
)
def test_a_wrong_word_is_refused_by_name(words, reason, alone, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, capsys, *words)
    assert reason in capsys.readouterr().err


def test_two_classes_have_probabilities_with_every_method(good):
    """decision_function has one column for two classes; a set of two classes must not cause an error."""
    kept, tested = good["y"] != "cat", good["y_test"] != "cat"
    data = good["X"][kept], good["y"][kept], good["X_test"][tested], good["y_test"][tested]
    made = accuracy.RandomProjectionRidge(20, normalize=True, random_state=0)
    assert accuracy.try_method(made, *data)["calibration"] is not None


def test_every_benchmark_that_is_named_has_its_script():
    folder = Path(accuracy.__file__).parent
    assert {*benchmarks.SCRIPTS, *benchmarks.ALONE} <= {path.stem for path in folder.glob("*.py")}


def test_an_unknown_benchmark_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    assert benchmarks.main() == 2
    assert "'speed' is not a benchmark; expected one of nearest" in capsys.readouterr().err


ROOT = Path(accuracy.__file__).parents[1]


def test_every_measured_table_is_known_and_has_its_stamp():
    found = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in found}
    marked = {
        page: set(re.findall(r"^<!-- (?!end)([\w ]+) -->", text, flags=re.MULTILINE)) for page, text in texts.items()
    }
    assert {page: names for page, names in marked.items() if names} == {p: set(t) for p, t in stale.TABLES.items()}
    assert not [(page, name) for page, name, _, found in stale.stamps() if not found]


def test_tables_older_than_their_code_are_listed_with_what_measures_them_again(monkeypatch, capsys):
    def digest(benchmark):
        return known["accuracy"] if benchmark == "accuracy" else "f" * 12

    known = {benchmark: found["digest"] for _, _, benchmark, found in stale.stamps()}
    monkeypatch.setattr(stale, "digest", digest)
    assert not stale.main()
    lines = capsys.readouterr().out.splitlines()
    others = [line for line in stale.stamps() if line[2] != "accuracy"]
    assert lines[-1] == f"{len(others)} of {len([*stale.stamps()])} tables are older than their code"
    assert len(lines) == len(others) + 1
    assert "`python benchmarks/first_run.py --page README.md`" in lines[0]
    (line,) = (line for line in lines if line.startswith("docs/layers.md"))
    assert line.endswith("`python -m benchmarks layers --page docs/layers.md`")


def test_commands_that_measure_again_are_there():
    for benchmark in {name for tables in stale.TABLES.values() for name in tables.values()} - set(stale.COMMANDS):
        assert benchmark in benchmarks.ALONE


def test_a_table_that_is_filled_now_is_stamped_and_older_figures_keep_their_stamp(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- a b -->\nold\n<!-- end -->\n<!-- c -->\n<!-- end -->\nrest\n", encoding="utf-8")
    monkeypatch.setattr(stale, "ROOT", tmp_path)
    monkeypatch.setattr(stale, "TABLES", {"page.md": {"a b": "deletion", "c": "noise"}})
    pages.fill(page, {"a b": "| new |", "c": "| 1 |"})
    digests = [stale.digest("deletion"), stale.digest("noise")]
    assert [found["digest"] for *_, found in stale.stamps(tmp_path)] == digests
    before = page.read_text(encoding="utf-8")
    monkeypatch.setattr(stale, "digest", lambda benchmark: "0" * 12)
    pages.fill(page, {"a b": "| newer |"}, measured_now=False)
    assert page.read_text(encoding="utf-8") == before.replace("new", "newer")
    pages.fill(page, {"a b": "| newest |"})
    assert [found["digest"] for *_, found in stale.stamps(tmp_path)] == ["0" * 12, digests[1]]
    assert page.read_text(encoding="utf-8").endswith("| 1 |\n<!-- end -->\nrest\n")


def test_a_digest_changes_with_code_and_not_with_comments_docstrings_places_or_messages():
    first = "from there import x\ndef f(a, *, b=None):\n    if b:\n        raise ValueError('wrong')\n"
    first += "    return a['x']\n"
    same = [
        '"""Says more."""\n\n# why\n' + first.replace(":\n    if", ':\n    """Say."""\n    if'),
        first.replace("'wrong'", "f'{a} is wrong; ' 'expected another'"),
        first.replace("there", ".elsewhere"),
    ]
    others = [("b=None", "b=1"), ("['x']", "['y']"), ("ValueError", "TypeError"), ("return a", "raise a")]
    others += [("import x", "import y")]

    def plain(text, is_package=False):
        return stale._plain(stale._ordered(stale.ast.parse(text), is_package))

    assert all(plain(text) == plain(first) for text in same)
    assert all(plain(first.replace(*change)) != plain(first) for change in others)
    assert plain("from b import c\nimport a\n") == plain("import a\nfrom b import c\n")
    package = "from .a import b\n\n__all__ = ['b']\n\nKIND = 1\n"
    assert plain(package, True) == plain("from .b import c, d\n\n__all__ = ['c', 'd']\n\nKIND = 1\n", True)
    assert plain(package, True) != plain(package.replace("1", "2"), True)


def test_figures_measured_with_other_sources_are_known_as_such(tmp_path, monkeypatch):
    path = tmp_path / "records.jsonl"
    first = accuracy.Records(path, "accuracy")
    assert first.get(("digits", "joint", 0), lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    again = accuracy.Records(path, "accuracy", closed=True)
    assert again.get(("digits", "joint", 0), None) == {"accuracy": 0.5}
    assert (first.old, again.old, accuracy.Records(None, "accuracy").old) == (False, False, False)
    monkeypatch.setattr(stale, "digest", lambda benchmark: "0" * 12)
    assert accuracy.Records(path, "accuracy").old
    path.write_text('{"set": "digits", "method": "joint", "seed": 0, "accuracy": 0.5}\n', encoding="utf-8")
    assert accuracy.Records(path, "accuracy").old  # of a time before records named their sources
