import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.backbones import load_backbone
from pipeline.backbones.loading import Tapped, build_network
from pipeline.backbones.registry import BACKBONES, find_backbone, preprocess

SWAV = BACKBONES["swav_resnet50w2"]
RESNET, DINO, CLIP = (BACKBONES[name] for name in ("resnet50_imagenet", "dino_resnet50", "clip_vit_b32"))
RESNET_V1 = BACKBONES["resnet50_imagenet_v1"]


# the registry


def test_records_stand_under_their_own_ids():
    assert all(name == record.id for name, record in BACKBONES.items())


def test_backbones_that_settings_may_name_already_stay():
    assert set(BACKBONES) >= {
        "efficientnet_lite0", "resnet50_imagenet", "resnet50_imagenet_v1", "clip_vit_b32", "swav_resnet50w2",
        "dino_resnet50",
    }  # fmt: skip


@pytest.mark.parametrize("record", BACKBONES.values(), ids=list(BACKBONES))
def test_a_record_goes_through_json(record):
    import json

    values = record.record()
    assert json.loads(json.dumps(values)) == values
    assert values["mean"] == list(record.mean)
    assert values["layers"] == dict(record.layers)


@pytest.mark.parametrize(
    ("record", "layer"),
    [(record, layer) for record in BACKBONES.values() for layer in record.layers],
    ids=lambda part: getattr(part, "id", part),
)
def test_every_layer_of_a_record_has_the_width_that_it_says(record, layer):
    side = record.fixed_input_size or 224
    with torch.device("cpu" if record.library == "open_clip" else "meta"):  # open_clip moves the models that it builds
        network = Tapped(build_network(record), record.library, layer).eval()
        assert network(torch.zeros(2, 3, side, side)).shape == (2, record.layers[layer])


def test_an_unknown_backbone_offers_the_names():
    with pytest.raises(ValueError, match=r"'dino_resnet5' is unknown; expected one of .*Did you mean 'dino_resnet50'"):
        find_backbone("dino_resnet5")
    with pytest.raises(
        ValueError, match=r"expected one of efficientnet_lite0, resnet50_imagenet, .*, clip.*Correct it"
    ):
        find_backbone("")


def test_an_unknown_layer_offers_the_layers():
    with pytest.raises(
        ValueError,
        match=r"swav_resnet50w2 has no layer 'layer4'; expected one of avgpool, layer3\. Did you mean 'layer3'\? Cor",
    ):
        find_backbone("swav_resnet50w2", "layer4")
    with pytest.raises(ValueError, match="clip_vit_b32 has no layer 'avgpool'; expected one of projected"):
        load_backbone(CLIP, "avgpool", {})


# preparing images


def test_a_flat_image_is_scaled_by_mean_and_deviation():
    prepared = preprocess(SWAV, 32)(Image.new("RGB", (50, 40), (255, 0, 51)))
    assert prepared.shape == (3, 32, 32)
    assert prepared.dtype == torch.float32
    for channel, value in enumerate([1.0, 0.0, 0.2]):
        expected = (value - SWAV.mean[channel]) / SWAV.std[channel]
        assert torch.allclose(prepared[channel], torch.tensor(expected), atol=1e-6)


def test_the_shorter_edge_is_resized_and_the_centre_cut_out():
    ramp = np.zeros((256, 512, 3), np.uint8)
    ramp[:, 256:] = 255  # dark to the left of the centre, bright to the right
    prepared = preprocess(SWAV, 224)(Image.fromarray(ramp))
    low, high = prepared[0, 0, 0], prepared[0, 0, -1]
    assert (prepared[0, :, :110] == low).all()
    assert (prepared[0, :, 114:] == high).all()
    assert high > low


PUBLISHED = [
    (RESNET, 232, "bilinear"),
    (RESNET_V1, 256, "bilinear"),
    (DINO, 256, "bicubic"),
    (SWAV, 256, "bilinear"),
    (CLIP, 224, "bicubic"),
    (BACKBONES["efficientnet_lite0"], 224, "bicubic"),
]


def test_every_record_has_published_sides():
    assert {record.id for record, *_ in PUBLISHED} == set(BACKBONES)


@pytest.mark.parametrize(("record", "edge", "mode"), PUBLISHED, ids=[record.id for record, *_ in PUBLISHED])
def test_published_sides_are_kept(record, edge, mode):
    resize, crop = preprocess(record, 224).cut.transforms
    assert (resize.size, crop.size) == (edge, (224, 224))
    assert resize.interpolation.value == mode
    assert resize.antialias


@pytest.mark.parametrize("record", BACKBONES.values(), ids=list(BACKBONES))
def test_every_pixel_is_scaled_to_the_bits_that_torchvision_gives(record):
    """An image with all 256 values in all three channels, which covers every possible pixel."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    side = record.fixed_input_size or (224 if record.id == "clip_vit_b32" else 32)
    values = np.random.default_rng(0).permutation(np.arange(6 * side * side) % 256).reshape(2, side, side, 3)
    pixels = values.astype(np.uint8)
    expected = torch.stack([Compose([ToTensor(), Normalize(record.mean, record.std)])(each) for each in pixels])
    found = preprocess(record, side).scale(torch.from_numpy(pixels))
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(64, 64), (90, 70), (40, 64)])
def test_images_in_a_batch_have_the_bits_of_those_alone(size):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(5)]
    prepare = preprocess(SWAV, 48)
    pixels = np.stack([prepare.pixels(image) for image in images])
    assert pixels.shape == (5, 48, 48, 3)
    assert torch.equal(prepare.scale(torch.from_numpy(pixels)), torch.stack([prepare(image) for image in images]))
