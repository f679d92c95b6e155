"""Gain and read-out noise of a detector, from the noise of patterns of a raster (photon transfer)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

_BINS = 24
"""Groups of pixels of similar mean."""
_BATCH = 256
"""Pixels whose series are transformed at once."""
_FEWEST = 12
"""Scan frequencies beyond the limit of the signal that are needed."""
_WHITE = 0.15
"""Largest relative difference of the variance between the nearer and the farther half of these frequencies."""
_MISFIT = 0.05
"""Largest rms deviation from variance = s² + g mean, relative, or + q mean²."""
_SCATTER, _CORRELATED = 2.5, 3.8
"""A larger one is accepted up to this multiple of that by chance; neighbouring frequencies of a Hann window are
correlated: so many count as one."""
_REMAINDER = 0.2
"""Largest part of the variance that may grow with the square of the mean, as a remainder of the signal does."""
_ERROR = 0.1
"""Largest relative standard error of the gain."""
_MARGIN = 1.05
"""Of the limit of the signal: the edge of an aperture is not sharp on a detector."""
_MAIN_LOBE = 2.0
"""Half-width of the main lobe of the spectrum of a Hann window, in frequencies of the block."""


@dataclass(frozen=True)
class DetectorNoise:
    """Variance = gain x mean + readout²: data units per electron, and a standard deviation in data units."""

    gain: float
    readout: float


def frequencies_without_signal(shape: tuple[int, int], steps_A: np.ndarray, limit_1A: float) -> np.ndarray:
    """(ny, nx) bool, zero frequency first: where the series of a pixel over a block of the raster has noise only.

    Whatever the specimen, the wave at a detector pixel is a sum over plane waves K of the probe times exp(2 pi i K R),
    so the intensity has scan frequencies K - K' below the diameter of the aperture. Frequencies that the raster folds
    back are avoided, too.

    Parameters
    ----------
    steps_A : (2, 2) rows: the step [y, x] along the slow and along the fast axis
    limit_1A : diameter of the aperture, 1/Å
    """
    reach = _MARGIN * limit_1A + _MAIN_LOBE / min(
        n * float(np.hypot(*step)) for n, step in zip(shape, steps_A, strict=True)
    )
    f = np.stack(
        np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"), axis=-1
    )  # (ny, nx, 2) cycles/step
    reciprocal = np.linalg.inv(steps_A)  # f = steps_A @ Q, per step
    folds = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    free = np.ones(shape, bool)
    for fold in folds:
        free &= np.linalg.norm((f + fold) @ reciprocal.T, axis=-1) > reach
    return free


def noise_problem(free: np.ndarray) -> str:
    """Why a raster cannot show the noise; "" if it can."""
    if free.sum() < _FEWEST:
        return "the steps of the scan leave too few scan frequencies without signal"
    return ""


def photon_transfer(series: np.ndarray, free: np.ndarray) -> DetectorNoise | str:
    """Gain and read-out noise from the variance of pixels, as a function of their mean.

    Parameters
    ----------
    series : (ny, nx, pixels) values over a block of the raster
    free : (ny, nx) bool, frequencies without signal (:func:`frequencies_without_signal`)

    Returns
    -------
    the noise, or the reason why it cannot be told
    """
    problem = noise_problem(free)
    if problem:
        return problem
    mean = series.mean(axis=(0, 1), dtype=np.float64)
    near, far = _variances(series, mean, free)
    variance = (near + far) / 2
    used = variance > 0
    if used.sum() < 4 * _BINS:
        return "too few pixels have noise"
    mean, near, far, variance = mean[used], near[used], far[used], variance[used]
    groups = np.array_split(np.argsort(mean), _BINS)
    x, v, lower, upper = (
        np.array([values[group].mean() for group in groups]) for values in (mean, variance, near, far)
    )
    # of groups: in a single pixel few frequencies, more in one half than in the other, give a ratio with a bias
    if abs(float(((upper - lower) / v).mean())) > _WHITE:
        return "what is beyond the scan frequencies of the signal is not white noise"
    # of relative errors: (bins, 3) columns of s², g, q
    design = np.stack([np.ones(_BINS), np.maximum(x, 0), x**2], axis=1) / v[:, None]
    scatter = _SCATTER * float(np.sqrt(_CORRELATED * _BINS / (free.sum() * len(mean))))
    fit, misfit, errors = _fit(design[:, :2])
    if misfit > max(_MISFIT, scatter):  # a remainder of the signal may be the reason
        fit, misfit, errors = _fit(design)
        remainder = float((design[:, 2] * fit[2]).mean())
        if misfit > max(_MISFIT, scatter) or remainder > _REMAINDER:
            return "the noise does not grow linearly with the mean"
    if errors[1] > _ERROR * fit[1]:
        return "the noise hardly grows with the mean"
    return DetectorNoise(_rounded(fit[1]), _rounded(np.sqrt(fit[0])))


def _fit(design: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Non-negative x of least |design x - 1|, the rms of that difference, and the standard errors of x."""
    scale = np.maximum(np.linalg.norm(design, axis=0), np.finfo(float).tiny)
    x, residual = nnls(design / scale, np.ones(len(design)))
    misfit = float(residual) / np.sqrt(len(design))
    errors = misfit * np.sqrt(np.diag(np.linalg.pinv((design / scale).T @ (design / scale))))
    return x / scale, misfit, errors / scale


def _variances(series: np.ndarray, mean: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pixels,) variance of the noise from the lower and from the upper half of the free frequencies."""
    ny, nx = free.shape
    window = np.outer(np.hanning(ny + 2)[1:-1], np.hanning(nx + 2)[1:-1])[..., None]
    f = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :])
    near = free & (f <= np.median(f[free]))
    near_sum, far_sum = np.empty(len(mean)), np.empty(len(mean))
    for start in range(0, len(mean), _BATCH):
        part = slice(start, start + _BATCH)
        power = np.abs(np.fft.fft2((series[..., part] - mean[part]) * window, axes=(0, 1))) ** 2
        near_sum[part], far_sum[part] = power[near].mean(axis=0), power[free & ~near].mean(axis=0)
    energy = float((window**2).sum())
    return near_sum / energy, far_sum / energy


def _rounded(value: float) -> float:
    """Three digits: more are not known, and rounding of another machine must not make another choice."""
    return float(f"{value:.3g}")
