"""Is a head of discrete keys as accurate as the heads it competes with, on real frozen features?

``python benchmarks/accuracy.py [photographs] [given] [squeezenet] [digits] [settings] [steps] [dims] [--page FILE]``
(without a word: photographs, given, digits; some forty minutes on two cores, most of them the rivals')

photographs  5-fold over all 6,000 CIFAR-10 photographs, three seeds: mean paired difference with its standard error
given        their own 5,000 training and 1,000 test images, three seeds
squeezenet   as ``given``, through SqueezeNet 1.1 (512 features) instead of MobileNetV2
digits       scikit-learn's digits, three seeds, keys also from photographs
settings     the numbers of heads, keys and selected keys that were tried, on ``given``
steps        conjugate gradient steps that were tried
dims         what keys of another data set cost ``counts``, by key dimension

Every head sees the training rows once, and chooses what it has to choose on them. Prints one JSON line a figure,
fills the tables of ``docs/solvers.md`` with ``--page``, and exits with 1 if ``ridge`` falls behind the best rival by
more than a standard error, or a stated goal is missed.
"""

import json
import pickle
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from dkvb_estimator import DKVBClassifier
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

SEEDS = (0, 1, 2)
RIDGE = {"solver": "ridge", "n_heads": 512, "n_keys": 256, "n_selected": 16}
SGD = {"solver": "sgd", "learning_rate": 30.0}
RIVALS = ("nearest class mean", "streaming LDA", "random-projection ridge 2,000", "random-projection ridge 5,000")
TRIED = [(64, 256, 8), (256, 512, 1), (256, 512, 8), (256, 512, 16), (512, 256, 8), (512, 256, 16)]
ALPHAS, STEPS, KEY_DIMS = (1.0,), (5, 10, 20, 40), (4, 8, 14, 20)
LARGEST_COST_OF_FOREIGN_KEYS = 0.02  # of ridge; what it costs counts is printed


def heads(seed, foreign):
    """Every head under its name; those with foreign keys place them from rows of another data set."""
    return {
        "nearest class mean": NearestClassMean(normalize=True),
        "streaming LDA": StreamingLDA(shrinkage="auto", normalize=True),
        "random-projection ridge 2,000": RandomProjectionRidge(2000, normalize=True, random_state=seed),
        "random-projection ridge 5,000": RandomProjectionRidge(5000, normalize=True, random_state=seed),
        "`sgd`": DKVBClassifier(**SGD, random_state=seed),
        "`counts`": DKVBClassifier(random_state=seed),
        "`ridge`": DKVBClassifier(**RIDGE, random_state=seed),
        "`counts`, foreign keys": DKVBClassifier(key_data=foreign, random_state=seed),
        "`ridge`, foreign keys": DKVBClassifier(**RIDGE, key_data=foreign, random_state=seed),
        "`ridge`, learned projection": DKVBClassifier(**RIDGE, projection="learned", random_state=seed),
    }


def clocked(call):
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


def try_head(head, X, y, X_test, y_test):
    """Return accuracy, seconds until the first answer, seconds to predict 1,000 rows, and bytes of a pickle."""
    _, learning = clocked(lambda: head.fit(X, y).predict(X_test[:1]))
    score, predicting = clocked(lambda: head.score(X_test, y_test))
    if isinstance(head, DKVBClassifier):
        head.key_data = None  # what a model file leaves out
    return score, learning, predicting * 1000 / len(X_test), len(pickle.dumps(head))


def measure(title, X, y, parts, foreign, left_out=()):
    """Try the heads on every part (seed, training rows, test rows); return figures (head, part, 4)."""
    found = {}
    for number, (seed, train, test) in enumerate(parts, start=1):
        for name, head in heads(seed, foreign).items():
            if name in left_out:
                continue
            found.setdefault(name, []).append(try_head(head, X[train], y[train], X[test], y[test]))
        print(f"[{title}] part {number} of {len(parts)}", file=sys.stderr)
    for name, figures in found.items():
        print(json.dumps(record(f"{title}: {name}", np.array(figures)), ensure_ascii=False), flush=True)
    return {name: np.array(figures) for name, figures in found.items()}


