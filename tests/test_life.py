"""A life of an estimator that nobody chose: whatever happened to it, it is what it learned and did not forget.

Hypothesis makes up the life. Beside the model stands plain bookkeeping: a list of the samples that are learned, each
with the keys that it selected when it came, in the numbering from before any pruning. After every step the model must
equal the bookkeeping and, but for ``sgd``, a copy of its keys that learns exactly those samples in one call.
"""

import copy
import pickle
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import oracle
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sklearn.exceptions import NotFittedError

from dkvb_estimator import DKVBClassifier, load_model, save_model

N_HEADS, N_KEYS, N_ROWS = 3, 7, 24
LABELS = [30, 10, 20, 0]
POOL = np.random.default_rng(5).standard_normal((N_ROWS, 4)).astype(np.float32)
OTHERS = np.random.default_rng(6).standard_normal((30, 4)).astype(np.float32)
"""Rows that keys are placed from, and never learned."""

samples = st.tuples(st.integers(0, N_ROWS - 1), st.sampled_from(LABELS), st.sampled_from([0, 1, 2, 3, 0.3]))
"""A row of the pool, a label, and a weight if the batch has weights."""
batches = st.lists(samples, min_size=1, max_size=6)
subsets = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True)
seeds = st.integers(0, 2**16)


@dataclass(frozen=True)
class Sample:
    """A learned copy of a row; codes (c, m) in the first numbering of the keys."""

    row: int
    label: int
    weight: float
    codes: np.ndarray

    def name(self):
        """What makes two samples the same to a model, which sees keys and not rows."""
        return np.sort(self.codes, axis=1).tobytes(), self.label, self.weight


class Books:
    """Plain bookkeeping of one model, from the moment when it has keys and has learned nothing."""

    def __init__(self, model):
        self.empty = copy.deepcopy(model)
        vars(self.empty).pop("_learned", None)
        self.places = [np.flatnonzero(mask) for mask in model.key_mask_]
        self.fingerprint = model.fingerprint_
        self.samples, self.declared, self.seen, self.calibration = [], set(), set(), None
        self.rounding = 0.0  # until a fractional weight arrives, every number is exact

    def entries(self, model, batch, weighted):
        """The samples of a batch, by what the model encodes; weight zero is as if never given."""
        codes = model.encode(rows_of(batch))
        codes = np.stack([self.places[c][codes[:, c]] for c in range(N_HEADS)], axis=1)
        weights = [float(weight) if weighted else 1.0 for *_, weight in batch]
        parts = zip(batch, weights, codes, strict=True)
        return [Sample(row, label, weight, code) for (row, label, _), weight, code in parts if weight > 0]

    def classes(self):
        return sorted({sample.label for sample in self.samples} | self.declared)

    def arrays(self):
        """Codes (n, c, m), labels (n,) and weights (n,) of everything learned."""
        codes = np.stack([sample.codes for sample in self.samples]).astype(np.uint8)
        return codes, np.array([s.label for s in self.samples]), np.array([s.weight for s in self.samples])

    def hits(self):
        """Weight that selected each key (c, j), in the first numbering."""
        codes, _, weights = self.arrays()
        shape = (N_HEADS, self.empty.keys_.shape[1], 1)
        return oracle.counts(shape, codes, np.zeros(len(codes), dtype=int), weights)[:, :, 0]

    def fresh(self):
        """A model with the keys from before any pruning that learned the samples in one call."""
        codes, labels, weights = self.arrays()
        declared, weights = sorted(self.declared) or None, None if self.unweighted() else weights
        return copy.deepcopy(self.empty).partial_fit_codes(codes, labels, classes=declared, sample_weight=weights)

    def unweighted(self):
        return all(sample.weight == 1 for sample in self.samples)

    def prune(self):
        used = self.hits() > 0
        self.places = [places[used[c, places]] for c, places in enumerate(self.places)]

    def now(self, table):
        """Bring a table (c, j, …) to the numbering that keys have now, zeros where a head is padded."""
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
    """Rows, labels and weights of learned samples; no weights where all are one, as a user would leave them out."""
    weights = [entry.weight for entry in entries]
    rows, labels = POOL[[entry.row for entry in entries]], [entry.label for entry in entries]
    return rows, labels, None if all(weight == 1 for weight in weights) else weights


