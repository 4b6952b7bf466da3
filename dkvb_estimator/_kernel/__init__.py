"""The compiled nearest-key search and projection, with their bindings."""

from . import native

__all__ = ["native"]
