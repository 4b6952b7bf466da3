"""The table ``baselines``: the other methods to measure, and their data.

Enters: plain values. Leaves: a frozen `Baselines`. Must not know: files, how a method is built.
"""

from typing import Literal, get_args

from pydantic import Field, model_validator

from pipeline.config.records import Id, Record
from pipeline.config.streams import Stream

__all__ = ["BASELINES", "ON_REQUEST", "Baseline", "Baselines"]

Usual = Literal[
    "nearest_class_mean",
    "streaming_lda",
    "random_projection_ridge_2000",
    "linear_probe",
    "k_nearest_neighbours",
    "gaussian_naive_bayes",
    "joint_linear_probe",
]
OnRequest = Literal[
    "mlp",
    "random_projection_ridge_5000",
    "random_projection_ridge_10000",
    "fly_ridge_10000",
    "random_fourier_discriminant",
    "classwise_lda",
]
Baseline = Literal[Usual, OnRequest]
USUAL: tuple[Usual, ...] = get_args(Usual)
ON_REQUEST: tuple[OnRequest, ...] = get_args(OnRequest)
"""Methods that take longer than all others together: measured only if an entry names them."""
BASELINES: tuple[Baseline, ...] = (*USUAL, *ON_REQUEST)


class Baselines(Record):
    """What to compare with on one entry of embeddings and one stream, measured once for all runs that name the entry.

    `keys` and `key_rows` choose the rows, without labels, that give linear probes and MLPs the scale of features: the
    same rows that the runs place their keys on. `normalize` gives distance-based methods rows of unit length, as in the
    runs. `methods` defaults to all but those of `ON_REQUEST`.
    """

    embeddings: Id
    keys: Id
    key_rows: Literal["all", "first_task"] = "all"
    stream: Stream
    normalize: bool = True
    methods: list[Baseline] = Field(default=[*USUAL], min_length=1)

    @model_validator(mode="after")
    def _methods_are_distinct(self) -> "Baselines":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods {self.methods} names a method twice; expected each method once. Remove one.")
        return self
