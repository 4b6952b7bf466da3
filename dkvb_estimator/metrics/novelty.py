"""How well scores (n,) separate unknown samples from known ones."""

import numpy as np
from numpy.typing import ArrayLike

from ._checks import checked_scores


def rejection_auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """Return the probability that an unknown sample scores higher than a known one; ties count half.

    Parameters
    ----------
    known, unknown : array-like of shape (n,) and (u,)
        Novelty scores of samples of learned and of other classes; larger means more novel.

    Returns
    -------
    float
        From 0 to 1; 0.5 is chance.

    Raises
    ------
    ValueError
        If a list is empty or holds a NaN.

    References
    ----------
    Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural networks",
    ICLR 2017, section 2.

    Examples
    --------
    >>> rejection_auroc(known=[0.1, 0.2, 0.4], unknown=[0.3, 0.5])
    0.8333333333333334
    """
    inside, outside = checked_scores(known, "known"), checked_scores(unknown, "unknown")
    ordered = np.sort(inside)
    below, up_to = (np.searchsorted(ordered, outside, side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(inside)))


def fpr_at_95_tpr(known: ArrayLike, unknown: ArrayLike) -> float:
    """Return the share of unknown samples that are accepted at the threshold that accepts 95 % of known samples.

    Parameters
    ----------
    known, unknown
        As for `rejection_auroc`.

    Returns
    -------
    float
        From 0 to 1; lower is better.

    Raises
    ------
    ValueError
        If a list is empty or holds a NaN.

    References
    ----------
    Liang, Li and Srikant, "Enhancing the reliability of out-of-distribution image detection in neural networks", ICLR
    2018, section 4.

    Examples
    --------
    >>> fpr_at_95_tpr(known=range(20), unknown=[17.5, 18.5, 30.0, 40.0])
    0.25
    """
    inside, outside = checked_scores(known, "known"), checked_scores(unknown, "unknown")
    limit = np.sort(inside)[int(np.ceil(0.95 * len(inside))) - 1]
    return float((outside <= limit).mean())