def record(name, figures):
    accuracy, spread = figures[:, 0].mean(), figures[:, 0].std(ddof=1)
    learning, predicting, size = np.median(figures[:, 1:], axis=0)
    return {
        "name": name, "accuracy": round(accuracy, 4), "spread": round(spread, 4), "parts": len(figures),
        "learn_s": round(learning, 2), "predict_1000_s": round(predicting, 3), "bytes": int(size),
    }  # fmt: skip


def differences(found, title, reference):
    """Print the mean paired difference of ridge to every other head, and return them with their standard errors."""
    result = {}
    for name, figures in found.items():
        pairs = found[reference][:, 0] - figures[:, 0]
        result[name] = pairs.mean(), pairs.std(ddof=1) / np.sqrt(len(pairs))
        line = {"name": f"{title}: {reference} minus {name}", "difference": round(result[name][0], 4)}
        print(json.dumps(line | {"standard_error": round(result[name][1], 4)}, ensure_ascii=False), flush=True)
    return result


def table(found, compared, reference):
    rows = []
    for name, figures in found.items():
        values = record(name, figures)
        difference = "–" if name == reference else f"{100 * compared[name][0]:+.1f} ± {100 * compared[name][1]:.1f}"
        cost = (f"{values['learn_s']:.1f}", f"{values['predict_1000_s']:.2f}", f"{values['bytes'] / 1e6:.0f}")
        rows.append((name, f"{values['accuracy']:.3f} ± {values['spread']:.3f}", difference, *cost))
    heads_of_columns = ("head", "accuracy", f"{reference} minus it, points", "learn, s", "predict 1,000, s", "MB")
    return pages.table(heads_of_columns, rows)


def judge(found, title, tables, reference="`ridge`"):
    """Fill the table; return whether the reference holds against every rival and foreign keys cost little."""
    compared = differences(found, title, reference)
    tables[title] = table(found, compared, reference)
    holds = all(compared[name][0] >= -compared[name][1] for name in RIVALS)
    for solver in ("`counts`", "`ridge`"):
        cost = found[solver][:, 0].mean() - found[f"{solver}, foreign keys"][:, 0].mean()
        print(
            json.dumps({"name": f"{title}: cost of foreign keys, {solver}", "difference": round(cost, 4)}), flush=True
        )
        holds &= solver == "`counts`" or cost <= LARGEST_COST_OF_FOREIGN_KEYS
    return bool(holds)


def photographs(tables):
    X, y, _ = features.photographs()
    folds = [
        (seed, train, test)
        for seed in SEEDS
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(X, y)
    ]
    foreign = features.digits(network="mobilenet")[0]
    found = measure("photographs", X, y, folds, foreign, left_out=("`sgd`", "`ridge`, learned projection"))
    return judge(found, "photographs", tables)


def given(tables):
    X, y, is_train = features.photographs()
    parts = [(seed, np.flatnonzero(is_train), np.flatnonzero(~is_train)) for seed in SEEDS]
    return judge(measure("given", X, y, parts, features.digits(network="mobilenet")[0]), "given", tables)


def squeezenet(tables):
    X, y, is_train = features.photographs(network="squeezenet")
    parts = [(seed, np.flatnonzero(is_train), np.flatnonzero(~is_train)) for seed in SEEDS]
    others = [name for name in heads(0, None) if name not in (*RIVALS, "`counts`", "`ridge`")]
    found = measure("squeezenet", X, y, parts, None, left_out=others)
    compared = differences(found, "squeezenet", "`ridge`")
    tables["squeezenet"] = table(found, compared, "`ridge`")
    return bool(all(compared[name][0] >= -compared[name][1] for name in RIVALS))


def digits(tables):
    X_train, y_train, X_test, y_test = features.digits()
    X, y = np.concatenate([X_train, X_test]), np.concatenate([y_train, y_test])
    parts = [(seed, np.arange(len(X_train)), np.arange(len(X_train), len(X))) for seed in SEEDS]
    found = measure("digits", X, y, parts, features.photographs(network="lite0")[0])
    crops, shipped = features.photo_crops(), "`ridge`, keys from crops of two photographs"
    models = [DKVBClassifier(**RIDGE, key_data=crops, random_state=seed) for seed in SEEDS]
    found[shipped] = np.array([try_head(model, X_train, y_train, X_test, y_test) for model in models])
    print(json.dumps(record(f"digits: {shipped}", found[shipped])), flush=True)
    accuracy = found[shipped][:, 0].mean()
    return judge(found, "digits", tables, shipped) and accuracy >= max(0.93, found["streaming LDA"][:, 0].mean())


