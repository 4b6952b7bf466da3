"""Device: arrays become tensors, and derived tensors are computed once."""

import ast
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from models import by_codes, codes_of, encoder_of, flat, placed

from dkvb_estimator._device import DeviceCache, resolve_device, to_tensor

CPU = torch.device("cpu")


def test_auto_is_cuda_where_there_is_one():
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_unknown_device_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"device='warp' is not a torch device; expected 'auto', 'cpu' or 'cuda'"):
        resolve_device("warp")


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError,
        match=r"needs CUDA, which torch does not find; expected a machine with CUDA. Use device='auto' or 'cpu'",
    ):
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


@pytest.mark.parametrize("device", ["meta", None, 1.5])
def test_what_computes_nothing_is_refused_as_a_device(device):
    with pytest.raises(ValueError, match=r"device=.*; expected 'auto', 'cpu' or 'cuda'. Pass one"):
        resolve_device(device)


def test_an_item_is_made_anew_from_other_things():
    cache = DeviceCache()
    assert [cache.get("a", lambda n=n: n, {"alpha": n // 2}) for n in range(4)] == [0, 0, 2, 2]


FORKED = """
import multiprocessing, threading, numpy as np, torch
from dkvb_estimator import DKVBClassifier, KeyEncoder
torch.set_num_threads(2)
rng = np.random.default_rng(0)
X, y = rng.standard_normal((500, 32)), np.arange(500) % 5
model = DKVBClassifier(KeyEncoder(32, 64, 8, random_state=0), solver={solver!r}).fit(X, y)
expected = model.predict_proba(X)
held = threading.Event()
def derive():
    held.set()
    return threading.Event().wait(30)
if {busy}:
    model.partial_fit(X[:5], y[:5])
    expected = None
    threading.Thread(target=lambda: model._scratch.get("values", derive), daemon=True).start()
    held.wait()
def work(connection):
    if {busy}:
        model.partial_fit(X[:50], y[:50])
    connection.send(model.predict_proba(X))
here, there = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=work, args=(there,))
child.start()
ended = here.poll(40)
found = here.recv() if ended else None
child.kill() if not ended else child.join()
print(ended, ended and (expected is None or np.array_equal(found, expected)), torch.get_num_threads())
"""


WAYS = [("counts", False), ("ridge", True)]


@pytest.fixture(scope="module")
def forked(elsewhere_timed):
    """Output of a new process that forks in each way, one after the other."""
    printed = elsewhere_timed("".join(FORKED.format(solver=solver, busy=busy) for solver, busy in WAYS))
    return dict(zip(WAYS, printed.splitlines(), strict=True))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.parametrize(("solver", "busy"), WAYS)
def test_a_forked_process_answers_after_threads_ran_and_while_one_derives(forked, solver, busy):
    assert forked[solver, busy].split() == ["True", "True", "2"]


FACTORIES = {"empty", "zeros", "ones", "full", "eye", "arange", "linspace", "rand", "randn", "tensor", "as_tensor"}
PACKAGE = Path(__file__).parents[2] / "dkvb_estimator"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_tensor_that_is_made_names_its_type_and_device(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = node.func if isinstance(node, ast.Call) else None
        if (
            isinstance(called, ast.Attribute)
            and called.attr in FACTORIES
            and getattr(called.value, "id", "") == "torch"
        ):
            named = {keyword.arg for keyword in node.keywords}
            needed = {"device"} if called.attr == "arange" else {"device", "dtype"}  # integers are int64
            assert needed <= named, f"{path.name}:{node.lineno}"


KINDS = [torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture
def defaults():
    """Restore the global torch settings that a test changes."""
    kind = torch.get_default_dtype()
    yield
    torch.set_default_dtype(kind)
    torch.set_default_device(None)


def everything(X, y, **settings):
    """Return codes, keys and predictions of a model that runs through every step."""
    model = placed(flat(8, 300, 3, random_state=0, **settings), X, y)
    codes = codes_of(model, X)
    by_codes(model.partial_fit(X[:150], y[:150]), "partial_fit", codes[150:], y[150:]).calibrate(X[::3], y[::3])
    model.forget(X[:3], y[:3])
    return [
        codes,
        encoder_of(model).keys_,
        model.values_,
        model.predict_proba(X),
        model.predict_proba(X[:1]),
        model.score_samples(X),
    ]


@pytest.mark.parametrize("kernel", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [{"n_selected": 3}, {"solver": "ridge", "key_init": "ema"}, {"solver": "sgd", "learning_rate": 90},
     {"projection": "sparse", "key_init": "ema-faithful"}, {"projection": "learned", "key_init": "gaussian"},
     {"key_init": "uniform", "normalize": False}],
)  # fmt: skip
def test_the_types_and_device_that_torch_defaults_to_change_no_bit(blobs, defaults, monkeypatch, settings, kernel):
    if not kernel:
        monkeypatch.setattr("dkvb_estimator._kernel.native.KERNEL", None)
    X, y = blobs
    expected = everything(X, y, **settings)
    torch.set_default_device("meta")
    for kind in KINDS:
        torch.set_default_dtype(kind)
        for found, wanted in zip(everything(X, y, **settings), expected, strict=True):
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
