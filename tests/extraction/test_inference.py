"""Batches are embedded in order while others are read and computed; an error ends all work that was started."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.backbones import find_backbone, find_weights, load_backbone, preprocess, read_weights
from pipeline.extraction import Batch, Forward, embed
from pipeline.extraction import inference as embedding

SIDE, ROWS, CPU = 8, 4, torch.device("cpu")


class Images:
    """Uniform images whose brightness is their row; records which were read."""

    def __init__(self):
        self.read, self.row_was_read = [], [threading.Event() for _ in range(200)]

    def __getitem__(self, row):
        self.read.append(row)
        self.row_was_read[row].set()
        return Image.new("RGB", (SIDE, SIDE), (row, row, row))


class Mean(nn.Module):
    def __init__(self, before=lambda: None):
        super().__init__()
        self.before = before

    def forward(self, batch):
        self.before()
        return batch.mean(dim=(2, 3))


def batches(n):
    return [Batch(0, np.arange(n * ROWS)[start : start + ROWS], False) for start in range(0, n * ROWS, ROWS)]


def forward(network):
    return Forward(network, preprocess(find_backbone("efficientnet_lite0"), SIDE), "float32", CPU)


@pytest.fixture(autouse=True)
def four_threads():
    usual = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(usual)


def test_batches_come_in_order_and_short_ones_without_their_padding():
    whole = [*batches(9), Batch(1, np.arange(36, 38), True)]
    found = list(embed(Images(), whole, forward(Mean()), ROWS, 3))
    assert [batch for batch, _ in found] == whole
    brightness = np.concatenate([part[:, 0] for _, part in found])
    np.testing.assert_allclose(brightness, (np.arange(38) / 255 - 0.5) / 0.5, atol=1e-6)


def test_later_batches_are_read_while_the_first_is_computed():
    images = Images()
    later = images.row_was_read[ROWS * (embedding.AHEAD + 1) - 1]
    network = Mean(lambda: None if later.wait(30) else pytest.fail("nothing was read meanwhile"))
    assert len(list(embed(images, batches(6), forward(network), ROWS, 2))) == 6


def test_several_batches_are_computed_at_once():
    together = threading.Barrier(4, timeout=30)
    assert len(list(embed(Images(), batches(8), forward(Mean(together.wait)), ROWS, 2))) == 8


def test_no_more_is_read_ahead_than_is_said():
    images = Images()
    found = embed(images, batches(40), forward(Mean()), ROWS, 2)
    next(found)
    assert len(images.read) <= ROWS * (embedding.AHEAD + 1 + embedding.MAX_LANES + 1)
    found.close()


@pytest.mark.parametrize("where", ["reading", "computing"])
def test_an_error_reaches_the_caller_and_leaves_no_threads(where):
    before, images = threading.active_count(), Images()

    def fail(*_):
        raise OSError("no")

    if where == "reading":
        images.read = type("", (), {"append": fail})()
    network = Mean(fail if where == "computing" else lambda: None)
    with pytest.raises(OSError, match="no"):
        list(embed(images, batches(6), forward(network), ROWS, 2))
    assert threading.active_count() == before


def test_a_batch_has_the_same_bits_however_many_threads_compute_it():
    record = find_backbone("efficientnet_lite0")
    network = load_backbone(record, "avgpool", read_weights(find_weights(record)))
    run = Forward(network.to(memory_format=torch.channels_last), preprocess(record, 64), "float32", CPU)
    pixels = torch.randint(256, (32, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    alone = run(pixels)
    torch.set_num_threads(4)
    assert np.array_equal(run(pixels), alone)


def test_pixels_are_scaled_where_they_are():
    """Every machine has ``meta``, a device without storage; tensors of other devices cannot be combined with it."""
    pixels = torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8, device="meta")
    assert forward(Mean()).prepare.scale(pixels).device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_a_gpu_gives_the_embeddings_of_the_processor(compute_dtype, tolerance):
    record = find_backbone("efficientnet_lite0")
    network, prepare = load_backbone(record, "avgpool", read_weights(find_weights(record))), preprocess(record, 96)
    whole = [*batches(3), Batch(1, np.arange(12, 14), True)]
    expected, found = (
        list(embed(Images(), whole, Forward(network.to(device), prepare, dtype, torch.device(device)), ROWS, 2))
        for device, dtype in (("cpu", "float32"), ("cuda", compute_dtype))
    )
    for (_, there), (_, here) in zip(found, expected, strict=True):
        assert np.linalg.norm(there - here) < tolerance * np.linalg.norm(here)
