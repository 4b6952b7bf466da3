"""Intermediate results outside the outputs of stages: codes of cached rows, checkpoints of training."""

from .checkpoints import Checkpoint
from .codes import stored_codes

__all__ = ["Checkpoint", "stored_codes"]
