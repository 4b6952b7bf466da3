"""Show the progress of long computations on stderr.

Enters: the name of an estimator, its ``verbose``, and what is counted. Leaves: a progress bar that disappears, or one
line if tqdm is not installed. Must not know: what is computed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS_BETWEEN_DRAWS = 0.2
_SHOWN = threading.local()


@dataclass(frozen=True)
class Progress:
    """Progress of one estimator; silent unless ``verbose`` is above 0.

    Parameters
    ----------
    name : str
        Prefix of every bar.
    verbose : int

    Examples
    --------
    >>> with Progress("KeyEncoder", verbose=0).bar("encoding", total=3, unit="rows") as advance:
    ...     for _ in range(3):
    ...         advance(1)
    """

    name: str = ""
    verbose: int = 0

    @classmethod
    def of(cls, estimator: Any) -> Progress:
        """Return the progress of an estimator with a parameter ``verbose``."""
        return cls(type(estimator).__name__, estimator.verbose)

    @contextmanager
    def bar(self, task: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
        """Yield a function that advances the bar by a number of units.

        A bar inside another bar of the same thread stays hidden.

        Parameters
        ----------
        task : str
            What is being done, such as "encoding".
        total : int or None
            None if it is not known.
        unit : str
            What is counted, such as "rows".
        """
        if not self.verbose or getattr(_SHOWN, "busy", False):
            yield _ignore
            return
        _SHOWN.busy = True
        try:
            with _open(f"[{self.name}] {task}", total, unit) as shown:
                yield shown.update
        finally:
            _SHOWN.busy = False


SILENT = Progress()


def _ignore(n: int) -> None:
    pass


def _open(task: str, total: int | None, unit: str) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return _Line(task, unit)

    class Bar(tqdm):
        monitor_interval = 0  # no thread, which would outlive the bar and may hold a lock during a fork

    options = {"leave": False, "mininterval": SECONDS_BETWEEN_DRAWS, "miniters": 1, "file": sys.stderr}
    return Bar(total=total, desc=task, unit=f" {unit}", **options)


class _Line:
    """Substitute for tqdm's bar that prints one line at the end."""

    def __init__(self, task: str, unit: str) -> None:
        self._task, self._unit, self._n, self._started = task, unit, 0, time.perf_counter()

    def __enter__(self) -> _Line:
        return self

    def update(self, n: int) -> None:
        self._n += n

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            seconds = time.perf_counter() - self._started
            print(f"{self._task}: {self._n:,} {self._unit} in {seconds:.1f} s", file=sys.stderr, flush=True)
