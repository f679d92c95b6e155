"""PtyRAD's starting positions: crop origins [y, x] of patches on its canvas (the object array), in pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MARGIN = 1.2
"""Ratio of the sides of the canvas to those of the area covered by patches."""


def raster(scan_size: Sequence[int], step_px: float) -> np.ndarray:
    """(N, 2) points of a raster (slow, fast) with this step, fast axis last."""
    rows, columns = np.indices(tuple(scan_size))
    return step_px * np.stack([rows.ravel(), columns.ravel()], axis=1)


def canvas_of(positions: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """(2,) sides of the canvas for these positions, px."""
    extent = positions.max(axis=0) - positions.min(axis=0) + np.asarray(window)
    return (_MARGIN * np.ceil(extent - 1e-9)).astype(int)  # rounding must not add a pixel


def centred(positions: np.ndarray, window: Sequence[int]) -> np.ndarray:
    """Positions shifted to the middle of their canvas."""
    canvas, half = canvas_of(positions, window), np.asarray(window) // 2
    return positions - positions.mean(axis=0) + (canvas // 2 - half)


def flipped(positions: np.ndarray, scan_size: Sequence[int], flips: Sequence[int]) -> np.ndarray:
    """Reverse the slow axis, the fast axis and the components (y, x), for each flag that is 1."""
    array = positions.reshape(*scan_size, 2)
    axes = tuple(axis for axis, flag in enumerate(flips) if flag)
    return np.flip(array, axes).reshape(-1, 2) if axes else positions


def affine_matrix(scale: float, asymmetry: float, rotation_deg: float, shear_deg: float) -> np.ndarray:
    """(2, 2) matrix that acts from the right on rows (y, x)."""
    turn = np.deg2rad(rotation_deg)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    shear = np.array([[1, 0], [np.tan(np.deg2rad(shear_deg)), 1]])
    return scale * np.diag([1 + asymmetry / 2, 1 - asymmetry / 2]) @ rotation @ shear


def affine(positions: np.ndarray, parameters: Sequence[float], window: Sequence[int]) -> np.ndarray:
    """Scale, rotate and shear the positions about their mean, and centre them on a new canvas."""
    turned = (positions - positions.mean(axis=0)) @ affine_matrix(*parameters)
    return centred(turned, window)


def jittered(positions: np.ndarray, std_px: float, rng: np.random.RandomState) -> np.ndarray:
    """Positions with Gaussian noise."""
    return positions + std_px * rng.standard_normal(positions.shape)
