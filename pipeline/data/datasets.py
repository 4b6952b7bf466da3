"""Images by name, in a reproducible order and split.

Enters: a recipe (the settings of one data set). Leaves: a manifest, which lists every image with the sha256 of its
content, and the images themselves. Must not know: networks, embeddings, learning.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from pipeline.data.digest_index import DigestIndex
from pipeline.data.folder_entries import some
from pipeline.data.folder_layout import list_images
from pipeline.data.image_files import CorruptImageError, read_image, reading, to_rgb
from pipeline.io import replaced
from pipeline.suppression import Suppression

UNLABELLED = -1
_PHOTOS = ("china.jpg", "flower.jpg")
_CROP_SHARE = (0.12, 0.75)
"""Side of a crop as a share of the photograph's shorter side; drawn on a logarithmic scale."""


@dataclass(frozen=True)
class Manifest:
    """List the images of a data set.

    Parameters
    ----------
    dataset : str
    recipe : mapping, JSON-able
        The settings from which the images are made.
    class_names : tuple of str
        Label 0 is the first.
    sample_ids : tuple of n str
    labels : ndarray of shape (n,), int64
        −1 where there is none.
    splits : tuple of n str
    digests : tuple of n str
        The sha256 of each file's bytes, or of an array's pixels.
    skipped : tuple of str
        Files that cannot be decoded and were skipped, as the recipe allows.
    notes : tuple of str
        What else was left out of the folder, one sentence each. They are printed, not written: embeddings do not depend
        on other files beside the images.
    """

    dataset: str
    recipe: Mapping[str, Any]
    class_names: tuple[str, ...]
    sample_ids: tuple[str, ...]
    labels: np.ndarray
    splits: tuple[str, ...]
    digests: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sha256(self) -> str:
        """The sha256 of the manifest's lines."""
        digest = hashlib.sha256()
        for line in _lines(self):
            digest.update(line.encode())
        return digest.hexdigest()


def build_manifest(
    name: str,
    recipe: Mapping[str, Any],
    index: str | Path | None = None,
    *,
    rehash: bool = False,
    suppression: Suppression | None = None,
) -> Manifest:
    """List the images that a recipe describes.

    Parameters
    ----------
    name : str
    recipe : mapping
        ``kind`` and its settings, as the records of `pipeline.config.datasets` describe them.
    index : str or Path or None
        A scratch file: only changed files of a known folder are read again.
    rehash : bool, default=False
        Whether to read all files again.
    suppression : Suppression or None
        Forgotten images, which are left out; the others keep their splits.

    Raises
    ------
    ValueError, OSError
        If the kind is unknown, a folder is missing or empty, an image cannot be read, or a class is too small to split.

    Examples
    --------
    >>> manifest = build_manifest("digits", {"kind": "digits", "test_fraction": 0.3, "seed": 0})
    >>> len(manifest.labels), manifest.splits.count("test"), manifest.class_names[3]
    (1797, 540, '3')
    """
    known = DigestIndex(index, rehash=rehash, forgotten=suppression or frozenset())
    kinds: dict[str, Callable[[str, Mapping[str, Any]], Manifest]] = {
        **{kind: manifest_of for kind, (manifest_of, _) in ARRAY_KINDS.items()},
        "folder": partial(_folder_manifest, index=known),
    }
    if recipe["kind"] not in kinds:
        nearest = difflib.get_close_matches(recipe["kind"], kinds, n=1, cutoff=0)[0]
        raise ValueError(
            f"dataset {name} is of kind {recipe['kind']!r}; expected one of {', '.join(kinds)}. Did you mean "
            f"{nearest!r}? Correct datasets.{name}.kind in params.yaml."
        )
    manifest = kinds[recipe["kind"]](name, recipe)
    return manifest if suppression is None else _without_forgotten(manifest, suppression)


