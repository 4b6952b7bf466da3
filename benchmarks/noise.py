"""Write a cache of synthetic embeddings, for measurements that suit any cache. Enters: blocks. Leaves: a file."""

from pipeline.cache import CacheHeader, SplitRows, write_cache


def write_noise(path, blocks, labels):
    """Write blocks of rows (n,f) with labels 0…9 (n,) as the training split of a cache."""
    header = CacheHeader(
        fingerprint="0" * 64,
        backbone={"id": "none"},
        preprocessing={},
        tap="none",
        compute_dtype="float32",
        storage_dtype="float32",
        manifest_sha256="0" * 64,
        dataset="noise",
        class_names=tuple("0123456789"),
    )
    write_cache(path, header, {"train": SplitRows(blocks, labels, [str(row) for row in range(len(labels))])})
