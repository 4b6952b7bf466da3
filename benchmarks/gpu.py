"""What does a CUDA device change? ``python benchmarks/gpu.py [--device cuda] [--small] [--page docs/benchmarks.md]``

Encodes, solves and predicts on the CPU and on the device, and compares the results:

codes        share of codes that differ (rounding decides near-ties), at most 1e-4
scores       largest difference of a logit from the CPU's, relative to the largest logit, at most 1e-3
features     the same for a backbone's embeddings in float32, at most 1e-3
ratios       of the device to the CPU, and of ours to a plain torch layer on the device

``--small`` takes seconds; the tests use it to check this program on the CPU. A full run takes less than eight minutes
on an H200. Exits with 1 if a bound is missed.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator import DKVBClassifier, KeyEncoder

BOUNDS = {"codes": 1e-4, "scores": 1e-3, "features": 1e-3}


def seconds(function, device, repeats=3):
    """Return the least wall-clock time of a call after a warm-up, including all work on the device."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        function()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def blobs(n, n_classes, n_features, seed=0):
    """Return synthetic rows of overlapping classes: features (n, f), float32, and labels (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n)
    centres = rng.standard_normal((n_classes, n_features))
    return (centres[y] + 2 * rng.standard_normal((n, n_features))).astype(np.float32), y


def compare_estimator(device, small):
    """Yield results and times of encoding, solving and predicting on the device, compared with the CPU."""
    n, sizes = (400, (16, 32, 2)) if small else (20_000, (1024, 256, 2))
    X, y = blobs(n, 10 if small else 100, 32 if small else 1280)
    encoder = KeyEncoder(*sizes, device="cpu", random_state=0).fit(X[: 10 * sizes[1]])
    there = KeyEncoder(*sizes, device=device, random_state=0)
    vars(there).update(_codebook=encoder._codebook, n_features_in_=encoder.n_features_in_)
    codes = {name: np.asarray(each.transform(X)) for name, each in (("cpu", encoder), (device, there))}
    yield "codes", float((codes["cpu"] != codes[device]).mean())
    yield (
        "encode, speed-up over the CPU",
        seconds(lambda: encoder.transform(X), "cpu") / seconds(lambda: there.transform(X), device),
    )
    for solver in ("joint", "counts"):
        home, away = (DKVBClassifier(FrozenEstimator(encoder), solver=solver, device=name) for name in ("cpu", device))
        learn = [
            seconds(lambda model=model: clone(model).fit(X, y).predict(X[:1]), name, 1)
            for model, name in ((home, "cpu"), (away, device))
        ]
        yield f"{solver}: learn, speed-up over the CPU", learn[0] / learn[1]
        logits = [model.fit(X, y).decision_function(X[:2000]) for model in (home, away)]
        yield "scores", float(np.abs(logits[0] - logits[1]).max() / np.abs(logits[0]).max())
        predict = [
            seconds(lambda model=model: model.predict(X), name) for model, name in ((home, "cpu"), (away, device))
        ]
        yield f"{solver}: predict, speed-up over the CPU", predict[0] / predict[1]


class PlainLayer(torch.nn.Module):
    """Projection, keys and values of a fitted model, as a plain torch module."""

    def __init__(self, model):
        super().__init__()
        self.register_buffer("projection", torch.from_numpy(model.encoder_.projection_))
        self.register_buffer("keys", torch.from_numpy(model.encoder_.keys_))
        self.register_buffer("values", torch.from_numpy(model.values_))

    def forward(self, X):  # noqa: D102
        heads = torch.einsum("nf,fcd->cnd", torch.nn.functional.normalize(X, dim=1), self.projection)
        codes = torch.cdist(heads, self.keys).argmin(dim=2)  # c,n
        return self.values[torch.arange(len(codes), device=X.device)[:, None], codes].mean(dim=0)


def compare_layer(device, small):
    """Yield the speed of prediction relative to a plain torch layer on the same device."""
    n, sizes = (256, (16, 32, 4)) if small else (2_048, (256, 1024, 8))
    X, y = blobs(n, 10, 32 if small else 1280)
    model = DKVBClassifier(KeyEncoder(*sizes, device=device, random_state=0), solver="counts", device=device).fit(X, y)
    layer, rows = PlainLayer(model).to(device), torch.from_numpy(X).to(device)
    with torch.no_grad():
        theirs = seconds(lambda: [layer(part) for part in rows.split(256)], device)
    yield "predict, speed-up over a plain torch layer", theirs / seconds(lambda: model.predict(X), device)


def compare_extraction(device, small):
    """Yield the difference of a backbone's embeddings from the CPU's, and the ratio of speeds."""
    from torchvision.models import mobilenet_v2, resnet50

    torch.manual_seed(0)
    network = (mobilenet_v2 if small else resnet50)(weights=None).eval()
    images = torch.rand(4 if small else 64, 3, 64 if small else 224, 64 if small else 224)
    outputs, times = [], []
    with torch.no_grad():
        for name in ("cpu", device):
            there, batch = network.to(name), images.to(name)
            outputs.append(there(batch).cpu().numpy())
            times.append(seconds(lambda there=there, batch=batch: there(batch), name, 1))
    yield "features", float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
    yield "extraction, speed-up over the CPU", times[0] / times[1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    words = parser.parse_args()
    if words.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit(
            "torch finds no CUDA device; expected one. Run this on a machine with CUDA, or with --device cpu --small."
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name() if words.device.startswith("cuda") else "the CPU itself"
    missed = False
    for compare in (compare_estimator, compare_layer, compare_extraction):
        for what, value in compare(words.device, words.small):
            bound = BOUNDS.get(what)
            missed |= bound is not None and value > bound
            print(json.dumps({"device": name, "what": what, "value": value, "bound": bound}), flush=True)
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
