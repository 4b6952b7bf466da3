"""Pool values into logits, and update values by gradient steps.

Enters: codes (n, c, m) and a table of values (c, j, k). Leaves: logits (n, k), or the table after a step. Must not
know: embeddings, keys, class labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from dkvb_estimator._progress import SILENT, Progress

READ_BUDGET_ENTRIES = 2**22
"""Number of selected keys that are pooled at once; their int64 positions take at most 32 MiB."""


def read_values(codes: torch.Tensor, values: torch.Tensor, usable: torch.Tensor | None = None) -> torch.Tensor:
    """Pool the values of selected keys: the mean over heads of the mean over each head's selected keys.

    Parameters
    ----------
    codes : Tensor of shape (n, c, m), int64
    values : Tensor of shape (c, j, k), float32
    usable : Tensor of shape (c, j), bool, or None
        Keys that count; others are left out of the mean of their head.

    Returns
    -------
    Tensor of shape (n, k), float32: the logits

    Examples
    --------
    >>> values = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 3.0]]])
    >>> read_values(torch.tensor([[[0], [1]]]), values).tolist()
    [[0.5, 1.5]]
    """
    n, n_heads, n_selected = codes.shape
    table = values.reshape(-1, values.shape[2])
    logits = values.new_empty((n, values.shape[2]))
    rows = max(1, READ_BUDGET_ENTRIES // (n_heads * n_selected))
    for start in range(0, n, rows):
        part = codes[start : start + rows]
        cells, weights = _cells(part, values.shape[1]), pool_weights(part, usable)
        if usable is not None:  # a weight of 0 is not enough, because 0 × NaN is NaN
            cells = torch.where(weights > 0, cells, cells[:, :, :1])
        logits[start : start + rows] = F.embedding_bag(
            cells.flatten(1), table, mode="sum", per_sample_weights=weights.to(table.dtype).flatten(1)
        )
    return logits


def _cells(codes: torch.Tensor, n_keys: int) -> torch.Tensor:
    """Return the row of the flattened table that each code names (n, c, m)."""
    return codes + n_keys * torch.arange(codes.shape[1], device=codes.device)[None, :, None]


def pool_weights(codes: torch.Tensor, usable: torch.Tensor | None) -> torch.Tensor:
    """Return the weight of each selected key in a sample's logits (n, c, m), float32.

    Parameters
    ----------
    codes : Tensor of shape (n, c, m), int64
    usable : Tensor of shape (c, j), bool, or None
        Keys that count; others get weight 0.
    """
    _, n_heads, n_selected = codes.shape
    if usable is None:
        return torch.full(codes.shape, 1 / (n_heads * n_selected), dtype=torch.float32, device=codes.device)
    taken = usable.flatten()[_cells(codes, usable.shape[1])].float()
    return taken / taken.sum(dim=2, keepdim=True).clamp(min=1) / n_heads


@dataclass(frozen=True)
class GradientSettings:
    """Settings of the gradient steps on values.

    Parameters
    ----------
    learning_rate : float
        A hit changes the values of its key by at most ``learning_rate / (batch_size · c · m)``.
    batch_size : int
        Samples per step; in a shorter last batch, each sample has the same weight as in others.
    label_smoothing : float
        Share of the target that is spread evenly over all classes, in [0, 1).
    clip_norm : float
        Largest Euclidean norm of the gradient of a step.
    n_unseen : int
        Multiplicity of the hidden column for later classes in the softmax; 0 if all classes are declared.
    """

    learning_rate: float
    batch_size: int
    label_smoothing: float
    clip_norm: float
    n_unseen: int


def descend_(
    table: torch.Tensor,
    codes: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    settings: GradientSettings,
    epochs: int,
    rng: np.random.Generator,
    progress: Progress = SILENT,
) -> None:
    """Run epochs of shuffled gradient steps on the table, in place; keys that no sample selects do not change.

    Parameters
    ----------
    table : Tensor of shape (c, j, k + 1), float32
        Values of k classes, then the hidden column for later classes.
    codes : Tensor of shape (n, c, m), int64
    labels : Tensor of shape (n,), int64
    weights : Tensor of shape (n,), float32
    settings : GradientSettings
    epochs : int
    rng : numpy.random.Generator
        Shuffles the samples in each epoch.
    progress : Progress
    """
    with progress.bar(f"learning, {epochs} epochs", epochs * len(codes), "rows") as advance:
        for batch in _batches(len(codes), settings.batch_size, epochs, rng):
            rows = torch.from_numpy(batch).to(codes.device)
            step_(table, codes[rows], labels[rows], weights[rows], settings)
            advance(len(batch))


def _batches(n: int, batch_size: int, epochs: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n, batch_size):
            yield order[start : start + batch_size]


def step_(
    table: torch.Tensor,
    codes: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    settings: GradientSettings,
) -> None:
    """Take one gradient step of the smoothed cross-entropy on the values of the selected keys, in place.

    Parameters are those of :func:`descend_`. The loss is the weighted sum over samples divided by ``batch_size``, so
    that a sample counts the same in a shorter batch.

    References
    ----------
    Träuble et al. (2023), section 3: only values are learned, by plain gradient descent. Momentum would also change
    keys that no sample selects.
    """
    _, n_heads, n_selected = codes.shape
    residual = _residual(read_values(codes, table), labels, settings) * (weights / settings.batch_size)[:, None]
    cells, order = _cells(codes, table.shape[1]).flatten().sort(stable=True)
    cells, hits = cells.unique_consecutive(return_counts=True)
    per_hit = residual / (n_heads * n_selected)  # summed over the hits of each key, without a copy for each hit
    gradient = F.embedding_bag(order // (n_heads * n_selected), per_hit, hits.cumsum(0) - hits, mode="sum")
    norm = float(torch.linalg.vector_norm(gradient))
    scale = settings.learning_rate * min(1.0, settings.clip_norm / norm if norm > 0 else 1.0)
    table.view(-1, table.shape[2]).index_add_(0, cells, gradient.mul_(-scale))  # no key occurs twice


def _residual(logits: torch.Tensor, labels: torch.Tensor, settings: GradientSettings) -> torch.Tensor:
    """Return the gradient of the loss with respect to the logits (n, k + 1): probability minus target.

    The last column stands for ``n_unseen`` equal classes and gets the gradient of one of them. A later class starts
    from this column.
    """
    copies = torch.ones(logits.shape[1], dtype=logits.dtype, device=logits.device)
    copies[-1] = settings.n_unseen
    exponent = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    probability = exponent / (exponent * copies).sum(dim=1, keepdim=True)
    target = torch.full_like(logits, settings.label_smoothing / float(copies.sum()))
    target[torch.arange(len(labels), device=labels.device), labels] += 1 - settings.label_smoothing
    residual = probability - target
    return residual if settings.n_unseen else residual * copies
