"""Centres of mass of diffraction patterns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pypty.errors import DataError


def centres_of_mass(
    chunks: Iterable[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    mask: np.ndarray | None = None,
    origin: tuple[float, float] | None = None,
) -> np.ndarray:
    """Mean detector coordinates of the counts of each pattern.

    c = sum k I(k) / sum I(k) (Waddell and Chapman, Optik 54 (1979) 83). A pattern without counts gets the mean of the
    others.

    Parameters
    ----------
    chunks : pairs (indices (n,), patterns (n, ky, kx)), as ``Experiment.chunks()`` gives
    shape : (N, ky, kx) of all patterns
    mask : (ky, kx) or (N, ky, kx) weights of pixels, real, or None
    origin : [y, x] pixel from which coordinates count; None = the zero frequency, (ky//2, kx//2)

    Returns
    -------
    (N, 2) float64 [y, x] in detector pixels

    Raises
    ------
    DataError
        Patterns or the mask have another shape, or a pattern is missing.
    """
    n, ny, nx = shape
    if mask is not None and mask.shape not in ((ny, nx), (n, ny, nx)):
        raise DataError(f"mask of shape {mask.shape} given, expected {(ny, nx)} or {(n, ny, nx)}")
    y0, x0 = (ny // 2, nx // 2) if origin is None else origin
    y, x = np.arange(ny) - float(y0), np.arange(nx) - float(x0)
    sums = np.full((n, 3), np.nan)  # first moments along y and x, counts; NaN marks patterns that never came
    for indices, patterns in chunks:
        if patterns.shape[1:] != (ny, nx):
            raise DataError(f"patterns of shape {patterns.shape[1:]} given, expected {(ny, nx)}")
        data = patterns.astype(np.float64, copy=False)
        if mask is not None:
            weights = mask if mask.ndim == 2 else mask[indices]
            data = np.where(weights > 0, data, 0) * weights  # NaN times 0 is NaN
        # (n, ky, kx) -> (n, ky) and (n, kx): the moments need the profiles only
        rows, columns = data.sum(axis=2), data.sum(axis=1)
        sums[indices] = np.stack([rows @ y, columns @ x, rows.sum(axis=1)], axis=1)
    missing = np.flatnonzero(np.isnan(sums).any(axis=1))
    if len(missing):
        raise DataError(
            f"{len(missing)} of {n} patterns were not given or hold NaN, the first is {missing[0]}; give all of them, "
            "and a mask that is 0 on dead pixels"
        )
    return _normalised(sums)


def _normalised(sums: np.ndarray) -> np.ndarray:
    """Centres (N, 2) from (N, 3) first moments and counts."""
    counted = sums[:, 2] > 0
    out = np.zeros((len(sums), 2))
    out[counted] = sums[counted, :2] / sums[counted, 2:]
    if counted.any():
        # an empty pattern has no centre; the mean adds no gradient
        out[~counted] = out[counted].mean(axis=0)
    return out
