import numpy as np
import pytest

from dkvb_estimator import metrics

# Three tasks; worked out by hand below.
R = np.array([[0.9, 0.1, 0.0], [0.95, 0.8, 0.2], [0.5, 0.7, 1.0]])


def test_hand_computed_case():
    assert metrics.final_accuracy(R) == pytest.approx((0.5 + 0.7 + 1.0) / 3)
    assert metrics.learning_accuracy(R) == pytest.approx((0.9 + 0.8 + 1.0) / 3)
    assert metrics.backward_transfer(R) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert metrics.forgetting(R, "first") == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert metrics.forgetting(R, "best") == pytest.approx(((0.95 - 0.5) + (0.8 - 0.7)) / 2)
    assert metrics.forward_transfer(R, [0.3, 0.05, 0.1]) == pytest.approx(((0.1 - 0.05) + (0.2 - 0.1)) / 2)
    assert metrics.intransigence(R, [0.95, 0.9, 1.0]) == pytest.approx((0.05 + 0.1 + 0.0) / 3)
    assert metrics.min_accuracy(R) == pytest.approx((0.5 + 0.7) / 2)
    assert metrics.worst_case_accuracy(R) == pytest.approx(1.0 / 3 + 2 / 3 * 0.6)


def test_min_accuracy_looks_only_at_stages_after_the_tasks_own():
    assert metrics.min_accuracy([[0.1, 0.0, 0.0], [0.6, 0.2, 0.0], [0.7, 0.9, 1.0]]) == pytest.approx((0.6 + 0.9) / 2)


def test_curves():
    assert metrics.average_incremental_accuracy([1.0, 0.8, 0.6]) == pytest.approx(0.8)
    # Trapezoids: 10 samples at mean 0.25, 30 at mean 0.75, over 40.
    assert metrics.anytime_accuracy([0, 10, 40], [0.0, 0.5, 1.0]) == pytest.approx((2.5 + 22.5) / 40)
    assert metrics.anytime_accuracy([7], [0.5]) == 0.5


def test_classes_count_the_same_however_many_samples_they_have():
    assert metrics.mean_class_accuracy([0] * 9 + [1], [0] * 10) == 0.5
    assert metrics.mean_class_accuracy(["a", "b", "b", "c"], ["a", "b", "c", "c"]) == pytest.approx(2.5 / 3)


def test_spread_over_orders():
    spread = metrics.class_order_spread([0.5, 0.7, 0.9])
    assert spread == pytest.approx({"mean": 0.7, "std": np.sqrt(0.08 / 3), "worst": 0.5})


def test_one_task_has_nothing_to_forget():
    assert metrics.forgetting([[0.4]], "best") == metrics.forgetting([[0.4]], "first") == 0.0
    assert metrics.backward_transfer([[0.4]]) == metrics.forward_transfer([[0.4]], [0.1]) == 0.0
    assert metrics.min_accuracy([[0.4]]) == 1.0
    assert metrics.worst_case_accuracy([[0.4]]) == pytest.approx(0.4)


def test_first_variant_of_forgetting_is_minus_backward_transfer():
    matrix = np.random.default_rng(0).random((5, 5))
    assert metrics.forgetting(matrix, "first") == pytest.approx(-metrics.backward_transfer(matrix))
    assert metrics.forgetting(matrix, "best") >= metrics.forgetting(matrix, "first")


@pytest.mark.parametrize(
    "name",
    ["final_accuracy", "learning_accuracy", "backward_transfer", "min_accuracy", "worst_case_accuracy"],
)
def test_matrix_functions_refuse_what_is_no_accuracy_matrix(name):
    function = getattr(metrics, name)
    with pytest.raises(ValueError, match=r"shape \(1, 2\); \(tasks, tasks\) is expected: pass one row"):
        function([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"runs from 50.0 to 90.0; fractions .* divide percentages by 100"):
        function([[50.0, 90.0], [50.0, 90.0]])
    with pytest.raises(ValueError, match="fractions"):
        function([[np.nan]])


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: metrics.forgetting(R, "worst"), "variant is 'worst'; 'best' or 'first' is expected"),
        (lambda: metrics.average_incremental_accuracy([]), "a list of one or more numbers"),
        (lambda: metrics.average_incremental_accuracy([1.2]), "fractions from 0 to 1"),
        (lambda: metrics.forward_transfer(R, [0.1]), "a list of 3 numbers"),
        (lambda: metrics.intransigence(R, [0.1] * 4), "a list of 3 numbers"),
        (lambda: metrics.anytime_accuracy([0, 0], [0.1, 0.2]), "an increasing list is expected"),
        (lambda: metrics.anytime_accuracy([0, 1], [0.1]), "a list of 2 numbers"),
        (lambda: metrics.mean_class_accuracy([0], [0, 1]), "pass two lists of one length"),
        (lambda: metrics.mean_class_accuracy([], []), "pass two lists of one length"),
        (lambda: metrics.class_order_spread([]), "one or more"),
    ],
)
def test_other_arguments_that_make_no_sense_are_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()
