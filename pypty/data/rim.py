"""A fixed background in the rim that ``data_pad`` adds: the mean pattern, extrapolated, the same for all patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.optimize import curve_fit

from pypty.errors import DataError

_CENTRE = 1e-10
"""Added to distances, since a negative power of zero is infinite."""


def _exponential(r: np.ndarray, a: float, b: float) -> np.ndarray:
    return a * np.exp(-b * r)


def _power(r: np.ndarray, a: float, b: float) -> np.ndarray:
    return a * r**-b


_FITTED: Mapping[str, tuple[Callable[..., np.ndarray], float]] = MappingProxyType(
    {"exp": (_exponential, 0.1), "power": (_power, 1.0)}
)
"""Function of the distance from the centre, and the initial value of its parameter b in the fit."""


def rim_counts(
    mean: np.ndarray, pad: int | tuple[int, int], fill: str, value: float = 0.0, threshold: float = 70.0
) -> np.ndarray:
    """(ky + 2 pad, kx + 2 pad) counts of the rim; 0 in the area of the pattern.

    The square root A of the mean pattern is extrapolated. constant: with ``value``; edge: with its outermost pixels;
    linear_ramp: from these to ``value`` (as numpy.pad does); exp and power: with a exp(-b r) or a r^-b, a, b >= 0,
    fitted to the pixels with A up to the ``threshold``-percentile, r in pixels from n//2.

    Parameters
    ----------
    mean : (ky, kx) mean counts
    pad : pixels on every side, or (before, after) along each axis
    value : sqrt(counts) for constant and linear_ramp
    threshold : percentile in %

    Raises
    ------
    DataError
        The fit does not converge.
    """
    before, after = (pad, pad) if isinstance(pad, int) else pad
    amplitude = np.sqrt(np.maximum(mean, 0))
    if fill in _FITTED:
        frame = _continued(amplitude, before, after, fill, threshold)
    else:
        options = {"constant": {"constant_values": value}, "edge": {}, "linear_ramp": {"end_values": value}}
        mode: Any = fill
        frame = np.pad(amplitude, (before, after), mode=mode, **options[fill])
    counts: np.ndarray = frame**2
    counts[tuple(slice(before, before + n) for n in mean.shape)] = 0
    return counts


def _continued(amplitude: np.ndarray, before: int, after: int, fill: str, threshold: float) -> np.ndarray:
    function, slope = _FITTED[fill]
    # In float32, since equal means may differ in their last float64 digit; else chance would decide which are faint.
    rounded = amplitude.astype(np.float32)
    faint = rounded <= np.percentile(rounded, threshold)
    start = (float(amplitude.max()), slope)
    try:
        coefficients, _ = curve_fit(
            function, _distance(amplitude.shape)[faint], amplitude[faint], start, bounds=([0, 0], np.inf)
        )
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"data_pad_fill: {fill!r} could not be fitted to the mean pattern ({error}); choose 'edge' or "
            "'linear_ramp', or another data_pad_threshold"
        ) from error
    return function(_distance(amplitude.shape, before, after), *coefficients)


def _distance(shape: tuple[int, ...], before: int = 0, after: int = 0) -> np.ndarray:
    """(ky, kx) distance in pixels from n//2 of the pattern, for the pattern or its padded frame."""
    ny, nx = shape
    y = np.arange(-before, ny + after)[:, None] - ny // 2
    x = np.arange(-before, nx + after)[None, :] - nx // 2
    return np.hypot(y, x) + _CENTRE
