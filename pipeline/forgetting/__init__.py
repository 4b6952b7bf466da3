"""Forgetting that reaches the files: every place of a project that holds some samples, rewritten without them."""

from .journal import resume
from .rewrite import forget

__all__ = ["forget", "resume"]
