"""A dask cluster of processes gives the same result as one process, even if workers are lost."""

import os
import signal
import threading
import time

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from models import codes_of, encoder_of, flat, placed

from dkvb_estimator import distributed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # from the cluster's own sockets
]
RIDGE_TOLERANCE = 1e-4
SETTINGS = {"n_heads": 32, "n_keys": 64, "key_dim": 6, "max_iter": 5, "random_state": 0}


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        process_ids(client)
        yield client


def process_ids(client):
    """Return the processes of both workers once both answer; the scheduler lists a killed worker for a while."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        answers = client.run(os.getpid, on_error="ignore")
        if len(answers) == 2:
            return set(answers.values())
        time.sleep(0.2)
    raise TimeoutError(f"{len(answers)} workers answer; expected 2 within two minutes")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    y = rng.integers(8, size=6000)
    return (2 * rng.standard_normal((8, 40))[y] + rng.standard_normal((6000, 40))).astype(np.float32), y


def lazily(X, slow=0.0):
    """Return twelve blocks that take some time to compute, so that a worker can be lost meanwhile."""

    def made(block):
        time.sleep(slow)
        return block

    return da.from_array(X, chunks=(500, 40)).map_blocks(made, meta=X[:0])


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_a_cluster_learns_and_predicts_what_one_process_does(client, rows, solver):
    X, y = rows
    lazy = flat(solver=solver, **SETTINGS).fit(lazily(X), y)
    whole = flat(solver=solver, **SETTINGS).fit(X, y)
    assert_same(lazy, whole)
    np.testing.assert_array_equal(lazy.predict(lazily(X)).compute(), lazy.predict(X))
    np.testing.assert_array_equal(lazy.encoder_.transform(lazily(X)).compute(), whole.encoder_.transform(X))
    np.testing.assert_allclose(lazy.score_samples(lazily(X)).compute(), whole.score_samples(X), rtol=1e-4)


def assert_same(lazy, whole):
    assert encoder_of(lazy).fingerprint_ == encoder_of(whole).fingerprint_
    for name in ("pointers", "classes", "hits"):
        np.testing.assert_array_equal(*(getattr(each._learned.counts, name) for each in (lazy, whole)))
    np.testing.assert_allclose(lazy.values_, whole.values_, atol=RIDGE_TOLERANCE if lazy.solver == "ridge" else 0)


@pytest.mark.parametrize("solver", ["counts", "ridge"])
def test_a_killed_worker_changes_nothing(client, rows, solver):
    X, y = rows
    whole = placed(flat(solver=solver, **SETTINGS), X).partial_fit(X, y)
    model = placed(flat(solver=solver, **SETTINGS), X)
    victim = min(process_ids(client))
    killed = threading.Event()

    def kill():
        os.kill(victim, signal.SIGKILL)
        killed.set()

    timer = threading.Timer(1.0, kill)
    timer.start()
    model.partial_fit(lazily(X, slow=0.4), y)  # 12 blocks × 0.4 s on two workers: the middle
    assert killed.is_set()
    assert_same(model, whole)
    assert victim not in process_ids(client)


def test_codes_of_a_killed_worker_are_made_again(client, rows):
    X, y = rows
    model = placed(flat(solver="ridge", **SETTINGS), X).partial_fit(lazily(X), y)
    before = model.values_.copy()
    os.kill(min(process_ids(client)), signal.SIGKILL)
    model._scratch.drop("values", "solution")
    np.testing.assert_allclose(model.values_, before, atol=1e-6)
    np.testing.assert_array_equal(model._learned.codes.rows, codes_of(model, X))


def test_every_worker_reads_the_keys_once(client, rows):
    X, y = rows
    model = placed(flat(**SETTINGS, alpha=0.123), X)  # a model that no worker has read
    client.run(lambda: distributed._read.cache_clear())
    model.partial_fit(lazily(X), y)
    assert set(client.run(lambda: distributed._read.cache_info().misses).values()) <= {0, 1}


def test_codes_do_not_travel(client, rows):
    """A ridge fit transfers less than the codes to this process: only counts, hashes and values."""
    X, y = rows
    model = placed(flat(solver="ridge", **SETTINGS), X)
    model.partial_fit(lazily(X), y)
    held = client.run(
        lambda dask_worker: sum(value.codes.nbytes for value in dask_worker.data.values() if hasattr(value, "codes"))
    )
    assert sum(held.values()) == model._learned.codes.nbytes == len(X) * 32
    assert not model._learned.codes._blocks


def test_a_model_whose_workers_are_gone_says_so(rows):
    X, y = rows
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as own, Client(own):
        model = flat(**SETTINGS).fit(lazily(X[:500]), y[:500])
    with pytest.raises(RuntimeError, match=r"dask workers that hold the codes .*; expected .* Learn again"):
        model.partial_fit(X, y)
