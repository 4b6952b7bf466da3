"""Labels of methods, metrics and numbers: names, units, order, text.

Enters: keys and numbers from files. Leaves: text. Must not know: files, figures.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

# Names in full and for narrow figures; a method's position also determines its colour and marker.
METHODS = {
    "dkvb": ("DKVB", "DKVB"),
    "nearest_class_mean": ("nearest class mean", "class mean"),
    "linear_probe": ("linear probe", "linear"),
    "mlp": ("MLP", "MLP"),
    "streaming_lda": ("streaming LDA", "LDA"),
    "random_projection_ridge_2000": ("random-projection ridge 2,000", "RP 2,000"),
    "joint_linear_probe": ("joint linear probe", "joint probe"),
    "k_nearest_neighbours": ("k nearest neighbours", "neighbours"),
    "gaussian_naive_bayes": ("naive Bayes", "naive Bayes"),
    "random_projection_ridge_5000": ("random-projection ridge 5,000", "RP 5,000"),
    "random_projection_ridge_10000": ("random-projection ridge 10,000", "RP 10,000"),
    "fly_ridge_10000": ("Fly-CL ridge 10,000", "Fly 10,000"),
    "random_fourier_discriminant": ("random Fourier LDA", "Fourier LDA"),
    "classwise_lda": ("classwise LDA", "classwise LDA"),
}
SHOWN_FIRST = ("dkvb", "nearest_class_mean", "linear_probe", "mlp")
MAPPED = ("dkvb", "linear_probe", "mlp")
"""Methods whose matrices are shown side by side."""

# Name, unit, and which way is better (0: neither). Other metrics are shown under their own key.
METRICS = {
    "final_accuracy": ("final accuracy", "share", 1),
    "average_incremental_accuracy": ("average accuracy", "share", 1),
    "forgetting_best": ("forgetting from best", "points", -1),
    "forgetting_first": ("forgetting from first", "points", -1),
    "backward_transfer": ("backward transfer", "points", 1),
    "learning_accuracy": ("learning accuracy", "share", 1),
    "mean_class_accuracy": ("mean over classes", "share", 1),
    "min_accuracy": ("minimum accuracy", "share", 1),
    "prequential_accuracy": ("prequential accuracy", "share", 1),
    "accuracy_std_over_orders": ("spread over orders", "points", 0),
    "real_forgetting": ("real forgetting", "points", -1),
    "label_growth": ("growth of the label space", "points", 0),
}
# Prefixes of metrics that have a separate table.
TABLED_ELSEWHERE = ("state_bytes", "passes", "needs_classes", "calibration_error_", "score_samples_",
                    "max_softmax_", "mahalanobis_", "real_forgetting", "label_growth")  # fmt: skip
# Score of novelty → name, and the method whose colour it takes.
SCORES = {
    "score_samples": ("score_samples (DKVB)", "dkvb"),
    "max_softmax": ("one minus the largest probability (DKVB)", "mlp"),
    "mahalanobis": ("Mahalanobis distance (streaming LDA)", "streaming_lda"),
}
CALIBRATION = {"plain": ("as learned", "joint_linear_probe"), "calibrated": ("temperature from held-out rows", "dkvb")}


def method_name(method: str, *, short: bool = False) -> str:
    """Return the name of a method, short for narrow figures."""
    name = METHODS[method][short] if method in METHODS else method.replace("_", " ").strip() or "no name"
    return cut(name) if short else name


def cut(name: str) -> str:
    """Return a name of at most fourteen letters."""
    return name if len(name) <= 14 else name[:13] + "…"


def look(method: str) -> int:
    """Return the number of a method's colour and marker; methods without a name here share one number."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def metric_words(metric: str) -> tuple[str, str, int]:
    """Return name, unit and the better direction of a metric."""
    unit = "share" if metric.endswith(("accuracy", "auroc")) else "number"
    return METRICS.get(metric, (metric.replace("_", " "), unit, 0))


def ordered(methods: Iterable[str]) -> list[str]:
    """Return each method once: the four that most pages have, then the others by name."""
    methods = list(methods)
    return [method for method in SHOWN_FIRST if method in methods] + sorted(set(methods) - set(SHOWN_FIRST))


def number(value: Any) -> float | None:
    """Return the value as a finite number, or None; text is parsed."""
    try:
        found = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def written(value: Any, unit: str = "number") -> str:
    """Format a share in percent, a difference of shares in points, anything else unchanged.

    Examples
    --------
    >>> written(0.8593, "share"), written(-0.061, "points"), written(1048576), written(None)
    ('85.9%', '−6.1', '1,048,576', '–')
    """
    found = number(value)
    if found is None:
        return "–" if value is None or isinstance(value, float) else str(value)
    if unit == "share":
        return f"{100 * found:.1f}%"
    plain = f"{int(found):,}" if found == int(found) else f"{found:,.4g}"
    return (f"{100 * found:.1f}" if unit == "points" else plain).replace("-", "\N{MINUS SIGN}")


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten a nested record into dotted names and texts.

    Examples
    --------
    >>> flat({"stream": {"kind": "shuffled", "order_seeds": [0, 1]}, "note": None})
    {'stream.kind': 'shuffled', 'stream.order_seeds': '0, 1'}
    """
    lines: dict[str, str] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            lines |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            several = isinstance(value, (list, tuple))
            lines[prefix + key] = ", ".join(map(str, value)) if several else str(value)
    return lines
