"""Displays: what they draw, on which axes, and what they refuse."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.plotting import AccuracyMatrixDisplay, KeyUsageDisplay, StreamDisplay

MATRIX = [[1.0, 0.2, 0.0], [0.9, 0.95, 0.0], [0.8, 0.9, np.nan]]


def texts(display):
    return [[text.get_text() for text in row] for row in display.text_]


@pytest.fixture
def ax():
    return Figure().subplots()


def test_accuracy_matrix_has_its_numbers_and_no_colour_for_tasks_to_come(ax):
    display = AccuracyMatrixDisplay(MATRIX, task_names=["a", "b", "c"]).plot(ax)
    assert texts(display) == [["100", "20", "0"], ["90", "95", "0"], ["80", "90", ""]]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b", "c"]
    coloured = ~np.ma.getmaskarray(ax.collections[0].get_array()).reshape(3, 3)
    assert coloured.tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_a_task_that_comes_again_is_never_still_to_come(ax):
    AccuracyMatrixDisplay([[0.9, 0.3], [0.4, 0.5]], task_names=["0, 1", "0, 1"]).plot(ax)
    assert not np.ma.getmaskarray(ax.collections[0].get_array()).any()


def test_accuracy_matrix_from_predictions_is_that_of_its_tasks(ax):
    y = [0, 0, 1, 1]
    after = [[0, 1, 0, 0], [0, 0, 1, 0]]
    display = AccuracyMatrixDisplay.from_predictions(y, after, task_classes=[[0], [1]], ax=ax)
    assert display.accuracy_matrix.tolist() == [[0.5, 0.0], [1.0, 0.5]]
    assert (display.ax_, display.figure_) == (ax, ax.figure)


def test_numbers_read_on_their_cells(ax):
    display = AccuracyMatrixDisplay([[1.0, 0.0], [0.02, 0.9]]).plot(ax, cmap="Blues")
    colours = [[text.get_color() for text in row] for row in display.text_]
    assert colours == [["#ffffff", "#59636f"], ["#000000", "#ffffff"]]


def test_large_matrices_have_no_numbers_and_may_be_drawn_without_any(ax):
    assert AccuracyMatrixDisplay(np.eye(21)).plot(ax).text_ is None
    assert AccuracyMatrixDisplay(np.eye(2)).plot(ax, include_values=False).text_ is None


def test_key_usage_of_an_estimator_is_its_overlap(ax):
    X, y = np.random.default_rng(0).normal(size=(60, 8)), np.repeat(["a", "b", "c"], 20)
    model = DKVBClassifier(KeyEncoder(8, 4, 2, random_state=0)).fit(X, y)
    display = KeyUsageDisplay.from_estimator(model, ax=ax)
    np.testing.assert_array_equal(display.overlap, model.key_usage().overlap)
    assert display.classes == ["a", "b", "c"]
    assert np.ma.getmaskarray(ax.collections[0].get_array()).reshape(3, 3).tolist() == np.eye(3, dtype=bool).tolist()


def test_stream_folds_orders_into_a_line_and_a_band(ax):
    display = StreamDisplay([2, 4], {"a": [[1.0, 0.4], [0.8, 0.6]], "b": [np.nan, 0.9], "c": [np.nan, np.nan]})
    display.plot(ax, styles={"b": {"marker": "s"}})
    assert display.lines_["a"].get_ydata() == pytest.approx([0.9, 0.5])
    assert display.lines_["b"].get_xdata().tolist() == [4]
    assert display.lines_["b"].get_marker() == "s"
    assert len(ax.collections) == 1  # one band: b and c have one order
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b", "a", "c"]


def test_prequential_accuracy_counts_what_was_right_so_far(ax):
    display = StreamDisplay.from_predictions([0, 1, 1], {"a": [0, 0, 1]}, every=2, ax=ax, legend=False)
    assert display.x.tolist() == [2, 3]
    assert display.accuracies["a"][0] == pytest.approx([0.5, 2 / 3])
    assert ax.get_legend() is None


def test_without_axes_a_new_figure_is_made(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "switch_backend", plt.switch_backend)
    with plt.rc_context({"backend": "agg"}):
        for display in (AccuracyMatrixDisplay(MATRIX), KeyUsageDisplay(np.eye(2)), StreamDisplay([1], {"a": [0.5]})):
            assert display.plot().figure_ is plt.gcf()
        plt.close("all")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AccuracyMatrixDisplay([[1.0, 0.5]]), r"accuracy_matrix has shape \(1, 2\); expected a square matrix"),
        (lambda: AccuracyMatrixDisplay(MATRIX, task_names=["a"]), "task_names holds 1 names; expected 3"),
        (lambda: KeyUsageDisplay([]), r"overlap has shape \(0,\); expected a square matrix"),
        (lambda: KeyUsageDisplay(np.eye(2), classes=["a"]), "classes holds 1 names; expected 2"),
        (lambda: StreamDisplay([1, 2], {"a": [0.5]}), r"accuracies\['a'\] has shape \(1, 1\); expected \(r, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_matplotlib_is_imported_by_drawing_alone(elsewhere):
    assert "matplotlib" not in elsewhere("print(*imported)").split()
