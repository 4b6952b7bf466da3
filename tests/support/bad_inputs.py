"""Wrong inputs by name, for estimator, pipeline and files; each is a function of a folder to work in."""

import json
import os
from unittest import mock

import dask.array as da
import numpy as np
import yaml
from models import by_codes, flat, placed
from PIL import Image
from sklearn.frozen import FrozenEstimator
from small_cache import header, rows, write_small

from dkvb_estimator import DKVBClassifier, load_model, save_model
from dkvb_estimator.baselines import RandomProjectionRidge, StreamingLDA
from dkvb_estimator.metrics import (
    anytime_accuracy,
    brier_score,
    expected_calibration_error,
    forgetting,
    mean_class_accuracy,
)
from dkvb_estimator.plotting import AccuracyMatrixDisplay, StreamDisplay
from pipeline.backbones import find_backbone, read_weights
from pipeline.cache import CacheReader, check_cache, open_cache, write_cache
from pipeline.config import load_params
from pipeline.data import build_manifest, read_manifest
from pipeline.evaluation import make_method
from pipeline.evaluation.streams import make_tasks
from pipeline.extraction import job as extraction
from pipeline.io import check_files, read_names
from pipeline.stages import extract as stage

X = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
Y = np.arange(30) % 3
EVERY = {}


def bad(name):
    def keep(function):
        EVERY[name] = function
        return function

    return keep


def small(**settings):
    return flat(**({"n_heads": 3, "n_keys": 8, "key_dim": 2, "random_state": 0} | settings))


def fitted(**settings):
    return small(**settings).fit(X, Y)


def _codes(seed):
    return small(random_state=seed).encoder.fit_transform(X)


def _of_codes(seed):
    return DKVBClassifier("precomputed").fit(_codes(seed), Y)


def settings(**changes):
    """A parameter of the constructor that fit refuses."""
    (name, value) = next(iter(changes.items()))
    EVERY[f"{name}={value!r}"] = lambda folder: small(**changes).fit(X, Y)


for change in (
    {"n_heads": 0}, {"n_heads": 2.5}, {"n_heads": True}, {"n_keys": 70_000}, {"n_keys": "many"}, {"key_dim": -1},
    {"n_selected": 0}, {"n_selected": 17}, {"n_selected": 9}, {"n_selected": "all"}, {"projection": "dense"},
    {"key_init": "random"}, {"solver": "adam"}, {"alpha": 0}, {"alpha": float("nan")}, {"smoothing": -1.0},
    {"smoothing": "much"}, {"learning_rate": float("inf")}, {"label_smoothing": 1.0}, {"clip_norm": 0},
    {"batch_size": 0}, {"max_iter": 0}, {"partial_fit_epochs": 0}, {"density": 2.0},
    {"class_weight": [1, 2]}, {"class_weight": {0: -1.0}},
    {"codes_dir": "/nowhere/at/all"}, {"device": "abacus"}, {"device": "meta"}, {"normalize": 1},
    {"class_weight": {0: 1e300}}, {"class_weight": {(0, 1): 1.0}}, {"codes_dir": 5}, {"device": "mps"},
):  # fmt: skip
    settings(**change)

