"""Image files below a folder: list them, decode them into RGB, know them again by their content.

Enters: a folder with one sub-folder a class. Leaves: paths, labels, images, sha256 of each file's bytes. Must not know:
data sets, splits, manifests, networks.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.locks import replaced

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SETTLED = 2 * 10**9
"""Nanoseconds after which a file's times tell of any later change: clocks of file systems may tick that slowly."""


class CorruptImageError(OSError):
    """An image file that is there and cannot be decoded."""


def list_images(name: str, root: Path, parts: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Return class names, and each image's path below the root with its label, sorted.

    Parameters
    ----------
    name : str
        The data set's, for messages.
    root : Path
    parts : tuple of str
        Folders below the root that hold class folders; ``("",)``: the root itself does.

    Raises
    ------
    ValueError
        If there are no class folders, one is empty (outside ``test``), or a name is not text.
    """
    class_names = sorted({child.name for part in parts for child in (root / part).iterdir() if child.is_dir()})
    rows = []
    for part in parts:
        for label, class_name in enumerate(class_names):
            folder = root / part / class_name
            files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []
            if not files and part != "test":
                raise ValueError(
                    f"dataset {name} has no images in {folder}; expected some for class {class_name!r}. Add images or "
                    "remove the folder."
                )
            rows += [(_text(file.relative_to(root)), label) for file in files]
    if not rows:
        raise ValueError(f"dataset {name} has no class folders in {root}; expected one a class. Add them.")
    return tuple(class_names), rows


def _text(path: Path) -> str:
    """Return a path as text: on Linux a file's name may be bytes that no text encodes."""
    text = path.as_posix()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of image {text!a} is not UTF-8; expected one that is. Rename the file.") from error
    return text


def read_image(root: Path, sample_id: str) -> tuple[Image.Image, str]:
    """Decode a file below the root into RGB, and hash its bytes.

    Raises
    ------
    ValueError
        If the path leads out of the root.
    OSError
        If the file is missing, or cannot be decoded.
    """
    path = root / sample_id
    if not path.resolve().is_relative_to(_resolved(root)):
        raise ValueError(f"image {sample_id} lies outside {root}; expected a path below it. Correct the manifest.")
    if not path.is_file():
        raise FileNotFoundError(
            f"image {sample_id} is missing in {root}; expected every image of the manifest. Restore it, or run "
            "`dvc repro` to list the images anew."
        )
    try:
        content = path.read_bytes()  # once, so that what is decoded is what was hashed
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return to_rgb(image), hashlib.sha256(content).hexdigest()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CorruptImageError(
            f"image {sample_id} in {root} cannot be decoded ({error}); expected a whole image. Replace or remove it, "
            "or set skip_corrupt: true in params.yaml, then run `dvc repro`."
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any image upright and into 8-bit RGB: greyscale, palette, CMYK, transparent and 16-bit ones too.

    Raises
    ------
    ValueError
        If pixels are floating-point numbers: a plain conversion would make 0…1 black.

    Examples
    --------
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which nobody says what white is, not 8 or 16 bits")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit greyscale; a plain conversion would clip it to white
        upright = Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if upright.mode in ("P", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


class DigestIndex:
    """Remember the sha256 of files whose size, times and place on the disk have not changed since.

    Parameters
    ----------
    path : str or Path or None
        A JSON file, which may be absent or damaged: then every file is read. None: nothing is remembered.

    Examples
    --------
    >>> index = DigestIndex(None)
    >>> index.digest(Path("pipeline/__init__.py"), lambda: "abc")
    'abc'
    """

    def __init__(self, path: str | Path | None) -> None:
        self._path = Path(path) if path is not None else None
        self._known: Mapping[str, list] = self._load()
        self._seen: dict[str, list] = {}

    def digest(self, file: Path, read: Callable[[], str]) -> str:
        """Return what ``read`` returned for this file when it was last seen, or returns now."""
        stat, now = file.stat(), time.time_ns()
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        name = str(file.resolve())
        known = self._known.get(name)
        found = known[-1] if known is not None and known[:-1] == mark else read()
        # a file that changes again within a tick of its clock would keep its times
        if now - max(stat.st_mtime_ns, stat.st_ctime_ns) > _SETTLED:
            self._seen[name] = [*mark, found]
        return found

    def save(self) -> None:
        """Write what was seen, for the next time."""
        if self._path is not None:
            with replaced(self._path) as neighbour:
                neighbour.write_text(json.dumps(self._seen), encoding="utf-8")

    def _load(self) -> Mapping[str, list]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8")) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@cache
def _resolved(root: Path) -> Path:
    return root.resolve()
