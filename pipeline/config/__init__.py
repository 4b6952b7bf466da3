"""The settings of ``params.yaml``: one record per table entry, checked as a whole when it is read."""

from .datasets import CHECKPOINTS
from .params import Embeddings, Rivals, Run, Search, Toy, load_params
from .streams import Stream

__all__ = ["CHECKPOINTS", "Embeddings", "Rivals", "Run", "Search", "Stream", "Toy", "load_params"]
