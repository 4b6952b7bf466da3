"""Common types of all settings: frozen records, ids, seeds.

Enters: plain values. Leaves: records whose values are of their types. Must not know: any table.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Id", "Method", "Record", "Scalar", "Seed", "encoder_and_rest", "with_settings"]

# DVC would read a dot in an id as a path; a slash or a space would break a file name.
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Scalar = bool | int | float | str | None
Method = dict[str, Scalar | dict[str, Scalar]]
"""Settings of a classifier, with those of its key encoder under ``encoder``. `{}`: the defaults."""


class Record(BaseModel):
    """An immutable entry without unknown keys, whose values have exactly the expected types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def encoder_and_rest(method: Method) -> tuple[dict[str, Scalar], Method]:
    """Return the settings of a method's encoder, and all others.

    Examples
    --------
    >>> encoder_and_rest({"encoder": {"n_keys": 8}, "solver": "counts"})
    ({'n_keys': 8}, {'solver': 'counts'})
    """
    encoder = method.get("encoder")
    return (encoder if isinstance(encoder, dict) else {}), {k: v for k, v in method.items() if k != "encoder"}


def with_settings(method: Method, settings: Mapping[str, Scalar]) -> Method:
    """Return a method with additional settings, named as in a grid.

    Examples
    --------
    >>> with_settings({"solver": "counts"}, {"encoder__n_keys": 8, "smoothing": 1.0})
    {'solver': 'counts', 'smoothing': 1.0, 'encoder': {'n_keys': 8}}
    """
    encoder, rest = encoder_and_rest(method)
    prefix = "encoder__"
    encoder = encoder | {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
    return {**rest, **{k: v for k, v in settings.items() if not k.startswith(prefix)}, "encoder": encoder}
