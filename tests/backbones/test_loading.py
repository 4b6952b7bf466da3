from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.backbones import find_weights, read_weights
from pipeline.backbones.loading import build_network, load_backbone, rename_weights
from pipeline.backbones.registry import BACKBONES

LITE0, SWAV = BACKBONES["efficientnet_lite0"], BACKBONES["swav_resnet50w2"]
RESNET, DINO, CLIP = (BACKBONES[name] for name in ("resnet50_imagenet", "dino_resnet50", "clip_vit_b32"))
SIDE = 32


@pytest.fixture(scope="module")
def lite0_state():
    return read_weights(find_weights(LITE0))


@pytest.fixture(scope="module")
def lite0(lite0_state):
    return load_backbone(LITE0, "avgpool", lite0_state)


def images(n, side=SIDE, seed=0):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


# EfficientNet-Lite0


def test_lite0_names_map_one_to_one_onto_timms(lite0_state):
    renamed = rename_weights(LITE0, lite0_state)
    wanted = build_network(LITE0).state_dict()
    assert len(lite0_state) == len(renamed) == len(wanted) == 296
    assert {name: t.shape for name, t in renamed.items()} == {name: t.shape for name, t in wanted.items()}
    assert list(renamed) == list(wanted)  # both libraries list layers in the order of the forward pass


def test_lite0_loads_the_published_values(lite0, lite0_state):
    assert torch.equal(lite0.network.conv_stem.weight, lite0_state["_conv_stem.weight"])
    assert torch.equal(lite0.network.blocks[6][0].bn3.running_var, lite0_state["_blocks.15._bn2.running_var"])


def test_lite0_embeds_in_1280_dimensions(lite0):
    embeddings = lite0(images(2))
    assert embeddings.shape == (2, 1280)
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
    assert (embeddings >= 0).all()  # after ReLU6 and the mean
    assert (embeddings <= 6).all()
    assert not torch.allclose(embeddings[0], embeddings[1], atol=0.1)


def test_lite0_is_the_mean_over_places_of_its_last_feature_map(lite0):
    with torch.no_grad():
        expected = lite0.network.forward_features(images(2)).mean(dim=(2, 3))
    assert torch.allclose(lite0(images(2)), expected, atol=1e-5)


def test_the_network_is_frozen_and_in_evaluation_mode(lite0):
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert not any(module.training for module in lite0.modules())
    assert not lite0(images(2)).requires_grad


def test_a_forward_pass_changes_no_buffer(lite0):
    before = {name: tensor.clone() for name, tensor in lite0.state_dict().items()}
    assert any(name.endswith("running_mean") for name in before)
    lite0(images(2, seed=1) * 10)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lite0.state_dict().items())


def test_the_embedding_of_an_image_is_independent_of_its_batch(lite0):
    same = images(1)
    alone = lite0(same)[0]
    scale = alone.abs().max()
    for seed in (1, 2):
        among = lite0(torch.cat([images(2, seed=seed) * 5, same, images(1, seed=seed)]))[2]
        assert (among - alone).abs().max() <= 1e-5 * scale  # float32 sums in another order


def test_places_in_a_batch_of_one_shape_give_the_same_bits(lite0):
    batch = images(4)
    assert torch.equal(lite0(batch)[[2, 0, 3, 1]], lite0(batch[[2, 0, 3, 1]]))


# refusals, on the small network


def refused(state, record=LITE0):
    with pytest.raises(ValueError, match=record.id) as caught:
        load_backbone(record, next(iter(record.layers)), state)
    return str(caught.value)


def test_a_missing_weight_is_named(lite0_state):
    text = refused({name: t for name, t in lite0_state.items() if name != "_blocks.3._bn1.running_mean"})
    assert "1 name is missing (first: ['blocks.2.0.bn2.running_mean']); expected" in text
    assert "expected the layout of efficientnet-lite0-57934424.pth" in text
    assert text.endswith("; use the original file efficientnet-lite0-57934424.pth of its publisher.")


def test_a_weight_too_many_is_named(lite0_state):
    text = refused(lite0_state | {"_adapter.weight": torch.ones(1)})
    assert "do not fit tf_efficientnet_lite0: 1 name is unexpected (first: ['_adapter.weight'])" in text


def test_a_wrong_shape_is_named(lite0_state):
    text = refused(lite0_state | {"_fc.bias": torch.ones(10)})
    assert text == (
        "weight classifier.bias of efficientnet_lite0 has shape (10,); expected (1000,) of tf_efficientnet_lite0. "
        "Use the original file efficientnet-lite0-57934424.pth of its publisher."
    )


@pytest.mark.parametrize("name", ["_blocks", "_blocks.99._bn1.bias", "_blocks.x.y.z", "epoch"])
def test_a_name_of_no_layer_is_a_weight_too_many(lite0_state, name):
    assert f"1 name is unexpected (first: ['{name}'])" in refused(lite0_state | {name: torch.ones(1)})


def test_two_weights_of_one_name_are_refused():
    record = replace(DINO, prefix="module.")
    with pytest.raises(
        ValueError, match=r"contains the weight fc\.bias twice, as fc\.bias and as module\.fc\.bias; expected"
    ):
        rename_weights(record, {"fc.bias": torch.zeros(1), "module.fc.bias": torch.ones(1)})


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "student."])
def test_a_wrong_prefix_is_refused_with_the_known_ones(lite0_state, prefix):
    text = refused({prefix + name: tensor for name, tensor in lite0_state.items()})
    assert "296 names are missing" in text
    assert "Known prefixes of checkpoints are module., backbone., student., teacher.;" in text


def test_no_weights_at_all_are_refused():
    assert "names are missing" in refused({}, DINO)