def choose(items, seed):
    """Some of the items, at least one."""
    rng = np.random.default_rng(seed)
    return [items[i] for i in rng.permutation(len(items))[: rng.integers(1, min(5, len(items)) + 1)]]


def snapshot(model):
    """Everything that a refused call, and storing, must leave as it was."""
    parts = [model.fingerprint_, model.keys_.tobytes(), hasattr(model, "_learned")]
    if parts[-1]:
        parts += [model.classes_.tolist(), model.class_counts_.tolist(), model.key_counts_.tolist()]
        parts += [model.values_.tobytes(), model.temperature_, model.predict_proba(POOL).tobytes()]
    return parts


def has_keys(life):
    return life.books is not None


def has_learned(life):
    return has_keys(life) and bool(life.books.samples)


def has_learned_little(life):
    """Before what counts twice counts too often for the books."""
    return has_learned(life) and len(life.books.samples) < 60


def has_learned_nothing(life):
    return not has_learned(life)


class Life(RuleBasedStateMachine):
    """What all solvers share."""

    solver, n_selected, codes_dir = "counts", 1, None

    def __init__(self):
        super().__init__()
        shape = {"n_heads": N_HEADS, "n_keys": N_KEYS, "key_dim": 2, "normalize": False, "random_state": 0}
        kind = {"solver": self.solver, "n_selected": self.n_selected, "codes_dir": self.codes_dir}
        self.model = DKVBClassifier(**shape, **kind, learning_rate=30.0, batch_size=4)
        self.books = None

    def refused(self, message, call, *arguments):
        before = snapshot(self.model)
        with pytest.raises(ValueError, match=message):
            call(*arguments)
        assert snapshot(self.model) == before

    def teach(self, call, batch, announced=None, weighted=False):
        """Let the model learn, and write it down."""
        if has_keys(self):
            call()
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the first batch has")
                call()
            self.books = Books(self.model)
        self.write_down(self.books.entries(self.model, batch, weighted), announced)

    def write_down(self, entries, announced=None):
        self.books.samples = self.books.samples + entries
        if any(entry.weight % 1 for entry in entries):
            self.books.rounding = 1e-9
        self.books.declared |= set(announced or [])
        self.books.seen |= {entry.label for entry in entries} | self.books.declared
        self.books.calibration = None

    # Beginning

    @initialize(given=st.booleans())
    def begin(self, given):
        if given:
            self.init_keys(seed=0)

    @precondition(has_learned_nothing)
    @rule(seed=seeds)
    def init_keys(self, seed):
        self.model.init_keys(OTHERS[np.random.default_rng(seed).permutation(30)[:20]])
        self.books = Books(self.model)

    @precondition(has_learned)
    @rule()
    def placing_keys_is_refused_once_something_is_learned(self):
        self.refused("init_keys came after", self.model.init_keys, OTHERS)

    # Learning

    @rule(batch=batches, announced=st.none() | subsets)
    def partial_fit(self, batch, announced):
        self.teach(partial(self.model.partial_fit, rows_of(batch), labels_of(batch), announced), batch, announced)

    @rule(batch=batches, announced=st.none() | subsets)
    def partial_fit_with_weights(self, batch, announced):
        call = partial(self.model.partial_fit, rows_of(batch), labels_of(batch), announced, weights_of(batch))
        if any(weights_of(batch)):
            self.teach(call, batch, announced, weighted=True)
        elif has_keys(self):
            self.refused("sample_weight are zero", call)

    @precondition(has_keys)
    @rule(batch=batches, epochs=st.integers(1, 2))
    def partial_fit_codes(self, batch, epochs):
        codes = self.model.encode(rows_of(batch))
        self.teach(partial(self.model.partial_fit_codes, codes, labels_of(batch), epochs=epochs), batch)

    @rule(batch=batches, weighted=st.booleans())
    def fit(self, batch, weighted):
        if not any(weights_of(batch)):
            return
        kept = self.books.fingerprint if has_keys(self) and self.model._codebook.source == "init_keys" else None
        self.model.fit(rows_of(batch), labels_of(batch), weights_of(batch) if weighted else None)
        self.books = Books(self.model)
        assert kept in (None, self.model.fingerprint_)
        self.write_down(self.books.entries(self.model, batch, weighted))

    # What changes nothing that was learned

    @precondition(has_keys)
    @rule()
    def pickle(self):
        before = snapshot(self.model)
        self.model = pickle.loads(pickle.dumps(self.model))
        assert snapshot(self.model) == before

    @precondition(has_keys)
    @rule()
    def save_and_load(self):
        before = snapshot(self.model)
        with tempfile.TemporaryDirectory() as folder:
            save_model(self.model, Path(folder) / "model.npz")
            self.model = load_model(Path(folder) / "model.npz")
        assert snapshot(self.model) == before

    @precondition(has_learned)
    @rule()
    def prune(self):
        before = self.model.predict_proba(POOL)
        self.model.prune()
        self.books.prune()
        self.books.fingerprint = self.model.fingerprint_
        np.testing.assert_allclose(self.model.predict_proba(POOL), before, atol=1e-6)

    @precondition(has_learned)
    @rule(seed=seeds)
    def calibrate(self, seed):
        rng = np.random.default_rng(seed)
        self.books.calibration = POOL[rng.integers(N_ROWS, size=8)], rng.choice(self.model.classes_, size=8)
        before = self.model.predict(POOL)
        self.model.calibrate(*self.books.calibration)
        np.testing.assert_array_equal(self.model.predict(POOL), before)

    # What must hold after each step

    @invariant()
    def keys_are_where_they_were_placed(self):
        if has_keys(self):
            expected, lengths = self.books.now(self.books.empty.keys_), [[len(heads)] for heads in self.books.places]
            assert self.model.fingerprint_ == self.books.fingerprint
            np.testing.assert_array_equal(self.model.keys_, expected)
            np.testing.assert_array_equal(self.model.key_mask_, np.arange(expected.shape[1]) < lengths)

    @invariant()
    def learned_rows_still_select_the_same_keys(self):
        if has_learned(self):
            batch = [(sample.row, sample.label, 1) for sample in self.books.samples]
            for sample, again in zip(self.books.samples, self.books.entries(self.model, batch, False), strict=True):
                np.testing.assert_array_equal(again.codes, sample.codes)

    @invariant()
    def counts_are_those_of_the_books(self):
        if has_learned(self):
            _, labels, weights = self.books.arrays()
            classes = self.known_classes()
            expected = [weights[labels == label].sum() for label in classes]
            assert self.model.classes_.tolist() == classes
            np.testing.assert_allclose(self.model.class_counts_, expected, rtol=0, atol=self.books.rounding)
            hits = self.books.now(self.books.hits())
            np.testing.assert_allclose(self.model.key_counts_, hits, rtol=0, atol=self.books.rounding)
            np.testing.assert_array_equal(self.model.key_counts_ > 0, hits > 0)
        else:
            with pytest.raises(NotFittedError):
                self.model.predict(POOL)

    def known_classes(self):
        return self.books.classes()


