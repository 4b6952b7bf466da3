"""What is fuzzed, by name, and the inputs that are kept for each.

Enters: a name. Leaves: a function of bytes, inputs to begin with, the corpus. Must not know: what a target checks.
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
    """Return the inputs that are kept: those that broke a promise once, and those that reach most."""
    packed, folder = CORPUS / f"{target}.zip", CORPUS / target
    once = [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []
    if not packed.is_file():
        return once
    with zipfile.ZipFile(packed) as archive:
        return [*once, *(archive.read(name) for name in archive.namelist())]


def pack(target: str, contents: list[bytes]) -> None:
    """Keep inputs in one file whose bytes depend on them alone."""
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
