import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.backbones import describe_backbone, find_weights, read_weights
from pipeline.backbones.loading import build_network, load_backbone
from pipeline.backbones.registry import BACKBONES, preprocess
from pipeline.config.embeddings import InlineBackbone


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """A machine without weights, where every search elsewhere fails."""

    def refuse(*arguments, **options):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("DKVB_WEIGHTS", "DKVB_ALLOW_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)


def named(library, model, weights, **more):
    return (
        {"id": f"{library}:{model}:{weights}", "file": None, "library": library, "model": model}
        | {"weights": weights}
        | more
    )


def in_file(model, library="torchvision", file="mine.pth", **more):
    name = Path(file).stem
    described = {"id": f"{library}:{model}:{name}", "file": file, "library": library, "model": model, "weights": file}
    return described | more


def random_image():
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (301, 260, 3), dtype=np.uint8))


def same_but(record, known, *fields):
    blank = dict.fromkeys(("id", "layers", "paper", "license", *fields))
    return replace(record, **blank) == replace(known, **blank)


# weights that a library knows by name


@pytest.mark.parametrize(
    ("weights", "known"), [("IMAGENET1K_V2", "resnet50_imagenet"), ("IMAGENET1K_V1", "resnet50_imagenet_v1")]
)
def test_torchvisions_own_words_agree_with_our_records(weights, known):
    record = describe_backbone(named("torchvision", "resnet50", weights), "avgpool", 64)
    assert same_but(record, BACKBONES[known])
    assert record.layers == {"avgpool": 2048}


def test_images_are_prepared_as_torchvision_does():
    from torchvision.models import MobileNet_V3_Small_Weights

    record = describe_backbone(named("torchvision", "mobilenet_v3_small", "IMAGENET1K_V1"), "features", 64)
    expected = MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms()(random_image())
    assert torch.allclose(preprocess(record, 224)(random_image()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "weights", "side"),
    [
        ("mobilenetv3_small_050", "lamb_in1k", 224),
        ("test_efficientnet", "r160_in1k", 160),
        ("mobilenetv3_small_075", "lamb_in1k", 96),
        ("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 224),
        ("convnextv2_nano", "fcmae_ft_in22k_in1k_384", 128),
    ],
)  # fmt: skip
def test_images_are_prepared_as_timm_does(model, weights, side):
    import timm
    from timm.data import create_transform, resolve_data_config

    known = timm.get_pretrained_cfg(f"{model}.{weights}")
    config = resolve_data_config({"img_size": side}, pretrained_cfg=known.to_dict())
    record = describe_backbone(named("timm", model, weights), "avgpool", side)
    expected = create_transform(**config, is_training=False)(random_image())
    assert torch.allclose(preprocess(record, side)(random_image()), expected, atol=1e-6)
    assert record.weights_url == f"https://huggingface.co/{known.hf_hub_id}"
    assert record.license == known.license


def test_both_edges_are_resized_where_the_library_squashes():
    record = describe_backbone(named("timm", "convnextv2_nano", "fcmae_ft_in22k_in1k_384"), "avgpool", 64)
    assert record.record()["resize"] == "squash"
    assert preprocess(record, 64).cut.transforms[0].size == (64, 64)


def test_a_fixed_side_is_told():
    record = describe_backbone(named("timm", "vit_tiny_patch16_224", "augreg_in21k_ft_in1k"), "avgpool", 224)
    with pytest.raises(ValueError, match=r"image_side=96 does not suit timm:vit_tiny.*; expected 224, because its pos"):
        preprocess(record, 96)


def test_weights_that_want_other_pixels_are_built_for_them():
    record = describe_backbone(named("torchvision", "googlenet", "IMAGENET1K_V1"), "avgpool", 64)
    assert record.options["transform_input"]
    assert build_network(record).transform_input
    assert record.record()["options"] == {"transform_input": True, "init_weights": False}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # open_clip's own imports
def test_open_clips_own_words_agree_with_our_record():
    record = describe_backbone(named("open_clip", "ViT-B-32-quickgelu", "openai"), "projected", 224)
    assert same_but(record, BACKBONES["clip_vit_b32"], "fixed_input_size")
    assert (record.layers, record.fixed_input_size) == ({"projected": 512}, 224)
    squashed = describe_backbone(named("open_clip", "ViT-B-16-SigLIP", "webli"), "projected", 224)
    assert (squashed.resize, squashed.mean) == ("squash", (0.5, 0.5, 0.5))


@pytest.mark.filterwarnings("default")
def test_open_clips_other_activation_is_refused():
    with pytest.raises(
        ValueError, match=r"another activation function than its weights 'openai' need; expected QuickGELU\. Choose the"
    ):
        describe_backbone(named("open_clip", "ViT-B-32", "openai"), "projected", 224)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("described", "layer", "text"),
    [
        (named("torchvision", "resnet5", "x"), "avgpool", r"torchvision has no model 'resnet5' for images.*Did you"),
        (named("torchvision", "fasterrcnn_resnet50_fpn", "x"), "a", "has no model 'fasterrcnn_resnet50_fpn'"),
        (named("torchvision", "resnet18", "DEFAULT"), "a", r"has no weights 'DEFAULT' for resnet18; expected"),
        (named("timm", "resnet18", "a9_in1k"), "avgpool", r"expected one of .*a1_in1k.*Did you mean 'a\d_in1k'\? Corr"),
        (named("timm", "resnet18", "a1_in1k"), "layer3", r"timm models have no layer 'layer3'; expected 'avgpool'"),
        (named("open_clip", "RN50", "opena"), "projected", r"no weights 'opena' for RN50.*Did you mean 'openai'\?"),
        (named("open_clip", "roberta-ViT-B-32", "laion2b_s12b_b32k"), "projected", "open_clip has no model 'roberta-"),
    ],
)  # fmt: skip
def test_an_unknown_name_offers_the_nearest(described, layer, text):
    with pytest.raises(ValueError, match=text):
        describe_backbone(described, layer, 64)


