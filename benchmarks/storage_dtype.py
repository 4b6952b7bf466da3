"""How many nearest keys flip when embeddings are computed, or stored, in fewer bits?

``python benchmarks/storage_dtype.py [n_images] [image_side]`` (default 512, 96) embeds scikit-learn's digits with
EfficientNet-Lite0, computed in float32, bfloat16 and float16 and stored in float32 or float16. The keys (256 heads ×
512 keys × 14, from photograph crops computed and stored in float32) are always the same. A code flips if the nearest
key differs from that with float32 throughout. Prints JSON lines: the share of codes that flip, and the share of images
whose prediction changes, with ``counts`` learned from the first half of the images and predicting the second. There is
no goal.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline.backbones import find_backbone, find_weights, load_backbone, preprocess, read_weights
from pipeline.data import build_manifest, open_images
from pipeline.extraction import Batch, Forward, embed
from pipeline.extraction.job import BATCH_ROWS


def embedded(recipe, n, prepare, network, compute_dtypes):
    """Embed up to n images like the pipeline, in each type; return the embeddings by type, and the labels."""
    opened = open_images(build_manifest(recipe["kind"], recipe))
    rows = np.arange(min(n, len(opened)))
    batches = [Batch(0, part, False) for part in np.split(rows, range(BATCH_ROWS, len(rows), BATCH_ROWS))]
    forwards = {name: Forward(network, prepare, name, torch.device("cpu")) for name in compute_dtypes}
    found = {
        name: np.concatenate([part for _, part in embed(opened, batches, forward, BATCH_ROWS, 2)])
        for name, forward in forwards.items()
    }
    return found, opened.manifest.labels[rows]


def main():
    n_images, side = (int(word) for word in (*sys.argv[1:], *("512", "96")[len(sys.argv[1:]) :]))
    record = find_backbone("efficientnet_lite0")
    network = load_backbone(record, "avgpool", read_weights(find_weights(record)))
    network = network.to(memory_format=torch.channels_last)
    prepare = preprocess(record, side)
    crops, _ = embedded({"kind": "photos", "n_crops": 512, "seed": 0}, 512, prepare, network, ("float32",))
    digits = {"kind": "digits", "test_fraction": 0.3, "seed": 0}
    computed, labels = embedded(digits, n_images, prepare, network, ("float32", "bfloat16", "float16"))
    encoder = KeyEncoder(n_heads=256, n_keys=512, key_dim=14, random_state=0).fit(crops["float32"])
    model = DKVBClassifier(FrozenEstimator(encoder), solver="counts")
    stored = {
        (name, kind): X.astype(kind).astype(np.float32)
        for name, X in computed.items()
        for kind in ("float32", "float16")
    }
    half = len(labels) // 2
    model.partial_fit(computed["float32"][:half], labels[:half])
    codes, predicted = encoder.transform(computed["float32"]), model.predict(computed["float32"][half:])
    for (compute, storage), X in stored.items():
        flipped, changed = (encoder.transform(X) != codes).mean(), (model.predict(X[half:]) != predicted).mean()
        line = {"name": f"computed in {compute}, stored in {storage}", "ours": round(float(flipped), 5)}
        line |= {"unit": "of all codes flip"}
        line |= {"changed_predictions": round(float(changed), 4), "n_images": len(labels), "side": side}
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
