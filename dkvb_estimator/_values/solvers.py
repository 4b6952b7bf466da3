"""Compute values, logits and distances from what was learned, for every solver.

Enters: a :class:`Learned` and the parameters of the classifier. Leaves: values (c, j, k), functions of codes, or a
table after gradient steps. Must not know: embeddings, keys, how predictions are made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from dkvb_estimator._device import to_tensor
from dkvb_estimator._progress import SILENT, Progress
from dkvb_estimator._validation import JOINT, class_weights, gradient_settings

from . import joint as _joint
from .counts import Likelihoods
from .gradient import GradientSettings, descend_, pool_weights, read_values
from .joint import FewRows, Listed, ManyRows, Settings, Solution, Sums, sum_codes
from .prior import Prior
from .statistics import Learned, Rows

_JOINT = ("objective", "alpha", "curvature", "class_weight", "device")
VALUE_SETTINGS = {"counts": ("smoothing", "class_weight"), "joint": _JOINT, "ridge": _JOINT, "sgd": ()}
"""Parameters that determine values after learning; values are recomputed when one changes."""
JUDGES, FEWEST_JUDGES, MAX_SCORES = 1000, 500, 2_000_000
"""Number of rows that choose the mixture; with many classes fewer, to bound the number of their scores."""
FEW_ROWS = 0.6
"""With fewer rows per feature than this, values are solved from the rows, else from sums; here both take as long."""
TABLE_LIMIT_BYTES = 2**30
"""Above this size of the table of values, ``counts`` reads values from the counts instead."""
READ_SCORES = 2**23
"""Scores computed at once without a table, 64 MiB; values of keys that several of these samples select are computed
once."""


@dataclass(frozen=True)
class Book:
    """What values need from keys, computed on demand.

    Parameters
    ----------
    prior : callable
        Returns the functions of keys in which values are linear.
    sharing : callable
        Returns the share of each key in the counts of all keys.
    solution : callable
        Returns the solution of ``joint``.
    """

    prior: Callable[[], Prior]
    sharing: Callable[[], csr_array]
    solution: Callable[[], Solution]


def value_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that determine values after learning; dicts are copied."""
    settings = {name: params[name] for name in VALUE_SETTINGS[params["solver"]]}
    return {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}


def solve_values(learned: Learned, params: Mapping[str, Any], book: Book) -> np.ndarray:
    """Return the values (c, j, k), float32."""
    if learned.table is not None:
        return learned.table[:, :, :-1]
    if learned.solver == "counts":
        return _likelihoods(learned, params, book).values()
    return book.prior().values(*book.solution()[:2])


