"""The loss over all patterns and its gradient, in batches that fit into memory, on all cores."""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pypty.backend.array import Array, Backend, to_host
from pypty.backend.memory import out_of_memory_errors, release_unused
from pypty.backend.workspace import Workspace
from pypty.data.feed import Batch, Feed
from pypty.errors import ResourceError
from pypty.model.forward import Model
from pypty.model.stages.base import Tape
from pypty.model.variables import Variables
from pypty.objective.noise import NoiseModel, bounded, score
from pypty.objective.regularizers import Regularizer
from pypty.objective.replay import Replay

_log = logging.getLogger(__name__)


@dataclass
class Evaluated:
    """Value and gradient of the objective at one point, in the internal layout.

    Attributes
    ----------
    loss : weighted data term plus all regularisers
    sse : sum of squared errors (D - I)^2 times the detector weights; not times ``loss_weight``
    gradients : by block name, only the refined ones
    terms : value of each regulariser
    parts : loss of every batch, not weighted: what a trial is compared with (:class:`Limit`)
    """

    loss: float
    sse: float
    gradients: dict[str, Array]
    terms: dict[str, float] = field(default_factory=dict)
    parts: np.ndarray = field(default_factory=lambda: np.zeros(0))
    loss_terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """Above which value of the objective the gradient is not needed.

    A thread that finds, after a quarter of its batches, that their loss has grown expects the trial to be rejected:
    for the rest it computes the loss only, in less than half the time. Where the loss turns out to be low enough, the
    missing gradients are computed after all. On a GPU losses stay where they are, and a thread looks at them twice:
    after a quarter of its batches and after half of them.

    Attributes
    ----------
    value : the limit
    parts : loss of every batch at the start of the line search; empty = no guess is made
    """

    value: float = math.inf
    parts: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class Share:
    """The batches of one thread, with what it has summed up.

    Attributes
    ----------
    batches : indices of the patterns of each
    before : loss of each at the start of the line search; None = not compared
    gradients, workspace : accumulators and memory of the thread
    totals : (batches, 2) float64, loss and sum of squared errors of each batch, where they are computed
    skipped : numbers of the batches of which only the loss was computed
    rejecting : the trial is expected to be rejected
    replay : runs the batches as graphs; None = one kernel after the other
    """

    batches: list[np.ndarray]
    before: np.ndarray | None
    gradients: dict[str, Array]
    workspace: Workspace
    totals: Array
    skipped: list[int] = field(default_factory=list)
    rejecting: bool = False
    replay: Replay | None = None

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """``totals`` on the host: asked for once, when all are computed."""
        return to_host(self.totals)

    @property
    def losses(self) -> np.ndarray:
        """Of each batch."""
        return self.scores[:, 0]

    def expects_rejection(self, number: int) -> bool:
        """Whether the loss of the first batches, a quarter at least, has grown. On a GPU the answer is that of the last
        look at it."""
        seen, n = number + 1, len(self.batches)
        if self.before is None or not self.gradients or 4 * seen < n:
            return False
        if isinstance(self.totals, np.ndarray) or seen in (-(-n // 4), -(-n // 2)):
            losses = to_host(self.totals[:seen])[:, 0]
            self.rejecting = not losses.sum() <= self.before[:seen].sum()
        return self.rejecting


class Objective:
    """Sum of a noise model over patterns.

    Parameters
    ----------
    batch_size : patterns computed together by one thread; halved when memory runs out
    n_threads : batches computed at the same time (1 on a GPU)
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        feed: Feed,
        noise: NoiseModel,
        batch_size: int,
        n_threads: int = 1,
    ) -> None:
        self.backend = backend
        self.model = model
        self.feed = feed
        self.noise = noise
        self.batch_size = batch_size
        self.n_threads = 1 if backend.on_gpu else n_threads
        self._workspaces = [Workspace(backend.xp, backend.fft_library) for _ in range(self.n_threads)]
        self._pool = ThreadPoolExecutor(self.n_threads) if self.n_threads > 1 else None
        self._replay = Replay.for_device(model, feed)

    def with_bounded_slope(self) -> Objective:
        """The same loss, in the same memory, with a slope that suits steps of a fixed length."""
        other = copy.copy(self)
        other.noise = bounded(self.noise)
        return other

    def evaluate(
        self,
        variables: Variables,
        refined: Iterable[str],
        indices: np.ndarray,
        weight: float = 1.0,
        regularizers: Iterable[Regularizer] = (),
        limit: Limit | None = None,
    ) -> Evaluated:
        """Loss and gradient of the named blocks over the patterns ``indices`` (sorted).

        ``weight`` is that of the data term; regularisers have their own. Above ``limit`` there may be no gradients.

        Raises
        ------
        ResourceError
            Not even one pattern at a time fits into memory.
        """
        names = tuple(refined)
        terms = [(one, *one.value_and_gradient(variables.block(one.block))) for one in regularizers]
        penalty = sum(value for _, value, _ in terms)
        data_limit = None if limit is None else Limit((limit.value - penalty) / weight, limit.parts)
        while True:
            try:
                result = self._sum_batches(variables, names, indices, data_limit)
                break
            except out_of_memory_errors() as error:
                self._halve_batch(error)
        for gradient in result.gradients.values():
            gradient *= weight
        result.loss = result.loss * weight + penalty
        for regularizer, value, gradient in terms:
            result.terms[regularizer.name] = value
            if regularizer.block in result.gradients:
                result.gradients[regularizer.block] += gradient
        return result

    def simulate(self, variables: Variables, indices: np.ndarray) -> np.ndarray:
        """Modelled counts (n, ky, kx) on the host, in the order of the model's patterns."""
        parts = []
        with self.feed.streams.computing():
            points = self.model.prepare(variables)
            for batch in self.feed.batches(self._batches(indices), self._workspaces[0], with_data=False):
                intensity = self.model.forward(points, batch, [], keep=False)
                parts.append(intensity.get() if self.backend.on_gpu else intensity.copy())
        return np.concatenate(parts)

    def _batches(self, indices: np.ndarray) -> list[np.ndarray]:
        return [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]

    def _sum_batches(
        self, variables: Variables, names: tuple[str, ...], indices: np.ndarray, limit: Limit | None
    ) -> Evaluated:
        with self.feed.streams.computing():
            points, batches = self.model.prepare(variables), self._batches(indices)
            shares, points = self._shares(variables, names, points, batches, limit)
            self._run(shares, lambda share: self._compute(share, points))
            loss = float(sum(share.losses.sum() for share in shares))
            if limit is not None and loss > limit.value and any(share.skipped for share in shares):
                names = ()
            else:
                self._run(shares, lambda share: self._catch_up(share, points))
            return self._added(shares, names, loss)

    def _shares(
        self,
        variables: Variables,
        names: tuple[str, ...],
        points: list,
        batches: list[np.ndarray],
        limit: Limit | None,
    ) -> tuple[list[Share], list]:
        """The work of every thread, and what all batches share (in fixed places, if they are replayed)."""
        n = min(self.n_threads, len(batches))
        guess = limit is not None and len(limit.parts) == len(batches)
        shares = []
        for i in range(n):
            before = limit.parts[i::n] if limit is not None and guess else None
            totals = self.backend.zeros((len(batches[i::n]), 2), np.float64)
            shares.append(Share(batches[i::n], before, variables.zeros(names), self._workspaces[i], totals))
        replay = self._replay
        if n and replay is not None and replay.covers(self.noise, variables, names, self.batch_size):
            points, shares[0].gradients = replay.begin(points, variables, names, self._workspaces[0])
            shares[0].replay = replay
        return shares, points

    def _run(self, shares: list[Share], task: Callable[[Share], None]) -> None:
        """Each share in a thread."""
        for _ in map(task, shares) if self._pool is None else self._pool.map(task, shares):
            pass

    def _compute(self, share: Share, points: list) -> None:
        step = self._step_on_device if self.backend.on_gpu else self._step
        for number, batch in enumerate(self.feed.batches(share.batches, share.workspace)):
            if not step(share, points, batch, number) and share.gradients:
                share.skipped.append(number)

    def _step(self, share: Share, points: list, batch: Batch, number: int) -> bool:
        """Loss of a batch and, unless it is expected to be of no use, its gradient; whether there is the gradient."""
        keep = bool(share.gradients) and not share.rejecting
        tapes: list[Tape] = []
        slope = self._score(points, batch, tapes, share.totals[number], keep)
        if share.expects_rejection(number) or not keep:
            return False
        self.model.adjoint(slope, points, batch, tapes, share.gradients)
        return True

    def _step_on_device(self, share: Share, points: list, batch: Batch, number: int) -> bool:
        """As :meth:`_step`, but nothing waits for the loss: what is known decides about the next batch."""
        wanted = bool(share.gradients) and not share.rejecting
        self._whole(share, points, batch, share.totals[number], wanted)
        share.expects_rejection(number)
        return wanted

    def _score(self, points: list, batch: Batch, tapes: list[Tape], totals: Array, keep: bool) -> Array:
        """dLoss/dI of a batch; ``totals`` gets loss and squared errors."""
        intensity = self.model.forward(points, batch, tapes, keep)
        measured = (batch.data, batch.weights, batch.workspace, batch.rows, batch.multiplier)
        return score(self.noise, intensity, *measured, totals)[2]

    def _whole(self, share: Share, points: list, batch: Batch, totals: Array, wanted: bool) -> None:
        """Loss of a batch and, if it is wanted, its gradient."""

        def task(batch: Batch, totals: Array) -> None:
            tapes: list[Tape] = []
            slope = self._score(points, batch, tapes, totals, wanted)
            if wanted:
                self.model.adjoint(slope, points, batch, tapes, share.gradients)

        if share.replay is None:
            task(batch, totals)
        else:
            share.replay.run(task, batch, totals, share.gradients, self.noise, wanted)

    def _catch_up(self, share: Share, points: list) -> None:
        """The gradients of batches of which only the loss was computed."""
        chosen = [share.batches[number] for number in share.skipped]
        for number, batch in zip(share.skipped, self.feed.batches(chosen, share.workspace), strict=True):
            self._whole(share, points, batch, share.totals[number], wanted=True)

    def _added(self, shares: list[Share], names: tuple[str, ...], loss: float) -> Evaluated:
        """The sum over shares, in a fixed order: the same bits every time."""
        parts = np.zeros(sum(len(share.batches) for share in shares))
        for i, share in enumerate(shares):
            parts[i :: len(shares)] = share.losses
        gradients = {name: shares[0].gradients[name] for name in names}
        if shares[0].replay is not None:  # the accumulators are used again
            gradients = {name: gradient.copy() for name, gradient in gradients.items()}
        for share in shares[1:]:
            for name, gradient in gradients.items():
                gradient += share.gradients[name]
        self.model.finish(gradients)
        sse = float(sum(share.scores[:, 1].sum() for share in shares))
        return Evaluated(loss, sse, gradients, parts=parts)

    def _halve_batch(self, error: BaseException) -> None:
        for workspace in self._workspaces:
            workspace.clear()
        if self._replay is not None:
            self._replay.clear()
        release_unused(self.backend)
        if self.batch_size > 1:
            self.batch_size = max(1, self.batch_size // 2)
        elif self.n_threads > 1:
            self.n_threads = max(1, self.n_threads // 2)
            del self._workspaces[self.n_threads :]
        else:
            raise ResourceError(
                "out of memory with one pattern at a time; use default_dtype='single', fewer slices or "
                f"modes, or a smaller window ({error})"
            ) from error
        _log.warning(
            "out of memory: going on with batches of %d on %d threads", self.batch_size, self.n_threads
        )
