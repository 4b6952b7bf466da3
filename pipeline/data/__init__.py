"""Images: data sets and folders, their manifests, decoding."""

from .datasets import (
    UNLABELLED,
    Images,
    Manifest,
    build_manifest,
    open_images,
    read_manifest,
    remarks,
    stratified_splits,
    without_rows,
    write_manifest,
)
from .digest_index import DigestIndex

__all__ = [
    "UNLABELLED",
    "DigestIndex",
    "Images",
    "Manifest",
    "build_manifest",
    "open_images",
    "read_manifest",
    "remarks",
    "stratified_splits",
    "without_rows",
    "write_manifest",
]
