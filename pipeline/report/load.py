"""Everything measured, read from the files that earlier stages leave.

Room: a leaf beside the `report` stage.
Enters: folders.
Leaves: one `RunResult` a run, `SearchResult` a search, the toy.
Must not know: how anything was measured, how it is drawn.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.io import read_text

__all__ = ["CURVE_COLUMNS", "Folders", "RunResult", "SearchResult", "Toy", "read_run", "read_searches", "read_toy"]

CURVE_COLUMNS = ("method", "order_seed", "task", "classes_seen", "seen_accuracy")
PREQUENTIAL_COLUMNS = ("method", "samples_seen", "accuracy")


@dataclass(frozen=True)
class RunResult:
    """All that the page says about one run.

    Attributes
    ----------
    name : str
        The run's id in the settings file.
    settings : mapping
        The run's settings, as plain nested mappings.
    metrics : mapping
        head → metric → number.
    curves : tuple of mapping
        Rows of the curve file, text as it stands there.
    matrices : mapping
        ``task_classes`` (T lists of names), ``heads`` (head → T,T shares), ``confusion`` (head → k,k counts).
    prequential : tuple of mapping
        Rows of the file of accuracies before learning, text as it stands there.
    confidence : mapping
        ``trust`` (kind → numbers and bins) and ``novelty`` (head → score → numbers).
    audit : mapping
        What the keys are used for.
    seconds : mapping
        head → part → wall-clock seconds, the baselines' among them.
    training : mapping
        What training reported.
    cards : mapping
        embeddings entry → card of its cache; the run's own entry first, then that of its keys.
    """

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]
    curves: tuple[Mapping[str, str], ...]
    matrices: Mapping[str, Any]
    prequential: tuple[Mapping[str, str], ...]
    confidence: Mapping[str, Any]
    audit: Mapping[str, Any]
    seconds: Mapping[str, Mapping[str, float]]
    training: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]]

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the embeddings that the run learned from."""
        return next(iter(self.cards.values()))


@dataclass(frozen=True)
class SearchResult:
    """What a search over settings found.

    Attributes
    ----------
    name : str
        Its id in the settings file.
    rows : tuple of mapping
        One a candidate, text as it stands in the file: ``rank``, ``mean_score``, ``std_score``, settings,
        ``fit_seconds``, ``error``.
    best : mapping
        ``best_params``, ``best_score`` and, where two settings were varied, ``heat_map`` with their names.
    """

    name: str
    rows: tuple[Mapping[str, str], ...]
    best: Mapping[str, Any]


@dataclass(frozen=True)
class Toy:
    """The example in the plane: head → metric → number, and its figure as PNG."""

    metrics: Mapping[str, Mapping[str, Any]]
    picture: bytes


@dataclass(frozen=True)
class Folders:
    """Where earlier stages leave what they measured."""

    metrics: Path
    matrices: Path
    curves: Path
    prequential: Path
    confidence: Path
    audits: Path
    timings: Path
    caches: Path
    figures: Path
    searches: Path


def read_run(name: str, settings: Mapping[str, Any], folders: Folders) -> RunResult:
    """Read everything measured for one run.

    Parameters
    ----------
    name : str
        The run's id.
    settings : mapping
        Its settings; ``embeddings`` and ``keys`` name the cards, ``baselines`` the timings of its baselines.
    folders : Folders
        Where to look.

    Returns
    -------
    RunResult
        The contents, unchanged.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is not what its name promises.
    """
    evaluate, file = "run", f"{name}.json"
    entries = dict.fromkeys((settings["embeddings"], settings["keys"]))
    seconds: dict[str, Any] = {}  # in no cache of DVC's, so not there where an experiment changed another run
    timings = [("run", name), *([("baselines", settings["baselines"])] if settings.get("baselines") else [])]
    for stage, entry in timings:
        if (path := folders.timings / stage / f"{entry}.json").exists():
            seconds |= _read(path, stage, json.loads)
    return RunResult(
        name=name,
        settings=settings,
        metrics=_read(folders.metrics / file, evaluate, json.loads),
        curves=_read(folders.curves / f"{name}.csv", evaluate, _rows, CURVE_COLUMNS),
        matrices=_read(folders.matrices / file, evaluate, json.loads, ("task_classes", "methods")),
        prequential=_read(folders.prequential / f"{name}.csv", evaluate, _rows, PREQUENTIAL_COLUMNS),
        confidence=_read(folders.confidence / file, evaluate, json.loads, ("trust", "novelty")),
        audit=_read(folders.audits / file, evaluate, json.loads, ("classes", "used_share", "overlap")),
        seconds=seconds,
        training=_read(folders.metrics / f"train_{file}", "run", json.loads),
        cards={entry: _read(folders.caches / f"{entry}.json", "extract", json.loads) for entry in entries},
    )


def read_searches(names: Iterable[str], folders: Folders) -> list[SearchResult]:
    """Read what the searches of these names found. Raises as `read_run`."""
    return [
        SearchResult(
            name,
            _read(folders.searches / f"{name}.csv", "search", _rows, ("rank", "mean_score")),
            _read(folders.searches / f"{name}.json", "search", json.loads, ("best_params", "best_score")),
        )
        for name in names
    ]


def read_toy(folders: Folders) -> Toy | None:
    """Read the example in the plane, or nothing where it was not run. Raises as `read_run`."""
    picture = folders.figures / "toy.png"
    if not picture.exists():
        return None
    return Toy(_read(folders.metrics / "toy.json", "run", json.loads), picture.read_bytes())


def _read(path: Path, stage: str, parse: Callable[[str], Any], keys: Iterable[str] = ()) -> Any:
    """Return the file's content, or say which stage makes the file anew."""
    try:
        content = parse(read_text(path))
    except FileNotFoundError as error:
        message = f"{path} is missing, but the report needs it; run `dvc repro {stage}` to make it"
        raise FileNotFoundError(message) from error
    except ValueError as error:
        wanted = f"a file as {stage} writes it is expected; run `dvc repro -f {stage}` to rebuild it"
        raise ValueError(f"{path} cannot be read ({error}); {wanted}") from error
    first = content[0] if isinstance(content, tuple) and content else content
    missing = [key for key in keys if not isinstance(first, dict) or first.get(key) is None]
    if missing or not isinstance(first, dict):
        wanted = f"expected: {', '.join(missing) or 'an object'}; run `dvc repro -f {stage}` to rebuild it"
        raise ValueError(f"{path} begins with {str(first)[:60]!r}; {wanted}")
    return content


def _rows(text: str) -> tuple[Mapping[str, str], ...]:
    return tuple(csv.DictReader(text.splitlines()))
