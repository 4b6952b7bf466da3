"""From what was learned to values: one function a question, each answered for the three solvers.

Enters: a :class:`Learned` and the estimator's parameters. Leaves: values (c, j, k), a temperature, or a stepped table.
Must not know: embeddings, keys, how predictions are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ._confidence import fit_temperature
from ._counts import counts_to_values
from ._device import to_tensor
from ._learned import Learned
from ._ridge import solve_ridge
from ._validation import class_weights
from ._values import GradientSettings, descend_, read_values

DEFAULT_STEPS = 10
"""Epochs of ``sgd`` in ``fit``, and conjugate gradient steps of ``ridge``, where ``max_iter`` is None."""
HELD_OUT_SHARE = 10
"""One distinct learned row in this many chooses the temperature of ``ridge``."""
DEFAULT_RIDGE_TEMPERATURE = 0.1
"""Temperature of ``ridge`` where there are too few rows to hold any out."""


def n_steps(params: Mapping[str, Any]) -> int:
    """Return ``max_iter``, or its default."""
    return params["max_iter"] or DEFAULT_STEPS


def solve_values(learned: Learned, params: Mapping[str, Any]) -> np.ndarray:
    """Return the values (c, j, k), float32."""
    if learned.table is not None:
        return learned.table[:, :, :-1]
    per_class = class_weights(params["class_weight"], learned.classes, learned.class_counts)
    if learned.solver == "counts":
        return counts_to_values(learned.counts, learned.class_counts, per_class, params["smoothing"])
    codes, labels, weights, _ = learned.rows()
    if per_class is not None:
        weights = weights * per_class[labels]
        codes, labels, weights = codes[weights > 0], labels[weights > 0], weights[weights > 0]
    return _ridge(learned, params, codes, labels, weights)


def solve_temperature(learned: Learned, params: Mapping[str, Any]) -> float:
    """Return the temperature of the softmax: 1, but for ``ridge``, whose scores are shares and not logarithms.

    A tenth of the distinct rows, chosen by their hashes, is held out of one solve and chooses it.
    """
    if learned.solver != "ridge":
        return 1.0
    codes, labels, weights, hashes = learned.rows()
    held = hashes % HELD_OUT_SHARE == 0
    if not held.any() or held.all():
        return DEFAULT_RIDGE_TEMPERATURE
    values = torch.from_numpy(_ridge(learned, params, codes[~held], labels[~held], weights[~held]))
    logits = read_values(torch.from_numpy(codes[held].astype(np.int64)), values).numpy()
    return fit_temperature(logits, labels[held], weights[held])


def _ridge(
    learned: Learned, params: Mapping[str, Any], codes: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    return solve_ridge(codes, labels, weights, learned.hits.shape, float(params["alpha"]), n_steps(params))


def step_table(
    learned: Learned,
    samples: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    params: Mapping[str, Any],
    *,
    epochs: int,
    seed: int,
    device: torch.device,
) -> None:
    """Run epochs of ``sgd`` on samples that were just counted, and put the stepped table in place of the old.

    Parameters
    ----------
    learned : Learned
    samples : codes (n, c, m), class positions (n,), weights (n,) or None
    params : mapping
    epochs, seed : int
    device : torch.device
    """
    codes, labels, weights = samples
    weights = np.ones(len(codes)) if weights is None else weights
    per_class = class_weights(params["class_weight"], learned.classes, learned.class_counts)
    if per_class is not None:
        weights = weights * per_class[labels]
    names = ("learning_rate", "batch_size", "label_smoothing", "clip_norm")
    settings = GradientSettings(
        **{name: params[name] for name in names}, n_unseen=0 if learned.declared is not None else 1
    )
    rng = np.random.default_rng([seed, learned.n_samples])
    table = to_tensor(learned.table.copy(), device)  # type: ignore[union-attr]
    tensors = [to_tensor(rows, device) for rows in (codes, labels, weights.astype(np.float32))]
    descend_(table, tensors[0], tensors[1], tensors[2], settings, epochs, rng)
    learned.table = table.cpu().numpy()
