"""Real photographs through real networks, by the same commands that ``dvc repro`` runs."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_project import run_stage

from pipeline.cache import open_cache, verify_cache

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
IMAGES, WEIGHTS = SHARED / "data/cifar10-images", SHARED / "weights"
MOBILENET = WEIGHTS / "mobilenet_v2_imagenet_trunk.safetensors"
SQUEEZENET = WEIGHTS / "squeezenet1_1_imagenet_gluon.safetensors"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (IMAGES.is_dir() and MOBILENET.is_file() and SQUEEZENET.is_file()),
        reason="shared/data/cifar10-images and shared/weights do not stand beside the checkout: no photographs to read",
    ),
]

NETWORKS = {
    "mobilenet": {"model": "mobilenet_v2", "weights": str(MOBILENET), "without_classifier": True},
    "squeezenet": {"model": "squeezenet1_1", "weights": str(SQUEEZENET)},
}
WIDTH = {"mobilenet": 1280, "squeezenet": 512}
IMAGES_OF_A_CLASS = {"train": 150, "test": 50}
# Measured test accuracy: .756, .814, .690, with joint at its default sizes. Each range extends three standard errors of
# 500 images to either side.
EXPECTED = {"mobilenet_counts": (0.70, 0.815), "mobilenet_joint": (0.76, 0.87), "squeezenet_counts": (0.63, 0.75)}
ENCODERS = {"counts": {"n_heads": 64, "n_keys": 64, "key_dim": 14}, "joint": {}}


def tables():
    entry = {"dataset": "photographs", "layer": "features", "image_side": 96}
    entry |= {"compute_dtype": "float32", "storage_dtype": "float16"}
    return {
        "datasets": {"photographs": {"kind": "folder", "root": "images"}},
        "embeddings": {
            name: entry | {"backbone": {"library": "torchvision", "license": "Apache-2.0"} | network}
            for name, network in NETWORKS.items()
        },
        "streams": {"by_class": {"kind": "class_incremental", "classes_per_task": 2, "batch_rows": 1000}},
        "runs": {
            run: {
                "embeddings": network,
                "keys": network,
                "key_rows": "first_task",
                "stream": "by_class",
                "held_out_share": 0.0,
                "method": {"solver": solver, "encoder": {"random_state": 0} | ENCODERS[solver]},
            }
            for run, (network, solver) in {run: run.split("_") for run in EXPECTED}.items()
        },
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which both networks have embedded 2,000 photographs."""
    folder = tmp_path_factory.mktemp("photographs")
    for split, n in IMAGES_OF_A_CLASS.items():
        for source in (IMAGES / split).iterdir():
            (folder / "images" / split / source.name).mkdir(parents=True)
            for image in sorted(source.iterdir())[:n]:
                shutil.copy(image, folder / "images" / split / source.name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tables()), encoding="utf-8")
    with contextlib.chdir(folder):
        for stage in ("manifest", "extract", "baselines", "run"):
            run_stage(stage)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cache_holds_every_photograph_and_says_where_it_comes_from(project, name):
    assert len(verify_cache(project / f"caches/{name}.h5")) == 3
    card = json.loads((project / f"cards/{name}.json").read_text(encoding="utf-8"))
    file = Path(NETWORKS[name]["weights"])
    assert card["splits"] == {split: 10 * n for split, n in IMAGES_OF_A_CLASS.items()}
    assert card["n_features"] == WIDTH[name]
    assert card["backbone"]["layers"] == {"features": WIDTH[name]}
    assert card["backbone"]["weights_file"] == file.name
    assert card["backbone"]["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["backbone"].get("without_classifier", False) == (name == "mobilenet")
    assert card["preprocessing"] == {
        "image_side": 96, "interpolation": "bilinear", "crop_pct": 1.0,
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert card["class_names"][:2] == ["airplane", "automobile"]
    assert str(SHARED) not in json.dumps(card)


def test_both_caches_list_the_same_photographs(project):
    with open_cache(project / "caches/mobilenet.h5") as one, open_cache(project / "caches/squeezenet.h5") as other:
        for split in ("train", "test"):
            assert one.sample_ids(split) == other.sample_ids(split)
            assert (one.labels(split) == other.labels(split)).all()


@pytest.mark.parametrize("run", EXPECTED)
def test_classes_that_come_two_at_a_time_are_learned(project, run):
    found = json.loads((project / f"metrics/train_{run}.json").read_text(encoding="utf-8"))
    low, high = EXPECTED[run]
    assert found["n_classes"] == 10
    assert low < found["accuracy"] < high