def _without_forgotten(manifest: Manifest, suppression: Suppression) -> Manifest:
    forgotten = [row for row, digest in enumerate(manifest.digests) if digest in suppression]
    if not forgotten:
        return manifest
    if len(forgotten) == len(manifest.digests):
        raise ValueError(
            f"all {len(forgotten)} images of dataset {manifest.dataset} were forgotten; expected at least one "
            "that was not. Remove the dataset from params.yaml, or add other images."
        )
    named = some([manifest.sample_ids[row] for row in forgotten])
    note = f"warning: {len(forgotten)} images were forgotten and are left out: {named}. Delete their files."
    return replace(without_rows(manifest, forgotten), notes=(*manifest.notes, note))


def without_rows(manifest: Manifest, rows: Sequence[int]) -> Manifest:
    """Return a manifest without some of its rows; the others keep their splits, and all class names stay."""
    kept = np.setdiff1d(np.arange(len(manifest.sample_ids)), rows)
    ids, splits, digests = (
        tuple(values[row] for row in kept) for values in (manifest.sample_ids, manifest.splits, manifest.digests)
    )
    return replace(manifest, labels=manifest.labels[kept], sample_ids=ids, splits=splits, digests=digests)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest as JSON lines, completely or not at all: a header, then one line per image."""
    with replaced(path) as neighbour, neighbour.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_lines(manifest))


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    OSError
        If there is none.
    ValueError
        If it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no manifest {path}; expected one. Run `dvc repro`.")
    try:
        # not splitlines(), which also splits at characters that may occur in file names
        with path.open(encoding="utf-8", newline="\n") as file:
            header = json.loads(file.readline())
            ids, labels, splits, digests = _rows(map(json.loads, file))
        if len(ids) != _of(int, header["n_samples"]):
            raise ValueError(f"{len(ids)} of {header['n_samples']} images")
        manifest = Manifest(
            dataset=_of(str, header["dataset"]),
            recipe=_of(dict, header["recipe"]),
            class_names=tuple(_of(str, name) for name in _of(list, header["class_names"])),
            sample_ids=tuple(ids),
            labels=np.array(labels, dtype=np.int64),
            splits=tuple(splits),
            digests=tuple(digests),
            skipped=tuple(_of(str, name) for name in _of(list, header.get("skipped", []))),
        )
        _check_rows(manifest)
        return manifest
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"manifest {path} is damaged ({error}); expected JSON lines that the manifest stage wrote. Run `dvc repro`."
        ) from error


Value = TypeVar("Value", int, str, dict, list)


def _of(kind: type[Value], value: Any) -> Value:
    """Return a value if it has the given type; nothing is converted."""
    if type(value) is not kind:
        raise ValueError(f"{value!r:.80} is not a {kind.__name__}")
    return value


def _rows(lines: Iterable[Any]) -> tuple[list[str], list[int], list[str], list[str]]:
    """Return ids, labels, splits and digests of a manifest's lines, one line in memory at a time."""
    ids, labels, splits, digests = [], [], [], []
    for row in lines:
        ids.append(_of(str, row["id"]))
        labels.append(_of(int, row["label"]))
        splits.append(sys.intern(_of(str, row["split"])))
        digests.append(_of(str, row["sha256"]))
    return ids, labels, splits, digests


def _check_rows(manifest: Manifest) -> None:
    """Refuse rows before hours of extraction that the cache would refuse afterwards."""
    labels, n_classes = manifest.labels, len(manifest.class_names)
    wrong = labels[(labels < UNLABELLED) | (labels >= n_classes)]
    if len(wrong):
        raise ValueError(f"label {wrong[0]} of {n_classes} classes")
    if len(set(manifest.sample_ids)) < len(manifest.sample_ids):
        twice = Counter(manifest.sample_ids).most_common(1)[0][0]
        raise ValueError(f"id {twice!r} occurs twice")
    if foreign := set(manifest.splits) - {"train", "test"}:
        raise ValueError(f"split {min(foreign)!r:.80}, which is neither train nor test")
    for text in (*manifest.sample_ids, *manifest.class_names):
        if b"\0" in text.encode():  # raises if UTF-8 cannot encode it
            raise ValueError(f"{text!r:.80} contains the character NUL")


