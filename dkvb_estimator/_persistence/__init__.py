"""Model files, and checks of stored states."""

from .state_checks import check_classifier_state, check_encoder_state

__all__ = ["check_classifier_state", "check_encoder_state"]
