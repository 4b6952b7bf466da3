"""The compiled kernel is found, its build is chosen for the processor, and it is optional."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest

from dkvb_estimator import DKVBClassifier, KeyEncoder
from dkvb_estimator._kernel import native

needs_kernel = pytest.mark.skipif(native.KERNEL is None, reason="the package was installed without its kernel")


def test_without_a_kernel_a_log_line_says_so_once(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert native.load_kernel(tmp_path) is None
    assert [record.message for record in caplog.records] == [
        "dkvb_estimator is installed without its compiled kernel, so torch searches for the nearest keys, which "
        "is several times slower. Install a C++ compiler, then install the package again."
    ]


def test_a_file_that_is_no_library_is_passed_over(tmp_path):
    (tmp_path / f"_kernel{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    assert native.open_kernel("_kernel", tmp_path) is None


@needs_kernel
def test_the_most_capable_build_is_chosen():
    level = native.open_kernel("_kernel").dkvb_level()
    expected = {4: "_kernel_v4", 3: "_kernel_v3"}.get(level, "_kernel")
    assert Path(native.KERNEL._name).name.split(".")[0] == expected


@needs_kernel
def test_the_interpreter_is_free_while_the_kernel_works():
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((64, 2048, 14)).astype(np.float32)
    search = native.NativeKeys(native.KERNEL, keys, (keys**2).sum(axis=2) / 2, np.zeros((64, 14), np.float32))
    heads = rng.standard_normal((1500, 64, 14)).astype(np.float32)
    worker = threading.Thread(target=search.nearest, args=(heads, 1, 1))
    turns, begun = 0, time.perf_counter()
    worker.start()
    while worker.is_alive():
        turns += 1
        time.sleep(0.001)
    worker.join()
    assert turns > 3, f"{turns} turns in {time.perf_counter() - begun:.3f} s"


def test_the_package_works_without_a_kernel(monkeypatch):
    monkeypatch.setattr(native, "KERNEL", None)
    X, y = np.eye(8, dtype=np.float32), range(8)
    assert DKVBClassifier(KeyEncoder(4, 8, 2, random_state=0)).fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 3)), np.zeros((4, 3), "f2"), np.zeros((3, 4), "f4").T, np.zeros((4, 6), "f4")[:, ::2]],
)
def test_the_kernel_is_given_no_array_of_another_type_or_order(array):
    with pytest.raises(TypeError, match=r"array holds float\d\d in .*; expected float32 in C order. Convert"):
        native.addresses(array)
    assert native.addresses(np.ascontiguousarray(array, dtype=np.float32))


@needs_kernel
@pytest.mark.parametrize("heads", [np.zeros((5, 6)), np.zeros((6, 5), np.float32).T])
def test_heads_that_the_kernel_cannot_write_are_refused(heads):
    projection = native.NativeProjection(native.KERNEL, np.zeros((4, 6), dtype=np.float32))
    with pytest.raises(TypeError, match="expected float32 in C order"):
        projection.project(np.zeros((5, 4), dtype=np.float32), heads, 1)


@needs_kernel
def test_what_one_thread_searches_in_is_not_replaced_by_another():
    keys = native.NativeKeys(native.KERNEL, np.zeros((1, 4, 2)), np.zeros((1, 4)), np.zeros((1, 2)))
    both_build = threading.Barrier(2)

    def build(*arrays):
        both_build.wait(60)
        return object()

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: keys._once(build), range(2))
    assert first is second is keys._once(build)
