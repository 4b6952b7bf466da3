"""The names of heads and metrics as a reader meets them.

Room: a leaf beside the `report` stage.
Enters: keys as files hold them.
Leaves: names, units, colours, an order.
Must not know: files, numbers, figures.
"""

from collections.abc import Iterable

from pipeline.report.html import Markup, element, marker

__all__ = ["HEAT_MAP_HEADS", "METRICS", "TABLED_ELSEWHERE", "head_name", "look", "metric_words", "named", "ordered"]

# The four that every page has, in its order; the rest follows by name.
SHOWN_FIRST = ("dkvb", "nearest_class_mean", "linear_probe", "mlp")
HEAT_MAP_HEADS = ("dkvb", "linear_probe", "mlp")

# Names in full and for narrow figures; a head's place here is also its colour and its sign.
HEADS = {
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
    "fly_ridge_10000": ("sparse top-share ridge 10,000", "Fly 10,000"),
    "random_fourier_discriminant": ("random Fourier discriminant", "Fourier LDA"),
    "classwise_lda": ("class-wise LDA", "class-wise LDA"),
}

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
    "prequential_accuracy": ("right before learned", "share", 1),
    "accuracy_std_over_orders": ("spread over orders", "points", 0),
}

# Metrics that have a table of their own.
TABLED_ELSEWHERE = (
    "state_bytes",
    "passes",
    "needs_classes",
    "calibration_error_",
    "novelty_",
    "relative_novelty_",
    "max_softmax_",
    "mahalanobis_",
)


def head_name(head: str, *, short: bool = False) -> str:
    """Return the name of a head, short for narrow figures."""
    name = HEADS[head][short] if head in HEADS else head.replace("_", " ")
    return name[:13] + "…" if short and len(name) > 14 else name


def metric_words(metric: str) -> tuple[str, str, int]:
    """Return name, unit and the better direction of a metric."""
    unit = "share" if metric.endswith(("accuracy", "auroc")) else "number"
    return METRICS.get(metric, (metric.replace("_", " "), unit, 0))


def ordered(heads: Iterable[str]) -> list[str]:
    """Return each head once: the four that every page has, then the others by name."""
    heads = list(heads)
    return [head for head in SHOWN_FIRST if head in heads] + sorted(set(heads) - set(SHOWN_FIRST))


def look(head: str) -> int:
    """Return the number of a head's colour and sign."""
    # A head looks the same in every run of the page; heads without a name here share the last look.
    return list(HEADS).index(head) if head in HEADS else len(HEADS)


def named(head: str, *, short: bool = False) -> Markup:
    """Write a head's name after its sign."""
    return element("span", marker(look(head)), head_name(head, short=short), class_="head-name")
