"""The settings of streams, rivals and the toy, as ``params.yaml`` states them.

Room: a leaf, below `params`.
Enters: plain values, checked as a record is made.
Leaves: frozen records.
Must not know: files, other tables, what a head or an estimator is.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from pipeline.config.datasets import Id, Record, Seed

__all__ = ["HEADS", "ON_REQUEST", "Head", "Rivals", "Stream", "Toy"]

Head = Literal[
    "nearest_class_mean",
    "streaming_lda",
    "random_projection_ridge_2000",
    "random_projection_ridge_5000",
    "linear_probe",
    "mlp",
    "k_nearest_neighbours",
    "gaussian_naive_bayes",
    "joint_linear_probe",
    "random_projection_ridge_10000",
    "fly_ridge_10000",
    "random_fourier_discriminant",
    "classwise_lda",
]
HEADS: tuple[Head, ...] = get_args(Head)
ON_REQUEST = HEADS[-4:]
"""Heads that take longer than all others together: measured where an entry names them."""


class Stream(Record):
    """The order in which training rows arrive.

    ``class_incremental`` and ``blurry`` divide the classes into stages of `classes_per_stage`, in the order
    that a seed of `order_seeds` gives (0: sorted) or that `class_orders` spells out; ``shuffled`` mixes all
    classes in `n_stages` stages. `blur` is the share of rows that ``blurry`` scatters over all stages.
    """

    kind: Literal["class_incremental", "shuffled", "blurry"]
    classes_per_stage: int = Field(default=1, ge=1)
    n_stages: int = Field(default=1, ge=1)
    blur: float = Field(default=0.1, ge=0, le=1)
    order_seeds: list[Seed] = Field(default=[0], min_length=1)
    class_orders: list[list[Annotated[int, Field(ge=0)]]] | None = None
    batch_rows: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _orders_are_distinct(self) -> "Stream":
        if len(set(self.order_seeds)) < len(self.order_seeds):
            raise ValueError(
                f"order_seeds {self.order_seeds} names a seed twice; distinct seeds are expected: give each once"
            )
        if self.class_orders is not None and "order_seeds" in self.model_fields_set:
            raise ValueError("order_seeds and class_orders both say the order of classes; keep one of them")
        if self.class_orders is not None and not self.class_orders:
            raise ValueError("class_orders is an empty list; give at least one order, or leave it out")
        return self

    def orders(self) -> list[tuple[int, list[int] | None]]:
        """Return a seed, and the order of classes where it is spelled out, for each repetition of the run."""
        if self.class_orders is not None:
            return [(position, list(order)) for position, order in enumerate(self.class_orders)]
        return [(seed, None) for seed in self.order_seeds]


class Rivals(Record):
    """What one would pick instead, measured once for all runs on the same embeddings and stream.

    `keys` and `key_rows` say which rows, without labels, tell the probes the scale of features: those that the runs
    place their keys among. `normalize` gives heads that compare distances rows of unit length, as the runs have them.
    `heads`, left out, are all but those of `ON_REQUEST`.
    """

    embeddings: Id
    keys: Id
    key_rows: Literal["all", "first_stage"] = "all"
    stream: Stream
    normalize: bool = True
    heads: list[Head] = Field(default=[head for head in HEADS if head not in ON_REQUEST], min_length=1)

    @model_validator(mode="after")
    def _heads_are_distinct(self) -> "Rivals":
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads {self.heads} names one twice; name each once")
        return self


class Toy(Record):
    """The example in the plane: eight normal classes of standard deviation `spread`, two a stage.

    `steps` are those of the gradient heads a stage, each on all of the stage's samples.
    """

    solver: Literal["joint", "ridge", "counts", "sgd"] = "counts"
    samples_per_stage: int = Field(default=100, ge=2)
    spread: float = Field(default=0.035, gt=0)
    steps: int = Field(default=1000, ge=1)
    seed: Seed = 0
