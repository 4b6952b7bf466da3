"""A user's own folder of images and own embeddings: one entry of params.yaml each, and ``dvc repro``."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_project import call, copy_project

pytestmark = pytest.mark.slow

METHOD = {"solver": "counts", "encoder": {"n_heads": 8, "n_keys": 8, "key_dim": 4, "random_state": 0}}
MINE = {"embeddings": "mine", "keys": "mine", "stream": "by_class"}
TABLES = {
    "datasets": {"pets": {"kind": "folder", "root": "pets"}},
    "embeddings": {
        "pets": {
            "dataset": "pets",
            "backbone": {"library": "torchvision", "model": "squeezenet1_1", "weights": "mine.pth"},
            "layer": "features",
            "image_side": 32,
            "compute_dtype": "float32",
            "storage_dtype": "float16",
        }
    },
    "imports": {"mine": {"cache": "imported/mine.h5"}},
    "streams": {"by_class": {"kind": "class_incremental"}},
    "baselines": {"mine": MINE | {"methods": ["nearest_class_mean"]}},
    "runs": {"mine": MINE | {"baselines": "mine", "method": METHOD}},
    "searches": {},
}


def stages_run(folder, *words):
    return re.findall(r"Running stage '(.*?)'", call(folder, *words))


def import_rows(folder, shift):
    """Import 60 rows of three separated classes, and hold out a share of each for testing."""
    y = np.arange(60) % 3
    rng = np.random.default_rng(0)
    np.save(folder / "X.npy", (4 * np.eye(8)[y] + rng.standard_normal((60, 8)) + shift).astype(np.float32))
    np.save(folder / "y.npy", y)
    words = ["--embeddings", "X.npy", "--labels", "y.npy", "--test-fraction", "0.3", "--backbone", "anything"]
    call(folder, "pipeline", "import", *words, "--output", "imported/mine.h5")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project whose settings name a folder of twelve images, and imported embeddings."""
    from torchvision.models import squeezenet1_1

    folder = tmp_path_factory.mktemp("own") / "copy"
    copy_project(folder, TABLES)
    for number, name in enumerate(["ant", "bee"] * 6):
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (20 * number, 0, 0)).save(folder / f"pets/{name}/{number}.png")
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), folder / "mine.pth")
    import_rows(folder, 0.0)
    return folder


def test_an_edited_image_is_seen_by_the_next_repro_and_an_unedited_folder_changes_nothing(project):
    assert stages_run(project, "dvc", "repro", "extract") == ["manifest", "extract"]
    card = json.loads((project / "cards/pets.json").read_text())
    assert card["splits"] == {"test": 3, "train": 9}
    assert stages_run(project, "dvc", "repro", "extract") == ["manifest"]
    Image.new("RGB", (9, 9), "white").save(project / "pets/ant/4.png")
    said = call(project, "dvc", "repro", "extract")
    assert "[extract] pets to do" in said
    assert "[import_cache] mine unchanged" in said
    after = json.loads((project / "cards/pets.json").read_text())
    assert after["manifest_sha256"] != card["manifest_sha256"]
    assert after["splits"] == card["splits"]


def test_imported_embeddings_are_learned_from_and_watched(project):
    assert stages_run(project, "dvc", "repro", "run")[-1] == "run"
    assert json.loads((project / "metrics/train_mine.json").read_text())["accuracy"] > 0.8
    card = json.loads((project / "cards/mine.json").read_text())
    assert [file["file"] for file in card["preprocessing"]["imported"]] == ["X.npy", "y.npy"]
    assert stages_run(project, "dvc", "repro", "run") == ["manifest"]
    import_rows(project, 0.5)
    said = call(project, "dvc", "repro", "run")
    assert "[extract] pets unchanged" in said
    for stage in ("import_cache", "baselines", "run"):
        assert f"[{stage}] mine to do" in said
