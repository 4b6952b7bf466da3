"""Invariants that hold for random data and settings."""

import copy
import dataclasses
import pickle
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from models import codes_of, encoder_of, flat, placed

from dkvb_estimator import load_model, save_model
from dkvb_estimator._device import DeviceCache

few = settings(max_examples=8, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31 - 1)
solvers = st.sampled_from(["joint", "counts", "ridge", "sgd"])


@st.composite
def problems(draw):
    """Embeddings (n, f), labels (n,) and settings of a tiny estimator; there may be more keys than rows."""
    rng = np.random.default_rng(draw(seeds))
    n, f = draw(st.integers(6, 40)), draw(st.integers(1, 9))
    X = rng.standard_normal((n, f)).astype(np.float32) * np.float32(10.0 ** draw(st.integers(-3, 3)))
    y = rng.integers(draw(st.integers(1, 4)), size=n)
    options = {
        "n_heads": draw(st.integers(1, 5)),
        "n_keys": draw(st.integers(2, 24)),
        "key_dim": draw(st.integers(1, 4)),
        "n_selected": draw(st.integers(1, 2)),
        "normalize": draw(st.booleans()),
        "projection": draw(st.sampled_from(["orthogonal", "gaussian", "sparse"])),
        "key_init": draw(st.sampled_from(["kmeans", "sample", "uniform"])),
        "random_state": draw(st.integers(0, 99)),
    }
    return X, y, options


def with_keys(problem, solver):
    X, _, options = problem
    return placed(flat(**options, solver=solver, learning_rate=100.0), X)


def batches(n, seed):
    """A random order of n rows, split at random positions."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, n), size=min(3, n - 1), replace=False))
    return np.split(rng.permutation(n), cuts)


def taught(problem, solver, seed):
    X, y, _ = problem
    model = with_keys(problem, solver)
    for rows in batches(len(X), seed):
        model.partial_fit(X[rows], y[rows])
    return model


@few
@given(problems(), solvers, seeds)
def test_projection_and_keys_do_not_move(problem, solver, seed):
    model = with_keys(problem, solver)
    before = encoder_of(model).fingerprint_
    for rows in batches(len(problem[0]), seed):
        model.partial_fit(problem[0][rows], problem[1][rows])
        assert encoder_of(model).fingerprint_ == before


@few
@given(problems(), seeds)
def test_sgd_leaves_unvisited_rows_bit_for_bit(problem, seed):
    X, y, _ = problem
    first, *rest = batches(len(X), seed)
    model = with_keys(problem, "sgd").partial_fit(X[first], y[first], classes=np.unique(y))
    for rows in rest:
        values, hits = model.values_.copy(), model.key_counts_.copy()
        model.partial_fit(X[rows], y[rows])
        still = model.key_counts_ == hits
        np.testing.assert_array_equal(model.values_[still].view(np.uint32), values[still].view(np.uint32))


@few
@given(problems(), solvers, seeds)
def test_probabilities_are_non_negative_and_sum_to_one(problem, solver, seed):
    shares = taught(problem, solver, seed).predict_proba(problem[0])
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), np.ones(len(shares)), rtol=1e-9)


@few
@given(problems(), st.sampled_from(["joint", "counts", "ridge"]), seeds)
def test_permuting_heads_leaves_the_output_as_it_was(problem, solver, seed):
    X, y, options = problem
    model = with_keys((X, y, options | {"projection": "gaussian"}), solver)
    twin, order = copy.deepcopy(model), np.random.default_rng(seed).permutation(options["n_heads"])
    book = encoder_of(model)._codebook
    moved = {"projection": book.projection[:, order], "keys": book.keys[order], "centres": book.centres[order]}
    moved["reaches"] = book.reaches[order]
    encoder_of(twin)._codebook = dataclasses.replace(book, **moved, _encoders=DeviceCache())
    logits = [each.partial_fit(X, y).decision_function(X) for each in (model, twin)]
    np.testing.assert_allclose(*logits, atol=1e-4)


@few
@given(problems(), solvers, seeds)
def test_permuting_samples_permutes_the_output(problem, solver, seed):
    X = problem[0]
    model, order = taught(problem, solver, seed), np.random.default_rng(seed).permutation(len(X))
    np.testing.assert_allclose(model.predict_proba(X[order]), model.predict_proba(X)[order], atol=1e-6)


@few
@given(problems(), seeds)
def test_keys_depend_on_the_set_of_rows_only(problem, seed):
    X, y, options = problem
    rng = np.random.default_rng(seed)
    again = np.concatenate([X[rng.permutation(len(X))], X[rng.integers(len(X), size=5)]])
    assert (
        encoder_of(with_keys((again, y, options), "counts")).fingerprint_
        == encoder_of(with_keys(problem, "counts")).fingerprint_
    )


@few
@given(problems(), seeds, seeds)
def test_counts_do_not_depend_on_order_or_batches(problem, first, second):
    one, other = (taught(problem, "counts", seed) for seed in (first, second))
    np.testing.assert_array_equal(one.key_counts_, other.key_counts_)
    np.testing.assert_array_equal(one.values_, other.values_)


@few
@given(problems(), st.sampled_from(["joint", "ridge"]), seeds, seeds)
def test_jointly_solved_values_do_not_depend_on_order_or_batches(problem, solver, first, second):
    one, other = (taught(problem, solver, seed) for seed in (first, second))
    np.testing.assert_array_equal(one.values_, other.values_)
    np.testing.assert_array_equal(one.predict_proba(problem[0]), other.predict_proba(problem[0]))


@few
@given(problems(), st.sampled_from(["joint", "counts", "ridge"]), seeds)
def test_an_integer_weight_equals_so_many_copies(problem, solver, seed):
    X, y, _ = problem
    copies = 1 + np.random.default_rng(seed).integers(3, size=len(X))
    weighted = with_keys(problem, solver).partial_fit(X, y, sample_weight=copies)
    repeated = with_keys(problem, solver).partial_fit(X.repeat(copies, axis=0), y.repeat(copies))
    np.testing.assert_array_equal(weighted.key_counts_, repeated.key_counts_)
    np.testing.assert_allclose(weighted.values_, repeated.values_, atol=1e-6)


@few
@given(problems(), solvers, seeds)
def test_pickling_and_saving_predict_the_same(problem, solver, seed):
    X = problem[0]
    model = taught(problem, solver, seed)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model.npz")
        loaded = load_model(Path(folder) / "model.npz")
    for twin in (pickle.loads(pickle.dumps(model)), loaded):
        np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))


@few
@given(problems(), solvers)
def test_fit_after_fit_equals_one_fit(problem, solver):
    X, y, options = problem
    once, twice = (flat(**options, solver=solver).fit(X, y) for _ in range(2))
    twice.fit(X[: len(X) // 2], y[: len(X) // 2]).fit(X, y)
    np.testing.assert_array_equal(twice.predict_proba(X), once.predict_proba(X))


@few
@given(problems(), seeds)
def test_a_rows_codes_do_not_depend_on_its_batch(problem, seed):
    X = problem[0]
    model = with_keys(problem, "counts")
    together = codes_of(model, X)
    for rows in batches(len(X), seed):
        np.testing.assert_array_equal(codes_of(model, X[rows]), together[rows])
