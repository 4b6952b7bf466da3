"""Model files: write, read and describe them."""

from .files import load_model, read_card, save_model

__all__ = ["load_model", "read_card", "save_model"]
