"""Can the projection be sparse, and can it be learned?

``python benchmarks/projections.py [digits] [photographs]`` (default: both; about twenty minutes) measures every
projection with ``counts`` (256 heads × 512 keys × 14, one key selected) and ``joint`` (1024 × 256 × 2) over three
seeds: final accuracy, seconds to place keys and learn, and bytes of the projection. Learned projections are also
learned from the first half of the classes alone and scored on the other half, the classes that the projection never
saw. Prints JSON lines; with ``--page FILE`` it fills the tables of ``docs/experiments/projections.md`` between its
markers.
"""

import json
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.frozen import FrozenEstimator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._encoding.learned_projection import learn_projection
from dkvb_estimator._encoding.projection import draw_projection, normalize_rows

SEEDS = (0, 1, 2)
SOLVERS = {
    "counts": {"n_heads": 256, "n_keys": 512, "key_dim": 14},
    "joint": {"n_heads": 1024, "n_keys": 256, "key_dim": 2},
}
EPOCHS, BATCH_ROWS, SOFT_KEYS = 8, 256, 32
PROJECTIONS = {
    "orthogonal": {"projection": "orthogonal"},
    "gaussian": {"projection": "gaussian"},
    "sparse, 1/4": {"projection": "sparse", "density": 0.25},
    "sparse, 1/√f": {"projection": "sparse", "density": "auto"},
    "sparse, 1/256": {"projection": "sparse", "density": 1 / 256},
    "learned, closed form": {"projection": "learned"},
    "learned, gradient": {"projection": "learned"},
}


def learn_by_gradient(X, labels, n_heads, key_dim, rng, *, normalize):
    """Descend the cross-entropy of a soft bottleneck: each head's softmax of negative distances reads values.

    Starts from the Gaussian projection with keys on rows; projection, keys and values all learn, with Adam, while the
    softmax sharpens from the typical distance to a tenth of it. Only the projection is kept.
    """
    torch.manual_seed(int(rng.integers(2**31)))
    rows = normalize_rows(torch.from_numpy(X)) if normalize else torch.from_numpy(X)
    classes, targets = np.unique(labels, return_inverse=True)
    targets = torch.from_numpy(targets)
    projection = torch.from_numpy(
        draw_projection("gaussian", X.shape[1], n_heads, key_dim, rng).reshape(X.shape[1], -1)
    )
    keys = (rows[:SOFT_KEYS] @ projection).reshape(-1, n_heads, key_dim).transpose(0, 1).contiguous()
    values = torch.zeros(n_heads, keys.shape[1], len(classes))
    learned = [tensor.requires_grad_() for tensor in (projection, keys, values)]
    typical = float(torch.cdist(keys, keys).square().mean().detach())
    optimiser = torch.optim.Adam([{"params": learned[:2], "lr": 1e-3}, {"params": learned[2:], "lr": 0.1}])
    steps = [order for _ in range(EPOCHS) for order in torch.from_numpy(rng.permutation(len(rows))).split(BATCH_ROWS)]
    for number, batch in enumerate(steps):
        width = typical * 0.1 ** (number / len(steps))
        heads = (rows[batch] @ projection).reshape(len(batch), n_heads, key_dim).transpose(0, 1)
        share = torch.softmax(-torch.cdist(heads, keys).square() / width, dim=2)
        loss = torch.nn.functional.cross_entropy(10 * torch.bmm(share, values).mean(dim=0), targets[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return projection.detach().numpy().reshape(X.shape[1], n_heads, key_dim)


def learner(name):
    return learn_by_gradient if "gradient" in name else learn_projection


def fitted(name, solver, seed, X, y, seen):
    """Place keys, learn a projection from the classes that it may see if needed, then learn all rows."""
    encoder = KeyEncoder(**SOLVERS[solver], **PROJECTIONS[name], random_state=seed)
    begun = time.perf_counter()
    with mock.patch("dkvb_estimator._encoding.codebook.learn_projection", learner(name)):
        encoder.fit(X[seen], y[seen]) if "learned" in name else encoder.fit(X)
    model = DKVBClassifier(FrozenEstimator(encoder), solver=solver).fit(X, y)
    model.predict(X[:1])
    return model, time.perf_counter() - begun


def projection_bytes(projection):
    if isinstance(projection, csr_array):
        return projection.data.nbytes + projection.indices.nbytes + projection.indptr.nbytes
    return projection.nbytes


def measure(title, X, y, X_test, y_test):
    """Yield one record per projection, solver and choice of classes that it saw."""
    later = np.unique(y)[len(np.unique(y)) // 2 :]
    whole = np.ones(len(y), dtype=bool)
    for solver in SOLVERS:
        for name in PROJECTIONS:
            for what, seen in {"all": whole, "first half": ~np.isin(y, later)}.items():
                if what == "first half" and "learned" not in name:
                    continue
                runs = [fitted(name, solver, seed, X, y, seen) for seed in SEEDS]
                unseen = np.isin(y_test, later)
                accuracies = [model.score(X_test, y_test) for model, _ in runs]
                on_later = [model.score(X_test[unseen], y_test[unseen]) for model, _ in runs]
                yield {
                    "name": f"{title}: {name}", "solver": solver, "classes_seen": what,
                    "accuracy": round(float(np.mean(accuracies)), 4),
                    "spread": round(float(np.std(accuracies, ddof=1)), 4),
                    "accuracy_on_second_half": round(float(np.mean(on_later)), 4),
                    "seconds": round(float(np.median([seconds for _, seconds in runs])), 1),
                    "bytes": projection_bytes(runs[0][0].encoder_.projection_),
                }  # fmt: skip


def table(records):
    """Return a Markdown table of some records."""
    rows = []
    for one, other in zip(*([r for r in records if r["solver"] == solver] for solver in SOLVERS), strict=True):
        row = [one["name"].split(": ")[1], one["classes_seen"]]
        row += [f"{each['accuracy']:.3f} ± {each['spread']:.3f}" for each in (one, other)]
        row += [f"{one['accuracy_on_second_half']:.3f} / {other['accuracy_on_second_half']:.3f}"]
        rows.append([*row, f"{one['bytes'] / 1e6:.1f}", f"{one['seconds']:.0f} / {other['seconds']:.0f}"])
    heads = ["projection", "saw classes", "`counts`", "`joint`", "second half, `counts` / `joint`", "MB", "s"]
    return pages.table(heads, rows)


def main():
    chosen, page = pages.arguments(["digits", "photographs"])
    tables = {}
    for title in chosen:
        if title == "digits":
            data = features.digits()
        else:
            X, y, is_train = features.photographs()
            data = X[is_train], y[is_train], X[~is_train], y[~is_train]
        records = []
        for record in measure(title, *data):
            print(json.dumps(record, ensure_ascii=False), flush=True)
            records.append(record)
        tables[title] = table(records)
    pages.fill(page, tables)


if __name__ == "__main__":
    main()
