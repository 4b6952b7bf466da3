"""Frozen networks: the registry, networks that ``params.yaml`` describes, their weights, loading."""

from .custom import describe_backbone
from .loading import load_backbone
from .registry import Backbone, Preprocessing, find_backbone, preprocess
from .weights import find_weights, read_weights, weights_sha256

__all__ = [
    "Backbone",
    "Preprocessing",
    "describe_backbone",
    "find_backbone",
    "find_weights",
    "load_backbone",
    "preprocess",
    "read_weights",
    "weights_sha256",
]