# SwAV's wiring, on tensors without storage


def swav_parameters():
    """Count the parameters of a ResNet50 with doubled planes, from its published table alone."""
    counts, width_in = {"stem": 3 * 128 * 7 * 7 + 2 * 128}, 128
    for layer, (planes, blocks) in enumerate([(128, 3), (256, 4), (512, 6), (1024, 3)], start=1):
        for block in range(blocks):
            out = 4 * planes
            convolutions = width_in * planes + 9 * planes * planes + planes * out
            norms = 2 * (planes + planes + out)
            shortcut = width_in * out + 2 * out if block == 0 else 0
            counts[f"layer{layer}.{block}"] = convolutions + norms + shortcut
            width_in = out
    return counts


def test_swav_has_the_parameters_of_its_formula_block_by_block():
    with torch.device("meta"):
        network = build_network(SWAV)
    found = {}
    for name, parameter in network.named_parameters():
        if not name.startswith("fc."):
            block = ".".join(name.split(".")[:2]) if name.startswith("layer") else "stem"
            found[block] = found.get(block, 0) + parameter.numel()
    assert found == swav_parameters()
    assert round(sum(found.values()) / 1e6) == 94


def test_swav_has_the_names_and_strides_of_a_resnet50():
    with torch.device("meta"):
        doubled, plain = build_network(SWAV), build_network(RESNET)
    assert list(doubled.state_dict()) == list(plain.state_dict())
    strides = [
        {name: layer.stride for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
        for network in (doubled, plain)
    ]
    assert strides[0] == strides[1]


# published layouts, written with random weights


def published(network, path, *, prefix="", without=(), extra=None):
    """Write a network's weights in its publisher's layout, and read them back."""
    state = {prefix + name: t for name, t in network.state_dict().items() if not name.startswith(without or "\0")}
    state |= extra or {}
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    read = read_weights(path)
    path.unlink()
    return read


def settled(network):
    """Give batch norms statistics that reveal a wrong mode or a lost buffer."""
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator) * 0.1)
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def features_of_resnet(network, batch):
    """Compute both layers by calling the layers one after another."""
    with torch.no_grad():
        found = network.maxpool(network.relu(network.bn1(network.conv1(batch))))
        third = network.layer3(network.layer2(network.layer1(found)))
        return {"layer3": third.mean(dim=(2, 3)), "avgpool": network.layer4(third).mean(dim=(2, 3))}


def check_resnet(record, network, state):
    batch = images(2)
    for layer, expected in features_of_resnet(network, batch).items():
        found = load_backbone(record, layer, state)(batch)
        assert found.shape == (2, record.layers[layer])
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


@pytest.mark.slow
def test_swavs_published_layout_loads(tmp_path):
    network = settled(build_network(SWAV))
    heads = {
        "module.projection_head.0.weight": torch.ones(8, 4096),
        "module.projection_head.1.running_mean": torch.ones(8),
        "module.projection_head.3.weight": torch.ones(4, 8),
        "module.prototypes.weight": torch.ones(16, 4),
    }
    state = published(network, tmp_path / SWAV.weights_file, prefix="module.", without="fc.", extra=heads)
    assert not any(name.startswith("conv1") for name in state)
    check_resnet(SWAV, network, state)
    assert "1 name is unexpected (first: ['queue'])" in refused(state | {"module.queue": torch.ones(1)}, SWAV)


@pytest.mark.slow
def test_dinos_published_layout_loads(tmp_path):
    network = settled(build_network(DINO))
    state = published(network, tmp_path / DINO.weights_file, without="fc.")
    check_resnet(DINO, network, state)
    text = refused({f"backbone.{name}": tensor for name, tensor in state.items()}, DINO)
    assert "names are missing (first: ['conv1.weight'])" in text
    del state["layer4.2.conv3.weight"]
    assert "1 name is missing (first: ['layer4.2.conv3.weight']); expected" in refused(state, DINO)


@pytest.mark.slow
def test_torchvisions_published_layout_loads(tmp_path):
    network = settled(build_network(RESNET))
    state = published(network, tmp_path / RESNET.weights_file)
    assert "fc.weight" in state
    check_resnet(RESNET, network, state)
    assert "names are missing" not in refused(state | {"fc.weight": torch.ones(10, 2048)}, RESNET)


@pytest.mark.slow
def test_swavs_network_is_not_torchvisions_wide_one():
    from torchvision.models import wide_resnet50_2

    with torch.device("meta"):
        state = wide_resnet50_2(weights=None).state_dict()
    text = refused({f"module.{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}, SWAV)
    assert "weight conv1.weight of swav_resnet50w2 has shape (64, 3, 7, 7); expected (128, 3, 7, 7)" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # open_clip's own imports
def test_clips_published_layout_loads(tmp_path):
    import open_clip

    network = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None).eval()
    state = published(network, tmp_path / CLIP.weights_file)
    loaded, batch = load_backbone(CLIP, "projected", state), images(2, side=224)
    with torch.no_grad():
        expected = network.encode_image(batch)
    assert loaded(batch).shape == (2, 512)
    assert torch.allclose(loaded(batch), expected, atol=1e-5)
    kinds = {type(layer).__name__ for layer in loaded.modules()}
    assert "QuickGELU" in kinds
    assert "GELU" not in kinds
    del state["visual.proj"]
    assert "1 name is missing (first: ['visual.proj'])" in refused(state, CLIP)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_clip_with_the_other_activation_is_refused():
    other = replace(CLIP, model="ViT-B-32")
    with pytest.raises(ValueError, match=r"ViT-B-32 of clip_vit_b32 uses GELU; expected QuickGELU.*Choose the"):
        build_network(other)