def remarks(manifest: Manifest) -> list[str]:
    """Return remarks on a manifest for the user, one sentence each; the first gives the number of images.

    An image in two splits makes the test too easy: images with equal bytes (of arrays: equal pixels) are named.

    Examples
    --------
    >>> manifest = build_manifest("photos", {"kind": "photos", "n_crops": 3, "seed": 0})
    >>> remarks(manifest)
    ['3 images (3 train)']
    """
    counts = ", ".join(f"{manifest.splits.count(split):,} {split}" for split in sorted(set(manifest.splits)))
    said = [f"{len(manifest.labels):,} images ({counts})"]
    if repeated := repeated_images(manifest):
        named = some([f"{one} = {other}" for one, other in repeated], "; ")
        said.append(
            f"{len(repeated)} images have the same content as another image of the same split; each content is "
            f"embedded once: {named}."
        )
    if pairs := shared_images(manifest):
        named = some([f"{one} = {other}" for one, other in pairs], "; ")
        said.append(f"warning: {len(pairs)} images are in two splits: {named}. Remove one of each pair.")
    if skipped := manifest.skipped:
        said.append(f"warning: {len(skipped)} images cannot be decoded and were skipped: {some(skipped)}.")
    return [*said, *manifest.notes]


def shared_images(manifest: Manifest) -> list[tuple[str, str]]:
    """Return pairs of ids with the same content in different splits."""
    return [
        (manifest.sample_ids[other], manifest.sample_ids[row])
        for row, other in _copies(manifest.digests)
        if manifest.splits[other] != manifest.splits[row]
    ]


def repeated_images(manifest: Manifest) -> list[tuple[str, str]]:
    """Return each id that repeats the content of an earlier one in its split, after that earlier id."""
    named = [f"{split} {digest}" for split, digest in zip(manifest.splits, manifest.digests, strict=True)]
    return [(manifest.sample_ids[other], manifest.sample_ids[row]) for row, other in _copies(named)]


def _copies(names: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the position of each repeated name, and its first position."""
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if (other := first.setdefault(name, row)) != row:
            yield row, other


def _lines(manifest: Manifest) -> Iterable[str]:
    header: dict[str, Any] = {
        "dataset": manifest.dataset,
        "recipe": dict(manifest.recipe),
        "class_names": list(manifest.class_names),
        "n_samples": len(
            manifest.sample_ids
        ),  # a file that was truncated between two lines must not be mistaken for a shorter one
    }
    if manifest.skipped:
        header["skipped"] = list(manifest.skipped)
    yield json.dumps(header, sort_keys=True, ensure_ascii=False) + "\n"
    rows = zip(manifest.sample_ids, manifest.labels.tolist(), manifest.splits, manifest.digests, strict=True)
    for sample_id, label, split, digest in rows:
        row = {"id": sample_id, "label": label, "split": split, "sha256": digest}
        yield json.dumps(row, ensure_ascii=False) + "\n"


class Images(Sequence[Image.Image]):
    """Give the images of a manifest, each checked against its digest, in RGB.

    Parameters
    ----------
    manifest : Manifest
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest.sample_ids)

    def __getitem__(self, row: int) -> Image.Image:  # type: ignore[override]
        """Return the image of a row.

        Raises
        ------
        OSError
            If it is missing, cannot be decoded, or differs from the manifest.
        """
        sample_id, recipe = self.manifest.sample_ids[row], self.manifest.recipe
        if recipe["kind"] == "folder":
            image, digest = _read(recipe, sample_id)
        else:
            _, pixels_of = ARRAY_KINDS[recipe["kind"]]
            pixels = pixels_of(recipe, sample_id)
            image, digest = to_rgb(Image.fromarray(pixels)), _pixels_sha256(pixels)
        if digest != self.manifest.digests[row]:
            raise OSError(
                f"image {sample_id} has sha256 {digest[:12]}, the manifest lists "
                f"{self.manifest.digests[row][:12]}; expected an unchanged image. Run `dvc repro` to list the "
                "images again."
            )
        return image


