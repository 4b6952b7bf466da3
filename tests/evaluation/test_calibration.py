import numpy as np
import pytest

from pipeline.evaluation.calibration import ROC_STEPS, describe_calibration, tell_unseen


def test_bins_without_samples_are_left_out():
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.55, 0.45]])
    found = describe_calibration(probabilities, np.array([0, 0, 0, 1]))
    assert found["bins"] == [[0.55, 0.5, 2], [0.95, 1.0, 2]]
    assert found["expected_calibration_error"] == pytest.approx(0.05)


def test_a_sample_of_no_known_class_is_never_right():
    found = describe_calibration(np.array([[1.0, 0.0]]), np.array([-1]))
    assert found["expected_calibration_error"] == 1.0


def test_a_score_that_tells_all_apart_notices_all_at_once():
    found = tell_unseen([(np.arange(20.0), np.arange(30.0, 50))])
    assert (found["auroc"], found["fpr_at_95_tpr"], found["noticed"]) == (1.0, 0.0, [1.0] * (ROC_STEPS + 1))


def test_a_score_that_means_nothing_is_chance():
    rng = np.random.default_rng(0)
    found = tell_unseen([(rng.random(4000), rng.random(4000)) for _ in range(2)])
    assert found["auroc"] == pytest.approx(0.5, abs=0.02)
    assert found["fpr_at_95_tpr"] == pytest.approx(0.95, abs=0.02)
    np.testing.assert_allclose(found["noticed"], np.linspace(0, 1, ROC_STEPS + 1), atol=0.03)


def test_orders_are_averaged():
    good, bad = (np.arange(20.0), np.full(5, 30.0)), (np.arange(20.0), np.full(5, -1.0))
    assert tell_unseen([good, bad])["auroc"] == 0.5
