"""Streams, events, pinned memory and graphs of a CUDA device, and their twins where NumPy computes.

The order of things on a device: all kernels of an evaluation run on one stream of their own; data arrive on another
one, two batches ahead at most. Events order the two, and the host waits for the device once, when an evaluation ends.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from pypty.backend.array import Array, Backend

_SLOTS = 2
"""Buffers for data on their way: one is computed with while the other is filled."""

_GRAPHS = 16
"""That are kept at a time: few shapes of batches, with and without gradients."""


class Upload(Protocol):
    """An array on its way to where it is computed with."""

    def receive(self) -> Array:
        """The array; what is queued from now on runs when it is there."""

    def release(self) -> None:
        """Nothing that is queued from now on reads it: its memory is used again."""


class Streams(Protocol):
    """What orders computing and copying."""

    def computing(self) -> AbstractContextManager[None]:
        """Inside, everything runs after what was queued before, and before what is queued afterwards."""

    def upload(self, array: np.ndarray, into: Array = None) -> Upload:
        """Start to copy an array of the host.

        Parameters
        ----------
        into : where to, of the same shape and type; None: a buffer, of which there are two
        """


def make_streams(backend: Backend) -> Streams:
    """Those of the backend's device."""
    return DeviceStreams(backend.xp) if backend.on_gpu else HostStreams()


class _Arrived:
    """Nothing was ever on its way."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def receive(self) -> Array:
        return self.array

    def release(self) -> None:
        """Nothing to give back."""


class HostStreams:
    """Where NumPy computes, everything happens in the order of the program, and nothing is copied."""

    def computing(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def upload(self, array: np.ndarray, into: Array = None) -> Upload:
        if into is not None:
            into[...] = array
        return _Arrived(array if into is None else into)


class DeviceStreams:
    """A stream for kernels, a stream for copies to the device, and pinned memory for them.

    Parameters
    ----------
    xp : CuPy
    """

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.compute = xp.cuda.Stream(non_blocking=True)
        self.copy = xp.cuda.Stream(non_blocking=True)
        self._slots = [_Slot(self) for _ in range(_SLOTS)]
        self._next = 0

    def event(self) -> Any:
        """A point in the order of a stream."""
        return self.xp.cuda.Event(disable_timing=True)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        outer, passed = self.xp.cuda.get_current_stream(), self.event()
        passed.record(outer)
        self.compute.wait_event(passed)
        try:
            with self.compute:
                yield
        finally:
            passed.record(self.compute)
            outer.wait_event(passed)

    def upload(self, array: np.ndarray, into: Array = None) -> Upload:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % _SLOTS
        slot.send(array, into)
        return slot


class _Slot:
    """A pinned buffer and one on the device."""

    def __init__(self, streams: DeviceStreams) -> None:
        self.streams = streams
        self.sent, self.used = streams.event(), streams.event()
        self.pinned = np.zeros(0, np.uint8)
        self.buffer: Array = None
        self.array: Array = None

    def send(self, array: np.ndarray, into: Array) -> None:
        copy = self.streams.copy
        self.sent.synchronize()  # the copy of two batches ago has left the pinned buffer
        pinned = self._pinned(array.shape, array.dtype)
        np.copyto(pinned, array)
        if into is not None:
            self.release()  # kernels that are queued may still use the memory for something else
        self.array = self._on_device(array.shape, array.dtype) if into is None else into
        copy.wait_event(self.used)
        self.array.set(pinned, stream=copy)
        self.sent.record(copy)

    def receive(self) -> Array:
        self.streams.xp.cuda.get_current_stream().wait_event(self.sent)
        return self.array

    def release(self) -> None:
        self.used.record(self.streams.xp.cuda.get_current_stream())

    def _pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        if self.pinned.nbytes < n_bytes:
            self.pinned = importlib.import_module("cupyx").empty_pinned(n_bytes, np.uint8)
        return self.pinned[:n_bytes].view(dtype).reshape(shape)

    def _on_device(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        if self.buffer is None or self.buffer.nbytes < n_bytes:
            self.buffer = None
            self.buffer = self.streams.xp.empty(n_bytes, np.uint8)
            self.release()  # as above
        return self.buffer[:n_bytes].view(dtype).reshape(shape)


class GraphCache:
    """Kernels that are launched again and again with the same arguments, as CUDA graphs.

    What a task launches is run as it is the first time (kernels are compiled, buffers and plans made), captured the
    second time, and replayed from then on. It may not allocate, nor wait for the device, and reads what changes from
    buffers of fixed addresses. Only inside ``computing()``: the default stream cannot be captured.

    Parameters
    ----------
    streams : of the device
    """

    def __init__(self, streams: DeviceStreams) -> None:
        self._stream = streams.compute
        self._graphs: dict[Hashable, Any] = {}

    def run(self, key: Hashable, task: Callable[[], None]) -> None:
        """Do a task; the same key promises the same launches with the same arguments."""
        if key not in self._graphs:
            if len(self._graphs) >= _GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            task()
            self._graphs[key] = None
            return
        if self._graphs[key] is None:
            self._graphs[key] = self._captured(task)
        self._graphs[key].launch(self._stream)

    def _captured(self, task: Callable[[], None]) -> Any:
        self._stream.begin_capture()
        try:
            task()
        except BaseException:
            with contextlib.suppress(Exception):
                self._stream.end_capture()  # or the stream would stay unusable; it may complain about the graph
            raise
        return self._stream.end_capture()

    def clear(self) -> None:
        """Forget all graphs: buffers have moved."""
        self._graphs.clear()
