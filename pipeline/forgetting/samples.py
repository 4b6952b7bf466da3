"""Find the samples to forget, in manifests and imported caches.

Enters: the manifests and imported caches of a project; ids, or the name of a class. Leaves: their ids by data set and
the digests of their images, or the nearest id to one that is unknown. Must not know: models, how files are rewritten.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cache import open_cache
from pipeline.data import Manifest, read_manifest
from pipeline.suppression import id_name


@dataclass(frozen=True)
class Samples:
    """The samples to forget.

    Parameters
    ----------
    ids : mapping from dataset to set of str
        Includes every sample whose image has the same bytes as a named one.
    digests : frozenset of str
        Digests of the images.
    names : tuple of str
        The names whose keyed hashes go into the suppression list.
    n_copies : int
        Number of samples that were not named, but have the same bytes as a named one.
    emptied : tuple of str
        Classes that keep no sample.
    """

    ids: Mapping[str, frozenset[str]]
    digests: frozenset[str]
    names: tuple[str, ...]
    n_copies: int
    emptied: tuple[str, ...]


@dataclass(frozen=True)
class Listed:
    """The samples of one data set: a manifest, or an imported cache.

    Parameters
    ----------
    path : Path
    dataset : str
    ids : sequence of str
    classes : sequence of str
        The name of each sample's class, or "".
    digests : sequence of str or None
        None: no images are known.
    """

    path: Path
    dataset: str
    ids: Sequence[str]
    classes: Sequence[str]
    digests: Sequence[str] | None


def list_samples(manifests: Mapping[Path, Manifest], caches: Sequence[Path]) -> Iterator[Listed]:
    """Yield the samples of each manifest and each imported cache."""
    for path, manifest in manifests.items():
        names = [manifest.class_names[label] if label >= 0 else "" for label in manifest.labels.tolist()]
        yield Listed(path, manifest.dataset, manifest.sample_ids, names, manifest.digests)
    for path in caches:
        with open_cache(path) as reader:
            header = reader.header
            if "imported" not in header.preprocessing:
                continue
            ids = [sample_id for split in reader.split_names for sample_id in reader.sample_ids(split)]
            labels = np.concatenate([reader.labels(split) for split in reader.split_names]).tolist()
            names = [header.class_names[label] if label >= 0 else "" for label in labels]
            yield Listed(path, header.dataset, ids, names, None)


def read_manifests(folder: Path) -> dict[Path, Manifest]:
    """Return the manifests of a folder."""
    return {path: read_manifest(path) for path in sorted(folder.glob("*.jsonl"))}


def find_samples(
    listed: Sequence[Listed], ids: Sequence[str] | None, class_name: str | None, dataset: str | None
) -> Samples:
    """Find samples by their ids, or by the name of their class.

    Raises
    ------
    ValueError
        If an id, the class or the data set is unknown, with the nearest that is known; if names are found in several
        data sets; or if one would keep no sample.
    """
    known = sorted({one.dataset for one in listed})
    if dataset is not None and dataset not in known:
        raise ValueError(f"there is no dataset {dataset!r}{_nearest(dataset, known)}. Correct --dataset.")
    asked = [one for one in listed if dataset in (None, one.dataset)]
    named: dict[str, set[str]] = {one.dataset: set() for one in listed}
    wanted = set(ids or ())
    for one in asked:
        named[one.dataset] |= {i for i, c in zip(one.ids, one.classes, strict=True) if i in wanted or c == class_name}
    found = set().union(*named.values())
    if class_name is not None and not found:
        classes = sorted({name for one in asked for name in one.classes if name})
        raise ValueError(f"there is no sample of class {class_name!r}{_nearest(class_name, classes)}. Correct --class.")
    if unknown := sorted(wanted - found):
        every = [sample_id for one in asked for sample_id in one.ids]
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise ValueError(
            f"there is no sample {unknown[0]!r}{more}{_nearest(unknown[0], every)}. Correct the file of ids."
        )
    _check_one_meant(named)
    return _with_copies(listed, named)


def _check_one_meant(named: Mapping[str, set[str]]) -> None:
    """Refuse names that denote different samples in several data sets."""
    holders = [name for name, ids in named.items() if ids]
    if len(holders) > 1:
        raise ValueError(
            f"the named samples are in {' and '.join(holders)}; expected samples of one dataset. Choose it with "
            "--dataset."
        )


def _with_copies(listed: Sequence[Listed], named: Mapping[str, set[str]]) -> Samples:
    """Add the samples whose images have the same bytes, in any data set."""
    digests = {
        digest
        for one in listed
        for sample_id, digest in zip(one.ids, one.digests or (), strict=one.digests is not None)
        if sample_id in named[one.dataset]
    }
    goes: dict[str, set[str]] = {name: set(ids) for name, ids in named.items()}
    for one in listed:
        goes[one.dataset] |= {i for i, d in zip(one.ids, one.digests or (), strict=False) if d in digests}
    emptied: list[str] = []
    for one in listed:
        stays = {c for i, c in zip(one.ids, one.classes, strict=True) if i not in goes[one.dataset]}
        if set(one.ids) <= goes[one.dataset]:
            raise ValueError(
                f"dataset {one.dataset} would keep none of its {len(one.ids)} samples; expected at least one. "
                "Remove the dataset from params.yaml, and its files, instead."
            )
        gone = {c for i, c in zip(one.ids, one.classes, strict=True) if i in goes[one.dataset]} - stays - {""}
        emptied += [f"{name} of {one.dataset}" for name in sorted(gone)]
    # Also the ids of images: arrays of their embeddings know nothing else.
    names = sorted(digests) + sorted({id_name(o.dataset, i) for o in listed for i in o.ids if i in goes[o.dataset]})
    n_copies = sum(map(len, goes.values())) - sum(map(len, named.values()))
    ids = {name: frozenset(ids) for name, ids in goes.items() if ids}
    return Samples(ids, frozenset(digests), tuple(names), n_copies, tuple(emptied))


def _nearest(given: str, known: Sequence[str]) -> str:
    # searching a million would take minutes, so only names with the same beginning
    alike = [name for name in known if name[:3] == given[:3]][:100_000] or list(known[:100_000])
    close = difflib.get_close_matches(given, alike, n=1, cutoff=0)
    return f"; expected one that is known, such as {close[0]!r}" if close else "; expected one that is known"
