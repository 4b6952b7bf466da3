"""The settings of a pipeline, read once and checked as a whole.

Room: a leaf, and the only reader of ``params.yaml``.
Enters: the path of a settings file with the tables ``datasets``, ``embeddings``, ``streams``, ``rivals``, ``runs``
and ``toy``.
Leaves: a frozen `Params` whose every name and number has been checked.
Must not know: where any other file lies, what a backbone or an estimator is, what a stage does.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from pipeline.records import Id, Record, Rivals, Seed, Stream, Toy

__all__ = [
    "BANNED_KEYS",
    "Cifar",
    "Digits",
    "Embeddings",
    "Folder",
    "InlineBackbone",
    "Params",
    "Photos",
    "Rivals",
    "Run",
    "Stream",
    "Toy",
    "load_params",
]

# DVC leaves keys of these names out of the hash by which it finds earlier results: a change goes unnoticed.
BANNED_KEYS = ("size", "nfiles")

Scalar = bool | int | float | str | None


class Digits(Record):
    """scikit-learn's handwritten digits, split into training and test images by a seeded stratified draw."""

    kind: Literal["digits"]
    test_fraction: float = Field(gt=0, lt=1)
    seed: Seed


class Photos(Record):
    """Seeded crops of scikit-learn's two sample photographs: unlabelled, all of them training images."""

    kind: Literal["photos"]
    n_crops: int = Field(ge=1)
    seed: Seed


class Folder(Record):
    """Images in one folder per class; `root` is relative to where the command runs.

    `test_fraction` and `seed` speak only where the tree has no ``train`` and ``test`` folders of its own.
    """

    kind: Literal["folder"]
    root: str
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    seed: Seed = 0


class Cifar(Record):
    """CIFAR-10 or CIFAR-100 as torchvision stores them under `root`."""

    kind: Literal["cifar10", "cifar100"]
    root: str


Dataset = Annotated[Digits | Photos | Folder | Cifar, Field(discriminator="kind")]


