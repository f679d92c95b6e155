"""The loss over all patterns and its gradient, in batches that fit into memory, on all cores."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Iterable
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
    """

    loss: float
    sse: float
    gradients: dict[str, Array]
    terms: dict[str, float] = field(default_factory=dict)


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
    ) -> Evaluated:
        """Loss and gradient of the named blocks over the patterns ``indices`` (sorted).

        ``weight`` is that of the data term; regularisers have their own.

        Raises
        ------
        ResourceError
            Not even one pattern at a time fits into memory.
        """
        names = tuple(refined)
        while True:
            try:
                result = self._sum_batches(variables, names, indices)
                break
            except out_of_memory_errors() as error:
                self._halve_batch(error)
        for gradient in result.gradients.values():
            gradient *= weight
        result.loss *= weight
        for regularizer in regularizers:
            value, gradient = regularizer.value_and_gradient(variables.block(regularizer.block))
            result.loss += value
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

    def _sum_batches(self, variables: Variables, names: tuple[str, ...], indices: np.ndarray) -> Evaluated:
        points = self.model.prepare(variables)
        batches = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        shares = [batches[i :: self.n_threads] for i in range(min(self.n_threads, len(batches)))]
        map_ = map if self._pool is None else self._pool.map
        parts = map_(
            functools.partial(self._share, variables, names, points), shares, self._workspaces[: len(shares)]
        )
        evaluated = _add(list(parts))  # in a fixed order: the same bits every time
        self.model.finish(evaluated.gradients)
        return evaluated

    def _share(
        self,
        variables: Variables,
        names: tuple[str, ...],
        points: list,
        share: list[np.ndarray],
        workspace: Workspace,
    ) -> Evaluated:
        """One thread's batches, with accumulators of its own."""
        out = Evaluated(0.0, 0.0, variables.zeros(names))
        for indices in share:
            batch = self.feed.batch(indices, workspace)
            tapes: list[Tape] = []
            intensity = self.model.forward(points, batch, tapes)
            loss, sse, slope = score(self.noise, intensity, batch.data, batch.weights, workspace)
            out.loss += loss
            out.sse += sse
            if names:
                self.model.adjoint(slope, points, batch, tapes, out.gradients)
        return out

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


def _add(parts: list[Evaluated]) -> Evaluated:
    first = parts[0]
    for part in parts[1:]:
        first.loss += part.loss
        first.sse += part.sse
        for name, gradient in part.gradients.items():
            first.gradients[name] += gradient
    return first
