"""The table ``defaults``: default settings of the entries of other tables.

Enters: tables as they were read. Leaves: the same without ``defaults``. Must not know: records, values.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["with_defaults"]

SAME = {"layer": "layers", "layers": "layer"}
"""Alternative settings: an entry's own one replaces the default of the other."""
TABLES = ("datasets", "embeddings", "imports", "streams", "baselines", "runs", "searches")


def with_defaults(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Fill each table's defaults into its entries, setting by setting at any depth; an entry's own settings win.

    For alternative settings, such as ``layer`` and ``layers``, an entry's own one replaces the other.

    Raises
    ------
    ValueError
        If a key of the defaults is not a table.

    Examples
    --------
    >>> with_defaults({"defaults": {"runs": {"method": {"a": 1, "b": 2}}}, "runs": {"x": {"method": {"b": 3}}}})
    {'runs': {'x': {'method': {'a': 1, 'b': 3}}}}
    """
    tables = {table: entries for table, entries in tree.items() if table != "defaults"}
    defaults = tree.get("defaults", {})
    for table, settings in defaults.items() if isinstance(defaults, Mapping) else [(None, None)]:
        if table not in TABLES or not isinstance(settings, Mapping | None):
            raise ValueError(
                f"defaults contains {table or defaults!r}; expected settings of {', '.join(TABLES)}. Name the "
                "table, and below it the settings that its entries share."
            )
        entries = tables.get(table)
        if isinstance(entries, Mapping) and settings:
            tables[table] = {name: _merged(_not_said(settings, entry), entry) for name, entry in entries.items()}
    return tables


def _not_said(settings: Mapping[str, Any], entry: Any) -> Mapping[str, Any]:
    own = entry if isinstance(entry, Mapping) else {}
    return {name: value for name, value in settings.items() if name not in SAME or own.get(SAME[name]) is None}


def _merged(below: Mapping[str, Any], above: Any) -> Any:
    """Return the upper mapping, completed from the lower one; None counts as an empty mapping."""
    if above is None:
        return dict(below)
    if not isinstance(above, Mapping):
        return above
    both = {
        name: _merged(below[name], value) if isinstance(below.get(name), Mapping) and value is not None else value
        for name, value in above.items()
    }
    return {**below, **both}
