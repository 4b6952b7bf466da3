"""Read an embedding cache with h5py alone: ``python examples/read_cache.py [FILE]``.

It checks blocks, but not ``meta_sha256``: use it for a quick look, or for a file that has passed ``python -m pipeline
verify``. ``docs/cache_format.md`` describes the format.
"""

import struct
import sys
import zlib
from pathlib import Path

import h5py


def read_split(path, split):
    with h5py.File(path, "r") as file:
        if (file.attrs["format"], file.attrs["complete"]) != (b"dkvb-embedding-cache", 1):
            raise ValueError(f"{path} is not a complete cache")
        if file.attrs["version"] not in (1, 2):  # version 2 adds file.attrs["layers"]: the columns of each layer
            raise ValueError(f"{path} has version {file.attrs['version']}, which is neither 1 nor 2")
        group = file[split]
        X, y, rows = group["embeddings"][()], group["labels"][()], int(group.attrs["block_rows"])
        for i, crc in enumerate(group["block_crc32"]):
            if zlib.crc32(X[i * rows : (i + 1) * rows].tobytes(), zlib.crc32(struct.pack("<q", i))) != crc:
                raise OSError(f"block {i} of {split} is damaged")
        return X.astype("float32"), y, [text.decode() for text in group["sample_ids"][()].tolist()]


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "tests" / "data" / "cache_v1.h5"
    with h5py.File(path, "r") as file:
        splits = sorted(set(file) - {"class_names"})
    for split in splits:
        X, y, ids = read_split(path, split)
        print(f"{split}: {X.shape[0]} rows of {X.shape[1]} features, {(y >= 0).sum()} labelled, first id {ids[0]!r}")


if __name__ == "__main__":
    main()
