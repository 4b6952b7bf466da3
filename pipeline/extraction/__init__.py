"""From images to embeddings: batches through a frozen network, and which process computes what."""

from .claims import Claims
from .inference import Batch, Forward, embed

__all__ = ["Batch", "Claims", "Forward", "embed"]
