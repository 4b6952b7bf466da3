"""Keep a half-trained model outside the pipeline's outputs, so that an interrupted run resumes.

Enters: a model, its predictions after each task, the labels so far. Leaves: the same, or nothing. Must not know:
streams, caches, settings.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from dkvb_estimator import DKVBClassifier, load_model, read_card, save_model
from pipeline.io import lock_folder


@dataclass(frozen=True)
class Kept:
    """The state of an interrupted run.

    Attributes
    ----------
    model : DKVBClassifier
        After its last finished task.
    tested : list of ndarray of shape (n_test,), int64
        Predictions on all test rows after each of these tasks.
    met : tuple of list of ndarray of shape (n_batch,), int64
        Labels as they arrived, and the earlier prediction for each; empty if nothing was predicted.
    """

    model: Any
    tested: list[np.ndarray]
    met: tuple[list[np.ndarray], list[np.ndarray]]


class Checkpoint:
    """The last checkpoint of one run, named by its fingerprint; one process at a time.

    Parameters
    ----------
    folder : str or Path
        A scratch folder; the checkpoint is in a separate folder below it.
    fingerprint : str
        Digest of everything that determines the model: another run never uses this checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> from dkvb_estimator import KeyEncoder
    >>> model = DKVBClassifier(KeyEncoder(2, 4, 2, random_state=0)).fit([[0.0, 1.0], [1.0, 0.0]], [0, 1])
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoint(folder, "abc") as checkpoint:
    ...     checkpoint.write(model, [np.array([0, 1])], ([], []))
    ...     kept = checkpoint.read()
    >>> kept.model.encoder_.keys_.shape, len(kept.tested)
    ((2, 4, 2), 1)
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = lock_folder(self.folder, "measuring the same run")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def write(
        self,
        model: DKVBClassifier,
        tested: Sequence[np.ndarray],
        met: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    ) -> None:
        """Save a model and its results; after this returns they survive a killed process. See `Kept`."""
        record = {"tested": _plain(tested), "arrived": _plain(met[0]), "predicted": _plain(met[1])}
        save_model(model, self._path, record, compress=False)

    def read(self) -> Kept | None:
        """Return the last saved state, or None if there is none or it is damaged."""
        try:
            record, model = read_card(self._path), load_model(self._path)
            tested, arrived, predicted = (_arrays(record[name]) for name in ("tested", "arrived", "predicted"))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return Kept(model, tested, (arrived, predicted))

    def clear(self) -> None:
        """Delete the saved state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.npz"


def _plain(arrays: Sequence[np.ndarray]) -> list[list[int]]:
    return [np.asarray(array).tolist() for array in arrays]


def _arrays(rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.asarray(row, dtype=np.int64) for row in rows]
