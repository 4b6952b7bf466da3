"""Real features for benchmarks: extracted once by the pipeline, then read from caches under ``.scratch/features``.

A script in this folder runs as ``python -m benchmarks.NAME`` and as ``python benchmarks/NAME.py`` if it begins with

    import sys
import zlib
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    from benchmarks import features

and then calls

    X, y, is_train = features.photographs()        # 6,000 × 1,280 of MobileNetV2, ten classes, 5,000 for training
    X, y, is_train = features.photographs(network="squeezenet")                                    # 6,000 × 512
    X, y, is_train = features.photographs(network="lite0")                                         # 6,000 × 1,280
    X_train, y_train, X_test, y_test = features.digits()               # 1,257 and 540 × 1,280 of EfficientNet-Lite0
    X_train, y_train, X_test, y_test = features.digits(network="mobilenet")   # the same images, another network
    X = features.photo_crops()                                 # 2,000 × 1,280 of EfficientNet-Lite0, without classes

All features are float32. ``python benchmarks/features.py`` extracts everything and prints the shapes. If images or
weights are missing, FileNotFoundError says what to place where, so a script can print it and stop.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.cache import CacheReader, open_cache  # noqa: E402
from pipeline.config import Embeddings, load_params  # noqa: E402
from pipeline.data import build_manifest  # noqa: E402
from pipeline.extraction import extract, make_job  # noqa: E402

SHARED = ROOT.parent / "shared"
SCRATCH = ROOT / ".scratch" / "features"
NETWORKS = {
    "mobilenet": {
        "library": "torchvision",
        "model": "mobilenet_v2",
        "weights": "mobilenet_v2_imagenet_trunk.safetensors",
        "without_classifier": True,
    },
    "squeezenet": {
        "library": "torchvision",
        "model": "squeezenet1_1",
        "weights": "squeezenet1_1_imagenet_gluon.safetensors",
    },
}


def photographs(root=SHARED, network="mobilenet"):
    """Return features, class and part of the CIFAR-10 photographs under a folder that holds ``data`` and ``weights``.

    Parameters
    ----------
    root : str or Path
    network : {"mobilenet", "squeezenet", "lite0"}

    Returns
    -------
    X : ndarray of shape (6000, f), float32
    y : ndarray of shape (6000,), int64
    is_train : ndarray of shape (6000,), bool
    """
    images = _there(Path(root) / "data" / "cifar10-images")
    settings = _settings("photographs", network, root)
    with _open(f"photographs_{network}", {"kind": "folder", "root": str(images)}, settings) as reader:
        parts = {split: reader.as_numpy(split) for split in ("train", "test")}
    X, y = (np.concatenate([part[position] for part in parts.values()]) for position in (0, 1))
    return X, y, np.arange(len(y)) < len(parts["train"][1])


def layers_of_photographs(layers, root=SHARED, network="mobilenet"):
    """Return the photographs' features of several layers side by side, and the number of columns of each layer.

    Parameters
    ----------
    layers : sequence of str
    root, network
        As above.

    Returns
    -------
    X, y, is_train : ndarray
    widths : tuple of int
    """
    images = _there(Path(root) / "data" / "cifar10-images")
    settings = _settings("photographs", network, root).model_copy(update={"layer": None, "layers": list(layers)})
    with _open(f"photographs_{network}_layers", {"kind": "folder", "root": str(images)}, settings) as reader:
        parts = {split: reader.as_numpy(split) for split in ("train", "test")}
        widths = reader.feature_blocks
    X, y = (np.concatenate([part[position] for part in parts.values()]) for position in (0, 1))
    return X, y, np.arange(len(y)) < len(parts["train"][1]), widths


def digits(root=SHARED, network="lite0"):
    """Return X_train, y_train, X_test, y_test of scikit-learn's digits, split as in the shipped entry ``digits``."""
    recipe = load_params(ROOT / "params.yaml").dataset("digits")
    with _open(f"digits_{network}", recipe, _settings("digits", network, root)) as reader:
        return *reader.as_numpy("train"), *reader.as_numpy("test")


def photo_crops():
    """Return the features (2000, 1280), float32, of the shipped entry ``photos``: crops of two photographs."""
    params = load_params(ROOT / "params.yaml")
    with _open("photos", params.dataset("photos"), params.embedding("photos")) as reader:
        return reader.read("train")


CORRUPTIONS = {
    "blur": lambda image, strength: image.filter(ImageFilter.GaussianBlur(0.5 * strength)),
    "noise": lambda image, strength: _with_noise(image, 12 * strength),
    "dark": lambda image, strength: ImageEnhance.Brightness(image).enhance(1 - 0.25 * strength),
    "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(1 - 0.28 * strength),
    "pixelated": lambda image, strength: _pixelated(image, 1 + strength),
}
STRENGTHS = (1, 2, 3)


def corrupted_photographs(root=SHARED, network="mobilenet"):
    """Yield kind, strength, features and labels of the test photographs, corrupted before the network reads them."""
    images = sorted(_there(Path(root) / "data" / "cifar10-images").glob("test/*/*.*"))
    settings = _settings("corrupted", network, root)
    for kind, change in CORRUPTIONS.items():
        for strength in STRENGTHS:
            folder = SCRATCH / "corrupted" / f"{kind}_{strength}"
            for path in images:
                target = folder / path.parent.name / f"{path.stem}.png"
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    change(Image.open(path).convert("RGB"), strength).save(target)
            name = f"corrupted_{kind}_{strength}_{network}"
            with _open(
                name, {"kind": "folder", "root": str(folder), "test_fraction": 0.5, "seed": 0}, settings
            ) as reader:
                parts = [reader.as_numpy(split) for split in ("train", "test")]
            yield kind, strength, *(np.concatenate(part) for part in zip(*parts, strict=True))


def _with_noise(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    noise = np.random.default_rng(zlib.crc32(pixels.tobytes())).normal(0, deviation, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _pixelated(image: Image.Image, block: int) -> Image.Image:
    small = image.resize((max(1, image.width // block), max(1, image.height // block)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _settings(dataset: str, network: str, root) -> Embeddings:
    """Return the entry that reads a data set at 96 px through the shipped network, or one from the shared weights."""
    if network == "lite0":
        source = {"backbone": "efficientnet_lite0", "layer": "avgpool"}
    else:
        weights = _there(Path(root) / "weights" / NETWORKS[network]["weights"])
        source = {"backbone": NETWORKS[network] | {"weights": str(weights)}, "layer": "features"}
    return Embeddings(dataset=dataset, image_side=96, compute_dtype="float32", storage_dtype="float16", **source)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; expected the shared folder next to the checkout, with data/cifar10-images and "
            "weights. Add it there, or pass its path."
        )
    return path


def _open(name: str, recipe: dict, settings: Embeddings) -> CacheReader:
    """Open the cache of an entry; extract it first if it is missing or outdated."""
    job = make_job(build_manifest(settings.dataset, recipe), settings)
    path = SCRATCH / f"{name}.h5"
    if path.is_file():
        reader = open_cache(path)
        if reader.header.fingerprint == job.header().fingerprint:
            return reader
        reader.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    extract(job, path, SCRATCH)
    return open_cache(path)


def main():
    for name, found in {"digits": digits(), "photo_crops": [photo_crops()]}.items():
        print(name, *(array.shape for array in found))
    for network in NETWORKS:
        try:
            print("photographs", network, *(array.shape for array in photographs(network=network)))
        except FileNotFoundError as error:
            print(error)


if __name__ == "__main__":
    main()
