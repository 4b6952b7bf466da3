"""The version, and nothing else: read by the build without importing the package."""

__version__ = "0.1.0.dev0"
