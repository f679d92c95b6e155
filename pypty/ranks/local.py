"""Ranks as worker processes on this machine, which rank 0 starts itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import IO

import numpy as np

from pypty.errors import RankError
from pypty.ranks.link import Link
from pypty.ranks.messages import Header, Message, arrays_of, bytes_of, nbytes
from pypty.ranks.signals import IGNORED

_START_S = 60.0
"""Time in which a worker process must have imported this package and connected."""
_GOODBYE_S = 5.0
"""Time for a worker process to end by itself."""
_LAST_LINES = 15
_ROOM = 1 << 20
"""Bytes that one end of a connection may write before the other reads."""
_BUFFERED = 2**14
"""Bytes that a connection takes although nobody reads them."""
_SLOWEST = 50e6
"""Bytes per second below which a connection is taken for dead."""


_WORKER = f"""
import runpy, signal, sys
for name in {IGNORED!r}:
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""What a worker process runs. It ignores signals before it imports anything, which takes a second: Ctrl-C in a terminal
comes to all processes."""


@dataclass
class _Worker:
    process: subprocess.Popen
    errors: IO[bytes]

    def last_words(self) -> str:
        """The end of what it wrote to its error stream."""
        self.errors.seek(0)
        return "\n".join(self.errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:])


class PipesLink(Link):
    """Rank 0, with a connection to every other rank.

    Parameters
    ----------
    connections : by rank
    """

    path = "sockets between the processes of this machine"

    def __init__(self, connections: Mapping[int, Connection], patience_s: float = 20.0) -> None:
        super().__init__(0, len(connections) + 1, patience_s)
        self._connections = dict(connections)

    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None:
        with self._watched(to, nbytes(header)):
            _write(self._connections[to], header, arrays)

    def _ready(self, timeout_s: float) -> list[int]:
        ranks = {connection: rank for rank, connection in self._connections.items()}
        return sorted(ranks[found] for found in wait(list(ranks), timeout_s) if isinstance(found, Connection))

    def _take(self, source: int) -> Message:
        header = self._connections[source].recv()
        with self._watched(source, nbytes(header)):
            return _received(self._connections[source], header)

    def _watched(self, rank: int, size: int) -> AbstractContextManager[None]:
        """Context in which so many bytes are sent to a rank, or come from it."""
        return contextlib.nullcontext()

    def lost(self, rank: int) -> str:
        return ""

    def close(self) -> None:
        self.leave_route()
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()


class LocalLink(PipesLink):
    """Rank 0, with the worker processes that it has started.

    Parameters
    ----------
    module : is run by each worker process (``python -m``), with the descriptor of its connection, its number and the
        number of ranks
    environments : of each worker, what is added to the environment of this process: the device that it uses

    Raises
    ------
    RankError
        A worker process did not start.
    """

    def __init__(self, module: str, environments: Sequence[Mapping[str, str]], patience_s: float) -> None:
        if os.name != "posix":
            raise RankError(
                "several devices need processes that share a socket, which this system does not offer; start the run "
                "with  mpiexec -n K pypty run FILE"
            )
        self._workers: dict[int, _Worker] = {}
        self._hanging: set[int] = set()
        pipes = {rank: _pipe() for rank in range(1, len(environments) + 1)}
        super().__init__({rank: mine for rank, (mine, _) in pipes.items()}, patience_s)
        try:
            for (rank, (_, its)), extra in zip(pipes.items(), environments, strict=True):
                self._start(rank, module, its, extra)
            self._greet()
        except BaseException:
            self.close()
            raise

    def _start(self, rank: int, module: str, its: Connection, extra: Mapping[str, str]) -> None:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        command = [sys.executable, "-c", _WORKER, module, str(its.fileno()), str(rank), str(self.size)]
        # the same modules as here, wherever this process has found them
        paths = os.pathsep.join(path for path in sys.path if isinstance(path, str) and path)
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": paths, **extra},
            stdin=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(its.fileno(),),
        )
        its.close()  # only the worker holds it now: where that dies, the connection ends
        self._workers[rank] = _Worker(process, errors)

    def _greet(self) -> None:
        """Wait until every worker has told its name."""
        deadline, waiting = time.monotonic() + _START_S, set(self._workers)
        while waiting:
            if time.monotonic() > deadline:
                raise RankError(
                    f"ranks {sorted(waiting)} have not started within {_START_S:.0f} s; is this machine overloaded?"
                )
            for rank in self._ready(0.2):
                try:
                    self.names[rank] = self._connections[rank].recv()
                except (OSError, EOFError) as error:
                    raise RankError(f"rank {rank} {self._reason(rank, error)}") from error
                waiting.discard(rank)

    @contextlib.contextmanager
    def _watched(self, rank: int, size: int) -> Iterator[None]:
        """A process that is stopped neither takes nor gives, and would let this one wait for ever: it is killed."""
        if size < _BUFFERED:
            yield
            return
        watch = threading.Timer(self.silence_s + size / _SLOWEST, self.give_up, (rank,))
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def give_up(self, rank: int) -> None:
        self._hanging.add(rank)
        self._workers[rank].process.kill()

    def lost(self, rank: int) -> str:
        if rank in self._hanging:
            return f"hangs: it has taken or given no data for {self.silence_s:.0f} s, and was ended"
        worker = self._workers.get(rank)
        status = None if worker is None else worker.process.poll()
        if worker is None or status is None:
            return ""
        words = worker.last_words()
        if status < 0:
            name = signal.Signals(-status).name
            hint = ": the system kills processes so where memory runs out" if name == "SIGKILL" else ""
            return f"was ended by {name}{hint}" + (f"\n{words}" if words else "")
        return f"ended with status {status}" + (f":\n{words}" if words else "")

    def close(self) -> None:
        for connection in self._connections.values():
            _send_no_more(connection)  # a worker that finds the end of its connection, ends
        _await_ends([connection.fileno() for connection in self._connections.values()])
        super().close()
        for rank, worker in self._workers.items():
            try:
                worker.process.wait(0 if rank in self._hanging else _GOODBYE_S)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.errors.close()
        self._workers.clear()


class WorkerLink(Link):
    """A worker process, with its connection to rank 0."""

    path = LocalLink.path

    def __init__(self, connection: Connection, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self._connection = connection

    def greet(self, name: str) -> None:
        """Tell rank 0 the name of this rank, which it waits for."""
        self.names[self.rank] = name
        self._connection.send(name)

    def _put(self, to: int, header: Header, arrays: Sequence[np.ndarray]) -> None:
        _write(self._connection, header, arrays)

    def _ready(self, timeout_s: float) -> list[int]:
        return [0] if self._connection.poll(timeout_s) else []

    def _take(self, source: int) -> Message:
        return _received(self._connection, self._connection.recv())

    def lost(self, rank: int) -> str:
        return ""  # where rank 0 ends, so does the connection

    def close(self) -> None:
        self.leave_route()
        self._connection.close()


def _write(connection: Connection, header: Header, arrays: Sequence[np.ndarray]) -> None:
    connection.send(header)
    for array in arrays:
        if array.nbytes:
            _write_all(connection.fileno(), bytes_of(array).data)


def _received(connection: Connection, header: Header) -> Message:
    """The message that a header announces."""
    try:
        arrays = arrays_of(header)
    except MemoryError:
        _pass_over(connection.fileno(), nbytes(header))
        raise
    for array in arrays:
        if array.nbytes:
            _read_all(connection.fileno(), bytes_of(array).data)
    return Message(header.kind, header.content, tuple(arrays))


def _pipe() -> tuple[Connection, Connection]:
    """Two connected ends, with as much room between them as the system allows."""
    ends = Pipe()
    for end in ends:
        with socket.socket(fileno=os.dup(end.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    return ends


def _write_all(descriptor: int, data: memoryview) -> None:
    """Write bytes as they are in memory: a connection would copy them, which takes five times as long."""
    while data:
        data = data[os.write(descriptor, data) :]


def _send_no_more(connection: Connection) -> None:
    """Let the other end find the end of the connection when it has read everything; it may still send."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same, contextlib.suppress(OSError):
        same.shutdown(socket.SHUT_WR)


def _await_ends(descriptors: list[int]) -> None:
    """Pass over what ranks still send that have not heard yet, until they have gone: to them an end before would be an
    error."""
    waiting, until = set(descriptors), time.monotonic() + _GOODBYE_S
    while waiting and (left := until - time.monotonic()) > 0:
        for found in wait(list(waiting), left):
            assert isinstance(found, int)
            try:
                gone = not os.read(found, _ROOM)
            except OSError:
                gone = True
            if gone:
                waiting.discard(found)


def _pass_over(descriptor: int, size: int) -> None:
    """Read so many bytes that nobody wants."""
    room = memoryview(bytearray(min(size, _BUFFERED)))
    while size:
        part = room[: min(size, len(room))]
        _read_all(descriptor, part)
        size -= len(part)


def _read_all(descriptor: int, data: memoryview) -> None:
    while data:
        n_bytes = os.readv(descriptor, [data])
        if not n_bytes:
            raise EOFError("the connection has ended")
        data = data[n_bytes:]
