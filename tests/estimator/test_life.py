"""Random sequences of calls: an estimator always equals what it has learned and not forgotten.

Hypothesis generates the calls. A simple reference model keeps a list of the learned samples, each with the keys that it
selected when it arrived. After every step, the estimator must equal the reference model, the values that the oracle
computes from it and, except for ``sgd``, a copy with the same keys that learns exactly these samples in one call.
"""

import copy
import os
import pickle
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
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
from models import by_codes, codes_of, encoder_of, flat, placed
from reference_model import (
    LABELS,
    N_HEADS,
    N_KEYS,
    N_ROWS,
    OTHERS,
    POOL,
    Books,
    Sample,
    as_given,
    labels_of,
    rows_of,
    weights_of,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from dkvb_estimator import load_model, save_model

samples = st.tuples(st.integers(0, N_ROWS - 1), st.sampled_from(LABELS), st.sampled_from([0, 1, 2, 3, 0.3]))
"""A row of the pool, a label, and a weight if the batch has weights."""
batches = st.lists(samples, min_size=1, max_size=6)
STEP = {"learning_rate": 30.0, "batch_size": 6, "label_smoothing": 0.1, "clip_norm": 1.0}
"""A whole batch is one step of ``sgd``, so the reference model does not depend on the order within it."""
subsets = st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True)
seeds = st.integers(0, 2**16)


def choose(items, seed):
    """Return a random selection of the items, at least one."""
    rng = np.random.default_rng(seed)
    return [items[i] for i in rng.permutation(len(items))[: rng.integers(1, min(5, len(items)) + 1)]]


def snapshot(model):
    """Return everything that refused calls and storing must not change."""
    parts = [encoder_of(model).fingerprint_, encoder_of(model).keys_.tobytes(), hasattr(model, "_learned")]
    if parts[-1]:
        parts += [model.classes_.tolist(), model.class_counts_.tolist(), model.key_counts_.tolist()]
        parts += [model.values_.tobytes(), model.temperature_, model.predict_proba(POOL).tobytes()]
    return parts


def has_keys(life):
    return life.books is not None


def has_learned(life):
    return has_keys(life) and bool(life.books.samples)


def has_learned_little(life):
    """Limit the number of samples, because some merges double it."""
    return has_learned(life) and len(life.books.samples) < 60


def has_no_keys_in_use(life):
    """Return whether nothing was ever learned; a model that forgot all its samples keeps its keys."""
    return not hasattr(life.model, "encoder_")


