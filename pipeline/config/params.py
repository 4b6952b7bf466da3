"""The settings of a pipeline, read once and checked as a whole.

Enters: the path of a settings file with the tables ``datasets``, ``embeddings``, ``imports``, ``streams``,
``baselines``, ``runs``, ``searches`` and ``toy``, and ``defaults`` of their entries.
Leaves: a frozen `Params` whose every name and number has been checked.
Must not know: paths of other files, what a backbone or a method is, what a stage does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from pipeline.config.baselines import Baselines
from pipeline.config.datasets import Dataset
from pipeline.config.defaults import with_defaults
from pipeline.config.embeddings import Embeddings, Import, InlineBackbone
from pipeline.config.plain_yaml import load_plain
from pipeline.config.problems import first_sentence, nearest
from pipeline.config.records import Id, Record, encoder_and_rest
from pipeline.config.renamed import refuse_old_names
from pipeline.config.runs import Run
from pipeline.config.searches import Search
from pipeline.config.streams import Stream
from pipeline.config.toy import Toy

__all__ = ["Params", "load_params"]


class Params(Record):
    """A whole settings file.

    Attributes
    ----------
    datasets, embeddings, imports, streams, baselines, runs, searches : dict of str to record
        The tables by entry name; runs and baselines contain the stream that they name. The accessors `dataset`,
        `embedding`, `imported`, `baseline`, `run` and `search` look up an entry; their error names the nearest one. A
        run learns from an entry of `embeddings` or `imports`.
    toy : Toy or None
        Settings of the example in the plane, if any.
    """

    datasets: dict[Id, Dataset] = Field(default_factory=dict)
    embeddings: dict[Id, Embeddings] = Field(default_factory=dict)
    imports: dict[Id, Import] = Field(default_factory=dict)
    streams: dict[Id, Stream] = Field(default_factory=dict)
    baselines: dict[Id, Baselines] = Field(default_factory=dict)
    runs: dict[Id, Run] = Field(default_factory=dict)
    searches: dict[Id, Search] = Field(default_factory=dict)
    toy: Toy | None = None

    def dataset(self, name: str) -> dict[str, Any]:
        """Return the recipe of a dataset as a plain dict, or raise ValueError naming the nearest entry."""
        return _entry(self.datasets, "datasets", name).model_dump()

    def imported(self, name: str) -> Import:
        """Return one entry of `imports`; raises ValueError naming the nearest entry."""
        return _entry(self.imports, "imports", name)

    def embedding(self, name: str) -> Embeddings:
        """Return one entry of `embeddings`; raises ValueError naming the nearest entry."""
        return _entry(self.embeddings, "embeddings", name)

    def embedding_of(self, entry: Run | Baselines | Search) -> Embeddings | Import:
        """Return the entry of `embeddings` or `imports` that an entry learns from."""
        return (self.embeddings | self.imports)[entry.embeddings]

    def run(self, name: str) -> Run:
        """Return one entry of `runs`; raises ValueError naming the nearest entry."""
        return _entry(self.runs, "runs", name)

    def search(self, name: str) -> Search:
        """Return one entry of `searches`; raises ValueError naming the nearest entry."""
        return _entry(self.searches, "searches", name)

    def baseline(self, name: str) -> Baselines:
        """Return one entry of `baselines`; raises ValueError naming the nearest entry."""
        return _entry(self.baselines, "baselines", name)

    @model_validator(mode="before")
    @classmethod
    def _defaults_and_streams_are_put_in_place(cls, tree: Any) -> Any:
        """Fill in the ``defaults`` of each table, and replace the name of a stream by the stream.

        A table without a value counts as empty, like a missing one.
        """
        tree = with_defaults({table: entries for table, entries in tree.items() if entries is not None})
        refuse_old_names(tree)
        streams = tree.get("streams", {})
        return tree | {
            table: {name: _with_stream(entry, streams, f"{table}.{name}") for name, entry in tree[table].items()}
            for table in ("baselines", "runs")
            if isinstance(tree.get(table), Mapping)
        }

    @model_validator(mode="after")
    def _references_hold(self) -> "Params":
        _check_apart("embeddings", self.embeddings, "imports", self.imports)
        for name, entry in self.embeddings.items():
            _check_reference(self.datasets, "datasets", entry.dataset, f"embeddings.{name}.dataset")
        for name, run in self.runs.items():
            _check_run_id(name)
            self._check_caches(f"runs.{name}", run)
            if run.baselines is not None:
                _check_reference(self.baselines, "baselines", run.baselines, f"runs.{name}.baselines")
                _check_same_conditions(name, run, self.baselines[run.baselines])
        for name, baselines in self.baselines.items():
            self._check_caches(f"baselines.{name}", baselines)
        for name, search in self.searches.items():
            self._check_caches(f"searches.{name}", search)
        return self

    def _check_caches(self, entry: str, reader: Run | Baselines | Search) -> None:
        """Check that the caches for learning and for keys exist and hold the same embedding space."""
        for field in ("embeddings", "keys"):
            table = _either("embeddings", "imports", self.imports)
            _check_reference(self.embeddings | self.imports, table, getattr(reader, field), f"{entry}.{field}")
        if reader.embeddings in self.embeddings and reader.keys in self.embeddings:  # otherwise the caches are compared
            _check_one_space(entry, reader, self.embeddings)


def load_params(path: str | Path) -> Params:
    """Read and check a settings file.

    Parameters
    ----------
    path : str or Path
        A YAML file with tables such as ``datasets``, ``embeddings`` and ``runs``; each may be missing or empty.

    Returns
    -------
    Params
        Frozen; every reference between the tables holds.

    Raises
    ------
    ValueError
        As `pipeline.config.plain_yaml.load_plain`, or if a key is unknown or missing, or a value is out of
        range. The message names the key's path and, where there is one, the nearest valid key.
    OSError
        If the file cannot be read.
    """
    tree = load_plain(path)
    tree = {} if tree is None else tree
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{path} contains {tree!r:.60}; expected tables such as datasets, embeddings and runs. Start from the "
            "shipped file."
        )
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {first_sentence(error, Params)}") from None


def _entry(table: Mapping[str, Any], table_name: str, name: str) -> Any:
    if name not in table:
        raise ValueError(
            f"{name!r} is not an entry of {table_name}{nearest(name, table)}; expected one of "
            f"{', '.join(sorted(table)) or '(none)'}. Correct the name, or add the entry."
        )
    return table[name]


def _check_reference(table: Mapping[str, Any], table_name: str, name: str, where: str) -> None:
    try:
        _entry(table, table_name, name)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _either(table: str, other: str, entries: Mapping[str, Any]) -> str:
    return f"{table} or {other}" if entries else table


def _check_apart(table: str, entries: Mapping[str, Any], other: str, others: Mapping[str, Any]) -> None:
    # both tables name files after their entries
    if shared := sorted(set(entries) & set(others)):
        raise ValueError(
            f"{shared[0]!r} is an entry of both {table} and {other}; expected different names. Rename one."
        )


def _check_run_id(name: str) -> None:
    # metrics/<run>.json must not collide with metrics/train_<run>.json or metrics/toy.json
    if name == "toy" or name.startswith("train_"):
        raise ValueError(
            f"runs.{name}: metrics/{name}.json is reserved for another result; expected an id that is not "
            "'toy' and does not start with 'train_'. Rename the run."
        )


def _check_one_space(place: str, run: Run | Baselines | Search, embeddings: Mapping[str, Embeddings]) -> None:
    own, keys = embeddings[run.embeddings], embeddings[run.keys]
    layers = [entry.layer_names[0] if len(entry.layer_names) == 1 else list(entry.layer_names) for entry in (keys, own)]
    for field, of_keys, of_samples in (("backbone", keys.network, own.network), ("layer", *layers)):
        if of_keys != of_samples:
            raise ValueError(
                f"{place}: keys come from {run.keys!r} with {field} {_as_written(of_keys)}, samples from "
                f"{run.embeddings!r} with {field} {_as_written(of_samples)}; expected one embedding space. Make "
                "the two entries agree."
            )


def _with_stream(entry: Any, streams: Any, where: str) -> Any:
    if not (isinstance(entry, Mapping) and isinstance(entry.get("stream"), str) and isinstance(streams, Mapping)):
        return entry
    _check_reference(streams, "streams", entry["stream"], f"{where}.stream")
    return {**entry, "stream": streams[entry["stream"]]}


def _check_same_conditions(name: str, run: Run, baselines: Baselines) -> None:
    """Numbers are comparable only if all methods saw the same rows."""
    both = {
        field: (getattr(run, field), getattr(baselines, field))
        for field in ("embeddings", "keys", "key_rows", "stream")
    }
    both["normalize"] = (encoder_and_rest(run.method)[0].get("normalize", True), baselines.normalize)
    for field, (own, theirs) in both.items():
        if own != theirs:
            raise ValueError(
                f"runs.{name}: {field} is {own!r}, but {theirs!r} in its baselines {run.baselines!r}; expected "
                "the same for all methods. Make the two entries agree, or name other baselines."
            )


def _as_written(value: Any) -> str:
    return repr(value.model_dump(exclude_unset=True) if isinstance(value, InlineBackbone) else value)
