"""The table ``runs``: the rows to learn, and the method.

Enters: plain values. Leaves: a frozen `Run`. Must not know: files, other tables, what the method is.
"""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.records import Id, Method, Record
from pipeline.config.streams import Stream

__all__ = ["Run"]


class Run(Record):
    """A run on one cache: the source of its keys, the stream, and the method's settings.

    `baselines` names the entry of ``baselines`` that the run is compared with. `declare_classes` declares all
    classes before the first task, as in the paper. A second model of the first order learns without `held_out_share` of
    the training rows; these choose its temperature, to measure how well its probabilities are calibrated.
    """

    embeddings: Id
    keys: Id
    key_rows: Literal["all", "first_task"] = "all"
    stream: Stream
    epochs_per_task: int = Field(default=1, ge=1)
    declare_classes: bool = False
    baselines: Id | None = None
    held_out_share: float = Field(default=0.1, ge=0, le=0.5)
    method: Method = Field(default_factory=dict)

    @model_validator(mode="after")
    def _first_task_is_of_this_run(self) -> "Run":
        if self.key_rows == "first_task" and self.keys != self.embeddings:
            raise ValueError(
                f"key_rows is 'first_task', but keys names {self.keys!r} and embeddings {self.embeddings!r}; "
                "expected the same entry for both. Name the same entry twice, or write key_rows: all."
            )
        return self
