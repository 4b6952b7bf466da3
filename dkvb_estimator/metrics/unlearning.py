"""What a model still knows about samples that it was asked to forget."""

from numpy.typing import ArrayLike

from ._checks import checked_labels


def forget_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the accuracy on forgotten samples; the target is that of a retrained model, not zero.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n,)
        Labels and predictions of the forgotten samples.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    References
    ----------
    Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net", CVPR 2020, section 6.

    Examples
    --------
    >>> forget_accuracy([3, 3], [5, 3])
    0.5
    """
    truth, guess = checked_labels(y_true, y_pred)
    return float((truth == guess).mean())


def retain_accuracy(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the accuracy on retained samples; arguments, errors and source are those of `forget_accuracy`.

    Examples
    --------
    >>> retain_accuracy([0, 1, 2, 2], [0, 1, 2, 0])
    0.75
    """
    return forget_accuracy(y_true, y_pred)


def retrain_gap(y_pred: ArrayLike, y_retrained: ArrayLike) -> float:
    """Return the share of samples on which a model that forgot disagrees with one that never learned the data.

    Parameters
    ----------
    y_pred, y_retrained : array-like of shape (n,)
        Predictions of the model that forgot, and of the model retrained without the forgotten samples.

    Returns
    -------
    float
        From 0 to 1; 0 after exact forgetting.

    Raises
    ------
    ValueError
        If the arrays are empty or differ in length.

    References
    ----------
    Golatkar, Achille and Soatto, "Eternal sunshine of the spotless net", CVPR 2020, section 6.

    Examples
    --------
    >>> retrain_gap([0, 1, 1, 2], [0, 1, 2, 2])
    0.25
    """
    forgot, retrained = checked_labels(y_pred, y_retrained, ("y_pred", "y_retrained"))
    return float((forgot != retrained).mean())
