"""A simple reference model: a list of the learned samples, and the oracle's codes, values and probabilities for it."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import oracle
from models import by_codes, codes_of, encoder_of

from dkvb_estimator._values import Prior

N_HEADS, N_KEYS, N_ROWS = 3, 7, 24
LABELS = [30, 10, 20, 0]
POOL = np.random.default_rng(5).standard_normal((N_ROWS, 4)).astype(np.float32)
OTHERS = np.random.default_rng(6).standard_normal((30, 4)).astype(np.float32)
"""Rows that keys are placed on; they are never learned."""


@dataclass(frozen=True)
class Sample:
    """A learned copy of a row; codes (c, m) use the initial numbering of the keys."""

    row: int
    label: int
    weight: float
    codes: np.ndarray

    def name(self):
        """Return what identifies a sample to a model, which sees keys instead of rows."""
        return np.sort(self.codes, axis=1).tobytes(), self.label, self.weight


class Books:
    """Reference model of one estimator, starting when it has keys and has learned nothing.

    Keys have the numbers from before any pruning.
    """

    def __init__(self, model):
        self.empty = copy.deepcopy(model)
        vars(self.empty).pop("_learned", None)
        self.places = [np.flatnonzero(mask) for mask in encoder_of(model).key_mask_]
        self.fingerprint = encoder_of(model).fingerprint_
        self.samples, self.declared, self.calibration = [], set(), None
        self.rounding = 0.0  # numbers are exact until a fractional weight arrives
        self.n_selected = codes_of(model, POOL[:1]).shape[2]
        self.heads = oracle.project(POOL, encoder_of(model).projection_)
        self.codes = self.nearest(encoder_of(model).key_mask_)
        self.columns, self.table = [], np.zeros((*encoder_of(model).keys_.shape[:2], 1))

    def nearest(self, usable):
        return oracle.nearest(self.heads, encoder_of(self.empty).keys_, self.n_selected, usable)

    def entries(self, batch, weighted):
        """Return the samples of a batch, without those of weight zero."""
        parts = [(row, label, float(weight) if weighted else 1.0) for row, label, weight in batch]
        return [Sample(*part, self.codes[part[0]]) for part in parts if part[2] > 0]

    def classes(self):
        return sorted({sample.label for sample in self.samples} | self.declared)

    def arrays(self, entries):
        """Return codes (n, c, m), positions of labels among the classes (n,) and weights (n,) of some samples."""
        labels = np.searchsorted(self.classes(), [sample.label for sample in entries])
        return np.stack([sample.codes for sample in entries]), labels, np.array([sample.weight for sample in entries])

    def hits(self):
        """Return the weight of the samples that selected each key (c, j)."""
        return self.counts(self.samples).sum(axis=2)

    def times(self, entries):
        """Return how often some samples selected each key (c, j), ignoring weights."""
        return self.times_of_classes(entries).sum(axis=2)

    def times_of_classes(self, entries):
        """Return how often some samples of each class selected each key (c, j, k), ignoring weights."""
        return self.counts([replace(entry, weight=1.0) for entry in entries])

    def counts(self, entries):
        """Return the weight of each class at each key (c, j, k) for some samples."""
        codes, labels, weights = self.arrays(entries)
        return oracle.counts((*self.table.shape[:2], len(self.classes())), codes, labels, weights)

    def fresh(self):
        """Return a model that learned the samples in one call."""
        codes, labels, weights = self.arrays(self.samples)
        labels = np.array(self.classes())[labels]
        declared, weights = sorted(self.declared) or None, None if self.unweighted() else weights
        codes = codes.astype(np.uint8)
        return by_codes(
            copy.deepcopy(self.empty), "partial_fit", codes, labels, classes=declared, sample_weight=weights
        )

    def values(self, solver, mixture):
        """Return the oracle's values (c, j, k); jointly solved values use the mixture that the model chose."""
        if solver == "sgd":
            return self.table[:, :, :-1]
        codes, labels, weights = self.arrays(self.samples)
        if solver in ("joint", "ridge"):
            book = encoder_of(self.empty)._codebook
            prior = Prior.of_keys(book.keys, book.centres, book.reaches)
            return oracle.joint_values(prior.table, prior.steps, (codes, labels, weights), len(self.classes()), mixture)
        per_class = np.bincount(labels, weights, minlength=len(self.classes()))
        counts, book = self.counts(self.samples), encoder_of(self.empty)._codebook
        kernel = oracle.sharing(book.keys, counts.sum(axis=2) > 0, book.reaches, 32)
        keys = Prior.of_keys(book.keys, book.centres, book.reaches).coordinates
        ratios = oracle.class_ratios(counts, keys)
        return oracle.counts_to_values(kernel @ counts, per_class, self.n_selected, self.empty.smoothing, ratios)

    def probabilities(self, values, temperature):
        """Return the oracle's predictions for the pool (n, k), from the nearest keys that some sample selected."""
        return oracle.softmax(oracle.pool(self.nearest(self.hits() > 0), values) / temperature)

    def descend(self, entries, epochs, **settings):
        """Let the oracle's table of ``sgd`` (c, j, k + 1) learn a batch with one step per epoch.

        A new class starts as the hidden column, which counts as one more class until classes are declared.
        """
        old, self.columns = self.columns, self.classes()
        grown = np.repeat(self.table[:, :, -1:], len(self.columns) + 1, axis=2)
        grown[:, :, np.searchsorted(self.columns, old)] = self.table[:, :, :-1]
        width = len(self.columns) + (not self.declared or len(self.columns) == 1)
        for _ in range(epochs):
            grown[:, :, :width] = oracle.sgd_step(grown[:, :, :width], *self.arrays(entries), **settings)
        self.table = grown

    def drop_columns(self):
        """Keep the columns of the table whose class still exists."""
        kept = np.isin(self.columns, self.classes())
        self.columns, self.table = self.classes(), self.table[:, :, np.append(kept, True)]

    def unweighted(self):
        return all(sample.weight == 1 for sample in self.samples)

    def prune(self):
        used = self.hits() > 0
        self.places = [places[used[c, places]] for c, places in enumerate(self.places)]
        self.codes = self.nearest(used)

    def now(self, table):
        """Convert a table (c, j, …) to the current numbering of keys, with zeros for padding."""
        found = np.zeros((N_HEADS, max(map(len, self.places)), *table.shape[2:]), dtype=table.dtype)
        for c, places in enumerate(self.places):
            found[c, : len(places)] = table[c, places]
        return found


def rows_of(batch):
    return POOL[[row for row, *_ in batch]]


def labels_of(batch):
    return [label for _, label, *_ in batch]


def weights_of(batch):
    return [weight for *_, weight in batch]


def as_given(entries):
    """Return rows, labels and weights of learned samples; no weights if all are one, as a user would omit them."""
    weights = [entry.weight for entry in entries]
    rows, labels = POOL[[entry.row for entry in entries]], [entry.label for entry in entries]
    return rows, labels, None if all(weight == 1 for weight in weights) else weights