def test_absent_weights_give_address_and_command(tmp_path, monkeypatch):
    record = describe_backbone(named("torchvision", "squeezenet1_1", "IMAGENET1K_V1"), "features", 64)
    with pytest.raises(FileNotFoundError) as caught:
        find_weights(record)
    assert "expected the file from https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth" in str(caught.value)
    assert f"`mkdir -p {tmp_path / 'torch/hub/checkpoints'} && mv squeezenet1_1-b8a52dc0.pth " in str(caught.value)
    assert record.sha256 == "b8a52dc0"

    record = describe_backbone(named("timm", "mobilenetv3_small_050", "lamb_in1k"), "avgpool", 64)
    folder = tmp_path / "own/timm/mobilenetv3_small_050.lamb_in1k"
    monkeypatch.setenv("DKVB_WEIGHTS", str(tmp_path / "own"))
    with pytest.raises(
        FileNotFoundError, match=r"expected the file from https://huggingface\.co/timm/mobilenetv3_small_"
    ):
        find_weights(record)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    assert find_weights(record) == folder / "model.safetensors"


def test_a_failed_download_is_one_sentence(monkeypatch):
    monkeypatch.setenv("DKVB_ALLOW_DOWNLOAD", "1")

    def broken(*arguments, **options):
        assert socket.getdefaulttimeout() == 30
        raise TimeoutError("timed out")

    monkeypatch.setattr(torch.hub, "download_url_to_file", broken)
    record = describe_backbone(named("torchvision", "squeezenet1_1", "IMAGENET1K_V1"), "features", 64)
    with pytest.raises(
        OSError, match=r"could not be downloaded \(timed out\); expected squeezenet1_1-b8.*Try again, or"
    ):
        find_weights(record)
    assert socket.getdefaulttimeout() is None


def test_timms_own_weights_are_loaded_by_timm_and_strictly():
    record = describe_backbone(named("timm", "mobilenetv3_small_050", "lamb_in1k"), "avgpool", 64)
    network = build_network(record).eval()
    state, batch = network.state_dict(), torch.randn(2, 3, 64, 64)
    network.reset_classifier(0)
    loaded = load_backbone(record, "avgpool", state)
    with torch.no_grad():
        assert torch.equal(loaded(batch), network(batch))
    assert record.layers == {"avgpool": loaded(batch).shape[1]}
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    del state["conv_stem.weight"]
    with pytest.raises(ValueError, match=r"do not fit mobilenetv3_small_050.lamb_in1k \(.*conv_stem.*\); expected mod"):
        load_backbone(record, "avgpool", state)


# a checkpoint file


def write(tmp_path, state, name="mine.safetensors"):
    path = tmp_path / name
    if name.endswith(".safetensors"):
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def squeezenet(num_classes=1000):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    return squeezenet1_1(weights=None, num_classes=num_classes).eval()


