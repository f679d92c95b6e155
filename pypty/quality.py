"""Compare a reconstructed phase with the known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize


@dataclass(frozen=True)
class Agreement:
    """Pearson correlation after removing offset and linear ramp, and the (y, x) registration shift in Å."""

    correlation: float
    shift_A: tuple[float, float]


def phase_agreement(
    phase: np.ndarray,
    pixel_size_A: float,
    *,
    origin_A: np.ndarray,
    truth: np.ndarray,
    truth_pixel_A: float,
    area_A: np.ndarray,
    margin_A: float = 0.6,
    search_A: float = 1.0,
) -> Agreement:
    """Compare a phase image with the true one inside the scanned area.

    Ptychography leaves a constant, a linear ramp and a small shift of the phase undetermined, so these are
    removed; nothing is filtered.

    Parameters
    ----------
    phase : (Y, X) rad
    origin_A : (y, x) of pixel (0, 0) of ``phase`` in the coordinates of the truth
    truth : (Y', X') rad, pixel (0, 0) at (0, 0) Å
    area_A : (2, 2) lower and upper corner (y, x) of the scan
    margin_A : width cut off on each side of ``area_A``
    search_A : range of the registration
    """
    low = np.ceil((area_A[0] + margin_A) / truth_pixel_A).astype(int)
    high = np.floor((area_A[1] - margin_A) / truth_pixel_A).astype(int)
    rows, columns = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    wanted = _without_ramp(truth[rows, columns], rows, columns)
    at = np.stack([rows, columns]) * truth_pixel_A - origin_A[:, None, None]

    def correlation(shift: np.ndarray) -> float:
        sampled = map_coordinates(
            phase, (at + np.asarray(shift)[:, None, None]) / pixel_size_A, order=3, mode="nearest"
        )
        flat = _without_ramp(sampled, rows, columns)
        return float((flat * wanted).sum() / np.sqrt((flat**2).sum() * (wanted**2).sum() + 1e-300))

    steps = np.arange(-search_A, search_A + 1e-9, truth_pixel_A)
    coarse = max(((y, x) for y in steps for x in steps), key=lambda s: correlation(np.array(s)))
    best = minimize(
        lambda s: -correlation(s),
        coarse,
        method="Nelder-Mead",
        options={
            "xatol": 1e-3,
            "fatol": 1e-7,
            "initial_simplex": np.array(coarse) + 0.3 * truth_pixel_A * np.array([[0, 0], [1, 0], [0, 1]]),
        },
    )
    return Agreement(-float(best.fun), (float(best.x[0]), float(best.x[1])))


def _without_ramp(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    basis = np.stack(
        [np.ones(image.size), rows.ravel() - rows.mean(), columns.ravel() - columns.mean()], axis=1
    )
    coefficients, *_ = np.linalg.lstsq(basis, image.ravel(), rcond=None)
    return image - (basis @ coefficients).reshape(image.shape)
