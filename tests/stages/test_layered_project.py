"""Two layers from one entry of params.yaml pass through every stage, by the commands that ``dvc repro`` runs."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small_project import run_stage
from small_run import make_few_steps
from torchvision.models import squeezenet1_1

from dkvb_estimator import load_model
from pipeline.cache import open_cache, verify_cache, writer
from pipeline.config import load_params
from pipeline.evaluation import search
from pipeline.forgetting import forget

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
METHOD = {"solver": "counts", "encoder": {"n_heads": 6, "n_keys": 8, "key_dim": 2, "random_state": 0}}
BOTH = {"embeddings": "both", "keys": "both", "stream": "by_class"}
LAYERS = ["features.7", "features"]
WIDTHS = (256, 512)
TABLES = {
    "datasets": {"pets": {"kind": "folder", "root": "pets"}, "crops": {"kind": "photos", "n_crops": 20, "seed": 0}},
    "defaults": {
        "embeddings": {
            "dataset": "pets",
            "backbone": {"library": "torchvision", "model": "squeezenet1_1", "weights": "mine.pth"},
            "layer": "features",
            "image_side": 32,
            "compute_dtype": "float32",
            "storage_dtype": "float32",
        }
    },
    "embeddings": {"both": {"layers": LAYERS}, "one": {}, "inner": {"layer": LAYERS[0]},
                   "crops": {"dataset": "crops", "layers": LAYERS}},
    "streams": {"by_class": {"kind": "class_incremental"}},
    "baselines": {"both": BOTH | {"methods": ["nearest_class_mean", "linear_probe"]}},
    "runs": {
        "both": BOTH | {"baselines": "both", "method": METHOD},
        "foreign_keys": BOTH | {"keys": "crops", "method": METHOD},
        "one": BOTH | {"embeddings": "one", "keys": "one", "method": METHOD},
    },
    "searches": {"both": {"embeddings": "both", "keys": "both", "folds": 2, "seed": 0, "method": METHOD,
                          "grid": {"smoothing": [0.1, 1.0]}}},
    "toy": {"steps": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which all stages have processed sixty small images of three classes."""
    folder, rng = tmp_path_factory.mktemp("layers"), np.random.default_rng(0)
    (folder / "forgotten").mkdir()
    (folder / "forgotten/list.txt").write_text("", encoding="utf-8")
    for number, name in enumerate(["ant", "bee", "cat"] * 20):
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 80, (16, 16, 3)) + 80 * np.eye(3, dtype=int)[number % 3]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"pets/{name}/{number:02d}.png")
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), folder / "mine.pth")
    (folder / "params.yaml").write_text(yaml.safe_dump(TABLES), encoding="utf-8")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DKVB_DEVICE", "cpu")
        patch.setattr(writer, "check_in_child", lambda path: None)
        make_few_steps(patch)
        for stage in ("manifest", "extract", "baselines", "run", "search"):
            run_stage(stage)
    search._reader.cache_clear()  # it keeps caches open, because its process usually ends with the search
    return folder


def test_an_entrys_layers_replace_the_default_layer(project):
    entries = load_params(project / "params.yaml").embeddings
    assert [entries[name].layer_names for name in ("both", "one", "inner")] == [
        ("features.7", "features"), ("features",), ("features.7",),
    ]  # fmt: skip


def test_the_cache_of_both_holds_the_columns_of_each(project):
    assert len(verify_cache(project / "caches/both.h5")) == 3
    with contextlib.ExitStack() as stack:
        both, *parts = (stack.enter_context(open_cache(project / f"caches/{n}.h5")) for n in ("both", "inner", "one"))
        assert both.feature_blocks == WIDTHS
        for split in both.split_names:
            columns = np.concatenate([part.read(split) for part in parts], axis=1)
            assert both.read(split).tobytes() == columns.tobytes()


def test_the_model_of_a_run_has_heads_of_each_layer(project):
    both, one = (load_model(project / f"models/{name}.npz").encoder_ for name in ("both", "one"))
    assert (both.feature_blocks, one.feature_blocks) == (WIDTHS, None)
    assert not both.projection_[256:, :3].any()
    assert not both.projection_[:256, 3:].any()


def test_results_and_settings_are_there_for_both(project):
    metrics = json.loads((project / "metrics/both.json").read_text(encoding="utf-8"))
    assert set(metrics) == {"dkvb", "nearest_class_mean", "linear_probe"}
    assert all(numbers["final_accuracy"] > 0.5 for numbers in metrics.values())
    assert "feature_blocks" not in (project / "searches/both.json").read_text(encoding="utf-8")


def test_forgetting_rewrites_a_cache_of_two_layers_and_its_model(project):
    with open_cache(project / "caches/both.h5") as reader:
        ids = reader.sample_ids("train")
        gone, rows = ids[3], reader.read("train")
    with contextlib.chdir(project):
        receipt = json.loads(forget(project, project / ".scratch", ids=[gone], reason="asked").read_text("utf-8"))
    with open_cache(project / "caches/both.h5") as reader:
        assert [layer.name for layer in reader.header.layers] == LAYERS
        assert reader.read("train").tobytes() == np.delete(rows, 3, axis=0).tobytes()
    assert receipt["n_rows_of_store"] == 2  # one row per layer
    models = {model["path"]: model for model in receipt["models"]}
    assert models["models/both.npz"]["how"] == "trained again"  # its keys were placed on that row
    assert models["models/foreign_keys.npz"]["gap"]["bits_of_values"] == 0
    assert load_model(project / "models/foreign_keys.npz").encoder_.feature_blocks == WIDTHS


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"layer": "features"}, "embeddings.both: layer and layers are both set; expected one"),
        ({"layers": None}, "embeddings.both: neither layer nor layers is set; expected one"),
        ({"layers": "features"}, "embeddings.both.layers is 'features'; expected a valid list"),
    ],
)
def test_where_the_network_is_read_is_said_once(tmp_path, changes, text):
    entry = TABLES["defaults"]["embeddings"] | {"layers": LAYERS} | changes
    entry = {name: value for name, value in entry.items() if name != "layer" or "layer" in changes}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"datasets": TABLES["datasets"], "embeddings": {"both": entry}}), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(text)):
        load_params(path)


def test_keys_of_other_layers_are_refused(tmp_path):
    tables = TABLES | {"runs": {"both": BOTH | {"keys": "one", "method": METHOD}}, "baselines": {}, "searches": {}}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tables), encoding="utf-8")
    with pytest.raises(ValueError, match=r"'one' with layer 'features', samples from 'both' with layer \["):
        load_params(path)
