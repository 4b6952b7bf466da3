"""Fuzzing of everything that reads bytes nobody vouches for: ``python -m fuzz TARGET --seconds 900``."""
