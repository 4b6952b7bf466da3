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
    write_manifest,
)

__all__ = [
    "UNLABELLED",
    "Images",
    "Manifest",
    "build_manifest",
    "open_images",
    "read_manifest",
    "remarks",
    "stratified_splits",
    "write_manifest",
]
