"""Streams, events, pinned memory and graphs of a CUDA device, and their counterparts for NumPy.

On a device, all kernels of an evaluation run on one stream, and data are copied on a second one, at most two batches
ahead. Events order the two streams, and the host waits for the device once, at the end of an evaluation.
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
"""Buffers for uploads: kernels read one while the next batch is copied to the other."""

_GRAPHS = 16
"""CUDA graphs kept at a time: batches have few shapes, each with and without gradients."""


class Upload(Protocol):
    """An array that is being copied to the device."""

    def receive(self) -> Array:
        """The array on the device; work queued from now on waits until the copy is complete."""

    def release(self) -> None:
        """Allow the memory to be reused: work queued from now on does not read the array."""


class Streams(Protocol):
    """Orders computing and copying."""

    def computing(self) -> AbstractContextManager[None]:
        """Context whose work runs after everything queued before it and before everything queued after it."""

    def upload(self, array: np.ndarray, into: Array = None) -> Upload:
        """Start to copy a host array to the device.

        Parameters
        ----------
        into : destination, of the same shape and type; None for one of two internal buffers
        """


def make_streams(backend: Backend) -> Streams:
    """The streams of the backend's device."""
    return DeviceStreams(backend.xp) if backend.on_gpu else HostStreams()


class _Arrived:
    """An upload that needed no copy."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def receive(self) -> Array:
        return self.array

    def release(self) -> None:
        """Nothing to give back."""


class HostStreams:
    """Streams for NumPy: work runs in program order, and nothing is copied unless a destination is named."""

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
        """A new event, without timing: it only marks a point in the order of a stream."""
        return self.xp.cuda.Event(disable_timing=True)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        outer, passed = self.xp.cuda.get_current_stream(), self.event()
        # Non-blocking streams do not wait for the default stream, so both directions need an event.
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
    """A pinned host buffer and a buffer on the device."""

    def __init__(self, streams: DeviceStreams) -> None:
        self.streams = streams
        self.sent, self.used = streams.event(), streams.event()
        self.pinned = np.zeros(0, np.uint8)
        self.buffer: Array = None
        self.array: Array = None

    def send(self, array: np.ndarray, into: Array) -> None:
        copy = self.streams.copy
        self.sent.synchronize()  # the previous copy from this slot has left the pinned buffer
        pinned = self._pinned(array.shape, array.dtype)
        np.copyto(pinned, array)
        if into is not None:
            self.release()  # queued kernels may still use this memory for another purpose
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
            self.buffer = None  # freed first, so that the old and the new buffer are never held together
            self.buffer = self.streams.xp.empty(n_bytes, np.uint8)
            self.release()  # the pool may hand out memory that queued kernels still use
        return self.buffer[:n_bytes].view(dtype).reshape(shape)


class GraphCache:
    """Sequences of kernels that are launched repeatedly with the same arguments, as CUDA graphs.

    The first run of a task is an ordinary one, which compiles kernels and makes buffers and plans; the second is
    captured, and later ones replay the graph. A task must not wait for the device, and must read values that change
    from buffers at fixed addresses. Arrays that it makes on the way lie in memory of these graphs alone: a replay
    writes where they were, so nobody else may have got that memory. To be used inside ``computing()`` only: the
    default stream cannot be captured.

    Parameters
    ----------
    streams : the streams of the device
    """

    def __init__(self, streams: DeviceStreams) -> None:
        self._cuda = streams.xp.cuda
        self._stream = streams.compute
        self._graphs: dict[Hashable, Any] = {}
        self._memory = self._cuda.MemoryPool()

    def run(self, key: Hashable, task: Callable[[], None]) -> None:
        """Run a task. Tasks with equal keys must make the same launches with the same arguments."""
        if key not in self._graphs:
            if len(self._graphs) >= _GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))  # the oldest: dicts keep the order of insertion
            with self._cuda.using_allocator(self._memory.malloc):
                task()
            self._graphs[key] = None
            return
        if self._graphs[key] is None:
            with self._cuda.using_allocator(self._memory.malloc):
                self._graphs[key] = self._captured(task)
        self._graphs[key].launch(self._stream)

    def _captured(self, task: Callable[[], None]) -> Any:
        self._stream.begin_capture()
        try:
            task()
        except BaseException:
            with contextlib.suppress(Exception):
                # A stream in capture mode is unusable; ending the capture may fail as the graph is incomplete.
                self._stream.end_capture()
            raise
        return self._stream.end_capture()

    def clear(self) -> None:
        """Discard all graphs; needed when buffers have been reallocated."""
        self._graphs.clear()
        self._memory.free_all_blocks()
