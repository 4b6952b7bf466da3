"""Model files: what is written, and what is refused when it is read."""

from .state_checks import check_classifier_state, check_encoder_state

__all__ = ["check_classifier_state", "check_encoder_state"]
