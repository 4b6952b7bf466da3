"""Say where a computation runs: here and now, or, by a subclass elsewhere, on workers and later.

Enters: functions and their arguments. Leaves: results, or promises of them that may be arguments again. Must not know:
what is computed. An algorithm written against a place is written once for one process and for many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

FAN_IN = 8
"""Results that one call folds into one. The tree is the same for the same number of parts, and so is the result."""


class Here:
    """Run everything at once in this process.

    Examples
    --------
    >>> place = Here()
    >>> place.fetch(place.fold([place.call(pow, 2, n) for n in range(4)], lambda *parts: sum(parts)))
    [15]
    """

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the function's result, or a promise of it; arguments may be promises."""
        return function(*arguments)

    def fetch(self, *promises: Any) -> list[Any]:
        """Return the results that were promised."""
        return list(promises)

    def fold(self, parts: Sequence[Any], merge: Callable[..., Any]) -> Any:
        """Merge one part or more, neighbours first; ``merge`` takes up to ``FAN_IN`` of them and changes none."""
        while len(parts) > 1:
            groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
            parts = [self.call(merge, *group) for group in groups]
        return parts[0]
