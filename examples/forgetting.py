"""What forgetting leaves behind: numbers for five questions of reviewers.

Reviewers of "Unlearning via sparse representations" (Shah et al. 2023, arXiv 2311.15268), which masks keys of a trained
Discrete Key-Value Bottleneck, asked for (a) run times, (b) a comparison with masking the logit of the class, (c) single
samples, (d) how often classes share keys, and (e) the distance to a retrained model. Each answer is a table.
Accuracies and probes are means over all ten digits, each forgotten in turn; differences are the largest.

Data: scikit-learn's digits, the 64 pixels as embeddings; two thirds are learned, one third is for testing. Keys come
from crops of scikit-learn's two sample photographs, so no digit has influenced a key (Pillow reads the photographs).
``forget`` of ``sgd`` drops the values of keys that the forgotten samples hit more often than all others together, which
is close to the masks of the paper. ``sgd`` makes its default of ten passes; the paper makes many more, on far larger
codebooks: read its rows as a warning about masks, not as the numbers of the paper.

What is *not* guaranteed, regardless of the tables:

- Keys that are placed on the forgotten data still reflect it. ``forget`` changes the learned state, not the keys; only
  keys from other data, as here, leave no trace. ``forgetting_is_exact_`` says whether keys were placed before; check
  yourself that none of those rows was also learned.
- Caches of embeddings, models saved earlier and DVC's own cache keep their traces until you delete them.
- The frozen network is not changed: a network that saw such images in training still distinguishes them. The tables
  show this too: a model that never saw a digit is less certain about it than about the others.
- "0.0" holds within one process and for weights of 1. Elsewhere the last bits of ``joint`` may differ.

Run it with ``python examples/forgetting.py``.
"""

import copy
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_images
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from dkvb_estimator import Codes, DKVBClassifier, KeyEncoder
from dkvb_estimator.metrics import mean_class_accuracy

N_HEADS, N_KEYS, KEY_DIM = 64, 128, 8
SOLVERS = ("joint", "counts", "sgd")

AGREE_AND_PROBES = """\
agree: share of samples of the class that get the label which the model that never saw the class gives them.
class, member: how well one number (the largest logit, or score_samples) tells the class from the others, and its
learned samples from its unseen ones (area under the ROC curve). Compare with 'never saw it', which exact forgetting
equals; sgd leaves information behind."""


