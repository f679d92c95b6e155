"""A pass over patterns in batches, on the threads of this process: first the losses, then what is missing of the
gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.cuda.score import N_TOTALS
from pypty.data.batch import Batch
from pypty.data.feed import Feed
from pypty.model.blocks import Variables
from pypty.model.forward import Model
from pypty.model.stages.base import Tape
from pypty.objective.back_off import Batches
from pypty.objective.free_pixels import FreePixels
from pypty.objective.noise import NoiseModel, score
from pypty.objective.powers import N_SUMS, PowerSum
from pypty.objective.share import Evaluated, Limit, Share, added, unread

if TYPE_CHECKING:
    from pypty.objective.objective import Objective

Look = Callable[["Objective", Variables, np.ndarray], Any]
"""A function of the objective of a rank, the unknowns and patterns; one of a module, since it is sent by its name."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a pass is to compute.

    Attributes
    ----------
    names : blocks whose gradients are wanted
    indices : sorted numbers of the patterns
    limit : the loss above which gradients are not needed; None = there is none
    noise : the loss of each pixel
    n_threads, batch_size : of this pass
    """

    variables: Variables
    names: tuple[str, ...]
    indices: np.ndarray
    limit: Limit | None
    noise: NoiseModel
    n_threads: int
    batch_size: int


def decided(task: Task, loss: float) -> tuple[str, ...]:
    """Blocks whose gradients are wanted when the whole loss is known: none of a trial that is rejected.

    That holds also where no rejection was expected and gradients were computed: whether they were depends on the number
    of batches, threads and ranks, and the steps of a line search must not.
    """
    return () if task.limit is not None and loss > task.limit.value else task.names


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Makes passes over the patterns of a feed.

    Attributes
    ----------
    memory : of all passes; one at a time
    free : pixels that are not fitted; None = there are none
    """

    backend: Backend
    model: Model
    feed: Feed
    memory: Batches
    free: FreePixels | None

    def begin(self, task: Task) -> Pass:
        """A pass that is ready to compute."""
        return Pass(self, task)


class Others(Protocol):
    """Other ranks, each of which computes a part of every pass.

    Attributes
    ----------
    text : how many there are, and how they are reached
    """

    @property
    def text(self) -> str: ...

    def summed(self, own: Passes, task: Task) -> Evaluated:
        """The sum over the patterns of all ranks, in the order of ranks.

        Raises
        ------
        MemoryError
            A rank has no memory for a batch; all have dropped what they had computed.
        RankError
            A rank has died, hangs or failed.
        """

    def everywhere(self, own: Objective, look: Look, variables: Variables, indices: np.ndarray) -> list[Any]:
        """What each rank sees when it looks at its patterns, in the order of ranks."""


