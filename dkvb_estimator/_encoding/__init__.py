"""From embeddings (n, f) to codes (n, c, m): projection, key placement, and the search for the nearest keys."""

from .codebook import Block, Codebook, DeviceEncoder, Sketches, draw_codebook
from .nearest import KeySearch

__all__ = ["Block", "Codebook", "DeviceEncoder", "KeySearch", "Sketches", "draw_codebook"]
