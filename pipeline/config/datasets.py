"""The table ``datasets``: the sources of images.

Enters: plain values. Leaves: frozen records. Must not know: files, other tables, what a stage does with a record.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from pipeline.config.records import Record, Seed

__all__ = ["DATASET_KINDS", "Cifar", "Dataset", "Digits", "Folder", "Photos"]


class Digits(Record):
    """scikit-learn's handwritten digits, split into training and test images at random, stratified, with a seed."""

    kind: Literal["digits"]
    test_fraction: float = Field(gt=0, lt=1)
    seed: Seed


class Photos(Record):
    """Seeded crops of scikit-learn's two sample photographs: unlabelled training images."""

    kind: Literal["photos"]
    n_crops: int = Field(ge=1)
    seed: Seed


class Folder(Record):
    """Images in one folder per class, which every ``dvc repro`` checks again.

    `root` is relative to the working directory. `test_fraction` and `seed` apply only if there are no ``train`` and
    ``test`` folders. With `skip_corrupt`, files that cannot be decoded are skipped and listed; without it the first one
    is an error. With `follow_links`, links may lead out of the root.
    """

    kind: Literal["folder"]
    root: str
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    seed: Seed = 0
    skip_corrupt: bool = False
    follow_links: bool = False


class Cifar(Record):
    """CIFAR-10 or CIFAR-100 as torchvision stores them under `root`."""

    kind: Literal["cifar10", "cifar100"]
    root: str


Dataset = Annotated[Digits | Photos | Folder | Cifar, Field(discriminator="kind")]
DATASET_KINDS: dict[str, type[BaseModel]] = {
    "digits": Digits,
    "photos": Photos,
    "folder": Folder,
    "cifar10": Cifar,
    "cifar100": Cifar,
}
