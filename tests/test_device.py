"""Device: arrays become tensors, and derived ones are made once."""

import threading

import numpy as np
import pytest
import torch

from dkvb_estimator._device import DeviceCache, resolve_device, to_tensor

CPU = torch.device("cpu")


def test_auto_is_cuda_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_unknown_device_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"device='warp' is not a torch device; expected 'auto', 'cpu' or 'cuda'"):
        resolve_device("warp")


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"asks for CUDA; expected a machine that has it. Use device='auto' or 'cpu'"):
        resolve_device("cuda")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_unsigned_codes_index_rather_than_mask(dtype):
    codes = to_tensor(np.array([2, 0], dtype=dtype), CPU)
    assert torch.tensor([10, 11, 12])[codes].tolist() == [12, 10]


def test_read_only_arrays_are_copied():
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    to_tensor(array, CPU)[0] = 5
    assert array.tolist() == [1, 1, 1]


def test_an_item_is_made_once():
    cache, made = DeviceCache(), []
    for _ in range(3):
        cache.get("a", lambda: made.append(1))
    assert made == [1]


def test_a_dropped_item_is_made_anew():
    cache = DeviceCache()
    assert (cache.get("a", lambda: 1), cache.drop("a", "never made"), cache.get("a", lambda: 2)) == (1, None, 2)


def test_an_item_is_made_once_by_many_threads():
    cache, made, gate = DeviceCache(), [], threading.Barrier(4)

    def ask():
        gate.wait()
        cache.get("a", lambda: made.append(1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_an_item_may_be_made_from_another():
    cache = DeviceCache()
    assert cache.get("b", lambda: cache.get("a", lambda: 1) + 1) == 2
