"""The class and split of each image of a folder, and a sentence on everything that is left out.

Enters: a root with one folder per class, or with splits that hold one folder per class each.
Leaves: class names, each image's path with its label and split.
Must not know: recipes, manifests, networks.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.folder_entries import Found, check_root, some, walk


@dataclass(frozen=True)
class Listing:
    """The content of a data set.

    Parameters
    ----------
    class_names : tuple of str
        Label 0 is the first.
    rows : list of (str, int, str or None)
        Each image's path below the root, its label and its split; None: the split is drawn later.
    notes : tuple of str
        What is left out, or used differently from its name; one sentence each.
    """

    class_names: tuple[str, ...]
    rows: list[tuple[str, int, str | None]]
    notes: tuple[str, ...]


def list_images(name: str, root: Path, *, follow_links: bool = False) -> Listing:
    """List the images below a root.

    Parameters
    ----------
    name : str
        Name of the data set, for messages.
    root : Path
    follow_links : bool
        Whether links may lead out of the root.

    Raises
    ------
    FileNotFoundError
        If the root is not a folder, or a link is broken.
    ValueError
        If classes and splits cannot be distinguished, a class or a split has no images, a link leads out of the
        root, or a name is not text.
    OSError
        If a folder cannot be read.
    """
    check_root(name, root)
    found = walk(root, follow_links=follow_links)
    layout = find_layout(name, root, found)
    members, left = _members(layout, found.images)
    class_names = _class_names(name, root, layout, found.folders)
    for part, split in layout.parts.items():
        _check_class_folders(name, root, part, found)
        if split == "test" and not members[part]:
            raise ValueError(
                f"dataset {name} has no images in the class folders of {root / part}; expected test images. Add "
                "some, or remove the folder: then a share of the training images is held out."
            )
        for class_name in class_names if split != "test" else ():
            if class_name not in members[part]:
                raise _empty_class(name, root, f"{part}/{class_name}".lstrip("/"), found)
    rows = [
        (image, label, split)
        for part, split in layout.parts.items()
        for label, class_name in enumerate(class_names)
        for image in members[part].get(class_name, ())
    ]
    return Listing(class_names, rows, (*layout.notes, *_left_out(found, left)))


# which folders are splits


def _letters(name: str) -> str:
    """Return only the letters and digits of a name, in lower case, without accents."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", name).casefold())


_WORDS = {
    "train": "train training trainings trn trainval entraînement apprentissage entrenamiento addestramento treino "
    "treinamento 训练 訓練 学習",
    "test": "test testing tests tst holdout prueba pruebas teste prova 测试 測試 テスト",
    "validation": "val valid validate validating validation dev devel development eval evaluation validierung "
    "validación validazione validação 验证 驗證 検証",
}
_BESIDE = (
    "set sets split data folder image images img imgs photos pictures samples daten données datos dati dados "
    "集 用 データ a b x y"
)
"""Words that may accompany a split's name; none is a concatenation of others, so that matching stays fast."""
_SPLITS = {split: {_letters(word) for word in words.split()} for split, words in _WORDS.items()}
_FILLING = rf"(?:{'|'.join(map(_letters, _BESIDE.split()))}|\d)*"


def split_of(name: str) -> str | None:
    """Return the split that a folder's name denotes, in any case and with the usual additional words.

    Examples
    --------
    >>> [split_of(name) for name in ("Train", "test_set", "val2017", "trainA", "train station", "cat")]
    ['train', 'test', 'validation', 'train', None, None]
    """
    letters = _letters(name)
    for split, words in _SPLITS.items():
        if re.fullmatch(f"{_FILLING}(?:{'|'.join(words)}){_FILLING}", letters):
            return split
    return None


