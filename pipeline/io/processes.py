"""Run more processes of the work that this one does, each on its share of the machine.

Enters: a command, how many processes there are in all, the device that was asked for. Leaves: running processes, ended
when the work is. Must not know: what the work is.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def helpers(command: Sequence[str], number: int, device: str, workers: int) -> Iterator[None]:
    """Run a command in the other processes of a number of them; they, and this one, share the processor's threads.

    Parameters
    ----------
    command : sequence of str
    number : int
        Of processes, this one counted; 1: nothing is run.
    device : str
        As ``DKVB_DEVICE`` names it; each command is told its own.
    workers : int
        Threads of each that read, told as ``DKVB_WORKERS``.

    Examples
    --------
    >>> with helpers(["sleep", "60"], 3, "cpu", 1):
    ...     pass  # both are ended here
    """
    import torch  # which takes seconds that a process without helpers need not wait

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
        for process in running:  # the work is done, or nobody is left to put its parts together
            process.terminate()
            process.wait()


def place(position: int, device: str, n_cuda: int) -> str:
    """Return the device of one of several processes: the next CUDA device where there are several and none is named.

    Examples
    --------
    >>> [place(position, "auto", 2) for position in range(4)], place(3, "cuda:1", 2), place(3, "auto", 0)
    (['cuda:0', 'cuda:1', 'cuda:0', 'cuda:1'], 'cuda:1', 'auto')
    """
    return f"cuda:{position % n_cuda}" if device in ("auto", "cuda") and n_cuda > 1 else device


def share_of_threads(number: int) -> int:
    """Return how many threads each of several processes should take, so that they are not more than the processor's.

    Examples
    --------
    >>> share_of_threads(10**6)
    1
    """
    return max(1, (os.cpu_count() or 1) // number)
