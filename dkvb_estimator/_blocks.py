"""Turn input that may be lazy into blocks of rows.

Enters: an array-like, or an iterator of blocks. Leaves: pairs of rows and labels, not validated. Must not know: what is
done with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def split_blocks(X: Any, y: Any = None, *, labelled: bool) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of rows and labels (None where they are not wanted).

    Parameters
    ----------
    X : array-like of shape (n, f), or an iterator of such blocks
        Where labels are wanted, the iterator yields pairs of X and y.
    y : array-like of shape (n,) or None
    labelled : bool
        Whether labels are wanted.

    Raises
    ------
    ValueError
        If labels are wanted and missing, or an iterator yields nothing.

    Examples
    --------
    >>> [rows for rows, _ in split_blocks(iter([[[1.0]], [[2.0]]]), labelled=False)]
    [[[1.0]], [[2.0]]]
    """
    if not isinstance(X, Iterator):
        if labelled and y is None:
            raise ValueError(_MISSING_LABELS.format("no y"))
        yield X, y if labelled else None
        return
    n_blocks = 0
    for n_blocks, block in enumerate(X, start=1):
        if labelled and not (isinstance(block, tuple) and len(block) == 2):
            raise ValueError(_MISSING_LABELS.format(f"block {n_blocks} without labels"))
        rows, labels = block if isinstance(block, tuple) else (block, None)
        yield rows, labels if labelled else None
    if not n_blocks:
        raise ValueError(
            "the iterator of blocks yielded nothing; expected at least one block (n, f). Pass a fresh one."
        )


_MISSING_LABELS = (
    "projection='learned' came with {}; expected labels, or an iterator of pairs (X, y). Pass y, or choose another "
    "projection."
)