def _split_within(name: str) -> str | None:
    """Return the split that a name mentions among other words, as in ``mini_train``."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return next((split for split, known in _SPLITS.items() if words & known), None)


@dataclass(frozen=True)
class Layout:
    """The folders below a root that contain class folders.

    Parameters
    ----------
    parts : dict of str to str or None
        Each such folder, and its split; ``""`` is the root itself, None means that the split is drawn later.
    unused : tuple of str
        Folders of validation images beside train and test.
    notes : tuple of str
    """

    parts: dict[str, str | None]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_layout(name: str, root: Path, found: Found) -> Layout:
    """Distinguish splits from classes, or refuse an ambiguous layout.

    A folder with a split's name is a split if it contains folders of images: a class may be called *train*.

    Raises
    ------
    ValueError
        If splits are beside or below classes or occur twice, or there is none for training.
    """
    inner = _folders_of_images(found.images or [f"{folder}/" for folder in found.folders])
    _check_nested(name, root, inner)
    tops = sorted(inner.get("", ()))
    splits = {top: split for top in tops if (split := split_of(top))}
    mentioned = {top: split for top in tops if (split := _split_within(top))}
    if len(mentioned) == len(tops) and len(set(mentioned.values())) > 1:
        splits = mentioned
    if not splits:
        return Layout({"": None})
    if others := sorted(set(tops) - set(splits)):
        if len(set(splits.values())) == 1 and not any(inner.get(top) for top in splits):
            return Layout({"": None})
        raise ValueError(
            f"dataset {name} has folders that are named like splits ({some(list(splits))}) beside others "
            f"({some(others)}) in {root}; expected either splits or classes. Move the others out of the root, or "
            "rename the folders."
        )
    folders = [folder for folder in found.folders if "/" not in folder]
    return _layout_of_splits(name, root, {top: split for top in folders if (split := splits.get(top) or split_of(top))})


def _layout_of_splits(name: str, root: Path, splits: Mapping[str, str]) -> Layout:
    by_split = {split: [top for top in splits if splits[top] == split] for split in _SPLITS}
    train, test, validation = by_split.values()
    notes = []
    if not test and validation:
        test, validation = validation, []
        notes.append(f"{test[0]} is used as the test split, because there is no folder test.")
    for tops, split in ((train, "train"), (test, "test")):
        if len(tops) > 1:
            raise ValueError(
                f"dataset {name} has {len(tops)} folders for the split {split} ({some(tops)}) in {root}; expected one. "
                "Merge them, or move the others out of the root."
            )
    if not train:
        raise ValueError(
            f"dataset {name} has the splits {some(list(splits))} in {root} but none for training; expected a "
            "folder train. Add it, or rename the folders if they are classes."
        )
    if not test:
        notes.append(f"the test split is drawn from {train[0]}, because there is no folder test.")
        return Layout({train[0]: None}, notes=tuple(notes))
    return Layout({train[0]: "train", test[0]: "test"}, tuple(validation), tuple(notes))


def _folders_of_images(images: Sequence[str]) -> dict[str, set[str]]:
    """Return the names of the folders with images inside, at any depth, by the folder that holds them."""
    inner: dict[str, set[str]] = defaultdict(set)
    for place in {image.rpartition("/")[0] for image in images}:
        while place:
            parent, _, child = place.rpartition("/")
            inner[parent].add(child)
            place = parent
    return dict(inner)


def _check_nested(name: str, root: Path, inner: Mapping[str, set[str]]) -> None:
    for place, children in sorted(inner.items()):
        splits = {child: split for child in sorted(children) if (split := split_of(child))}
        if place and splits and (len(splits) == len(children) or len(set(splits.values())) > 1):
            raise ValueError(
                f"dataset {name} has folders that are named like splits ({some(list(splits))}) inside "
                f"{root / place}; expected splits directly below the root, with one folder per class each. Set "
                "root to the parent folder of the splits, or rename the folders."
            )


# which image is of which class, and what is left out


def _class_names(name: str, root: Path, layout: Layout, folders: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all class folders: two Unicode spellings of a name are one class."""
    spelled: dict[tuple[str, str], str] = {}
    for folder in folders:
        part, _, class_name = folder.rpartition("/")
        if part not in layout.parts:
            continue
        other = spelled.setdefault((part, _composed(class_name)), class_name)
        if other != class_name:
            raise ValueError(
                f"dataset {name} has two class folders whose names look the same, {other!a} and {class_name!a}, in "
                f"{root / part}; expected one. Merge them, or rename one."
            )
    return tuple(sorted({class_name for _, class_name in spelled}))


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


Members = dict[str, dict[str, list[str]]]


def _members(layout: Layout, images: Sequence[str]) -> tuple[Members, dict[str, list[str]]]:
    """Return images by part and class, and the remaining ones by their unused split, or "" for none."""
    members: Members = {part: defaultdict(list) for part in layout.parts}
    left: dict[str, list[str]] = defaultdict(list)
    for image in images:
        top, _, rest = image.partition("/")
        part, below = ("", image) if "" in layout.parts else (top, rest)
        class_name, slash, _ = below.partition("/")
        if part in members and slash:
            members[part][_composed(class_name)].append(image)
        else:
            left[top if top in layout.unused else ""].append(image)
    return members, left


def _check_class_folders(name: str, root: Path, part: str, found: Found) -> None:
    if not any(folder.rpartition("/")[0] == part for folder in found.folders):
        loose = [image for image in found.images if image.rpartition("/")[0] == part]
        instead = f", only images ({some(loose)})" if loose else ""
        raise ValueError(
            f"dataset {name} has no class folders in {root / part}{instead}; expected one per class. Add them, "
            f"with the images inside{', or move this folder out of the root' if part else ''}."
        )


def _empty_class(name: str, root: Path, folder: str, found: Found) -> ValueError:
    others = [path for path in found.others if path.startswith(f"{folder}/")]
    instead = f", only files in unsupported formats ({some(others)})," if others else ""
    return ValueError(
        f"dataset {name} has no images{instead} in {root / folder}; expected some for class "
        f"{folder.rpartition('/')[2]!r}. Add images or remove the folders of this name."
    )


def _left_out(found: Found, left: Mapping[str, Sequence[str]]) -> list[str]:
    """Describe what is below the root but not in the data set, one sentence per reason."""
    said = [
        f"warning: {len(images):,} images of {split} are left out: they are neither training nor test images. "
        "Move them to train or test to use them."
        for split, images in sorted(left.items())
        if split
    ]
    reasons = (
        (left.get("", ()), "warning: images outside the class folders, left out", "Move them into one."),
        (
            found.repeated,
            "warning: links to folders that are already listed, left out",
            "Copy the folder to list it here too.",
        ),
        (found.others, "files in unsupported formats, left out", "Convert images among them to PNG or JPEG."),
        (found.hidden, "hidden and system entries left out", "Rename any that belong to the data."),
    )
    return said + [f"{reason}: {len(paths):,} ({some(paths)}). {remedy}" for paths, reason, remedy in reasons if paths]