class AdditiveLife(Life):
    """``counts`` and ``ridge``: a function of the samples, whatever the way to them."""

    @precondition(has_learned)
    @rule(seed=seeds)
    def forget(self, seed):
        gone = choose(self.books.samples, seed)
        self.model.forget(*as_given(gone))
        self.cross_out(gone)

    @precondition(has_learned)
    @rule(seed=seeds)
    def forget_codes(self, seed):
        gone = choose(self.books.samples, seed)
        rows, labels, weights = as_given(gone)
        self.model.forget_codes(self.model.encode(rows), labels, weights)
        self.cross_out(gone)

    @precondition(has_learned)
    @rule()
    def forget_everything(self):
        self.model.forget(*as_given(self.books.samples))
        self.cross_out(self.books.samples)

    @precondition(has_learned)
    @rule(batch=batches, seed=seeds)
    def forgetting_what_was_never_learned_is_refused(self, batch, seed):
        entries = choose(self.books.samples, seed) + self.books.entries(self.model, batch, True)
        missing = Counter(map(Sample.name, entries)) - Counter(map(Sample.name, self.books.samples))
        if missing:
            message = f"{missing.total()} of the {len(entries)} samples to forget were never learned"
            self.refused(message, self.model.forget, *as_given(entries))

    @precondition(has_learned)
    @rule(labels=subsets)
    def forget_classes(self, labels):
        if set(labels) <= set(self.books.classes()):
            self.model.forget_classes(labels)
            self.cross_out([sample for sample in self.books.samples if sample.label in labels])
        else:
            self.refused("is not among the learned classes", self.model.forget_classes, labels)

    def cross_out(self, gone):
        left, kept = Counter(map(Sample.name, gone)), []
        for sample in self.books.samples:  # of equal samples it does not matter which one goes
            if left[sample.name()]:
                left[sample.name()] -= 1
            else:
                kept.append(sample)
        self.books.samples, self.books.calibration = kept, None
        if not kept:
            self.books = Books(self.model)

    @precondition(has_learned)
    @rule(batch=batches, weighted=st.booleans(), announced=st.none() | subsets)
    def merge(self, batch, weighted, announced):
        """Merge with one that learned something else since the keys were placed."""
        other = copy.deepcopy(self.books.empty)
        weights = weights_of(batch) if weighted and any(weights_of(batch)) else None
        other.partial_fit(rows_of(batch), labels_of(batch), announced, weights)
        if other.fingerprint_ == self.model.fingerprint_:
            self.model.merge(other)
            self.write_down(self.books.entries(self.model, batch, weights is not None), announced)
        else:
            self.refused("expected the same", self.model.merge, other)

    @precondition(has_learned_little)
    @rule(batch=batches, turned=st.booleans())
    def merge_with_a_copy_that_learned_more(self, batch, turned):
        """Pruned or not: then everything counts twice."""
        other = copy.deepcopy(self.model).partial_fit(rows_of(batch), labels_of(batch))
        self.model = other.merge(self.model) if turned else self.model.merge(other)
        self.write_down(self.books.samples + self.books.entries(self.model, batch, False))

    @precondition(has_learned_little)
    @rule()
    def merge_with_itself(self):
        self.model.merge(self.model)
        self.write_down(self.books.samples)

    @invariant()
    def the_model_equals_one_that_learned_the_samples_in_one_call(self):
        if not has_learned(self):
            return
        fresh, mask = self.books.fresh(), self.model.key_mask_
        expected = self.books.now(fresh.values_)[mask]
        if self.books.calibration:
            fresh.calibrate(*self.books.calibration)
        if self.books.unweighted() and (self.solver == "ridge" or not self.books.rounding):
            np.testing.assert_array_equal(self.model.values_[mask], expected)
        np.testing.assert_allclose(self.model.values_[mask], expected, atol=1e-6)
        # Distances may round otherwise in a narrower codebook, and a temperature is found to within 1e-4.
        np.testing.assert_allclose(self.model.temperature_, fresh.temperature_, rtol=1e-3)
        tolerance = 1e-6 if self.solver == "counts" and not self.books.calibration else 1e-3
        np.testing.assert_allclose(self.model.predict_proba(POOL), fresh.predict_proba(POOL), atol=tolerance)
        np.testing.assert_allclose(self.model.novelty(POOL), fresh.novelty(POOL), rtol=1e-4)


