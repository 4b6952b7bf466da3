"""Run helper processes for the work of this process, each with its share of the machine.

Enters: a command, the total number of processes, the requested device. Leaves: running processes, which end with the
work. Must not know: what the work is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def helpers(command: Sequence[str], number: int, device: str, workers: int) -> Iterator[None]:
    """Run a command in helper processes, which share the processor's threads with this process.

    Parameters
    ----------
    command : sequence of str
    number : int
        Number of processes, including this one; 1: no helper is started.
    device : str
        As in ``DKVB_DEVICE``; each command gets its own.
    workers : int
        Reading threads of each, passed as ``DKVB_WORKERS``.

    Examples
    --------
    >>> with helpers(["sleep", "60"], 3, "cpu", 1):
    ...     pass  # both are ended here
    """
    import torch  # here: most commands only handle files, and need not wait for it

    usual = torch.get_num_threads()
    threads = min(usual, share_of_threads(number))
    shared = os.environ | {"OMP_NUM_THREADS": str(threads), "DKVB_WORKERS": str(workers)}
    places = [place(position, device, torch.cuda.device_count()) for position in range(1, number)]
    running = [subprocess.Popen(command, env=shared | {"DKVB_DEVICE": each}) for each in places]
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
        for process in running:  # the work is done, or no process is left to combine its parts
            process.terminate()
            process.wait()


def place(position: int, device: str, n_cuda: int) -> str:
    """Return the device of one of several processes: CUDA devices in turn, unless one is named.

    Examples
    --------
    >>> [place(position, "auto", 2) for position in range(4)], place(3, "cuda:1", 2), place(3, "auto", 0)
    (['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1'], 'cuda:1', 'auto')
    """
    return f"cuda:{position % n_cuda}" if device in ("auto", "cuda") and n_cuda > 1 else device


def share_of_threads(number: int) -> int:
    """Return the number of threads for each of several processes, so that their sum does not exceed the processor's.

    Examples
    --------
    >>> share_of_threads(10**6)
    1
    """
    return max(1, (os.cpu_count() or 1) // number)