class Life(RuleBasedStateMachine):
    """Rules for all solvers."""

    solver, n_selected, codes_dir, remember, tolerance = "counts", 1, None, True, 1e-5

    def __init__(self):
        super().__init__()
        shape = {"n_heads": N_HEADS, "n_keys": N_KEYS, "key_dim": 2, "normalize": False, "random_state": 0}
        kind = {"solver": self.solver, "n_selected": self.n_selected, "codes_dir": self.codes_dir}
        kind["remember"] = self.remember
        self.model = flat(**shape, **kind, **STEP)
        self.encoder = clone(self.model.encoder)
        self.books = None

    def refused(self, message, call, *arguments):
        before = snapshot(self.model)
        with pytest.raises(ValueError, match=message):
            call(*arguments)
        assert snapshot(self.model) == before

    def teach(self, call, batch, announced=None, weighted=False, epochs=1):
        """Let the model learn, and record it in the reference model."""
        if has_keys(self):
            call()
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "X has .* distinct rows")
                call()
            self.books = Books(self.model)
        self.write_down(self.books.entries(batch, weighted), announced, epochs)

    @staticmethod
    def merged(model, other):
        """Merge two models that share samples on purpose; ignore the warning about it."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"other shares \d+ of its \d+ samples")
            return model.merge(other)

    def write_down(self, entries, announced=None, epochs=1):
        self.books.samples = self.books.samples + entries
        if any(entry.weight % 1 for entry in entries):
            self.books.rounding = 1e-9
        self.books.declared |= set(announced or [])
        self.books.calibration = None

    def may_weigh(self, batch):
        """Return whether the weights of a batch are allowed: if sums are kept, only zero and one."""
        return self.remember or set(weights_of(batch)) <= {0, 1}

    # Beginning

    @initialize(given=st.booleans())
    def begin(self, given):
        if given:
            self.freeze_keys(seed=0)

    @precondition(has_no_keys_in_use)
    @rule(seed=seeds)
    def freeze_keys(self, seed):
        rows = OTHERS[np.random.default_rng(seed).permutation(30)[:20]]
        placed(self.model.set_params(encoder=self.encoder), rows)
        self.books = Books(self.model)

    @precondition(has_learned)
    @rule()
    def another_encoder_is_refused_once_something_is_learned(self):
        mine = self.model.encoder
        if isinstance(mine, FrozenEstimator) and self.model.encoder_._codebook.mask is None:
            self.model.encoder = FrozenEstimator(clone(self.encoder).set_params(random_state=1).fit(OTHERS))
            with pytest.raises(ValueError, match="encoder has fingerprint_"):
                self.model.predict(POOL)
        else:
            self.model.encoder = clone(self.encoder).set_params(n_keys=N_KEYS + 1)
            with pytest.raises(ValueError, match=f"encoder__n_keys={N_KEYS + 1} was set after fitting"):
                self.model.predict(POOL)
        self.model.encoder = mine

    # Learning

    @rule(batch=batches, announced=st.none() | subsets)
    def partial_fit(self, batch, announced):
        self.teach(partial(self.model.partial_fit, rows_of(batch), labels_of(batch), announced), batch, announced)

    @rule(batch=batches, announced=st.none() | subsets)
    def partial_fit_with_weights(self, batch, announced):
        call = partial(self.model.partial_fit, rows_of(batch), labels_of(batch), announced, weights_of(batch))
        if not self.may_weigh(batch):
            if has_learned(self):
                self.refused("sample_weight holds .* but remember=False", call)
        elif any(weights_of(batch)):
            self.teach(call, batch, announced, weighted=True)
        elif has_keys(self):
            self.refused("sample_weight is zero for all", call)

    @precondition(has_keys)
    @rule(batch=batches, epochs=st.integers(1, 2))
    def partial_fit_codes(self, batch, epochs):
        codes = codes_of(self.model, rows_of(batch))
        self.model.set_params(solver_params=STEP | {"partial_fit_epochs": epochs})
        self.teach(partial(by_codes, self.model, "partial_fit", codes, labels_of(batch)), batch, epochs=epochs)
        self.model.set_params(solver_params=STEP)

    @rule(batch=batches, weighted=st.booleans())
    def fit(self, batch, weighted):
        if not any(weights_of(batch)):
            return
        weighted = weighted and self.may_weigh(batch)
        frozen = isinstance(self.model.encoder, FrozenEstimator)
        kept = self.model.encoder.estimator.fingerprint_ if frozen else None
        self.model.fit(rows_of(batch), labels_of(batch), weights_of(batch) if weighted else None)
        self.books = Books(self.model)
        assert kept in (None, encoder_of(self.model).fingerprint_)
        self.write_down(self.books.entries(batch, weighted), epochs=10)

    # Calls that do not change the learned state

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
        self.books.fingerprint = encoder_of(self.model).fingerprint_
        np.testing.assert_allclose(self.model.predict_proba(POOL), before, atol=1e-6)

    @precondition(has_learned)
    @rule(seed=seeds)
    def calibrate(self, seed):
        rng = np.random.default_rng(seed)
        self.books.calibration = POOL[rng.integers(N_ROWS, size=8)], rng.choice(self.model.classes_, size=8)
        before = self.model.predict(POOL)
        self.model.calibrate(*self.books.calibration)
        np.testing.assert_array_equal(self.model.predict(POOL), before)

    # Invariants after each step

    @invariant()
    def keys_are_where_they_were_placed(self):
        if has_keys(self):
            expected, lengths = (
                self.books.now(encoder_of(self.books.empty).keys_),
                [[len(heads)] for heads in self.books.places],
            )
            assert encoder_of(self.model).fingerprint_ == self.books.fingerprint
            np.testing.assert_array_equal(encoder_of(self.model).keys_, expected)
            np.testing.assert_array_equal(encoder_of(self.model).key_mask_, np.arange(expected.shape[1]) < lengths)

    @invariant()
    def codes_are_those_of_the_oracle(self):
        if has_keys(self):
            expected = self.books.codes
            found = np.stack([self.books.places[c][codes_of(self.model, POOL)[:, c]] for c in range(N_HEADS)], axis=1)
            np.testing.assert_array_equal(found, expected)
            for sample in self.books.samples:  # keys do not move, and pruning removes no key that a sample selected
                np.testing.assert_array_equal(expected[sample.row], sample.codes)

    @invariant()
    def counts_are_those_of_the_books(self):
        if has_learned(self):
            _, labels, weights = self.books.arrays(self.books.samples)
            expected = np.bincount(labels, weights, minlength=len(self.books.classes()))
            assert self.model.classes_.tolist() == self.books.classes()
            np.testing.assert_allclose(self.model.class_counts_, expected, rtol=0, atol=self.books.rounding)
            hits = self.books.now(self.books.hits())
            np.testing.assert_allclose(self.model.key_counts_, hits, rtol=0, atol=self.books.rounding)
            np.testing.assert_array_equal(self.model.key_counts_ > 0, hits > 0)
        else:
            with pytest.raises(NotFittedError):
                self.model.predict(POOL)

    @invariant()
    def values_and_predictions_are_those_of_the_oracle(self):
        if has_learned(self):
            values, mask = self.books.values(self.solver, self.model.mixture_), encoder_of(self.model).key_mask_
            expected, atol = self.books.now(values)[mask], self.tolerance * max(1, np.abs(values).max())
            np.testing.assert_allclose(self.model.values_[mask], expected, atol=atol)
            expected = self.books.probabilities(values, self.model.temperature_)
            np.testing.assert_allclose(self.model.predict_proba(POOL), expected, atol=atol)


class AdditiveLife(Life):
    """All solvers but ``sgd``: the model depends only on the samples, not on the order of calls."""

    rounding = 1e-6

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
        by_codes(self.model, "forget", codes_of(self.model, rows), labels, weights)
        self.cross_out(gone)

    @precondition(has_learned)
    @rule()
    def forget_everything(self):
        self.model.forget(*as_given(self.books.samples))
        self.cross_out(self.books.samples)

    @precondition(has_learned)
    @rule(batch=batches, seed=seeds)
    def forgetting_what_was_never_learned_is_refused(self, batch, seed):
        entries = choose(self.books.samples, seed) + self.books.entries(batch, True)
        missing = Counter(map(Sample.name, entries)) - Counter(map(Sample.name, self.books.samples))
        if missing:
            message = rf"X holds samples that were never learned .* \({missing.total()} of {len(entries)}\)"
            if not self.remember:  # detected only if the hits of a key would become negative
                if {entry.label for entry in entries} <= set(self.books.classes()) and (
                    self.books.times_of_classes(self.books.samples) >= self.books.times_of_classes(entries)
                ).all():
                    return
                entries = [replace(entry, weight=1.0) for entry in entries]
                message = "X holds samples that were never learned"
            self.refused(message, self.model.forget, *as_given(entries))

    @precondition(has_learned)
    @rule(labels=subsets)
    def forget_classes(self, labels):
        if not self.remember:
            self.refused(
                "remember=False keeps sums over samples, but forget_classes needs", self.model.forget_classes, labels
            )
        elif set(labels) <= set(self.books.classes()):
            self.model.forget_classes(labels)
            self.cross_out([sample for sample in self.books.samples if sample.label in labels])
        else:
            self.refused("learned classes; expected labels in classes_", self.model.forget_classes, labels)

    def cross_out(self, gone):
        left, kept = Counter(map(Sample.name, gone)), []
        for sample in self.books.samples:  # among equal samples it does not matter which one is removed
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
        """Merge with a model that has the same initial keys and learned something else."""
        other = copy.deepcopy(self.books.empty)
        weights = weights_of(batch) if weighted and any(weights_of(batch)) and self.may_weigh(batch) else None
        other.partial_fit(rows_of(batch), labels_of(batch), announced, weights)
        if encoder_of(other).fingerprint_ == encoder_of(self.model).fingerprint_:
            self.merged(self.model, other)
            self.write_down(self.books.entries(batch, weights is not None), announced)
        else:
            self.refused("expected the same", self.model.merge, other)

    @precondition(has_learned_little)
    @rule(batch=batches, turned=st.booleans())
    def merge_with_a_copy_that_learned_more(self, batch, turned):
        """Merge with a copy, pruned or not; all samples then count twice."""
        other = copy.deepcopy(self.model).partial_fit(rows_of(batch), labels_of(batch))
        self.model = self.merged(other, self.model) if turned else self.merged(self.model, other)
        self.write_down(self.books.samples + self.books.entries(batch, False))

    @precondition(has_learned_little)
    @rule()
    def merge_with_itself(self):
        self.merged(self.model, self.model)
        self.write_down(self.books.samples)

    @invariant()
    def the_model_equals_one_that_learned_the_samples_in_one_call(self):
        if not has_learned(self):
            return
        fresh, mask = self.books.fresh(), encoder_of(self.model).key_mask_
        expected = self.books.now(fresh.values_)[mask]
        if self.books.calibration:
            fresh.calibrate(*self.books.calibration)
        if self.books.unweighted() and (self.solver != "counts" or not self.books.rounding):
            np.testing.assert_array_equal(self.model.values_[mask], expected)
        np.testing.assert_allclose(self.model.values_[mask], expected, atol=self.rounding * max(1, abs(expected).max()))
        # Distances may round differently in a pruned codebook, and a temperature is found to within 1e-4.
        np.testing.assert_allclose(self.model.temperature_, fresh.temperature_, rtol=1e-3)
        tolerance = 1e-6 if self.solver == "counts" and not self.books.calibration else 1e-3
        np.testing.assert_allclose(self.model.predict_proba(POOL), fresh.predict_proba(POOL), atol=tolerance)
        if (
            encoder_of(self.model)._codebook.origin is None
        ):  # samples are scored by the nearest of all keys, and pruning removes some
            # with counts, the score of a single class is zero but for rounding
            np.testing.assert_allclose(self.model.score_samples(POOL), fresh.score_samples(POOL), rtol=1e-4, atol=1e-9)


class CountsLife(AdditiveLife):
    pass


class JointLife(AdditiveLife):
    solver, tolerance, rounding = "joint", 1e-3, 1e-4


class RidgeLife(JointLife):
    solver, n_selected = "ridge", 2


class RidgeLifeInAFile(RidgeLife):
    codes_dir = tempfile.gettempdir()


class SumsLife(JointLife):
    """``joint`` with ``remember=False``: only sums, which do not distinguish samples."""

    remember = False


class SgdLife(Life):
    """``sgd``: keys and hits are as exact; values depend on the order of calls, but only for keys with hits."""

    solver, n_selected = "sgd", 2

    def write_down(self, entries, announced=None, epochs=1):
        super().write_down(entries, announced, epochs)
        self.books.descend(entries, epochs, **STEP)

    def teach(self, call, batch, announced=None, weighted=False, epochs=1):
        before = (self.model.classes_, self.model.values_.copy()) if has_learned(self) else None
        super().teach(call, batch, announced, weighted, epochs)
        if before is not None:
            still = np.ones(encoder_of(self.model).keys_.shape[:2], dtype=bool)
            kept = np.array(weights_of(batch)) > 0 if weighted else slice(None)
            still[np.arange(N_HEADS)[None, :, None], codes_of(self.model, rows_of(batch))[kept]] = False
            columns = np.searchsorted(self.model.classes_, before[0])
            found = self.model.values_[still][:, columns]
            np.testing.assert_array_equal(found.view(np.uint32), before[1][still].view(np.uint32))

    @precondition(has_learned)
    @rule(seed=seeds)
    def forget(self, seed):
        gone = [sample for sample in choose(self.books.samples, seed) if sample.weight == 1]
        if not gone:
            return
        before, classes = self.model.values_.copy(), self.model.classes_
        lost = 2 * self.books.times(gone) > self.books.times(self.books.samples)
        self.model.forget(*as_given(gone))
        left = set(map(id, gone))
        self.books.samples = [sample for sample in self.books.samples if id(sample) not in left]
        self.books.calibration = None
        if not self.books.samples:
            self.books = Books(self.model)
            return
        self.books.table[lost] = 0
        self.books.drop_columns()
        before[self.books.now(lost)] = 0
        np.testing.assert_array_equal(self.model.values_, before[:, :, np.isin(classes, self.model.classes_)])

    @precondition(has_learned)
    @rule(seed=seeds)
    def forgetting_more_of_a_class_than_was_learned_is_refused(self, seed):
        label = np.random.default_rng(seed).choice(LABELS)
        same = [sample for sample in self.books.samples if sample.label == label]
        rows = [sample.row for sample in same] + [0]
        self.refused("were never learned", self.model.forget, POOL[rows], [label] * len(rows))

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
    live(CountsLife, 8, 15)


@pytest.mark.parametrize("kind", [JointLife, RidgeLife, SumsLife])
def test_joint_values_are_a_function_of_the_samples_learned_and_not_forgotten(kind):
    live(kind, 4, 12)  # every access solves again


def test_sgd_keeps_its_keys_and_moves_the_values_that_samples_hit():
    live(SgdLife, 8, 15)


N_LIVES = int(os.environ.get("DKVB_LIVES", "60"))  # of each kind; they take four minutes


@pytest.mark.slow
@pytest.mark.parametrize("kind", [CountsLife, JointLife, RidgeLife, RidgeLifeInAFile, SumsLife, SgdLife])
def test_a_long_life_holds_no_surprise(kind):
    live(kind, N_LIVES, 30)