class Pass:
    """One pass. First :meth:`compute`, then :meth:`finished` or :meth:`unread`.

    All three run in the context ``feed.streams.computing()`` of the caller.
    """

    def __init__(self, means: Passes, task: Task) -> None:
        self._means = means
        self.task = task
        batches = batches_of(task.indices, task.batch_size, task.n_threads)
        self._points = means.model.prepare(task.variables)
        self._shares = self._begin(batches)

    def _begin(self, batches: list[np.ndarray]) -> list[Share]:
        """The work of every thread; what all batches share goes to fixed places, if they are replayed."""
        task, memory, limit = self.task, self._means.memory, self.task.limit
        n = min(task.n_threads, len(batches))
        # a batch writes one row of totals: those of score, or all sums of loss_terms
        width = N_SUMS if isinstance(task.noise, PowerSum) else N_TOTALS
        guess = limit is not None and len(limit.parts) == len(batches)
        shares = []
        for i in range(n):
            # batches are dealt out in turn (i, i + n, ...), and so are their losses at the start
            before = limit.parts[i::n] if limit is not None and guess else None
            totals = self._means.backend.zeros((len(batches[i::n]), width), np.float64)
            shares.append(
                Share(
                    batches=batches[i::n],
                    before=before,
                    gradients=task.variables.zeros(task.names),
                    workspace=memory.workspaces[i],
                    totals=totals,
                    noise=task.noise,
                )
            )
        replay, largest = memory.replay, max(map(len, batches), default=0)
        if n and replay is not None and replay.covers(task.noise, task.variables, largest):
            own, work = shares[0], memory.workspaces[0]
            self._points, own.gradients, own.noise = replay.begin(
                self._points, task.variables, task.names, task.noise, work
            )
            own.replay = replay
        return shares

    @property
    def single(self) -> bool:
        """Whether one thread computes everything."""
        return len(self._shares) == 1

    @property
    def loss(self) -> float:
        """The sum over all batches."""
        return float(sum(share.losses.sum() for share in self._shares))

    @property
    def skipped(self) -> bool:
        """Whether there are batches of which only the loss was computed."""
        return any(share.skipped for share in self._shares)

    def compute(self) -> None:
        """The loss of every batch, and its gradient unless a rejection is expected."""
        self._means.memory.run(self._shares, self._compute)

    def unread(self) -> Evaluated:
        """The result of the only thread, with numbers that stay on the device."""
        return unread(self._shares[0], self._gradients(self.task.names))

    def finished(self, names: tuple[str, ...]) -> Evaluated:
        """The result, with the gradients of these blocks; those of skipped batches are computed now."""
        if names and self.skipped:
            self._means.memory.run(self._shares, self._catch_up)
        return added(self._shares, self._gradients(names), self.loss)

    def _compute(self, share: Share) -> None:
        step = self._step_on_device if self._means.backend.on_gpu else self._step
        for number, batch in enumerate(self._means.feed.batches(share.batches, share.workspace)):
            share.begin(batch)
            if not step(share, batch, number) and share.gradients:
                share.skipped.append(number)
            self._means.memory.progress()

    def _step(self, share: Share, batch: Batch, number: int) -> bool:
        """Loss of a batch and its gradient, unless a rejection is expected; returns whether the gradient was added."""
        keep = bool(share.gradients) and not share.rejecting
        tapes: list[Tape] = []
        slope = self._score(share, batch, tapes, share.totals[number], keep)
        # decided before the adjoint, which takes more than half of the time of a batch
        if share.expects_rejection(number) or not keep:
            return False
        self._means.model.adjoint(slope, self._points, batch, tapes, share.gradients)
        return True

    def _step_on_device(self, share: Share, batch: Batch, number: int) -> bool:
        """As :meth:`_step`, but without waiting for the loss, which decides about the next batch instead."""
        # reading the loss would stop the device until its queue is empty
        wanted = bool(share.gradients) and not share.rejecting
        self._whole(share, batch, share.totals[number], wanted)
        share.expects_rejection(number)
        return wanted

    def _score(self, share: Share, batch: Batch, tapes: list[Tape], totals: Array, keep: bool) -> Array:
        """dLoss/dI of a batch; ``totals`` gets loss and squared errors."""
        free = self._means.free
        # (b, ky, kx), or (b, 1, D) with virtual detectors
        intensity = self._means.model.forward(self._points, batch, tapes, keep)
        measured = (batch.data, batch.weights, batch.workspace, batch.rows, batch.multiplier)
        index = None if free is None else batch.index_of(intensity)
        if isinstance(share.noise, PowerSum):
            return share.noise.score(intensity, *measured, totals, share.patterns, free, index)
        return score(share.noise, intensity, *measured, totals, free, index)[2]

    def _whole(self, share: Share, batch: Batch, totals: Array, wanted: bool) -> None:
        """Loss of a batch and, if it is wanted, its gradient."""

        def compute(batch: Batch, totals: Array) -> None:
            tapes: list[Tape] = []
            slope = self._score(share, batch, tapes, totals, wanted)
            if wanted:
                self._means.model.adjoint(slope, self._points, batch, tapes, share.gradients)

        if share.replay is None:
            compute(batch, totals)
        else:
            share.replay.run(compute, batch, totals, share.gradients, share.noise, wanted)

    def _catch_up(self, share: Share) -> None:
        """Compute the gradients of batches of which only the loss was computed."""
        # totals are written a second time, with the same values
        chosen = [share.batches[number] for number in share.skipped]
        feed = self._means.feed
        for number, batch in zip(share.skipped, feed.batches(chosen, share.workspace), strict=True):
            self._whole(share, batch, share.totals[number], wanted=True)
            self._means.memory.progress()

    def _gradients(self, names: tuple[str, ...]) -> dict[str, Array]:
        """The sum over shares, in a fixed order: the same bits every time."""
        if not self._shares:  # no patterns
            return self.task.variables.zeros(names)
        first = self._shares[0]
        gradients = {name: first.gradients[name] for name in names}
        if first.replay is not None:  # the accumulators are used again
            gradients = {name: gradient.copy() for name, gradient in gradients.items()}
        for share in self._shares[1:]:
            for name, gradient in gradients.items():
                gradient += share.gradients[name]
        self._means.model.finish(gradients)
        return gradients


def batches_of(indices: np.ndarray, batch_size: int, n_threads: int) -> list[np.ndarray]:
    """Indices of each batch; few patterns are shared out evenly, so that no thread waits for another."""
    # ceil(patterns / threads), if that is less than a batch
    size = max(1, min(batch_size, math.ceil(len(indices) / n_threads)))
    return [indices[i : i + size] for i in range(0, len(indices), size)]
