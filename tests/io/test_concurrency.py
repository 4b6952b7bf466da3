"""Concurrency: threads that predict, processes that read a cache while it is rebuilt, two runs of one pipeline."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reliability import note
from small_cache import write_small
from small_project import ROOT, SMALL_PHOTOS, TABLES, call, copy_project, finish, start

from dkvb_estimator import DKVBClassifier, KeyEncoder
from pipeline.cache import open_cache

READ = """
import hashlib
import sys
from pipeline.cache import open_cache
found = []
print("ready", flush=True)
for _ in range(int(sys.argv[2])):
    with open_cache(sys.argv[1]) as reader:
        X = reader.read("train")
    found.append(hashlib.sha256(X.tobytes()).hexdigest())
print(len(found), *sorted(set(found)))
"""


@pytest.mark.parametrize("solver", ["joint", "counts", "ridge", "sgd"])
def test_threads_that_predict_with_one_model_get_what_one_thread_gets(blobs, solver):
    X, y = blobs
    model = DKVBClassifier(KeyEncoder(8, 32, 4, random_state=0), solver=solver).fit(X, y)
    expected = DKVBClassifier(KeyEncoder(8, 32, 4, random_state=0), solver=solver).fit(X, y).predict_proba(X)
    with ThreadPoolExecutor(2) as pool:  # nothing is cached yet: both threads compute it
        results = list(pool.map(lambda _: model.predict_proba(X), range(40)))
    for found in results:
        np.testing.assert_array_equal(found, expected)
    note("concurrency", f"two threads predicting, {solver}", ["the same"] * len(results))


def test_threads_may_share_a_model_with_one_that_encodes(blobs):
    X, y = blobs
    model = DKVBClassifier(KeyEncoder(8, 32, 4, random_state=0)).fit(X, y)
    codes, labels = model.encoder_.transform(X), model.predict(X)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(model.encoder_.transform if i % 2 else model.predict, X) for i in range(20)]
    for i, found in enumerate(results):
        np.testing.assert_array_equal(found.result(), codes if i % 2 else labels)


@pytest.mark.slow
def test_processes_that_read_a_cache_while_it_is_rebuilt_see_the_old_or_the_new_one(tmp_path):
    path, known = tmp_path / "c.h5", set()
    for storage_dtype in ("float32", "float16"):
        with open_cache(write_small(path, storage_dtype=storage_dtype)) as reader:
            known.add(hashlib.sha256(reader.read("train").tobytes()).hexdigest())
    assert len(known) == 2
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READ, str(path), "150"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    for _ in range(4):
        write_small(path, storage_dtype="float32")
        write_small(path, storage_dtype="float16")
    for reader in readers:
        said, failed = reader.communicate(timeout=120)
        assert reader.returncode == 0, failed
        n, *digests = said.split()
        assert n == "150"
        assert set(digests) <= known
        note("concurrency", "a process reading a cache that is rebuilt", ["the old or the new one"] * int(n))


@pytest.mark.slow
def test_dvc_repro_twice_at_once_ends_with_one_whole_result(tmp_path):
    tables = {
        "datasets": {"photos": SMALL_PHOTOS},
        "embeddings": {"photos": TABLES["embeddings"]["photos"] | {"image_side": 32}},
        "baselines": {},
        "runs": {},
        "searches": {},
    }
    copy_project(tmp_path, {**TABLES, **tables})
    both = [start(tmp_path, "dvc", "repro", "extract") for _ in range(2)]
    ended = [finish(process) for process in both]
    codes = [code for code, _ in ended]
    assert 0 in codes, ended
    for code, text in ended:  # the other run either waited, or was told to wait
        assert code == 0 or "lock" in text.lower() or "busy" in text.lower() or "another process" in text, text
    call(tmp_path, "dvc", "repro", "extract")
    with open_cache(tmp_path / "caches/photos.h5") as reader:
        assert reader.read("train").shape == (24, 1280)
    note("concurrency", "dvc repro twice at once", ["done" if code == 0 else "told to wait" for code in codes])