def open_images(manifest: Manifest) -> Images:
    """Return the images of a manifest: lazy, and picklable for worker processes."""
    return Images(manifest)


def _digits_manifest(name: str, recipe: Mapping[str, Any]) -> Manifest:
    images, labels = _digits()
    splits = stratified_splits(name, labels, recipe["test_fraction"], recipe["seed"])
    ids = tuple(f"digits/{row:04d}" for row in range(len(labels)))
    digests = tuple(map(_pixels_sha256, images))
    return Manifest(name, dict(recipe), tuple(map(str, range(10))), ids, labels, splits, digests)


def _photos_manifest(name: str, recipe: Mapping[str, Any]) -> Manifest:
    ids = tuple(f"photos/{row:05d}" for row in range(recipe["n_crops"]))
    labels = np.full(len(ids), UNLABELLED, dtype=np.int64)
    digests = tuple(_pixels_sha256(_photo_crop(recipe, sample_id)) for sample_id in ids)
    return Manifest(name, dict(recipe), (), ids, labels, ("train",) * len(ids), digests)


def _folder_manifest(name: str, recipe: Mapping[str, Any], index: DigestIndex) -> Manifest:
    listing = list_images(name, Path(recipe["root"]), follow_links=recipe.get("follow_links", False))
    digests, skipped = _digests([sample_id for sample_id, *_ in listing.rows], recipe, index)
    rows = [row for row in listing.rows if row[0] in digests]
    labels = np.array([label for _, label, _ in rows], dtype=np.int64)
    _check_no_class_vanished(name, listing.class_names, labels, skipped)
    ids, splits = tuple(sample_id for sample_id, *_ in rows), tuple(split for *_, split in rows if split)
    if not splits:
        splits = stratified_splits(name, labels, recipe["test_fraction"], recipe["seed"])
    found = tuple(digests[sample_id] for sample_id in ids)
    return Manifest(name, dict(recipe), listing.class_names, ids, labels, splits, found, skipped, listing.notes)


