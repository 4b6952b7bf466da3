"""Make methods of an object atomic.

Enters: methods. Leaves: methods that undo their changes when they fail. Must not know: what they change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ._device import DeviceCache

Method = TypeVar("Method", bound=Callable[..., Any])


def all_or_nothing(method: Method) -> Method:
    """Restore the attributes of an object and of its ``_learned`` if the method raises, interrupts included.

    Attributes are replaced and never modified in place, so no array has to be copied.

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
                self._scratch = DeviceCache()  # the old one may hold results derived from half a change
            raise

    return cast("Method", attempt)
