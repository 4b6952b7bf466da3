"""Is finding nearest keys as fast as it can be on this machine?

``python benchmarks/nearest.py`` (needs ``pip install -e ".[bench]"``) uses 1,024 heads × 256 keys × 2 coordinates, the
default, and 256 heads × 4096 keys with 8 and 14 coordinates, 512 samples, and one thread per core. The search runs
alternately with FAISS ``ProductQuantizer.compute_codes`` of 8 or 12 bits and the same keys (its exact search for one
centroid per part) and with a plain torch layer (``cdist`` then ``argmin``), best of five. The search that scores every
key is also compared with the peak of ``sgemm`` on this machine in GFLOP/s. Then the projection of 1,280 features is
compared with one sgemm, and all of ``encode`` with FAISS plus that sgemm. Keys of few coordinates are searched in a
grid or in boxes, which are built during the warm-up; their seconds, which a user pays once per model, are printed.
Prints JSON lines; exits with 1 if a goal of the instruction set is missed.
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
"""Number of heads and keys for each number of coordinates."""
GOALS = {
    "_kernel_v4": {2: 2.5, 8: 4.0, 14: 12.0},
    "_kernel_v3": {2: 1.5, 8: 2.0, 14: 8.0},
    "_kernel": {2: 0.0, 8: 0.0, 14: 0.0},
}
SHARE_OF_PEAK, PROJECTION_GOAL = 0.65, 0.9
MADE = {"GriddedKeys": "making a grid", "BoxedKeys": "drawing boxes"}


def best(calls, repeats=5):
    """Return the least seconds of each call; the calls alternate."""
    found = dict.fromkeys(calls, np.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - begun)
    return found


def product_quantizer(keys):
    """Return FAISS's quantiser with our keys as centroids."""
    quantizer = faiss.ProductQuantizer(keys.shape[0] * keys.shape[2], keys.shape[0], keys.shape[1].bit_length() - 1)
    faiss.copy_array_to_vector(np.ascontiguousarray(keys).ravel(), quantizer.centroids)
    return quantizer


def unpack(packed, n_heads, n_bits):
    """Convert codes of FAISS (n, bytes) to (n, c)."""
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, : n_bits * n_heads].reshape(len(packed), n_heads, n_bits)
    return bits @ (1 << np.arange(n_bits))


def plain_torch(heads, keys):
    return torch.cdist(heads.transpose(0, 1), keys).argmin(dim=2)


def report(name, ours, theirs, goal, unit="samples/s", **more):
    ratio = ours / theirs
    line = {"name": name, "ratio": round(ratio, 2), "ours": round(ours, 1), "theirs": round(theirs, 1), "unit": unit}
    print(json.dumps(line | {"goal": goal, "met": bool(ratio >= goal)} | more), flush=True)
    return ratio >= goal