def load(path, **more):
    record = describe_backbone(in_file("squeezenet1_1", file=str(path), **more), "features", 64)
    return load_backbone(record, "features", read_weights(find_weights(record, path)))


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pth"])
def test_a_file_is_loaded_and_its_map_averaged_over_places(tmp_path, name):
    network, batch = squeezenet(), torch.randn(2, 3, 64, 64)
    loaded = load(write(tmp_path, network.state_dict(), name))
    with torch.no_grad():
        expected = network.features(batch).mean(dim=(2, 3))
    assert torch.allclose(loaded(batch), expected, atol=1e-6)
    assert loaded(batch).shape == (2, 512)


def test_what_is_left_out_has_stated_defaults():
    record = describe_backbone(in_file("squeezenet1_1"), "features", 64)
    known = BACKBONES["resnet50_imagenet"]
    assert (record.mean, record.std, record.interpolation, record.crop_pct) == (
        known.mean,
        known.std,
        "bilinear",
        1.0,
    )
    assert (record.license, record.sha256, record.weights_file) == ("not stated", None, "mine.pth")
    assert record.layers == {"features": 512}


def test_what_is_said_stands_in_the_record():
    said = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0], "interpolation": "bicubic", "crop_pct": 0.875}
    said |= {"prefix": "net.", "extra_keys": ["head."], "license": "MIT", "paper": "none", "sha256": "0" * 8}
    record = describe_backbone(in_file("squeezenet1_1", **said, without_classifier=True, width=512), "features", 64)
    values = record.record()
    assert {name: values[name] for name in said} == said
    assert values["without_classifier"]