class Data(NamedTuple):
    """Training rows (n, 64) and labels (n,), and test rows (n, 64) and labels (n,)."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


class Learner(NamedTuple):
    """An encoder, an untrained classifier of its codes, the codes of ``Data.X``, and a classifier that learned all."""

    encoder: KeyEncoder
    blank: DKVBClassifier
    codes: Codes
    full: DKVBClassifier


class View(NamedTuple):
    """Outputs of a model for the test rows, then for the rows of the class to forget that it may have learned."""

    values: np.ndarray  # c,j,9: values of the retained classes
    guess: np.ndarray  # n: predicted label
    probabilities: np.ndarray  # n,9: probabilities of the retained classes, conditional on these classes
    top: np.ndarray  # n: the largest logit among them
    usual: np.ndarray  # n: score_samples


def main() -> None:
    started = time.perf_counter()
    torch.set_num_threads(1)  # for such small arrays more threads gain little, and cost much on a busy machine
    data, crops = load_data(), photograph_crops(4000)
    print(f"{len(data.y)} digits learned, {len(data.y_test)} to test; keys from {len(crops)} photograph crops")
    encoder = make_encoder(crops)
    learners = {solver: make_learner(solver, encoder, data) for solver in SOLVERS}
    answer_run_time(data, learners)
    scores = compare_all(data, learners)
    answer_logit_masking(scores)
    answer_single_samples(data, learners)
    answer_sharing(data, crops)
    answer_distance(scores)
    print(f"\n{time.perf_counter() - started:.0f} s in all")


def load_data() -> Data:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=0)
    return Data(X, y, X_test, y_test)


def photograph_crops(n: int) -> np.ndarray:
    """Return n grey squares of the two photographs, shrunk to 8 × 8, darkest pixel 0 as in the digits (n, 64)."""
    rng = np.random.default_rng(0)
    photographs = [image.mean(axis=2) for image in load_sample_images().images]
    crops = np.empty((n, 64))
    for i in range(n):
        grey, side = photographs[i % 2], 8 * int(rng.integers(2, 25))
        top, left = (int(rng.integers(length - side + 1)) for length in grey.shape)
        square = grey[top : top + side, left : left + side].reshape(8, side // 8, 8, side // 8).mean(axis=(1, 3))
        crops[i] = (square - square.min()).ravel()
    return crops


def make_encoder(crops: np.ndarray, n_keys: int = N_KEYS) -> KeyEncoder:
    # key_init="sample" is the fastest; the default is slightly more accurate. On a GPU, sums may differ in last bits.
    return KeyEncoder(N_HEADS, n_keys, KEY_DIM, key_init="sample", device="cpu", random_state=0).fit(crops)


def make_learner(solver: str, encoder: KeyEncoder, data: Data) -> Learner:
    blank, codes = DKVBClassifier("precomputed", solver=solver, device="cpu"), encoder.transform(data.X)
    full = train(blank, codes, data.y)
    accuracy, top = full.score(encoder.transform(data.X_test), data.y_test), np.abs(full.values_).max()
    print(f"{solver}: accuracy {accuracy:.3f}, values up to {top:.1e}, exact forgetting: {full.forgetting_is_exact_}")
    return Learner(encoder, blank, codes, full)


def train(blank: DKVBClassifier, codes: Codes, y: np.ndarray) -> DKVBClassifier:
    return clone(blank).fit(codes, y)


def forget_class(learner: Learner, data: Data, label: int) -> DKVBClassifier:
    """Forget a class in a copy of the full model; ``sgd`` stores no individual samples, so it has to be given them."""
    model, members = copy.deepcopy(learner.full), data.y == label
    if model.solver == "sgd":
        return model.forget(learner.codes[members], data.y[members])
    return model.forget_classes([label])


def answer_run_time(data: Data, learners: dict[str, Learner]) -> None:
    rows = []
    for solver, learner in learners.items():
        forgetting, codes, embeddings = np.median([time_class(data, learner, label) for label in range(5)], axis=0)
        times = [f"{1000 * seconds:.1f} ms" for seconds in (forgetting, codes, embeddings)]
        rows.append([solver, *times, f"{codes / forgetting:.1f}", f"{embeddings / forgetting:.1f}"])
    header = ["solver", "forget", "anew, codes", "anew, embeddings", "codes/forget", "embeddings/forget"]
    print_table(
        "(a) Time to forget a class, and to train anew without it, until values are ready (one thread)", header, rows
    )
    print(
        "joint drops its rows and solves again, which is most of its time. Training anew needs samples that were kept."
    )


def time_class(data: Data, learner: Learner, label: int) -> list[float]:
    """Return the seconds to forget a class, to train without it from codes, and from embeddings."""
    kept = data.y != label
    codes, X, y = learner.codes[kept], data.X[kept], data.y[kept]
    embedded = clone(learner.blank).set_params(encoder=FrozenEstimator(learner.encoder))
    jobs = [
        lambda: forget_class(learner, data, label),
        lambda: clone(learner.blank).fit(codes, y),
        lambda: embedded.fit(X, y),
    ]
    seconds = []
    for job in jobs:
        begun = time.perf_counter()
        _ = job().values_  # joint solves when they are read
        seconds.append(time.perf_counter() - begun)
    return seconds


def compare_all(data: Data, learners: dict[str, Learner]) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Return for each solver and method the results of forgetting each of the ten classes."""
    scores = defaultdict(list)
    for solver, learner in learners.items():
        for label in range(10):
            rows = learner.encoder.transform(np.concatenate([data.X_test, data.X[data.y == label]]))
            kept = data.y != label
            anew = look(train(learner.blank, learner.codes[kept], data.y[kept]), rows, label)
            scores[solver, "never saw it"].append(compare(anew, anew, data, label))
            for method, view in views(data, learner, label, rows):
                scores[solver, method].append(compare(view, anew, data, label))
    return scores


def views(data: Data, learner: Learner, label: int, rows: Codes) -> Iterator[tuple[str, View]]:
    """Yield each way to forget a class, and the outputs of the model afterwards."""
    forgotten = look(forget_class(learner, data, label), rows, label)
    if learner.full.solver == "sgd":
        kept = np.flatnonzero(data.y != label)[::-1]
        yield "forget", forgotten
        yield "anew, other order", look(train(learner.blank, learner.codes[kept], data.y[kept]), rows, label)
    else:
        yield "exact", forgotten
    yield "logit masked", look(learner.full, rows, label, hide=True)


def look(model: DKVBClassifier, rows: Codes, label: int, *, hide: bool = False) -> View:
    """Return the outputs of a model; ``hide`` masks the logit of the class."""
    logits, classes = model.decision_function(rows), model.classes_
    retained = np.flatnonzero(classes != label)
    shown = retained if hide else np.arange(len(classes))
    guess = classes[shown][logits[:, shown].argmax(axis=1)]
    logits = logits[:, retained]
    probabilities = softmax(logits / model.temperature_, axis=1)
    return View(model.values_[:, :, retained], guess, probabilities, logits.max(axis=1), model.score_samples(rows))


