"""Band limits, frequencies, aberrations and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.objective.regularizers import outside_window
from pypty.optics.aberrations import krivanek_orders
from pypty.optics.grid import Grid, object_band_mask


def fourier_clean(
    array: np.ndarray,
    cutoff: float | None = 0.66,
    mask: np.ndarray | None = None,
    rolloff: float = 0,
    default_float: Any = None,
    xp: Any = None,
) -> np.ndarray:
    """Limit the spectrum along the first two axes to |f| <= cutoff x Nyquist.

    Parameters
    ----------
    array : (y, x[, …]) real or complex
    cutoff : fraction of the Nyquist frequency; None (without a mask) returns a copy
    mask : (y, x) factor on the spectrum, zero frequency at n//2; replaces ``cutoff``
    rolloff : width of a cosine edge inside the cutoff, fraction of Nyquist
    default_float : real dtype of the result; None = that of the array
    xp : not used

    Returns
    -------
    new array, complex (real for a real array)
    """
    return _cleaned(array, cutoff, mask, rolloff, default_float, (0, 1))


def fourier_clean_3d(
    array: np.ndarray,
    cutoff: float | None = 0.66,
    mask: np.ndarray | None = None,
    rolloff: float = 0,
    default_float: Any = None,
    xp: Any = None,
) -> np.ndarray:
    """:func:`fourier_clean` along axes 1 and 2 of (n, y, x[, …])."""
    return _cleaned(array, cutoff, mask, rolloff, default_float, (1, 2))


def _cleaned(
    array: Any, cutoff: float | None, mask: Any, rolloff: float, real: Any, axes: tuple[int, int]
) -> np.ndarray:
    values = np.asarray(array)
    if cutoff is None and mask is None:
        return values.copy()
    shape = (values.shape[axes[0]], values.shape[axes[1]])
    if mask is not None:
        factor = np.fft.ifftshift(np.asarray(mask))
        if factor.shape != shape:
            raise ParameterError(f"mask has shape {factor.shape}, expected {shape}")
    else:
        assert cutoff is not None
        factor = object_band_mask(shape, (1.0, 1.0), cutoff, rolloff)
    broad = [1] * values.ndim
    broad[axes[0]], broad[axes[1]] = shape
    out: np.ndarray = np.fft.ifft2(np.fft.fft2(values, axes=axes) * factor.reshape(broad), axes=axes)
    out = out if values.dtype.kind == "c" else out.real
    wanted = np.dtype(values.real.dtype if real is None else real)
    kind = np.result_type(wanted, np.complex64) if out.dtype.kind == "c" else wanted
    return out.astype(kind if kind.kind in "fc" else out.dtype)


def create_spatial_frequencies(
    px: float,
    py: float,
    shape: int | tuple[int, ...],
    damping_cutoff_multislice: float = 2 / 3,
    smooth_rolloff: float = 0,
    default_float: Any = np.float64,
    xp: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies of a window and its band limit (:class:`pypty.optics.grid.Grid`).

    Parameters
    ----------
    px, py : pixel, Å
    shape : n, or (ny, nx[, …])
    damping_cutoff_multislice : radius of the band limit, as a fraction of the largest sampled frequency of the smaller
        axis
    smooth_rolloff : width of its soft edge

    Returns
    -------
    q2, qx, qy : (ny, nx) 1/Å^2 and 1/Å, zero frequency first
    mask_shifted, mask : (ny, nx) band limit, with zero frequency at n//2 and first
    """
    ny, nx = (shape, shape) if isinstance(shape, int) else shape[:2]
    grid = Grid((int(ny), int(nx)), (float(py), float(px)), 1.0)
    cutoff = float(damping_cutoff_multislice)
    mask = grid.soft_band_mask(cutoff, smooth_rolloff) if smooth_rolloff else grid.band_mask(cutoff)
    qy, qx = np.broadcast_arrays(grid.qy, grid.qx)
    arrays = (grid.q2, qx, qy, np.fft.fftshift(mask), mask)
    q2, qx, qy, shifted, mask = (array.astype(default_float) for array in arrays)
    return q2, qx, qy, shifted, mask


def convert_num_to_nmab(num_abs: int) -> tuple[list[int], list[int], list[str]]:
    """n, m and "", "a" or "b" of the first ``num_abs`` aberrations C_nm in Krivanek's order C10, C12a, C12b, ..."""
    orders = krivanek_orders(int(num_abs))
    return [n for n, _, _ in orders], [m for _, m, _ in orders], [kind for _, _, kind in orders]


def nmab_to_strings(n: Sequence[int], m: Sequence[int], ab: Sequence[str]) -> list[str]:
    """Names such as "C12a" for the result of :func:`convert_num_to_nmab`."""
    return [f"C{i}{j}{kind}" for i, j, kind in zip(n, m, ab, strict=True)]


