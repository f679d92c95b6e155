"""Constraints of the probe, by PtyRAD's names.

Probes are (mode, y, x) or (subscan, mode, y, x) complex, centred at n//2; subscans are treated separately. Results are
on the device and in the precision of the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pypty.backend import fft
from pypty.backend.array import Array, array_module, to_host
from pypty.optics.filters import stretched_mask
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate

_TINY = 1e-8  # keeps the window finite for a radius of 0


def probe_mask_k(probe: Array, numbers: Mapping[str, Any]) -> Array:
    """Multiply the spectra of the strong modes by a disk with a soft edge (``optics.filters.sigmoid_mask``).

    The strong modes are the first stored ones that together hold more than ``power_thresh`` of the power (all, if that
    is never reached). ``radius`` is a fraction of the Nyquist frequency. Afterwards modes are sorted by power.
    """

    def masked(modes: Array) -> Array:
        n = _strong(modes, numbers["power_thresh"])
        mask = np.fft.ifftshift(stretched_mask(tuple(modes.shape[-2:]), numbers["radius"], numbers["width"]))
        spectrum = fft.fft2(modes[:n])
        spectrum *= _real(mask, modes)
        return _sorted(_with_first(modes, fft.ifft2(spectrum, overwrite=True)))

    return _by_subscan(masked, probe)


def probe_mask_r(
    probe: Array, numbers: Mapping[str, Any], pixel_size_A: tuple[float, float], wavelength_A: float
) -> Array:
    """Multiply the strong modes, in focus, by a super-Gaussian exp(-(R/radius)^(2 order)/2), R = 1 at the edge.

    The focus is the plane with the largest sum |P|^4 of the strongest mode, among ``z_steps`` planes of ``z_range`` in
    Å. All modes are propagated there and back. Which modes are strong: see :func:`probe_mask_k`.
    """
    ny, nx = probe.shape[-2:]
    rate = angular_spectrum_phase_rate(Grid((ny, nx), pixel_size_A, wavelength_A))
    r = np.hypot(np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :])
    window = np.exp(-0.5 * (r / (numbers["radius"] + _TINY)) ** (2 * numbers["order"]))
    first, last = (float(z) for z in numbers["z_range"])
    planes = np.linspace(first, last, int(numbers["z_steps"]))

    def masked(modes: Array) -> Array:
        modes = _sorted(modes)
        z = _focus(modes[0], rate, planes)
        there = propagated(modes, rate, z)
        there[: _strong(modes, numbers["power_thresh"])] *= _real(window, modes)
        return _sorted(propagated(there, rate, -z))

    return _by_subscan(masked, probe)


def fix_probe_int(probe: Array, power: float) -> Array:
    """Scale the probe to the total power ``power`` = sum |P|^2. A probe without power is not changed."""
    now = float((abs(probe) ** 2).sum(dtype=np.float64))
    return probe * float(np.sqrt(power / now)) if now > 0 else probe


def propagated(modes: Array, rate: np.ndarray, distance_A: float) -> Array:
    """Waves after ``distance_A`` of vacuum; ``rate`` in rad/Å, zero frequency first (``optics.propagators``)."""
    spectrum = fft.fft2(modes)
    spectrum *= array_module(modes).asarray(np.exp(1j * distance_A * rate).astype(modes.dtype))
    return fft.ifft2(spectrum, overwrite=True)


def _focus(mode: Array, rate: np.ndarray, planes: np.ndarray) -> float:
    xp = array_module(mode)
    spectrum, slopes = fft.fft2(mode), xp.asarray(rate)
    sharpness = []
    for z in planes.tolist():
        wave = fft.ifft2(spectrum * xp.exp(1j * z * slopes).astype(mode.dtype), overwrite=True)
        sharpness.append(((wave.real**2 + wave.imag**2) ** 2).sum(dtype=np.float64))
    return float(planes[int(np.argmax(to_host(xp.stack(sharpness))))])


def _powers(modes: Array) -> np.ndarray:
    return to_host((abs(modes) ** 2).sum(axis=(-2, -1), dtype=np.float64))


def _strong(modes: Array, share: float) -> int:
    """Number of first modes that together have more than ``share`` of the power; all modes if that is never reached."""
    power = _powers(modes)  # (mode,)
    beyond = np.cumsum(power) > share * power.sum()  # rounding, or share = 1: perhaps nowhere
    return int(np.argmax(beyond)) + 1 if beyond.any() else len(power)


def _sorted(modes: Array) -> Array:
    """Modes sorted by power, the strongest first; the same array if they are sorted already."""
    order = np.argsort(-_powers(modes), kind="stable")
    if (order == np.arange(len(order))).all():
        return modes
    return modes[array_module(modes).asarray(order)]


def _with_first(modes: Array, first: Array) -> Array:
    return (
        first if len(first) == len(modes) else array_module(modes).concatenate([first, modes[len(first) :]])
    )


def _real(factor: np.ndarray, like: Array) -> Array:
    return array_module(like).asarray(factor.astype(like.real.dtype))


def _by_subscan(change: Callable[[Array], Array], probe: Array) -> Array:
    return change(probe) if probe.ndim == 3 else array_module(probe).stack([change(modes) for modes in probe])
