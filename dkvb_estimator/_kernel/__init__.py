"""The compiled search for nearest keys and the projection, and their bindings."""

from . import native

__all__ = ["native"]