def make_reader(
    learned: Learned,
    params: Mapping[str, Any],
    device: torch.device,
    values: Callable[[], np.ndarray],
    book: Book,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that pools values: codes (n, c, m) of the nearest used keys → logits (n, k).

    ``values`` is called only if a whole table of values is needed. ``counts`` computes values as they are read, and
    solved values are computed from features.
    """
    if learned.solver in JOINT and learned.n_selected == 1:
        return _feature_reader(book.solution(), book.prior(), device)
    usable = to_tensor(learned.counts.used(), device)
    if learned.solver != "counts":
        table = to_tensor(values(), device)
        return lambda codes: read_values(codes, table, usable)
    likelihoods = _likelihoods(learned, params, book)
    if 4 * np.prod(learned.counts.shape) <= TABLE_LIMIT_BYTES:
        return _ValuesAsRead(likelihoods, usable).read

    def read(codes: torch.Tensor) -> torch.Tensor:
        parts = [
            likelihoods.read(part.cpu().numpy(), pool_weights(part, usable).cpu().numpy())
            for part in codes.split(max(1, READ_SCORES // learned.counts.shape[2]))
        ]
        return torch.from_numpy(np.concatenate(parts))

    return read


class _ValuesAsRead:
    """Table of values that are computed when a sample first selects their key; the bits are those of ``values()``.

    The first prediction after learning then costs what its rows need. Once half of the used keys are known, the others
    are computed too.
    """

    def __init__(self, likelihoods: Likelihoods, usable: torch.Tensor) -> None:
        self._likelihoods: Likelihoods | None = likelihoods
        self._usable = usable
        # NumPy's zeros take no memory before they are written to, unlike torch's
        self._table = to_tensor(np.zeros(likelihoods.counts.shape, dtype=np.float32), usable.device)
        self._missing = likelihoods.counts.used().ravel()
        self._enough = np.count_nonzero(self._missing) // 2
        self._lock = threading.Lock()

    def read(self, codes: torch.Tensor) -> torch.Tensor:
        """Pool the values of codes (n, c, m): logits (n, k)."""
        with self._lock:
            if self._likelihoods is not None:
                self._add(self._likelihoods, codes.cpu().numpy())
        return read_values(codes, self._table, self._usable)

    def _add(self, likelihoods: Likelihoods, codes: np.ndarray) -> None:
        _, n_keys, n_classes = self._table.shape
        asked = np.zeros_like(self._missing)
        asked[codes + n_keys * np.arange(codes.shape[1])[:, None]] = True
        asked &= self._missing
        if not asked.any():
            return
        if np.count_nonzero(self._missing) - np.count_nonzero(asked) <= self._enough:
            asked = self._missing.copy()
        table = self._table.view(-1, n_classes)
        for cells, values in likelihoods.of_keys(np.flatnonzero(asked)):
            table[torch.from_numpy(cells).to(table.device)] = to_tensor(values, table.device)
        self._missing &= ~asked
        if not self._missing.any():
            self._likelihoods = None  # with the shares of all keys


def _feature_reader(solution: Solution, prior: Prior, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    weights, bias = (to_tensor(each.astype(np.float32), device) for each in solution[:2])
    return lambda codes: to_tensor(prior.features(codes.cpu().numpy()), device).float() @ weights + bias


def _likelihoods(learned: Learned, params: Mapping[str, Any], book: Book) -> Likelihoods:
    weights, smoothing = _class_weights(learned, params), float(params["smoothing"])
    return Likelihoods(learned.counts, weights, learned.n_selected, smoothing, book.sharing(), book.prior().coordinates)


def _class_weights(learned: Learned, params: Mapping[str, Any]) -> np.ndarray | None:
    return class_weights(params["class_weight"], learned.classes, learned.class_counts)


def solve_jointly(
    learned: Learned, params: Mapping[str, Any], prior: Prior, device: torch.device, progress: Progress = SILENT
) -> Solution:
    """Solve the values of ``joint`` and ``ridge``; leave-one-out scores choose settings that are ``"auto"``."""
    return _joint.solve(_rows(learned, params, prior, device, progress), prior, _settings(params), progress)


def distances_to_classes(
    learned: Learned, params: Mapping[str, Any], prior: Prior, device: torch.device, progress: Progress = SILENT
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from codes (n, c, m) to squared distances to the nearest class (n,)."""
    rows = _rows(learned, params, prior, device, progress, choose=False)
    distances = _joint.make_distances(rows, prior)
    return lambda codes: distances(prior.features(codes))


def _rows(
    learned: Learned,
    params: Mapping[str, Any],
    prior: Prior,
    device: torch.device,
    progress: Progress,
    *,
    choose: bool = True,
) -> _joint.Rows:
    """Return the rows to solve from, in the form that is faster."""
    if learned.sums is not None:  # there are no rows to choose with
        return ManyRows(learned.sums, Listed.none(prior.width), device)
    per_class = _class_weights(learned, params)
    rows, n_classes = learned.rows().weighted(per_class), len(learned.classes)
    judges = are_judges(rows.labels, rows.weights, n_classes) & choose
    if len(rows) < FEW_ROWS * prior.width:
        return FewRows(_listed(rows, prior), judges, n_classes, device)
    sums = _sum_parts(learned, per_class, prior, device, progress)
    return ManyRows(sums, _listed(rows.where(judges), prior), device)


def _sum_parts(
    learned: Learned, per_class: np.ndarray | None, prior: Prior, device: torch.device, progress: Progress
) -> Sums:
    """Return the sums of all rows, computed where the rows are."""
    n_classes = len(learned.classes)

    def add(read: Callable[[slice], np.ndarray], labels: np.ndarray) -> Sums:
        return sum_codes(read, labels, np.ones(len(labels)), prior, n_classes, device, progress)

    if learned.codes.are_here and per_class is None and (sums := learned.known_sums(add)) is not None:
        return sums
    shown = progress if learned.codes.are_here else SILENT  # workers have no terminal
    whole: Sums = learned.codes.summed(learned, _sum_rows, learned.classes, per_class, prior, device, shown)
    return whole


def _sum_rows(
    learned: Learned,
    classes: np.ndarray,
    per_class: np.ndarray | None,
    prior: Prior,
    device: torch.device,
    progress: Progress,
) -> Sums:
    rows = learned.rows().among(classes, learned.classes).weighted(per_class)
    return sum_codes(rows.read, rows.labels, rows.weights, prior, len(classes), device, progress)


def _settings(params: Mapping[str, Any]) -> Settings:
    objective = "ridge" if params["solver"] == "ridge" else params["objective"]
    return Settings(
        _joint.OBJECTIVES if objective == "auto" else (objective,),
        _joint.CURVATURES if params["curvature"] == "auto" else (float(params["curvature"]),),
        _joint.PENALTIES if params["alpha"] == "auto" else (float(params["alpha"]),),
    )


def are_judges(labels: np.ndarray, weights: np.ndarray, n_classes: int) -> np.ndarray:
    """Return which distinct rows (n,), in the order of their hashes, choose: the first whose class has other rows."""
    rest = np.bincount(labels, weights, minlength=n_classes)[labels] - weights
    able = rest > _joint.ROUNDING * weights
    return able & (np.cumsum(able) <= min(JUDGES, max(FEWEST_JUDGES, MAX_SCORES // n_classes)))


def _listed(rows: Rows, prior: Prior) -> Listed:
    return Listed(prior.features(rows.read(slice(None))), rows.labels, rows.weights)


def n_unseen(learned: Learned) -> int:
    """Return how often the column for later classes counts: 0 if several classes are declared, else 1.

    Declared classes have their own columns. A single class has no gradient without another one.
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
    progress: Progress = SILENT,
) -> None:
    """Run epochs of ``sgd`` on samples that were just counted, and replace the table.

    Parameters
    ----------
    learned : Learned
    samples : codes (n, c, m), class positions (n,), weights (n,) or None
    params : mapping
    epochs, seed : int
    device : torch.device
    progress : Progress
    """
    codes, labels, weights = samples
    weights = np.ones(len(codes)) if weights is None else weights
    per_class = _class_weights(learned, params)
    if per_class is not None:
        weights = weights * per_class[labels]
    given, names = (
        gradient_settings(params["solver_params"]),
        ("learning_rate", "batch_size", "label_smoothing", "clip_norm"),
    )
    settings = GradientSettings(**{name: given[name] for name in names}, n_unseen=n_unseen(learned))
    rng = np.random.default_rng([seed, learned.n_samples])
    table = to_tensor(learned.table.copy(), device)  # type: ignore[union-attr]
    tensors = [to_tensor(rows, device) for rows in (codes, labels, weights.astype(np.float32))]
    descend_(table, tensors[0], tensors[1], tensors[2], settings, epochs, rng, progress)
    if not torch.isfinite(table.sum()) and not torch.isfinite(table).all():  # the sum is faster, but may overflow
        raise ValueError(
            f"learning_rate={given['learning_rate']!r} leads to infinite values; expected steps that stay finite. Set "
            f"a smaller one with set_params(solver_params={{'learning_rate': ...}})."
        )
    learned.table = table.cpu().numpy()
