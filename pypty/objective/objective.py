"""The loss over all patterns and its gradient, in batches that fit into memory, on all cores."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.memory import out_of_memory_errors, release_unused
from pypty.backend.workspace import Workspace
from pypty.data.feed import Feed
from pypty.errors import ResourceError
from pypty.model.forward import Model
from pypty.model.stages.base import Tape
from pypty.model.variables import Variables
from pypty.objective.noise import NoiseModel, bounded, score
from pypty.objective.regularizers import Regularizer

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


@dataclass(frozen=True)
class Limit:
    """Above which value of the objective the gradient is not needed.

    A thread that finds, after a quarter of its batches, that their loss has grown expects the trial to be rejected:
    for the rest it computes the loss only, in less than half the time. Where the loss turns out to be low enough, the
    missing gradients are computed after all.

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
    losses : of each batch
    skipped : numbers of the batches of which only the loss was computed
    """

    batches: list[np.ndarray]
    before: np.ndarray | None
    gradients: dict[str, Array]
    workspace: Workspace
    sse: float = 0.0
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    skipped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.losses = np.zeros(len(self.batches))

    def expects_rejection(self, number: int) -> bool:
        """Whether the loss of the first batches, a quarter at least, has grown."""
        seen = number + 1
        if self.before is None or 4 * seen < len(self.batches):
            return False
        return not self.losses[:seen].sum() <= self.before[:seen].sum()


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
        points = self.model.prepare(variables)
        parts = []
        for start in range(0, len(indices), self.batch_size):
            chosen = indices[start : start + self.batch_size]
            batch = Feed(self.backend, None, self.feed.corners).batch(chosen, self._workspaces[0])
            intensity = self.model.forward(points, batch, [])
            parts.append(intensity.get() if self.backend.on_gpu else intensity.copy())
        return np.concatenate(parts)

    def _sum_batches(
        self, variables: Variables, names: tuple[str, ...], indices: np.ndarray, limit: Limit | None
    ) -> Evaluated:
        points = self.model.prepare(variables)
        batches = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        n = min(self.n_threads, len(batches))
        guess = limit is not None and len(limit.parts) == len(batches)
        shares = [
            Share(
                batches[i::n],
                limit.parts[i::n] if limit is not None and guess else None,
                variables.zeros(names),
                workspace,
            )
            for i, workspace in zip(range(n), self._workspaces, strict=False)
        ]
        self._run(shares, lambda share: self._compute(share, points))
        loss = float(sum(share.losses.sum() for share in shares))
        if limit is not None and loss > limit.value and any(share.skipped for share in shares):
            names = ()
        else:
            self._run(shares, lambda share: self._catch_up(share, points))
        return self._added(shares, names, loss)

    def _run(self, shares: list[Share], task: Callable[[Share], None]) -> None:
        """Each share in a thread."""
        for _ in map(task, shares) if self._pool is None else self._pool.map(task, shares):
            pass

    def _compute(self, share: Share, points: list) -> None:
        for number, indices in enumerate(share.batches):
            batch = self.feed.batch(indices, share.workspace)
            tapes: list[Tape] = []
            intensity = self.model.forward(points, batch, tapes)
            loss, sse, slope = score(self.noise, intensity, batch.data, batch.weights, share.workspace)
            share.losses[number] = loss
            share.sse += sse
            if not share.gradients:
                continue
            if share.expects_rejection(number):
                share.skipped.append(number)
            else:
                self.model.adjoint(slope, points, batch, tapes, share.gradients)

    def _catch_up(self, share: Share, points: list) -> None:
        """The gradients of batches of which only the loss was computed."""
        for number in share.skipped:
            batch = self.feed.batch(share.batches[number], share.workspace)
            tapes: list[Tape] = []
            intensity = self.model.forward(points, batch, tapes)
            slope = score(self.noise, intensity, batch.data, batch.weights, share.workspace)[2]
            self.model.adjoint(slope, points, batch, tapes, share.gradients)

    def _added(self, shares: list[Share], names: tuple[str, ...], loss: float) -> Evaluated:
        """The sum over shares, in a fixed order: the same bits every time."""
        parts = np.zeros(sum(len(share.batches) for share in shares))
        for i, share in enumerate(shares):
            parts[i :: len(shares)] = share.losses
        gradients = {name: shares[0].gradients[name] for name in names}
        for share in shares[1:]:
            for name, gradient in gradients.items():
                gradient += share.gradients[name]
        self.model.finish(gradients)
        return Evaluated(loss, float(sum(share.sse for share in shares)), gradients, parts=parts)

    def _halve_batch(self, error: BaseException) -> None:
        for workspace in self._workspaces:
            workspace.clear()
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