def settings(tables):
    X, y, is_train = features.photographs()
    rows = []
    for n_heads, n_keys, n_selected in TRIED:
        sizes = {"n_heads": n_heads, "n_keys": n_keys, "n_selected": n_selected, "solver": "ridge"}
        models = [DKVBClassifier(**sizes, random_state=seed) for seed in SEEDS]
        codes = [(m.init_keys(X[is_train]).encode(X[is_train])) for m in models]
        cells = []
        for alpha in ALPHAS:
            scores = [
                m.set_params(alpha=alpha).fit_codes(c, y[is_train]).score(X[~is_train], y[~is_train])
                for m, c in zip(models, codes, strict=True)
            ]
            cells.append(f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}")
            print(
                json.dumps({"name": f"settings: {sizes} alpha {alpha}", "accuracy": round(np.mean(scores), 4)}),
                flush=True,
            )
        rows.append((n_heads, n_keys, n_selected, *cells))
    tables["settings"] = pages.table(("heads", "keys", "selected", *(f"alpha {alpha:g}" for alpha in ALPHAS)), rows)
    return True


def steps(tables):
    X, y, is_train = features.photographs()
    data = {
        "digits": (features.photo_crops(), *features.digits()),
        "photographs": (X[is_train], X[is_train], y[is_train], X[~is_train], y[~is_train]),
    }
    found = {}
    for title, (key_data, X_train, y_train, X_test, y_test) in data.items():
        for seed in SEEDS:
            model = DKVBClassifier(**RIDGE, random_state=seed).init_keys(key_data)
            codes = model.encode(X_train)
            for number in STEPS:
                score = model.set_params(max_iter=number).fit_codes(codes, y_train).score(X_test, y_test)
                found.setdefault((title, number), []).append(score)
    cells = {at: f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}" for at, scores in found.items()}
    for (title, number), cell in cells.items():
        print(json.dumps({"name": f"steps: {title}, {number} steps", "accuracy": cell}, ensure_ascii=False), flush=True)
    rows = [(number, *(cells[title, number] for title in data)) for number in STEPS]
    tables["steps"] = pages.table(("steps", *data), rows)
    return True


def dims(tables):
    X_train, y_train, X_test, y_test = features.digits()
    X, y, is_train = features.photographs()
    data = {
        "digits": (features.photographs(network="lite0")[0], X_train, y_train, X_test, y_test),
        "photographs": (features.digits(network="mobilenet")[0], X[is_train], y[is_train], X[~is_train], y[~is_train]),
    }
    rows = []
    for key_dim in KEY_DIMS:
        cells = []
        for title, (foreign, *rest) in data.items():
            own, other = (
                np.mean([counts_score(seed, key_dim, keys, *rest) for seed in SEEDS]) for keys in (None, foreign)
            )
            line = {"name": f"dims: {title}, {key_dim} coordinates", "own": round(own, 4), "foreign": round(other, 4)}
            print(json.dumps(line), flush=True)
            cells += [f"{own:.3f}", f"{other:.3f}"]
        rows.append((key_dim, *cells))
    columns = [f"{title}, {keys}" for title in data for keys in ("own keys", "foreign keys")]
    tables["dims"] = pages.table(("key_dim", *columns), rows)
    return True


def counts_score(seed, key_dim, key_data, X, y, X_test, y_test):
    return DKVBClassifier(key_dim=key_dim, key_data=key_data, random_state=seed).fit(X, y).score(X_test, y_test)


def main():
    chosen, page = pages.arguments(["photographs", "given", "digits"])
    tasks = {
        "photographs": photographs,
        "given": given,
        "squeezenet": squeezenet,
        "digits": digits,
        "settings": settings,
        "steps": steps,
        "dims": dims,
    }
    tables = {}
    holds = []
    for name in chosen:
        holds.append(tasks[name](tables))
        pages.fill(page, tables)
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
