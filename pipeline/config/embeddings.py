"""The tables ``embeddings`` and ``imports``: which images through which network, and caches made elsewhere.

Enters: plain values. Leaves: frozen records. Must not know: files, whether a referenced name exists.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from pipeline.config.records import Id, Record

__all__ = ["CHECKPOINTS", "DESCRIBED", "Embeddings", "Import", "InlineBackbone"]


class InlineBackbone(Record):
    """A network that is described in the settings: a library's architecture, and its weights.

    `weights` is a checkpoint file, relative to the working directory, or a library's own name of weights.
    Preprocessing, `prefix`, `extra_keys` and `without_classifier` apply to files only: the library knows them for its
    own weights. Missing fields get the defaults of `pipeline.backbones.custom`. `sha256` (at least its first
    eight digits) pins the file, because DVC does not track its content.
    """

    library: Literal["torchvision", "timm", "open_clip"]
    model: Annotated[str, StringConstraints(pattern=r"^[\w.\-]+$")]
    weights: Annotated[str, StringConstraints(min_length=1)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,64}$")] | None = None
    width: int | None = Field(default=None, ge=1)
    mean: list[float] | None = Field(default=None, min_length=3, max_length=3)
    std: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=3, max_length=3)
    interpolation: Literal["bilinear", "bicubic"] | None = None
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    prefix: str | None = None
    extra_keys: list[Annotated[str, StringConstraints(min_length=1)]] | None = None
    without_classifier: bool | None = None
    license: str | None = None
    paper: str | None = None

    @property
    def file(self) -> str | None:
        """The checkpoint file; None if the library knows the weights by name."""
        return self.weights if self.weights.lower().endswith(CHECKPOINTS) else None

    @property
    def id(self) -> str:
        """Library, architecture and weights; the colons distinguish it from the names of known backbones."""
        return f"{self.library}:{self.model}:{Path(self.weights).stem if self.file else self.weights}"

    def recipe(self) -> dict[str, Any]:
        """Return the settings, with `id` and `file`, as a plain dict."""
        return {"id": self.id, "file": self.file, **self.model_dump(exclude_none=True)}

    @model_validator(mode="after")
    def _files_are_described_here_and_names_by_their_library(self) -> "InlineBackbone":
        extra = [name for name in _OF_FILES if getattr(self, name) is not None]
        if self.file is None and extra:
            raise ValueError(
                f"{extra[0]} is for a checkpoint file, but weights {self.weights!r} is a name in {self.library}, which "
                f"sets it; expected a file ending in {', '.join(CHECKPOINTS)}. Name one, or remove {extra[0]}."
            )
        return self


CHECKPOINTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")
_OF_FILES = ("mean", "std", "interpolation", "crop_pct", "prefix", "extra_keys", "without_classifier")
DESCRIBED = "(described)"
"""pydantic's name of the second kind of backbone in the location of a problem."""


def _kind_of_backbone(value: Any) -> str:
    return DESCRIBED if isinstance(value, Mapping | InlineBackbone) else "(named)"


class Embeddings(Record):
    """Embeddings to extract once: the images, the network, its layer or layers, and the storage type.

    `network` is the value of ``backbone``: the name of a known network, or a description. `layers` are read in one
    pass, and their columns follow each other in that order.
    """

    dataset: Id
    network: Annotated[
        Annotated[str, Tag("(named)")] | Annotated[InlineBackbone, Tag(DESCRIBED)], Discriminator(_kind_of_backbone)
    ] = Field(alias="backbone")
    layer: str | None = None
    layers: list[str] | None = Field(default=None, min_length=1)
    image_side: int = Field(ge=8, le=1024)
    compute_dtype: Literal["float32", "float16", "bfloat16"]
    storage_dtype: Literal["float16", "float32"]

    @property
    def backbone(self) -> str:
        """The network's id in a cache."""
        return self.network if isinstance(self.network, str) else self.network.id

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers to read: at least one, in the order of their columns."""
        return tuple(self.layers or [str(self.layer)])

    @model_validator(mode="after")
    def _layers_are_said_once(self) -> "Embeddings":
        if (self.layer is None) == (self.layers is None):
            given, advice = (
                ("neither layer nor layers is", "Add")
                if self.layer is None
                else ("layer and layers are both", "Remove")
            )
            raise ValueError(f"{given} set; expected one of the two. {advice} one.")
        if len(set(self.layer_names)) < len(self.layer_names):
            raise ValueError(
                f"layers {list(self.layer_names)} names a layer twice; expected each layer once. Remove one."
            )
        if len(self.layer_names) > 1 and isinstance(self.network, InlineBackbone) and self.network.width is not None:
            raise ValueError(
                f"backbone.width is {self.network.width}, but {len(self.layer_names)} layers are read; expected "
                "width for a single layer only. Remove it."
            )
        return self


class Import(Record):
    """A cache that was made elsewhere, by ``python -m pipeline import`` or in another checkout.

    `cache` is its file, relative to the working directory.
    """

    cache: Annotated[str, StringConstraints(min_length=1)]

    @property
    def backbone(self) -> None:
        """Unknown here: the cache itself names the network of its rows."""
        return
