"""``verbose`` shows the progress of long computations on stderr, and changes nothing else."""

import sys
import threading

import dask.array as da
import numpy as np
import pytest
from models import flat, placed

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._progress import Progress

SOLVERS = ["joint", "counts", "ridge", "sgd"]


def small(**settings):
    return flat(**({"n_heads": 4, "n_keys": 8, "key_dim": 3, "random_state": 0} | settings))


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)


def screen(text):
    """Return what a terminal shows after some text: a carriage return goes back to the start of the line."""
    lines = [[]]
    column = 0
    for sign in text:
        if sign == "\n":
            lines.append([])
            column = 0
        elif sign == "\r":
            column = 0
        else:
            lines[-1][column : column + 1] = [sign]
            column += 1
    return "\n".join("".join(line).rstrip() for line in lines)


def tasks(lines):
    """Return the finished tasks that lines report, without their times."""
    return [line.rpartition(" in ")[0] for line in lines.splitlines()]


@pytest.mark.parametrize("solver", SOLVERS)
def test_bars_leave_nothing_on_screen_and_change_nothing(blobs, capsys, solver):
    X, y = blobs
    quiet = small(solver=solver).fit(X, y)
    expected = quiet.values_, quiet.predict_proba(X)
    assert capsys.readouterr() == ("", "")
    model = DKVBClassifier(small().encoder, solver=solver, verbose=1).fit(X, y)
    np.testing.assert_array_equal(model.values_, expected[0])
    np.testing.assert_array_equal(model.predict_proba(X), expected[1])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert screen(printed.err) == ""
    shown = ["reading", "placing keys", "encoding"]
    shown += {"counts": [], "sgd": ["learning, 10 epochs"]}.get(solver, ["choosing", "solving"])
    at = [printed.err.find(f"[DKVBClassifier] {task}: ") for task in shown]
    assert -1 not in at
    assert at == sorted(at)


@pytest.mark.usefixtures("without_tqdm")
@pytest.mark.parametrize("solver", SOLVERS)
def test_without_tqdm_each_task_ends_in_one_line(blobs, capsys, solver):
    X, y = blobs
    model = small(solver=solver, verbose=1).fit(X, y)
    assert model.values_.shape == (4, 8, 5)
    who = "[DKVBClassifier] "
    expected = [f"{who}reading: 240 rows", f"{who}placing keys: 4 heads", f"{who}encoding: 240 rows"]
    if solver == "sgd":
        expected.append(f"{who}learning, 10 epochs: 2,400 rows")
    found = tasks(capsys.readouterr().err)
    assert found[: len(expected)] == expected
    rest = [line.partition(":")[0] for line in found[len(expected) :]]
    assert rest == ([f"{who}summing", f"{who}choosing", f"{who}solving"] if solver in ("joint", "ridge") else [])


@pytest.mark.usefixtures("without_tqdm")
def test_an_encoder_tells_its_own_progress(blobs, capsys):
    X, y = blobs
    encoder = KeyEncoder(4, 8, 3, random_state=0, verbose=1).fit(X)
    encoder.transform(X)
    lines = tasks(capsys.readouterr().err)
    assert lines == [
        f"[KeyEncoder] {line}" for line in ("reading: 240 rows", "placing keys: 4 heads", "encoding: 240 rows")
    ]
    DKVBClassifier(encoder, solver="counts").fit(X, y)
    assert tasks(capsys.readouterr().err) == lines


@pytest.mark.usefixtures("without_tqdm")
def test_rows_in_blocks_are_one_task(blobs, capsys):
    X, y = blobs
    model = placed(small(solver="sgd", verbose=1), X)
    capsys.readouterr()
    model.fit(da.from_array(X, chunks=(60, 12)), y)
    assert tasks(capsys.readouterr().err) == ["[DKVBClassifier] learning: 240 rows"]


def test_workers_print_nothing(blobs, capsys):
    X, y = blobs
    model = placed(small(verbose=1, solver="counts"), X).fit(X, y)
    capsys.readouterr()
    lazy = da.from_array(X, chunks=(60, 12))
    model.encoder_.transform(lazy).compute()
    model.predict(lazy).compute()
    assert capsys.readouterr() == ("", "")


def test_a_failing_task_clears_its_bar(capsys):
    with pytest.raises(ValueError, match="stop"), Progress("Model", 1).bar("working", 3, "rows"):
        raise ValueError("stop")
    assert screen(capsys.readouterr().err) == ""
    with Progress("Model", 1).bar("working", 3, "rows"):
        pass
    assert "working" in capsys.readouterr().err


@pytest.mark.usefixtures("without_tqdm")
def test_a_failing_task_prints_no_line(capsys):
    with pytest.raises(ValueError, match="stop"), Progress("Model", 1).bar("working", 3, "rows"):
        raise ValueError("stop")
    assert capsys.readouterr() == ("", "")


def test_a_bar_starts_no_thread():
    before = threading.active_count()
    with Progress("Model", 1).bar("working", 3, "rows") as advance:
        advance(3)
        assert threading.active_count() == before


@pytest.mark.parametrize("verbose", [0, 1])
def test_blocks_of_dask_draw_no_bars_of_their_own(verbose, capsys):
    X, y = np.random.default_rng(0).standard_normal((400, 5)), np.arange(400) % 3
    lazy = da.from_array(X, chunks=(100, 5))
    model = DKVBClassifier(KeyEncoder(4, 8, 2, verbose=verbose, random_state=0), solver="counts").fit(lazy, y)
    capsys.readouterr()
    model.partial_fit(lazy, y)
    assert "encoding" not in capsys.readouterr().err
