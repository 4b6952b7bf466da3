"""The settings of ``params.yaml``: one record per table entry, checked as a whole when it is read."""

from .baselines import BASELINES, ON_REQUEST, Baselines
from .embeddings import CHECKPOINTS, Embeddings
from .params import Params, load_params
from .plain_yaml import BANNED_KEYS
from .problems import nearest
from .records import Method, encoder_and_rest, with_settings
from .runs import Run
from .searches import Search
from .streams import Stream
from .toy import Toy

__all__ = [
    "BANNED_KEYS",
    "BASELINES",
    "CHECKPOINTS",
    "ON_REQUEST",
    "Baselines",
    "Embeddings",
    "Method",
    "Params",
    "Run",
    "Search",
    "Stream",
    "Toy",
    "encoder_and_rest",
    "load_params",
    "nearest",
    "with_settings",
]
