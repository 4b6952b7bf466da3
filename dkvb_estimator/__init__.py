"""Learn classes one after another on frozen features: the Discrete Key-Value Bottleneck.

Each embedding is projected into many small heads, and each head selects the nearest of its keys. Keys are placed once
and never move. The logits are the mean of the values of the selected keys, and only these values are learned. New
classes therefore do not overwrite old ones, and the data needs no task boundaries.

Axis letters, in code, docstrings and errors: ``n`` sample, ``f`` embedding feature, ``c`` head, ``j`` key within a
head, ``d`` key coordinate, ``m`` selected keys of a head, ``k`` class.
"""

from ._classifier import DKVBClassifier
from ._encoder import Codes, KeyEncoder
from ._persistence import load_model, read_card, save_model
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
