"""Networks described in a settings file: a library's architecture with a weight file or the library's own weights.

Enters: a description, layers to read, the side of the images. Leaves: the immutable record that other modules use.
Must not know: settings files, data sets, caches.

Defaults for a checkpoint file: mean and standard deviation of ImageNet, bilinear interpolation, ``crop_pct`` 1, no
prefix, with classifier. For weights that a library knows by name, the library provides all of this.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.backbones.loading import Tapped, build_network, remove_classifier
from pipeline.backbones.registry import IMAGENET_MEAN, IMAGENET_STD, Backbone, as_layers
from pipeline.config import CHECKPOINTS
from pipeline.io import first_sentence

_UNKNOWN = "not stated"
_HUB = "https://huggingface.co/"
_LAYER_OF = {"timm": "avgpool", "open_clip": "projected"}
"""Where a library has one layer to read: its own pooled features."""


def describe_backbone(described: Mapping[str, Any], layers: str | Sequence[str], image_side: int) -> Backbone:
    """Return the record of a described network, and measure its number of features.

    Parameters
    ----------
    described : mapping
        ``id``, ``file`` (None: the library's own weights), ``library``, ``model``, ``weights``, and other fields that
        `pipeline.config.embeddings.InlineBackbone` lists.
    layers : str or sequence of str
        ``avgpool`` of timm's models, ``projected`` of open_clip's, any nodes of torchvision's.
    image_side : int
        Pixels.

    Raises
    ------
    ValueError
        If the library has no such model, weights or layer, or the network cannot read images of that side.

    Examples
    --------
    >>> file = {"id": "torchvision:resnet18:mine", "file": "mine.pth", "library": "torchvision", "model": "resnet18"}
    >>> record = describe_backbone(file, "layer3", 64)
    >>> record.layers, record.crop_pct, record.interpolation
    ({'layer3': 256}, 1.0, 'bilinear')
    """
    library, model = described["library"], described["model"]
    _check_model(library, model)
    layers = as_layers(layers)
    for layer in layers:
        if layer != _LAYER_OF.get(library, layer):
            raise ValueError(
                f"{library} models have no layer {layer!r}; expected {_LAYER_OF[library]!r}, the pooled features. "
                "Correct it in params.yaml."
            )
    record = _of_file(described) if described["file"] else _OF_LIBRARY[library](described, image_side)
    return replace(record, layers=_widths(record, layers, image_side, described.get("width")))


def _of_file(described: Mapping[str, Any]) -> Backbone:
    return Backbone(
        id=described["id"],
        library=described["library"],
        model=described["model"],
        weights_file=Path(described["file"]).name,
        weights_url="",
        sha256=described.get("sha256"),
        layers={},
        mean=tuple(described.get("mean", IMAGENET_MEAN)),
        std=tuple(described.get("std", IMAGENET_STD)),
        interpolation=described.get("interpolation", "bilinear"),
        crop_pct=described.get("crop_pct", 1.0),
        license=described.get("license", _UNKNOWN),
        paper=described.get("paper", _UNKNOWN),
        prefix=described.get("prefix", ""),
        extra_keys=tuple(described.get("extra_keys", ())),
        without_classifier=described.get("without_classifier", False),
        options={"init_weights": False} if described["model"] in _TRANSFORMED else {},
    )


_TRANSFORMED = ("googlenet", "inception_v3")
"""torchvision's weights of these expect pixels from −1 to 1; ``transform_input`` converts ImageNet's scale."""


def _of_torchvision(described: Mapping[str, Any], side: int) -> Backbone:
    from torchvision.models import get_model_weights

    kinds = {kind.name: kind for kind in get_model_weights(described["model"])}
    _check_weights(described, kinds)
    kind = kinds[described["weights"]]
    transform, smallest = kind.transforms(), kind.meta["min_size"]
    options: dict[str, Any] = {}
    if described["model"] in _TRANSFORMED:
        options = {"transform_input": True, "init_weights": False}
    elif described["model"].startswith("vit_"):
        options = {"image_size": smallest[0]}
    license = "CC BY-NC 4.0" if "SWAG" in kind.name else kind.meta.get("license", "BSD-3-Clause (torchvision)")
    return _library_record(
        described,
        weights_url=kind.url,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
        crop_pct=transform.crop_size[0] / transform.resize_size[0],
        license=license,
        paper=f"weights {kind.name}; {kind.meta.get('recipe', _UNKNOWN)}",
        options=options,
    )


def _of_timm(described: Mapping[str, Any], side: int) -> Backbone:
    import timm
    from timm.data import resolve_data_config

    names = timm.list_pretrained(f"{described['model']}.*")
    tags = [name.partition(".")[2] for name in names if name.partition(".")[0] == described["model"]]
    _check_weights(described, tags)
    name = f"{described['model']}.{described['weights']}"
    known: Any = timm.get_pretrained_cfg(name)
    data = resolve_data_config(pretrained_cfg=known.to_dict())
    if data["crop_mode"] not in ("center", "squash"):
        raise ValueError(
            f"timm prepares images for {name} with crop_mode {data['crop_mode']!r}; expected center or squash. "
            "Choose other weights."
        )
    return _library_record(
        described,
        model=name,
        weights_url=f"{_HUB}{known.hf_hub_id}" if known.hf_hub_id else known.url,
        weights_file=(known.hf_hub_filename or "model.safetensors") if known.hf_hub_id else Path(known.url).name,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        crop_pct=side / int(side / data["crop_pct"]),  # timm rounds the edge down
        license=known.license or _UNKNOWN,
        paper=known.paper_name or known.origin_url or _UNKNOWN,
        resize="squash" if data["crop_mode"] == "squash" else "shorter_edge",
        fixed_input_size=known.input_size[-1] if known.fixed_input_size else None,
        converted=True,
    )


def _of_open_clip(described: Mapping[str, Any], side: int) -> Backbone:
    import open_clip

    model, tag = described["model"], described["weights"]
    _check_weights(described, open_clip.list_pretrained_tags_by_model(model))
    known, settings = open_clip.get_pretrained_cfg(model, tag), open_clip.get_model_config(model)
    if bool(known.get("quick_gelu")) != bool(settings.get("quick_gelu")):
        wanted = "QuickGELU" if known.get("quick_gelu") else "GELU"
        raise ValueError(
            f"{model} has another activation function than its weights {tag!r} need; expected {wanted}. Choose the "
            f"model whose name {'ends' if known.get('quick_gelu') else 'does not end'} in -quickgelu."
        )
    repository, _, file = known["hf_hub"].rpartition("/")
    return _library_record(
        described,
        weights_url=f"{_HUB}{repository}",
        weights_file=file or "open_clip_model.safetensors",
        mean=tuple(known["mean"]),
        std=tuple(known["std"]),
        interpolation=known["interpolation"],
        crop_pct=1.0,
        license=f"see {_HUB}{repository}",
        paper=f"weights {tag}",
        resize="squash" if known["resize_mode"] == "squash" else "shorter_edge",
        fixed_input_size=settings["vision_cfg"]["image_size"],
    )


_OF_LIBRARY: Mapping[str, Callable[[Mapping[str, Any], int], Backbone]] = {
    "torchvision": _of_torchvision,
    "timm": _of_timm,
    "open_clip": _of_open_clip,
}


def _library_record(described: Mapping[str, Any], **said: Any) -> Backbone:
    """Return a record from a library's data; license, paper and sha256 of the description take precedence."""
    file = said.pop("weights_file", None) or Path(said["weights_url"]).name
    digits = re.search(r"-([0-9a-f]{8,64})\.", file)
    pinned = {"sha256": digits[1] if digits else None}
    own = {name: described[name] for name in ("license", "paper", "sha256") if name in described}
    values = {"id": described["id"], "library": described["library"], "model": described["model"], "layers": {}}
    return Backbone(**(values | pinned | said | own | {"weights_file": file}))


def _check_weights(described: Mapping[str, Any], names: Iterable[str]) -> None:
    names = list(names)
    if described["weights"] not in names:
        files = f"a file ending in {', '.join(CHECKPOINTS)}"
        raise ValueError(
            f"{described['library']} has no weights {described['weights']!r} for {described['model']}; expected "
            f"one of {', '.join(names) or '(none)'}, or {files}{_nearest(described['weights'], names)} Correct it "
            "in params.yaml."
        )


def _widths(record: Backbone, layers: Sequence[str], side: int, expected: int | None) -> dict[str, int]:
    """Return the number of features of each layer, by one black image through the network with random weights."""
    network = build_network(record)
    if record.without_classifier:
        remove_classifier(network, record.library)
    return {layer: _width(network, record, layer, side, expected) for layer in layers}


def _width(network: torch.nn.Module, record: Backbone, layer: str, side: int, expected: int | None) -> int:
    tapped = _tapped(network, record, layer)
    try:
        with torch.inference_mode():
            found = tapped.network(torch.zeros(1, 3, side, side))  # before places are averaged
    except Exception as error:  # a network that does not support this side may raise almost any error
        raise ValueError(
            f"{record.model} of {record.id} does not accept images of {side} × {side} pixels "
            f"({first_sentence(error)}); expected a supported side. Set image_side in params.yaml."
        ) from error
    found = found[layer] if isinstance(found, dict) else found
    shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
    # square images give square maps: anything else is not a map, or has its channels last
    if len(shape) != 2 and not (len(shape) == 4 and shape[2] == shape[3]):
        raise ValueError(
            f"layer {layer!r} of {record.id} gives {shape} for one image; expected features (1, f) or a map "
            "(1, f, height, width). Name another layer in params.yaml."
        )
    if expected not in (None, found.shape[1]):
        raise ValueError(
            f"layer {layer!r} of {record.id} gives {found.shape[1]} features; expected width {expected}. Correct "
            "width, or leave it out, in params.yaml."
        )
    return found.shape[1]


def _tapped(network: torch.nn.Module, record: Backbone, layer: str) -> Tapped:
    try:
        return Tapped(network, record.library, layer).eval()
    except ValueError as error:
        from torchvision.models.feature_extraction import get_graph_node_names

        nodes = get_graph_node_names(network.eval(), suppress_diff_warning=True)[1]
        layers = list(dict.fromkeys(node.split(".")[0] for node in nodes))
        raise ValueError(
            f"{record.id} has no layer {layer!r}; expected one of {', '.join(layers)}, or a layer inside them"
            f"{_nearest(layer, [*layers, *nodes])} Correct it in params.yaml."
        ) from error


def _check_model(library: str, model: str) -> None:
    names = _MODELS[library]()
    if model not in names:
        raise ValueError(
            f"{library} has no model {model!r} for images; expected one of its {len(names)} names"
            f"{_nearest(model, names)} Correct it in params.yaml."
        )


def _torchvision_models() -> list[str]:
    from torchvision import models

    return models.list_models(module=models)  # classifiers; builders of detectors download weights unasked


def _timm_models() -> list[str]:
    import timm

    return timm.list_models()


def _open_clip_models() -> list[str]:
    import open_clip

    # the others would fetch their text half's settings from Hugging Face while they are built
    settings = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    return [name for name, values in settings.items() if "hf_model_name" not in values["text_cfg"]]


_MODELS: Mapping[str, Callable[[], list[str]]] = {
    "torchvision": _torchvision_models,
    "timm": _timm_models,
    "open_clip": _open_clip_models,
}


def _nearest(given: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0)
    return f". Did you mean {close[0]!r}?" if close else "."
