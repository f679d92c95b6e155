"""Smaller batches where memory runs out: what all copies of an objective share, and how it shrinks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.device_errors import device_errors
from pypty.backend.memory import release_unused
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.data.feed import Feed
from pypty.errors import PyptyError, ResourceError
from pypty.model.blocks import Variables
from pypty.model.forward import Model
from pypty.objective.replay import Replay

T = TypeVar("T")
Taker = Callable[[Batch, Array], None]
_log = logging.getLogger(__name__)
_ADVICE = "use default_dtype='single', fewer slices or modes, or a smaller window"


def _unheard() -> None:
    """Progress that nobody follows."""


class Batches:
    """Sizes of batches, and the memory in which they are computed.

    Looking at patterns takes another amount of memory than gradients, so it has a size of its own: that a figure did
    not fit does not change the rounding of the loss.

    Parameters
    ----------
    size : patterns computed together by one thread
    replay : graphs that point to the workspaces, or None

    Attributes
    ----------
    looked_at : patterns computed together where no gradients are computed (``Objective.visit``)
    progress : is called after every batch
    """

    def __init__(self, backend: Backend, size: int, n_threads: int, replay: Replay | None) -> None:
        self.backend = backend
        self.size = self.looked_at = size
        self.workspaces = [Workspace(backend.xp, backend.fft_library) for _ in range(n_threads)]
        self.replay = replay
        self.progress: Callable[[], None] = _unheard
        self._pool = ThreadPoolExecutor(n_threads) if n_threads > 1 else None

    def run(self, shares: Sequence[T], task: Callable[[T], None]) -> None:
        """Run the task on every share, each in its own thread; raises what one of them raised."""
        if self._pool is None or len(shares) == 1:
            for share in shares:
                task(share)
            return
        running: list[Future] = []
        try:
            for share in shares:
                running.append(self._pool.submit(task, share))
            wait(running)  # for all, also where one has failed: the others still use the workspaces
        finally:
            wait(running)  # also after Ctrl-C
        # A future leaves the list before it raises: an error refers to this frame, and a circle of frame, future and
        # error would keep all arrays of the evaluation.
        while running:
            running.pop(0).result()

    def use(self, size: int) -> None:
        """Compute batches of this size from now on; those that are only looked at are no larger."""
        if size < self.size:
            self._release()
        self.size, self.looked_at = size, min(self.looked_at, size)

    def _release(self) -> None:
        """Release everything of the present size."""
        # graphs point to the buffers, and plans hold work areas (cuFFT) or the buffers themselves (FFTW)
        if self.replay is not None:
            self.replay.clear()
        for workspace in self.workspaces:
            workspace.clear()
        release_unused(self.backend)

    def fewer(self, used: int, n_threads: int, reason: str) -> tuple[int, int]:
        """The next smaller batch and number of threads; everything of the old size is released.

        Parameters
        ----------
        used : patterns in the largest batch that was computed
        reason : what the library said

        Raises
        ------
        ResourceError
            One pattern at a time, on one thread, did not fit.
        """
        self._release()
        if used > 1:
            used //= 2
        elif n_threads > 1:
            n_threads //= 2
        else:
            raise ResourceError(f"out of memory with one pattern at a time; {_ADVICE} ({reason})")
        _log.warning("out of memory: continuing with batches of %d on %d threads", used, n_threads)
        return used, n_threads


def give(
    memory: Batches,
    feed: Feed,
    model: Model,
    variables: Variables,
    indices: np.ndarray,
    takers: Sequence[Taker],
    with_data: bool,
) -> None:
    """``Objective.visit``: each taker gets a part of the patterns, batch by batch. Where memory runs out, the patterns
    that are not yet taken are given in smaller batches, at last to one taker after the other."""
    rest, at_once = np.array_split(indices, len(takers)), len(takers)

    def serve(number: int) -> None:
        part, size = rest[number], memory.looked_at
        chosen = [part[i : i + size] for i in range(0, len(part), size)]
        for batch in feed.batches(chosen, memory.workspaces[number % at_once], with_data=with_data):
            takers[number](batch, model.forward(points, batch, [], keep=False))
            rest[number] = rest[number][len(batch.index) :]
            memory.progress()

    while any(map(len, rest)):
        try:
            with device_errors(), feed.streams.computing():
                points = model.prepare(variables)
                for first in range(0, len(takers), at_once):
                    memory.run(range(first, min(first + at_once, len(takers))), serve)
                return
        except MemoryError as error:
            if isinstance(error, PyptyError):
                raise
            reason = str(error)
        used = min(memory.looked_at, max(map(len, rest)))
        memory.looked_at, at_once = memory.fewer(max(1, used), at_once, reason)
