"""From images to a cache of embeddings: batches through a frozen network, and which process computes what."""

from .claims import Claims
from .inference import Batch, Forward, embed
from .job import Computed, Job, add_blocks, extract, make_job

__all__ = ["Batch", "Claims", "Computed", "Forward", "Job", "add_blocks", "embed", "extract", "make_job"]