bad("identity with several heads")(lambda folder: small(projection="identity").fit(X, Y))
bad("chunks that do not fit")(lambda folder: small(projection="chunk", key_dim=5).fit(X, Y))
bad("weights beyond all sums")(lambda folder: small().fit(X, Y, np.full(30, 1e300)))
bad("class weights as an array")(lambda folder: small(class_weight=np.ones(3)).fit(X, Y))
bad("dates as labels")(lambda folder: small().fit(X, np.datetime64("2020-01-01") + Y))
bad("objects as labels")(lambda folder: small().fit(X, np.array(["a", None], dtype=object)[Y % 2]))
bad("labels that end in NUL")(lambda folder: small().fit(X, ["a\0" if label else "a" for label in Y.tolist()]))
bad("labels of text beside numbers")(lambda folder: small().fit(X, ["a" if label else 1 for label in Y.tolist()]))
bad("labels too large for floats")(lambda folder: small().fit(X, Y * 2.0**60))
bad("labels that no integer type holds")(
    lambda folder: fitted().partial_fit(X, Y - 1).partial_fit(X, np.full(30, 2**63, dtype=np.uint64))
)
bad("declared labels that are NaN")(lambda folder: placed(small(), X).partial_fit(X, Y, classes=[0, np.nan]))
bad("declared labels in a table")(lambda folder: placed(small(), X).partial_fit(X, Y, classes=[[0, 1]]))
bad("keys of another width")(lambda folder: placed(small(), X[:, :4]).fit(X, Y))
bad("another frozen encoder after learning")(lambda folder: placed(fitted(), X + 1).predict(X))
bad("an encoder that is none")(lambda folder: DKVBClassifier("kmeans").fit(X, Y))
bad("a frozen estimator that is no encoder")(lambda folder: DKVBClassifier(FrozenEstimator(StreamingLDA())).fit(X, Y))
bad("a setting of an earlier release")(lambda folder: DKVBClassifier(n_heads=3))
bad("key rows as in an earlier release")(lambda folder: DKVBClassifier(key_data=X))
bad("a setting of steps that is none")(lambda folder: DKVBClassifier(solver_params={"epochs": 3}).fit(X, Y))
bad("settings of steps in a list")(lambda folder: DKVBClassifier(solver_params=[3]).fit(X, Y))
bad("codes without their encoder")(lambda folder: DKVBClassifier("precomputed").fit(np.zeros((30, 3), np.uint8), Y))
bad("codes of other keys")(lambda folder: _of_codes(0).predict(_codes(1)))
bad("fewer labels than codes")(lambda folder: _of_codes(0).partial_fit(_codes(0), Y[1:]))
bad("another random state after the keys")(lambda folder: fitted().set_params(encoder__random_state=1).predict(X))
bad("steps that leave the numbers")(lambda folder: fitted(solver="sgd", learning_rate=1e300))
bad("rows in an iterator")(lambda folder: small().fit(iter([X]), Y))
bad("rows in a dict")(lambda folder: placed(small(), {"X": X}))
bad("a block of three parts")(lambda folder: placed(small(), iter([(X, Y, Y)])))
bad("no block at all")(lambda folder: placed(small(), iter([])))
bad("lazy labels of unknown length")(lambda folder: small().fit(da.from_array(X), da.unique(da.from_array(Y))))
bad("lazy labels in a column")(lambda folder: small().fit(da.from_array(X), Y[:, None]))
bad("weights all zero")(lambda folder: small().fit(X, Y, np.zeros(30)))
bad("labels of another type")(lambda folder: fitted().partial_fit(X, Y.astype(str)))
bad("float64 beyond float32")(lambda folder: fitted().predict(X.astype(float) * 1e300))
bad("forget what was never learned")(lambda folder: fitted().forget(X + 5, Y))
bad("forget a class that was never learned")(lambda folder: fitted().forget_classes([7]))
bad("forget_classes with sgd")(lambda folder: fitted(solver="sgd").forget_classes([1]))
bad("merge with other keys")(lambda folder: fitted().merge(fitted(random_state=1)))
bad("merge with sgd")(lambda folder: fitted(solver="sgd").merge(fitted(solver="sgd")))
bad("a setting changed after the keys")(lambda folder: fitted().set_params(encoder__n_keys=4).predict(X))
bad("calibrate on unknown labels")(lambda folder: fitted().calibrate(X, Y + 10))
bad("codes that are floats")(lambda folder: by_codes(fitted(), "partial_fit", np.zeros((30, 3, 1)), Y))
bad("codes of another shape")(lambda folder: by_codes(fitted(), "partial_fit", np.zeros((30, 2, 1), np.uint8), Y))
bad("codes of no key")(lambda folder: by_codes(fitted(), "partial_fit", np.full((30, 3, 1), 200, np.uint8), Y))
bad("class weights that are all zero")(lambda folder: fitted(class_weight=dict.fromkeys(range(3), 0.0)).predict(X))
bad("class weights of labels of another type")(lambda folder: fitted(class_weight={"0": 2.0}).predict(X))
bad("one weight for all rows")(lambda folder: small().fit(X, Y, 2.0))
bad("float64 below float32")(lambda folder: small().fit(X.astype(float) * 1e-60, Y))
bad("merge with another kind of model")(lambda folder: fitted().merge(StreamingLDA().fit(X, Y)))
bad("a file of another kind of model")(lambda folder: save_model(StreamingLDA().fit(X, Y), folder / "model.npz"))
bad("a card that is no dict")(lambda folder: save_model(fitted(), folder / "model.npz", [1]))
bad("a card with NaN")(lambda folder: save_model(fitted(), folder / "model.npz", {"accuracy": float("nan")}))
bad("classes in halves")(lambda folder: brier_score(np.full((2, 2), 0.5), [0.5, 1.5]))
bad("bins in halves")(lambda folder: expected_calibration_error(np.full((2, 2), 0.5), [0, 1], 2.5))
bad("text against numbers")(lambda folder: mean_class_accuracy([0, 1], ["0", "1"]))
bad("samples seen that are NaN")(lambda folder: anytime_accuracy([0, np.nan], [0.1, 0.2]))
bad("percentages in a picture")(lambda folder: AccuracyMatrixDisplay([[100, 0], [90, 80]]))
bad("percentages on a line")(lambda folder: StreamDisplay([1, 2], {"a": [50, 60]}))
bad("one prediction for all samples")(lambda folder: StreamDisplay.from_predictions([0, 1], {"a": [0]}))
bad("a setting that a file cannot hold")(
    lambda folder: save_model(fitted(smoothing=np.longdouble(1)), folder / "model.npz")
)


