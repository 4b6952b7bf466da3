"""The table ``streams``: the order in which training rows arrive.

Enters: plain values. Leaves: a frozen `Stream`. Must not know: files, other tables, labels.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.records import Record, Seed

__all__ = ["Stream"]


class Stream(Record):
    """The order in which training rows arrive.

    ``class_incremental`` and ``blurry`` divide the classes into tasks of `classes_per_task`, in the order of each seed
    in `order_seeds` (0: sorted) or as listed in `class_orders`; ``shuffled`` mixes all classes in `n_tasks` tasks.
    `blur` is the share of rows that ``blurry`` scatters over all tasks.
    """

    kind: Literal["class_incremental", "shuffled", "blurry"]
    classes_per_task: int = Field(default=1, ge=1)
    n_tasks: int = Field(default=1, ge=1)
    blur: float = Field(default=0.1, ge=0, le=1)
    order_seeds: list[Seed] = Field(default=[0], min_length=1)
    class_orders: list[list[Annotated[int, Field(ge=0)]]] | None = None
    batch_rows: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _orders_are_distinct(self) -> "Stream":
        if len(set(self.order_seeds)) < len(self.order_seeds):
            raise ValueError(f"order_seeds {self.order_seeds} names a seed twice; expected distinct seeds. Remove one.")
        if self.class_orders is not None and "order_seeds" in self.model_fields_set:
            raise ValueError(
                "order_seeds and class_orders both give the order of classes; expected one of them. Remove the other."
            )
        if self.class_orders is not None and not self.class_orders:
            raise ValueError("class_orders is an empty list; expected at least one order. Add one, or leave it out.")
        return self

    def orders(self) -> list[tuple[int, list[int] | None]]:
        """Return a seed, and the listed order of classes if there is one, for each repetition of the run."""
        if self.class_orders is not None:
            return [(position, list(order)) for position, order in enumerate(self.class_orders)]
        return [(seed, None) for seed in self.order_seeds]
