"""Linear maps along one axis of a pattern or window: interpolation, and a Gaussian that is reflected at the rim."""

from __future__ import annotations

import numpy as np


def interpolation_matrix(n: int, m: int, factor: float | None = None) -> np.ndarray:
    """(m, n) linear interpolation from n pixels to m, by their middles.

    Sample i lies at x = (i + 1/2)/factor - 1/2, not beyond the outermost middles; nothing is smoothed before. Rows sum
    to 1.

    Parameters
    ----------
    factor : new pixels per old one; None = m/n
    """
    x = np.clip((np.arange(m) + 0.5) / (m / n if factor is None else factor) - 0.5, 0, n - 1)
    below = np.minimum(x.astype(int), max(n - 2, 0))
    share = x - below
    matrix = np.zeros((m, n))
    matrix[np.arange(m), below] = 1 - share
    matrix[np.arange(m), np.minimum(below + 1, n - 1)] += share
    return matrix


def reflected(index: np.ndarray, n: int) -> np.ndarray:
    """Indices from 0 to n - 1 where any index falls that is reflected at both ends: ..., 2, 1 | 0, 1, 2, ..."""
    if n == 1:
        return np.zeros_like(index)
    folded = index % (2 * (n - 1))
    return np.minimum(folded, 2 * (n - 1) - folded)


def reflected_gaussian(n: int, std: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, n) matrix of a Gaussian blur, and its derivative with respect to its width.

    ``length`` (odd) pixels have weights exp(-t^2/2 std^2) with sum 1; the signal is reflected at the rim without
    repeating its last pixel. The matrix is not symmetric near the rim: its adjoint is its transpose.
    """
    t = np.arange(length) - length // 2
    matrix, change = np.zeros((n, n)), np.zeros((n, n))
    if std < 1e-3:  # the neighbours' share is less than exp(-5e5)
        return np.eye(n), change
    weights = np.exp(-(t**2) / (2 * std**2))
    weights /= weights.sum()
    slopes = weights * t**2 / std**3
    slopes -= weights * slopes.sum()
    rows = np.arange(n)
    for step, weight, slope in zip(t, weights, slopes, strict=True):
        columns = reflected(rows + step, n)
        matrix[rows, columns] += weight
        change[rows, columns] += slope
    return matrix, change
