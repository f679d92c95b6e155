"""Probes (y, x[, modes[, subscans]]): defocus, modes, shifts, windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pypty.data.window import Window
from pypty.errors import ParameterError
from pypty.initialize.common import checked
from pypty.optics import modes, probes
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A


def _changed(probe: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``change``, a function of arrays (…, y, x), to a probe whose first axes are (y, x)."""
    planes = np.moveaxis(np.asarray(probe), (0, 1), (-2, -1))
    return np.moveaxis(change(planes), (-2, -1), (0, 1))


def _modes_first(probe: np.ndarray) -> np.ndarray:
    array = np.asarray(probe)
    if array.ndim not in (2, 3):
        raise ParameterError(f"the probe has shape {array.shape}, expected (y, x) or (y, x, modes)")
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def apply_defocus_probe(
    probe: np.ndarray,
    distance: float,
    acc_voltage: float,
    pixel_size_x_A: float,
    pixel_size_y_A: float,
    default_complex: Any = None,
    default_float: Any = None,
    xp: Any = None,
) -> np.ndarray:
    """Propagate a probe; positive is forward, as for C10.

    Its spectrum is multiplied by exp(-i pi lambda distance q^2), without a band limit. (PyPty 2.2 limits it to 2/3 of
    the largest frequency.)

    Parameters
    ----------
    probe : (y, x[, modes[, subscans]]) complex
    distance : Å
    acc_voltage : kV
    default_complex : dtype of the result; None = that of the computation
    default_float, xp : not used
    """
    shape = np.shape(probe)
    grid = Grid(
        (shape[0], shape[1]), (float(pixel_size_y_A), float(pixel_size_x_A)), wavelength_A(acc_voltage)
    )
    out = _changed(probe, lambda planes: probes.defocus(planes, grid, float(distance)))
    return out if default_complex is None else out.astype(default_complex)


def generate_hermite_modes(
    main_mode: np.ndarray, n_herm_x: int, n_herm_y: int, default_complex: Any = None, xp: Any = None
) -> np.ndarray:
    """(y, x, (n_herm_x + 1)(n_herm_y + 1)) modes of a probe: :func:`pypty.optics.modes.hermite_modes`.

    Intensities of modes add; their total power is that of ``main_mode``.
    """
    out = modes.hermite_modes(_modes_first(main_mode), int(n_herm_x), int(n_herm_y)).transpose(1, 2, 0)
    return out if default_complex is None else out.astype(default_complex)


def probe_modes_from_spreads(
    probe: np.ndarray,
    wavelength: float,
    rez_px_size_rad: float,
    focal_spread: float,
    spatial_coh_x_A: float = 0,
    spatial_coh_y_A: float = 0,
    spatial_coh_xy: float = 0,
    n_modes: int = 4,
    n_samples: int = 256,
    seed: int = 0,
    data_pad: int = 0,
    recon_type: str = "far_field",
    xp: Any = None,
) -> np.ndarray:
    """(y, x, n_modes) coherent modes of a beam with focal spread and source size, the strongest first.

    See :func:`pypty.optics.modes.monte_carlo_modes`.

    Parameters
    ----------
    probe : (y, x[, modes]) in its padded window
    wavelength : Å
    rez_px_size_rad : pixel of the detector, rad; the pixel of the probe is wavelength/(n x rez_px_size_rad)
    focal_spread, spatial_coh_x_A, spatial_coh_y_A : standard deviations, Å; spatial_coh_xy covariance, Å^2
    data_pad, recon_type, xp : not used; the shape of ``probe`` determines the window
    """
    planes = _modes_first(probe)
    ny, nx = planes.shape[1:]
    pixels = (wavelength / (ny * rez_px_size_rad), wavelength / (nx * rez_px_size_rad))  # Å
    monte_carlo = modes.monte_carlo_modes(
        planes,
        Grid((ny, nx), pixels, float(wavelength)),
        n_modes=int(n_modes),
        n_samples=int(n_samples),
        focal_spread_A=float(focal_spread),
        source_size_y_A=float(spatial_coh_y_A),
        source_size_x_A=float(spatial_coh_x_A),
        source_covariance_A2=float(spatial_coh_xy),
        rng=np.random.default_rng(seed),
    )
    return monte_carlo.transpose(1, 2, 0)


def shift_probe_fourier(probe: np.ndarray, shift_px: Any) -> np.ndarray:
    """Shift a probe cyclically by [y, x] px, including fractions; positive is towards larger index.

    The spectrum is multiplied by exp(-2 pi i f.s).
    """
    y, x = (float(value) for value in np.ravel(shift_px))
    shape = np.shape(probe)
    ramp = np.exp(
        -2j * np.pi * (np.fft.fftfreq(shape[0])[:, None] * y + np.fft.fftfreq(shape[1])[None, :] * x)
    )
    return _changed(probe, lambda planes: np.fft.ifft2(np.fft.fft2(planes) * ramp))


def padfft(array: np.ndarray, pad: int) -> np.ndarray:
    """Pad the spectrum of (y, x[, …]) with ``pad`` zeros on each side: the same field with finer pixels.

    The spectrum itself is unchanged, and so is sum |F P|^2, the counts of a probe; values become smaller by the ratio
    of the numbers of pixels.
    """
    shape = np.shape(array)
    if int(pad) < 0:
        raise ParameterError(f"pad is {pad!r}, expected a number of pixels >= 0")
    target = (shape[0] + 2 * int(pad), shape[1] + 2 * int(pad))
    return _changed(array, lambda planes: probes.resize_spectrum(planes, target))


def padprobetodatafarfield(
    probe: np.ndarray, measured_data_shape: tuple[int, ...], data_pad: int, upsample_pattern: int = 1
) -> np.ndarray:
    """Pad a probe to the window of far-field waves, upsample_pattern x pattern + 2 data_pad, as a run does.

    It is padded with zeros by upsample_pattern (same pixel size), then its spectrum is padded (finer pixels).

    Parameters
    ----------
    probe : (y, x[, modes[, subscans]]), with the size of a pattern, or already with that of the waves
    measured_data_shape : (…, ky, kx)
    """
    window = _window(measured_data_shape, data_pad, upsample_pattern, "far_field")
    return _changed(probe, window.probe_on_model)


def padprobetodatanearfield(
    probe: np.ndarray, measured_data_shape: tuple[int, ...], data_pad: int, upsample_pattern: int = 1
) -> np.ndarray:
    """Pad a probe with zeros, or crop it, to the window of near-field waves."""
    window = _window(measured_data_shape, data_pad, upsample_pattern, "near_field")
    return _changed(probe, lambda planes: probes.resize(planes, window.model))


def _window(measured: tuple[int, ...], pad: int, upsample: int, recon_type: str) -> Window:
    if int(pad) < 0 or int(upsample) < 1:
        raise ParameterError(
            f"data_pad {pad!r} and upsample_pattern {upsample!r} given, expected numbers >= 0 and >= 1"
        )
    settings = checked({"data_pad": int(pad), "upsample_pattern": int(upsample), "recon_type": recon_type})
    return Window.of(settings, (int(measured[-2]), int(measured[-1])))
