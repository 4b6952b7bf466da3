"""From images to embeddings: batches through a frozen network, and shards of what is done."""

from .inference import Batch, Forward, embed
from .shards import ShardStore

__all__ = ["Batch", "Forward", "ShardStore", "embed"]
