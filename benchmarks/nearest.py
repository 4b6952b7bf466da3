"""Is finding nearest keys as fast as it can be on this machine?

``python benchmarks/nearest.py`` (needs ``pip install -e ".[bench]"``): 1,024 heads × 256 keys × 2 coordinates, the
default, and 256 heads × 4096 keys, 8 and 14 coordinates; 512 samples, as many threads as there are cores. Compared, in
turns, best of five, with FAISS ``ProductQuantizer.compute_codes`` of 8 or 12 bits and the same keys (its exact search
of one centroid per part), the plain torch layer (``cdist`` then ``argmin``), and the peak of ``sgemm`` here as GFLOP/s,
which the search that scores every key is compared to. Then the projection of 1,280 features against one sgemm, and all
of ``encode``: ours against FAISS plus that sgemm. Keys of few coordinates are searched in a grid or in boxes, made
while warming up; the seconds that takes, which a user pays once a model, are printed. Prints JSON lines; exits with 1
where a goal of the instruction set is missed.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss

from dkvb_estimator._encoding.codebook import Codebook
from dkvb_estimator._encoding.nearest import KeySearch
from dkvb_estimator._encoding.projection import Projector
from dkvb_estimator._kernel import native
from dkvb_estimator._validation import Layout

N_ROWS, N_FEATURES = 512, 1280
SHAPES = {2: (1024, 256), 8: (256, 4096), 14: (256, 4096)}
"""Heads and keys of each, by the number of coordinates."""
GOALS = {
    "_kernel_v4": {2: 2.5, 8: 4.0, 14: 12.0},
    "_kernel_v3": {2: 1.5, 8: 2.0, 14: 8.0},
    "_kernel": {2: 0.0, 8: 0.0, 14: 0.0},
}
SHARE_OF_PEAK, PROJECTION_GOAL = 0.65, 0.9
MADE = {"GriddedKeys": "making a grid", "BoxedKeys": "drawing boxes"}


def best(calls, repeats=5):
    """Return the least seconds of each call, all of them in turns."""
    found = dict.fromkeys(calls, np.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - begun)
    return found


def product_quantizer(keys):
    """FAISS's quantiser with our keys for centroids."""
    quantizer = faiss.ProductQuantizer(keys.shape[0] * keys.shape[2], keys.shape[0], keys.shape[1].bit_length() - 1)
    faiss.copy_array_to_vector(np.ascontiguousarray(keys).ravel(), quantizer.centroids)
    return quantizer


