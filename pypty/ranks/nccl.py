"""Arrays on GPUs travel from one to the other by NCCL, without the host; messages and other arrays as before."""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.errors import RankError
from pypty.ranks.link import Link, Route
from pypty.ranks.pause import Pause

_ROUTE = "route"
"""The kind of the messages by which ranks agree on a route."""
_JOIN_S = 60.0
"""Time in which all ranks must have connected their GPUs."""
_SPIN_S = 0.02
"""Time for which a rank looks without a pause whether an array has arrived."""
_SLOWEST = 50e6
"""Bytes per second below which a transfer counts as one that hangs."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_HINT = "the environment variable NCCL_DEBUG=INFO makes NCCL say why"


@dataclass(frozen=True)
class _Place:
    """Where a rank computes.

    Attributes
    ----------
    machine, device : what a GPU is known by: of its machine, and on it
    version : of NCCL
    problem : why NCCL cannot be used, or ""
    on_gpu : whether the rank computes on a GPU
    """

    machine: str = ""
    device: str = ""
    version: int = 0
    problem: str = ""
    on_gpu: bool = True


@dataclass(frozen=True)
class _Plan:
    """What rank 0 has decided: why not, or the identifier of the group of GPUs (CuPy's, whatever type it has)."""

    reason: str
    identifier: Any = None


def open_route(link: Link, backend: Backend) -> None:
    """Let arrays on GPUs travel by NCCL, if every rank has a GPU of its own.

    All ranks call it at the same time, when they have chosen their devices. ``link.path`` then says how arrays travel,
    and where not by NCCL, why not.

    Parameters
    ----------
    link : of this rank
    backend : of this rank; its current device is the one whose arrays are sent

    Raises
    ------
    RankError
        A rank has ended or hangs.
    """
    mine = _place(backend)
    if link.rank:
        link.send(0, _ROUTE, mine)
        plan = _of_rank_0(link)
    else:
        places = [mine, *(link.receive(rank).content for rank in link.others)]
        plan = _decided(link, places, backend)
        for rank in link.others:
            link.send(rank, _ROUTE, plan)
    if plan.identifier is None:
        link.path += f" ({plan.reason})" if plan.reason else ""
        return
    route, problem = _joined(link, backend, plan.identifier)
    problem = _first_problem(link, problem)
    if route is None or problem:
        if route is not None:
            route.close()
        link.path += f" (not by NCCL: {problem})"
        return
    link.route = route
    link.path = f"NCCL {_dotted(mine.version)} between GPUs, {link.path} for messages"


def _place(backend: Backend) -> _Place:
    if not backend.on_gpu:
        return _Place(on_gpu=False)
    nccl = _nccl(backend)
    if not nccl.available:
        return _Place(
            problem="CuPy finds no NCCL; pip install nvidia-nccl-cu12 (or -cu13, as CuPy) brings it"
        )
    # containers have names of their own, but the boot of their machine
    machine = _BOOT.read_text().strip() if _BOOT.is_file() else socket.gethostname()
    return _Place(machine, _bus_id(backend), int(nccl.get_version()))


def _nccl(backend: Backend) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that NCCL is missing; we say so ourselves
        return importlib.import_module(f"{backend.xp.__name__}.cuda.nccl")


def _bus_id(backend: Backend) -> str:
    """The address of the card: the same for all parts into which a card is divided (MIG), as NCCL sees it."""
    return str(backend.xp.cuda.Device().pci_bus_id)


def _dotted(version: int) -> str:
    """22304 -> 2.23.4"""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _of_rank_0(link: Link) -> Any:
    """What rank 0 says of the route."""
    message = link.receive(0)
    if message.kind != _ROUTE:
        raise RankError(f"{link.names[0]} has ended before the GPUs were connected")
    return message.content


def _decided(link: Link, places: Sequence[_Place], backend: Backend) -> _Plan:
    """Whether all ranks can use NCCL, decided by rank 0."""
    if not any(place.on_gpu for place in places):
        return _Plan("")
    owners: dict[tuple[str, str], int] = {}
    for rank, place in enumerate(places):
        name = link.names[rank]
        if not place.on_gpu:
            return _Plan(f"not by NCCL: {name} computes on the CPU")
        if place.problem:
            return _Plan(f"not by NCCL: {name}: {place.problem}")
        if place.version != places[0].version:
            versions = f"{_dotted(places[0].version)} and {_dotted(place.version)}"
            return _Plan(f"not by NCCL: {link.names[0]} and {name} have different versions of it, {versions}")
        other = owners.setdefault((place.machine, place.device), rank)
        if other != rank:
            return _Plan(
                f"not by NCCL: {link.names[other]} and {name} share the GPU at {place.device}, and NCCL needs one for "
                "each rank"
            )
    return _Plan("", _nccl(backend).get_unique_id())


def _joined(link: Link, backend: Backend, identifier: Any) -> tuple[NcclRoute | None, str]:
    """The route, or why the GPUs could not be connected."""
    nccl, device, made, errors = _nccl(backend), backend.xp.cuda.Device(), [], []

    def join() -> None:
        try:
            with device:
                made.append(nccl.NcclCommunicator(link.size, identifier, link.rank))
        except Exception as error:  # noqa: BLE001 - NCCL's, and those of a driver that it loads
            errors.append(f"{type(error).__name__}: {error}")

    # waits for the other ranks, and cannot be interrupted
    thread = threading.Thread(target=join, name="NCCL", daemon=True)
    thread.start()
    pause = Pause(_SPIN_S)
    watches = [link.watching(rank) for rank in (link.others if link.rank == 0 else (0,))]
    with _beating(link):
        while thread.is_alive() and pause.waited_s < _JOIN_S:
            pause.wait()
            link.progress()
            for watch in watches:
                watch(pause.waited_s)
    if thread.is_alive():
        return None, f"the GPUs did not connect within {_JOIN_S:.0f} s; {_HINT}"
    if errors:
        return None, f"the GPUs cannot be connected ({errors[0]}); {_HINT}"
    return NcclRoute(link, backend.xp, nccl, made[0]), ""


def _beating(link: Link) -> AbstractContextManager[None]:
    """Context in which rank 0 knows that this rank is alive."""
    return link.computing() if link.rank else contextlib.nullcontext()


def _first_problem(link: Link, problem: str) -> str:
    """The problem of any rank, told to all."""
    if link.rank:
        link.send(0, _ROUTE, problem)
        return str(_of_rank_0(link))
    problems = [problem, *(link.receive(rank).content for rank in link.others)]
    named = [f"{name}: {text}" for name, text in zip(link.names, problems, strict=True) if text]
    first = named[0] if named else ""
    for rank in link.others:
        link.send(rank, _ROUTE, first)
    return first


class NcclRoute(Route):
    """Sends and receives arrays of CuPy.

    Each call returns when the arrays have arrived, since a rank that waits inside of CUDA for one that has died could
    not be woken. What is on its way when another rank dies, or hangs, is given up, and with it the route.

    Parameters
    ----------
    link : by which the other ranks are known to be alive
    xp, nccl : cupy and cupy.cuda.nccl
    communicator : of all ranks (cupy.cuda.nccl.NcclCommunicator), with their numbers in the link
    """

    def __init__(self, link: Link, xp: Any, nccl: Any, communicator: Any) -> None:
        self._link, self._xp, self._nccl = link, xp, nccl
        self._communicator = communicator

    def takes(self, array: Array) -> bool:
        return isinstance(array, self._xp.ndarray)

    def send(self, to: int, arrays: Sequence[Array]) -> None:
        with self._travelling(to):
            # its memory is held until it has been sent
            sent = [self._xp.ascontiguousarray(array) for array in arrays]
            self._transfer(self._communicator.send, to, sent)

    def receive(self, source: int, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> list[Array]:
        with self._travelling(source):
            arrays = [self._xp.empty(shape, np.dtype(name)) for name, shape in shapes]
            self._transfer(self._communicator.recv, source, arrays)
        return arrays

    def close(self) -> None:
        """Also while something is on its way; nobody needs to agree."""
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort()

    def _transfer(self, call: Callable[..., None], peer: int, arrays: Sequence[Array]) -> None:
        """Queue transfers behind the kernels that make the arrays, and wait for them."""
        cuda = self._xp.cuda
        stream = cuda.get_current_stream()
        self._nccl.groupStart()
        try:
            for array in arrays:
                if array.nbytes:  # as bytes, since NCCL has no complex numbers
                    call(array.data.ptr, array.nbytes, self._nccl.NCCL_UINT8, peer, stream.ptr)
        finally:
            self._nccl.groupEnd()
        arrived = cuda.Event(disable_timing=True)
        arrived.record(stream)
        watch, pause = self._link.watching(peer), Pause(_SPIN_S)
        enough_s = sum(array.nbytes for array in arrays) / _SLOWEST
        with _beating(self._link):
            while not arrived.done:
                pause.wait()
                self._communicator.check_async_error()
                watch(pause.waited_s)
                if pause.waited_s < enough_s:
                    self._link.progress()

    @contextlib.contextmanager
    def _travelling(self, peer: int) -> Iterator[None]:
        """Context of a transfer, which gives the route up if it does not succeed."""
        names = f"{self._link.names[self._link.rank]} and {self._link.names[peer]}"
        if self._communicator is None:
            raise RankError(f"the way by NCCL between {names} was given up after an error")
        try:
            yield
        except (self._nccl.NcclError, self._xp.cuda.runtime.CUDARuntimeError) as error:
            self.close()
            raise RankError(f"NCCL fails between {names} ({error}); {_HINT}") from error
        except BaseException:
            self.close()
            raise