def text(name, content, read):
    """A file with this content, which this reader refuses."""

    def do(folder):
        path = folder / name.replace(" ", "_")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path)

    EVERY[name] = do


text("a model that is text", "hello", load_model)
text("a model that is empty", "", load_model)
text("weights that are text.pth", "hello", read_weights)
text("weights that are text.safetensors", "hello", read_weights)
text("a manifest that is text", "hello\n", read_manifest)
text("a manifest without its header", '{"id": "a"}\n', read_manifest)
text("a manifest cut short", json.dumps(
    {"dataset": "d", "recipe": {}, "class_names": [], "n_samples": 3}) + "\n", read_manifest)  # fmt: skip
text("a cache that is text", "hello", open_cache)
text("settings that are no YAML", "a: [", load_params)
text("settings that are binary", b"\xff\xfe\x00", load_params)
text("settings that build objects", "a: !!python/object/apply:os.system ['true']\n", load_params)
text("settings whose key is a list", "? [a]\n: 1\n", load_params)
text("settings with a key twice", "a: 1\na: 2\n", load_params)
text("settings that are a number", "3\n", load_params)
text("settings with an id that is no text", "datasets:\n  no:\n    root: x\n", load_params)
text("settings with an id that is a number to DVC", "datasets:\n  1e3:\n    root: x\n", load_params)
text("settings with an id that is a date", "datasets:\n  2024-01-01:\n    root: x\n", load_params)
text("settings that merge nothing", "datasets:\n  <<: 3\n", load_params)
text("settings in UTF-16", "datasets: {}\n".encode("utf-16"), load_params)
text("settings in Latin-1", "# K\xe4fer\n".encode("latin-1"), load_params)
text("class names that are empty", "\n\n", lambda path: read_names(path, "class name"))
text("class names with an empty line", "a\n\nb\n", lambda path: read_names(path, "class name"))
text("class names with one twice", "a\na\n", lambda path: read_names(path, "class name"))
text("class names in Latin-1", "K\xe4fer\n".encode("latin-1"), lambda path: read_names(path, "class name"))
text("settings that hold themselves", "a: &a [*a]\n", load_params)
text("settings of endless aliases", "".join(
    f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else '1'] * 10)}]\n" for i in range(12)), load_params)  # fmt: skip
text("settings nested without end", "a: " + "[" * 3000, load_params)


def tables():
    entry = {"dataset": "d", "backbone": "b", "layer": "t", "image_side": 32}
    entry |= {"compute_dtype": "float32", "storage_dtype": "float16"}
    run = {"embeddings": "e", "keys": "e", "stream": {"kind": "shuffled"}, "method": {"encoder": {"n_heads": 4}}}
    return {
        "datasets": {"d": {"kind": "photos", "n_crops": 3, "seed": 0}},
        "embeddings": {"e": entry},
        "runs": {"r": run},
    }


def wrong_settings(name, *path, value):
    """Settings with one value changed."""

    def do(folder):
        tree = tables()
        at = tree
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        (folder / "params.yaml").write_text(yaml.safe_dump(tree))
        return load_params(folder / "params.yaml")

    EVERY[name] = do


wrong_settings("a kind of data that is unknown", "datasets", "d", "kind", value="fotos")
wrong_settings("a negative number of crops", "datasets", "d", "n_crops", value=-1)
wrong_settings("a misspelt setting", "embeddings", "e", "image_sied", value=3)
wrong_settings("an image side of text", "embeddings", "e", "image_side", value="large")
wrong_settings("an id with a dot", "runs", "a.b", value=tables()["runs"]["r"])
wrong_settings("an id that leaves its folder", "runs", "../r", value=tables()["runs"]["r"])
wrong_settings("a run that no stage may be called", "runs", "toy", value=tables()["runs"]["r"])
wrong_settings("a dataset that is not there", "embeddings", "e", "dataset", value="f")
wrong_settings("keys that are not there", "runs", "r", "keys", value="f")
wrong_settings("a key that DVC does not see", "runs", "r", "size", value=3)
wrong_settings("a number that is text", "runs", "r", "method", value={"alpha": "1e-3"})
wrong_settings("a seed twice", "runs", "r", "stream", value={"kind": "shuffled", "order_seeds": [1, 1]})

