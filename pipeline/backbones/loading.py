"""Build networks by their library, load them strictly, and read one layer or several.

Enters: a backbone's record, weights by name. Leaves: a frozen module, images (n, 3, s, s) → embeddings (n, f).
Must not know: where weights come from, data sets, caches, estimators.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from pipeline.backbones.registry import BACKBONES, Backbone, as_layers, check_layers
from pipeline.io import counted, first_sentence

_WITHOUT_CLASSIFIER = frozenset({"swav_resnet50w2", "dino_resnet50"})
"""Published without the last layer; all others must contain theirs, or the file is the wrong one."""


def build_network(record: Backbone) -> nn.Module:
    """Build a backbone's architecture with random weights, in the layout of its checkpoint."""
    if record.library == "timm":
        import timm

        return timm.create_model(record.model, pretrained=False)
    if record.library == "open_clip":
        return _build_open_clip(record)
    from torchvision.models import get_model

    if record.id == "swav_resnet50w2":
        return _doubled_resnet50()
    return get_model(record.model, weights=None, **record.options)


def _build_open_clip(record: Backbone) -> nn.Module:
    """Build a CLIP model, and refuse it if its activation differs from that of OpenAI's weights.

    open_clip compares the two only when it downloads the weights, and then only warns: names and shapes agree, but the
    embeddings differ.
    """
    import open_clip

    activation = (open_clip.get_model_config(record.model) or {}).get("quick_gelu")
    if record.id == "clip_vit_b32" and not activation:
        raise ValueError(
            f"model {record.model} of {record.id} uses GELU; expected QuickGELU, because OpenAI trained these "
            "weights with it. Choose the model whose name ends in -quickgelu."
        )
    root = logging.getLogger()
    root.addFilter(_is_worth_saying)
    try:
        return open_clip.create_model(record.model, pretrained=None)
    finally:
        root.removeFilter(_is_worth_saying)


def _is_worth_saying(entry: logging.LogRecord) -> bool:
    """Drop open_clip's remark that a model is random: its weights are loaded immediately afterwards."""
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


def load_backbone(record: Backbone, layers: str | Sequence[str], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build a backbone, load its weights strictly, and return it frozen, in evaluation mode: images → (n, f).

    Parameters
    ----------
    record : Backbone
    layers : str or sequence of str
        The columns of several layers follow each other in this order.
    state : mapping from name to Tensor
        As :func:`pipeline.backbones.weights.read_weights` returns it.

    Raises
    ------
    ValueError
        If a weight is missing, unexpected, or of another shape.
    """
    check_layers(record, layers)
    if record.converted:
        return Tapped(_load_by_timm(record, state), record.library, layers).eval().requires_grad_(False)
    network, state = build_network(record), rename_weights(record, state)
    if record.without_classifier or record.id in _WITHOUT_CLASSIFIER:
        remove_classifier(network, record.library)
    load_strictly(network, state, record)
    return Tapped(network, record.library, layers).eval().requires_grad_(False)


def _load_by_timm(record: Backbone, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """Let timm load its own weights, which it converts for some architectures, as strictly as :func:`load_strictly`."""
    import timm

    try:
        network = timm.create_model(record.model, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
    except (RuntimeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the weights of {record.id} do not fit {record.model} ({first_sentence(error)}); expected "
            f"{record.weights_file} of {record.weights_url}. Download it again from there."
        ) from error
    for name in ("pretrained_cfg", "default_cfg"):  # where timm keeps a second copy of the weights
        vars(network).pop(name, None)
    return network


def remove_classifier(network: nn.Module, library: str) -> None:
    """Remove the last layer of a network: timm names it; in torchvision it is the last layer with weights."""
    if library == "timm":
        network.reset_classifier(0)  # type: ignore[operator]
        return
    setattr(network, classifier_name(network, library), nn.Identity())


def classifier_name(network: nn.Module, library: str) -> str:
    """Return the name of the last layer."""
    if library == "timm":
        return str(network.default_cfg.get("classifier"))  # type: ignore[union-attr,operator]
    return [name for name, child in network.named_children() if next(child.parameters(), None) is not None][-1]


class Tapped(nn.Module):
    """Read a network at one layer or several, averaged over places: images (n, 3, s, s) → embeddings (n, f)."""

    def __init__(self, network: nn.Module, library: str, layers: str | Sequence[str]) -> None:
        super().__init__()
        self.library, self.layers = library, as_layers(layers)
        if library == "timm":
            network.reset_classifier(0)  # type: ignore[operator]
            self.network = network
        elif library == "open_clip":
            self.network = network.visual  # type: ignore[assignment]
        else:
            from torchvision.models.feature_extraction import create_feature_extractor

            # train and evaluation graphs may differ, and only the latter is used
            names = {layer: layer for layer in self.layers}
            extractor = create_feature_extractor(network.eval(), names, suppress_diff_warning=True)
            if len(names) > 1:
                _check_apart(network, self.layers)
                _copy_what_is_read(extractor.eval())
            self.network = extractor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of images."""
        found = self.network(images)
        if isinstance(found, dict):
            parts = (found[layer] for layer in self.layers)  # the extractor has its own order
            found = [part.mean(dim=(2, 3)) if part.ndim == 4 else part for part in parts]
            return torch.cat(found, dim=1) if len(found) > 1 else found[0]
        return found


def _check_apart(network: nn.Module, layers: Sequence[str]) -> None:
    """Raise ValueError if two layers are one: a layer and the part that is computed last in it."""
    from torchvision.models.feature_extraction import create_feature_extractor

    seen = dict[str, str]()
    for layer in layers:
        alone = create_feature_extractor(network, [layer], suppress_diff_warning=True).eval()
        (output,) = (node for node in alone.graph.nodes if node.op == "output")
        other = seen.setdefault(output.args[0][layer].name, layer)
        if other != layer:
            raise ValueError(
                f"layers names {other} and {layer}, which give the same features; expected different layers. Leave one "
                "out."
            )


def _copy_what_is_read(network: GraphModule) -> None:
    """Copy each layer as soon as it is computed: a later layer may write into it, as an in-place `relu` does."""
    graph = network.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    copies = {}
    for name, node in output.args[0].items():
        with graph.inserting_after(node):
            copies[name] = graph.call_function(torch.clone, (node,))
    output.args = (copies,)
    network.recompile()


def load_strictly(network: nn.Module, state: Mapping[str, torch.Tensor], record: Backbone) -> None:
    """Load weights into a network if names and shapes match exactly.

    Raises
    ------
    ValueError
        If they do not match; the message names the first differences, and the setting that fixes them.
    """
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted and not name.startswith(record.extra_keys or ("\0",))]
    if missing or extra:
        prefixes = "known prefixes of checkpoints are module., backbone., student., teacher.; " if missing else ""
        advice = prefixes + _way_out(network, record, missing, extra)
        said = ", ".join(filter(None, (_first(missing, "missing"), _first(extra, "unexpected"))))
        raise ValueError(
            f"the weights of {record.id} do not fit {record.model}: {said}; expected the layout of "
            f"{record.weights_file if record.id in BACKBONES else record.model}. {_upper(advice)}."
        )
    other = [name for name, tensor in wanted.items() if state[name].shape != tensor.shape]
    if other:
        name = other[0]
        raise ValueError(
            f"weight {name} of {record.id} has shape {tuple(state[name].shape)}; expected {tuple(wanted[name].shape)} "
            f"of {record.model}. {_upper(_way_out(network, record, other, other))}."
        )
    network.load_state_dict({name: state[name] for name in wanted}, strict=True)


