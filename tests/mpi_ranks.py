"""What the ranks of test_ranks_mpi.py do: ``mpiexec -n K python mpi_ranks.py WHAT``. Not a test by itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np

import pypty.ranks.link
import pypty.ranks.measure
import pypty.ranks.mpi
from pypty.errors import RankError
from pypty.ranks.measure import answer_measure, measure
from pypty.ranks.mpi import MpiLink

ARRAYS = (
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.array([[1 + 2j, -3j]], np.complex128),
    np.array([True, False, True]),
    np.zeros((0, 5), np.complex64),
    np.array(7.5),
    np.arange(60, dtype=np.uint16).reshape(4, 5, 3)[:, ::2],  # not contiguous
    np.arange(3_000_001, dtype=np.float64),  # several slices, the last of them short
)


@dataclass(frozen=True)
class Content:
    text: str
    numbers: np.ndarray


def same(found: tuple[np.ndarray, ...]) -> None:
    for one, other in zip(found, ARRAYS, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape, (one.dtype, one.shape, other.shape)
        np.testing.assert_array_equal(one, other)


def talk(link: MpiLink) -> None:
    """Messages both ways, beats, measuring, signals."""
    came = []
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(time.monotonic()))
    if link.rank == 0:
        print("names", link.names, link.path, link.local_rank(), link.local_size(), flush=True)
        for rank in link.others:
            link.send(rank, "there", Content("µ", np.arange(3)), ARRAYS)
        for rank in reversed(link.others):  # a message of another rank comes in between
            message = link.receive(rank)
            assert message.kind == "back" and message.content.text == f"from {rank}"
            same(message.arrays)
        link.patience_s = 0.3
        for rank in link.others:
            assert link.receive(rank).kind == "computed"
        # both send at a time, and neither receives
        link.send(1, "large", None, ARRAYS)
        same(link.receive(1).arrays)
        link.send(1, "signal", os.getpid())
        answered = link.receive(1)
        assert came and came[0] < answered.content - 0.2, "the signal was handled while rank 0 waited"
        print("rates", measure(link), flush=True)
        return
    message = link.receive(0)
    assert message.content.text == "µ" and list(message.content.numbers) == [0, 1, 2]
    same(message.arrays)
    link.send(0, "back", Content(f"from {link.rank}", np.zeros(1)), message.arrays)
    with link.computing():  # longer than the patience of rank 0, but something happens
        for _ in range(10):
            time.sleep(0.07)
            link.progress()
    link.send(0, "computed")
    if link.rank == 1:
        link.send(0, "large", None, ARRAYS)
    while message := link.receive(0):
        if message.kind == "measure":
            answer_measure(link, message)
        elif message.kind == "signal":
            time.sleep(0.3)
            os.kill(message.content, signal.SIGUSR1)
            time.sleep(0.3)
            link.send(0, "sent", time.monotonic())
        elif link.rank == 1:
            same(message.arrays)


def another_run() -> None:
    """What rank 0 has at the end of a run comes to all; the processes have had links before."""
    from pypty.engine.ranks.opening import on_all_ranks

    arrays = on_all_ranks(lambda world: ARRAYS, lambda result: ("µ", result), lambda content, arrays: arrays)
    same(tuple(arrays))
    print("has the result", flush=True)


def hang(link: MpiLink) -> None:
    """A rank that computes, and comes no further."""
    if link.rank == 0:
        link.patience_s = 0.4
        link.receive(1)
    with link.computing():
        time.sleep(1000)


def stop(link: MpiLink) -> None:
    """A rank that is stopped before it takes what it is sent."""
    if link.rank == 0:
        link.silence_s = 0.6
        time.sleep(0.2)
        link.send(1, "large", None, ARRAYS)
    os.kill(os.getpid(), signal.SIGSTOP)


def killed(link: MpiLink) -> None:
    if link.rank == 1:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    link.receive(1 if link.rank == 0 else 0)


def error_of_first(link: MpiLink) -> None:
    if link.rank == 0:
        raise ZeroDivisionError
    link.receive(0)


def error_of_other(link: MpiLink) -> None:
    if link.rank == 1:
        raise ZeroDivisionError
    link.receive(1)


def no_threads(link: MpiLink) -> None:
    """One rank is enough to see that it sends no beats."""
    assert link.silence_s == float("inf")
    with link.computing():
        assert threading.active_count() == 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    what = sys.argv[1]
    if what == "no_threads":
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
    pypty.ranks.link.BEAT_S = 0.1
    pypty.ranks.mpi._GOODBYE_S = 0.5
    pypty.ranks.measure._BUDGET_S = 0.01
    pypty.ranks.measure._LARGEST = 1 << 22
    link = MpiLink()
    print(f"process {os.getpid()}", flush=True)
    try:
        globals()[what](link)
    except RankError as error:
        print("said:", error, flush=True)
    link.close()
    if what == "talk" and importlib.util.find_spec("h5py"):  # a Python with MPI alone knows links, not runs
        another_run()