bad("an output that is a folder")(lambda folder: check_files([], [folder]))
bad("an output that is an input")(lambda folder: check_files([folder / "a"], [folder / "b/../a"]))
bad("an output named twice")(lambda folder: check_files([], [folder / "a", folder / "b/../a"]))
bad("a run that is not there")(lambda folder: _params(folder).run("q"))
bad("an estimator setting that is none")(lambda folder: make_method({"encoder": {"n_head": 3}}))
bad("an estimator setting said elsewhere")(lambda folder: make_method({"device": "cpu"}))
bad("a network that is unknown")(lambda folder: find_backbone("resnet51_imagenet", "avgpool"))
bad("a layer that is unknown")(lambda folder: find_backbone("efficientnet_lite0", "layer9"))
bad("a folder of images that is not there")(
    lambda folder: build_manifest("d", {"kind": "folder", "root": str(folder / "x"), "test_fraction": 0.2, "seed": 0})
)


def folder_of(name, paths, *, kind=np.uint8, link=None, **recipe):
    """A folder of tiny images, perhaps with a link, for which no manifest can be made."""

    def do(folder):
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), len(path), kind)).save(folder / path)
        if link is not None:
            (folder / link[0]).symlink_to(link[1])
        build_manifest("d", {"kind": "folder", "root": str(folder), "test_fraction": 0.2, "seed": 0} | recipe)

    EVERY[name] = do


folder_of("splits beside classes", ["train/a/0.png", "b/0.png"])
folder_of("splits below a class", ["a/train/0.png", "a/test/0.png"])
folder_of("two folders for one split", ["train/a/0.png", "Train/a/0.png", "test/a/0.png"])
folder_of("a test split alone", ["test/a/0.png"])
folder_of("a test split without classes", ["train/a/0.png", "test/0.png"])
folder_of("two spellings of a class", ["caf\u00e9/0.png", "cafe\u0301/0.png"])
folder_of("a link out of a folder of images", ["a/0.png"], link=("b", "/"))
folder_of("a link to an image that is not there", ["a/0.png"], link=("a/1.png", "gone.png"))
folder_of("an image of 32-bit integers", ["a/0.tif"], kind=np.int32)


def _unreadable(folder):
    with mock.patch.object(os, "scandir", side_effect=OSError(5, "Input/output error")):
        build_manifest("d", {"kind": "folder", "root": str(folder), "skip_corrupt": True})


EVERY["a folder of images that cannot be read"] = _unreadable
bad("a manifest that is not there")(lambda folder: read_manifest(folder / "d.jsonl"))
bad("a cache that is not there")(lambda folder: open_cache(folder / "c.h5"))
bad("a cache of another network")(lambda folder: check_cache(_cache(folder), backbone="resnet50"))
bad("a cache of other images")(lambda folder: check_cache(_cache(folder), manifest_sha256="0" * 64))
bad("a row that is not there")(lambda folder: _cache(folder).read("train", np.array([99])))
bad("a split that is not there")(lambda folder: _cache(folder).read("validation"))
bad("a mask of rows")(lambda folder: _cache(folder).read("train", np.ones(20, bool)))
bad("batches of no rows")(lambda folder: next(_cache(folder).iter_batches("train", 0)))
bad("a cache of nothing")(lambda folder: write_cache(folder / "c.h5", header(), {}))
bad("a cache of NaN")(lambda folder: _write(folder, blocks=[np.full((20, 8), np.nan, np.float32)]))
bad("a cache of too large numbers")(lambda folder: _write(folder, blocks=[np.full((20, 8), 1e6, np.float32)]))
bad("a cache of fewer rows than labels")(lambda folder: _write(folder, blocks=[np.ones((3, 8), np.float32)]))
bad("a cache of fractional labels")(lambda folder: _write(folder, labels=np.full(20, 0.5)))
bad("a cache of labels without a class")(lambda folder: _write(folder, labels=np.full(20, 9)))
bad("a cache with an id twice")(lambda folder: _write(folder, sample_ids=["a"] * 20))
bad("an unknown stream")(lambda folder: make_tasks("sorted", Y, 0))
bad("a stream without labels")(lambda folder: make_tasks("class_incremental", np.full(9, -1), 0))
bad("an unknown device")(lambda folder: extraction._device("abacus"))
bad("no workers")(mock.patch.dict(os.environ, DKVB_WORKERS="0")(lambda folder: stage._number("DKVB_WORKERS", 1)))
bad("an unknown variant of forgetting")(lambda folder: forgetting(np.eye(3), "worst"))
bad("predictions of another length")(lambda folder: mean_class_accuracy(Y, Y[:3]))
bad("streaming LDA with a negative shrinkage")(lambda folder: StreamingLDA(shrinkage=-1.0).fit(X, Y))
bad("a random projection without features")(lambda folder: RandomProjectionRidge(n_components=0).fit(X, Y))


def _params(folder):
    (folder / "params.yaml").write_text(yaml.safe_dump(tables()))
    return load_params(folder / "params.yaml")


def _cache(folder):
    return CacheReader(write_small(folder / "c.h5"))


def _write(folder, **changes):
    return write_cache(folder / "c.h5", header(), {"train": rows("train", **changes)})
