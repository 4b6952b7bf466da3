"""Model files: what is written, and what is refused when it is read."""

from .state_checks import check_state

__all__ = ["check_state"]
