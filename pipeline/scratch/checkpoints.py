"""Keep a half-trained model outside the pipeline's outputs, so that a killed training goes on where it was.

Enters: a model and how many stages it has learned. Leaves: the same, or nothing. Must not know: streams, caches,
settings.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Self

from dkvb_estimator import DKVBClassifier, load_model, read_card, save_model
from pipeline.io import lock_folder


class Checkpoint:
    """Hold the last checkpoint of one training, named by its fingerprint; one process at a time.

    Parameters
    ----------
    folder : str or Path
        A scratch folder; the checkpoint lies in a folder of its own below it.
    fingerprint : str
        Of everything that decides the model: another training never sees this one's.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Checkpoint(folder, "abc") as checkpoint:
    ...     checkpoint.write(DKVBClassifier(2, 4, 2, random_state=0).init_keys([[0.0, 1.0], [1.0, 0.0]]), 0)
    ...     model, n_stages = checkpoint.read()
    >>> model.keys_.shape, n_stages
    ((2, 4, 2), 0)
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder = Path(folder) / fingerprint
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._lock = lock_folder(self.folder, "training the same run")
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def write(self, model: DKVBClassifier, n_stages: int) -> None:
        """Keep a model that has learned so many stages; after this returns it survives a killed process."""
        save_model(model, self._path, {"n_stages": n_stages}, compress=False)

    def read(self) -> tuple[DKVBClassifier, int] | None:
        """Return the last model and the number of its stages, or None where there is none; a damaged one is none."""
        try:
            return load_model(self._path), int(read_card(self._path)["n_stages"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def clear(self) -> None:
        """Delete what was kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / "checkpoint.npz"