def compare(view: View, anew: View, data: Data, label: int) -> dict[str, float]:
    """Compare with a retrained model; the probes are areas under the ROC curve of one number per sample."""
    n, kept = len(data.y_test), data.y_test != label
    gone = np.ones(len(view.guess), dtype=bool)  # samples of the class: those of the test set, then the learned ones
    gone[:n] = ~kept
    learned = (np.arange(len(gone)) >= n)[gone]
    return {
        "retain": mean_class_accuracy(data.y_test[kept], view.guess[:n][kept]),
        "forget": float((view.guess[:n][~kept] == label).mean()),
        "agree": float((view.guess == anew.guess)[gone].mean()),
        "class, top logit": roc_auc_score(~kept, -view.top[:n]),
        "class, score": roc_auc_score(~kept, -view.usual[:n]),
        "member, top logit": roc_auc_score(learned, -view.top[gone]),
        "member, score": roc_auc_score(learned, view.usual[gone]),
        "values": largest(view.values, anew.values),
        "probabilities": largest(view.probabilities, anew.probabilities),
    }


def answer_logit_masking(scores: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    names = ["retain", "agree", "class, top logit", "class, score", "member, top logit", "member, score"]
    rows = [[*way, *(f"{mean(found, name):.3f}" for name in names)] for way, found in scores.items()]
    print_table("(b) Does information about the class remain?", ["solver", "method", *names], rows)
    print(AGREE_AND_PROBES)


def answer_distance(scores: dict[tuple[str, str], list[dict[str, float]]]) -> None:
    rows = []
    for way, found in scores.items():
        if way[1] != "never saw it":
            differences = [exactly(max(row[name] for row in found)) for name in ("values", "probabilities")]
            accuracies = [f"{mean(found, name):.3f}" for name in ("retain", "forget")]
            gap = mean(found, "retain") - mean(scores[way[0], "never saw it"], "retain")
            rows.append([*way, *differences, *accuracies, f"{gap:+.3f}"])
    header = ["solver", "method", "max |values|", "max |probabilities|", "retain", "forget", "retain gap"]
    print_table("(e) Distance to a model trained anew without the class", header, rows)
    print("'anew, other order': two sgd models that never saw the class. forget leaves sgd further from it than that.")


def answer_single_samples(data: Data, learners: dict[str, Learner]) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n in (1, 10, 100):
        gone = np.zeros(len(data.y), dtype=bool)
        gone[rng.choice(len(data.y), size=n, replace=False)] = True
        for solver, learner in learners.items():
            anew = train(learner.blank, learner.codes[~gone], data.y[~gone])
            tested = learner.encoder.transform(data.X_test)
            for method, model in forget_samples(data, learner, gone):
                rows.append([str(n), solver, method, *differences(model, anew, tested)])
    header = ["samples", "solver", "method", "max |values|", "max |probabilities|"]
    print_table("(c) Forgetting random samples, compared with a model trained anew without them", header, rows)
    print("joint and counts equal the model trained anew; sgd is further off than two orders of training are apart.")


def forget_samples(data: Data, learner: Learner, gone: np.ndarray) -> Iterator[tuple[str, DKVBClassifier]]:
    yield "forget", copy.deepcopy(learner.full).forget(learner.codes[gone], data.y[gone])
    if learner.full.solver == "sgd":
        kept = np.flatnonzero(~gone)[::-1]
        yield "anew, other order", train(learner.blank, learner.codes[kept], data.y[kept])


def differences(model: DKVBClassifier, anew: DKVBClassifier, rows: Codes) -> list[str]:
    pairs = [(model.values_, anew.values_), (model.predict_proba(rows), anew.predict_proba(rows))]
    return [exactly(largest(*pair)) for pair in pairs]


def answer_sharing(data: Data, crops: np.ndarray) -> None:
    rows = []
    for n_keys in (32, N_KEYS, 512, 2048):
        codes = make_encoder(crops, n_keys).transform(data.X)
        usage = DKVBClassifier("precomputed", solver="counts", device="cpu").fit(codes, data.y).key_usage()
        served = usage.classes_per_key  # share of used keys by the number of classes, 0 to 10
        own = np.average(usage.own_share, weights=np.bincount(data.y))
        spread = [served[low : high + 1].sum() for low, high in ((1, 1), (2, 2), (3, 4), (5, 7), (8, 10))]
        shares = [usage.used_share.mean(), 1 - served[1], 1 - own, *spread]
        rows.append([f"{N_HEADS} x {n_keys}", *(f"{100 * share:.0f} %" for share in shares)])
    header = ["heads x keys", "used", "shared", "hits on shared", "1 class", "2", "3-4", "5-7", "8-10"]
    print_table("(d) Keys that samples of two or more classes select, as a share of the used keys", header, rows)
    print("Most hits land on shared keys: dropping the keys of a class takes from others too; subtracting does not.")


def largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def mean(found: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in found]))


def exactly(difference: float) -> str:
    return "0.0" if difference == 0 else f"{difference:.1e}"


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print(f"\n{title}\n")
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


if __name__ == "__main__":
    main()
