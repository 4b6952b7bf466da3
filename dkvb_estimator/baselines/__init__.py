"""Baselines: other classifiers of frozen features that learn from a stream.

Enters: embeddings (n, f), labels (n,). Leaves: predictions. Must not know: heads, keys, values. Each keeps additive
statistics. Up to rounding, the order and the batches of the data do not matter, samples are forgotten by subtraction,
and models merge by addition. Here, w is the number of features that a classifier computes from an embedding; it differs
from f only for random features.
"""

from .classwise import ClasswiseLDA
from .discriminant import StreamingLDA
from .nearest_mean import NearestClassMean
from .random_features import RandomFourierDiscriminant, RandomProjectionRidge

__all__ = ["ClasswiseLDA", "NearestClassMean", "RandomFourierDiscriminant", "RandomProjectionRidge", "StreamingLDA"]
