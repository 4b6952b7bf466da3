"""From what was learned to values: one function a question, each answered for the three solvers.

Enters: a :class:`Learned` and the estimator's parameters. Leaves: values (c, j, k), a temperature, or a stepped table.
Must not know: embeddings, keys, how predictions are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from ._confidence import fit_temperature
from ._counts import Shares
from ._device import to_tensor
from ._learned import Learned, Rows
from ._ridge import solve_ridge
from ._validation import class_weights
from ._values import GradientSettings, descend_, pool_weights, read_values

VALUE_SETTINGS = {
    "counts": ("smoothing", "class_weight"),
    "ridge": ("alpha", "max_iter", "class_weight"),
    "sgd": (),
}
"""Parameters that values are made from after learning: where one changes, they are made anew."""
DEFAULT_STEPS = {"counts": 1, "ridge": 20, "sgd": 10}
"""Epochs of ``sgd`` in ``fit``, and conjugate gradient steps of ``ridge``, where ``max_iter`` is None."""
HELD_OUT_SHARE = 10
"""One distinct learned row in this many chooses the temperature of ``ridge``."""
DEFAULT_RIDGE_TEMPERATURE = 0.1
"""Temperature of ``ridge`` where there are too few rows to hold any out."""
TABLE_LIMIT_BYTES = 2**30
"""Above it, values of ``counts`` are read from the counts, and no table is made."""
SPARSE_READ_ROWS = 64
"""Samples whose pairs are gathered at a time: some 100,000 each with 1,000 classes and 256 heads."""


def n_steps(params: Mapping[str, Any]) -> int:
    """Return ``max_iter``, or its default."""
    return params["max_iter"] or DEFAULT_STEPS[params["solver"]]


def value_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that values are made from after learning, a dict as a copy."""
    settings = {name: params[name] for name in VALUE_SETTINGS[params["solver"]]}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}


def solve_values(learned: Learned, params: Mapping[str, Any]) -> np.ndarray:
    """Return the values (c, j, k), float32."""
    if learned.table is not None:
        return learned.table[:, :, :-1]
    if learned.solver == "counts":
        return _shares(learned, params).values()
    values = _ridge(learned, params, _class_weights(learned, params), held_out=None)
    return learned.codes.place.fetch(values)[0]


def make_reader(
    learned: Learned, params: Mapping[str, Any], device: torch.device, values: Callable[[], np.ndarray]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that pools values: codes (n, c, m) of the nearest used keys → logits (n, k).

    ``values`` is only called where the table is made at all: with many classes it would be mostly the same smoothed
    zeros, and ``counts`` are read as they are stored.
    """
    usable = to_tensor(learned.counts.used(), device)
    if learned.solver != "counts" or 4 * np.prod(learned.counts.shape) <= TABLE_LIMIT_BYTES:
        table = to_tensor(values(), device)
        return lambda codes: read_values(codes, table, usable)
    shares = _shares(learned, params)

    def read(codes: torch.Tensor) -> torch.Tensor:
        parts = [
            shares.read(part.cpu().numpy(), pool_weights(part, usable).cpu().numpy())
            for part in codes.split(SPARSE_READ_ROWS)
        ]
        return torch.from_numpy(np.concatenate(parts))

    return read


def _shares(learned: Learned, params: Mapping[str, Any]) -> Shares:
    weights = _class_weights(learned, params)
    return Shares(learned.counts, weights, learned.n_selected, float(params["smoothing"]))


def _class_weights(learned: Learned, params: Mapping[str, Any]) -> np.ndarray | None:
    return class_weights(params["class_weight"], learned.classes, learned.class_counts)


def solve_temperature(learned: Learned, params: Mapping[str, Any]) -> float:
    """Return the temperature of the softmax: 1, but for ``ridge``, whose scores are shares and not logarithms.

    A tenth of the distinct rows, chosen by their hashes, is held out of one solve and chooses it.
    """
    if learned.solver != "ridge":
        return 1.0
    held = np.concatenate(learned.hashes) % HELD_OUT_SHARE == 0
    if not held.any() or held.all():
        return DEFAULT_RIDGE_TEMPERATURE
    place, values = learned.codes.place, _ridge(learned, params, None, held_out=False)
    tested = [place.call(_test, rows, values) for rows in _parts(learned, None, held_out=True)]
    return fit_temperature(*(np.concatenate(part) for part in zip(*place.fetch(*tested))))


def _ridge(learned: Learned, params: Mapping[str, Any], per_class: np.ndarray | None, held_out: bool | None) -> Any:
    parts, shape = _parts(learned, per_class, held_out), learned.counts.shape
    alpha, steps = float(params["alpha"]), n_steps(params)
    return solve_ridge(parts, shape, learned.n_selected, alpha, steps, learned.codes.place)


def _parts(learned: Learned, per_class: np.ndarray | None, held_out: bool | None) -> list[Any]:
    """Return the rows of each who holds some, or promises of them."""
    owners, call = learned.codes.owners(learned), learned.codes.place.call
    return [call(_rows, owner, learned.classes, per_class, held_out) for owner in owners]


def _rows(learned: Learned, classes: np.ndarray, per_class: np.ndarray | None, held_out: bool | None) -> Rows:
    """Return the rows that are held out, that are not, or (None) all, labels counted among ``classes`` (k,)."""
    rows = learned.rows().among(classes, learned.classes)
    if held_out is not None:
        rows = rows.where((rows.hashes % HELD_OUT_SHARE == 0) == held_out)
    return rows.weighted(per_class)


def _test(rows: Rows, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits (n, k), labels and weights of some rows."""
    codes = torch.from_numpy(rows.read(slice(None)).astype(np.int64))
    return read_values(codes, torch.from_numpy(values)).numpy(), rows.labels, rows.weights


def n_unseen(learned: Learned) -> int:
    """Return how often the column of classes to come counts: never once more classes than one are declared, else once.

    Declared classes have columns of their own. One class alone has no gradient without another.
    """
    return 0 if learned.declared is not None and len(learned.classes) > 1 else 1


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
    per_class = _class_weights(learned, params)
    if per_class is not None:
        weights = weights * per_class[labels]
    names = ("learning_rate", "batch_size", "label_smoothing", "clip_norm")
    settings = GradientSettings(**{name: params[name] for name in names}, n_unseen=n_unseen(learned))
    rng = np.random.default_rng([seed, learned.n_samples])
    table = to_tensor(learned.table.copy(), device)  # type: ignore[union-attr]
    tensors = [to_tensor(rows, device) for rows in (codes, labels, weights.astype(np.float32))]
    descend_(table, tensors[0], tensors[1], tensors[2], settings, epochs, rng)
    if not torch.isfinite(table).all():
        raise ValueError(
            f"learning_rate={params['learning_rate']!r} made values infinite; expected steps that stay finite. Set a "
            "smaller one with set_params(learning_rate=...)."
        )
    learned.table = table.cpu().numpy()
