"""Read all results from the files of earlier stages; missing files are listed, and raise no error.

Enters: folders. Leaves: `RunResult`, `SearchResult`, `Toy`. Must not know: how results were measured or are drawn.
"""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.io import read_text

FOLDERS = ("metrics", "matrices", "curves", "prequential", "confidence", "key_usage", "timings", "cards",
           "figures", "searches")  # fmt: skip
# Part of a run → folder, file, the DVC stage that writes it, and what the file must contain.
FILES = {
    "metrics": ("metrics", "{}.json", "run", ()),
    "curves": ("curves", "{}.csv", "run", ("method", "order_seed", "task", "classes_seen", "seen_accuracy")),
    "matrices": ("matrices", "{}.json", "run", ("task_classes", "methods")),
    "prequential": ("prequential", "{}.csv", "run", ("method", "samples_seen", "accuracy")),
    "confidence": ("confidence", "{}.json", "run", ("calibration", "novelty")),
    "key_usage": ("key_usage", "{}.json", "run", ("classes", "used_share", "overlap")),
    "seconds": ("timings", "run/{}.json", "run", ()),
    "training": ("metrics", "train_{}.json", "run", ()),
}
BASELINE_SECONDS = ("timings", "baselines/{}.json", "baselines", ())
CARD = ("cards", "{}.json", "extract", ())
SEARCH_TABLE = ("searches", "{}.csv", "search", ("rank", "mean_score"))
SEARCH_BEST = ("searches", "{}.json", "search", ("best_params", "best_score"))
RECEIPT = {"format": "dkvb-deletion-receipt", "version": 1}
"""Keys of every receipt of a deletion."""
BASELINES = "baselines"
"""The table of the settings file that names baselines, and the setting of a run that names an entry of it."""


@dataclass
class RunResult:
    """All results of one run; missing ones are empty, and named in `missing`."""

    name: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: list[Mapping[str, str]] = field(default_factory=list)
    matrices: Mapping[str, Any] = field(default_factory=dict)
    prequential: list[Mapping[str, str]] = field(default_factory=list)
    confidence: Mapping[str, Any] = field(default_factory=dict)
    key_usage: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, Mapping[str, float]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    cards: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    guarantees: Mapping[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def card(self) -> Mapping[str, Any]:
        """The card of the embeddings that the run learned from."""
        return self.cards.get(self.settings["embeddings"], {})

    @property
    def n_orders(self) -> int:
        """Number of measured orders of classes; 0 if the curves are missing."""
        return len({row["order_seed"] for row in self.curves})


class SearchResult(NamedTuple):
    """The results of a search over settings: a row per candidate, the best, and missing files."""

    name: str
    rows: Sequence[Mapping[str, str]]
    best: Mapping[str, Any]
    missing: list[str]


class Toy(NamedTuple):
    """The example in the plane: method → metric → number, and its figure as PNG."""

    metrics: Mapping[str, Mapping[str, Any]]
    picture: bytes


def read_run(name: str, settings: Mapping[str, Any], folders: Mapping[str, Path]) -> RunResult:
    """Read all results of one run.

    Raises
    ------
    ValueError
        If a file exists but cannot be read, or lacks what this page needs.
    """
    run = RunResult(name, settings)
    for part, kind in FILES.items():
        if (content := _read(folders, kind, name, run.missing)) is not None:
            setattr(run, part, content)
    if entry := settings.get(BASELINES):
        run.seconds = run.seconds | (_read(folders, BASELINE_SECONDS, entry, run.missing) or {})
    for entry in dict.fromkeys((settings["embeddings"], settings["keys"])):
        if (card := _read(folders, CARD, entry, run.missing)) is not None:
            run.cards[entry] = card
    run.guarantees = run.key_usage.get("guarantees", {})
    return run


def read_search(name: str, folders: Mapping[str, Path]) -> SearchResult:
    """Read the results of a search. Raises as `read_run`."""
    missing: list[str] = []
    table, best = (_read(folders, kind, name, missing) for kind in (SEARCH_TABLE, SEARCH_BEST))
    return SearchResult(name, table or [], best or {}, missing)


def read_toy(folders: Mapping[str, Path]) -> Toy | None:
    """Read the example in the plane; None if it was not drawn. Raises as `read_run`."""
    picture = folders["figures"] / "toy.png"
    if not picture.exists():
        return None
    return Toy(_read(folders, ("metrics", "{}.json", "toy", ()), "toy", []) or {}, picture.read_bytes())


def read_receipts(folder: Path) -> list[Mapping[str, Any]]:
    """Read the receipts of deletions, the earliest first; none if there was no deletion.

    Raises
    ------
    ValueError
        If a file of the folder is not a receipt.
    """
    receipts = []
    for path in sorted(folder.glob("*.json")):
        try:
            receipt = json.loads(read_text(path))
        except ValueError as error:
            receipt, why = None, f"cannot be read ({error})"
        else:
            why = f"begins with {str(receipt)[:60]!r}"
        if not isinstance(receipt, dict) or not RECEIPT.items() <= receipt.items():
            raise ValueError(
                f"{path} {why}; expected a receipt as `python -m pipeline forget` writes it. Restore it, for example "
                "from Git, or move it elsewhere."
            )
        receipts.append(receipt)
    return sorted(receipts, key=lambda receipt: str(receipt["time"]))


def _read(folders: Mapping[str, Path], kind: tuple[str, str, str, Iterable[str]], name: str, missing: list[str]) -> Any:
    """Return the content of a file; note the stage that makes it if it is missing, and raise if it is damaged."""
    folder, pattern, stage, keys = kind
    path, target = folders[folder] / pattern.format(name), stage
    rebuild = f"Run `dvc repro -f {target}` to rebuild it."
    try:
        text = read_text(path)
        content = [*csv.DictReader(text.splitlines())] if path.suffix == ".csv" else json.loads(text)
    except FileNotFoundError:
        missing.append(f"{folder}/{path.name} is missing. Run `dvc repro {target}` to make it.")
        return None
    except ValueError as error:
        wanted = f"expected a file as the stage {target} writes it. {rebuild}"
        raise ValueError(f"{path} cannot be read ({error}); {wanted}") from error
    rows = content if isinstance(content, list) and path.suffix == ".csv" else [content]
    records = [row for row in rows if isinstance(row, dict)]
    lacking = [key for key in keys if not records or records[0].get(key) is None]
    if lacking or not records:
        wanted = ", ".join(lacking) or "an object"
        raise ValueError(f"{path} begins with {text[:60]!r}; expected {wanted}. {rebuild}")
    return records if path.suffix == ".csv" else records[0] if keys else content
