"""Fuzz all code that reads untrusted bytes: see ``python -m fuzz --help``."""


class Finding(AssertionError):
    """An input breaks a promise."""
