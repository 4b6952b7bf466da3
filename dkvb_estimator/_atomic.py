"""Let a method change an object wholly or not at all.

Enters: methods. Leaves: methods that undo what they did before they fail. Must not know: what they change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._device import DeviceCache

Method = TypeVar("Method", bound=Callable[..., Any])


def all_or_nothing(method: Method) -> Method:
    """Put an object's attributes, and those of ``_learned``, back where the method raises, an interrupt included.

    What they hold is never written into, only replaced, so no array is copied.

    Examples
    --------
    >>> class Counter:
    ...     n = 0
    ...
    ...     @all_or_nothing
    ...     def count(self, more):
    ...         self.n += 1
    ...         self.n += more
    >>> counter = Counter()
    >>> try:
    ...     counter.count("many")
    ... except TypeError:
    ...     print(counter.n)
    0
    """

    @functools.wraps(method)
    def attempt(self: Any, *arguments: Any, **options: Any) -> Any:
        parts = [part for part in (self, vars(self).get("_learned")) if part is not None]
        before = [dict(vars(part)) for part in parts]
        try:
            return method(self, *arguments, **options)
        except BaseException:
            for part, attributes in zip(parts, before, strict=True):
                for name in vars(part).keys() - attributes.keys():
                    delattr(part, name)
                vars(part).update(attributes)
            if "_scratch" in vars(self):
                self._scratch = DeviceCache()  # the old one may hold what was derived from half a change
            raise

    return cast("Method", attempt)
