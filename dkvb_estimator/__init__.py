"""Learn classes one after another on frozen features: the Discrete Key-Value Bottleneck.

An embedding is projected into many small heads. Each head snaps to the nearest of its keys, which are placed once and
never move. The values of the selected keys are averaged: these are the logits. Only values learn, and only those of
keys that a sample hits, so new classes do not overwrite old ones, and nobody needs to say when the data changes.

Axis letters, in code, docstrings and errors: ``n`` sample, ``f`` embedding feature, ``c`` head, ``j`` key within a
head, ``d`` key coordinate, ``m`` selected keys of a head, ``k`` class.
"""

from ._classifier import DKVBClassifier
from ._encoder import Codes, KeyEncoder
from ._persistence.files import load_model, read_card, save_model
from ._version import __version__
from .inspection import KeyUsage

__all__ = [
    "Codes",
    "DKVBClassifier",
    "KeyEncoder",
    "KeyUsage",
    "__version__",
    "load_model",
    "read_card",
    "save_model",
]
