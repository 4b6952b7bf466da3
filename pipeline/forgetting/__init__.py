"""Forget samples in the files of a project: rewrite every file that contains them."""

from .journal import resume
from .rewrite import forget

__all__ = ["forget", "resume"]
