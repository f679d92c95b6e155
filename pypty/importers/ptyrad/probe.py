"""PtyRAD's starting probe: (mode, y, x), centred at n//2, with sum |psi|^2 equal to the sum of the patterns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pypty.optics.aberrations import aberration_phase
from pypty.optics.grid import Grid
from pypty.optics.probes import probe_from_spectrum
from pypty.optics.propagators import angular_spectrum_phase_rate


def stem_probe(grid: Grid, conv_angle_mrad: float, aberrations_A: np.ndarray) -> np.ndarray:
    """(y, x): a hard aperture with exp(-i chi), of power 1."""
    inside = np.sqrt(grid.q2) <= 1e-3 * conv_angle_mrad / grid.wavelength
    spectrum = inside * np.exp(-1j * aberration_phase(grid, aberrations_A))
    wave = probe_from_spectrum(np.fft.fftshift(spectrum))
    return wave / np.sqrt((np.abs(wave) ** 2).sum())


def hermite_set(wave: np.ndarray, powers: Sequence[float]) -> np.ndarray:
    """(modes, y, x): the wave (y, x) and Hermite-like functions of it, with the fractions ``powers`` of its power.

    wave x^m y^n exp(-x^2/2 v_x - y^2/2 v_y), with x, y from the centroid of the intensity and its variances v; each
    mode is made orthogonal to the previous ones.
    """
    n_modes = len(powers)
    n_x = math.ceil(math.sqrt(n_modes)) - 1
    n_y = math.ceil(n_modes / (n_x + 1)) - 1
    intensity = np.abs(wave) ** 2
    y, var_y = _centred(intensity.sum(axis=1))
    x, var_x = _centred(intensity.sum(axis=0))
    y, x = y[:, None], x[None, :]
    envelope = np.exp(-(x**2) / (2 * var_x) - y**2 / (2 * var_y))
    modes: list[np.ndarray] = []
    for n, m in ((n, m) for n in range(n_y + 1) for m in range(n_x + 1)):
        mode = x**m * y**n * wave
        mode = mode * envelope if modes else mode
        mode = mode / np.linalg.norm(mode)
        for before in modes:  # Gram-Schmidt
            mode = mode - (before * mode.conj()).sum() * before
        modes.append(mode / np.linalg.norm(mode))
    amplitudes = np.sqrt(np.asarray(powers)) * np.linalg.norm(wave)
    return np.stack(modes[:n_modes]) * amplitudes[:, None, None]


def _centred(profile: np.ndarray) -> tuple[np.ndarray, float]:
    """Distance from the centroid of a profile, and its variance."""
    position = np.arange(len(profile)) - len(profile) / 2
    total = profile.sum()
    position = position - (profile * position).sum() / total
    return position, float((profile * position**2).sum() / total)


def with_modes(
    probe: np.ndarray, n_modes: int, powers: Sequence[float], keep_phases: bool = False
) -> np.ndarray:
    """(n_modes, y, x): the first modes, or Hermite-like modes added; orthogonal, strongest first, same total power.

    Parameters
    ----------
    probe : (modes, y, x)
    powers : one number p: every added mode has p times the power of ``probe`` before all modes are scaled; or, if
        ``probe`` has one mode, a fraction of the total power for each of the ``n_modes`` modes
    keep_phases : as in :func:`orthogonal`
    """
    power = (np.abs(probe) ** 2).sum()
    have = len(probe)
    if have >= n_modes:
        out = probe[:n_modes]
    elif len(powers) == n_modes and have == 1:
        out = hermite_set(probe[0], powers)
    else:
        small = float(min(powers))
        fractions = [max(1 - (n_modes - 1) * small, small), *[small] * (n_modes - 1)]
        # A set of unit power, of which only the missing modes are added.
        added = hermite_set(probe[0] / np.linalg.norm(probe[0]), fractions)[have:]
        out = np.concatenate([probe, added * np.sqrt(power)])
    out = out * np.sqrt(power / (np.abs(out) ** 2).sum())
    return orthogonal(out, keep_phases)


def orthogonal(probe: np.ndarray, keep_phases: bool = False) -> np.ndarray:
    """Orthogonal modes of the same mixed state, strongest first (eigenvectors of the Gram matrix).

    Parameters
    ----------
    keep_phases : give each mode the phase of the given mode of which it has most: modes that are orthogonal already,
        and an optimiser's moments that belong to them, stay as they are. Else the phases are those of the eigenvectors,
        as in PtyRAD
    """
    flat = probe.reshape(len(probe), -1)
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    if keep_phases:
        largest = vectors[np.argmax(abs(vectors), axis=0), np.arange(len(vectors))]
        vectors = vectors * (largest.conj() / abs(largest))
    modes = (vectors.conj().T @ flat).reshape(probe.shape)
    return modes[::-1]  # eigh sorts eigenvalues in ascending order


def propagated(probe: np.ndarray, grid: Grid, distance_A: float) -> np.ndarray:
    """Every mode after ``distance_A`` of vacuum, positive forward, by the exact propagator."""
    transfer = np.exp(1j * distance_A * angular_spectrum_phase_rate(grid))
    return np.fft.ifft2(np.fft.fft2(probe) * transfer)
