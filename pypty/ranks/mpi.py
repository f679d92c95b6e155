"""Ranks that mpirun or srun has started: messages over MPI."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import math
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pypty.errors import RankError
from pypty.ranks.link import Link
from pypty.ranks.messages import BEAT, Header, Message, arrays_of, bytes_of
from pypty.ranks.pause import Pause

_HEADERS, _ARRAYS = 1, 2
"""Tags of messages."""
_SLICE = 4 << 20
"""Bytes that are sent at a time. Where one process cannot read the memory of another (containers), MPI keeps few pieces
of each message under way: with many messages more are under way."""
_LOOK_S = 0.001
"""Time for which a rank looks for a message without a pause."""
_TRANSFER_S = 0.05
"""Time for which a rank looks whether a slice has arrived without a pause: MPI only moves it while it is called."""
_START_S = 60.0
"""Time in which every rank must have come to its link."""
_GOODBYE_S = 5.0
"""Time for the other ranks to come to their end when rank 0 has come to its."""
_GOODBYE = "goodbye"
_SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MVP_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where launchers write the number of processes: mpirun of Open MPI; mpirun_rsh of MVAPICH, old and new; mpiexec of
MPICH, Intel MPI and Cray's PALS, Flux, and srun with pmi2 or cray_shasta. The innermost launcher comes first: mpirun
of Open MPI leaves the variables of the others as they are."""
_SLURM_SIZE = "SLURM_STEP_NUM_TASKS"
SIZE_VARIABLES = (*_SIZES, _SLURM_SIZE)
"""The same with that of srun, which also counts tasks that know nothing of each other."""
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "MVP_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "SLURM_PROCID",
)
"""Where launchers write the number of a process among those that they have started."""
_log = logging.getLogger(__name__)


def launched() -> int:
    """Number of ranks by which mpirun, mpiexec or srun has started this program; 1 where none has.

    A shell in an allocation of Slurm (sbatch, salloc) was not started as ranks, whatever its ``SLURM_NTASKS``, nor are
    tasks of ``srun --mpi=none``, which know nothing of each other. MPI itself is asked only in processes of a PMIx
    launcher that tells the number of ranks nowhere else.

    Raises
    ------
    RankError
        A variable of the launcher is no number, or MPI has to be asked and mpi4py cannot be used.
    """
    for name in _SIZES:
        if name in os.environ:
            return _number(name)
    if "PMIX_RANK" not in os.environ:
        return 1
    # srun --mpi=pmix
    if _SLURM_SIZE in os.environ:
        return _number(_SLURM_SIZE)
    return int(_mpi().COMM_WORLD.Get_size())


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal() or int(text) < 1:
        raise RankError(
            f"the environment variable {name} is {text!r}, and should be the number of processes that the launcher "
            f"has started; for a run in this process alone, unset it"
        )
    return int(text)


def _mpi() -> Any:
    """The module mpi4py.MPI; importing it starts MPI."""
    try:
        return importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError, OSError) as error:
        raise RankError(
            f"this process was started by mpirun or srun, but mpi4py cannot be used ({error}); install it with  pip "
            "install mpi4py  and load the module of the same MPI as the launcher's, or start the run without a launcher"
        ) from error


