"""Intermediate results outside the outputs of stages: codes of cached rows, checkpoints of runs."""

from .checkpoints import Checkpoint, Kept
from .codes import stored_codes

__all__ = ["Checkpoint", "Kept", "stored_codes"]
