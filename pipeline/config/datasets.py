"""The table ``datasets``: the sources of images.

Enters: plain values. Leaves: frozen records. Must not know: files, other tables, what a stage does with a record.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field

from pipeline.config.records import Record, Seed

__all__ = ["DATASET_KINDS", "Dataset", "Digits", "Folder", "Photos", "Torchvision"]


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


class Torchvision(Record):
    """CIFAR-10, CIFAR-100, MNIST or Fashion-MNIST as torchvision stores them under `root`."""

    kind: Literal["cifar10", "cifar100", "mnist", "fashion_mnist"]
    root: str


Dataset = Annotated[Digits | Photos | Folder | Torchvision, Field(discriminator="kind")]
DATASET_KINDS: dict[str, type[BaseModel]] = {
    kind: record
    for record in get_args(get_args(Dataset)[0])
    for kind in get_args(record.model_fields["kind"].annotation)
}
