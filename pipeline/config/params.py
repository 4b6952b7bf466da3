"""The settings of a pipeline, read once and checked as a whole.

Room: a leaf, and the only reader of ``params.yaml``.
Enters: the path of a settings file with the tables ``datasets``, ``folders``, ``embeddings``, ``imports``, ``streams``,
``rivals``, ``runs``, ``searches`` and ``toy``.
Leaves: a frozen `Params` whose every name and number has been checked.
Must not know: where any other file lies, what a backbone or an estimator is, what a stage does.
"""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from pipeline.config.datasets import (
    DESCRIBED,
    Cifar,
    Dataset,
    Digits,
    Embeddings,
    Folder,
    Id,
    Import,
    InlineBackbone,
    Photos,
    Record,
)
from pipeline.config.plain_yaml import BANNED_KEYS, load_plain
from pipeline.config.search import HeatMap, Search
from pipeline.config.streams import Rivals, Stream, Toy

__all__ = [
    "BANNED_KEYS",
    "Cifar",
    "Digits",
    "Embeddings",
    "Folder",
    "Import",
    "InlineBackbone",
    "Params",
    "Photos",
    "Rivals",
    "Run",
    "Search",
    "Stream",
    "Toy",
    "load_params",
]

Scalar = bool | int | float | str | None


class Run(Record):
    """What is learned from one cache: where keys come from, the stream, and the estimator's settings.

    `rivals` names the entry of ``rivals`` that the run is compared with. `declare_classes` tells the estimator all
    classes before the first stage, as the paper's model knows them. `held_out_share` of the training rows are kept from
    a second model, of the first order, whose temperature they choose: how far its probabilities can be trusted.
    """

    embeddings: Id
    keys: Id
    key_rows: Literal["all", "first_stage"] = "all"
    stream: Stream
    epochs_per_stage: int = Field(default=1, ge=1)
    declare_classes: bool = False
    rivals: Id | None = None
    held_out_share: float = Field(default=0.1, ge=0, le=0.5)
    estimator: dict[str, Scalar]

    @model_validator(mode="after")
    def _first_stage_is_of_this_run(self) -> "Run":
        if self.key_rows == "first_stage" and self.keys != self.embeddings:
            raise ValueError(
                f"key_rows is 'first_stage', but keys names {self.keys!r} and embeddings "
                f"{self.embeddings!r}; one entry is expected for both, so name the same one twice or write "
                f"key_rows: all"
            )
        return self


