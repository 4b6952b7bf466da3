"""The table ``datasets``: where images come from.

Enters: plain values. Leaves: frozen records. Must not know: files, other tables, what a stage does with a record.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, Field

from pipeline.config.records import Record, Seed

__all__ = ["DATASET_KINDS", "Dataset", "Digits", "Folder", "Photos", "Torchvision"]


class Digits(Record):
    """scikit-learn's handwritten digits, split into training and test images by a seeded stratified draw."""

    kind: Literal["digits"]
    test_fraction: float = Field(gt=0, lt=1)
    seed: Seed


class Photos(Record):
    """Seeded crops of scikit-learn's two sample photographs: unlabelled, all of them training images."""

    kind: Literal["photos"]
    n_crops: int = Field(ge=1)
    seed: Seed


class Folder(Record):
    """Images in one folder per class, which every ``dvc repro`` looks at again.

    `root` is relative to where the command runs. `test_fraction` and `seed` speak only where the tree has no ``train``
    and ``test`` folders of its own. With `skip_corrupt` files that cannot be decoded are left out and listed; without
    it the first one is an error. With `follow_links` links may lead out of the root.
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
