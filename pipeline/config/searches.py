"""The table ``searches``: which settings of the method are compared.

Enters: plain values. Leaves: a frozen `Search`. Must not know: files, other tables, what the method is.
"""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.config.records import Id, Method, Record, Scalar, encoder_and_rest

__all__ = ["HeatMap", "Search"]


class HeatMap(Record):
    """The two searched settings that the report draws against each other."""

    x: str
    y: str


class Search(Record):
    """A grid search over settings of the method: every combination of the values in `grid`.

    `method` contains the settings that all candidates share. `grid` names settings, those of the encoder as
    ``encoder__n_keys``. Accuracy is the mean over `folds` of the training rows, drawn with `seed`; test rows are not
    used.
    """

    embeddings: Id
    keys: Id
    folds: int = Field(default=3, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)
    method: Method = Field(default_factory=dict)
    grid: dict[str, Annotated[list[Scalar], Field(min_length=1)]] = Field(min_length=1)
    heat_map: HeatMap | None = None

    def axes(self) -> dict[str, str] | None:
        """Return the settings of the heat map by axis; None without a heat map."""
        return None if self.heat_map is None else self.heat_map.model_dump()

    @model_validator(mode="after")
    def _settings_stand_once(self) -> "Search":
        encoder, rest = encoder_and_rest(self.method)
        for name in sorted(({f"encoder__{name}" for name in encoder} | set(rest)) & set(self.grid)):
            raise ValueError(f"{name} is in method and in grid; expected it in one of them. Remove the other.")
        for axis in (self.axes() or {}).values():
            if axis not in self.grid:
                raise ValueError(
                    f"heat_map names {axis!r}; expected one of {', '.join(self.grid)}, which are in grid. Correct it."
                )
        return self
