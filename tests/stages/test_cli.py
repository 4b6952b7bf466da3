"""The command line of every stage: exit codes, one sentence for a user's mistake, a traceback for a bug."""

import argparse
import json

import pytest

from pipeline import cli


def parser():
    made = argparse.ArgumentParser(prog="stage")
    made.add_argument("name")
    return made


def fail(error):
    def main(_):
        raise error

    return main


def test_a_stage_that_ends_well_returns_0_and_says_nothing(capsys):
    seen = []
    assert cli.run(seen.append, parser(), ["digits"]) == 0
    assert seen[0].name == "digits"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "kind", [ValueError, OSError, FileNotFoundError, KeyError, TypeError, RuntimeError, ImportError]
)
def test_a_users_mistake_is_one_sentence_and_exit_code_1(capsys, kind):
    assert cli.run(fail(kind("it has 3;\n  expected 4.   Do it.")), parser(), ["digits"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: it has 3; expected 4. Do it.\n"


def test_an_error_without_text_is_named_by_its_kind(capsys):
    assert cli.run(fail(ValueError()), parser(), ["digits"]) == 1
    assert capsys.readouterr().err == "error: ValueError\n"


@pytest.mark.parametrize("kind", [ValueError, OSError, KeyError])
def test_debug_lets_the_error_through(kind):
    with pytest.raises(kind, match="inside"):
        cli.run(fail(kind("inside")), parser(), ["digits", "--debug"])


@pytest.mark.parametrize("kind", [AttributeError, IndexError, ZeroDivisionError])
def test_a_defect_of_ours_keeps_its_traceback(kind):
    with pytest.raises(kind):
        cli.run(fail(kind("ours")), parser(), ["digits"])


def test_wrong_arguments_exit_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(fail(ValueError()), parser(), [])
    assert caught.value.code == 2
    assert "usage: stage" in capsys.readouterr().err


def test_progress_is_one_line_on_stderr(capsys):
    cli.say("extract digits", "1,797 images")
    assert capsys.readouterr() == ("", "[extract digits] 1,797 images\n")


def test_json_is_written_with_its_folder_and_refuses_what_json_cannot_say(tmp_path):
    path = tmp_path / "new" / "record.json"
    cli.write_json(path, {"b": 1, "a": [0.5]})
    assert path.read_bytes().endswith(b"\n")
    assert list(json.loads(path.read_text())) == ["b", "a"]
    with pytest.raises(ValueError, match="Out of range"):
        cli.write_json(path, {"a": float("nan")})


def test_an_interruption_is_one_line_and_the_exit_code_of_shells(capsys):
    assert cli.run(fail(KeyboardInterrupt()), parser(), ["digits"]) == 130
    assert capsys.readouterr().err == "interrupted; finished work is kept. Run the same command again to resume.\n"
    with pytest.raises(KeyboardInterrupt):
        cli.run(fail(KeyboardInterrupt()), parser(), ["digits", "--debug"])


def test_a_path_that_is_not_there_says_what_to_do(capsys):
    assert cli.run(fail(FileNotFoundError(2, "No such file", "ids.txt")), parser(), ["digits"]) == 1
    assert "'ids.txt'; expected a path that exists. Correct it." in capsys.readouterr().err
