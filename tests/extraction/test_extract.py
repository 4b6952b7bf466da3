import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from pipeline import cli as console
from pipeline import suppression
from pipeline.backbones.registry import BACKBONES
from pipeline.cache import open_cache
from pipeline.cache import writer as cache_writer
from pipeline.config import load_params
from pipeline.data import build_manifest, open_images, write_manifest
from pipeline.data.image_files import to_rgb
from pipeline.extraction import Claims
from pipeline.extraction import inference as embedding
from pipeline.extraction import job as extraction
from pipeline.io import processes
from pipeline.stages import extract as stage
from pipeline.store import SideBySide, image_names

ROOT = Path(__file__).resolve().parents[2]
SIDE, N, N_TEST = 8, 43, 11
"""43 images: six blocks of eight rows, the last one shorter; eleven batches of four, the last one padded."""


class Tiny(nn.Module):
    """A network with twelve features, the mean of each quarter of an image; it can be made to fail or to return NaN."""

    def __init__(self):
        super().__init__()
        self.shapes, self.fail_after, self.nan_at = [], None, None

    def forward(self, batch):
        if self.fail_after is not None and len(self.shapes) >= self.fail_after:
            raise RuntimeError("the machine lost its accelerator")
        self.shapes.append(tuple(batch.shape))
        features = nn.functional.adaptive_avg_pool2d(batch, 2).flatten(1)
        if self.nan_at is not None and len(self.shapes) == self.nan_at:
            features = features.clone()
            features[1, 3] = float("nan")
        return features


@pytest.fixture(scope="module")
def digits():
    return build_manifest("digits", {"kind": "digits", "test_fraction": 0.3, "seed": 0})


@pytest.fixture
def manifest(digits):
    few = {field: getattr(digits, field)[:N] for field in ("sample_ids", "labels", "splits", "digests")}
    return replace(digits, **few)