def get_ctf_matrix(
    kx: np.ndarray, ky: np.ndarray, num_abs: int, wavelength: float, xp: Any = None
) -> np.ndarray:
    """(num_abs, …) phase in rad of 1 Å of each aberration at the angles kx, ky (rad, k = lambda q)."""
    return np.stack([value for value, _, _ in _terms(kx, ky, int(num_abs), wavelength, 0.0)])


def get_ctf(
    aberrations: np.ndarray | Sequence[float],
    kx: np.ndarray,
    ky: np.ndarray,
    wavelength: float,
    angle_offset: float = 0,
) -> np.ndarray:
    """chi in rad at the angles kx, ky (rad); a probe's spectrum is multiplied by exp(-i chi).

    chi = (2 pi/lambda) sum C_nm k^(n+1)/(n+1) {1, cos m phi, sin m phi}, phi = arg(kx + i ky) + angle_offset (Krivanek
    et al., Ultramicroscopy 78 (1999) 1, eq. 1).

    Parameters
    ----------
    aberrations : Å, C10, C12a, C12b, C21a, ...
    wavelength : Å
    angle_offset : rad
    """
    coefficients = np.atleast_1d(np.asarray(aberrations, float))
    terms = _terms(kx, ky, len(coefficients), wavelength, angle_offset)
    return sum(
        (c * value for c, (value, _, _) in zip(coefficients, terms, strict=True)),
        np.zeros(np.broadcast_shapes(np.shape(kx), np.shape(ky))),
    )


def get_ctf_derivatives(
    aberrations: np.ndarray | Sequence[float],
    kx: np.ndarray,
    ky: np.ndarray,
    wavelength: float,
    angle_offset: float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """d chi/d kx and d chi/d ky of :func:`get_ctf`; multiplied by lambda/(2 pi) they are shifts in Å."""
    coefficients = np.atleast_1d(np.asarray(aberrations, float))
    shape = np.broadcast_shapes(np.shape(kx), np.shape(ky))
    along_x, along_y = np.zeros(shape), np.zeros(shape)
    for c, (_, dx, dy) in zip(
        coefficients, _terms(kx, ky, len(coefficients), wavelength, angle_offset), strict=True
    ):
        along_x, along_y = along_x + c * dx, along_y + c * dy
    return along_x, along_y


def get_ctf_gradient_rotation_angle(
    aberrations: np.ndarray | Sequence[float],
    kx: np.ndarray,
    ky: np.ndarray,
    wavelength: float,
    angle_offset: float = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """d/d angle_offset of :func:`get_ctf_derivatives`, per rad.

    A change of phi rotates each pair (C_nma, C_nmb), so that the derivative is that of the coefficients
    m (C_nma -> C_nmb, C_nmb -> -C_nma).
    """
    coefficients = np.atleast_1d(np.asarray(aberrations, float))
    turned = np.zeros(len(coefficients) + 1)
    for index, (_, m, kind) in enumerate(krivanek_orders(len(coefficients))):
        if kind == "a":  # cos -> -m sin
            turned[index + 1] -= m * coefficients[index]
        elif kind == "b":
            turned[index - 1] += m * coefficients[index]
    return get_ctf_derivatives(turned, kx, ky, wavelength, angle_offset)


def _terms(
    kx: Any, ky: Any, n_terms: int, wavelength: float, angle_offset: float
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(value, derivative along kx, derivative along ky) of each term of chi for 1 Å."""
    x, y = np.broadcast_arrays(np.asarray(kx, float), np.asarray(ky, float))
    k = np.hypot(x, y)
    safe = np.where(k > 0, k, 1.0)  # the direction is undefined at k = 0, where all terms vanish
    cosine, sine = x / safe, y / safe
    angle = np.arctan2(y, x) + angle_offset
    terms = []
    for n, m, kind in krivanek_orders(n_terms):
        wave, slope = np.cos(m * angle), -m * np.sin(m * angle)
        if kind == "b":
            wave, slope = np.sin(m * angle), m * np.cos(m * angle)
        scale = 2 * np.pi / wavelength
        # d/dk and (1/k) d/dphi, then rotated to kx and ky
        radial, across = scale * k**n * wave, scale * k**n / (n + 1) * slope
        terms.append(
            (
                scale * k ** (n + 1) / (n + 1) * wave,
                radial * cosine - across * sine,
                radial * sine + across * cosine,
            )
        )
    return terms


def get_window(
    shape: int | tuple[int, ...], r0: float, r_max: float, inverted: bool = True, xp: Any = None
) -> np.ndarray:
    """(y, x) circular window: 0 up to r0, 1 beyond r_max, with a cosine edge; ``inverted=False`` gives 1 minus that.

    Radii are fractions of half the array, as in the parameter ``window``. (PyPty 2.2 documents a circle, but uses a
    square.)
    """
    ny, nx = (shape, shape) if isinstance(shape, int) else shape[:2]
    outside = outside_window((int(ny), int(nx)), float(r0), float(r_max))
    return outside if inverted else 1 - outside
