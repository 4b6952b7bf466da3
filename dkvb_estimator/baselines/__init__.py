"""What a user would pick instead: streaming classifiers on the same features, with the same contract.

Enters: embeddings (n, f), labels (n,). Leaves: predictions. Must not know: heads, keys, values. Each keeps additive
statistics: order and splits of the data cannot matter, up to rounding; samples are forgotten by subtraction, and models
merge by addition. Here w is the width of the features that a classifier makes of an embedding; only random features
have w other than f.
"""

from .classwise import ClasswiseLDA
from .discriminant import StreamingLDA
from .nearest_mean import NearestClassMean
from .random_features import RandomFourierDiscriminant, RandomProjectionRidge

__all__ = ["ClasswiseLDA", "NearestClassMean", "RandomFourierDiscriminant", "RandomProjectionRidge", "StreamingLDA"]
