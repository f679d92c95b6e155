"""Linear maps along one axis of a pattern or window: interpolation, and a Gaussian blur with reflecting edges."""

from __future__ import annotations

import numpy as np


def interpolation_matrix(n: int, m: int, factor: float | None = None) -> np.ndarray:
    """(m, n) matrix of linear interpolation from n pixels to m, between pixel centres.

    Sample i lies at x = (i + 1/2)/factor - 1/2, clipped to the outermost pixel centres. There is no smoothing before
    the interpolation. Rows sum to 1.

    Parameters
    ----------
    factor : new pixels per old pixel; None = m/n
    """
    x = np.clip((np.arange(m) + 0.5) / (m / n if factor is None else factor) - 0.5, 0, n - 1)
    # Left neighbour; n - 2 at most, so that the last sample, too, has a right neighbour.
    below = np.minimum(x.astype(int), max(n - 2, 0))
    share = x - below
    matrix = np.zeros((m, n))
    matrix[np.arange(m), below] = 1 - share
    matrix[np.arange(m), np.minimum(below + 1, n - 1)] += (
        share  # +=: with n = 1 both neighbours are the same pixel
    )
    return matrix


def reflected(index: np.ndarray, n: int) -> np.ndarray:
    """Indices folded into 0 to n - 1 by reflection at both ends, without repeating the end: ..., 2, 1 | 0, 1, 2, ..."""
    if n == 1:
        return np.zeros_like(index)
    folded = index % (2 * (n - 1))
    return np.minimum(folded, 2 * (n - 1) - folded)


def reflected_gaussian(n: int, std: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, n) matrix of a Gaussian blur, and its derivative with respect to its width.

    ``length`` (odd) pixels have weights proportional to exp(-t^2/(2 std^2)) with sum 1; the signal is reflected at its
    ends without repeating the last pixel. The matrix is not symmetric near the ends, so the adjoint is its transpose.
    """
    t = np.arange(length) - length // 2
    matrix, change = np.zeros((n, n)), np.zeros((n, n))
    if std < 1e-3:  # neighbours have weights below exp(-5e5), and std**3 below would divide by almost 0
        return np.eye(n), change
    weights = np.exp(-(t**2) / (2 * std**2))
    weights /= weights.sum()
    # Quotient rule for the normalised weights: d(w/sum w)/d std
    slopes = weights * t**2 / std**3
    slopes -= weights * slopes.sum()
    rows = np.arange(n)
    for step, weight, slope in zip(t, weights, slopes, strict=True):
        columns = reflected(rows + step, n)
        # Rows are distinct within one step, so += counts every contribution although columns may repeat.
        matrix[rows, columns] += weight
        change[rows, columns] += slope
    return matrix, change