def _first(names: list[str], how: str) -> str:
    """Say how many names there are, and name the first; nothing if there is none."""
    verb = "is" if len(names) == 1 else "are"
    return f"{counted(len(names), 'name')} {verb} {how} (first: {names[:1]})" if names else ""


def _way_out(network: nn.Module, record: Backbone, missing: list[str], extra: list[str]) -> str:
    """Return the advice that makes the names or shapes of a network and a file agree, beyond what is already set."""
    if record.id in BACKBONES:
        return f"use the original file {record.weights_file} of its publisher"
    beginnings = sorted({*record.extra_keys, *(name.partition(".")[0] + "." for name in extra)})
    lists = f"extra_keys: [{', '.join(beginnings)}]"
    if not missing:
        return f"set {lists}, which leaves them out"
    head = "\0" if record.without_classifier else f"{classifier_name(network, record.library)}."
    if all(name.startswith(head) for name in missing):
        return f"set without_classifier: true{f' and {lists}' if extra else ''}, if layer comes before the classifier"
    longer = next((name for name in extra if name.endswith(f".{missing[0]}")), None)
    if longer is not None:
        return f"set prefix: {longer.removesuffix(missing[0])}"
    return f"name the model that wrote {record.weights_file}, or use a file of {record.model}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def rename_weights(record: Backbone, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate the names of a checkpoint into those of the architecture.

    Raises
    ------
    ValueError
        If two weights would have one name.
    """
    rename = _renaming(record)
    renamed: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in state.items():
        new = rename(name.removeprefix(record.prefix))
        if new in renamed:
            raise ValueError(
                f"{record.weights_file} contains the weight {new} twice, as {origin[new]} and as {name}; expected "
                f"one network. Correct the prefix, which is {record.prefix!r}, or leave the other network out of "
                "the file."
            )
        renamed[new], origin[new] = tensor, name
    return renamed


def _renaming(record: Backbone) -> Callable[[str], str]:
    if record.id == "efficientnet_lite0":
        return _lite0_name
    if record.library == "torchvision" and record.model.startswith("densenet"):
        return _densenet_name
    return str


def _densenet_name(name: str) -> str:
    """Translate a name of torchvision's published DenseNet weights, which use older names.

    Examples
    --------
    >>> _densenet_name("features.denseblock1.denselayer2.norm.1.weight")
    'features.denseblock1.denselayer2.norm1.weight'
    """
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name)


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
    block = re.fullmatch(r"_blocks\.(\d{1,2})\.(\w+)\.(.+)", name)
    if block is None or int(block[1]) >= sum(_LITE0_REPEATS):
        first, dot, rest = name.partition(".")
        return f"{_LITE0_TOP.get(first, first)}{dot}{rest}"
    (number, layer, leaf), stage = block.groups(), 0
    place = int(number)
    while place >= _LITE0_REPEATS[stage]:
        place -= _LITE0_REPEATS[stage]
        stage += 1
    table = _LITE0_FIRST if stage == 0 else _LITE0_BLOCK
    return f"blocks.{stage}.{place}.{table.get(layer, layer)}.{leaf}"
