"""No finite input causes NaN or infinity, and the same seed gives the same bits on one thread and on two."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import codes_of, encoder_of, flat
from sklearn.base import clone

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator.baselines import (
    ClasswiseLDA,
    NearestClassMean,
    RandomFourierDiscriminant,
    RandomProjectionRidge,
    StreamingLDA,
)

SOLVERS = ("joint", "counts", "ridge", "sgd")
KINDS = ("normal", "constant columns", "one sample", "one class", "duplicates", "all equal", "zeros", "mixed scales")


def rows(kind, scale, seed):
    """Return embeddings (n, 6), float32, of one kind at one scale, and their classes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(1 if kind == "one sample" else 20, 6))
    y = np.zeros(len(X), int) if kind == "one class" else np.arange(len(X)) % 3
    if kind == "constant columns":
        X[:, ::2] = 1
    elif kind == "duplicates":
        X = X[rng.integers(0, 3, len(X))]
    elif kind == "all equal":
        X[:] = X[0]
    elif kind == "zeros":
        X[:] = 0
    elif kind == "mixed scales":
        X *= 10.0 ** rng.integers(-30, 31, X.shape)
    return (X * (1 if kind == "mixed scales" else scale)).clip(-3e38, 3e38).astype(np.float32), y


def finite(model, X):
    """Return all outputs of a classifier for some rows, after checking that they are finite."""
    for name in ("decision_function", "predict_proba", "predict_log_proba", "score_samples"):
        if hasattr(model, name):
            assert np.isfinite(getattr(model, name)(X)).all(), name
    assert np.isin(model.predict(X), model.classes_).all()


@st.composite
def problems(draw):
    scale = 10.0 ** draw(st.integers(-30, 30))
    return *rows(draw(st.sampled_from(KINDS)), scale, draw(st.integers(0, 99))), draw(st.booleans())


many_examples = pytest.mark.parametrize("n_examples", [15, pytest.param(60, marks=pytest.mark.slow)])


@many_examples
@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_but_finite_numbers_comes_out(solver, n_examples):
    inits = st.sampled_from(["kmeans", "ema", "gaussian"])

    @settings(max_examples=n_examples, deadline=None)
    @given(problem=problems(), n_keys=st.sampled_from([1, 4, 64]), key_init=inits)
    def check(problem, n_keys, key_init):
        X, y, normalize = problem
        layout = {"n_heads": 3, "n_keys": n_keys, "key_dim": 2, "random_state": 0}
        model = flat(**layout, solver=solver, key_init=key_init, normalize=normalize)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # few rows for many keys
            model.fit(X, y)
        finite(model, X)
        finite(model, X[:1] * np.float32(-0.5))
        assert np.isfinite(model.values_).all()
        assert np.isfinite(encoder_of(model).keys_).all()

    check()


@pytest.mark.parametrize(
    "baseline",
    [
        NearestClassMean(),
        StreamingLDA(),
        StreamingLDA("auto", normalize=True),
        ClasswiseLDA(),
        RandomProjectionRidge(16, random_state=0),
        RandomProjectionRidge(50, random_state=0, projection="sparse", top_share=0.3, normalize=True),
        RandomFourierDiscriminant(16, random_state=0),
        RandomFourierDiscriminant(50, random_state=0, normalize=True),
    ],
    ids=repr,
)
@many_examples
def test_baselines_give_finite_numbers_too(baseline, n_examples):
    @settings(max_examples=n_examples, deadline=None)
    @given(problem=problems())
    def check(problem):
        X, y, _ = problem
        finite(clone(baseline).fit(X, y), X)

    check()


def bits(solver, n_threads):
    X, y = rows("normal", 1.0, 0)
    X, y = np.tile(X, (40, 12)) + np.random.default_rng(1).normal(size=(800, 72)).astype(np.float32), np.tile(y, 40)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        model = DKVBClassifier(KeyEncoder(16, 32, 8, random_state=0), solver=solver).fit(X, y)
        return encoder_of(model).fingerprint_, codes_of(model, X).tobytes(), model.key_counts_.tobytes(), model.values_
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "solver", ["joint", "counts", *(pytest.param(solver, marks=pytest.mark.slow) for solver in ("ridge", "sgd"))]
)
def test_the_same_seed_gives_the_same_bits_on_one_thread_and_two(solver):
    one, again, two = bits(solver, 1), bits(solver, 1), bits(solver, 2)
    assert one[:3] == again[:3] == two[:3]
    np.testing.assert_array_equal(one[3], again[3])
    if solver == "counts":
        np.testing.assert_array_equal(one[3], two[3])
    np.testing.assert_allclose(one[3], two[3], rtol=1e-5, atol=1e-7)  # sums of sgd and ridge may be divided differently
