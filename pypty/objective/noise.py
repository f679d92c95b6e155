"""Noise models: a loss between modelled and measured counts, and its derivative.

Sums run over all pixels. D = measured, I = modelled counts. Where the model cannot have counts (outside the band
limit) I is exactly zero, and is replaced by 1 in divisors. The wave there is zero, and so is its gradient.

On a GPU a kernel (backend/cuda/score.py) computes models with a formula, from data of any type. A sum of losses
(objective/powers.py) has kernels of its own. Models without any are computed by array expressions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.cuda.score import N_TOTALS, Formula, ScoreKernels, Values, device_kernels
from pypty.backend.workspace import Workspace
from pypty.objective.free_pixels import FreePixels

_ROUNDING = 30
"""A generous bound on the rounding of an amplitude, in units of eps times the largest amplitude."""


class NoiseModel(Protocol):
    """A loss l(I, D) per pixel.

    ``curvature`` is the mean second derivative of the loss with respect to the amplitude sqrt(I) at I = D, in
    units of that of ``lsq_sqrt`` (2); it scales the preconditioner.
    """

    @property
    def capturable(self) -> bool:
        """Whether kernels compute it on a GPU, in memory of the workspace: then a CUDA graph can hold them."""

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        """Loss per pixel, and its derivative with respect to I. The arguments are (batch, ky, kx), and not changed."""

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """See above; ``mean_pattern`` is the mean measured pattern."""

    def formula(self) -> Formula | None:
        """The formula that the kernel of a GPU computes; None = this model has none."""


def _never(intensity: Array, dark: float, reachable: Array) -> Array:
    """Where the model cannot have counts."""
    if dark == 0:
        return intensity == 0
    return array_module(intensity).zeros((), bool) if reachable is None else ~reachable


@dataclass(frozen=True)
class LsqSqrt:
    """Amplitudes: (sqrt I - sqrt D)^2, the variance-stabilised Gaussian approximation of Poisson noise
    (Thibault and Guizar-Sicairos, New J. Phys. 14 (2012) 063004).

    An intensity that is only rounding has no slope: its gradient would have the measured amplitude with an arbitrary
    phase, noise that differs between machines.

    Attributes
    ----------
    dark : counts below which an intensity is only rounding
    """

    dark: float = 0.0
    capturable = True

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        amplitude = xp.sqrt(intensity, out=work.array("slope", intensity.shape, intensity.dtype))
        difference = xp.sqrt(data, out=work.array("difference", data.shape, data.dtype))
        xp.subtract(amplitude, difference, out=difference)
        # division by infinity makes the slope of a dark pixel 0 without another array
        xp.copyto(amplitude, amplitude.dtype.type(np.inf), where=intensity <= self.dark)
        slope = xp.divide(difference, amplitude, out=amplitude)
        return xp.multiply(difference, difference, out=difference), slope

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 1.0

    def formula(self) -> Formula | None:
        return Formula(kind="amplitudes", dark=self.dark)


@dataclass(frozen=True)
class Poisson:
    """Maximum likelihood for counts (``ml``): I - D log I, without the constant log D!.

    An intensity that is only rounding of the Fourier transform is raised to ``dark`` in the logarithm, and has no
    slope: D/I there is arbitrary and as large as 1e30, where a sharp probe has left the detector dark. The loss
    still falls when such a pixel is lit up, as it should. ``dark`` is constant during a run; otherwise the loss
    would depend on the batches.

    Attributes
    ----------
    dark : counts below which an intensity is only rounding
    reachable : (ky, kx) bool, in the pixel order of the patterns: where the model can have counts; None = everywhere;
        with ``dark`` 0, where it has counts
    """

    dark: float = 0.0
    reachable: Array = None
    capturable = True

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        real = intensity.dtype.type
        never = _never(intensity, self.dark, self.reachable)
        dark = (intensity <= real(self.dark)) & ~never
        # unreachable pixels: log 1 = 0 and divisor 1; dark ones: log dark, and no slope below
        safe = xp.where(never, real(1), xp.where(dark, real(self.dark), intensity))
        return intensity - data * xp.log(safe), xp.where(dark, real(0), (intensity - data) / safe)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0

    def formula(self) -> Formula | None:
        return Formula(kind="poisson", dark=self.dark, reachable=self.reachable)


class Lsq:
    """Intensities: (I - D)^2."""

    capturable = True

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        difference = intensity - data
        return difference**2, 2 * difference

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """8 I / 2, averaged over the counts."""
        return float(4 * (mean_pattern**2).sum() / mean_pattern.sum())

    def formula(self) -> Formula | None:
        return Formula(kind="intensities")


class LsqSqrt2:
    """(D - I)^2 / (2 D) where D > 1/2, else I: the second-order expansion of the Poisson likelihood."""

    threshold = 0.5
    capturable = True

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        # an empty pixel has no variance to divide by: its Poisson likelihood is I itself
        counted = data > self.threshold
        safe = xp.where(counted, data, data.dtype.type(1))
        loss = xp.where(counted, (data - intensity) ** 2 / (2 * safe), intensity)
        return loss, xp.where(counted, intensity / safe - 1, intensity.dtype.type(1))

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0

    def formula(self) -> Formula | None:
        return Formula(kind="expansion")


@dataclass(frozen=True)
class PoissonGaussian:
    """Counted electrons read out by a noisy detector (``poisson_gaussian``): D = g n + r, n ~ Poisson(I/g),
    r ~ N(0, s^2).

    (D + c)/g with c = s^2/g has the mean and the variance (I + c)/g, and is taken as Poisson-distributed:
    L = (I + c)/g - (D + c)/g log(I + c)  (the shifted Poisson model: Snyder, Hammoud and White, J. Opt. Soc. Am. A 10
    (1993) 1014). With g = 1 and s = 0 it is ``ml``. A read-out below -c counts as -c.

    Attributes
    ----------
    gain : data units per electron
    readout : standard deviation of the read-out noise, data units
    dark, reachable : as in :class:`Poisson`, for a detector without read-out noise
    """

    gain: float = 1.0
    readout: float = 0.0
    dark: float = 0.0
    reachable: Array = None
    capturable = True

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        real = intensity.dtype.type
        shift = real(self.readout**2 / self.gain)
        # c = s^2/g: read-outs below -c would be negative counts
        measured = work.xp.maximum(data + shift, real(0))
        if shift == 0:
            loss, slope = Poisson(self.dark, self.reachable).loss_and_slope(intensity, measured, work)
        else:
            modelled = intensity + shift
            # both are divided by g below, to be in electrons
            loss, slope = modelled - measured * work.xp.log(modelled), 1 - measured / modelled
        return loss / real(self.gain), slope / real(self.gain)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """4 I/(g (I + c)) / 2, averaged over the counts."""
        total = float(mean_pattern.sum())
        shift = self.readout**2 / self.gain
        share = float((mean_pattern**2 / (mean_pattern + shift + 1e-300)).sum()) / total if total > 0 else 1.0
        return 2.0 * share / self.gain

    def formula(self) -> Formula | None:
        shift = self.readout**2 / self.gain
        return Formula(
            kind="shifted_poisson", dark=self.dark, shift=shift, gain=self.gain, reachable=self.reachable
        )


@dataclass(frozen=True)
class SlopeOfAmplitudes:
    """The loss of another noise model with the slope of :class:`LsqSqrt`: for steps of a fixed length, which need a
    curvature that is bounded. That of the likelihood is not: D/I where the model is too dark."""

    noise: NoiseModel
    amplitudes: LsqSqrt

    @property
    def capturable(self) -> bool:
        return self.noise.formula() is not None

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        loss, _ = self.noise.loss_and_slope(intensity, data, work)
        counts = work.xp.maximum(data, data.dtype.type(0))  # a read-out may be negative
        return loss, self.amplitudes.loss_and_slope(intensity, counts, work)[1]

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return self.amplitudes.curvature(mean_pattern)

    def formula(self) -> Formula | None:
        formula = self.noise.formula()
        return None if formula is None else dataclasses.replace(formula, bounded=self.amplitudes.dark)


NOISE_MODELS: Mapping[str, NoiseModel] = MappingProxyType(
    {
        "lsq_sqrt": LsqSqrt(),
        "ml": Poisson(),
        "lsq": Lsq(),
        "lsq_sqrt_2": LsqSqrt2(),
        "poisson_gaussian": PoissonGaussian(),
        "lsq_compressed": Lsq(),
        "gauss_compressed": LsqSqrt(),
        "poisson_compressed": Poisson(),
    }
)
"""By ``algorithm``. Virtual detectors (``*_compressed``) use the same functions of their counts."""


def make_noise_model(
    name: str,
    *,
    brightest: float,
    precision: np.dtype,
    reachable: Array,
    gain: float = 1.0,
    readout: float = 0.0,
) -> NoiseModel:
    """The noise model of a run.

    Parameters
    ----------
    name : ``algorithm``
    brightest : the largest mean count
    precision : of intensities; rounding of an amplitude is about eps times the largest amplitude
    reachable : (ky, kx) bool, where the model can have counts; None = everywhere
    gain, readout : ``detector_gain``, ``readout_noise``
    """
    dark = dark_counts(brightest, precision)
    if name == "poisson_gaussian":
        return PoissonGaussian(gain, readout, dark, reachable)
    if isinstance(NOISE_MODELS[name], Poisson):
        return Poisson(dark, reachable)
    return LsqSqrt(dark) if isinstance(NOISE_MODELS[name], LsqSqrt) else NOISE_MODELS[name]


def dark_counts(brightest: float, precision: np.dtype) -> float:
    """Counts below which an intensity is nothing but rounding; see :func:`make_noise_model`."""
    return brightest * (_ROUNDING * float(np.finfo(precision).eps)) ** 2


def bounded(noise: NoiseModel) -> NoiseModel:
    """A model with the same loss, and a slope with bounded curvature for steps of a fixed length."""
    if isinstance(noise, LsqSqrt):
        return noise
    return SlopeOfAmplitudes(noise, LsqSqrt(getattr(noise, "dark", 0.0)))


def score(
    noise: NoiseModel,
    intensity: Array,
    data: Array,
    weights: Array,
    work: Workspace,
    rows: Array = None,
    multiplier: float = 1.0,
    totals: Array = None,
    free: FreePixels | None = None,
    index: Array = None,
) -> tuple[Array, Array, Array]:
    """Weighted loss, weighted sum of squared errors (both accumulated in float64), and dLoss/dI.

    On a GPU the first two stay on the device, to avoid a synchronisation.

    Parameters
    ----------
    intensity, data : (batch, ky, kx); on a GPU data may have any type
    weights : broadcasts to them, or None for 1
    rows : (batch,) int32, rows of ``data`` that belong to the batch; None = all
    multiplier : factor of the data
    totals : (4,) float64, gets the loss, the sum of squared errors, and the weighted sums of deviance and 1 over the
        free pixels
    free : pixels that are not fitted; None = there are none
    index : (batch,) numbers of the patterns, for ``free``
    """
    # numbers on the device: reading them here would wait for the kernels
    if totals is None:
        totals = work.xp.empty(N_TOTALS, np.float64)
    formula = None if isinstance(intensity, np.ndarray) else noise.formula()
    if formula is not None:
        slope = _on_device(formula, intensity, data, weights, work, rows, multiplier, totals, free, index)
        return totals[0], totals[1], slope
    if not isinstance(intensity, np.ndarray):
        data = (data if rows is None else data[rows]).astype(intensity.dtype) * multiplier
    totals[2:] = 0
    loss, slope, errors = _terms(noise, intensity, data, weights, work)
    if free is not None:
        places, totals[2], totals[3] = free.score(intensity, data, weights, index)
        for array in (loss, slope, errors):
            work.xp.put(array, places, array.dtype.type(0))
    totals[0], totals[1] = loss.sum(dtype=np.float64), errors.sum(dtype=np.float64)
    return totals[0], totals[1], slope


def _terms(
    noise: NoiseModel, intensity: Array, data: Array, weights: Array, work: Workspace
) -> tuple[Array, Array, Array]:
    """Loss, slope and squared errors of every pixel, weighted."""
    # every array here is (batch, ky, kx)
    errors = work.xp.subtract(intensity, data, out=work.array("errors", data.shape, data.dtype))
    errors *= errors
    loss, slope = noise.loss_and_slope(intensity, data, work)
    if weights is not None:
        # in place; weights (ky, kx) or (batch, ky, kx)
        for array in (loss, slope, errors):
            array *= weights
    return loss, slope, errors


def _on_device(
    formula: Formula,
    intensity: Array,
    data: Array,
    weights: Array,
    work: Workspace,
    rows: Array,
    multiplier: float,
    totals: Array,
    free: FreePixels | None,
    index: Array,
) -> Array:
    """dLoss/dI (batch, ky, kx), by one kernel."""
    values = Values(
        intensity=work.xp.ascontiguousarray(intensity),
        data=data,
        rows=rows,
        weights=weights,
        multiplier=multiplier,
        hidden=None if free is None else free.hidden(index),
    )
    slope = work.array("slope", intensity.shape, intensity.dtype)
    # (blocks, 4) float64: each block of threads has its own sums, a second kernel adds them
    parts = work.array("sums of blocks", (values.n_parts, N_TOTALS), np.float64)
    kernels: ScoreKernels = device_kernels(ScoreKernels, intensity.dtype, data.dtype)
    kernels.score(formula, values, slope, parts, totals)
    return slope
