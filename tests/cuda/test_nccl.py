"""Arrays on GPUs that travel by NCCL: the real CuPy on the emulated device, and an NCCL that checks its calls.

Two ranks are two threads here. Each has a GPU of its own in name only: the emulated device is one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pypty.backend.array import Backend, select, to_host
from pypty.errors import RankError
from pypty.ranks import nccl
from pypty.ranks.link import Link
from pypty.ranks.local import PipesLink, WorkerLink
from pypty.ranks.messages import FAILED, Failed
from pypty.ranks.nccl import open_route


class NcclError(RuntimeError):
    pass


class CheckedNccl:
    """cupy.cuda.nccl as the ranks see it: what they queue between groupStart and groupEnd is checked and carried out.

    Attributes
    ----------
    stuck : nothing arrives any more
    failing : ranks whose communicator cannot be made
    error : what the communicators find wrong later
    """

    available, NCCL_UINT8, NcclError = True, 1, NcclError

    def __init__(self) -> None:
        self.pipes: dict[tuple[int, int], queue.Queue[bytes]] = {}
        self.groups = threading.local()
        self.stuck, self.failing, self.error = False, (), ""
        self.made: list[Communicator] = []

    def get_version(self) -> int:
        return 22304

    def get_unique_id(self) -> bytes:
        return b"\x07" * 128

    def NcclCommunicator(self, n_ranks: int, identifier: bytes, rank: int) -> Communicator:
        assert identifier == b"\x07" * 128
        if rank in self.failing:
            raise NcclError("unhandled system error")
        self.made.append(Communicator(self, n_ranks, rank))
        return self.made[-1]

    def groupStart(self) -> None:
        assert getattr(self.groups, "queued", None) is None, "a group within a group"
        self.groups.queued = []

    def groupEnd(self) -> None:
        queued, self.groups.queued = self.groups.queued, None
        for task in queued:
            task()


class Communicator:
    def __init__(self, nccl: CheckedNccl, n_ranks: int, rank: int) -> None:
        self.nccl, self.n_ranks, self.rank = nccl, n_ranks, rank
        self.aborted = False

    def send(self, pointer: int, count: int, dtype: int, peer: int, stream: int) -> None:
        self._queue(self._send, pointer, count, dtype, peer, stream)

    def recv(self, pointer: int, count: int, dtype: int, peer: int, stream: int) -> None:
        self._queue(self._recv, pointer, count, dtype, peer, stream)

    def _queue(
        self, task: Callable[..., None], pointer: int, count: int, dtype: int, peer: int, stream: int
    ) -> None:
        import cupy

        present = cupy.cuda.get_current_stream()
        assert not self.aborted
        assert dtype == CheckedNccl.NCCL_UINT8 and count > 0 and pointer
        assert 0 <= peer < self.n_ranks and peer != self.rank
        assert stream == present.ptr, "not ordered with the kernels of the caller"
        self.nccl.groups.queued.append(lambda: task(pointer, count, peer, present))

    def _send(self, pointer: int, count: int, peer: int, stream: Any) -> None:
        from cupy.cuda import runtime

        if self.nccl.stuck:
            return self._never(stream)
        stream.synchronize()  # what was queued on this stream has happened, and nothing else
        host = np.empty(count, np.uint8)
        runtime.memcpy(host.ctypes.data, pointer, count, runtime.memcpyDeviceToHost)
        self._pipe(self.rank, peer).put(host.tobytes())

    def _recv(self, pointer: int, count: int, peer: int, stream: Any) -> None:
        from cupy.cuda import runtime

        if self.nccl.stuck:
            return self._never(stream)
        stream.synchronize()
        data = self._pipe(peer, self.rank).get(timeout=10)
        assert len(data) == count, f"{len(data)} bytes are sent, and {count} received"
        host = np.frombuffer(data, np.uint8)
        runtime.memcpy(pointer, host.ctypes.data, count, runtime.memcpyHostToDevice)

    @staticmethod
    def _never(stream: Any) -> None:
        """A task that the emulated device does not carry out, since nobody waits for its stream."""
        import cupy

        with stream:
            cupy.zeros(3).fill(1)

    def _pipe(self, source: int, to: int) -> queue.Queue[bytes]:
        return self.nccl.pipes.setdefault((source, to), queue.Queue())

    def check_async_error(self) -> None:
        if self.nccl.error:
            raise NcclError(self.nccl.error)

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def checked(device: None, monkeypatch: pytest.MonkeyPatch) -> CheckedNccl:
    checked = CheckedNccl()
    monkeypatch.setattr(nccl, "_nccl", lambda backend: checked)
    monkeypatch.setattr(nccl, "_bus_id", lambda backend: threading.current_thread().name)
    return checked


@contextmanager
def two_ranks(other: Callable[[Link, Backend], None]) -> Iterator[tuple[Link, Backend]]:
    """The link of rank 0, while another thread runs ``other`` as rank 1."""
    mine, its = Pipe()
    problems: list[BaseException] = []

    def run() -> None:
        link = WorkerLink(its, 1, 2)
        try:
            other(link, select("gpu", "single"))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            problems.append(error)
        link.close()

    thread = threading.Thread(target=run, name="0000:3B:00.0", daemon=True)
    thread.start()
    link = PipesLink({1: mine})
    try:
        yield link, select("gpu", "single")
    finally:
        link.close()
        thread.join(10)
    assert not problems, problems


def echo(link: Link, backend: Backend) -> None:
    """Give back what comes, with arrays of the device made by kernels on a stream of its own."""
    open_route(link, backend)
    message = link.receive(0)
    stream = backend.xp.cuda.Stream(non_blocking=True)
    with stream:
        answer = [array * 2 if array.dtype != bool else ~array for array in message.arrays]
        link.send(0, "echo", (message.content, link.path), answer)


def test_arrays_of_both_kinds_keep_their_order(checked: CheckedNccl) -> None:
    with two_ranks(echo) as (link, backend):
        open_route(link, backend)
        assert (
            link.path
            == "NCCL 2.23.4 between GPUs, sockets between the processes of this machine for messages"
        )
        xp, stream = backend.xp, backend.xp.cuda.Stream(non_blocking=True)
        with stream:
            sent = [
                xp.arange(6, dtype=xp.complex64).reshape(2, 3) * 1j,
                np.arange(3.0),
                xp.zeros((0, 4), xp.float32),
                xp.arange(20, dtype=xp.float64).reshape(4, 5)[:, ::2],
                xp.array([True, False]),
                xp.float32(3) * xp.ones(()),
            ]
            link.send(1, "there", {"epoch": 3}, sent)
            message = link.receive(1)
        assert message.content == ({"epoch": 3}, link.path)
        assert [type(array).__module__ for array in message.arrays] == [
            *("cupy", "numpy", "cupy", "cupy", "cupy", "cupy")
        ]
        for answer, array in zip(message.arrays, sent, strict=True):
            expected = ~to_host(array) if array.dtype == bool else 2 * to_host(array)
            assert answer.dtype == array.dtype and answer.shape == array.shape
            np.testing.assert_array_equal(to_host(answer), expected)
    assert [communicator.aborted for communicator in checked.made] == [True, True], "closed with the link"


def test_nothing_of_it_for_arrays_of_the_host(checked: CheckedNccl) -> None:
    with two_ranks(echo) as (link, backend):
        open_route(link, backend)
        link.send(1, "there", None, [np.arange(3)])
        assert isinstance(link.receive(1).arrays[0], np.ndarray)
    assert not checked.pipes


def test_two_ranks_on_one_gpu(checked: CheckedNccl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, "_bus_id", lambda backend: "0000:3B:00.0")
    with two_ranks(echo) as (link, backend):
        open_route(link, backend)
        assert "(not by NCCL: rank 0 and rank 1 share the GPU at 0000:3B:00.0" in link.path
        link.send(1, "there", None, [backend.xp.arange(3)])
        assert isinstance(link.receive(1).arrays[0], np.ndarray)
    assert not checked.made


PLACE = nccl._Place("boot", "0000:3B:00.0", 22304)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (nccl._Place("boot", "0000:AF:00.0", 22304), ""),
        (nccl._Place("other boot", "0000:3B:00.0", 22304), ""),  # of another machine
        (nccl._Place("boot", "0000:AF:00.0", 22105), "different versions of it, 2.23.4 and 2.21.5"),
        (nccl._Place(problem="CuPy finds no NCCL"), "rank 1: CuPy finds no NCCL"),
        (nccl._Place(on_gpu=False), "rank 1 computes on the CPU"),
    ],
    ids=str,
)
def test_whether_nccl_is_used(monkeypatch: pytest.MonkeyPatch, other: nccl._Place, reason: str) -> None:
    monkeypatch.setattr(nccl, "_nccl", lambda backend: CheckedNccl())
    link: Any = SimpleNamespace(names=["rank 0", "rank 1"])
    plan = nccl._decided(link, [PLACE, other], SimpleNamespace())
    assert (plan.identifier is None) == bool(reason)
    assert reason in plan.reason


def test_on_the_cpu_nothing_is_said() -> None:
    link: Any = SimpleNamespace(names=["rank 0", "rank 1"])
    assert nccl._decided(link, [nccl._Place(on_gpu=False)] * 2, SimpleNamespace()) == nccl._Plan("")
    assert nccl._place(select("cpu")) == nccl._Place(on_gpu=False)


@pytest.mark.parametrize("rank", [0, 1])
def test_gpus_that_cannot_be_connected(checked: CheckedNccl, rank: int) -> None:
    checked.failing = (rank,)
    with two_ranks(echo) as (link, backend):
        open_route(link, backend)
        assert (
            f"(not by NCCL: rank {rank}: the GPUs cannot be connected (NcclError: unhandled system"
            in link.path
        )
        link.send(1, "there", None, [backend.xp.arange(3)])
        assert link.receive(1).content[1] == link.path
    assert [communicator.aborted for communicator in checked.made] == [True]


def test_gpus_that_never_connect(checked: CheckedNccl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nccl, "_JOIN_S", 0.1)
    over = threading.Event()
    monkeypatch.setattr(checked, "NcclCommunicator", lambda *arguments: over.wait(10))
    with two_ranks(echo) as (link, backend):
        open_route(link, backend)
        assert "the GPUs did not connect" in link.path and "NCCL_DEBUG" in link.path
        link.send(1, "there", None, [backend.xp.arange(3)])
        link.receive(1)
    over.set()


def leaves(link: Link, backend: Backend) -> None:
    open_route(link, backend)


def fails(link: Link, backend: Backend) -> None:
    open_route(link, backend)
    link.send(0, FAILED, Failed("MemoryError", "no room for 3 GB", ""))
    with pytest.raises(RankError):
        link.receive(0)


@pytest.mark.parametrize(
    ("other", "reason"), [(leaves, "rank 1 has ended"), (fails, "rank 1 failed: MemoryErr")]
)
def test_a_rank_that_does_not_take_an_array(checked: CheckedNccl, other: Any, reason: str) -> None:
    """Rank 0 does not wait inside of CUDA for what never comes."""
    checked.stuck = True
    with two_ranks(other) as (link, backend):
        open_route(link, backend)
        with pytest.raises(RankError, match=reason):
            link.send(1, "there", None, [backend.xp.arange(3)])
        assert checked.made[0].aborted or checked.made[1].aborted
        with pytest.raises(RankError, match="given up|has ended"):
            link.send(1, "there", None, [backend.xp.arange(3)])


def test_a_rank_that_sends_no_array(checked: CheckedNccl) -> None:
    def announces(link: Link, backend: Backend) -> None:
        open_route(link, backend)
        with pytest.raises(RankError):
            link.send(0, "there", None, [backend.xp.arange(3)])

    checked.stuck, checked.error = True, "remote process exited"
    with two_ranks(announces) as (link, backend):
        open_route(link, backend)
        with pytest.raises(RankError, match=r"NCCL fails between rank 0 and rank 1 \(remote process exited"):
            link.receive(1)


def test_the_real_module_is_asked(device: ModuleType) -> None:
    """Without NCCL's library CuPy has the module all the same; what is missing is said, and no warning given."""
    place = nccl._place(select("gpu"))
    assert place.on_gpu
    assert place.problem == "" or "CuPy finds no NCCL" in place.problem
