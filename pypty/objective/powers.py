"""Noise models of powers of counts, and their sum: the data terms of ``loss_terms``.

I = modelled, M = measured counts, and D = I + :data:`FLOOR`, as in PtyRAD: D^(g-1) stays finite for any exponent g. An
intensity that is only rounding has no slope, for the reason that :class:`pypty.objective.noise.LsqSqrt` gives. On a GPU
kernels (backend/cuda/powers.py) compute the sum.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend, array_module
from pypty.backend.cuda.powers import PowerFormula, PowerKernels
from pypty.backend.cuda.score import Formula, Values, device_kernels
from pypty.backend.workspace import Workspace
from pypty.objective.free_pixels import FreePixels, without
from pypty.objective.noise import LsqSqrt

FLOOR = 1e-10
"""Counts added to every modelled intensity (times the model's pixels for one that is compared)."""

LOSS, ERRORS, SINGLE, POISSN, WEIGHT, RAISED, FREE = 0, 1, 2, 3, 4, 5, 8
"""Columns of the sums of a batch: weighted loss, squared errors, the two terms without their factors, the weights of
the pixels, from RAISED on M^g with the exponents of single, poissn and pacbed, and from FREE on deviance and weight of
the free pixels."""
N_SUMS = 10

PATTERN_SUMS = ("modelled", "measured", "weights")
"""Weighted sums over patterns: of D, M and 1."""


def raised(counts: Array, power: float) -> Array:
    """counts^power; 1 and 1/2 are faster than a general power."""
    if power == 1:
        return counts
    return array_module(counts).sqrt(counts) if power == 0.5 else counts**power


@dataclass(frozen=True)
class PowerDifference:
    """w (D^g - M^g)^2, the term ``single``; with g = 1/2 it is ``lsq_sqrt``, with g = 1 ``lsq``.

    Attributes
    ----------
    weight, power : w, g
    dark : counts below which an intensity is only rounding
    floor : added to the intensities
    """

    weight: float = 1.0
    power: float = 0.5
    dark: float = 0.0
    floor: float = FLOOR
    capturable = False

    def parts(self, modelled: Array, data: Array) -> tuple[Array, Array, Array]:
        """Unweighted loss and slope of every pixel, and M^g; ``modelled`` is D."""
        model_power, counts = raised(modelled, self.power), raised(data, self.power)
        difference = model_power - counts
        # d(D^g)/dD = g D^g/D: no second power is computed
        return difference * difference, (2 * self.power) * difference * model_power / modelled, counts

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        return _weighted(self, intensity, data)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """4 g^2 w I^(2g-1), averaged over the counts."""
        return 4 * self.power**2 * self.weight * _mean_power(mean_pattern, 2 * self.power)

    def formula(self) -> Formula | None:
        return None


@dataclass(frozen=True)
class PowerPoisson:
    """-w (M^g ln(D^g + e) - D^g), the term ``poissn``; with g = 1 and a small e it is ``ml``.

    Attributes
    ----------
    weight, power : w, g
    eps : e
    dark : counts below which an intensity is only rounding
    floor : added to the intensities
    """

    weight: float = 1.0
    power: float = 1.0
    eps: float = 1e-6
    dark: float = 0.0
    floor: float = FLOOR
    capturable = False

    def parts(self, modelled: Array, data: Array) -> tuple[Array, Array, Array]:
        """As :meth:`PowerDifference.parts`."""
        model_power, counts = raised(modelled, self.power), raised(data, self.power)
        # e in the logarithm and in its derivative, as PtyRAD has it
        safe = model_power + model_power.dtype.type(self.eps)
        loss = model_power - counts * array_module(model_power).log(safe)
        return loss, self.power * (1 - counts / safe) * model_power / modelled, counts

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        return _weighted(self, intensity, data)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """2 g^2 w I^(g-1), averaged over the counts; e is left out."""
        return 2 * self.power**2 * self.weight * _mean_power(mean_pattern, self.power)

    def formula(self) -> Formula | None:
        return None


@dataclass(frozen=True, kw_only=True)
class PowerSum:
    """The sum of both terms, and a slope that all patterns share, from a loss of their mean.

    Attributes
    ----------
    single, poissn : None = there is no such term
    dark : counts below which an intensity is only rounding
    pacbed_power : exponent of M in the loss of the mean pattern; None = no such loss
    shared : (ky, kx) added to the slope of every pattern, before the weights of the pixels; or None
    factors : (2,) float64, factors on the slopes (not the losses) of single and poissn; None = 1
    bounded : the slope is that of amplitudes, for steps of a fixed length
    floor : added to the intensities
    """

    single: PowerDifference | None
    poissn: PowerPoisson | None
    dark: float = 0.0
    pacbed_power: float | None = None
    shared: Array = None
    factors: Array = None
    bounded: bool = False
    floor: float = FLOOR
    capturable = True

    @property
    def terms(self) -> tuple[tuple[int, PowerDifference | PowerPoisson], ...]:
        """The terms that are present, each with its column of the sums."""
        both: tuple[tuple[int, Any], ...] = ((SINGLE, self.single), (POISSN, self.poissn))
        return tuple((column, term) for column, term in both if term is not None)

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        """Loss (without that of the mean) and slope."""
        loss, slope = work.xp.zeros_like(intensity), work.xp.zeros_like(intensity)
        for column, term in self.terms:
            term_loss, term_slope, _ = term.parts(_lifted(intensity, self.floor), data)
            loss += term.weight * term_loss
            slope += self._factor(column, term) * term_slope
        return loss, self._slope(slope, intensity, data, work)

    def _factor(self, column: int, term: PowerDifference | PowerPoisson) -> float:
        """On the slope of a term."""
        return term.weight * (1.0 if self.factors is None else float(self.factors[column - SINGLE]))

    def _slope(self, slope: Array, intensity: Array, data: Array, work: Workspace) -> Array:
        # steps of a fixed length: the slope of amplitudes has a bounded curvature
        if self.bounded:
            return LsqSqrt(self.dark).loss_and_slope(intensity, data, work)[1]
        if self.shared is not None:
            slope += self.shared
        return _blind(slope, intensity, self.dark)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return sum(term.curvature(mean_pattern) for _, term in self.terms)

    def formula(self) -> Formula | None:
        return None

    def arrays(self) -> dict[str, Array]:
        """Fields that are other arrays in every evaluation: a graph needs copies of them at fixed addresses."""
        both = {"shared": self.shared, "factors": self.factors}
        return {name: array for name, array in both.items() if array is not None}

    def on(self, backend: Backend) -> PowerSum:
        """The same with its arrays, which are on the host, on a device."""
        shared = None if self.shared is None else backend.asarray(self.shared, backend.real)
        factors = None if self.factors is None else backend.asarray(self.factors, np.float64)
        return dataclasses.replace(self, shared=shared, factors=factors)

    def pattern_sums(self, work: Workspace, shape: tuple[int, int]) -> Array:
        """(3, ky, kx) zeros in ``work``, to which :meth:`score` adds the :data:`PATTERN_SUMS`; None without a loss of
        the mean pattern."""
        if self.pacbed_power is None:
            return None
        sums = work.array("sums over patterns", (len(PATTERN_SUMS), *shape), np.float64)
        sums.fill(0)
        return sums

    def score(
        self,
        intensity: Array,
        measured: Array,
        weights: Array,
        work: Workspace,
        rows: Array,
        multiplier: float,
        totals: Array,
        patterns: Array,
        free: FreePixels | None = None,
        index: Array = None,
    ) -> Array:
        """dLoss/dI (batch, ky, kx), weighted. The arguments are those of :func:`pypty.objective.noise.score`.

        Parameters
        ----------
        totals : (N_SUMS,) float64, gets the sums of the batch
        patterns : :meth:`pattern_sums`, to which those of the batch are added
        """
        if isinstance(intensity, np.ndarray):
            return self._score_on_host(intensity, measured, weights, work, totals, patterns, free, index)
        values = Values(
            intensity=work.xp.ascontiguousarray(intensity),
            data=measured,
            rows=rows,
            weights=weights,
            multiplier=multiplier,
            hidden=None if free is None else free.hidden(index),
        )
        kernels: PowerKernels = device_kernels(PowerKernels, intensity.dtype, measured.dtype)
        slope = work.array("slope", intensity.shape, intensity.dtype)
        # (blocks, N_SUMS) float64: each block of threads has its own sums, a second kernel adds them
        parts = work.array("sums of blocks", (values.n_parts, N_SUMS), np.float64)
        kernels.score(self.for_kernels(), values, slope, parts, totals)
        if self.pacbed_power is not None:
            kernels.add_patterns(values, self.floor, patterns)
        return slope

    def for_kernels(self) -> PowerFormula:
        """In the form that the kernels take."""
        single, poissn = self.single, self.poissn
        return PowerFormula(
            single=None if single is None else (single.weight, single.power),
            poissn=None if poissn is None else (poissn.weight, poissn.power, poissn.eps),
            pacbed_power=self.pacbed_power,
            floor=self.floor,
            dark=self.dark,
            bounded=self.bounded,
            shared=self.shared,
            factors=self.factors,
        )

    def _score_on_host(
        self,
        intensity: np.ndarray,
        data: np.ndarray,
        weights: Array,
        work: Workspace,
        totals: np.ndarray,
        patterns: Array,
        free: FreePixels | None,
        index: Array,
    ) -> np.ndarray:
        """:meth:`score` by array expressions, which define what the kernels compute."""
        if free is not None:
            places, totals[FREE], totals[FREE + 1] = free.score(intensity, data, weights, index)
            weights = without(weights, places, intensity)
        modelled, slope = _lifted(intensity, self.floor), np.zeros_like(intensity)
        totals[LOSS] = 0
        for column, term in self.terms:
            loss, term_slope, counts = term.parts(modelled, data)
            totals[column] = _sum(loss, weights)
            totals[LOSS] += term.weight * totals[column]
            # mean M^g, by which the ratio divides: a column for each term
            totals[RAISED + column - SINGLE] = _sum(counts, weights)
            slope += self._factor(column, term) * term_slope
        totals[ERRORS] = _sum((intensity - data) ** 2, weights)
        totals[WEIGHT] = data.size if weights is None else _sum(np.ones_like(data), weights)
        if self.pacbed_power is not None:
            totals[RAISED + 2] = _sum(raised(data, self.pacbed_power), weights)
            for sums, array in zip(patterns, (modelled, data, np.ones_like(data)), strict=True):
                weighted = array if weights is None else array * weights
                sums += weighted.sum(axis=0, dtype=np.float64)  # (batch, ky, kx) -> (ky, kx)
        slope = self._slope(slope, intensity, data, work)
        if weights is not None:
            slope *= weights
        return slope


def _lifted(intensity: Array, floor: float) -> Array:
    return intensity + intensity.dtype.type(floor)


def _blind(slope: Array, intensity: Array, dark: float) -> Array:
    """Set the slope to 0 where an intensity is only rounding."""
    # in place: the slope is an array of this evaluation
    array_module(slope).copyto(slope, slope.dtype.type(0), where=intensity <= intensity.dtype.type(dark))
    return slope


def _weighted(term: PowerDifference | PowerPoisson, intensity: Array, data: Array) -> tuple[Array, Array]:
    loss, slope, _ = term.parts(_lifted(intensity, term.floor), data)
    return term.weight * loss, _blind(term.weight * slope, intensity, term.dark)


def _sum(values: Array, weights: Array) -> Array:
    return (values if weights is None else values * weights).sum(dtype=np.float64)


def _mean_power(mean_pattern: np.ndarray, power: float) -> float:
    """sum I^power / sum I; 1 for no counts."""
    total = float(mean_pattern.sum())
    return float((np.maximum(mean_pattern, 0) ** power).sum()) / total if total > 0 else 1.0
