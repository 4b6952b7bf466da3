"""YAML that two readers interpret alike: PyYAML, which the pipeline uses, and the reader of DVC.

Enters: a file. Leaves: mappings, lists and plain values. Must not know: what the settings mean.

PyYAML reads YAML 1.1, where ``no`` is false; DVC reads YAML 1.2, where ``1e3`` is a number. DVC silently skips an
entry whose name is not text.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.io import encoding_of, read_text

__all__ = ["BANNED_KEYS", "load_plain"]

# DVC leaves keys of these names out of the hash by which it finds earlier results: it would miss a change.
BANNED_KEYS = ("size", "nfiles")

MAX_VALUES = 100_000
"""Largest number of values of a settings file, with aliases expanded."""

_NUMBER = re.compile(r"[+-]?(0o[0-7_]+|\d[\d_]*|(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][+-]?\d+)")
"""Numbers of YAML 1.2 that YAML 1.1 may read as text."""
_TAG = "tag:yaml.org,2002:"
_READ_AS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


def load_plain(path: str | Path) -> Any:
    """Read a file whose keys and values both readers interpret alike.

    Raises
    ------
    ValueError
        If it is not YAML in UTF-8, a key is given twice, banned or not text, a value is text to one reader and a number
        to the other, or aliases expand without end.
    OSError
        If the file cannot be read.
    """
    encoding = encoding_of(Path(path).read_bytes()).removesuffix("-sig").upper()
    if encoding != "UTF-8":
        raise ValueError(
            f"{path} is text in {encoding}; expected UTF-8, the only encoding that DVC reads. Save it as UTF-8."
        )
    text = read_text(path)
    with _naming_the_line(path):
        loader = _Loader(text)
        loader.name = str(path)
        root = loader.get_single_node()
        n_values = _n_values(root, {}) if root is not None else 0
    if n_values > MAX_VALUES:
        raise ValueError(
            f"{path} contains more than {MAX_VALUES:,} values once its aliases are expanded; expected a file of "
            "settings. Remove the nested aliases."
        )
    if root is None:
        return None
    _check_tree(root)
    with _naming_the_line(path):
        return loader.construct_document(root)


class _Loader(yaml.SafeLoader):
    """A loader that builds no objects, and that interprets merge keys as DVC does.

    A mapping's own keys take precedence, then the first of several merged ones; PyYAML 6.0.4 may take any of these.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        pairs = {key.value: (key, value) for key, value in node.value if key.tag != _TAG + "merge"}
        for source in [value for key, value in node.value if key.tag == _TAG + "merge"]:
            for merged in source.value if isinstance(source, yaml.SequenceNode) else [source]:
                if not isinstance(merged, yaml.MappingNode):
                    raise yaml.constructor.ConstructorError(None, None, "<< needs a mapping", merged.start_mark)
                self.flatten_mapping(merged)
                for key, value in merged.value:
                    pairs.setdefault(key.value, (key, value))
        node.value = list(pairs.values())


@contextmanager
def _naming_the_line(path: str | Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # PyYAML passes on any error of its conversions, including RecursionError
        detail = f"{path} is not valid YAML ({' '.join(str(error).split())})"
        raise ValueError(
            f"{detail}; expected tables of plain values in UTF-8. Correct the line that is named."
        ) from error


def _n_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, with aliases expanded; a recursive node exceeds any limit."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # until it is counted
        below = _children(node)
        known[id(node)] = 1 + sum(_n_values(child, known) for child in below)
    return known[id(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _check_tree(root: yaml.Node) -> None:
    """Raise for keys and values that the two readers interpret differently, and for duplicate keys."""
    waiting: list[tuple[yaml.Node, tuple[str, ...]]] = [(root, ())]
    seen: set[int] = set()
    while waiting:
        node, path = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        names = [str(index) for index in range(len(node.value))]
        if isinstance(node, yaml.MappingNode):
            _check_keys(node, path)
            names = [key.value for key, _ in node.value]
        elif isinstance(node, yaml.ScalarNode) and _is_text_here_alone(node):
            raise ValueError(
                f"{'.'.join(path)}: {node.value!r} is text to one YAML reader and a number to another; expected a "
                f"plain number, or text in quotes. Write {_plain(node.value)} or '{node.value}'."
            )
        waiting.extend((child, (*path, name)) for child, name in zip(_children(node), names))


def _check_keys(node: yaml.MappingNode, path: tuple[str, ...]) -> None:
    seen = set()
    for key, _ in node.value:
        where = f"line {key.start_mark.line + 1} of {key.start_mark.name}"
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{where}: a key is not text; expected a plain name. Use letters.")
        if key.value in seen:
            raise ValueError(f"{where}: key {key.value!r} is given twice; expected it once. Remove one.")
        seen.add(key.value)
        if key.tag == _TAG + "merge":
            continue
        place = ".".join((*path, key.value))
        if key.tag != _TAG + "str" or _is_text_here_alone(key):
            kind = _READ_AS.get(key.tag.removeprefix(_TAG), "a number")
            advice = f"Quote it: '{key.value}'" if re.fullmatch(r"\w+", key.value) else "Rename it"
            raise ValueError(
                f"{place}: YAML reads the name {key.value} as {kind}; expected text of letters, digits and "
                f"underscores. {advice}."
            )
        if key.value in BANNED_KEYS:
            raise ValueError(
                f"{place}: DVC leaves keys named {key.value!r} out of its hash, so it would miss a change; "
                "expected any other name. Rename it."
            )


def _is_text_here_alone(node: yaml.ScalarNode) -> bool:
    return node.style is None and node.tag == _TAG + "str" and _NUMBER.fullmatch(node.value) is not None


def _plain(number: str) -> str:
    value = number.replace("_", "")
    return repr(int(value, 8) if "o" in value else float(value) if re.search("[.eE]", value) else int(value))
