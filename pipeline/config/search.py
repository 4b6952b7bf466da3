"""The settings of a search, as ``params.yaml`` states them.

Room: a leaf, below `params`.
Enters: an entry of ``searches``. Leaves: a frozen `Search`. Must not know: the other tables, what an estimator is.
"""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.datasets import Id, Record

__all__ = ["HeatMap", "Search"]

Scalar = bool | int | float | str | None


class HeatMap(Record):
    """Which two searched settings the report draws against each other."""

    x: str
    y: str


class Search(Record):
    """Which settings of the estimator are compared, on which rows: every combination of the values in `grid`.

    `estimator` holds what all candidates share. Accuracy is the mean over `folds` of the training rows, divided by
    `seed`; test rows are not looked at.
    """

    embeddings: Id
    keys: Id
    folds: int = Field(default=3, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)
    estimator: dict[str, Scalar]
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(min_length=1)
    heat_map: HeatMap | None = None

    def axes(self) -> dict[str, str] | None:
        """Return the settings of the heat map by axis; None where none is wanted."""
        return None if self.heat_map is None else self.heat_map.model_dump()

    @model_validator(mode="after")
    def _settings_stand_once(self) -> "Search":
        for name in self.grid:
            if name in self.estimator:
                raise ValueError(
                    f"{name} stands under estimator and under grid; one place is expected, so remove the other"
                )
        for axis in (self.axes() or {}).values():
            if axis not in self.grid:
                raise ValueError(
                    f"heat_map names {axis!r}; expected one of {', '.join(self.grid)}, which are in grid: correct it"
                )
        return self
