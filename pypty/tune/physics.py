"""Tuned quantities that change several parameters together: pixel, aperture, modes, slices, affine map, tilt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.optics.modes import hermite_modes
from pypty.optics.wavelength import wavelength_A
from pypty.tune.entries import base_value

Change = Callable[[dict[str, Any], Any], None]
_ADDED_POWER = 0.02
"""Power of each mode that is added to a given probe, as a fraction of the total power."""
_INSIDE = 2
"""Column of ``tilts`` with the y component inside the specimen."""
_ACTS_INSIDE = (0, 3, 4)
"""Values of ``tilt_mode`` with which tilts inside the specimen act."""
_SAME_PIXELS = 1e-6
"""Relative difference below which pixels count as square."""
_FLAT = 1e-3
"""Deviation from a flat disk, relative to the largest amplitude, below which a probe counts as an open aperture."""


def set_pixel(params: dict[str, Any], pixel_A: float) -> None:
    """Set the pixel size of the reconstruction; the scan in Å and the aperture in mrad are kept.

    The ratio of the pixel sizes along y and x is kept. ``positions`` (px) and ``rez_pixel_size_A`` are scaled with
    1/pixel, an ``aperture_mask`` that is a radius with the pixel. A given probe keeps its pixels, unless it is an open
    aperture with ``conv_semiangle_mrad``, which is recomputed.
    """
    if params.get("obj") is not None:
        raise ParameterError(
            "positions refer to the pixels of a given obj; leave obj out to tune the pixel size"
        )
    old_x, old_y = (base_value(params, f"pixel_size_{axis}_A") for axis in "xy")
    factor = pixel_A / old_x
    params["pixel_size_x_A"], params["pixel_size_y_A"] = float(pixel_A), float(old_y * factor)
    params["positions"] = base_value(params, "positions") / factor
    if params.get("positions_correction") is not None:
        params["positions_correction"] = base_value(params, "positions_correction") / factor
    if _is_open(params.get("probe")) and params.get("conv_semiangle_mrad") is not None:
        set_convergence(params, params["conv_semiangle_mrad"])
    for name, power in (("rez_pixel_size_A", -1), ("rez_pixel_size_mrad", -1), ("aperture_mask", 1)):
        if isinstance(params.get(name), (int, float)):
            params[name] = params[name] * factor**power


def set_convergence(params: dict[str, Any], angle_mrad: float) -> None:
    """Set the semi-angle of the aperture; its radius as a fraction of the Nyquist frequency is 2 d alpha/lambda.

    A given probe must be an open aperture without aberrations; its modes keep their powers.

    Raises
    ------
    ParameterError
        The starting probe is not made from an aperture, or pixels are not square.
    """
    probe = params.get("probe")
    if not isinstance(probe, str) and not _is_open(probe):
        raise ParameterError(
            "the starting probe is not made from an aperture; set probe: aperture, or give a probe without aberrations "
            "and put these into aberrations"
        )
    pixel_x, pixel_y = (base_value(params, f"pixel_size_{axis}_A") for axis in "xy")
    if abs(pixel_x / pixel_y - 1) > _SAME_PIXELS:
        raise ParameterError(
            "an aperture given by its radius is only round for square pixels; tune aperture_mask instead"
        )
    radius = float(angle_mrad * 1e-3 / wavelength_A(base_value(params, "acc_voltage")))
    if isinstance(probe, str):
        params["aperture_mask"] = 2 * pixel_x * radius
    else:
        params["probe"] = _opened(base_value(params, "probe"), radius * pixel_x)
    if params.get("conv_semiangle_mrad") is not None:
        params["conv_semiangle_mrad"] = float(angle_mrad)


def _is_open(probe: Any) -> bool:
    """Whether the first mode of a probe (y, x[, modes]) is a disk of constant value in reciprocal space."""
    if not isinstance(probe, np.ndarray) or probe.ndim > 3:
        return False
    wave = probe if probe.ndim == 2 else probe[..., 0]
    spectrum = np.fft.fft2(np.fft.ifftshift(wave))  # zero frequency first, centre at pixel (0, 0)
    largest = float(abs(spectrum).max())
    inside = abs(spectrum) > 0.5 * largest
    rest = abs(np.where(inside, spectrum - spectrum[inside].mean(), spectrum)).max()
    return bool(rest < _FLAT * largest)


def _opened(probe: np.ndarray, radius: float) -> np.ndarray:
    """(y, x, modes): an aperture of this radius (1/px) and its Hermite-like modes, with the powers of ``probe``."""
    modes = probe if probe.ndim > 2 else probe[..., None]
    ny, nx, count = modes.shape
    disk = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :]) <= radius
    wave = np.fft.fftshift(np.fft.ifft2(disk))
    side = math.isqrt(count - 1) + 1  # side x side >= count
    # (n, y, x) -> (y, x, count)
    made = hermite_modes(wave[None], side - 1, side - 1)[:count].transpose(1, 2, 0)
    norms = np.sqrt((abs(made) ** 2).sum(axis=(0, 1)))
    return made * (np.sqrt((abs(modes) ** 2).sum(axis=(0, 1))) / np.maximum(norms, np.finfo(float).tiny))


def set_probe_modes(params: dict[str, Any], n_modes: int) -> None:
    """Set the number of modes of the starting probe.

    If ``mc_n_modes`` is given, it is set. A given probe keeps its first modes, or gains Hermite-like modes of its first
    mode, each with 2 % of the total power. A probe made from the aperture or the mean pattern gets
    ``n_hermite_probe_modes`` with this number of modes, as square as possible.
    """
    if params.get("mc_n_modes") is not None:
        params["mc_n_modes"] = n_modes
        return
    if params.get("defocus_spread_modes") is not None:
        raise ParameterError(
            "defocus_spread_modes gives one mode per defocus; tune its values, or leave it out"
        )
    probe = base_value(params, "probe")
    if isinstance(probe, np.ndarray):
        params["probe"] = _with_modes(probe, n_modes)
        return
    # The largest divisor up to the square root makes the product as square as possible.
    along_y = max(n for n in range(1, math.isqrt(n_modes) + 1) if n_modes % n == 0)
    params["n_hermite_probe_modes"] = [n_modes // along_y - 1, along_y - 1]


def _with_modes(probe: np.ndarray, n_modes: int) -> np.ndarray:
    """(y, x, n_modes): the first modes of (y, x, modes), or modes added; the total power is kept."""
    probe = probe if probe.ndim > 2 else probe[..., None]
    if probe.ndim > 3:
        raise ParameterError("the number of modes of a probe with subscans cannot be tuned")
    have = probe.shape[2]
    if n_modes <= have:
        kept = probe[..., :n_modes]
    else:
        side = math.isqrt(n_modes - 1) + 1  # at least n_modes of side x side
        made = hermite_modes(probe.transpose(2, 0, 1)[:1], side - 1, side - 1)[have:n_modes]
        norms = np.sqrt((np.abs(made) ** 2).sum(axis=(1, 2), keepdims=True))
        power = _ADDED_POWER * (np.abs(probe) ** 2).sum()
        added = made * (math.sqrt(power) / np.maximum(norms, np.finfo(float).tiny))
        kept = np.concatenate([probe, added.transpose(1, 2, 0)], axis=2)
    return kept * np.sqrt((np.abs(probe) ** 2).sum() / (np.abs(kept) ** 2).sum())


def set_slices(params: dict[str, Any], n_slices: int) -> None:
    """Set the number of slices; their (mean) distance is kept, so that the thickness changes."""
    if params.get("obj") is not None:
        raise ParameterError("a given obj determines the number of slices; leave it out")
    distances = np.atleast_1d(base_value(params, "slice_distances"))
    params["num_slices"], params["slice_distances"] = n_slices, [float(distances.mean())]


def set_slice_distance(params: dict[str, Any], distance_A: float) -> None:
    """Set the distance of all slices; their number is kept, so that the thickness changes."""
    params["slice_distances"] = [float(distance_A)]


def affine_part(part: str) -> Change:
    """Function that applies one factor of :func:`affine_matrix` about the mean position (order: ``ALIASES``)."""

    def change(params: dict[str, Any], value: float) -> None:
        parts = {"scale": 1.0, "asymmetry": 0.0, "rotation": 0.0, "shear": 0.0, part: float(value)}
        matrix = affine_matrix(**parts)
        positions = base_value(params, "positions")
        if params.get("positions_correction") is not None:
            positions = positions + base_value(params, "positions_correction")
            params["positions_correction"] = None
        mean = positions.mean(axis=0)
        params["positions"] = (positions - mean) @ matrix + mean

    return change


def affine_matrix(scale: float, asymmetry: float, rotation: float, shear: float) -> np.ndarray:
    """(2, 2) matrix A that maps rows p = (y, x) to p A.

    A = scale diag(1 + a/2, 1 - a/2) R(rotation) S(shear) with R = [[cos, sin], [-sin, cos]] and S = [[1, 0], [tan, 1]],
    angles in deg, as in PtyRAD. Scale, asymmetry, rotation and shear, applied one after the other, give the same.
    """
    angle = math.radians(rotation)
    stretch = np.diag([1 + asymmetry / 2, 1 - asymmetry / 2])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    skew = np.array([[1.0, 0.0], [math.tan(math.radians(shear)), 1.0]])
    return scale * stretch @ turn @ skew


def tilt_part(axis: int) -> Change:
    """Function that sets the tilt inside the specimen along y (0) or x (1), with PtyRAD's sign: here -tan(theta).

    If every pattern has its own tilt, their mean is set, and the differences are kept.
    """

    def change(params: dict[str, Any], tilt_mrad: float) -> None:
        if params.get("tilt_mode", 0) not in _ACTS_INSIDE:
            raise ParameterError(
                f"with tilt_mode = {params['tilt_mode']} no tilt acts inside the specimen; set it to 0, 3 or 4"
            )
        tilts_now = base_value(params, "tilts")
        tilts = np.zeros((1, 6)) if tilts_now is None else tilts_now.copy()
        column = tilts[:, _INSIDE + axis]
        column += -math.tan(1e-3 * tilt_mrad) - column.mean()
        params["tilts"] = tilts

    return change
