"""Describe a problem of a settings file in one sentence.

Enters: pydantic's problems. Leaves: a sentence with the setting's path and the nearest valid name. Must not know:
files.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.baselines import Baselines
from pipeline.config.datasets import DATASET_KINDS
from pipeline.config.embeddings import DESCRIBED, Embeddings, Import, InlineBackbone
from pipeline.config.runs import Run
from pipeline.config.searches import HeatMap, Search
from pipeline.config.streams import Stream
from pipeline.config.toy import Toy

__all__ = ["first_sentence", "nearest"]


def first_sentence(error: ValidationError, whole: type[BaseModel]) -> str:
    """Turn pydantic's problems into one sentence about the first of them."""
    problems = error.errors(include_url=False)
    # A misspelt key is also missing under its right name: the misspelling is the more useful report.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    # A value of several types is reported once for each of them, and a mapping also where its values are wrong.
    if _is_type(first["loc"]):
        first = max((problem for problem in problems if _place(problem).startswith(_place(first))), key=_depth)
    place, depth = _place(first), _depth(first)
    n_places = len({_place(problem) for problem in problems if _depth(problem) >= depth})
    more = f" (and {n_places - 1} more)" if n_places > 1 else ""
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(first["loc"], whole)
        return (
            f"{place} is not a setting{nearest(str(first['loc'][-1]), valid)}; expected one of "
            f"{', '.join(valid)}. Rename or remove it{more}."
        )
    if first["type"] == "missing":
        return f"{place} is missing; expected a value. Add the key{more}."
    if first["type"] == "union_tag_invalid":
        given = str(first["ctx"]["tag"])
        return (
            f"{place}.kind is {given!r}{nearest(given, DATASET_KINDS)}; expected one of "
            f"{', '.join(DATASET_KINDS)}. Correct the kind{more}."
        )
    if first["type"] == "value_error":
        return f"{place + ': ' if place else ''}{str(first['ctx']['error']).removesuffix('.')}{more}."
    if first["type"] == "string_type" and not isinstance(first["input"], Mapping | list):
        return (
            f"{place} is {first['input']!r}; expected text. Correct it, with quotes if YAML reads it as another "
            f"type{more}."
        )
    if _is_type(first["loc"]):
        return f"{place} is {first['input']!r}; expected a finite number, text, true or false. Correct the value{more}."
    return f"{place} is {first['input']!r}; {_expected(first['msg'])}. Correct the value{more}."


def _expected(message: str) -> str:
    """Word a message of pydantic, such as "Input should be greater than 0", as what is expected."""
    found = re.fullmatch(r"(\w+) should (be|have) (.*)", message)
    if not found:
        return message[0].lower() + message[1:]
    what, verb, rest = found.groups()
    if verb == "have":
        return f"expected a {what.lower()} with {rest}"
    return f"expected {'a value ' if rest.startswith(('greater', 'less')) else ''}{rest}"


TYPES = re.compile(r"bool|int|float|str|none|(dict|list|nullable|union)\[.*")
"""How pydantic names the types of a value, at the end of its place."""


def _is_type(location: tuple[int | str, ...]) -> bool:
    return len(location) > 3 and TYPES.fullmatch(str(location[-1])) is not None


def _place(problem: Mapping[str, Any]) -> str:
    head, tail = problem["loc"][:3], problem["loc"][3:]
    parts = [*head, *(part for part in tail if not TYPES.fullmatch(str(part)))]
    return ".".join(str(part) for part in parts if part not in (DESCRIBED, "(named)"))


def _depth(problem: Mapping[str, Any]) -> int:
    return _place(problem).count(".")


def _valid_keys(location: tuple[int | str, ...], whole: type[BaseModel]) -> list[str]:
    model = whole
    if len(location) == 4 and location[0] == "datasets":  # table, entry, kind, key
        model = DATASET_KINDS[str(location[2])]
    elif location[0] == "toy":
        model = Toy
    elif len(location) == 3:
        tables: dict[str, type[BaseModel]] = {
            "embeddings": Embeddings,
            "imports": Import,
            "streams": Stream,
            "baselines": Baselines,
            "runs": Run,
            "searches": Search,
        }
        model = tables[str(location[0])]
    elif len(location) == 5:  # table, entry, backbone, kind, key
        model = InlineBackbone
    elif len(location) == 4:
        model = HeatMap if location[0] == "searches" else Stream
    return [field.alias or name for name, field in model.model_fields.items()]


def nearest(given: str, names: Iterable[str]) -> str:
    """Return a question in parentheses that suggests the nearest name, or an empty text."""
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
