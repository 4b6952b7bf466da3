"""What does a step of ridge cost beside a plain scipy.sparse product?

``python benchmarks/ridge_product.py [n_rows]`` (default 50,000): 256 heads × 512 keys, 8 selected, 10 classes. One
step is a product with A and one with Aᵀ, A the 0/1 matrix of selected keys. Ours makes its blocks anew from codes of
two bytes each time; scipy's holds the whole matrix, 12 bytes an entry. Both on one thread and, ours, on all. Best of
three, in turns. Prints JSON lines; exits with 1 if one step of ours takes longer than scipy's on one thread.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dkvb_estimator._ridge import SelectionMatrix

N_HEADS, N_KEYS, N_SELECTED, N_CLASSES = 256, 512, 8, 10


def draw(n_rows):
    """Codes of distinct keys per head, and a right side."""
    rng = np.random.default_rng(0)
    first = rng.integers(N_KEYS, size=(n_rows, N_HEADS, 1))
    codes = ((first + 61 * np.arange(N_SELECTED)) % N_KEYS).astype(np.uint16)
    return codes, rng.standard_normal((N_HEADS * N_KEYS, N_CLASSES))


def plain(codes):
    cells = (codes.astype(np.int32) + N_KEYS * np.arange(N_HEADS, dtype=np.int32)[None, :, None]).ravel()
    pointers = np.arange(0, cells.size + 1, N_HEADS * N_SELECTED, dtype=np.int64 if cells.size > 2**31 else np.int32)
    return csr_array((np.ones(cells.size), cells, pointers), shape=(len(codes), N_HEADS * N_KEYS))


def seconds(step):
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def main():
    codes, table = draw(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
    whole = plain(codes)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(torch.get_num_threads()) as all_threads:
        steps = {"scipy": lambda: whole.T @ (whole @ table)}
        for name, pool in (("ours, 1 thread", one), (f"ours, {torch.get_num_threads()} threads", all_threads)):
            matrix = SelectionMatrix(codes.__getitem__, len(codes), N_HEADS, N_KEYS, pool)
            steps[name] = lambda matrix=matrix: matrix.scatter(matrix.gather(table))
        if not np.allclose(*[step() for step in list(steps.values())[:2]]):
            raise SystemExit("the two products differ")
        best = {
            name: min(times)
            for name, times in zip(steps, zip(*[[seconds(s) for s in steps.values()] for _ in range(3)]))
        }
    for name, ours in best.items():
        ratio = round(best["scipy"] / ours, 2)
        print(
            json.dumps(
                {
                    "name": f"ridge step: {name}",
                    "ours": round(ours, 3),
                    "theirs": round(best["scipy"], 3),
                    "ratio": ratio,
                    "unit": "s",
                }
            )
        )
    return 0 if best["ours, 1 thread"] <= best["scipy"] else 1


if __name__ == "__main__":
    sys.exit(main())
