"""Are two layers better than one? ``python -m benchmarks layers [NETWORK ...] [--page docs/layers.md]``

NETWORK: mobilenet, squeezenet (default: both), which read the photographs of CIFAR-10 at 96 px. Each has two layers:
the last one, and the last one before the network halves its feature map for the last time. This rule was fixed before
any measurement. Each method learns the inner layer, the outer one, and both side by side; ours also learn both without
blocks, as one wide layer. Each of three seeds draws 1,000 of the 5,000 training rows, and projections and keys; the
1,000 test rows are always the same. Rows are scaled to unit length layer by layer.

Prints one JSON line for each network, method and choice of layers: mean accuracy, its spread over the seeds, and the
mean difference from the outer layer alone with its spread (of pairs with the same seed). Ten minutes on two cores.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.preprocessing import normalize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import features, pages
from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import NearestClassMean, RandomProjectionRidge, StreamingLDA

LAYERS = {"mobilenet": ("features.14.conv.0", "features"), "squeezenet": ("features.7", "features")}
SEEDS, N_TRAIN = (0, 1, 2), 1000
INNER, OUTER, BOTH, ONE = "inner", "outer", "both", "both, one block"


def methods(seed, widths):
    """Return the compared methods by name; the first two take the widths of blocks, or None."""
    return {
        "joint": DKVBClassifier(KeyEncoder(feature_blocks=widths, random_state=seed), random_state=seed),
        "counts": DKVBClassifier(KeyEncoder(256, 256, 14, feature_blocks=widths, random_state=seed), solver="counts"),
        "nearest class mean": NearestClassMean(),
        "streaming LDA": StreamingLDA("auto"),
        "RP ridge 2,000": RandomProjectionRidge(2000, random_state=seed),
    }


OURS = ("joint", "counts")


def choices(X, widths):
    """Yield a name, columns, and the widths of their blocks, for each choice of layers."""
    inner, outer = (normalize(part) for part in np.split(X, [widths[0]], axis=1))
    both = np.concatenate([inner, outer], axis=1)
    yield from ((INNER, inner, None), (OUTER, outer, None), (BOTH, both, widths), (ONE, both, None))


def accuracies(network):
    """Return accuracies by method and choice of layers, one per seed."""
    X, y, is_train, widths = features.layers_of_photographs(LAYERS[network], network=network)
    train, test = np.flatnonzero(is_train), np.flatnonzero(~is_train)
    found = {}
    for seed in SEEDS:
        draw = StratifiedShuffleSplit(1, train_size=N_TRAIN, random_state=seed)
        rows = train[next(draw.split(train[:, None], y[train]))[0]]
        for choice, columns, blocks in choices(X, widths):
            for name, model in methods(seed, blocks).items():
                if choice == ONE and name not in OURS:
                    continue
                score = model.fit(columns[rows], y[rows]).score(columns[test], y[test])
                found.setdefault((name, choice), []).append(score)
                print(f"{network}, {name}, {choice}, seed {seed}: {score:.4f}", file=sys.stderr, flush=True)
    return found


def lines_of(network, found):
    """Return a record for each method and choice of layers."""
    for (name, choice), scores in found.items():
        gain = np.array(scores) - found[name, OUTER]
        yield {
            "network": network,
            "method": name,
            "layers": choice,
            "accuracy": round(float(np.mean(scores)), 4),
            "spread": round(float(np.std(scores, ddof=1)), 4),
            "gain": round(float(gain.mean()), 4),
            "gain_spread": round(float(gain.std(ddof=1)), 4),
        }


def main():
    chosen, page = pages.arguments(LAYERS)
    if unknown := set(chosen) - set(LAYERS):
        print(
            f"{min(unknown)!r} is not a network of this benchmark; expected one of {', '.join(LAYERS)}. Correct the "
            "name.",
            file=sys.stderr,
        )
        return 2
    rows = []
    for network in chosen:
        try:
            lines = list(lines_of(network, accuracies(network)))
        except FileNotFoundError as error:
            print(f"{network} is skipped: {error}", file=sys.stderr)
            continue
        for line in sorted(lines, key=lambda line: list(methods(0, None)).index(line["method"])):
            print(json.dumps(line, ensure_ascii=False), flush=True)
            gain = "" if line["layers"] == OUTER else f"{line['gain']:+.3f} ± {line['gain_spread']:.3f}"
            told = (line["network"], line["method"], line["layers"])
            rows.append((*told, f"{line['accuracy']:.3f} ± {line['spread']:.3f}", gain))
    heads = ("network", "method", "layers", "accuracy", "gain over the outer layer")
    pages.fill(page, {"layers": pages.table(heads, rows)} if rows else {})
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
