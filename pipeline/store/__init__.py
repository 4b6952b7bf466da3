"""The embedding store: computed rows, kept by image and network."""

from .embeddings import EmbeddingStore, Found, LostRowsError
from .names import image_names, is_among, places_among
from .side_by_side import SideBySide
from .upkeep import Stored, list_networks, remove_rows, rewrite_blocks

__all__ = [
    "EmbeddingStore",
    "Found",
    "LostRowsError",
    "SideBySide",
    "Stored",
    "image_names",
    "is_among",
    "list_networks",
    "places_among",
    "remove_rows",
    "rewrite_blocks",
]
