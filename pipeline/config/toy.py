"""The table ``toy``: the example in the plane.

Enters: plain values. Leaves: a frozen `Toy`. Must not know: files, how the example is learned.
"""

from typing import Literal

from pydantic import Field

from pipeline.config.records import Record, Seed

__all__ = ["Toy"]


class Toy(Record):
    """The example in the plane: eight normal classes of standard deviation `spread`, two per task.

    `steps` is the number of gradient steps per task, each on all samples of the task.
    """

    solver: Literal["joint", "ridge", "counts", "sgd"] = "counts"
    samples_per_task: int = Field(default=100, ge=2)
    spread: float = Field(default=0.035, gt=0)
    steps: int = Field(default=1000, ge=1)
    seed: Seed = 0