class Params(Record):
    """A whole settings file.

    Attributes
    ----------
    datasets, folders, embeddings, imports, streams, rivals, runs, searches : dict of str to record
        The tables by entry name; runs and rivals hold the stream that they name. The accessors `dataset`, `folder`,
        `embedding`, `imported`, `rival`, `run` and `search` look up the same with a message that names the nearest
        entry. An entry of `embeddings` reads one of `datasets` or `folders`; a run learns from one of `embeddings` or
        `imports`.
    toy : Toy
        Settings of the example in the plane.
    """

    datasets: dict[Id, Dataset] = Field(default_factory=dict)
    folders: dict[Id, Folder] = Field(default_factory=dict)
    embeddings: dict[Id, Embeddings] = Field(default_factory=dict)
    imports: dict[Id, Import] = Field(default_factory=dict)
    streams: dict[Id, Stream] = Field(default_factory=dict)
    rivals: dict[Id, Rivals] = Field(default_factory=dict)
    runs: dict[Id, Run] = Field(default_factory=dict)
    searches: dict[Id, Search] = Field(default_factory=dict)
    toy: Toy = Toy()

    def dataset(self, name: str) -> dict[str, Any]:
        """Return the recipe of a dataset as a plain dict, or raise ValueError naming the nearest entry."""
        return _entry(self.datasets, "datasets", name).model_dump()

    def folder(self, name: str) -> dict[str, Any]:
        """Return the recipe of a folder of images as a plain dict, or raise ValueError naming the nearest entry."""
        return {"kind": "folder", **_entry(self.folders, "folders", name).model_dump()}

    def imported(self, name: str) -> Import:
        """Return one entry of `imports`; raises ValueError naming the nearest entry."""
        return _entry(self.imports, "imports", name)

    def embedding(self, name: str) -> Embeddings:
        """Return one entry of `embeddings`; raises ValueError naming the nearest entry."""
        return _entry(self.embeddings, "embeddings", name)

    def embedding_of(self, entry: Run | Rivals | Search) -> Embeddings | Import:
        """Return the entry of `embeddings` or `imports` that an entry learns from."""
        return (self.embeddings | self.imports)[entry.embeddings]

    def run(self, name: str) -> Run:
        """Return one entry of `runs`; raises ValueError naming the nearest entry."""
        return _entry(self.runs, "runs", name)

    def search(self, name: str) -> Search:
        """Return one entry of `searches`; raises ValueError naming the nearest entry."""
        return _entry(self.searches, "searches", name)

    def rival(self, name: str) -> Rivals:
        """Return one entry of `rivals`; raises ValueError naming the nearest entry."""
        return _entry(self.rivals, "rivals", name)

    @model_validator(mode="before")
    @classmethod
    def _streams_are_put_in_place(cls, tree: Any) -> Any:
        """Replace the name of a stream by what it names: the rest of the pipeline knows streams, not their names.

        A table with nothing after its name is as empty as one that is left out.
        """
        tree = {table: entries for table, entries in tree.items() if entries is not None}
        streams = tree.get("streams", {})
        return tree | {
            table: {name: _with_stream(entry, streams, f"{table}.{name}") for name, entry in tree[table].items()}
            for table in ("rivals", "runs")
            if isinstance(tree.get(table), Mapping)
        }

    @model_validator(mode="after")
    def _references_hold(self) -> "Params":
        _check_apart("datasets", self.datasets, "folders", self.folders)
        _check_apart("embeddings", self.embeddings, "imports", self.imports)
        for name, entry in self.embeddings.items():
            images = self.datasets | self.folders
            _check_reference(
                images, _either("datasets", "folders", self.folders), entry.dataset, f"embeddings.{name}.dataset"
            )
        for name, run in self.runs.items():
            _check_run_id(name)
            self._check_caches(f"runs.{name}", run)
            if run.rivals is not None:
                _check_reference(self.rivals, "rivals", run.rivals, f"runs.{name}.rivals")
                _check_one_contest(name, run, self.rivals[run.rivals])
        for name, rivals in self.rivals.items():
            self._check_caches(f"rivals.{name}", rivals)
        for name, search in self.searches.items():
            self._check_caches(f"searches.{name}", search)
        return self

    def _check_caches(self, entry: str, reader: Run | Rivals | Search) -> None:
        """Check that the caches exist that an entry learns from and places keys by, and hold one space."""
        for field in ("embeddings", "keys"):
            table = _either("embeddings", "imports", self.imports)
            _check_reference(self.embeddings | self.imports, table, getattr(reader, field), f"{entry}.{field}")
        if reader.embeddings in self.embeddings and reader.keys in self.embeddings:  # else the caches are compared
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
        As `pipeline.plain_yaml.load_plain`, or if a key is unknown or missing, or a value is out of range.
        The message names the key's path and, where there is one, the nearest valid key.
    OSError
        If the file cannot be read.
    """
    tree = load_plain(path)
    tree = {} if tree is None else tree
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{path} holds {tree!r:.60}; tables such as datasets, embeddings and runs are expected: start from the "
            f"shipped file"
        )
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_sentence(error)}") from None


def _entry(table: Mapping[str, Any], table_name: str, name: str) -> Any:
    if name not in table:
        raise ValueError(
            f"{name!r} is not an entry of {table_name}{_nearest(name, table)}; expected one of "
            f"{', '.join(sorted(table)) or '(none)'}: correct the name or add the entry"
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
    # both tables make files of their entries' names
    if shared := sorted(set(entries) & set(others)):
        raise ValueError(
            f"{shared[0]!r} is an entry of both {table} and {other}; names that differ are expected, so rename one"
        )


def _check_run_id(name: str) -> None:
    # metrics/<run>.json stands beside metrics/train_<run>.json and the like: no path may mean two.
    if name == "toy" or name.startswith(("train_", "search_")):
        raise ValueError(
            f"runs.{name}: this id would share metrics/{name}.json with another stage; an id is expected "
            f"that is not 'toy' and does not start with 'train_' or 'search_', so rename the run"
        )


def _check_one_space(place: str, run: Run | Rivals | Search, embeddings: Mapping[str, Embeddings]) -> None:
    own, keys = embeddings[run.embeddings], embeddings[run.keys]
    for field, of_keys, of_samples in (("backbone", keys.network, own.network), ("tap", keys.tap, own.tap)):
        if of_keys != of_samples:
            raise ValueError(
                f"{place}: keys come from {run.keys!r} with {field} {_as_written(of_keys)}, samples "
                f"from {run.embeddings!r} with {field} {_as_written(of_samples)}; one embedding space is "
                f"expected, so make the two entries agree"
            )


def _with_stream(entry: Any, streams: Any, where: str) -> Any:
    if not (isinstance(entry, Mapping) and isinstance(entry.get("stream"), str) and isinstance(streams, Mapping)):
        return entry
    _check_reference(streams, "streams", entry["stream"], f"{where}.stream")
    return {**entry, "stream": streams[entry["stream"]]}


def _check_one_contest(name: str, run: Run, rivals: Rivals) -> None:
    """Numbers may stand side by side only where all heads saw the same."""
    both = {
        field: (getattr(run, field), getattr(rivals, field)) for field in ("embeddings", "keys", "key_rows", "stream")
    }
    both["normalize"] = (run.estimator.get("normalize", True), rivals.normalize)
    for field, (own, theirs) in both.items():
        if own != theirs:
            raise ValueError(
                f"runs.{name}: {field} is {own!r}, that of its rivals {run.rivals!r} is {theirs!r}; the same is "
                f"expected for all heads, so make the two entries agree or name other rivals"
            )


def _as_written(value: str | InlineBackbone) -> str:
    return repr(value if isinstance(value, str) else value.model_dump(exclude_unset=True))


_KINDS: dict[str, type[BaseModel]] = {
    "digits": Digits,
    "photos": Photos,
    "cifar10": Cifar,
    "cifar100": Cifar,
}


def _first_sentence(error: ValidationError) -> str:
    """Turn pydantic's list of problems into one sentence about the first of them."""
    problems = error.errors(include_url=False)
    # A misspelt key is missing under its right name as well: the misspelling tells more.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in first["loc"] if part not in (DESCRIBED, "(named)"))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        valid = _valid_keys(first["loc"])
        return (
            f"{place} is not a setting{_nearest(str(first['loc'][-1]), valid)}; expected one of "
            f"{', '.join(valid)}: rename or remove it{more}"
        )
    if first["type"] == "missing":
        return f"{place} is missing; expected a value for it, so add the key{more}"
    if first["type"] == "union_tag_invalid":
        given = str(first["ctx"]["tag"])
        if given == "folder":
            return (
                f"{place}.kind is 'folder'; images in folders stand in a table of their own: move it to folders{more}"
            )
        return (
            f"{place}.kind is {given!r}{_nearest(given, _KINDS)}; expected one of {', '.join(_KINDS)}: correct the "
            f"kind{more}"
        )
    if first["type"] == "value_error":
        return f"{place + ': ' if place else ''}{first['ctx']['error']}{more}"
    if first["type"] == "string_type" and not isinstance(first["input"], Mapping | list):
        return f"{place} is {first['input']!r}; expected text, so write it, in quotes if YAML reads it otherwise{more}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{place} is {first['input']!r}; {message}: correct the value{more}"


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Params
    if len(location) == 4 and location[0] == "datasets":  # table, entry, kind, key
        model = _KINDS[str(location[2])]
    elif location[0] == "toy":
        model = Toy
    elif len(location) == 3:
        tables: dict[str, type[BaseModel]] = {
            "folders": Folder,
            "embeddings": Embeddings,
            "imports": Import,
            "streams": Stream,
            "rivals": Rivals,
            "runs": Run,
            "searches": Search,
        }
        model = tables[str(location[0])]
    elif len(location) == 5:  # table, entry, backbone, kind, key
        model = InlineBackbone
    elif len(location) == 4:
        model = HeatMap if location[0] == "searches" else Stream
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(given: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
