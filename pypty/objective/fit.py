"""One pass over the patterns that compares data with the model: sums from which the quality of a fit is told.

For every pixel D = measured and I = modelled electrons, d = deviance (:mod:`pypty.objective.deviance`), and the Pearson
residual r = (D - I)/sqrt(max(I, 1/10)), which for a right model is noise: independent from pixel to pixel and from
position to position, with variance 1 where there are enough counts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.objective.deviance import CountModel, deviance_terms
from pypty.objective.free_pixels import FreePixels
from pypty.objective.objective import Objective

_FEW = 0.1
"""Counts below which residuals are not divided by their standard deviation: sqrt(I) there is far below one electron."""
_MAPS = ("deviance", "expected", "variance", "counts", "modelled", "squares", "right", "below", "pixels")


@dataclass(frozen=True, kw_only=True)
class FitSums:
    """Sums over patterns for every pixel, and over pixels for every pattern, on the host.

    All are sums over pixels that are used: those whose weight is positive, and that ``usable`` names.

    Attributes
    ----------
    deviance, expected, variance : (ky, kx) sums of d, E[d | I], Var[d | I] over patterns, in the model's pixel order
    counts, modelled : (ky, kx) sums of D and I
    squares : (ky, kx) sum of r^2
    right, below : (ky, kx) sum of r times r of the next pixel along kx, and along ky (cyclic)
    pixels : (ky, kx) number of patterns in which the pixel is used
    indices : (n,) the patterns
    of_pattern : (n, 3) sums of d, E[d | I], Var[d | I] over pixels
    pattern_squares : (n,) sum of r^2
    with_previous : (n,) sum of r times r of the pattern before it in ``indices``; NaN for the first of a thread
    free_of_pattern : (n, 4) as ``of_pattern``, over the free pixels alone, and the number of them; zeros without such
        pixels
    """

    deviance: np.ndarray
    expected: np.ndarray
    variance: np.ndarray
    counts: np.ndarray
    modelled: np.ndarray
    squares: np.ndarray
    right: np.ndarray
    below: np.ndarray
    pixels: np.ndarray
    indices: np.ndarray
    of_pattern: np.ndarray
    pattern_squares: np.ndarray
    with_previous: np.ndarray
    free_of_pattern: np.ndarray

    @property
    def ratio(self) -> float:
        """Deviance in units of its expectation, over all used pixels."""
        return float(self.deviance.sum() / self.expected.sum())

    @property
    def ratio_error(self) -> float:
        """Standard deviation of the ratio of a right model, from noise."""
        return float(np.sqrt(self.variance.sum()) / self.expected.sum())


def fit_sums(
    objective: Objective,
    variables: Variables,
    indices: np.ndarray,
    *,
    counts: CountModel,
    usable: Array,
) -> FitSums:
    """Compare data and model, on all threads and ranks.

    Parameters
    ----------
    indices : sorted
    usable : (ky, kx) in the model's pixel order, 1 for pixels that are compared, 0 for the others
    """
    look = functools.partial(_sums_here, counts=counts, usable=to_host(usable))
    return _added(objective.everywhere(look, variables, indices))


def _sums_here(
    objective: Objective, variables: Variables, indices: np.ndarray, *, counts: CountModel, usable: np.ndarray
) -> FitSums | None:
    """The sums over patterns of this process, or None if it has none of them."""
    if not len(indices):
        return None
    there = objective.backend.asarray(usable)
    takers = [_Taker(counts, there, objective.free) for _ in range(objective.takers(indices))]
    objective.visit(variables, indices, takers)
    return _joined(takers)


def deviance_ratio(
    objective: Objective,
    variables: Variables,
    indices: np.ndarray,
    *,
    counts: CountModel,
    usable: Array,
) -> float:
    """Deviance of a few patterns in units of its expectation; the arguments are those of :func:`fit_sums`."""
    look = functools.partial(_ratio_here, counts=counts, usable=to_host(usable))
    deviance, expected = np.sum(objective.everywhere(look, variables, indices), axis=0)
    return float(deviance / expected) if expected > 0 else np.nan


def _ratio_here(
    objective: Objective, variables: Variables, indices: np.ndarray, *, counts: CountModel, usable: np.ndarray
) -> np.ndarray:
    """(2,) sums of d and E[d | I] over patterns of this process."""
    there = objective.backend.asarray(usable)
    takers = [_Totals(counts, there) for _ in range(objective.takers(indices))]
    objective.visit(variables, indices, takers)
    return np.sum([[float(x) for x in taker.sums] for taker in takers], axis=0)


@dataclass
class _Pixels:
    """Measured and modelled electrons of a batch (b, ky, kx), and which pixels are used, (ky, kx) or (b, ky, kx)."""

    measured: Array
    modelled: Array
    used: Array

    @classmethod
    def of(cls, batch: Batch, intensity: Array, counts: CountModel, usable: Array) -> _Pixels:
        data = batch.data
        if not isinstance(data, np.ndarray):
            # on a GPU data are in their own type, and may be those of all patterns
            data = (data if batch.rows is None else data[batch.rows]).astype(intensity.dtype)
            data = data * intensity.dtype.type(batch.multiplier)
        return cls(counts.electrons(data), counts.electrons(intensity), cls.used_in(batch, usable))

    @staticmethod
    def used_in(batch: Batch, usable: Array) -> Array:
        """Pixels that are compared and have a weight, 1 or 0."""
        return usable if batch.weights is None else usable * (batch.weights > 0)


class _Totals:
    """Sums of d and E[d | I] over everything. They are replaced at the end of a call, so that a batch counts as a whole
    or, where memory runs out, not at all."""

    def __init__(self, counts: CountModel, usable: Array) -> None:
        self.counts, self.usable = counts, usable
        self.sums: list[Array] = [0.0, 0.0]

    def __call__(self, batch: Batch, intensity: Array) -> None:
        pixels = _Pixels.of(batch, intensity, self.counts, self.usable)
        deviance, expected, _ = deviance_terms(pixels.measured, pixels.modelled, self.counts.sigma)
        self.sums = [
            total + (array * pixels.used).sum(dtype=np.float64)
            for total, array in zip(self.sums, (deviance, expected), strict=True)
        ]


class _Taker:
    """The sums of one thread; as in :class:`_Totals` they change at the end of a call."""

    def __init__(self, counts: CountModel, usable: Array, free: FreePixels | None) -> None:
        self.counts, self.usable, self.free = counts, usable, free
        self.maps: dict[str, Array] = {}
        self.rows: dict[str, list[Array]] = {
            "indices": [],
            "of_pattern": [],
            "squares": [],
            "previous": [],
            "free": [],
        }
        self._last: Array = None

    def __call__(self, batch: Batch, intensity: Array) -> None:
        pixels = _Pixels.of(batch, intensity, self.counts, self.usable)
        xp, used = array_module(intensity), pixels.used
        # all are (b, ky, kx)
        terms = list(deviance_terms(pixels.measured, pixels.modelled, self.counts.sigma))
        residual = pixels.measured - pixels.modelled
        residual *= used
        residual /= xp.sqrt(xp.maximum(pixels.modelled, pixels.modelled.dtype.type(_FEW)))
        others = [pixels.measured, pixels.modelled]
        if used.ndim == 3:  # pixels that differ between patterns; a common mask is applied to the sums
            terms, others = ([array * used for array in arrays] for arrays in (terms, others))
        mask = used if used.ndim == 2 else xp.ones(used.shape[1:], used.dtype)
        sums = [mask * array.sum(axis=0) for array in (*terms, *others)]
        squares = _products(residual, residual)
        right, below = (_products(residual, xp.roll(residual, -1, axis)) for axis in (2, 1))
        number = used.sum(axis=0) if used.ndim == 3 else len(residual) * used
        maps = {}
        for name, total in zip(_MAPS, (*sums, squares, right, below, number), strict=True):
            # sums over batches are double, those of a batch in its own precision: five times as fast
            maps[name] = self.maps[name] + total if name in self.maps else total.astype(np.float64)
        rows = self._rows(batch, terms, residual, mask)
        # a copy: the memory of the batch is used again
        self.maps, self._last = maps, residual[-1:].copy()
        for name, row in rows.items():
            self.rows[name].append(row)

    def _rows(self, batch: Batch, terms: Sequence[Array], residual: Array, mask: Array) -> dict[str, Array]:
        """Numbers of each pattern of a batch."""
        xp = array_module(residual)
        first = (
            xp.full((1, *residual.shape[1:]), np.nan, residual.dtype) if self._last is None else self._last
        )
        before = xp.concatenate([first, residual[:-1]])
        return {
            "indices": batch.index,
            "of_pattern": _row_sums(terms, mask),
            "squares": xp.einsum("bij,bij->b", residual, residual),
            "free": self._free_sums(batch, terms, residual, mask),
            "previous": xp.einsum("bij,bij->b", residual, before),
        }

    def _free_sums(self, batch: Batch, terms: Sequence[Array], residual: Array, mask: Array) -> Array:
        """(b, 4) sums over the free pixels, and their number."""
        xp = array_module(residual)
        if self.free is None:
            return xp.zeros((len(residual), 4))
        pixels = _Pixels.used_in(batch, self.usable)
        free = self.free.mask(batch.index_of(residual), residual.shape[-2:]) * pixels
        return _row_sums([*(array * free for array in terms), free.astype(residual.dtype)], mask)


def _products(one: Array, two: Array) -> Array:
    """(ky, kx) sums over the batch."""
    return array_module(one).einsum("bij,bij->ij", one, two)


def _row_sums(terms: Sequence[Array], mask: Array) -> Array:
    """(b, terms) sums over the pixels of each pattern, times a mask (ky, kx)."""
    xp = array_module(mask)
    return xp.stack([array.reshape(len(array), -1) @ mask.ravel() for array in terms], axis=1)


def _joined(takers: Sequence[_Taker]) -> FitSums:
    """The sums of all threads, in a fixed order."""
    maps = {name: np.sum([to_host(taker.maps[name]) for taker in takers], axis=0) for name in _MAPS}
    rows = {
        name: np.concatenate([to_host(part) for taker in takers for part in taker.rows[name]]).astype(
            np.int64 if name == "indices" else np.float64
        )
        for name in takers[0].rows
    }
    return FitSums(
        **maps,
        indices=rows["indices"],
        of_pattern=rows["of_pattern"],
        pattern_squares=rows["squares"],
        with_previous=rows["previous"],
        free_of_pattern=rows["free"],
    )


def _added(parts: Sequence[FitSums | None]) -> FitSums:
    """The sums of all ranks, with the patterns in their order again."""
    known = [part for part in parts if part is not None]
    if len(known) == 1:
        return known[0]
    rows = {
        name: np.concatenate([getattr(part, name) for part in known])
        for name in ("indices", "of_pattern", "pattern_squares", "with_previous", "free_of_pattern")
    }
    # of each pattern, the one that came before it on its rank; none before the first
    previous = np.concatenate([np.concatenate([[-1], part.indices[:-1]]) for part in known])
    order = np.argsort(rows["indices"])
    rows = {name: row[order] for name, row in rows.items()}
    # a product with another pattern than the one before it in this order says nothing
    same = previous[order][1:] == rows["indices"][:-1]
    rows["with_previous"][1:] = np.where(same, rows["with_previous"][1:], np.nan)
    rows["with_previous"][0] = np.nan
    maps = {name: np.sum([getattr(part, name) for part in known], axis=0) for name in _MAPS}
    return FitSums(**maps, **rows)