def test_a_prefix_is_refused_until_it_is_named(tmp_path):
    state = squeezenet().state_dict()
    path = write(tmp_path, {f"module.{name}": tensor for name, tensor in state.items()})
    with pytest.raises(
        ValueError, match=r"52 names are missing \(first: \['features.0.weight'\]\), 52 names are unexpected \(first:"
    ):
        load(path)
    with pytest.raises(ValueError, match=r"Known prefixes of checkpoints are module\., .*; set prefix: module\.\.$"):
        load(path)
    assert load(path, prefix="module.")(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_the_teacher_of_a_training_checkpoint_is_loaded_by_its_prefix(tmp_path):
    state = squeezenet().state_dict()
    teacher = {f"module.backbone.{name}": tensor for name, tensor in state.items()}
    teacher["module.head.last.weight"] = torch.zeros(2, 2)
    student = {f"module.backbone.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    path = write(tmp_path, {"student": student, "teacher": teacher, "epoch": 3}, "whole.pth")
    with pytest.raises(ValueError, match=r"unexpected \(first: \['student\.module\.backbone"):
        load(path, prefix="teacher.module.backbone.")
    others = ["student.", "teacher.module.head."]
    network = load(path, prefix="teacher.module.backbone.", extra_keys=others)
    expected = load(write(tmp_path, state, "plain.pth"))(torch.ones(1, 3, 64, 64))
    assert torch.equal(network(torch.ones(1, 3, 64, 64)), expected)


def test_a_missing_classifier_is_refused_until_it_is_allowed(tmp_path):
    state = {name: tensor for name, tensor in squeezenet().state_dict().items() if not name.startswith("classifier.")}
    path = write(tmp_path, state)
    with pytest.raises(ValueError, match=r"2 names are missing.*; set without_classifier: true, if layer comes before"):
        load(path)
    assert load(path, without_classifier=True)(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    with pytest.raises(ValueError, match=r"1 name is missing \(first: \['features.0.bias'\]\)"):
        load(
            write(tmp_path, {name: t for name, t in state.items() if name != "features.0.bias"}),
            without_classifier=True,
        )


def test_a_classifier_that_is_there_cannot_be_called_absent(tmp_path):
    with pytest.raises(ValueError, match=r"2 names are unexpected \(first: \['classifier.1."):
        load(write(tmp_path, squeezenet().state_dict()), without_classifier=True)


def test_extra_names_are_allowed_by_their_beginning_alone(tmp_path):
    path = write(tmp_path, squeezenet().state_dict() | {"queue.0": torch.ones(1)})
    with pytest.raises(ValueError, match=r"1 name is unexpected \(first: \['queue.0'\]\)"):
        load(path)
    assert load(path, extra_keys=["queue."])(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_timms_classifier_may_be_absent_too(tmp_path):
    import timm

    network = timm.create_model("mobilenetv3_small_050", pretrained=False).eval()
    state = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("classifier.")}
    record = describe_backbone(in_file("mobilenetv3_small_050", "timm", without_classifier=True), "avgpool", 64)
    loaded, batch = load_backbone(record, "avgpool", state), torch.randn(1, 3, 64, 64)
    network.reset_classifier(0)
    with torch.no_grad():
        assert torch.equal(loaded(batch), network(batch))


def test_densenets_published_names_are_older_than_torchvisions(tmp_path):
    record = describe_backbone(in_file("densenet121"), "features", 64)
    network = build_network(record).eval()
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: tensor
           for name, tensor in network.state_dict().items()}  # fmt: skip
    batch = torch.randn(1, 3, 64, 64)
    assert old.keys() != network.state_dict().keys()
    with torch.no_grad():
        assert torch.allclose(
            load_backbone(record, "features", old)(batch), network.features(batch).mean(dim=(2, 3)), atol=1e-5
        )


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    path = write(tmp_path, squeezenet().state_dict())
    with pytest.raises(
        ValueError, match=r"mine\.safetensors has sha256 .*; expected 00000000 of torchvision:squeezenet1_1"
    ):
        load(path, sha256="00000000")


def test_an_absent_file_is_told_with_its_path(tmp_path):
    record = describe_backbone(in_file("squeezenet1_1", file="gone.pth"), "features", 64)
    with pytest.raises(
        FileNotFoundError, match=r"are not in .*gone\.pth; expected a checkpoint file there\. Correct weig"
    ):
        find_weights(record, tmp_path / "gone.pth")


@pytest.mark.parametrize(
    ("described", "layer", "side", "text"),
    [
        (in_file("squeezenet1_1"), "feature", 64, r"no layer 'feature'; expected one of x, feat.*mean 'features'"),
        (in_file("squeezenet1_1", without_classifier=True), "classifier.1", 64, "has no layer 'classifier.1'"),
        (in_file("squeezenet1_1", width=1280), "features", 64, "gives 512 features; expected width 1280. Correct"),
        (in_file("squeezenet1_1"), "features", 8, r"does not accept images of 8 × 8 pixels \(.*\); expected a"),
        (in_file("vit_tiny_patch16_224", "timm"), "avgpool", 64, "does not accept images of 64 × 64 pixels .* Set"),
        (in_file("swin_t"), "features", 64, r"gives \(1, 2, 2, 768\) for one image; expected features \(1, f\)"),
    ],
)  # fmt: skip
def test_a_layer_or_side_that_does_not_suit_is_refused(described, layer, side, text):
    with pytest.raises(ValueError, match=text):
        describe_backbone(described, layer, side)


def test_each_message_about_a_fine_tuned_head_leads_on_until_it_is_taken(tmp_path):
    path = write(tmp_path, squeezenet(num_classes=10).state_dict())
    with pytest.raises(
        ValueError, match=r"shape \(10, .*\. Set without_classifier: true and extra_keys: \[classifier\.\]"
    ):
        load(path)
    with pytest.raises(
        ValueError, match=r"2 names are unexpected .*\. Set extra_keys: \[classifier\.\], which leaves"
    ) as caught:
        load(path, without_classifier=True)
    assert "without_classifier" not in str(caught.value)
    assert load(path, without_classifier=True, extra_keys=["classifier."])(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_what_is_set_already_is_never_advised(tmp_path):
    state = squeezenet(num_classes=10).state_dict() | {"queue": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"Set extra_keys: \[classifier\., queue\.\]|extra_keys: \[queue\., classifier"
    ):
        load(write(tmp_path, state), without_classifier=True)
    narrow = squeezenet().state_dict()
    narrow["features.0.weight"] = narrow["features.0.weight"][:10]
    with pytest.raises(
        ValueError, match=r"features\.0\.weight .* has shape \(10, .*\. Name the model that wrote"
    ) as caught:
        load(write(tmp_path, narrow), without_classifier=True, extra_keys=["classifier."])
    assert "Set " not in str(caught.value)


@pytest.mark.parametrize("name", ["mine.ckpt", "MINE.PTH"])
def test_a_checkpoint_is_known_by_its_ending(tmp_path, name):
    path = write(tmp_path, {"state_dict": squeezenet().state_dict(), "epoch": 3}, name)
    assert InlineBackbone(library="torchvision", model="squeezenet1_1", weights=str(path)).file == str(path)
    assert load(path)(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_a_file_of_an_unknown_ending_is_told_the_known_ones(tmp_path):
    path = write(tmp_path, squeezenet().state_dict(), "mine.weights")
    said = InlineBackbone(library="torchvision", model="squeezenet1_1", weights=str(path)).recipe()
    with pytest.raises(
        ValueError, match=r"has no weights '.*mine\.weights'.* or a file ending in \.safetensors, \.pth"
    ):
        describe_backbone(said, "features", 64)
