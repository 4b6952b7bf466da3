"""Offline, missing weights raise an immediate error with their address, the searched folders and where to put them."""

import contextlib
import functools
import re
import socket
import subprocess

import huggingface_hub.constants
import pytest

from pipeline.backbones import describe_backbone, find_weights
from pipeline.backbones.registry import BACKBONES

LIBRARY = {
    "torchvision": ({"model": "squeezenet1_1", "weights": "IMAGENET1K_V1"}, "features", 64),
    "timm": ({"model": "mobilenetv3_small_050", "weights": "lamb_in1k"}, "avgpool", 64),
    "open_clip": ({"model": "RN50-quickgelu", "weights": "openai"}, "projected", 224),
}
KINDS = [name for name in BACKBONES if name != "efficientnet_lite0"] + list(LIBRARY)  # installed with a package


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """A machine without weights, on which every host look-up fails; returns the requested names."""
    asked = []

    def fail(host, *arguments, **options):
        asked.append(host)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("DKVB_WEIGHTS", "DKVB_ALLOW_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    return asked


@functools.cache
def record_of(kind):
    if kind not in LIBRARY:
        return BACKBONES[kind]
    described, layer, side = LIBRARY[kind]
    return describe_backbone({"id": f"{kind}:x", "file": None, "library": kind} | described, layer, side)


@pytest.fixture(params=KINDS)
def record(request):
    return record_of(request.param)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("offline", [True, False])
def test_a_missing_weight_tells_address_folders_and_command_and_asks_nobody(
    record, no_network, monkeypatch, tmp_path, offline
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(FileNotFoundError) as caught:
        find_weights(record)
    text = str(caught.value)
    assert f"expected the file from {record.weights_url}" in text
    assert record.weights_url.startswith("https://")
    assert str(tmp_path / "torch/hub/checkpoints") in text
    assert (str(tmp_path / "hub") in text) == ("huggingface" in record.weights_url)
    assert "set DKVB_ALLOW_DOWNLOAD=1" in text
    assert no_network == []


@pytest.mark.filterwarnings("default")
def test_the_command_of_the_message_makes_the_file_be_found(record, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as caught:
        find_weights(record)
    command = re.search(r"`(mkdir -p .*? && mv .*?)`", str(caught.value))[1]
    (tmp_path / record.weights_file).write_bytes(b"")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    refused = pytest.raises(ValueError, match="has sha256 e3b0c442")  # the digest of an empty file
    with refused if record.sha256 else contextlib.nullcontext():
        assert find_weights(record).is_file()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("offline", [True, False])
def test_a_download_that_is_allowed_but_impossible_is_one_error_soon(record, no_network, monkeypatch, offline):
    waited = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited.append)  # between its own retries
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("DKVB_ALLOW_DOWNLOAD", "1")
    with pytest.raises(OSError, match=r"could not be downloaded \(.*\); expected .* at https://.*mkdir -p ") as caught:
        find_weights(record)
    assert record.weights_file in str(caught.value)
    if offline and "huggingface" in record.weights_url:
        assert no_network == []
    assert sum(waited) < 30
