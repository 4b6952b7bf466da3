"""Metrics of continual learning, calibration, novelty and unlearning, as pure functions of arrays."""

from .calibration import brier_score, expected_calibration_error, negative_log_likelihood, reliability_curve
from .continual import (
    anytime_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    class_order_spread,
    final_accuracy,
    forgetting,
    forgetting_split,
    forward_transfer,
    intransigence,
    learning_accuracy,
    mean_class_accuracy,
    min_accuracy,
    prequential_accuracy,
    worst_case_accuracy,
)
from .novelty import fpr_at_95_tpr, rejection_auroc
from .unlearning import forget_accuracy, retain_accuracy, retrain_gap

__all__ = [
    "anytime_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "brier_score",
    "class_order_spread",
    "expected_calibration_error",
    "final_accuracy",
    "forget_accuracy",
    "forgetting",
    "forgetting_split",
    "forward_transfer",
    "fpr_at_95_tpr",
    "intransigence",
    "learning_accuracy",
    "mean_class_accuracy",
    "min_accuracy",
    "negative_log_likelihood",
    "prequential_accuracy",
    "rejection_auroc",
    "reliability_curve",
    "retain_accuracy",
    "retrain_gap",
    "worst_case_accuracy",
]
