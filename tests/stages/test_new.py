"""A user's own project: one command sets it up from an empty directory, and it runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.__main__ import build_parser, main
from pipeline.backbones import find_backbone
from pipeline.config import load_params

ROOT = Path(__file__).resolve().parents[2]


def new(*words):
    main(build_parser().parse_args(["new", *map(str, words)]))


def arrays(folder, n=300):
    X, y = load_digits(return_X_y=True)
    np.save(folder / "X.npy", X[:n].astype(np.float32))
    np.save(folder / "y.npy", y[:n])
    return "--embeddings", folder / "X.npy", "--labels", folder / "y.npy"


def photographs(folder, n=60):
    """Digits as image files, one folder per class."""
    pictures, labels = load_digits(return_X_y=True)
    for i in range(n):
        (folder / f"digit {labels[i]}").mkdir(parents=True, exist_ok=True)
        pixels = (pictures[i].reshape(8, 8) * 15).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(pixels).save(folder / f"digit {labels[i]}" / f"{i}.png")
    return "--images", folder, "--image-side", 32


def images(folder, classes=("cat", "dog"), n=5):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_a_project_of_embeddings_has_valid_settings_and_its_cache(tmp_path, capsys):
    new(tmp_path / "mine", *arrays(tmp_path))
    params = load_params(tmp_path / "mine" / "params.yaml")
    assert list(params.runs) == ["joint", "counts"]
    assert params.streams["by_class"].classes_per_task == 2
    assert (tmp_path / "mine/imported/mine.h5").is_file()
    assert capsys.readouterr().out.strip().endswith(f"cd {tmp_path / 'mine'} && dvc repro")


def test_a_project_of_images_names_them_from_where_it_lies(tmp_path):
    root = images(tmp_path / "pets")
    new(tmp_path / "mine", "--images", root, "--image-side", 64)
    recipe = load_params(tmp_path / "mine" / "params.yaml").datasets["mine"]
    assert (tmp_path / "mine" / recipe.root).resolve() == root
    assert yaml.safe_load((tmp_path / "mine/params.yaml").read_text())["embeddings"]["mine"]["image_side"] == 64


def test_stages_of_a_project_depend_on_no_code_and_call_the_installed_module(tmp_path):
    new(tmp_path / "mine", *arrays(tmp_path))
    text = (tmp_path / "mine/dvc.yaml").read_text()
    assert "python -m dkvb_pipeline stages" in text
    assert not any(line.strip().startswith(("- pipeline", "- dkvb_estimator")) for line in text.splitlines())
    ours = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(yaml.safe_load(text)["stages"]) == list(ours)


def test_a_folder_beside_the_project_that_one_stands_in_is_not_inside_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "outer/.dvc").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "outer")
    new("../mine", *arrays(tmp_path))
    assert (tmp_path / "mine/dvc.yaml").is_file()
    assert capsys.readouterr().out.strip().endswith(f"cd {tmp_path / 'mine'} && dvc repro")
    with pytest.raises(ValueError, match="inner is inside outer, which is already a DVC project"):
        new("../outer/inner", *arrays(tmp_path))


def test_an_empty_folder_is_filled_and_another_kept(tmp_path):
    (tmp_path / "empty").mkdir()
    new(tmp_path / "empty", *arrays(tmp_path))
    assert (tmp_path / "empty/dvc.yaml").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("done")
    with pytest.raises(ValueError, match="full exists and is not empty; expected a new or an empty folder"):
        new(tmp_path / "full", *arrays(tmp_path))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_project_inside_another_is_refused(tmp_path):
    (tmp_path / "outer/.dvc").mkdir(parents=True)
    with pytest.raises(ValueError, match="inner is inside outer, which is already a DVC project"):
        new(tmp_path / "outer/inner", *arrays(tmp_path))
    assert not (tmp_path / "outer/inner").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: ("--images", images(folder / "a", ("cat",))), "has 1 class; expected at least two"),
        (lambda folder: ("--images", folder / "nowhere"), "nowhere"),
        (lambda folder: arrays(folder)[:2], "--embeddings came without --labels"),
        (lambda folder: (*arrays(folder), "--backbone", "dino_resnet50"), "--backbone came with --embeddings, which"),
        (lambda folder: ("--images", images(folder / "a"), "--labels", "y.npy"), "--labels came with --images, which"),
        (lambda folder: ("--images", images(folder / "a"), "--backbone", "dino"), "backbone 'dino' is unknown"),
        (lambda folder: ("--images", images(folder / "a"), "--image-side", 7), "^params.yaml: .*image_side is 7"),
    ],
)
def test_what_makes_no_project_writes_nothing(tmp_path, make, words):
    with pytest.raises((ValueError, OSError), match=words):
        new(tmp_path / "mine", *make(tmp_path))
    assert not [path for path in tmp_path.iterdir() if "mine" in path.name]


def test_labels_of_another_length_are_refused(tmp_path):
    given = arrays(tmp_path)
    np.save(tmp_path / "y.npy", np.zeros(7, dtype=int))
    with pytest.raises(ValueError, match="7"):
        new(tmp_path / "mine", *given)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("network", ["clip_vit_b32", "dino_resnet50"])
def test_a_network_brings_its_side_and_its_layer(tmp_path, network):
    new(tmp_path / "mine", "--images", images(tmp_path / "pets"), "--backbone", network)
    entry = load_params(tmp_path / "mine" / "params.yaml").embeddings["mine"]
    assert entry.layer in find_backbone(network).layers
    assert entry.image_side == 224


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "without"),
    [(arrays, []), (lambda folder: photographs(folder / "digits"), ["counts"])],
    ids=["embeddings", "images"],
)
def test_a_project_runs_from_an_empty_directory(tmp_path, given, without):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = {"cwd": tmp_path, "env": environment, "check": True, "capture_output": True, "text": True}
    words = [str(word) for word in given(tmp_path)]
    subprocess.run([sys.executable, "-m", "dkvb_pipeline", "new", "mine", *words], **run)
    if without:  # as a user would edit it; the other case runs the file as it is
        params = tmp_path / "mine/params.yaml"
        tables = yaml.safe_load(params.read_text(encoding="utf-8"))
        tables["runs"] = {name: entry for name, entry in tables["runs"].items() if name not in without}
        params.write_text(yaml.safe_dump(tables), encoding="utf-8")
    done = subprocess.run(["dvc", "repro"], **run | {"cwd": tmp_path / "mine"})
    assert (tmp_path / "mine/report/index.html").is_file(), done.stdout + done.stderr
    assert not (tmp_path / "mine/figures/toy.png").exists()
    again = subprocess.run(["dvc", "repro"], **run | {"cwd": tmp_path / "mine"}).stdout
    assert re.findall(r"Running stage '(\S+)'", again) == ["manifest"]


def test_classes_are_those_that_occur_whatever_their_numbers(tmp_path):
    given = arrays(tmp_path)
    np.save(tmp_path / "y.npy", 1000 * np.load(tmp_path / "y.npy") + 5)
    new(tmp_path / "mine", *given)
    assert load_params(tmp_path / "mine/params.yaml").streams["by_class"].classes_per_task == 2
    np.save(tmp_path / "y.npy", np.full(300, 7))
    with pytest.raises(ValueError, match="has 1 class; expected at least two"):
        new(tmp_path / "another", *given)


def test_what_a_setting_would_solve_an_option_does(tmp_path):
    root = images(tmp_path / "pets", n=6)
    (root / "cat/0.png").write_bytes((root / "cat/0.png").read_bytes()[:60])
    (tmp_path / "elsewhere.png").write_bytes((root / "dog/1.png").read_bytes())
    words = ["--images", root, "--image-side", 64]
    with pytest.raises(ValueError, match="pass --skip-corrupt"):
        new(tmp_path / "mine", *words)
    (root / "dog/link.png").symlink_to(tmp_path / "elsewhere.png")
    words.append("--skip-corrupt")
    with pytest.raises(ValueError, match="Set --follow-links to follow them"):
        new(tmp_path / "mine", *words)
    words.append("--follow-links")
    with pytest.raises(ValueError, match=r"--test-fraction is 0\.01"):
        new(tmp_path / "mine", *words, "--test-fraction", 0.01)
    new(tmp_path / "mine", *words, "--test-fraction", 0.4)
    recipe = load_params(tmp_path / "mine/params.yaml").datasets["mine"]
    assert (recipe.skip_corrupt, recipe.follow_links, recipe.test_fraction) == (True, True, 0.4)
