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
"""Values of ``tilt_mode`` with which it acts."""
_SAME_PIXELS = 1e-6
_FLAT = 1e-3


def set_pixel(params: dict[str, Any], pixel_A: float) -> None:
    """The pixel of the reconstruction, at the same scan in Å and the same aperture in mrad.

    Along y the ratio of both pixels stays. ``positions`` (px) and ``rez_pixel_size_A`` go with 1/pixel, an
    ``aperture_mask`` that is a radius with the pixel. A given probe stays as it is on its pixels, unless it is an open
    aperture of ``conv_semiangle_mrad``.
    """
    if params.get("obj") is not None:
        raise ParameterError(
            "positions beside a given obj are on its pixels; leave obj out to tune the pixel"
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
    """The semi-angle of the aperture: its radius as a fraction of the Nyquist frequency is 2 d alpha/lambda. A given
    probe must be an open aperture without aberrations; its modes keep their powers.

    Raises
    ------
    ParameterError
        The starting probe is not made from an aperture, or pixels are not square.
    """
    probe = params.get("probe")
    if not isinstance(probe, str) and not _is_open(probe):
        raise ParameterError(
            "the starting probe is not made from an aperture; set probe: aperture, or give a probe without aberrations "
            "(these in aberrations)"
        )
    pixel_x, pixel_y = (base_value(params, f"pixel_size_{axis}_A") for axis in "xy")
    if abs(pixel_x / pixel_y - 1) > _SAME_PIXELS:
        raise ParameterError(
            "an aperture given by its radius is round for square pixels only; tune aperture_mask"
        )
    radius = float(angle_mrad * 1e-3 / wavelength_A(base_value(params, "acc_voltage")))
    if isinstance(probe, str):
        params["aperture_mask"] = 2 * pixel_x * radius
    else:
        params["probe"] = _opened(base_value(params, "probe"), radius * pixel_x)
    if params.get("conv_semiangle_mrad") is not None:
        params["conv_semiangle_mrad"] = float(angle_mrad)


def _is_open(probe: Any) -> bool:
    """Whether the first mode of a probe is a disk of one value in reciprocal space."""
    if not isinstance(probe, np.ndarray) or probe.ndim > 3:
        return False
    wave = probe if probe.ndim == 2 else probe[..., 0]
    spectrum = np.fft.fft2(np.fft.ifftshift(wave))
    largest = float(abs(spectrum).max())
    inside = abs(spectrum) > 0.5 * largest
    rest = abs(np.where(inside, spectrum - spectrum[inside].mean(), spectrum)).max()
    return bool(rest < _FLAT * largest)


def _opened(probe: np.ndarray, radius: float) -> np.ndarray:
    """(y, x, modes): an aperture of this radius (1/px) and Hermite-like modes of it, with the powers of given modes."""
    modes = probe if probe.ndim > 2 else probe[..., None]
    ny, nx, count = modes.shape
    disk = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :]) <= radius
    wave = np.fft.fftshift(np.fft.ifft2(disk))
    side = math.isqrt(count - 1) + 1
    made = hermite_modes(wave[None], side - 1, side - 1)[:count].transpose(1, 2, 0)
    norms = np.sqrt((abs(made) ** 2).sum(axis=(0, 1)))
    return made * (np.sqrt((abs(modes) ** 2).sum(axis=(0, 1))) / np.maximum(norms, np.finfo(float).tiny))


def set_probe_modes(params: dict[str, Any], n_modes: int) -> None:
    """The number of modes of the starting probe.

    With ``mc_n_modes`` that many of the source's modes. A given probe keeps its first modes, or gains Hermite-like
    modes of its first one, each with 2 % of its power. A probe made from the aperture or the mean pattern gets
    ``n_hermite_probe_modes`` with this product, as square as possible.
    """
    if params.get("mc_n_modes") is not None:
        params["mc_n_modes"] = n_modes
        return
    if params.get("defocus_spread_modes") is not None:
        raise ParameterError(
            "defocus_spread_modes has a mode for each of its defoci; tune these, or leave it out"
        )
    probe = base_value(params, "probe")
    if isinstance(probe, np.ndarray):
        params["probe"] = _with_modes(probe, n_modes)
        return
    along_y = max(n for n in range(1, math.isqrt(n_modes) + 1) if n_modes % n == 0)
    params["n_hermite_probe_modes"] = [n_modes // along_y - 1, along_y - 1]


def _with_modes(probe: np.ndarray, n_modes: int) -> np.ndarray:
    """(y, x, n_modes): the first modes of (y, x, modes), or more, at the same power."""
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
    """The number of slices: their distance (the mean of several) stays, so that the thickness changes."""
    if params.get("obj") is not None:
        raise ParameterError("a given obj determines the number of slices; leave it out")
    distances = np.atleast_1d(base_value(params, "slice_distances"))
    params["num_slices"], params["slice_distances"] = n_slices, [float(distances.mean())]


def set_slice_distance(params: dict[str, Any], distance_A: float) -> None:
    """The distance of all slices; their number stays, so that the thickness changes."""
    params["slice_distances"] = [float(distance_A)]


def affine_part(part: str) -> Change:
    """One factor of :func:`affine_matrix`, about the centre of the positions; their order is that of ``ALIASES``."""

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
    """(2, 2) A of rows p = (y, x): p A. A = scale diag(1 + a/2, 1 - a/2) R(rotation) S(shear), angles in deg.

    R = [[cos, sin], [-sin, cos]], S = [[1, 0], [tan, 1]], as in PtyRAD. Its factors in this order are what one gets by
    applying scale, asymmetry, rotation and shear one after the other.
    """
    angle = math.radians(rotation)
    stretch = np.diag([1 + asymmetry / 2, 1 - asymmetry / 2])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    skew = np.array([[1.0, 0.0], [math.tan(math.radians(shear)), 1.0]])
    return scale * stretch @ turn @ skew


def tilt_part(axis: int) -> Change:
    """The tilt inside the specimen along y (0) or x (1), by PtyRAD's sign: here it is -tan(theta).

    Where each pattern has its own tilt, their mean is set, and the differences stay.
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
