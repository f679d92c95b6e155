"""Fit aberrations to the phase of a reconstructed probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from pypty.errors import ParameterError
from pypty.optics.aberrations import aberration_basis, aberration_names
from pypty.optics.grid import Grid
from pypty.optics.probes import spectrum_of_probe
from pypty.optics.wavelength import wavelength_A
from pypty.plots import analysis


def fit_aberrations_to_wave(
    wave: np.ndarray,
    px_size_A: float,
    acc_voltage: float,
    thresh: float = 0,
    aberrations_guess: ArrayLike = (0.0,) * 12,
    plot: bool = True,
    ftol: float = 1e-20,
    xtol: float = 1e-20,
    loss: str = "linear",
    max_mrad: float = np.inf,
) -> Any:
    """Fit aberrations to the phase of a wave's spectrum, F[wave] = |F| exp(-i chi).

    The phase is not unwrapped. Phase differences between neighbouring pixels, which are below pi if the spectrum is
    sampled finely enough, give a first estimate; the remaining phase gives the final one. A shift of the wave and a
    constant phase are fitted as well, but not returned. Pixels are weighted with |F|.

    Parameters
    ----------
    wave : (y, x) complex, real space, centre at n//2
    thresh : only pixels with |F| above this fraction of the maximum are fitted
    aberrations_guess : Å; its length sets the number of coefficients (Krivanek: C10, C12a, C12b, C21a, ...)
    plot : whether to return a figure, too
    ftol, xtol, loss : as in scipy.optimize.least_squares
    max_mrad : largest fitted angle

    Returns
    -------
    (K,) float64, Å; with ``plot`` the pair (coefficients, matplotlib Figure)

    Raises
    ------
    ParameterError
        The wave is not an image, or fewer pixels than unknowns are left.
    """
    wave, guess = np.asarray(wave), np.array(aberrations_guess, float).ravel()
    if wave.ndim != 2 or not np.isfinite(wave).all():
        raise ParameterError(
            f"wave has shape {wave.shape}, expected a finite complex image (y, x); choose a mode"
        )
    if not (px_size_A > 0 and len(guess) and 0 <= thresh < 1 and max_mrad > 0):
        raise ParameterError(
            "px_size_A and max_mrad must be above 0, thresh in [0, 1), and at least one coefficient is needed"
        )
    grid = Grid((wave.shape[0], wave.shape[1]), (px_size_A, px_size_A), wavelength_A(acc_voltage))
    spectrum = spectrum_of_probe(wave)
    basis = np.fft.fftshift(aberration_basis(grid, len(guess)), axes=(1, 2))
    fy, fx = (np.broadcast_to(np.fft.fftshift(f), grid.shape) for f in (grid.fy, grid.fx))
    # (K + 3, y, x): aberrations, shift along y and x, constant phase
    terms = np.concatenate([basis, 2 * np.pi * np.stack([fy, fx]), np.ones((1, *grid.shape))])
    angle_mrad = 1e3 * grid.wavelength * np.fft.fftshift(np.sqrt(grid.q2))
    used = (np.abs(spectrum) > thresh * np.abs(spectrum).max()) & (angle_mrad <= max_mrad)
    if used.sum() <= len(terms):
        raise ParameterError(
            f"{used.sum()} pixels are too few for {len(guess)} coefficients; lower thresh, or raise max_mrad"
        )
    start = np.concatenate([guess, np.zeros(3)])
    start = start + _from_neighbours(spectrum * np.exp(1j * np.tensordot(start, terms, 1)), terms, used)
    solution = _fit_phase(spectrum, terms, used, start, {"ftol": ftol, "xtol": xtol, "loss": loss})
    coefficients = solution[: len(guess)]
    if not plot:
        return coefficients
    nuisance = np.exp(1j * np.tensordot(solution[len(guess) :], terms[len(guess) :], 1))
    measured = np.where(used, -np.angle(spectrum * nuisance), np.nan)
    modelled = np.where(used, np.angle(np.exp(1j * np.tensordot(coefficients, basis, 1))), np.nan)
    names = aberration_names(len(guess))
    return coefficients, analysis.plot_aberration_fit(measured, modelled, angle_mrad, names, coefficients)


def _from_neighbours(spectrum: np.ndarray, terms: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Coefficients from the phase differences of neighbouring pixels; the constant, the last term, stays 0."""
    rows, values = [], []
    for axis in (0, 1):
        index = np.arange(spectrum.shape[axis])
        low, high = index[:-1], index[1:]
        # The angle of this product is the phase difference, in (-pi, pi].
        product = np.take(spectrum, high, axis) * np.conj(np.take(spectrum, low, axis))
        pair = np.take(used, high, axis) & np.take(used, low, axis)
        weight = np.sqrt(np.abs(product[pair]))
        difference = np.take(terms, high, axis + 1) - np.take(terms, low, axis + 1)
        rows.append(difference[:-1, pair] * weight)
        values.append(-np.angle(product[pair]) * weight)
    return np.append(_solve(np.concatenate(rows, axis=1).T, np.concatenate(values)), 0.0)


def _solve(matrix: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares with columns of very different norms."""
    # Columns of C10 and C56 differ by many orders of magnitude: without scaling, lstsq would drop the small ones.
    size = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    scaled, *_ = np.linalg.lstsq(matrix / size, values, rcond=None)
    return scaled / size


def _fit_phase(
    spectrum: np.ndarray, terms: np.ndarray, used: np.ndarray, start: np.ndarray, options: Mapping[str, Any]
) -> np.ndarray:
    """Least squares of the remaining phase, between -pi and pi, from a start that is close to the solution."""
    values, weight = spectrum[used], np.sqrt(np.abs(spectrum[used]) / np.abs(spectrum[used]).max())
    mean = np.sum(values * weight * np.exp(1j * (start @ terms[:, used])))
    # The constant phase is set first, so that residuals are centred at 0 and far from the jump at pi.
    start = start - np.append(np.zeros(len(start) - 1), np.angle(mean))
    matrix = (terms[:, used] * weight).T
    size = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    least = np.finfo(float).eps
    result = least_squares(
        lambda x: weight * np.angle(values * np.exp(1j * ((x / size) @ terms[:, used]))),
        start * size,
        jac=lambda x: matrix / size,
        ftol=max(options["ftol"], least),
        xtol=max(options["xtol"], least),
        loss=options["loss"],
    )
    return np.asarray(result.x / size)