def unpack(packed, n_heads, n_bits):
    """Codes of FAISS (n, bytes) → (n, c)."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, : n_bits * n_heads].reshape(len(packed), n_heads, n_bits)
    return bits @ (1 << np.arange(n_bits))


def plain_torch(heads, keys):
    return torch.cdist(heads.transpose(0, 1), keys).argmin(dim=2)


def report(name, ours, theirs, goal, unit="samples/s", **more):
    ratio = ours / theirs
    line = {"name": name, "ratio": round(ratio, 2), "ours": round(ours, 1), "theirs": round(theirs, 1), "unit": unit}
    print(json.dumps(line | {"goal": goal, "met": bool(ratio >= goal)} | more), flush=True)
    return ratio >= goal


def compare(key_dim, build):
    """Time the search, then all of encode, and check that all find the same keys."""
    (n_heads, n_keys), rng = SHAPES[key_dim], np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, N_FEATURES)).astype(np.float32)
    projection = (rng.standard_normal((N_FEATURES, n_heads, key_dim)) / np.sqrt(N_FEATURES)).astype(np.float32)
    flat = torch.from_numpy(projection.reshape(N_FEATURES, -1))
    heads = (torch.from_numpy(X) @ flat).reshape(N_ROWS, n_heads, key_dim)
    known = torch.from_numpy(rng.standard_normal((n_keys, N_FEATURES)).astype(np.float32))
    keys = np.ascontiguousarray((known @ flat).reshape(n_keys, n_heads, key_dim).transpose(0, 1))
    settings = {"normalize": False, "n_selected": 1}
    centres = keys.mean(axis=1)
    layout = Layout(n_heads, n_keys, key_dim, 1)
    reaches = np.abs(keys - centres[:, None]).max(axis=(1, 2))
    codebook = Codebook(projection, keys, centres, reaches, None, None, layout, settings, 0, {})
    encoder = codebook.encoder(torch.device("cpu"))
    projector = Projector(projection, (n_heads, key_dim), torch.device("cpu"), normalize=False)
    search, quantizer = KeySearch(torch.from_numpy(keys)), product_quantizer(keys)
    scan = KeySearch(torch.from_numpy(keys))
    scan._native._searched = -np.inf  # nothing is made
    rows = heads.reshape(N_ROWS, -1).numpy()
    for _ in range(-(-n_keys // N_ROWS)):
        search.codes(heads, 1), encoder.encode(X)
    begun = time.perf_counter()
    made = type(search._native._arranged_for(N_ROWS, 1)).__name__
    drawing = time.perf_counter() - begun
    encoder.encode(X)
    assert np.array_equal(scan.codes(heads, 1), search.codes(heads, 1))
    same = (unpack(quantizer.compute_codes(rows), n_heads, quantizer.nbits) == search.codes(heads, 1)[:, :, 0]).mean()
    square = torch.rand(2048, 2048)
    calls = {
        "peak": lambda: square @ square,
        "ours": lambda: search.codes(heads, 1),
        "scan": lambda: scan.codes(heads, 1),
        "faiss": lambda: quantizer.compute_codes(rows),
        "torch": lambda: plain_torch(heads, torch.from_numpy(keys)),
        "projection": lambda: projector.project(torch.from_numpy(X)),
        "sgemm": lambda: torch.from_numpy(X) @ flat,
        "encode": lambda: encoder.encode(X),
        "faiss encode": lambda: quantizer.compute_codes((torch.from_numpy(X) @ flat).numpy()),
    }
    rate = {name: N_ROWS / seconds for name, seconds in best(calls).items()}
    goal, what = GOALS[build][key_dim], f"{n_heads} heads × {n_keys} keys × {key_dim}"
    if made in MADE:
        line = {"name": f"{MADE[made]} once a model, {what}", "ours": round(drawing, 2), "unit": "s"}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    work = 2e-9 * n_heads * n_keys * key_dim * rate["scan"]
    peak = 2e-9 * 2048**3 * rate["peak"] / N_ROWS
    share = SHARE_OF_PEAK if build == "_kernel_v4" else 0
    encode_goal = min(goal, 1.0) if key_dim == 2 else goal  # most of it is the projection, which is theirs too
    met = [
        report(
            f"nearest key against FAISS, {what}",
            rate["ours"],
            rate["faiss"],
            goal,
            build=build,
            same=float(same),
            searched=made,
        ),
        report(f"nearest key against cdist and argmin, {what}", rate["ours"], rate["torch"], 1.0),
        report(
            f"projection against sgemm, 1280 → {n_heads} × {key_dim}",
            rate["projection"],
            rate["sgemm"],
            PROJECTION_GOAL,
        ),
        report(f"encode against FAISS and sgemm, {what}", rate["encode"], rate["faiss encode"], encode_goal),
    ]
    if key_dim > 2:  # of fewer, most of a scan is no multiplication
        met.append(report(f"every key scored, against sgemm's peak, {what}", work, peak, share, "GFLOP/s"))
    return all(met)


def main():
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    if native.KERNEL is None:
        raise SystemExit("the package was installed without its kernel; install a C++ compiler and install it again")
    build = Path(native.KERNEL._name).name.split(".")[0]
    met = [compare(key_dim, build) for key_dim in SHAPES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
