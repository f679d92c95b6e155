"""The loss over all patterns and its gradient, in batches that fit into memory, on all cores."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.device_errors import device_errors
from pypty.data.batch import Batch
from pypty.data.feed import Feed
from pypty.errors import PyptyError
from pypty.model.blocks import Variables
from pypty.model.forward import Model
from pypty.objective.back_off import Batches, give
from pypty.objective.combined import LossTerms
from pypty.objective.free_pixels import FreePixels
from pypty.objective.noise import NoiseModel, bounded
from pypty.objective.passes import Look, Others, Passes, Task, batches_of, decided
from pypty.objective.regularizers import Regularizer
from pypty.objective.replay import Replay
from pypty.objective.share import Evaluated, Limit, fetched

_WORTH_A_THREAD = 2**17
"""Pixels of the waves of a batch (patterns x modes x slices) below which a second thread is slower, as measured."""


class Objective:
    """Sum of a noise model over patterns.

    Parameters
    ----------
    batch_size : patterns computed together by one thread; halved when memory runs out
    n_threads : batches computed at the same time (1 on a GPU)
    terms : ``loss_terms``, whose additive part is ``noise``; None = the loss is that of the noise model alone
    free : pixels that are not fitted; None = there are none

    Attributes
    ----------
    others : ranks that compute a part of the patterns; None = this process computes all
    passes : how this process computes its patterns
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        feed: Feed,
        noise: NoiseModel,
        batch_size: int,
        n_threads: int = 1,
        terms: LossTerms | None = None,
        free: FreePixels | None = None,
    ) -> None:
        self.backend = backend
        self.model = model
        self.feed = feed
        self.noise = noise
        self.terms = terms
        self.free = free
        self.n_threads = 1 if backend.on_gpu else n_threads
        self._memory = Batches(backend, batch_size, self.n_threads, Replay.for_device(model, feed))
        self.others: Others | None = None
        self.passes = Passes(backend=backend, model=model, feed=feed, memory=self._memory, free=free)

    @property
    def batch_size(self) -> int:
        """Patterns computed together by one thread; smaller than at the start if memory has run out."""
        return self._memory.size

    @property
    def executor(self) -> str:
        """What computes the waves, and why no faster one; on how many ranks."""
        own = self.model.executor
        return own if self.others is None else f"{own}; {self.others.text}"

    @property
    def rounding(self) -> tuple[int, int]:
        """Batch size and number of threads: what the last digits of sums over patterns depend on."""
        return self.batch_size, self.n_threads

    def with_bounded_slope(self) -> Objective:
        """The same loss, in the same memory, with a slope that suits steps of a fixed length."""
        other = copy.copy(self)
        if self.terms is None:
            other.noise = bounded(self.noise)
        else:
            other.terms = self.terms.with_bounded_slope()
        return other

    def for_batches(self, n_patterns: int, variables: Variables) -> Objective:
        """The same loss, in the same memory, for mini-batches of ``n_patterns``. Uses fewer threads for small
        batches: starting a thread costs more than a small array."""
        # probe (P, y, x) and object (O, z): pixels of all waves of one pattern
        modes = math.prod(variables.probe.shape[-3:]) * math.prod(variables.obj.shape[:2])
        threads = max(1, min(self.n_threads, n_patterns * modes // _WORTH_A_THREAD))
        if threads == self.n_threads:
            return self
        other = copy.copy(self)
        other.n_threads = threads
        return other

    def use_batches(self, size: int) -> None:
        """Compute batches of this size from now on, as all ranks do."""
        if size != self.batch_size:
            self._memory.use(size)

    def on_progress(self, told: Callable[[], None]) -> None:
        """Call a function after every batch."""
        self._memory.progress = told

    def alone(self, feed: Feed) -> Objective:
        """The same loss, in the same memory, over patterns of this process, which another feed places."""
        other = copy.copy(self)
        other.others, other.feed = None, feed
        other.passes = dataclasses.replace(self.passes, feed=feed)
        return other

    @property
    def adds_up(self) -> bool:
        """Whether losses of subsets of the patterns add up to the total; not with ``loss_scale`` ratio."""
        return self.terms is None or not self.terms.ratio

    def evaluate(
        self,
        variables: Variables,
        refined: Iterable[str],
        indices: np.ndarray,
        weight: float = 1.0,
        regularizers: Iterable[Regularizer] = (),
        limit: Limit | None = None,
        *,
        wait: bool = True,
    ) -> Evaluated:
        """Loss and gradient of the named blocks over the patterns ``indices`` (sorted).

        ``weight`` multiplies the data term only; regularisers have separate weights. Above ``limit``
        gradients may be missing. Without ``wait`` the loss may stay on the device until ``share.read`` is called, so
        that batches can follow each other without a pause; with ``loss_terms`` it is needed for the gradient.

        Raises
        ------
        ResourceError
            Not even one pattern at a time fits into memory.
        """
        names, penalties = tuple(refined), tuple(regularizers)
        while True:
            try:
                with device_errors():
                    return self._evaluated(variables, names, indices, weight, penalties, limit, wait)
            except MemoryError as error:
                if isinstance(error, PyptyError):
                    raise
                reason = str(error)
            # Here, as the error keeps all arrays of the evaluation. A smaller batch starts over: gradients that were
            # summed up so far are dropped.
            used = max(map(len, batches_of(indices, *self.rounding)), default=1)
            size, self.n_threads = self._memory.fewer(used, self.n_threads, reason)
            self._memory.use(size)

    def _evaluated(
        self,
        variables: Variables,
        names: tuple[str, ...],
        indices: np.ndarray,
        weight: float,
        regularizers: Sequence[Regularizer],
        limit: Limit | None,
        wait: bool,
    ) -> Evaluated:
        """:meth:`evaluate` with the present batches."""
        terms = [(term, *term.value_and_gradient(variables.block(term.block))) for term in regularizers]
        penalties = {term.name: value for term, value, _ in terms}
        if limit is not None:
            # regularisers come first: they are cheap, and the rest of the limit is for the data
            penalties = fetched(penalties)
            limit = Limit((limit.value - sum(penalties.values())) / weight, limit.parts)
        result = self._of_patterns(variables, names, indices, limit, wait)
        # in place: these arrays belong to the evaluation
        for gradient in result.gradients.values() if weight != 1 else ():
            gradient *= weight
        if result.unread is not None:
            result.unread.weight, result.unread.penalties = weight, penalties
        else:
            result.terms = fetched(penalties)
            result.loss = result.loss * weight + sum(result.terms.values())
        result.loss_terms = {name: weight * value for name, value in result.loss_terms.items()}
        for regularizer, _, gradient in terms:
            if regularizer.block in result.gradients:
                result.gradients[regularizer.block] += gradient
        result.rounding = self.rounding
        return result

    def simulate(self, variables: Variables, indices: np.ndarray) -> np.ndarray:
        """(n, ky, kx) modelled counts on the host, in the order of the model's pixels."""
        parts: list[np.ndarray] = []
        self.model_output(variables, indices, self.model, parts.append)
        return np.concatenate(parts)

    def model_output(
        self, variables: Variables, indices: np.ndarray, model: Model, take: Callable[[np.ndarray], None]
    ) -> None:
        """Give ``take`` what a model computes, batch by batch, on the host."""

        def taken(_: Batch, out: Array) -> None:
            take(out.get() if self.backend.on_gpu else out.copy())

        self.visit(variables, indices, [taken], model, with_data=False)

    def everywhere(self, look: Look, variables: Variables, indices: np.ndarray) -> list[Any]:
        """``look(objective, variables, indices)`` on every rank, for its part of the patterns, in the order of ranks.

        Parameters
        ----------
        look : a function of a module, or a partial of one with arguments on the host
        """
        if self.others is None:
            return [look(self, variables, indices)]
        return self.others.everywhere(self, look, variables, indices)

    def takers(self, indices: np.ndarray) -> int:
        """Number of threads that :meth:`visit` should have for these patterns."""
        return max(1, min(self.n_threads, len(indices)))

    def visit(
        self,
        variables: Variables,
        indices: np.ndarray,
        takers: Sequence[Callable[[Batch, Array], None]],
        model: Model | None = None,
        *,
        with_data: bool = True,
    ) -> None:
        """Give batches to ``takers``, with what the model computes for them, in memory that is used again.

        Each of at most :meth:`takers` takers has a thread, and gets one part of the patterns, in their order. Where
        memory runs out it goes on with smaller batches: a taker that raises MemoryError must not have used its batch,
        whose patterns are given again.

        Raises
        ------
        ResourceError
            Not even one pattern at a time fits into memory.
        """
        model = self.model if model is None else model
        give(self._memory, self.feed, model, variables, indices, takers, with_data)

    def _of_patterns(
        self,
        variables: Variables,
        names: tuple[str, ...],
        indices: np.ndarray,
        limit: Limit | None,
        wait: bool,
    ) -> Evaluated:
        """The loss without regularisers, for a ``loss_weight`` of 1."""
        if self.terms is None:
            return self._sum_batches(variables, names, indices, limit, self.noise, wait)
        crop_origins, wanted = self.feed.crop_origins[indices], "obj" in names
        values, slope = self.terms.of_object(variables.obj, crop_origins, self.batch_size, wanted)
        extra = sum(values.values())
        data_limit = Limit(limit.value - extra, limit.parts) if limit is not None else None
        evaluated = self._data_terms(self.terms, variables, names, indices, data_limit)
        evaluated.loss += extra
        evaluated.loss_terms.update(values)
        if "obj" in evaluated.gradients and slope is not None:
            evaluated.gradients["obj"] += slope
        return evaluated

    def _data_terms(
        self,
        terms: LossTerms,
        variables: Variables,
        names: tuple[str, ...],
        indices: np.ndarray,
        limit: Limit | None,
    ) -> Evaluated:
        """The data terms in one or two passes over the patterns (:mod:`pypty.objective.combined`)."""
        # of two passes the first computes intensities only: without names there are no gradients
        first = () if terms.two_passes else names
        evaluated = self._sum_batches(
            variables, first, indices, limit if terms.is_pixelwise else None, terms.noise
        )
        assert evaluated.sums is not None
        evaluated.loss_terms = terms.values(evaluated.sums)
        evaluated.loss = sum(evaluated.loss_terms.values())
        if not terms.is_pixelwise:
            # ratios and mean patterns are not sums over batches: no guess from a part of them
            evaluated.parts = np.zeros(0)
        if terms.two_passes and names and (limit is None or evaluated.loss <= limit.value):
            noise = terms.with_slopes(evaluated.sums).on(self.backend)
            evaluated.gradients = self._sum_batches(variables, names, indices, None, noise).gradients
        elif not terms.two_passes:
            factor = terms.factor(evaluated.sums)
            for gradient in evaluated.gradients.values() if factor != 1 else ():
                gradient *= factor
        return evaluated

    def _sum_batches(
        self,
        variables: Variables,
        names: tuple[str, ...],
        indices: np.ndarray,
        limit: Limit | None,
        noise: NoiseModel,
        wait: bool = True,
    ) -> Evaluated:
        """The loss of a noise model over patterns, here or on several ranks, and its gradient."""
        task = Task(
            variables=variables,
            names=names,
            indices=indices,
            limit=limit,
            noise=noise,
            n_threads=self.n_threads,
            batch_size=self.batch_size,
        )
        if self.others is not None:
            return self.others.summed(self.passes, task)
        with self.feed.streams.computing():
            own = self.passes.begin(task)
            own.compute()
            if self.backend.on_gpu and limit is None and not wait and own.single:
                return own.unread()
            return own.finished(decided(task, own.loss))
