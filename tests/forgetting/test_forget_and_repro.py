"""After `forget`, `dvc repro` produces the same files: nothing brings the samples back."""

import json

import numpy as np
import pytest
from small_project import call, copy_project

from dkvb_estimator import load_model
from pipeline.cache import open_cache
from pipeline.data import read_manifest

pytestmark = pytest.mark.slow

ENTRY = {"backbone": "efficientnet_lite0", "layer": "avgpool", "image_side": 16}
ENTRY |= {"compute_dtype": "float32", "storage_dtype": "float16"}
METHOD = {"solver": "counts", "encoder": {"n_heads": 16, "n_keys": 16, "key_dim": 4, "random_state": 0}}
TABLES = {
    "datasets": {
        "digits": {"kind": "digits", "test_fraction": 0.3, "seed": 0},
        "photos": {"kind": "photos", "n_crops": 60, "seed": 0},
    },
    "embeddings": {name: ENTRY | {"dataset": name} for name in ("digits", "photos")},
    "streams": {"by_class": {"kind": "class_incremental", "classes_per_task": 5, "order_seeds": [0]}},
    "runs": {"counts": {"embeddings": "digits", "keys": "photos", "stream": "by_class", "method": METHOD}},
}
FILES = ("manifests/digits.jsonl", "caches/digits.h5", "cards/digits.json", "caches/photos.h5")
IDS = ["digits/0000", "digits/0003", "digits/0005"]


def test_repro_makes_the_files_that_forgetting_left_and_the_same_values(tmp_path):
    folder = tmp_path / "project"
    copy_project(folder, TABLES)
    call(folder, "dvc", "repro")
    assert 'id="deletions"' not in (folder / "report/index.html").read_text(encoding="utf-8")
    before = read_manifest(folder / "manifests/digits.jsonl")
    (folder / "ids.txt").write_text("\n".join(IDS))
    said = call(folder, "pipeline", "forget", "--ids", "ids.txt", "--reason", "asked")
    assert "forgot 3 of digits" in said
    files = [(folder / name).read_bytes() for name in FILES]
    values = load_model(folder / "models/counts.npz").values_
    said = call(folder, "dvc", "repro")
    assert "0 images (1,794 already known)" in said
    assert [(folder / name).read_bytes() for name in FILES] == files
    assert np.array_equal(load_model(folder / "models/counts.npz").values_, values)
    after = read_manifest(folder / "manifests/digits.jsonl")
    assert set(before.sample_ids) - set(after.sample_ids) == set(IDS)
    with open_cache(folder / "caches/digits.h5") as reader:
        assert not set(IDS) & {one for split in reader.split_names for one in reader.sample_ids(split)}
    assert "1 deletion in this project" in (folder / "report/index.html").read_text(encoding="utf-8")
    (receipt,) = (folder / "forgotten/receipts").iterdir()
    objects = json.loads(receipt.read_text())["not_reached"][0]["files"]
    assert len(objects) >= 3
    assert all((folder / path).is_file() for path in objects)
