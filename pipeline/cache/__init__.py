"""The embedding cache: an HDF5 file whose content is verified at every read. See ``docs/cache_format.md``."""

from .format import CacheHeader, LayerColumns, SplitRows, fingerprint_of, layers_in_order, tap_of
from .reader import CacheReader, check_cache, describe_cache, file_sha256, open_cache, verify_cache
from .writer import Sink, write_cache

__all__ = [
    "CacheHeader",
    "CacheReader",
    "LayerColumns",
    "Sink",
    "SplitRows",
    "check_cache",
    "describe_cache",
    "file_sha256",
    "fingerprint_of",
    "layers_in_order",
    "open_cache",
    "tap_of",
    "verify_cache",
    "write_cache",
]
