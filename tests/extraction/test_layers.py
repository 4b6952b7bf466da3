"""Several layers in one pass: each layer's columns equal those of extracting it alone, to the last bit."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torchvision.models import resnet18

from pipeline import cli as console
from pipeline.backbones import custom, loading
from pipeline.backbones.registry import BACKBONES
from pipeline.cache import open_cache
from pipeline.cache import writer as cache_writer
from pipeline.config import Embeddings, load_params
from pipeline.data import build_manifest, write_manifest
from pipeline.extraction import job as extraction
from pipeline.stages import extract as stage
from pipeline.store import list_networks

N, SIDE = 21, 32
LAYERS = ["layer1.0.bn1", "layer3", "avgpool"]
"""The network itself overwrites the first one afterwards, by an in-place `relu`."""


def some_of(manifest, rows):
    few = {name: tuple(getattr(manifest, name)[row] for row in rows) for name in ("sample_ids", "splits", "digests")}
    return replace(manifest, labels=manifest.labels[list(rows)], **few)


@pytest.fixture(scope="module")
def manifest():
    whole = build_manifest("digits", {"kind": "digits", "test_fraction": 0.3, "seed": 0})
    return some_of(whole, range(N))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    return path


WIDTHS_FOUND = {}


def found_once(*described, find=custom._widths):
    """Fix the widths of the layers, which would otherwise be determined by building a network each time."""
    if repr(described) not in WIDTHS_FOUND:
        WIDTHS_FOUND[repr(described)] = find(*described)
    return dict(WIDTHS_FOUND[repr(described)])


@pytest.fixture
def job(manifest, weights, tmp_path, monkeypatch):
    """Return a function that makes the job of an entry with the given layers."""
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 8)
    monkeypatch.setattr(extraction, "BATCH_ROWS", 4)
    monkeypatch.setattr(cache_writer, "check_in_child", lambda path: None)
    monkeypatch.setattr(custom, "_widths", found_once)
    for name in ("DKVB_DEVICE", "DKVB_WORKERS", "DKVB_SCRATCH", "DKVB_PROCESSES"):
        monkeypatch.delenv(name, raising=False)

    def make(layers, **changes):
        return extraction.make_job(manifest, settings(tmp_path, weights, layers, **changes))

    return make


def write_settings(folder, weights, layers, storage_dtype="float32", **backbone):
    described = {"library": "torchvision", "model": "resnet18", "weights": str(weights)} | backbone
    where = {"layer": layers} if isinstance(layers, str) else {"layers": layers}
    entry = {"dataset": "digits", "backbone": described, "image_side": SIDE, "compute_dtype": "float32", **where}
    datasets = {"digits": {"kind": "digits", "test_fraction": 0.3, "seed": 0}}
    tables = {"datasets": datasets, "embeddings": {"digits": entry | {"storage_dtype": storage_dtype}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")


def settings(folder, weights, layers, **changes):
    write_settings(folder, weights, layers, **changes)
    return load_params(folder / "params.yaml").embedding("digits")


def extract(job, folder, name, scratch=None):
    """Extract with a scratch folder, by default a new one; return the cache and the number of computed images."""
    path = folder / f"{name}.h5"
    computed = extraction.extract(job, path, folder / (scratch or f"scratch of {name}"), device="cpu")
    return path, computed.images


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("storage_dtype", ["float16", pytest.param("float32", marks=pytest.mark.slow)])
def test_each_layers_columns_are_those_of_an_extraction_of_it_alone(job, tmp_path, storage_dtype):
    both, _ = extract(job(LAYERS, storage_dtype=storage_dtype), tmp_path, "all")
    with open_cache(both) as reader:
        assert [layer.name for layer in reader.header.layers] == LAYERS
        assert reader.feature_blocks == (64, 256, 512)
        assert reader.header.tap == "+".join(LAYERS)
        errors = []
        for layer in reader.header.layers:
            alone, _ = extract(job(layer.name, storage_dtype=storage_dtype), tmp_path, layer.name)
            with open_cache(alone) as one:
                assert one.feature_blocks is None
                for split in reader.split_names:
                    columns = reader.read(split)[:, layer.start : layer.stop]
                    assert columns.tobytes() == one.read(split).tobytes()
                errors.append(one.max_rounding_error("train"))
        assert reader.max_rounding_error("train") == max(errors)


def test_without_copies_a_layer_that_is_written_into_would_be_another(job, tmp_path, monkeypatch):
    """Show that the copies are needed: this test fails if torchvision starts to copy layers itself."""
    whole, _ = extract(job(LAYERS), tmp_path, "copied")
    monkeypatch.setattr(loading, "_copy_what_is_read", lambda network: None)
    bare, _ = extract(job(LAYERS), tmp_path, "bare")
    with open_cache(whole) as one, open_cache(bare) as other:
        differs = (one.read("train") != other.read("train")).any(axis=0)
    assert differs[:64].any()
    assert not differs[64:].any()


def test_one_layer_in_a_list_is_the_cache_of_that_layer(job, tmp_path):
    paths = [extract(job(layers), tmp_path, name)[0] for name, layers in {"a": "layer3", "b": ["layer3"]}.items()]
    assert sha256(paths[0]) == sha256(paths[1])


def test_a_layer_that_is_added_later_costs_what_is_new_and_gives_the_same_bytes(job, tmp_path, monkeypatch):
    expected, n = extract(job(["layer3", "avgpool"]), tmp_path, "from nothing")
    assert n == N
    read, usual = [], extraction.load_backbone
    monkeypatch.setattr(extraction, "load_backbone", lambda *given: read.append(given[1]) or usual(*given))
    assert extract(job("avgpool"), tmp_path, "one", "shared")[1] == N
    both, n = extract(job(["layer3", "avgpool"]), tmp_path, "both", "shared")
    assert (n, sha256(both)) == (N, sha256(expected))
    assert read == [["avgpool"], ["layer3"]]  # the known layer is not computed again
    swapped, n = extract(job(["avgpool", "layer3"]), tmp_path, "swapped", "shared")
    assert n == extract(job("layer3"), tmp_path, "other", "shared")[1] == 0
    with open_cache(both) as one, open_cache(swapped) as other:
        assert np.array_equal(one.read("test"), other.read("test")[:, np.r_[512:768, 0:512]])
    listed, _ = list_networks(tmp_path / "shared/store")
    assert sorted((stored.network["layer"], stored.n_rows) for stored in listed) == [("avgpool", N), ("layer3", N)]


def test_images_that_lack_different_layers_are_computed_once_each(job, manifest, tmp_path):
    """For some images one layer is known, for some the other, for some both or none."""
    expected, _ = extract(job(["layer3", "avgpool"]), tmp_path, "from nothing")

    def some(layers, rows):
        return replace(job(layers), manifest=some_of(manifest, rows))

    extract(some("layer3", range(9)), tmp_path, "first", "shared")
    extract(some("avgpool", range(5, 14)), tmp_path, "second", "shared")
    both, n = extract(job(["layer3", "avgpool"]), tmp_path, "both", "shared")
    assert (n, sha256(both)) == (N - 4, sha256(expected))
    listed, _ = list_networks(tmp_path / "shared/store")
    assert [stored.n_rows for stored in listed] == [N, N]  # no row was added twice


def test_a_damaged_row_of_one_layer_is_computed_again(job, tmp_path, capsys):
    expected, _ = extract(job(["layer3", "avgpool"]), tmp_path, "a", "shared")
    digest = sha256(expected)
    for block in [min(folder.glob("*.rows")) for folder in (tmp_path / "shared/store").iterdir()]:
        content = bytearray(block.read_bytes())
        content[-3] ^= 1
        block.write_bytes(content)
    again, n = extract(job(["layer3", "avgpool"]), tmp_path, "a", "shared")
    assert sha256(again) == digest
    assert 0 < n < N
    assert "are damaged; computing them again." in capsys.readouterr().err


def test_the_fingerprint_follows_layers_and_their_order(job):
    found = {job(layers).header().fingerprint for layers in ("layer3", ["layer3", "avgpool"], ["avgpool", "layer3"])}
    assert len(found) == 3


WRONG = {
    "unknown": ({"layers": ["layer3", "avgpol"]}, "has no layer 'avgpol'; expected one of x, conv1, "),
    "nearest": ({"layers": ["layer3", "avgpol"]}, "Did you mean 'avgpool'?"),
    "twice": ({"layers": ["layer3", "layer3"]}, "embeddings.digits: layers ['layer3', 'layer3'] names a layer twice;"),
    "none": ({"layers": []}, "embeddings.digits.layers is []; "),
    "width": ({"layers": ["layer3", "avgpool"], "width": 9}, "backbone.width is 9, but 2 layers are read; expected"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_layers_are_one_sentence(job, manifest, weights, tmp_path, capsys, case):
    changes, text = WRONG[case]
    assert run_stage(manifest, weights, tmp_path, **changes) == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert text in line
    assert not (tmp_path / "out").exists()


def run_stage(manifest, weights, folder, layers, **changes):
    write_manifest(manifest, folder / "digits.jsonl")
    write_settings(folder, weights, layers, **changes)
    paths = {"params": "params.yaml", "manifest": "digits.jsonl", "output": "out/a.h5"}
    paths |= {"card": "out/a.json", "timings": "out/seconds.json"}
    words = [part for option, path in paths.items() for part in (f"--{option}", str(folder / path))]
    return console.run(stage.main, stage.build_parser(), ["digits", *words])


def test_the_card_names_layers_and_their_columns(job, manifest, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DKVB_DEVICE", "cpu")
    assert run_stage(manifest, weights, tmp_path, ["layer3", "avgpool"]) == 0
    card = json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8"))
    assert card["layers"] == [
        {"name": "layer3", "start": 0, "stop": 256}, {"name": "avgpool", "start": 256, "stop": 768},
    ]  # fmt: skip
    assert (card["tap"], card["n_features"]) == ("layer3+avgpool", 768)
    assert run_stage(manifest, weights, tmp_path, "layer3") == 0
    assert "layers" not in json.loads((tmp_path / "out/a.json").read_text(encoding="utf-8"))


# random sequences of extractions


class Parts(nn.Module):
    """Read layers whose numbers depend only on the pixels of an image, and count the rows of each."""

    def __init__(self, layers, rows):
        super().__init__()
        self.layers, self.rows = layers, rows

    def forward(self, batch):
        self.rows.append((tuple(self.layers), len(batch)))
        means = nn.functional.adaptive_avg_pool2d(batch, 2).flatten(1)
        return torch.cat([means[:, : WIDTHS[layer]] * (1 + len(layer)) for layer in self.layers], dim=1)


WIDTHS = {"a": 3, "bb": 5, "ccc": 2}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_whatever_the_store_knows_a_cache_has_the_bytes_of_one_from_nothing(manifest, tmp_path, monkeypatch, seed):
    """Consecutive extractions of random images and layers, with blocks that disappear in between."""
    rng, rows = np.random.default_rng(seed), []
    (tmp_path / "weights").write_bytes(b"weights")
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 5)
    monkeypatch.setattr(cache_writer, "check_in_child", lambda path: None)
    monkeypatch.setattr(extraction, "load_backbone", lambda record, layers, state: Parts(layers, rows))
    monkeypatch.setattr(extraction, "read_weights", lambda path: {})
    record = replace(BACKBONES["dino_resnet50"], layers=WIDTHS)
    entry = {"dataset": "digits", "backbone": "dino_resnet50", "image_side": 8}
    entry |= {"compute_dtype": "float32", "storage_dtype": "float16"}
    for number in range(5):
        layers = rng.permutation(list(WIDTHS))[: rng.integers(1, 4)].tolist()
        some = some_of(manifest, sorted(rng.choice(N, rng.integers(1, N + 1), replace=False).tolist()))
        job = extraction.Job(some, Embeddings(layers=layers, **entry), record, tmp_path / "weights")
        found, _ = extract(job, tmp_path, f"{number}", "shared")
        expected, _ = extract(job, tmp_path, f"{number} from nothing")
        assert sha256(found) == sha256(expected)
        rows.clear()
        assert extract(job, tmp_path, f"{number}", "shared")[1] == 0
        assert not rows  # no known row was computed
        blocks = sorted((tmp_path / "shared/store").rglob("*.rows"))
        blocks[rng.integers(len(blocks))].unlink()


@pytest.mark.parametrize("layers", [["layer2", "avgpool"], ["avgpool", "layer2"], ["avgpool", "conv1", "layer2"]])
def test_columns_follow_the_order_of_the_settings(layers):
    """The order in the network differs: torchvision returns layers in the order of computation."""
    network = resnet18(weights=None).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = loading.Tapped(network, "torchvision", layers)(images)
        alone = [loading.Tapped(network, "torchvision", layer)(images) for layer in layers]
    assert torch.equal(together, torch.cat(alone, dim=1))


def test_two_names_of_one_layer_are_refused():
    with pytest.raises(ValueError, match=r"layers names layer4 and layer4\.1, which give the same features; expected"):
        loading.Tapped(resnet18(weights=None).eval(), "torchvision", ["layer4", "layer4.1"])
