"""A small cache for tests: two splits, several blocks, ids beyond ASCII, unlabelled rows."""

import hashlib

import h5py
import numpy as np

from pipeline.cache import CacheHeader, SplitRows, write_cache
from pipeline.cache import writer as cache_writer
from pipeline.cache.format import meta_sha256

N_FEATURES = 8
SIZES = {"test": 7, "train": 20}


def header(**changes):
    values = {
        "fingerprint": "f1" * 32,
        "backbone": {"id": "efficientnet_lite0", "weights_sha256": "ab" * 32, "licence": "Apache-2.0"},
        "preprocessing": {"image_side": 96, "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
        "tap": "avgpool",
        "compute_dtype": "float32",
        "storage_dtype": "float16",
        "manifest_sha256": "cd" * 32,
        "dataset": "früchte",
        "class_names": ("apfel", "birne", "りんご"),
    }
    return CacheHeader(**(values | changes))


def embeddings(split):
    """Return embeddings (n, 8), float32; they come from no random generator, so they never change."""
    n = SIZES[split]
    values = np.arange(n * N_FEATURES, dtype=np.float64).reshape(n, N_FEATURES)
    return (np.sin(values + len(split)) * 3).astype(np.float32)


def labels(split):
    return np.arange(SIZES[split]) % 4 - 1


def sample_ids(split):
    return [f"{split}/größe_{'雪' * (i % 3)}{i}.png" for i in range(SIZES[split])]


def rows(split, **changes):
    """Return the data from which a split is written, in blocks of 3 rows."""
    blocks = [embeddings(split)[start : start + 3] for start in range(0, SIZES[split], 3)]
    return SplitRows(**({"blocks": blocks, "labels": labels(split), "sample_ids": sample_ids(split)} | changes))


def write_small(path, compression="none", chunk_bytes=64, **changes):
    """Write the small cache with a given number of bytes per block (64: four rows of float16)."""
    usual = cache_writer.CHUNK_BYTES
    cache_writer.CHUNK_BYTES = chunk_bytes
    try:
        write_cache(path, header(**changes), {name: rows(name) for name in SIZES}, compression=compression)
    finally:
        cache_writer.CHUNK_BYTES = usual
    return path


def forge(path, change):
    """Change a cache with knowledge of the format: the digest of the structure is updated."""
    with h5py.File(path, "r+") as file:
        change(file)
        file.attrs["meta_sha256"] = np.bytes_(meta_sha256(file))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