class CountsLife(AdditiveLife):
    pass


class RidgeLife(AdditiveLife):
    solver, n_selected = "ridge", 2


class RidgeLifeInAFile(RidgeLife):
    codes_dir = tempfile.gettempdir()


class SgdLife(Life):
    """``sgd``: keys and hits are kept as exactly; values depend on the way, but only where samples hit."""

    solver, n_selected = "sgd", 2

    def teach(self, call, batch, announced=None, weighted=False):
        before = (self.model.classes_, self.model.values_.copy()) if has_learned(self) else None
        super().teach(call, batch, announced, weighted)
        if before is not None:
            still = np.ones(self.model.keys_.shape[:2], dtype=bool)
            kept = np.array(weights_of(batch)) > 0 if weighted else slice(None)
            still[np.arange(N_HEADS)[None, :, None], self.model.encode(rows_of(batch))[kept]] = False
            columns = np.searchsorted(self.model.classes_, before[0])
            found = self.model.values_[still][:, columns]
            np.testing.assert_array_equal(found.view(np.uint32), before[1][still].view(np.uint32))

    @precondition(has_learned)
    @rule(seed=seeds)
    def forget(self, seed):
        gone = [sample for sample in choose(self.books.samples, seed) if sample.weight == 1]
        if not gone:
            return
        before, hits = self.model.values_.copy(), self.books.now(self.hits_of(self.books.samples))
        taken, classes = self.books.now(self.hits_of(gone)), self.model.classes_
        self.model.forget(*as_given(gone))
        left = set(map(id, gone))
        self.books.samples = [sample for sample in self.books.samples if id(sample) not in left]
        self.books.calibration = None
        if not self.books.samples:
            self.books = Books(self.model)
            return
        before[2 * taken > hits] = 0
        np.testing.assert_array_equal(self.model.values_, before[:, :, np.isin(classes, self.model.classes_)])

    def hits_of(self, entries):
        codes, none = np.stack([entry.codes for entry in entries]), np.zeros(len(entries), dtype=int)
        return oracle.counts((N_HEADS, self.books.empty.keys_.shape[1], 1), codes, none, none + 1)[:, :, 0]

    @precondition(has_learned)
    @rule(seed=seeds)
    def forgetting_more_of_a_class_than_was_learned_is_refused(self, seed):
        label = np.random.default_rng(seed).choice(LABELS)
        same = [sample for sample in self.books.samples if sample.label == label]
        rows = [sample.row for sample in same] + [0]
        self.refused("were never learned", self.model.forget, POOL[rows], [label] * len(rows))

    @precondition(has_learned)
    @rule(row=st.integers(0, N_ROWS - 1))
    def mask_keys(self, row):
        expected = self.model.values_.copy()
        expected[np.arange(N_HEADS)[:, None], self.model.encode(POOL[[row]])[0]] = 0
        self.model.mask_keys(POOL[[row]])
        self.books.calibration = None
        np.testing.assert_array_equal(self.model.values_, expected)

    @precondition(has_learned)
    @rule()
    def merging_and_forgetting_classes_are_refused(self):
        self.refused("solver='sgd'", self.model.merge, copy.deepcopy(self.model))
        self.refused("solver='sgd'", self.model.forget_classes, self.model.classes_[:1])

    @invariant()
    def keys_that_no_sample_selects_hold_nothing(self):
        if has_learned(self):
            assert not self.model.values_[self.model.key_counts_ == 0].any()
            assert np.isfinite(self.model.predict_proba(POOL)).all()


def live(kind, n_lives, n_steps):
    fixed = {"derandomize": True, "deadline": None, "database": None}
    run_state_machine_as_test(kind, settings=settings(max_examples=n_lives, stateful_step_count=n_steps, **fixed))


def test_counts_are_a_function_of_the_samples_learned_and_not_forgotten():
    live(CountsLife, 20, 15)


def test_ridge_is_a_function_of_the_samples_learned_and_not_forgotten():
    live(RidgeLife, 10, 15)  # every read solves anew


def test_sgd_keeps_its_keys_and_moves_the_values_that_samples_hit():
    live(SgdLife, 20, 15)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CountsLife, RidgeLife, RidgeLifeInAFile, SgdLife])
def test_a_long_life_holds_no_surprise(kind):
    live(kind, 100, 30)