@pytest.fixture
def network(monkeypatch, tmp_path):
    """A tiny network instead of the real one, small blocks, and no second process that checks the cache."""
    tiny = Tiny()
    (tmp_path / "weights.pth").write_bytes(b"weights")
    monkeypatch.setattr(extraction, "load_backbone", lambda record, layers, state: tiny)
    monkeypatch.setattr(extraction, "find_weights", lambda record: tmp_path / "weights.pth")
    monkeypatch.setattr(extraction, "read_weights", lambda path: {})
    monkeypatch.setattr(extraction, "BLOCK_ROWS", 8)
    monkeypatch.setattr(extraction, "BATCH_ROWS", 4)
    monkeypatch.setattr(cache_writer, "check_in_child", lambda path: None)
    for name in ("DKVB_DEVICE", "DKVB_WORKERS", "DKVB_SCRATCH", "DKVB_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    return tiny


def tables(**changes):
    entry = {
        "dataset": "digits",
        "backbone": "efficientnet_lite0",
        "layer": "avgpool",
        "image_side": SIDE,
        "compute_dtype": "float32",
        "storage_dtype": "float32",
    }
    datasets = {"digits": {"kind": "digits", "test_fraction": 0.3, "seed": 0}}
    return {"datasets": datasets, "embeddings": {"digits": entry | changes}, "runs": {}}


def write_settings(folder, **changes):
    (folder / "params.yaml").write_text(yaml.safe_dump(tables(**changes)))


def settings(folder, **changes):
    write_settings(folder, **changes)
    return load_params(folder / "params.yaml").embedding("digits")


@pytest.fixture
def job(manifest, network, tmp_path):
    return extraction.Job(manifest, settings(tmp_path), BACKBONES["efficientnet_lite0"], tmp_path / "weights.pth")


def extract(job, folder, name, **options):
    """Extract into a separate cache; return the number of images embedded now, and the cache's sha256."""
    output = folder / f"{name}.h5"
    computed = extraction.extract(job, output, scratch(folder, name), **({"device": "cpu", "workers": 2} | options))
    return computed.images, hashlib.sha256(output.read_bytes()).hexdigest()


def scratch(folder, name):
    """Return the scratch folder of a cache: each has its own, so that it is first computed from scratch."""
    return folder / f"scratch of {name}"


def blocks(folder):
    return sorted(folder.rglob("*.rows"))


# content of the cache


def test_every_image_is_embedded_under_its_own_id_and_label(job, network, tmp_path):
    extract(job, tmp_path, "a")
    prepare = extraction.preprocess(job.record, SIDE)
    images = torch.stack([prepare(image) for image in open_images(job.manifest)])
    expected = dict(zip(job.manifest.sample_ids, Tiny()(images).numpy(), strict=True))
    labels = dict(zip(job.manifest.sample_ids, job.manifest.labels.tolist(), strict=True))
    seen = []
    with open_cache(tmp_path / "a.h5") as reader:
        for split in reader.split_names:
            ids = list(reader.sample_ids(split))
            seen += ids
            assert ids == [i for i, s in zip(job.manifest.sample_ids, job.manifest.splits, strict=True) if s == split]
            assert np.allclose(reader.read(split), [expected[i] for i in ids], atol=1e-6)
            assert reader.labels(split).tolist() == [labels[i] for i in ids]
    assert sorted(seen) == sorted(job.manifest.sample_ids)


def test_every_batch_has_the_same_shape(job, network, tmp_path):
    extract(job, tmp_path, "a")
    assert network.shapes == [(4, 3, SIDE, SIDE)] * 11


def test_two_extractions_give_the_same_bytes(job, tmp_path):
    assert extract(job, tmp_path, "a") == extract(job, tmp_path, "b")


@pytest.mark.parametrize("workers", [0, 1, 5])
def test_the_number_of_workers_changes_nothing(job, tmp_path, workers):
    assert extract(job, tmp_path, "a", workers=workers) == extract(job, tmp_path, "b", workers=2)


def test_images_that_come_late_keep_their_place(job, tmp_path, monkeypatch):
    usual, expected = embedding._load, extract(job, tmp_path, "a")

    def slow_for_some(images, prepare, row, pixels):
        time.sleep(0.01 * (row % 3 == 0))
        usual(images, prepare, row, pixels)

    monkeypatch.setattr(embedding, "_load", slow_for_some)
    assert extract(job, tmp_path, "b", workers=4) == expected


def test_a_finished_extraction_leaves_blocks_of_rows_and_neither_claims_nor_threads(job, tmp_path):
    before = threading.active_count()
    extract(job, tmp_path, "a")
    left = [path.suffix for path in scratch(tmp_path, "a").rglob("*") if path.is_file()]
    assert left == [".rows"] * 6
    assert threading.active_count() <= before + 1  # tqdm keeps one monitor thread


@pytest.mark.parametrize(
    "changes",
    [
        {"image_side": 16},
        {"layer": "other"},
        {"compute_dtype": "bfloat16"},
        {"storage_dtype": "float16"},
        {"weights": b"others"},
        {"manifest": True},
        {"record": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_fingerprint_follows_whatever_decides_the_embeddings(job, tmp_path, changes):
    before = job.header().fingerprint
    if "weights" in changes:
        job.weights.write_bytes(changes["weights"])
    elif "manifest" in changes:
        job = replace(job, manifest=replace(job.manifest, digests=("0" * 64, *job.manifest.digests[1:])))
    elif "record" in changes:
        job = replace(job, record=replace(job.record, mean=(0.4, 0.5, 0.5)))
    else:
        job = replace(job, settings=settings(tmp_path, **changes))
    assert job.header().fingerprint != before


def test_lower_precision_is_stored_as_asked(job, tmp_path):
    extract(job, tmp_path, "full")
    half = replace(job, settings=settings(tmp_path, storage_dtype="float16"))
    extract(half, tmp_path, "half")
    with open_cache(tmp_path / "full.h5") as full, open_cache(tmp_path / "half.h5") as halved:
        assert np.array_equal(full.read("train").astype(np.float16), halved.read("train").astype(np.float16))
        assert not np.array_equal(full.read("train"), halved.read("train"))


# known rows


def changed(job, rows, **names):
    """Return the job with some of its rows, in this order, and with other names if given."""
    rows = list(rows)
    few = {f: tuple(getattr(job.manifest, f)[r] for r in rows) for f in ("sample_ids", "splits", "digests")}
    return replace(job, manifest=replace(job.manifest, labels=job.manifest.labels[rows], **(few | names)))


def both(job, tmp_path, name):
    """Extract with the known rows of cache "a" and from scratch; return the images embedded and whether bytes agree."""
    output = tmp_path / f"{name}.h5"
    computed = extraction.extract(job, output, scratch(tmp_path, "a"), device="cpu")
    _, expected = extract(job, tmp_path, f"{name} from nothing")
    return computed.images, hashlib.sha256(output.read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("storage_dtype", ["float32", "float16"])
def test_a_cache_of_known_rows_has_the_bytes_of_one_computed_from_nothing(job, tmp_path, storage_dtype):
    job = replace(job, settings=settings(tmp_path, storage_dtype=storage_dtype))
    assert extract(changed(job, range(30)), tmp_path, "a")[0] == 30
    assert both(job, tmp_path, "more") == (N - 30, True)
    assert both(changed(job, range(5, N)), tmp_path, "fewer") == (0, True)
    assert both(changed(job, reversed(range(N))), tmp_path, "in another order") == (0, True)
    moved = tuple(f"elsewhere/{name}" for name in job.manifest.sample_ids)
    assert both(changed(job, range(N), sample_ids=moved), tmp_path, "moved") == (0, True)


def test_images_with_the_same_bytes_are_computed_once(job, network, tmp_path):
    twice = [*range(20), *range(20)]
    ids = tuple(f"{copy}/{row}" for copy in "ab" for row in range(20))
    assert both(changed(job, twice, sample_ids=ids), tmp_path, "twice") == (20, True)
    with open_cache(tmp_path / "twice.h5") as reader:
        X, names = reader.read("train"), reader.sample_ids("train")
    half = len(names) // 2
    assert np.array_equal(X[:half], X[half:])


def test_two_entries_of_one_network_share_rows_and_two_networks_do_not(job, tmp_path):
    extract(job, tmp_path, "a")
    other = replace(job, manifest=replace(job.manifest, dataset="another"))
    assert both(other, tmp_path, "another") == (0, True)
    assert both(replace(job, settings=settings(tmp_path, image_side=16)), tmp_path, "larger") == (N, True)
    assert len(list((scratch(tmp_path, "a") / "store").iterdir())) == 2


def test_what_decides_no_bit_of_a_row_does_not_name_it(job):
    header, cpu = job.header(), torch.device("cpu")
    (network,) = extraction.networks_of(header, cpu)
    other = replace(job, record=replace(job.record, license="MIT", paper="", weights_url=""))
    assert extraction.networks_of(other.header(), cpu) == [network]
    assert "license" in header.backbone
    assert network["device"].startswith("cpu ")
    assert set(network["libraries"]) == {"torch", "torchvision", "pillow"}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_at_every_place_of_a_batch(name, compute_dtype):
    """The store relies on this: a row does not depend on the images computed together with it."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **({"img_size": 32} if "vit" in name else {})).eval()
    prepare = extraction.preprocess(BACKBONES["efficientnet_lite0"], 32)
    forward = embedding.Forward(net.to(memory_format=torch.channels_last), prepare, compute_dtype, torch.device("cpu"))
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (extraction.BATCH_ROWS, 32, 32, 3), np.uint8))
    rows, order = forward(pixels), np.random.default_rng(1).permutation(extraction.BATCH_ROWS)
    assert forward(pixels[order]).tobytes() == rows[order].tobytes()
    alone = torch.zeros_like(pixels)
    alone[0] = pixels[13]
    assert forward(alone)[0].tobytes() == rows[13].tobytes()


def test_pixels_are_those_that_rules_names():
    """If a change makes this test fail, raise RULES in extraction/job.py, so that rows of older pixels are not used."""
    deep = Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8))
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    prepare = extraction.preprocess(BACKBONES["efficientnet_lite0"], 8)
    pixels = b"".join(prepare.pixels(to_rgb(image)).tobytes() for image in (deep, grey, grey.convert("P")))
    assert (extraction.RULES, hashlib.sha256(pixels).hexdigest()[:16]) == (1, "3907f813178b16e7")


def test_progress_says_what_is_known_and_what_is_new(job, tmp_path, capsys):
    extract(changed(job, range(30)), tmp_path, "a")
    assert "[extract digits] 0 known · 30 to compute" in capsys.readouterr().err
    extract(job, tmp_path, "a")
    assert "[extract digits] 30 known · 13 to compute" in capsys.readouterr().err


# resuming


def test_a_failed_extraction_goes_on_from_its_finished_blocks(job, network, tmp_path):
    _, expected = extract(job, tmp_path, "whole")
    network.shapes.clear()
    network.fail_after = 5  # two blocks of two batches are finished, the third is half done
    with pytest.raises(RuntimeError, match="lost its accelerator"):
        extract(job, tmp_path, "a")
    assert len(blocks(scratch(tmp_path, "a"))) == 2
    assert not (tmp_path / "a.h5").exists()
    network.fail_after = None
    network.shapes.clear()
    assert extract(job, tmp_path, "a") == (N - 2 * 8, expected)
    assert len(network.shapes) == 11 - 2 * 2


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_row_is_computed_again_with_a_line_that_says_so(job, tmp_path, capsys):
    _, expected = extract(job, tmp_path, "a")
    path = blocks(scratch(tmp_path, "a"))[0]
    flip(path, -20)
    assert extract(job, tmp_path, "a") == (1, expected)
    said = capsys.readouterr().err
    assert f"1 rows of block {path.name} in the store are damaged; computing them again." in said
    assert extract(job, tmp_path, "a") == (0, expected)


def test_a_block_with_a_damaged_head_is_computed_again_with_a_line_that_says_so(job, tmp_path, capsys):
    _, expected = extract(job, tmp_path, "a")
    path = blocks(scratch(tmp_path, "a"))[0]
    flip(path, 100)
    assert extract(job, tmp_path, "a")[1] == expected
    assert re.search(rf"block {path.name}.*: deleted; its rows are computed again\.", capsys.readouterr().err)
    assert extract(job, tmp_path, "a") == (0, expected)


def test_a_block_of_another_format_is_left_alone_and_said(job, tmp_path, capsys):
    _, expected = extract(job, tmp_path, "a")
    path = blocks(scratch(tmp_path, "a"))[0]
    content = bytearray(path.read_bytes())
    content[8] = 2
    later = path.with_name("later.rows")
    later.write_bytes(content)
    path.unlink()
    assert extract(job, tmp_path, "a")[1] == expected
    assert "block later.rows has format version 2; this release reads 1: left as it is" in capsys.readouterr().err
    assert later.read_bytes() == content


def test_a_block_in_the_folder_of_another_network_is_not_believed(job, tmp_path, capsys):
    _, expected = extract(job, tmp_path, "a")
    job.weights.write_bytes(b"others")
    _, other = extract(job, tmp_path, "b")
    (folder,) = {path.parent for path in blocks(scratch(tmp_path, "b"))}
    for path in blocks(scratch(tmp_path, "b")):
        path.unlink()
    for path in blocks(scratch(tmp_path, "a")):
        (folder / path.name).write_bytes(path.read_bytes())
    assert extract(job, tmp_path, "b") == (N, other)
    assert "is from another network: left as it is, and not used" in capsys.readouterr().err
    assert other != expected


@pytest.mark.parametrize("n_times", [1, 9])
def test_a_store_that_is_deleted_while_it_is_used_is_filled_again_or_the_disk_is_named(
    job, tmp_path, capsys, monkeypatch, n_times
):
    _, expected = extract(job, tmp_path, "whole")
    usual, calls = extraction.write_cache, []

    def deleting(*arguments):
        calls.append(1)
        if len(calls) <= n_times:
            shutil.rmtree(scratch(tmp_path, "a") / "store")
        usual(*arguments)

    monkeypatch.setattr(extraction, "write_cache", deleting)
    if n_times == 1:
        assert extract(job, tmp_path, "a") == (2 * N, expected)
        assert "of the store is missing; computing them again." in capsys.readouterr().err
    else:
        with pytest.raises(OSError, match=r"were lost 3 times.*; expected them to stay unchanged\. Check the disk"):
            extract(job, tmp_path, "a")
        assert not (tmp_path / "a.h5").exists()


def test_known_rows_need_no_network(job, network, tmp_path, monkeypatch):
    _, expected = extract(job, tmp_path, "whole")
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "write_cache", lambda *arguments: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            extract(job, tmp_path, "a")
    monkeypatch.setattr(extraction, "load_backbone", None)
    assert extract(job, tmp_path, "a") == (0, expected)


def test_rows_of_other_weights_are_not_used(job, network, tmp_path):
    network.fail_after = 5
    with pytest.raises(RuntimeError):
        extract(job, tmp_path, "a")
    network.fail_after = None
    job.weights.write_bytes(b"others")
    assert extract(job, tmp_path, "a")[0] == N


def test_an_image_changed_since_the_manifest_stops_the_extraction(job, tmp_path):
    digests = list(job.manifest.digests)
    digests[20] = "0" * 64
    with pytest.raises(OSError, match=r"digits/0020 has sha256 .*expected an unchanged image\. Run"):
        extract(replace(job, manifest=replace(job.manifest, digests=tuple(digests))), tmp_path, "a")
    assert not (tmp_path / "a.h5").exists()


def test_a_manifest_with_what_is_no_sha256_is_refused(job, tmp_path):
    digests = ("x" * 64, *job.manifest.digests[1:])
    with pytest.raises(ValueError, match=r"has the sha256 'xx.*; expected 64 hexadecimal digits\. Write"):
        extract(replace(job, manifest=replace(job.manifest, digests=digests)), tmp_path, "a")


def test_a_nan_embedding_names_its_sample_and_reaches_neither_cache_nor_store(job, network, tmp_path):
    _, before = extract(job, tmp_path, "a")
    network.shapes.clear()
    network.nan_at = 4  # the second row of the batch is image 13, in the second half of a block
    job.weights.write_bytes(b"others")
    with pytest.raises(
        ValueError, match=r"sample digits/0013 holds NaN or infinity; expected finite numbers.*Get effic"
    ):
        extract(job, tmp_path, "a")
    assert hashlib.sha256((tmp_path / "a.h5").read_bytes()).hexdigest() == before
    network.nan_at = None
    assert extract(job, tmp_path, "a")[0] == N - 8


def test_an_embedding_that_its_type_cannot_hold_names_its_sample(job, network, tmp_path, monkeypatch):
    monkeypatch.setattr(network, "forward", lambda batch: torch.full((len(batch), 12), 1e5))
    job = replace(job, settings=settings(tmp_path, storage_dtype="float16"))
    with pytest.raises(
        ValueError, match=r"sample digits/0000 overflows float16; expected .* 65504\. Set storage_dtype"
    ):
        extract(job, tmp_path, "a")


# several processes


def claims_of(job, tmp_path):
    return Claims(scratch(tmp_path, "a") / "extractions", job.header().fingerprint, helper=True)


def store_of(job, tmp_path):
    return SideBySide(scratch(tmp_path, "a") / "store", extraction.networks_of(job.header(), torch.device("cpu")))


def parts_of(job, tmp_path):
    images = image_names(job.manifest.digests)
    return extraction._parts(store_of(job, tmp_path), job, images, quiet=True)


def compute(job, tmp_path, claims, part):
    """Finish a part like a helper."""
    rows = Tiny()(prepared(job, part.rows)).numpy()
    images = image_names(job.manifest.digests)[part.rows]
    claims.finish(part.name, store_of(job, tmp_path).stores[0].add(images, rows, np.zeros(len(rows))))


def help_with(job, tmp_path, **options):
    return extraction.add_blocks(job, tmp_path / "a.h5", scratch(tmp_path, "a"), device="cpu", **options)


def test_helpers_and_the_writer_share_the_blocks_and_give_the_same_bytes(job, network, tmp_path):
    _, expected = extract(job, tmp_path, "whole")
    parts = parts_of(job, tmp_path)
    with claims_of(job, tmp_path) as other:
        assert [index for index in range(6) if index % 2 and other.claim(parts[index].name)] == [1, 3, 5]
        network.shapes.clear()
        assert help_with(job, tmp_path) == 24
        assert len(network.shapes) == 6  # blocks 0, 2 and 4, two batches each
        assert not (tmp_path / "a.h5").exists()
    assert extract(job, tmp_path, "a") == (N - 24, expected)


def test_the_writer_waits_for_what_a_helper_has_begun(job, network, tmp_path):
    _, expected = extract(job, tmp_path, "whole")
    part = parts_of(job, tmp_path)[0]
    with claims_of(job, tmp_path) as helper:
        assert helper.claim(part.name)
        found = []
        network.shapes.clear()
        thread = threading.Thread(target=lambda: found.append(extract(job, tmp_path, "a")))
        thread.start()
        limit = time.monotonic() + 60
        while len(blocks(scratch(tmp_path, "a"))) < 5:
            assert time.monotonic() < limit
            time.sleep(0.005)
        assert not (tmp_path / "a.h5").exists()
        compute(job, tmp_path, helper, part)
    thread.join(60)
    assert found == [(N, expected)]  # by both processes together
    assert len(network.shapes) == 11 - 2


def prepared(job, rows):
    images, prepare = open_images(job.manifest), extraction.preprocess(job.record, SIDE)
    return torch.stack([prepare(images[row]) for row in rows])


def test_a_block_that_a_helper_began_and_never_finished_is_computed(job, tmp_path):
    _, expected = extract(job, tmp_path, "whole")
    with claims_of(job, tmp_path) as helper:
        assert helper.claim(parts_of(job, tmp_path)[2].name)
    assert extract(job, tmp_path, "a") == (N, expected)


def test_a_helper_that_comes_late_does_nothing(job, network, tmp_path):
    extract(job, tmp_path, "a")
    network.shapes.clear()
    assert help_with(job, tmp_path) == 0
    assert network.shapes == []
    assert not list((scratch(tmp_path, "a") / "extractions").iterdir())


def test_a_helper_of_one_who_makes_the_cache_anew_helps(job, tmp_path):
    _, expected = extract(job, tmp_path, "a")
    shutil.rmtree(scratch(tmp_path, "a"))
    assert help_with(job, tmp_path, parent=os.getppid()) == N
    assert extract(job, tmp_path, "a") == (0, expected)


def test_a_helper_whose_parent_was_killed_begins_no_more(job, network, tmp_path, monkeypatch):
    # the parent id of a process changes when the parent ends
    monkeypatch.setattr(os, "getppid", lambda: 7 if len(network.shapes) < 5 else 1)
    embedded = help_with(job, tmp_path, parent=7, workers=1)
    assert 3 * 8 <= embedded <= 4 * 8  # it finished its block and the images being read


def test_the_writer_tells_its_own_blocks_from_those_of_helpers(job, tmp_path):
    first, second, last = (parts_of(job, tmp_path)[index] for index in (0, 1, 5))
    rows = {part.name: Tiny()(prepared(job, part.rows)).numpy() for part in (second, last)}
    images = image_names(job.manifest.digests)
    for part in (second, last):
        np.savez(tmp_path / f"{part.name}.npz", rows=rows[part.name], images=images[part.rows])
    header = job.header()
    (network_of_rows,) = extraction.networks_of(header, torch.device("cpu"))
    code = f"""
import numpy
from pipeline.extraction import Claims
from pipeline.store import EmbeddingStore
store = EmbeddingStore({str(scratch(tmp_path, "a") / "store")!r}, {network_of_rows!r})
def add(name):
    kept = numpy.load({str(tmp_path)!r} + "/" + name + ".npz")
    claims.finish(name, store.add(kept["images"], kept["rows"], numpy.zeros(len(kept["rows"]))))
with Claims({str(scratch(tmp_path, "a") / "extractions")!r}, {header.fingerprint!r}, helper=True) as claims:
    assert claims.claim({last.name!r})
    add({last.name!r})
    assert claims.claim({second.name!r})
    print("ready", flush=True)
    input()
    add({second.name!r})
"""
    _, expected = extract(job, tmp_path, "whole")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as helper:
        assert helper.stdout.readline() == "ready\n"
        thread = threading.Timer(0.1, helper.communicate, ["go on\n", 60])
        thread.start()
        computed = extraction.extract(job, tmp_path / "a.h5", scratch(tmp_path, "a"), device="cpu")
        thread.join()
    assert computed == extraction.Computed(images=N - 3, blocks=(4, 1))  # the last one was already finished
    assert hashlib.sha256((tmp_path / "a.h5").read_bytes()).hexdigest() == expected
    assert first.name not in rows


# the command


@pytest.fixture
def command(network, manifest, tmp_path, monkeypatch):
    """Call the stage like a user; return its exit code."""
    write_manifest(manifest, tmp_path / "digits.jsonl")
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DKVB_DEVICE", "cpu")

    def call(name="digits", **changes):
        write_settings(tmp_path, **changes)
        return console.run(stage.main, stage.build_parser(), arguments(tmp_path, name))

    return call


def arguments(folder, name="digits", params="params.yaml"):
    paths = {"--params": params, "--manifest": "digits.jsonl", "--output": "out/a.h5"}
    paths |= {"--card": "out/a.json", "--timings": "out/seconds.json"}
    return [name, *(part for option, path in paths.items() for part in (option, str(folder / path)))]


def last_line(capsys):
    return [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.strip()][-1]


def test_the_card_says_where_the_cache_comes_from(command, manifest, tmp_path, capsys):
    assert command() == 0
    card = json.loads((tmp_path / "out/a.json").read_text())
    assert card["file_sha256"] == hashlib.sha256((tmp_path / "out/a.h5").read_bytes()).hexdigest()
    assert card["manifest_sha256"] == manifest.sha256
    assert card["backbone"]["id"] == "efficientnet_lite0"
    assert card["backbone"]["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert card["backbone"]["license"] == "Apache-2.0"
    assert card["preprocessing"] == {
        "image_side": SIDE, "interpolation": "bicubic", "crop_pct": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3
    }  # fmt: skip
    assert (card["tap"], card["compute_dtype"], card["storage_dtype"]) == ("avgpool", "float32", "float32")
    assert card["n_features"] == 12
    assert (
        card["splits"]
        == {"test": N_TEST, "train": N - N_TEST}
        == {split: manifest.splits.count(split) for split in ("test", "train")}
    )
    assert str(tmp_path) not in (tmp_path / "out/a.json").read_text()
    assert last_line(capsys).startswith(f"[extract digits] {N} images, ")


def test_cache_and_card_have_the_same_bytes_twice_and_seconds_stand_apart(command, tmp_path):
    content = []
    for _ in range(2):
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
        assert command() == 0
        content.append([(tmp_path / "out" / name).read_bytes() for name in ("a.h5", "a.json")])
    assert content[0] == content[1]
    timings = json.loads((tmp_path / "out/seconds.json").read_text())
    assert set(timings) == {"seconds", "images"}
    assert timings["images"] == N
    assert timings["seconds"] > 0


def test_a_resumed_command_says_what_was_finished(command, network, tmp_path, capsys):
    network.fail_after = 5
    assert command() == 1
    assert last_line(capsys) == "error: the machine lost its accelerator"
    network.fail_after = None
    assert command() == 0
    assert f"{N - 16} images (16 already known)" in last_line(capsys)
    assert json.loads((tmp_path / "out/seconds.json").read_text())["images"] == N - 16


def test_a_second_extraction_of_the_same_embeddings_is_refused(command, job, tmp_path, capsys):
    with Claims(tmp_path / "scratch/extractions", job.header().fingerprint):
        assert command() == 1
    assert_one_sentence(capsys, "another process is extracting the same embeddings (lock in ")
    assert not (tmp_path / "out").exists()
    assert command() == 0


def test_a_helping_command_adds_to_the_store_alone(command, tmp_path, capsys):
    assert command() == 0
    before = (tmp_path / "out/a.h5").read_bytes()
    (tmp_path / "out/a.h5").unlink()
    shutil.rmtree(tmp_path / "scratch")
    assert console.run(stage.main, stage.build_parser(), [*arguments(tmp_path), "--store-only"]) == 0
    assert last_line(capsys) == f"[extract digits] {N} images added to the store, for the process that writes the cache"
    assert not (tmp_path / "out/a.h5").exists()
    assert command() == 0
    assert f"0 images ({N} already known)" in last_line(capsys)
    assert (tmp_path / "out/a.h5").read_bytes() == before


@pytest.fixture
def started(monkeypatch):
    """Start no process, and list the commands and environments of those that would be started."""
    commands, ended = [], []

    class Process:
        def __init__(self, words, env):
            commands.append((words, env))

        def terminate(self):
            ended.append(self)

        def wait(self):
            pass

    monkeypatch.setattr(processes.subprocess, "Popen", Process)
    yield commands
    assert len(ended) == len(commands)


def test_more_processes_run_the_same_command_on_the_next_devices(command, started, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # nothing is computed on these devices
    monkeypatch.setenv("DKVB_DEVICE", "auto")
    monkeypatch.setenv("DKVB_PROCESSES", "4")
    assert command() == 0
    assert [environment["DKVB_DEVICE"] for _, environment in started] == ["cuda:1", "cuda:0", "cuda:1"]
    words = started[0][0]
    assert words[1:5] == ["-m", "pipeline.stages.extract", "digits", "--store-only"]
    parsed = stage.build_parser().parse_args(words[3:])
    own = stage.build_parser().parse_args(arguments(Path(parsed.params).parent))
    assert vars(parsed) == vars(own) | {"store_only": True, "parent": os.getpid()}


@pytest.mark.parametrize(("number", "threads", "of_a_batch"), [(1, 6, 2), (2, 4, 1), (3, 2, 1), (20, 1, 1)])
def test_processes_and_batches_share_the_threads_of_the_processor(
    command, started, network, monkeypatch, number, threads, of_a_batch
):
    seen, usual = [], torch.get_num_threads()
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setenv("DKVB_PROCESSES", str(number))
    torch.set_num_threads(6)
    try:
        assert command() == 0
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(usual)
    assert set(seen) == {of_a_batch}
    shares = {(environment["OMP_NUM_THREADS"], environment["DKVB_WORKERS"]) for _, environment in started}
    assert shares <= {(str(threads), str(8 // number or 1))}
    assert len(started) == number - 1


def test_skipped_images_stand_in_the_card(command, manifest, tmp_path):
    write_manifest(replace(manifest, skipped=("digits/broken",)), tmp_path / "digits.jsonl")
    assert command() == 0
    assert json.loads((tmp_path / "out/a.json").read_text())["skipped_images"] == ["digits/broken"]


def test_a_non_commercial_licence_is_told(command, capsys):
    assert command(backbone="swav_resnet50w2") == 0
    assert "swav_resnet50w2 are licensed CC BY-NC 4.0: not for commercial use" in capsys.readouterr().err
    assert command() == 0
    assert "licensed" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("digits", {"backbone": "efficientnet_lite"}, "Did you mean 'efficientnet_lite0'?"),
        ("digits", {"layer": "layer3"}, "has no layer 'layer3'; expected one of avgpool."),
        ("digits", {"image_side": 4}, "embeddings.digits.image_side is 4"),
    ],
)
def test_a_wrong_setting_is_one_sentence(command, tmp_path, capsys, name, changes, text):
    assert command(name, **changes) == 1
    assert_one_sentence(capsys, text)
    assert not (tmp_path / "out").exists()


def assert_one_sentence(capsys, text):
    printed = capsys.readouterr().err.replace("\r", "\n")
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert text in lines[0]
    assert "Traceback" not in printed
    return lines[0]


def test_a_manifest_with_an_image_that_was_forgotten_is_one_sentence(command, manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = suppression.make_key(tmp_path / "forgotten")
    name = suppression.Suppression(key, frozenset()).hash_of(manifest.digests[7])
    suppression.add_hashes(tmp_path / "forgotten", [name])
    assert command() == 1
    assert_one_sentence(capsys, "image digits/0007 of manifest digits was forgotten; expected a manifest without it.")
    assert not (tmp_path / "out").exists()


def test_an_absent_manifest_is_one_sentence(command, tmp_path, capsys):
    (tmp_path / "digits.jsonl").unlink()
    assert command() == 1
    assert_one_sentence(capsys, "digits.jsonl; expected one. Run `dvc repro`.")


def test_a_manifest_without_images_is_one_sentence(command, tmp_path, capsys):
    header = (tmp_path / "digits.jsonl").read_text().split("\n")[0]
    (tmp_path / "digits.jsonl").write_text(header + "\n")
    assert command() == 1
    assert_one_sentence(capsys, "is damaged (0 of 43 images); expected JSON lines")
    assert not (tmp_path / "out/a.h5").exists()


def test_absent_weights_are_one_sentence_with_the_address(command, tmp_path, capsys, monkeypatch):
    from pipeline.backbones import find_weights

    monkeypatch.setattr(extraction, "find_weights", find_weights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DKVB_WEIGHTS", str(tmp_path / "own"))
    monkeypatch.delenv("DKVB_ALLOW_DOWNLOAD", raising=False)
    assert command(backbone="dino_resnet50") == 1
    assert_one_sentence(capsys, f"mkdir -p {tmp_path / 'torch/hub/checkpoints'} && mv dino_resnet50_pretrain.pth")


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("DKVB_WORKERS", "many", "DKVB_WORKERS is 'many'; expected a whole number, 1 or more. Correct it, or unset"),
        ("DKVB_WORKERS", "0", "DKVB_WORKERS is '0'; expected a whole number, 1 or more. Correct it, or unset"),
        ("DKVB_PROCESSES", "-1", "DKVB_PROCESSES is '-1'; expected a whole number, 1 or more. Correct it, or unset"),
        ("DKVB_DEVICE", "cuda:99", "Set it to an existing device, or unset it."),
        ("DKVB_DEVICE", "gpu", "DKVB_DEVICE is 'gpu'; expected auto, cpu or cuda"),
    ],
)
def test_a_wrong_environment_is_one_sentence(command, capsys, monkeypatch, variable, value, text):
    monkeypatch.setenv(variable, value)
    assert command() == 1
    assert_one_sentence(capsys, text)


def test_a_missing_image_of_a_folder_is_one_sentence(command, tmp_path, capsys):
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, len(name), ord(name[0]))).save(tmp_path / "pets" / name / f"{number}.png")
    recipe = {"kind": "folder", "root": str(tmp_path / "pets"), "test_fraction": 0.2, "seed": 0}
    write_manifest(build_manifest("pets", recipe), tmp_path / "digits.jsonl")
    assert command() == 0
    (tmp_path / "pets/bee/2.png").unlink()
    assert command() == 0  # its row is known, and its bytes match the manifest
    shutil.rmtree(tmp_path / "scratch")
    assert command() == 1
    assert_one_sentence(capsys, "image bee/2.png is missing in")


def test_an_image_that_cannot_be_read_stops_the_command_with_one_sentence_and_is_not_called_corrupt(
    command, tmp_path, capsys, monkeypatch
):
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (9, 9), (number, len(name), 0)).save(tmp_path / "pets" / name / f"{number}.png")
    recipe = {"kind": "folder", "root": str(tmp_path / "pets"), "test_fraction": 0.2, "seed": 0, "skip_corrupt": True}
    write_manifest(build_manifest("pets", recipe), tmp_path / "digits.jsonl")
    usual = Path.read_bytes

    def read(path):
        if path.name == "2.png":
            raise OSError(errno.EIO, "Input/output error")
        return usual(path)

    with monkeypatch.context() as context:
        context.setattr(Path, "read_bytes", read)
        assert command() == 1
    said = assert_one_sentence(capsys, "/2.png in")
    assert "cannot be read (Input/output error)" in said
    assert "decoded" not in said
    assert not (tmp_path / "out/a.h5").exists()
    assert command() == 0


# a network described in the settings


def described(weights, **changes):
    return {"backbone": {"library": "torchvision", "model": "squeezenet1_1", "weights": str(weights)} | changes}


@pytest.fixture
def squeezenet(manifest, tmp_path, monkeypatch):
    """A checkpoint with random weights, and the real command of the stage, with nothing replaced."""
    from torchvision.models import squeezenet1_1

    monkeypatch.setattr(cache_writer, "check_in_child", lambda path: None)
    monkeypatch.setenv("DKVB_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("DKVB_DEVICE", "cpu")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("DKVB_WEIGHTS", "DKVB_ALLOW_DOWNLOAD", "DKVB_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "mine.pth")
    write_manifest(manifest, tmp_path / "digits.jsonl")

    def call(weights=tmp_path / "mine.pth", layer="features", side=32, **changes):
        outer = {name: changes.pop(name) for name in ("compute_dtype", "storage_dtype") if name in changes}
        write_settings(tmp_path, image_side=side, layer=layer, **outer, **described(weights, **changes))
        return console.run(stage.main, stage.build_parser(), arguments(tmp_path))

    return call


def test_a_described_network_is_extracted_and_recorded(squeezenet, tmp_path):
    assert squeezenet(crop_pct=0.875, license="MIT") == 0
    card = json.loads((tmp_path / "out/a.json").read_text())
    assert card["n_features"] == 512
    assert card["backbone"]["id"] == "torchvision:squeezenet1_1:mine"
    assert card["backbone"]["layers"] == {"features": 512}
    assert card["backbone"]["weights_sha256"] == hashlib.sha256((tmp_path / "mine.pth").read_bytes()).hexdigest()
    assert (card["backbone"]["license"], card["preprocessing"]["crop_pct"]) == ("MIT", 0.875)
    assert str(tmp_path) not in (tmp_path / "out/a.json").read_text()


@pytest.mark.parametrize("compute_dtype", ["bfloat16", "float16"])
def test_lower_precision_is_computed_as_asked(squeezenet, tmp_path, compute_dtype):
    found = {}
    for kind in ("float32", compute_dtype):
        assert squeezenet(compute_dtype=kind, storage_dtype="float32") == 0
        with open_cache(tmp_path / "out/a.h5") as reader:
            found[kind] = reader.read("train")
    largest = np.abs(found["float32"]).max()
    error = np.abs(found[compute_dtype] - found["float32"]).max() / largest
    assert 1e-5 < error < {"bfloat16": 0.1, "float16": 0.02}[compute_dtype]


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.5, 0.5, 0.5]},
        {"interpolation": "bicubic"},
        {"crop_pct": 0.875},
        {"without_classifier": True},
        {"layer": "features.0"},
        {"image_side": 64},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_fingerprint_follows_a_description(squeezenet, manifest, tmp_path, changes):
    outer = {name: changes.pop(name) for name in ("layer", "image_side") if name in changes}
    plain = {"layer": "features", "image_side": 32} | described(tmp_path / "mine.pth")
    before = extraction.make_job(manifest, settings(tmp_path, **plain)).header().fingerprint
    assert extraction.make_job(manifest, settings(tmp_path, **plain)).header().fingerprint == before
    other = plain | outer | described(tmp_path / "mine.pth", **changes)
    assert extraction.make_job(manifest, settings(tmp_path, **other)).header().fingerprint != before


def test_where_a_checkpoint_lies_is_no_part_of_the_fingerprint(squeezenet, manifest, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.pth").write_bytes((tmp_path / "mine.pth").read_bytes())
    one, other = (
        extraction.make_job(manifest, settings(tmp_path, layer="features", image_side=32, **described(path))).header()
        for path in (tmp_path / "mine.pth", tmp_path / "elsewhere/mine.pth")
    )
    assert one == other


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weights": "gone.pth"}, "the weights of torchvision:squeezenet1_1:gone are not in gone.pth; expected"),
        ({"weights": "IMAGENET1K_V1"}, "expected the file from https://download.pytorch.org/models/squeezenet1_1-b8a52"),
        ({"weights": "IMAGENET1K"}, "torchvision has no weights 'IMAGENET1K' for squeezenet1_1; expected one of IMAG"),
        ({"model": "squeezenet1_0"}, "the weights of torchvision:squeezenet1_0:mine do not fit squeezenet1_0: "),
        ({"without_classifier": True}, "2 names are unexpected (first: ['classifier.1.weight'])"),
        ({"layer": "featurs"}, "has no layer 'featurs'; expected one of x, features, classifier, "),
        ({"side": 8}, "does not accept images of 8 × 8 pixels"),
        ({"width": 500}, "gives 512 features; expected width 500."),
    ],
)  # fmt: skip
def test_a_wrong_description_is_one_sentence(squeezenet, tmp_path, capsys, changes, text):
    assert squeezenet(**changes) == 1
    assert_one_sentence(capsys, text)
    assert not (tmp_path / "out").exists()


# the real network, killed


def start(folder, scratch, processes=1):
    environment = {"OMP_NUM_THREADS": "2"} | os.environ | {"DKVB_SCRATCH": str(scratch), "DKVB_DEVICE": "cpu"}
    environment["DKVB_PROCESSES"] = str(processes)
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages.extract", *arguments(folder)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder, scratch, processes=1):
    process = start(folder, scratch, processes)
    _, printed = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    outputs = [(folder / "out" / name).read_bytes() for name in ("a.h5", "a.json")]
    return [hashlib.sha256(content).hexdigest() for content in outputs], printed


def kill_after_first_block(folder, scratch):
    process = start(folder, scratch)
    limit = time.monotonic() + 300
    while not list(scratch.rglob("*.rows")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_extraction_with_the_real_network_goes_on_to_the_same_bytes(tmp_path):
    recipe = {"kind": "photos", "n_crops": 520, "seed": 0}  # three blocks
    write_manifest(build_manifest("digits", recipe), tmp_path / "digits.jsonl")
    settings(tmp_path, image_side=32, storage_dtype="float16")
    kill_after_first_block(tmp_path, tmp_path / "scratch")
    assert not (tmp_path / "out/a.h5").exists()
    assert not (tmp_path / "out/a.json").exists()
    resumed, printed = finish(tmp_path, tmp_path / "scratch")
    assert any(f"{520 - done} images ({done} already known)" in printed for done in (256, 512)), printed
    whole, printed = finish(tmp_path, tmp_path / "other")
    assert "520 images, " in printed
    assert resumed == whole
    assert {path.suffix for path in (tmp_path / "other").rglob("*.*")} == {".rows"}


@pytest.mark.slow
def test_offline_a_missing_weight_ends_the_command_with_what_to_type(manifest, tmp_path, monkeypatch):
    write_manifest(manifest, tmp_path / "digits.jsonl")
    write_settings(tmp_path, backbone="clip_vit_b32", layer="projected", image_side=224)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("DKVB_WEIGHTS", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for allowed in ("0", "1"):
        monkeypatch.setenv("DKVB_ALLOW_DOWNLOAD", allowed)
        process = start(tmp_path, tmp_path / "scratch", processes=2)
        _, printed = process.communicate(timeout=300)
        assert process.returncode == 1
        (error,) = printed.splitlines()
        folder = tmp_path / "torch/hub/checkpoints/timm/vit_base_patch32_clip_224.openai"
        assert error.startswith("error: the weights of clip_vit_b32 ")
        assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in error
        assert f"`mkdir -p {folder} && mv open_clip_model.safetensors {folder}/`" in error
    assert not (tmp_path / "out").exists()


# several real processes share one extraction


class Crew:
    """A real extraction with helpers, each of which is stopped from outside as soon as it has begun a block."""

    def __init__(self, folder, scratch, processes):
        self.main, self.scratch, self.size = start(folder, scratch, processes), scratch, processes
        self.stopped = []

    def begun(self):
        """Return the unfinished blocks that have been begun, each with its process."""
        claims = {path.stem: path.read_text() for path in self.scratch.rglob("*.claim")}
        return {name: int(text) for name, text in claims.items() if text and " " not in text}

    def gather(self):
        """Wait until every process has begun a block, and stop all of them there."""
        limit = time.monotonic() + 300
        while len(self.stopped) < self.size:
            assert self.main.poll() is None, self.main.stderr.read()
            assert time.monotonic() < limit
            for process in set(self.begun().values()) - set(self.stopped):
                os.kill(process, signal.SIGSTOP)
                if process in self.begun().values():  # otherwise it has just finished
                    self.stopped.append(process)
                else:
                    os.kill(process, signal.SIGCONT)
            time.sleep(0.01)
        assert self.main.pid in self.stopped
        return [process for process in self.stopped if process != self.main.pid]

    def go_on(self, processes):
        for process in processes:
            os.kill(process, signal.SIGCONT)

    def finish(self, folder):
        _, printed = self.main.communicate(timeout=300)
        assert self.main.returncode == 0, printed
        return hashlib.sha256((folder / "out/a.h5").read_bytes()).hexdigest(), printed


@pytest.fixture
def crew(digits, tmp_path, monkeypatch):
    """Settings, 1,797 digits in eight blocks, a network with random weights, and the extraction of them."""
    from torchvision.models import squeezenet1_1

    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "mine.pth")
    write_manifest(digits, tmp_path / "digits.jsonl")
    write_settings(tmp_path, image_side=32, layer="features", **described(tmp_path / "mine.pth"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    crews = []

    def call(name, processes):
        crews.append(Crew(tmp_path, tmp_path / name, processes))
        return crews[-1]

    yield call
    for one in crews:
        if one.main.poll() is None:
            one.go_on(one.stopped)
            one.main.kill()
            one.main.communicate(timeout=60)


@pytest.mark.slow
def test_several_processes_share_one_extraction_and_one_that_is_killed_costs_nothing(crew, tmp_path):
    alone, printed = crew("alone", 1).finish(tmp_path)
    assert "1,797 images, " in printed
    assert "processes computed" not in printed

    two = crew("two", 2)
    two.gather()
    two.go_on(two.stopped)
    together, printed = two.finish(tmp_path)
    assert together == alone
    assert sum(shares(printed, 2)) == 8
    assert "1,797 images, " in printed

    three = crew("three", 3)
    victim, helper = three.gather()
    os.kill(victim, signal.SIGKILL)
    three.go_on([helper, three.main.pid])
    bereft, printed = three.finish(tmp_path)
    assert bereft == alone
    assert sum(shares(printed, None)) == 8
    assert not list(tmp_path.rglob("*.claim"))


def shares(printed, processes):
    """Return the number of blocks that each process computed, from the last line of output."""
    found = re.search(r"(\d+) processes computed ([\d, and]+) blocks", printed)
    counts = [int(number) for number in re.findall(r"\d+", found[2])]
    assert int(found[1]) == len(counts)
    assert processes in (None, len(counts))
    assert min(counts) >= 1
    return counts
