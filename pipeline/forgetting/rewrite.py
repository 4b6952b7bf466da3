"""Forget samples in every file of a project, all or nothing, with a receipt.

Enters: a project's folder, ids or a class, a reason. Leaves: manifests, caches, store, scratch and models without the
samples; keyed hashes of them on the suppression list; a receipt. Must not know: how DVC runs stages.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dkvb_estimator import __version__
from pipeline.cache import CacheReader, SplitRows, describe_cache, file_sha256, fingerprint_of, open_cache, write_cache
from pipeline.cache.import_export import listing_sha256
from pipeline.cli import write_json
from pipeline.data import DigestIndex, Manifest, without_rows, write_manifest
from pipeline.forgetting.journal import Journal, resume
from pipeline.forgetting.models import Change, forget_in_model
from pipeline.forgetting.samples import Samples, find_samples, list_samples, read_manifests
from pipeline.io import counted, lock_folder
from pipeline.store import image_names, is_among, rewrite_blocks
from pipeline.suppression import FOLDER, Suppression, make_key

MEASURING = {"baselines": "baselines", "run": "runs", "search": "searches"}
"""Stages whose results come from caches, and their tables."""


def forget(
    project: Path,
    scratch: Path,
    *,
    ids: Sequence[str] | None = None,
    class_name: str | None = None,
    dataset: str | None = None,
    reason: str,
) -> Path:
    """Forget samples everywhere in a project, and return the path of the receipt.

    Parameters
    ----------
    project : Path
        The folder that holds ``params.yaml``.
    scratch : Path
    ids : sequence of str or None
    class_name : str or None
        All samples of a class; exactly one of the two is given.
    dataset : str or None
        Where to search for the ids or the class; None: in all.
    reason : str

    Raises
    ------
    ValueError
        If the folder is not a project, a sample is unknown, or a data set would keep none; nothing is changed.
    RuntimeError
        If a file is in use; nothing is changed.
    OSError
        If a file cannot be read or written; nothing is changed, or the next call finishes it.
    """
    _check_project(project)
    folder = project / FOLDER
    with lock_folder(scratch / "forgetting", "forgetting samples"):
        resume(folder)
        _check_unused(_locks(scratch))
        manifests, caches = read_manifests(project / "manifests"), _caches(project)
        samples = find_samples(list(list_samples(manifests, caches)), ids, class_name, dataset)
        key = make_key(folder)
        hashes = sorted(Suppression(key, frozenset()).hash_of(name) for name in samples.names)
        with ExitStack() as open_files:
            work = _Work(Journal(folder), project, samples, open_files)
            work.rewrite_manifests(manifests)
            work.rewrite_caches(caches)
            work.rewrite_models(_files(project, ".npz"))
            work.rewrite_scratch(scratch)
        _check_unused([*_locks(scratch), *caches, *_files(scratch, ".h5")])
        kind = "samples" if class_name is None else "a class's samples"
        receipt = work.receipt(kind, reason, hashes)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = folder / "receipts" / f"{now}_{hashlib.sha256(''.join(hashes).encode()).hexdigest()[:8]}.json"
        work.journal.commit(hashes, receipt, path)
    return path


def _check_project(project: Path) -> None:
    if not (project / "params.yaml").is_file():
        raise ValueError(
            f"there is no params.yaml in {project.absolute().name or project.absolute()}; expected the folder of a "
            "project, whose files will be searched. Change to it, then start again."
        )


class _Work:
    """Stage new content for every file that contains some of the samples, and record the changes."""

    def __init__(self, journal: Journal, project: Path, samples: Samples, open_files: ExitStack) -> None:
        self.journal, self.project, self.samples, self._open = journal, project, samples, open_files
        self.files: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []
        self.objects: list[str] = []
        self._manifests: dict[str, Manifest] = {}
        self._changes: dict[str, Change] = {}
        self._caches: set[str] = set()
        self._n_rows_of_store = 0

    def rewrite_manifests(self, manifests: dict[Path, Manifest]) -> None:
        for path, manifest in manifests.items():
            goes = self.samples.ids.get(manifest.dataset, frozenset())
            rows = [row for row, sample_id in enumerate(manifest.sample_ids) if sample_id in goes]
            self._manifests[manifest.dataset] = without_rows(manifest, rows) if rows else manifest
            if rows:
                staged = self._staged(path, f"manifest, {counted(len(rows), 'line')}")
                write_manifest(self._manifests[manifest.dataset], staged)

    def rewrite_caches(self, caches: Sequence[Path]) -> None:
        for path in caches:
            reader = self._open.enter_context(open_cache(path))
            goes = self.samples.ids.get(reader.header.dataset, frozenset())
            rows = {split: _rows_among(reader, split, goes) for split in reader.split_names}
            if not any(map(len, rows.values())):
                continue
            n_rows = sum(map(len, rows.values()))
            staged = self._staged(path, f"cache, {counted(n_rows, 'row')}")
            _write_without(reader, staged, rows, self._manifests.get(reader.header.dataset))
            new = self._open.enter_context(open_cache(staged))
            old_sha256, new_sha256 = file_sha256(path), file_sha256(staged)
            none = np.zeros(0, np.int64)
            self._changes[old_sha256] = Change(reader, new, rows.get("train", none), old_sha256, new_sha256)
            if path.parent == self.project / "caches":
                self._caches.add(path.stem)
            card = self.project / "cards" / f"{path.stem}.json"
            if path.parent == self.project / "caches" and card.is_file():
                self._rewrite_card(card, staged, new_sha256)

    def _rewrite_card(self, card: Path, cache: Path, sha256: str) -> None:
        old = json.loads(card.read_text(encoding="utf-8"))
        kept = {name: old[name] for name in ("skipped_images",) if name in old}
        write_json(self._staged(card, "card of a cache"), describe_cache(cache) | {"file_sha256": sha256} | kept)

    def rewrite_models(self, paths: Sequence[Path]) -> None:
        for path in paths:
            staged = self.journal.folder / f"model{len(self.models)}.npz"
            record = forget_in_model(path, self._changes, staged)
            if record is None:
                continue
            self.models.append(record | {"path": self._name(path)})
            if record["how"] == "trained again":
                self._delete(path, "model")
            else:
                self._note(path, "model")
                self.journal.replace.append((str(staged), str(path)))

    def rewrite_scratch(self, scratch: Path) -> None:
        """Remove the samples from the store and the index of files; delete codes and unfinished work."""
        gone = image_names(sorted(self.samples.digests))
        for path, n_rows in rewrite_blocks(scratch / "store", lambda images: ~is_among(images, gone)):
            self._n_rows_of_store += n_rows
            self.journal.delete.append(str(path))
        for path in [*(scratch / "store").glob("*/.*.part")]:
            self.journal.delete.append(str(path))
        for path in (scratch / "folders").glob("*") if (scratch / "folders").is_dir() else ():
            if path.suffix in (".part", ".json"):  # half written, or of an earlier release
                self.journal.delete.append(str(path))
                continue
            index = DigestIndex(path)
            if index.drop(set(self.samples.digests)):
                index.save_as(self._staged(path, "index of files"))
        if self._changes:
            for path in [*_files(scratch, ".h5"), *_files(scratch, ".npz"), *scratch.rglob("*.npy")]:
                self._delete(path, "codes or a checkpoint")

    def receipt(self, kind: str, reason: str, hashes: Sequence[str]) -> dict[str, Any]:
        """Return a record of what was done and what was not reached."""
        models = {model["how"] for model in self.models}
        after = {target: staged for staged, target in self.journal.replace}
        for file in self.files:
            staged = after.get(str(self.project / file["path"]))
            file["sha256_after"] = file_sha256(staged) if staged is not None else None
        touched = [] if not self._changes else [
            "results in the report that were measured with these samples (`dvc repro` measures them again): "
            + (", ".join(_measured_with(self.project, self._caches)) or "none"),
            "temperatures and held-out samples that depend on these samples, which are deleted with their models "
                "(`dvc repro` chooses them again)",
        ]  # fmt: skip
        touched += [f"the name of class {name}, which stays in class_names" for name in self.samples.emptied]
        if "trained again" in models:
            touched.append("keys or gradient steps of the models that are trained again")
        return {
            "format": "dkvb-deletion-receipt",
            "version": 1,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "kind": kind,
            "reason": reason,
            "n_samples": {name: len(ids) for name, ids in sorted(self.samples.ids.items())},
            "n_copies": self.samples.n_copies,
            "n_rows_of_store": self._n_rows_of_store,
            "keyed_hashes_sha256": hashlib.sha256("".join(hashes).encode()).hexdigest(),
            "files": self.files,
            "models": self.models,
            "what_saw_them": touched,
            "not_reached": self._not_reached(),
            "versions": {"dkvb": __version__, "python": platform.python_version(), "numpy": np.__version__},
        }

    def _not_reached(self) -> list[dict[str, Any]]:
        unreached: list[dict[str, Any]] = [
            {
                "what": "objects of DVC's cache that contain the old files",
                "files": self.objects,
                "command": "dvc repro && dvc gc --workspace",
            },
            {
                "what": "exported arrays, and source files of imports, which are not searched",
                "files": self._plain_arrays(),
                "command": "delete them by hand",
            },
            {"what": "remotes of DVC", "command": "dvc gc --workspace --cloud --remote NAME"},
            {"what": "commits of Git and earlier runs that refer to such objects", "command": "git log -- dvc.lock"},
            {"what": "the image files themselves, copies elsewhere, and backups", "command": "delete them by hand"},
            {"what": "a backbone that was trained on the images", "command": "none"},
        ]
        return unreached

    def _plain_arrays(self) -> list[str]:
        models = {model["path"] for model in self.models}
        found = [path for suffix in (".npy", ".npz", ".pt", ".parquet") for path in _files(self.project, suffix)]
        return sorted({self._name(path) for path in found} - models)

    def _staged(self, path: Path, what: str) -> Path:
        self._note(path, what)
        return self.journal.stage(path)

    def _delete(self, path: Path, what: str) -> None:
        self._note(path, f"{what}, deleted")
        self.journal.delete.append(str(path))

    def _note(self, path: Path, what: str) -> None:
        self.files.append({"path": self._name(path), "what": what, "sha256_before": file_sha256(path)})
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        stored = self.project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        if stored.exists():
            self.objects.append(self._name(stored))

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.project)


def _measured_with(project: Path, caches: set[str]) -> list[str]:
    """Return the results of every entry that reads one of these caches, from the records of its stage."""
    found = set()
    for stage, table in MEASURING.items():
        entries, record = (_known(project / path) for path in (f"settings/{table}.json", f"records/{stage}.json"))
        for name, entry in entries.items():
            if caches & {entry.get("embeddings"), entry.get("keys")}:
                files = record.get(name, {}).get("files", {})
                found |= {path for path in files if not path.startswith(("models/", "timings/"))}
    return sorted(path for path in found if (project / path).is_file())


def _known(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _rows_among(reader: CacheReader, split: str, ids: frozenset[str]) -> np.ndarray:
    return np.array([row for row, one in enumerate(reader.sample_ids(split)) if one in ids], np.int64)


def _write_without(reader: CacheReader, path: Path, rows: dict[str, np.ndarray], manifest: Manifest | None) -> None:
    """Write a cache without some of its rows, in the same storage types."""
    splits, listed = {}, {}
    for split in reader.split_names:
        kept = np.setdiff1d(np.arange(reader.n_rows(split)), rows[split])
        if not len(kept):
            continue
        ids = reader.sample_ids(split)
        part = SplitRows(
            _blocks(reader, split, kept), reader.labels(split)[kept], [ids[row] for row in kept],
            reader.max_rounding_error(split),
        )  # fmt: skip
        splits[split] = listed[split] = part
    header = reader.header
    if manifest is not None and "imported" not in header.preprocessing:
        sha256 = manifest.sha256
    else:
        sha256 = listing_sha256(header.class_names, listed)
    header = replace(header, manifest_sha256=sha256)
    write_cache(path, replace(header, fingerprint=fingerprint_of(asdict(header))), splits)


def _blocks(reader: CacheReader, split: str, rows: np.ndarray) -> Iterator[np.ndarray]:
    n = reader.block_rows(split)
    for start in range(0, len(rows), n):
        yield reader.read(split, rows[start : start + n]).astype(reader.header.storage_dtype)


def _caches(project: Path) -> list[Path]:
    """Return all caches of a project, in any folder.

    Raises
    ------
    RuntimeError
        If one is open elsewhere.
    """
    paths = []
    for path in _files(project, ".h5"):
        _check_unused([path])
        try:
            open_cache(path).close()
        except ValueError:
            continue  # HDF5, but not a cache
        paths.append(path)
    return paths


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return the files with this suffix below a folder, not those of hidden folders, environments, other projects."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        here = Path(place)
        kept = [name for name in folders if not name.startswith(".") and here / name != folder / FOLDER]
        strange = ("pyvenv.cfg", "params.yaml", ".dvc")
        folders[:] = sorted(name for name in kept if not any((here / name / mark).exists() for mark in strange))
        found += [here / name for name in sorted(names) if name.endswith(suffix)]
    return found


def _locks(scratch: Path) -> list[Path]:
    """Return the locks of running extractions and trainings, which would write files with the samples again."""
    return [path for path in sorted(scratch.rglob("lock")) if path.parent != scratch / "forgetting"]


def _check_unused(paths: Sequence[Path]) -> None:
    """Refuse files that another process has locked: HDF5 locks files that it reads, and every stage locks its work."""
    for path in paths:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RuntimeError(
                    f"{path.parent.name[:12]}/{path.name} is in use by another process; expected no other process "
                    "to use it while samples are forgotten. Wait until it finishes, then start again; nothing "
                    "was changed."
                ) from error
