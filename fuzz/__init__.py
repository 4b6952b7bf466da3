"""Fuzz what reads bytes nobody vouches for: see ``python -m fuzz --help``."""


class Finding(AssertionError):
    """A promise that an input breaks."""
