"""Noise models: a loss between modelled and measured counts, and its derivative.

Sums run over all pixels. D = measured, I = modelled counts. Where the model can never have counts (outside the band
limit) I is exactly zero; it is replaced by 1 where it would be a divisor: the wave there is zero, and so is its
gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from pypty.backend import kernels
from pypty.backend.array import Array, array_module
from pypty.backend.workspace import Workspace

_ROUNDING = 30
"""Rounding of an amplitude, in units of eps times the largest amplitude: a generous bound."""


class NoiseModel(Protocol):
    """A loss l(I, D) per pixel.

    ``curvature`` is the mean second derivative of the loss with respect to the amplitude sqrt(I) at I = D, in
    units of that of ``lsq_sqrt`` (2); it scales the preconditioner.
    """

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        """Loss per pixel, and its derivative with respect to I; both arguments are (batch, ky, kx), and are kept."""

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """See above; ``mean_pattern`` is the mean measured pattern."""


def _never(intensity: Array, dark: float, reachable: Array) -> Array:
    """Where the model can never have counts."""
    if dark == 0:
        return intensity == 0
    return array_module(intensity).zeros((), bool) if reachable is None else ~reachable


@dataclass(frozen=True)
class LsqSqrt:
    """Amplitudes: (sqrt I - sqrt D)^2, the variance-stabilised Gaussian approximation of Poisson noise
    (Thibault and Guizar-Sicairos, New J. Phys. 14 (2012) 063004).

    An intensity that is only rounding has no slope: its wave has the measured amplitude in the gradient, but an
    arbitrary phase, which is noise, and another noise on every machine.

    Attributes
    ----------
    dark : counts below which an intensity is nothing but rounding
    """

    dark: float = 0.0

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        amplitude = xp.sqrt(intensity, out=work.array("slope", intensity.shape, intensity.dtype))
        difference = xp.sqrt(data, out=work.array("difference", data.shape, data.dtype))
        xp.subtract(amplitude, difference, out=difference)
        xp.copyto(amplitude, amplitude.dtype.type(np.inf), where=intensity <= self.dark)
        slope = xp.divide(difference, amplitude, out=amplitude)
        return xp.multiply(difference, difference, out=difference), slope

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 1.0


@dataclass(frozen=True)
class Poisson:
    """Maximum likelihood for counts (``ml``): I - D log I, without the constant log D!.

    An intensity that is only rounding of the Fourier transform is raised to ``dark`` in the logarithm, and has no
    slope: D/I there is arbitrary and as large as 1e30, where a sharp probe has left the detector dark. Lighting such a
    pixel up then lowers the loss, as it should. ``dark`` is one number for a whole run, or the loss would depend on
    how patterns are put into batches.

    Attributes
    ----------
    dark : counts below which an intensity is nothing but rounding
    reachable : (ky, kx) bool, in the order of the patterns, where the model can have counts; None = everywhere, or with
        ``dark`` 0 wherever it has any
    """

    dark: float = 0.0
    reachable: Array = None

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        real = intensity.dtype.type
        never = _never(intensity, self.dark, self.reachable)
        dark = (intensity <= real(self.dark)) & ~never
        safe = xp.where(never, real(1), xp.where(dark, real(self.dark), intensity))
        return intensity - data * xp.log(safe), xp.where(dark, real(0), (intensity - data) / safe)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0


class Lsq:
    """Intensities: (I - D)^2."""

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        difference = intensity - data
        return difference**2, 2 * difference

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """8 I / 2, averaged over the counts."""
        return float(4 * (mean_pattern**2).sum() / mean_pattern.sum())


class LsqSqrt2:
    """(D - I)^2 / (2 D) where D > 1/2, else I: the second-order expansion of the Poisson likelihood."""

    threshold = 0.5

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        xp = work.xp
        counted = data > self.threshold
        safe = xp.where(counted, data, data.dtype.type(1))
        loss = xp.where(counted, (data - intensity) ** 2 / (2 * safe), intensity)
        return loss, xp.where(counted, intensity / safe - 1, intensity.dtype.type(1))

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return 2.0


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

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        real = intensity.dtype.type
        shift = real(self.readout**2 / self.gain)
        measured = work.xp.maximum(data + shift, real(0))
        if shift == 0:
            loss, slope = Poisson(self.dark, self.reachable).loss_and_slope(intensity, measured, work)
        else:
            modelled = intensity + shift
            loss, slope = modelled - measured * work.xp.log(modelled), 1 - measured / modelled
        return loss / real(self.gain), slope / real(self.gain)

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """4 I/(g (I + c)) / 2, averaged over the counts."""
        total = float(mean_pattern.sum())
        shift = self.readout**2 / self.gain
        share = float((mean_pattern**2 / (mean_pattern + shift + 1e-300)).sum()) / total if total > 0 else 1.0
        return 2.0 * share / self.gain


@dataclass(frozen=True)
class SlopeOfAmplitudes:
    """The loss of another noise model with the slope of :class:`LsqSqrt`: for steps of a fixed length, which need a
    curvature that is bounded. That of the likelihood is not: D/I where the model is too dark."""

    noise: NoiseModel
    amplitudes: LsqSqrt

    def loss_and_slope(self, intensity: Array, data: Array, work: Workspace) -> tuple[Array, Array]:
        loss, _ = self.noise.loss_and_slope(intensity, data, work)
        counts = work.xp.maximum(data, data.dtype.type(0))  # a read-out may be negative
        return loss, self.amplitudes.loss_and_slope(intensity, counts, work)[1]

    def curvature(self, mean_pattern: np.ndarray) -> float:
        return self.amplitudes.curvature(mean_pattern)


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
"""Those for virtual detectors are the same functions of other counts."""


def make_noise_model(
    name: str,
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
    dark = brightest * (_ROUNDING * float(np.finfo(precision).eps)) ** 2
    if name == "poisson_gaussian":
        return PoissonGaussian(gain, readout, dark, reachable)
    if isinstance(NOISE_MODELS[name], Poisson):
        return Poisson(dark, reachable)
    return LsqSqrt(dark) if isinstance(NOISE_MODELS[name], LsqSqrt) else NOISE_MODELS[name]


def bounded(noise: NoiseModel) -> NoiseModel:
    """A model with the same loss whose slope suits steps of a fixed length."""
    if isinstance(noise, LsqSqrt):
        return noise
    return SlopeOfAmplitudes(noise, LsqSqrt(getattr(noise, "dark", 0.0)))


def score(
    noise: NoiseModel, intensity: Array, data: Array, weights: Array, work: Workspace
) -> tuple[float, float, Array]:
    """Weighted loss, weighted sum of squared errors (both accumulated in float64), and dLoss/dI.

    Parameters
    ----------
    intensity, data : (batch, ky, kx)
    weights : broadcasts to them, or None for 1
    """
    errors = work.xp.subtract(intensity, data, out=work.array("errors", data.shape, data.dtype))
    errors *= errors
    loss, slope = noise.loss_and_slope(intensity, data, work)
    if weights is not None:
        for array in (loss, slope, errors):
            array *= weights
    return kernels.total(loss), kernels.total(errors), slope
