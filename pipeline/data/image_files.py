"""Image files: supported formats, decoding into RGB, and the sha256 of the content.

Enters: a file below a root. Leaves: an image, the sha256 of the file's bytes, or an error that distinguishes files that
cannot be decoded from files that could not be read. Must not know: folders, data sets, splits, manifests, networks.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

_NOT_STILL = {"EPS", "FITS", "FLI", "MPEG"}
"""Formats of Pillow that are programs, tables of numbers or films."""
_NEVER_BEYOND_16_BITS = {"PNG", "PPM"}
"""Formats whose pixels Pillow may give as 32-bit integers although the largest is 65,535."""
_OF_THE_SYSTEM = (ConnectionError, PermissionError, TimeoutError)
"""Errors of the system, even if a library raises them without a number."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF."""
_SIGNED = 2
"""A value of the last tag."""
_TOO_MANY = "Close programs, raise the limit of open files (`ulimit -n`), or lower DKVB_WORKERS"
_FORBIDDEN = "Change its permissions"
_REMEDIES = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _TOO_MANY),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _FORBIDDEN),
}


class CorruptImageError(OSError):
    """An image file that exists and cannot be decoded."""


class PixelTypeError(ValueError):
    """Pixels of a type without a defined white level."""


class UnreadableError(OSError):
    """A file or folder that the system failed to read: its content is unknown, and may be intact."""


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an error of the system, even one wrapped by a library, into a sentence about the file being read.

    Other errors pass unchanged.

    Examples
    --------
    >>> with reading("image a.png"):
    ...     raise OSError(5, "Input/output error")
    Traceback (most recent call last):
    pipeline.data.image_files.UnreadableError: image a.png cannot be read (Input/output error); expected it to be ...
    """
    try:
        yield
    except Exception as error:
        cause = None if isinstance(error, UnreadableError) else _system_error(error)
        if cause is None:
            raise
        remedy = _REMEDIES.get(cause.errno or 0, "Check the disk, or the connection to it")
        raise UnreadableError(
            f"{what} cannot be read ({cause.strerror or cause}); expected it to be readable. {remedy}, then run the "
            "same command again."
        ) from error


def _system_error(error: BaseException | None) -> OSError | None:
    """Return an error of the system, or the one that caused another error."""
    while error is not None:
        if isinstance(error, OSError) and ((error.errno or 0) > 0 or isinstance(error, _OF_THE_SYSTEM)):
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def formats() -> tuple[str, ...]:
    """Return the formats of still images that the installed Pillow decodes by itself, by its names."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NOT_STILL and not _is_stub(Image.OPEN[name][0]))


def suffixes() -> frozenset[str]:
    """Return the suffixes of such images, in lower case.

    Examples
    --------
    >>> {".png", ".jpeg", ".gif", ".tif"} <= suffixes(), {".pdf", ".mpg", ".eps", ".txt"} & suffixes()
    (True, set())
    """
    known = {*formats(), "MPO"}  # which the decoder of JPEG opens
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def _is_stub(factory: object) -> bool:
    """Return whether a decoder only identifies the format, and needs another program to decode."""
    return isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)


def read_image(root: Path, sample_id: str, *, follow_links: bool = False) -> tuple[Image.Image, str]:
    """Decode a file below the root into RGB, and hash its bytes.

    Parameters
    ----------
    root : Path
    sample_id : str
    follow_links : bool
        Whether links may lead out of the root; ``..`` may not.

    Raises
    ------
    ValueError
        If the path leads out of the root.
    CorruptImageError
        If the file was read and cannot be decoded.
    OSError
        If it is missing, or cannot be read.
    """
    content, readable = _content(root, sample_id, follow_links), formats()
    with reading(f"image {sample_id} in {root}"):
        try:
            with Image.open(io.BytesIO(content), formats=readable) as image:
                image.load()
                return to_rgb(image), hashlib.sha256(content).hexdigest()
        except PixelTypeError as error:
            raise CorruptImageError(
                f"image {sample_id} in {root} has {error}; expected 8-bit or unsigned 16-bit pixels. Convert or "
                "remove it, or set skip_corrupt: true in params.yaml, then run `dvc repro`."
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost any error on a damaged file
            raise CorruptImageError(
                f"image {sample_id} in {root} cannot be decoded ({_reason(error)}); expected an intact image. "
                "Replace or remove it, or set skip_corrupt: true in params.yaml, then run `dvc repro`."
            ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is not in a supported image format"
    return str(error) or type(error).__name__


def _content(root: Path, sample_id: str, follow_links: bool) -> bytes:
    """Return the bytes of a file, read once, so that the decoded bytes are the hashed ones."""
    path = root / sample_id
    place = os.path.normpath(path.absolute()) if follow_links else os.path.realpath(path)
    top = os.path.normpath(root.absolute()) if follow_links else _resolved(root)
    if not Path(place).is_relative_to(top):
        raise ValueError(f"image {sample_id} is outside {root}; expected a path below it. Correct the manifest.")
    with reading(f"image {sample_id} in {root}"):
        try:
            if stat.S_ISREG(path.stat().st_mode):
                return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            pass
    raise FileNotFoundError(
        f"image {sample_id} is missing in {root}; expected every image of the manifest. Restore it, or run `dvc "
        "repro` to list the images again."
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any image to upright 8-bit RGB, including greyscale, palette, CMYK, transparent and 16-bit images.

    Raises
    ------
    PixelTypeError
        If pixels are floating-point, 32-bit or signed: their white level is unknown.

    Examples
    --------
    >>> to_rgb(Image.new("I;16", (1, 1), 65535)).getpixel((0, 0))
    (255, 255, 255)
    """
    if image.mode == "F":
        raise PixelTypeError("floating-point pixels, whose value for white is unknown")
    tags = getattr(image, "tag_v2", {})
    if (image.mode == "I" and image.format not in _NEVER_BEYOND_16_BITS) or _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise PixelTypeError("32-bit or signed integer pixels, whose value for white is unknown")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit greyscale; a plain conversion would clip it to white
        upright = _grey(np.asarray(upright), tags)
    if upright.mode in ("P", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


def _grey(deep: np.ndarray, tags: Mapping[int, Any]) -> Image.Image:
    """Keep the upper eight bits; a TIFF says how many there are, and whether zero is white."""
    n_bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    upper = (deep.astype(np.int64) >> (n_bits - 8)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - upper if tags.get(_PHOTOMETRIC) == 0 else upper)


@cache
def _resolved(root: Path) -> str:
    return os.path.realpath(root)
