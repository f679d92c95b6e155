"""PtyRAD's preprocessing of measured patterns; arrays (N, ky, kx), zero frequency at n//2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from pypty.data.rim import rim_counts
from pypty.errors import DataError, ParameterError


def flipped(patterns: np.ndarray, flips: Sequence[int]) -> np.ndarray:
    """Reverse ky, reverse kx, exchange both axes, in this order, for each flag that is 1."""
    if flips[0]:
        patterns = patterns[..., ::-1, :]
    if flips[1]:
        patterns = patterns[..., ::-1]
    return patterns.swapaxes(-1, -2) if flips[2] else patterns


def cropped(
    patterns: np.ndarray, scan_size: Sequence[int], limits: Sequence[Sequence[int] | None]
) -> np.ndarray:
    """(N', ky', kx'): half-open ranges [low, high) of slow, fast, ky, kx; None = all."""
    parts = tuple(slice(None) if limit is None else slice(*limit) for limit in limits)
    out = patterns.reshape(*scan_size, *patterns.shape[-2:])[parts]
    if not out.size:
        raise ParameterError(
            f"meas_crop: {list(limits)} is empty for {scan_size} patterns of {patterns.shape[1:]}"
        )
    return out.reshape(-1, *out.shape[-2:])


def without_negatives(patterns: np.ndarray, mode: str, value: float | None, force: bool) -> np.ndarray:
    """Remove negative counts by clipping, or by subtracting a number and clipping."""
    if patterns.min() >= 0 and not force:
        return patterns
    if mode == "subtract_min":
        patterns = patterns - patterns.min()
    elif mode == "subtract_value":
        patterns = patterns - np.asarray(value, patterns.dtype)
    elif mode == "clip_value":
        patterns = np.where(patterns < value, 0, patterns)
    return np.maximum(patterns, 0)


def normalization(mean: np.ndarray, mode: str | None, value: float | None) -> float:
    """Divisor of all counts; ``mean`` is the mean pattern."""
    if mode is None:
        return 1.0
    if mode == "divide_const":
        divisor = float(value or 0)
    else:
        divisor = {"max_at_one": mean.max(), "mean_at_one": mean.mean(), "sum_to_one": mean.sum()}[mode]
    if not divisor > 0:
        raise DataError(f"meas_normalization: {mode} divides by {divisor:g}; expected patterns with counts")
    return float(divisor)


def background(mean: np.ndarray, size: int, kind: str, value: float, threshold: float) -> np.ndarray:
    """(size, size) counts around a centred mean pattern (n, n), zero inside it.

    The amplitude sqrt(mean) is continued outwards: constant, edge, linear_ramp (to ``value``), or by a e^(-b r) or
    a r^(-b), fitted to amplitudes up to the percentile ``threshold``.
    """
    n = mean.shape[0]
    before = (size - n) // 2
    try:
        return rim_counts(mean, (before, size - n - before), kind, value, threshold)
    except DataError as error:
        raise DataError(f"meas_pad: padding_type {kind!r}: {error}") from error


def padded(patterns: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """(N, T, T): patterns (N, n, n) inserted into the background (T, T)."""
    n, size = patterns.shape[-1], rim.shape[-1]
    before = (size - n) // 2
    out = np.broadcast_to(rim.astype(patterns.dtype), (len(patterns), size, size)).copy()
    out[:, before : before + n, before : before + n] = patterns
    return out


def resampled(patterns: np.ndarray, factor: float) -> np.ndarray:
    """(N, floor(factor n), ...): linear interpolation about pixel centres, over factor^2, so that sums are kept."""
    for axis in (-2, -1):
        n = patterns.shape[axis]
        at = np.clip((np.arange(int(np.floor(n * factor))) + 0.5) / factor - 0.5, 0, n - 1)
        below = np.minimum(at.astype(int), max(n - 2, 0))
        share = (at - below).astype(patterns.dtype)
        shape = [1] * patterns.ndim
        shape[axis] = len(at)
        share = share.reshape(shape)
        above = np.minimum(below + 1, n - 1)
        patterns = np.take(patterns, below, axis) * (1 - share) + np.take(patterns, above, axis) * share
    return patterns / patterns.dtype.type(factor**2)


def source_blurred(patterns: np.ndarray, scan_size: Sequence[int], std_points: float) -> np.ndarray:
    """Blur over the scan (slow, fast) by a Gaussian, in scan points."""
    scan = patterns.reshape(*scan_size, *patterns.shape[-2:])
    return ndimage.gaussian_filter(scan, (std_points, std_points, 0, 0)).reshape(patterns.shape)


def detector_blurred(patterns: np.ndarray, std_px: float) -> np.ndarray:
    """Blur of each pattern by a Gaussian."""
    return ndimage.gaussian_filter(patterns, (0, std_px, std_px))


def with_poisson_noise(patterns: np.ndarray, electrons: float, rng: np.random.RandomState) -> np.ndarray:
    """Poisson noise for a dose of ``electrons`` per pattern; the result keeps the units of the patterns."""
    per_count = electrons / (patterns.sum(dtype=np.float64) / len(patterns))
    return (rng.poisson(np.maximum(patterns, 0) * per_count) / per_count).astype(patterns.dtype)


def bright_field_radius_px(mean: np.ndarray) -> float:
    """Radius of a disk with the area in which the mean pattern exceeds half its maximum."""
    return float(np.sqrt((mean > 0.5 * mean.max()).sum() / np.pi))