def _digests(
    sample_ids: Sequence[str], recipe: Mapping[str, Any], index: DigestIndex
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the sha256 of each file that can be decoded, and those that cannot."""
    digests, skipped = {}, []
    try:
        for sample_id in sample_ids:
            try:
                digests[sample_id] = index.digest(Path(recipe["root"], sample_id), partial(_sha256, recipe, sample_id))
            except CorruptImageError:
                if not recipe.get("skip_corrupt", False):
                    raise
                skipped.append(sample_id)
    except OSError:
        with suppress(OSError):
            index.save(forget=False)  # files that were read before the error are not read again
        raise
    index.save()
    return digests, tuple(skipped)


def _read(recipe: Mapping[str, Any], sample_id: str) -> tuple[Image.Image, str]:
    return read_image(Path(recipe["root"]), sample_id, follow_links=recipe.get("follow_links", False))


def _sha256(recipe: Mapping[str, Any], sample_id: str) -> str:
    return _read(recipe, sample_id)[1]


def _check_no_class_vanished(
    name: str, class_names: tuple[str, ...], labels: np.ndarray, skipped: Sequence[str]
) -> None:
    gone = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if gone:
        raise ValueError(
            f"dataset {name} has no image of class {class_names[gone[0]]!r} left after skipping {len(skipped)} "
            f"that cannot be decoded (first: {skipped[0]}); expected at least one. Replace those files, or remove "
            "the folder."
        )


def _torchvision_manifest(name: str, recipe: Mapping[str, Any]) -> Manifest:
    sources = {split: _torchvision(recipe["kind"], recipe["root"], split) for split in ("train", "test")}
    ids, labels, splits, digests = [], [], [], []
    for split, source in sources.items():
        ids += [f"{split}/{row:05d}" for row in range(len(source.targets))]
        labels += np.asarray(source.targets).tolist()
        splits += [split] * len(source.targets)
        digests += [_pixels_sha256(pixels) for pixels in np.asarray(source.data)]
    names = tuple(sources["train"].classes)
    return Manifest(name, dict(recipe), names, tuple(ids), np.array(labels, np.int64), tuple(splits), tuple(digests))


def stratified_splits(name: str, labels: np.ndarray, test_fraction: float, seed: int) -> tuple[str, ...]:
    """Draw a share of test samples from each class by a seed: ``train`` or ``test`` for each of n samples.

    Raises
    ------
    ValueError
        If a class is too small to be divided.

    Examples
    --------
    >>> stratified_splits("pets", np.array([0, 0, 1, 1]), 0.5, seed=0)
    ('test', 'train', 'train', 'test')
    """
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    try:
        _, test = train_test_split(rows, test_size=test_fraction, random_state=seed, stratify=labels)
    except ValueError as error:
        counts = np.unique(labels, return_counts=True)[1]
        raise ValueError(
            f"dataset {name} cannot be split into train and test: test_fraction is {test_fraction}, and "
            f"{len(counts)} classes have {len(labels)} images, the smallest class {counts.min(initial=len(labels))}; "
            "expected at least two images per class, and one per class in each split. Add images, change "
            "test_fraction, or make folders train and test."
        ) from error
    in_test = np.isin(rows, test)
    return tuple(np.where(in_test, "test", "train").tolist())


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 8, 8, 3), uint8, and labels (n,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), bunch.target.astype(np.int64)


@cache
def _photo(name: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return load_sample_image(name)


def _photo_crop(recipe: Mapping[str, Any], sample_id: str) -> np.ndarray:
    """Cut the crop of an id: its place and scale follow from the seed and the id's number alone."""
    row = int(sample_id.rsplit("/", 1)[1])
    rng = np.random.default_rng([recipe["seed"], row])
    photo = _photo(_PHOTOS[row % len(_PHOTOS)])
    low, high = np.log(np.array(_CROP_SHARE) * min(photo.shape[:2]))
    side = int(np.exp(rng.uniform(low, high)))
    top, left = (int(rng.integers(length - side + 1)) for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


_TORCHVISION = {
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
}
"""Kind → torchvision's class, and the folder below the root that it reads."""


@cache
def _torchvision(kind: str, root: str, split: str) -> Any:
    import torchvision.datasets

    name, folder = _TORCHVISION[kind]
    with reading(f"{kind} in {root}"):
        try:
            return getattr(torchvision.datasets, name)(root, train=split == "train", download=False)
        except RuntimeError as error:
            with suppress(FileNotFoundError, NotADirectoryError):  # torchvision reports an unreadable file as absent
                for file in (Path(root) / folder).iterdir():
                    file.stat()
            raise FileNotFoundError(
                f"{kind} is incomplete in {root}; expected the folder {folder} with the files that torchvision reads. "
                f"Download them with `torchvision.datasets.{name}({root!r}, download=True)` in Python."
            ) from error


def _torchvision_pixels(recipe: Mapping[str, Any], sample_id: str) -> np.ndarray:
    split, row = sample_id.split("/")
    return np.asarray(_torchvision(recipe["kind"], recipe["root"], split).data[int(row)])


def _digit_pixels(recipe: Mapping[str, Any], sample_id: str) -> np.ndarray:
    return _digits()[0][int(sample_id.rsplit("/", 1)[1])]


ARRAY_KINDS: dict[
    str, tuple[Callable[[str, Mapping[str, Any]], Manifest], Callable[[Mapping[str, Any], str], np.ndarray]]
] = {
    "digits": (_digits_manifest, _digit_pixels),
    "photos": (_photos_manifest, _photo_crop),
    **dict.fromkeys(_TORCHVISION, (_torchvision_manifest, _torchvision_pixels)),
}
"""Kind of a data set that is not a folder → what lists its images, and what gives the pixels of one."""


def _pixels_sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(f"{pixels.shape}{pixels.dtype.str}".encode() + pixels.tobytes()).hexdigest()