class InlineBackbone(Record):
    """A network that has no name of its own here: a library's architecture, and where its weights come from.

    `weights` is a checkpoint file, relative to where the command runs, or the name that the library gives to
    weights of its own. Preprocessing, `prefix`, `extra_keys` and `without_classifier` speak of files only: of its own
    weights the library says all this itself. What is left out gets the defaults of `pipeline.inline_backbones`.
    `sha256` (at least its first eight digits) pins the file, whose content DVC does not watch.
    """

    library: Literal["torchvision", "timm", "open_clip"]
    model: Annotated[str, StringConstraints(pattern=r"^[\w.\-]+$")]
    weights: Annotated[str, StringConstraints(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    width: int | None = Field(default=None, ge=1)
    mean: list[float] | None = Field(default=None, min_length=3, max_length=3)
    std: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=3, max_length=3)
    interpolation: Literal["bilinear", "bicubic"] | None = None
    crop_ratio: float | None = Field(default=None, gt=0, le=1)
    prefix: str | None = None
    extra_keys: list[Annotated[str, StringConstraints(min_length=1)]] | None = None
    without_classifier: bool | None = None
    licence: str | None = None
    paper: str | None = None

    @property
    def file(self) -> str | None:
        """The checkpoint file; None where the library knows the weights by name."""
        return self.weights if self.weights.endswith(_CHECKPOINTS) else None

    @property
    def id(self) -> str:
        """Library, architecture and weights; the colons keep it apart from the names of known backbones."""
        return f"{self.library}:{self.model}:{Path(self.weights).stem if self.file else self.weights}"

    def recipe(self) -> dict[str, Any]:
        """Return what was written, `id` and `file`, as a plain dict."""
        return {"id": self.id, "file": self.file, **self.model_dump(exclude_none=True)}

    @model_validator(mode="after")
    def _files_are_described_here_and_names_by_their_library(self) -> "InlineBackbone":
        extra = [name for name in _OF_FILES if getattr(self, name) is not None]
        if self.file is None and extra:
            raise ValueError(
                f"{extra[0]} describes a checkpoint file, but weights is {self.weights!r}, of which {self.library} "
                f"itself says this; expected a file ending in {', '.join(_CHECKPOINTS)}, so name one or remove "
                f"{extra[0]}"
            )
        return self


_CHECKPOINTS = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_OF_FILES = ("mean", "std", "interpolation", "crop_ratio", "prefix", "extra_keys", "without_classifier")
_DESCRIBED = "(described)"
"""How pydantic calls the second kind of backbone in the place of a problem."""


def _kind_of_backbone(value: Any) -> str:
    return _DESCRIBED if isinstance(value, Mapping | InlineBackbone) else "(named)"


class Embeddings(Record):
    """What is extracted once: which images through which network, read at which layer, stored how.

    `network` is what stands under ``backbone``: the name of a known one, or a description.
    """

    dataset: Id
    network: Annotated[
        Annotated[str, Tag("(named)")] | Annotated[InlineBackbone, Tag(_DESCRIBED)], Discriminator(_kind_of_backbone)
    ] = Field(alias="backbone")
    tap: str
    image_side: int = Field(ge=8, le=1024)
    compute_dtype: Literal["float32", "float16", "bfloat16"]
    storage_dtype: Literal["float16", "float32"]

    @property
    def backbone(self) -> str:
        """The id by which a cache names the network."""
        return self.network if isinstance(self.network, str) else self.network.id


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
    datasets, embeddings, streams, rivals, runs : dict of str to record
        The tables by entry name; runs and rivals hold the stream that they name. The accessors `dataset`,
        `embedding`, `rival` and `run` look up the same with a message that names the nearest entry.
    toy : Toy
        Settings of the example in the plane.
    """

    datasets: dict[Id, Dataset]
    embeddings: dict[Id, Embeddings]
    streams: dict[Id, Stream] = Field(default={})
    rivals: dict[Id, Rivals] = Field(default={})
    runs: dict[Id, Run]
    toy: Toy = Toy()

    def dataset(self, name: str) -> dict[str, Any]:
        """Return the recipe of a dataset as a plain dict, or raise ValueError naming the nearest entry."""
        return _entry(self.datasets, "datasets", name).model_dump()

    def embedding(self, name: str) -> Embeddings:
        """Return one entry of `embeddings`; raises ValueError naming the nearest entry."""
        return _entry(self.embeddings, "embeddings", name)

    def embedding_of(self, entry: Run | Rivals) -> Embeddings:
        """Return the entry of `embeddings` that a run or its rivals learn from."""
        return self.embeddings[entry.embeddings]

    def run(self, name: str) -> Run:
        """Return one entry of `runs`; raises ValueError naming the nearest entry."""
        return _entry(self.runs, "runs", name)

    def rival(self, name: str) -> Rivals:
        """Return one entry of `rivals`; raises ValueError naming the nearest entry."""
        return _entry(self.rivals, "rivals", name)

    @model_validator(mode="before")
    @classmethod
    def _streams_are_put_in_place(cls, tree: Any) -> Any:
        """Replace the name of a stream by what it names: the rest of the pipeline knows streams, not their names."""
        streams = tree.get("streams", {})
        return tree | {
            table: {name: _with_stream(entry, streams, f"{table}.{name}") for name, entry in tree[table].items()}
            for table in ("rivals", "runs")
            if isinstance(tree.get(table), Mapping)
        }

    @model_validator(mode="after")
    def _references_hold(self) -> "Params":
        for name, entry in self.embeddings.items():
            _check_reference(self.datasets, "datasets", entry.dataset, f"embeddings.{name}.dataset")
        for name, run in self.runs.items():
            _check_run_id(name)
            for field in ("embeddings", "keys"):
                _check_reference(self.embeddings, "embeddings", getattr(run, field), f"runs.{name}.{field}")
            _check_one_space(name, run, self.embeddings)
            if run.rivals is not None:
                _check_reference(self.rivals, "rivals", run.rivals, f"runs.{name}.rivals")
                _check_one_contest(name, run, self.rivals[run.rivals])
        for name, rivals in self.rivals.items():
            for field in ("embeddings", "keys"):
                _check_reference(self.embeddings, "embeddings", getattr(rivals, field), f"rivals.{name}.{field}")
        return self


def load_params(path: str | Path) -> Params:
    """Read and check a settings file.

    Parameters
    ----------
    path : str or Path
        A YAML file with the tables ``datasets``, ``embeddings`` and ``runs``.

    Returns
    -------
    Params
        Frozen; every reference between the tables holds.

    Raises
    ------
    ValueError
        If the text is not YAML, a key is unknown, missing, given twice or banned, or a value is out of range.
        The message names the key's path and, where there is one, the nearest valid key.
    OSError
        If the file cannot be read.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        tree = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader: builds no objects
    except yaml.YAMLError as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid YAML ({detail}); mend the line it names") from error
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"{path} holds no tables; datasets, embeddings and runs are expected: start from the shipped file"
        )
    _refuse_unsafe(tree, ())
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ValueError(f"{path}: {_first_sentence(error)}") from None


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key given twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice; keep one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_unsafe(tree: Any, path: tuple[str, ...]) -> None:
    """Raise for banned key names and for numbers that PyYAML reads as text but DVC reads as numbers."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key in BANNED_KEYS:
                raise ValueError(
                    f"{'.'.join((*path, key))}: DVC leaves keys named {key!r} out of its hash, so a "
                    f"change would be missed; any other name is expected, so rename it"
                )
            _refuse_unsafe(value, (*path, str(key)))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _refuse_unsafe(value, (*path, str(index)))
    elif isinstance(tree, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", tree):
        raise ValueError(
            f"{'.'.join(path)}: {tree!r} is text to one YAML reader and a number to another; a plain number "
            f"is expected, so write {float(tree)!r}"
        )


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


def _check_run_id(name: str) -> None:
    # metrics/<run>.json stands beside metrics/train_<run>.json and the like: no path may mean two.
    if name == "toy" or name.startswith(("train_", "search_")):
        raise ValueError(
            f"runs.{name}: this id would share metrics/{name}.json with another stage; an id is expected "
            f"that is not 'toy' and does not start with 'train_' or 'search_', so rename the run"
        )


def _check_one_space(name: str, run: Run, embeddings: Mapping[str, Embeddings]) -> None:
    own, keys = embeddings[run.embeddings], embeddings[run.keys]
    for field, of_keys, of_samples in (("backbone", keys.network, own.network), ("tap", keys.tap, own.tap)):
        if of_keys != of_samples:
            raise ValueError(
                f"runs.{name}: keys come from {run.keys!r} with {field} {_as_written(of_keys)}, samples "
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
    "folder": Folder,
    "cifar10": Cifar,
    "cifar100": Cifar,
}


def _first_sentence(error: ValidationError) -> str:
    """Turn pydantic's list of problems into one sentence about the first of them."""
    problems = error.errors(include_url=False)
    # A misspelt key is missing under its right name as well: the misspelling tells more.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    place = ".".join(str(part) for part in first["loc"] if part not in (_DESCRIBED, "(named)"))
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
        return (
            f"{place}.kind is {given!r}{_nearest(given, _KINDS)}; expected one of {', '.join(_KINDS)}: correct the "
            f"kind{more}"
        )
    if first["type"] == "value_error":
        return f"{place + ': ' if place else ''}{first['ctx']['error']}{more}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{place} is {first['input']!r}; {message}: correct the value{more}"


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Params
    if len(location) == 4 and location[0] == "datasets":  # table, entry, kind, key
        model = _KINDS[str(location[2])]
    elif location[0] == "toy":
        model = Toy
    elif len(location) == 3:
        tables: dict[str, type[BaseModel]] = {"embeddings": Embeddings, "streams": Stream, "rivals": Rivals}
        model = tables.get(str(location[0]), Run)
    elif len(location) == 5:  # table, entry, backbone, kind, key
        model = InlineBackbone
    elif len(location) == 4:
        model = Stream
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(given: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0.5)
    return f", did you mean {close[0]!r}?" if close else ""