class MpiLink(Link):
    """A rank of those that mpirun or srun has started, 0 or another, with its connections.

    All ranks make one; the constructor returns when all have. A rank that ends without :meth:`close`, by whatever
    error, ends all others.

    Parameters
    ----------
    patience_s : a rank whose computation makes no progress for so long hangs

    Raises
    ------
    RankError
        mpi4py cannot be used, belongs to another MPI than the launcher, or a rank has not come.
    """

    def __init__(self, patience_s: float = 20.0) -> None:
        self._mpi = _mpi()
        world = self._mpi.COMM_WORLD
        name, version = self._mpi.get_vendor()
        self.path = f"MPI ({name} {'.'.join(map(str, version))})"
        if world.Get_size() < launched():
            raise RankError(
                f"{launched()} processes were started, but the MPI of mpi4py, {name}, knows of {world.Get_size()}: the "
                "launcher belongs to another MPI; use the mpirun of that MPI, or install mpi4py for the launcher's: "
                "pip install --no-cache-dir --no-binary mpi4py mpi4py"
            )
        super().__init__(world.Get_rank(), world.Get_size(), patience_s)
        self._peers = list(self.others) if self.rank == 0 else [0]
        self._under_way: list[Any] = []
        self._left: set[int] = set()
        self._closed, self._stuck = False, ""
        self._pause = Pause(_LOOK_S)  # since the last message
        atexit.register(self._at_exit)
        # of its own: nobody else's messages come here
        self._comm, request = world.Idup()
        self._wait([request], self._in_time)
        self._beats = self._introduce(f"rank {self.rank} on {socket.gethostname()} (process {os.getpid()})")
        node = world.Split_type(self._mpi.COMM_TYPE_SHARED)  # waits for nobody: all ranks have come here
        self._local = node.Get_rank(), node.Get_size()
        node.Free()

    def _in_time(self, waited_s: float) -> None:
        if self.rank == 0 and waited_s > _START_S:
            raise RankError(
                f"not all {self.size} ranks have come to the run within {_START_S:.0f} s; see their messages for why"
            )

    def _introduce(self, name: str) -> bool:
        """Tell all ranks the names of all; returns whether all can send beats while they compute."""
        threads = self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE
        if self.rank:
            self.send(0, "name", (name, threads))
            self.names, threads = self.receive(0).content
        else:
            told = [(name, threads), *(self.receive(rank).content for rank in self.others)]
            self.names, threads = [one for one, _ in told], all(one for _, one in told)
            for rank in self.others:
                self.send(rank, "names", (self.names, threads))
        if not threads:
            self.silence_s = math.inf
            if self.rank == 0:
                _log.warning(
                    "%s has no support of threads (MPI_THREAD_MULTIPLE): a rank that hangs cannot be found",
                    self.path,
                )
        return bool(threads)

    def local_rank(self) -> int:
        """Number of this rank among those of its node."""
        return int(self._local[0])

    def local_size(self) -> int:
        """Number of ranks of this node."""
        return int(self._local[1])

    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None:
        with _as_os_error(self._mpi):
            requests = [self._comm.isend(header, to, _HEADERS)]
            requests += [self._comm.Isend(part, to, _ARRAYS) for array in arrays for part in _slices(array)]
        # beats are sent by a thread of their own, and only one thread may read
        self._wait(requests, None if header.kind == BEAT else self.watching(to))

    def _ready(self, timeout_s: float) -> list[int]:
        before = self._pause.waited_s
        while True:
            with _as_os_error(self._mpi):
                if self._comm.Iprobe(self._mpi.ANY_SOURCE, _HEADERS):
                    self._pause = Pause(_LOOK_S)
                    return [source for source in self._peers if self._comm.Iprobe(source, _HEADERS)]
            if self._pause.waited_s - before >= timeout_s:
                return []
            self._pause.wait()

    def _take(self, source: int) -> Message:
        def stalled(waited_s: float) -> None:
            if self.rank == 0 and waited_s > self.silence_s:
                raise TimeoutError(f"a message has not come further for {self.silence_s:.0f} s")

        with _as_os_error(self._mpi):
            header = self._wait([self._comm.improbe(source, _HEADERS).irecv()], stalled)
            if header.kind == _GOODBYE:
                self._left.add(source)
                raise EOFError("it has said goodbye")
            try:
                arrays = arrays_of(header)
            except MemoryError:
                for size in _slice_sizes(header):
                    room = np.empty(size, np.uint8)
                    self._wait([self._comm.Irecv(room, source, _ARRAYS)], stalled)
                raise
            parts = [part for array in arrays for part in _slices(array)]
            self._wait([self._comm.Irecv(part, source, _ARRAYS) for part in parts], stalled)
        return Message(header.kind, header.content, tuple(arrays))

    def _wait(self, requests: list[Any], meanwhile: Callable[[float], None] | None) -> Any:
        """Wait for requests, in their order; returns what the last has brought.

        No call of MPI waits, so that signals are handled, and ``meanwhile``, which is told for how long nothing has
        happened, may raise an error. What is under way then stays so, and needs its memory.
        """
        waiting, pause, brought = deque(requests), Pause(_TRANSFER_S), None
        try:
            while waiting:
                with _as_os_error(self._mpi):
                    done, brought = waiting[0].test()
                if done:
                    waiting.popleft()
                    pause = Pause(_TRANSFER_S)
                    continue
                if meanwhile is not None and pause.waited_s > _TRANSFER_S:
                    meanwhile(pause.waited_s)
                pause.wait()
        except BaseException:
            self._under_way = [request for request in self._under_way if not request.test()[0]]
            self._under_way += waiting
            raise
        return brought

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        with super().computing() if self._beats else contextlib.nullcontext():
            yield

    def lost(self, rank: int) -> str:
        """Only what the rank itself has told: where a process is killed, the launcher ends all others."""
        return "has ended its part" if rank in self._left else ""

    def close(self) -> None:
        """Say goodbye to the other ranks, and on rank 0 wait for theirs.

        MPI ends only with all ranks. If one does not come to its end in time, this process may still finish what it
        has to do, and ends all others when it exits, with status 1.
        """
        if self._closed:
            return
        self._closed = True
        self.leave_route()
        with contextlib.suppress(OSError):
            goodbye = Header(_GOODBYE, None, ())
            self._under_way += [self._comm.isend(goodbye, rank, _HEADERS) for rank in self._peers]
        missing, pause = set(self._peers if self.rank == 0 else ()) - self._left, Pause(_LOOK_S)
        while missing and pause.waited_s < _GOODBYE_S:
            for source in self._ready(0.0):
                with contextlib.suppress(OSError, EOFError):
                    self._take(source)  # nobody wants it any more
            missing -= self._left
            pause.wait()
        if missing:
            names = ", ".join(self.names[rank] for rank in sorted(missing))
            self._stuck = f"{names} did not end within {_GOODBYE_S:.0f} s"

    def abort(self, reason: str, status: int = 1) -> None:
        """End all ranks at once, this one with them, with an exit status; nothing else of this process is run."""
        _log.error("%s ends all ranks: %s", self.names[self.rank], reason)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        logging.shutdown()
        self._mpi.COMM_WORLD.Abort(status)

    def _at_exit(self) -> None:
        """Let no rank wait for one that has ended."""
        if not self._closed:
            self.abort("it has ended before the run has")
        elif self._stuck:
            self.abort(self._stuck)


def _slices(array: np.ndarray) -> list[np.ndarray]:
    flat = bytes_of(array)
    return [flat[start : start + _SLICE] for start in range(0, flat.size, _SLICE)]


def _slice_sizes(header: Header) -> list[int]:
    """Bytes of all pieces in which the arrays of a message are sent."""
    wholes = (np.dtype(name).itemsize * math.prod(shape) for name, shape in header.shapes)
    return [min(_SLICE, whole - start) for whole in wholes for start in range(0, whole, _SLICE)]


@contextlib.contextmanager
def _as_os_error(mpi: Any) -> Iterator[None]:
    """Errors of MPI, as the link expects those of a connection."""
    try:
        yield
    except mpi.Exception as error:
        raise OSError(str(error)) from error