class Case:
    """One shape: rows, keys, our searches and the references."""

    def __init__(self, key_dim):
        (n_heads, n_keys), rng = SHAPES[key_dim], np.random.default_rng(0)
        self.X = rng.standard_normal((N_ROWS, N_FEATURES)).astype(np.float32)
        projection = (rng.standard_normal((N_FEATURES, n_heads, key_dim)) / np.sqrt(N_FEATURES)).astype(np.float32)
        self.flat = torch.from_numpy(projection.reshape(N_FEATURES, -1))
        self.heads = (torch.from_numpy(self.X) @ self.flat).reshape(N_ROWS, n_heads, key_dim)
        known = torch.from_numpy(rng.standard_normal((n_keys, N_FEATURES)).astype(np.float32))
        keys = np.ascontiguousarray((known @ self.flat).reshape(n_keys, n_heads, key_dim).transpose(0, 1))
        self.projector = Projector(projection, (n_heads, key_dim), torch.device("cpu"), normalize=False)
        self.encoder = make_codebook(projection, keys).encoder(torch.device("cpu"))
        self.keys, self.quantizer = torch.from_numpy(keys), product_quantizer(keys)
        self.search, self.scan = KeySearch(self.keys), KeySearch(self.keys)
        self.scan._native._searched = -np.inf  # never builds boxes or a grid
        self.work = n_heads * n_keys * key_dim
        self.told = f"{n_heads} heads × {n_keys} keys × {key_dim}"
        self.projected = f"1280 → {n_heads} × {key_dim}"

    def prepare(self):
        """Warm up; return the name of the structure that the search builds, and the seconds that this takes."""
        for _ in range(-(-self.keys.shape[1] // N_ROWS)):
            self.search.codes(self.heads, 1), self.encoder.encode(self.X)
        begun = time.perf_counter()
        made = type(self.search._native._arranged_for(N_ROWS, 1)).__name__
        drawing = time.perf_counter() - begun
        self.encoder.encode(self.X)
        return made, drawing

    def same(self):
        """Return the share of codes on which FAISS agrees; both of our searches agree on all."""
        ours = self.search.codes(self.heads, 1)
        assert np.array_equal(self.scan.codes(self.heads, 1), ours)
        packed = self.quantizer.compute_codes(self.heads.reshape(N_ROWS, -1).numpy())
        return float((unpack(packed, self.heads.shape[1], self.quantizer.nbits) == ours[:, :, 0]).mean())

    def rates(self):
        """Return the samples per second of each way."""
        square, rows, X = torch.rand(2048, 2048), self.heads.reshape(N_ROWS, -1).numpy(), torch.from_numpy(self.X)
        calls = {
            "peak": lambda: square @ square,
            "ours": lambda: self.search.codes(self.heads, 1),
            "scan": lambda: self.scan.codes(self.heads, 1),
            "faiss": lambda: self.quantizer.compute_codes(rows),
            "torch": lambda: plain_torch(self.heads, self.keys),
            "projection": lambda: self.projector.project(X),
            "sgemm": lambda: X @ self.flat,
            "encode": lambda: self.encoder.encode(self.X),
            "faiss encode": lambda: self.quantizer.compute_codes((X @ self.flat).numpy()),
        }
        return {name: N_ROWS / seconds for name, seconds in best(calls).items()}


def make_codebook(projection, keys):
    layout = Layout(*keys.shape, 1)
    centres = keys.mean(axis=1)
    reaches = np.abs(keys - centres[:, None]).max(axis=(1, 2))
    settings = {"normalize": False, "n_selected": 1, "feature_blocks": None}
    return Codebook(projection, keys, centres, reaches, None, None, layout, settings, 0, {})


def compare(key_dim, build):
    """Time the search, then all of encode, and return whether every goal is met."""
    case = Case(key_dim)
    made, drawing = case.prepare()
    if made in MADE:
        line = {"name": f"{MADE[made]}, once per model, {case.told}", "ours": round(drawing, 2), "unit": "s"}
        print(json.dumps(line, ensure_ascii=False), flush=True)
    more, rate, goal = {"build": build, "same": case.same(), "searched": made}, case.rates(), GOALS[build][key_dim]
    encode_goal = min(goal, 1.0) if key_dim == 2 else goal  # most of it is the projection, which both share
    met = [
        report(f"nearest key against FAISS, {case.told}", rate["ours"], rate["faiss"], goal, **more),
        report(f"nearest key against cdist and argmin, {case.told}", rate["ours"], rate["torch"], 1.0),
        report(f"projection against sgemm, {case.projected}", rate["projection"], rate["sgemm"], PROJECTION_GOAL),
        report(f"encode against FAISS and sgemm, {case.told}", rate["encode"], rate["faiss encode"], encode_goal),
    ]
    if key_dim > 2:  # with fewer coordinates, a scan spends most of its time on other operations than multiplications
        work, peak = 2e-9 * case.work * rate["scan"], 2e-9 * 2048**3 * rate["peak"] / N_ROWS
        share = SHARE_OF_PEAK if build == "_kernel_v4" else 0
        met.append(report(f"every key scored, against sgemm's peak, {case.told}", work, peak, share, "GFLOP/s"))
    return all(met)


def main():
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    if native.KERNEL is None:
        raise SystemExit(
            "dkvb_estimator is installed without its compiled kernel; expected one. Install a C++ compiler, then "
            "install the package again."
        )
    build = Path(native.KERNEL._name).name.split(".")[0]
    met = [compare(key_dim, build) for key_dim in SHAPES]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
