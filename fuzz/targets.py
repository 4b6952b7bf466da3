"""The fuzz targets by name, and the inputs that are kept for each.

Enters: a name. Leaves: a function of bytes, initial inputs, the corpus. Must not know: what a target checks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from fuzz.kernel import fuzz_kernel, kernel_seeds
from fuzz.readers import (
    cache_seeds,
    fuzz_cache,
    fuzz_manifest,
    fuzz_model,
    fuzz_params,
    manifest_seeds,
    model_seeds,
    params_seeds,
)

CORPUS = Path(__file__).parent / "corpus"


def unpack(target: str) -> list[bytes]:
    """Return the kept inputs: those that once broke a promise, and those with the largest coverage."""
    packed, folder = CORPUS / f"{target}.zip", CORPUS / target
    once = [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []
    if not packed.is_file():
        return once
    with zipfile.ZipFile(packed) as archive:
        return [*once, *(archive.read(name) for name in archive.namelist())]


def pack(target: str, contents: list[bytes]) -> None:
    """Store inputs in one file whose bytes depend only on the inputs."""
    CORPUS.mkdir(exist_ok=True)
    with zipfile.ZipFile(CORPUS / f"{target}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(contents):
            archive.writestr(zipfile.ZipInfo(f"{number:04d}"), content)


TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "cache": (fuzz_cache, cache_seeds),
    "model": (fuzz_model, model_seeds),
    "params": (fuzz_params, params_seeds),
    "manifest": (fuzz_manifest, manifest_seeds),
    "kernel": (fuzz_kernel, kernel_seeds),
}
