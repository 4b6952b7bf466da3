import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from dkvb_estimator import metrics

# Three tasks; the results below are computed by hand.
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
    with pytest.raises(ValueError, match=r"shape \(1, 2\); expected \(t, t\)\. Pass one row"):
        function([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"runs from 50.0 to 90.0; expected fractions .* Divide percentages by 100"):
        function([[50.0, 90.0], [50.0, 90.0]])
    with pytest.raises(ValueError, match="fractions"):
        function([[np.nan]])


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: metrics.forgetting(R, "worst"), "variant='worst' is not valid; expected 'best' or 'first'"),
        (lambda: metrics.average_incremental_accuracy([]), "expected one axis of one or more numbers"),
        (lambda: metrics.average_incremental_accuracy([1.2]), "fractions from 0 to 1"),
        (lambda: metrics.forward_transfer(R, [0.1]), "expected one axis of 3 numbers"),
        (lambda: metrics.intransigence(R, [0.1] * 4), "expected one axis of 3 numbers"),
        (lambda: metrics.anytime_accuracy([0, 0], [0.1, 0.2]), "expected increasing numbers"),
        (lambda: metrics.anytime_accuracy([0, 1], [0.1]), "expected one axis of 2 numbers"),
        (lambda: metrics.mean_class_accuracy([0], [0, 1]), r"expected \(n,\) for both"),
        (lambda: metrics.mean_class_accuracy([], []), r"expected \(n,\) for both"),
        (lambda: metrics.class_order_spread([]), "one or more"),
    ],
)
def test_other_arguments_that_make_no_sense_are_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()


# Labels, probabilities and scores.

SURE = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
TRUE = np.array([0, 1, 1, 1])


def test_confidence_of_four_samples_by_hand():
    # Two bins: no sample below one half; four samples of mean confidence .75, three of them correct.
    confidence, accuracy, counts = metrics.reliability_curve(SURE, TRUE, n_bins=2)
    assert counts.tolist() == [0, 4]
    assert confidence[1] == pytest.approx(0.75)
    assert accuracy[1] == 0.75
    assert metrics.expected_calibration_error(SURE, TRUE, n_bins=2) == pytest.approx(0.0)
    # Four bins: .6 and .7 in one, half of them correct; .8 and .9 in the next, all correct.
    assert metrics.expected_calibration_error(SURE, TRUE, n_bins=4) == pytest.approx((0.15 * 2 + 0.15 * 2) / 4)
    assert metrics.brier_score(SURE, TRUE) == pytest.approx(2 * (0.01 + 0.36 + 0.09 + 0.04) / 4)
    assert metrics.negative_log_likelihood(SURE, TRUE) == pytest.approx(-np.log([0.9, 0.4, 0.7, 0.8]).mean())


def test_confidence_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(4), size=300)
    truth = rng.integers(4, size=300)
    assert metrics.negative_log_likelihood(shares, truth) == pytest.approx(log_loss(truth, shares))
    binary = np.stack([1 - shares[:, 0], shares[:, 0]], axis=1)
    assert metrics.brier_score(binary, truth == 0) == pytest.approx(2 * brier_score_loss(truth == 0, shares[:, 0]))
    scores = rng.integers(9, size=300)
    found = metrics.rejection_auroc(scores[truth > 0], scores[truth == 0])
    assert found == pytest.approx(roc_auc_score(truth == 0, scores))


def test_certainty_that_is_wrong_has_a_finite_loss():
    assert metrics.negative_log_likelihood([[1.0, 0.0]], [1]) == pytest.approx(-np.log(np.finfo(float).tiny))
    assert metrics.brier_score([[1.0, 0.0]], [-1]) == 1.0


def test_rejection_of_five_samples_by_hand():
    known, unknown = [1.0, 2.0, 3.0], [2.0, 9.0]
    # In four of six pairs the unknown sample has the higher score, and in one the scores are equal.
    assert metrics.rejection_auroc(known, unknown) == pytest.approx(4.5 / 6)
    assert metrics.fpr_at_95_tpr(known, unknown) == 0.5
    assert metrics.fpr_at_95_tpr(range(100), [94.0, 94.5]) == 0.5


def test_unlearning_by_hand():
    assert metrics.forget_accuracy([1, 1, 1, 1], [1, 0, 0, 0]) == 0.25
    assert metrics.retain_accuracy([0, 2], [0, 2]) == 1.0
    assert metrics.retrain_gap([0, 2, 1], [0, 2, 2]) == pytest.approx(1 / 3)


def test_prequential_accuracy_counts_every_sample_once():
    assert metrics.prequential_accuracy([5, 5, 6], [-1, 5, 6]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: metrics.prequential_accuracy([], []), r"expected \(n,\) for both"),
        (lambda: metrics.retrain_gap([1], [1, 2]), r"expected \(n,\) for both"),
        (lambda: metrics.reliability_curve([[0.5, 0.5]], [0, 1]), "one row and one label per sample"),
        (lambda: metrics.reliability_curve([[0.5, 0.5]], [2]), "expected column positions, or -1"),
        (lambda: metrics.reliability_curve([[1.5, -0.5]], [0]), "fractions from 0 to 1"),
        (
            lambda: metrics.reliability_curve([[0.5, 0.5]], [0], n_bins=0),
            "n_bins=0 is not valid; expected a whole number ≥ 1",
        ),
        (lambda: metrics.rejection_auroc([], [1.0]), "known has shape .* Pass one score per sample"),
        (lambda: metrics.fpr_at_95_tpr([1.0], [np.nan]), "unknown has shape .* 1 NaN"),
    ],
)
def test_labels_probabilities_and_scores_that_make_no_sense_are_refused(call, problem):
    with pytest.raises(ValueError, match=problem):
        call()


# Results of Avalanche's own metric classes for a stream, computed once; see tests/data/avalanche_metrics.py.
AVALANCHE = json.loads((Path(__file__).parents[1] / "data/avalanche_metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", AVALANCHE["cases"], ids=lambda case: case["name"])
def test_numbers_are_avalanches(case):
    matrix = case["accuracy_matrix"]
    assert metrics.forgetting(matrix, "first") == pytest.approx(case["stream_forgetting"], abs=1e-6)
    assert metrics.backward_transfer(matrix) == pytest.approx(case["stream_backward_transfer"], abs=1e-6)
    reference = case["accuracy_before_learning"]
    assert metrics.forward_transfer(matrix, reference) == pytest.approx(case["stream_forward_transfer"], abs=1e-6)
    assert metrics.final_accuracy(matrix) == pytest.approx(case["final_accuracy"], abs=1e-6)


@given(st.integers(1, 6), st.data())
def test_real_forgetting_and_growth_add_up_to_the_loss_since_each_task(n, data):
    share = st.floats(0, 1, width=32)
    matrix = np.array(data.draw(st.lists(share, min_size=n * n, max_size=n * n))).reshape(n, n)
    restricted = data.draw(st.lists(share, min_size=n, max_size=n))
    split = metrics.forgetting_split(matrix, restricted)
    np.testing.assert_allclose(sum(split.values()), metrics.forgetting(matrix, "first"), atol=1e-7)


def test_forgetting_that_competition_alone_explains_is_no_real_forgetting():
    split = metrics.forgetting_split([[0.9, 0.0], [0.6, 0.8]], [0.9, 0.8])
    assert split["real_forgetting"] == 0
    assert split["label_growth"] == pytest.approx(0.3)


def test_a_split_needs_one_restricted_accuracy_per_task():
    with pytest.raises(ValueError, match="restricted"):
        metrics.forgetting_split([[1.0, 0.0], [1.0, 1.0]], [1.0])
