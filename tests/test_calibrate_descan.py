"""Descan: patterns that wander are followed, and those that rest are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibration_data import demo_scan, disk_scan, soft_disk
from scipy.ndimage import shift

from pypty.calibrate import descan
from pypty.calibrate.descan import _polynomial, _unit
from pypty.errors import ParameterError
from pypty.optics.wavelength import wavelength_A


def wandering(side: int = 16, **changes: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Disk patterns and their displacement (N, 2) in px."""
    u, v = (g.ravel() for g in np.meshgrid(*2 * [np.linspace(-1, 1, side)], indexing="ij"))
    moved = np.stack([1.2 * u + 0.3 * v + 0.4 * u * v, -0.8 * v + 0.5 * u**2], axis=1)
    pattern = soft_disk(48, 10.0, (24.0, 24.0), 0.5)
    means = np.stack([np.maximum(shift(pattern, m, order=1, mode="nearest"), 0) for m in moved])
    data = np.random.default_rng(0).poisson(means).astype(np.uint16)
    params = {
        "dataset": data,
        "acc_voltage": 80.0,
        "scan_size": [side, side],
        "rez_pixel_size_mrad": 1.5,
        **changes,
    }
    return params, moved


def test_tilts_after_the_specimen_describe_the_wandering() -> None:
    params, moved = wandering()
    found = descan(params)
    tilts = found.params["tilts"]
    assert tilts.shape == (256, 6) and found.params["tilt_mode"] == 1
    assert not tilts[:, :4].any()
    np.testing.assert_allclose(tilts[:, 4:] / 1.5e-3, moved, atol=0.06)
    assert "data_shift_vector" not in found.params
    np.testing.assert_allclose(found.values["slope_y_px"], [2.4, 0.0], atol=0.08)
    np.testing.assert_allclose(found.values["slope_x_px"], [0.6, -1.6], atol=0.08)
    assert "update_tilts=True" in found.text
    assert found.figure is not None and len(found.figure.axes) == 5


def test_the_sign_is_that_of_the_model() -> None:
    """A tilt t after the specimen moves the pattern by t/lambda in the model, to larger k."""
    params, moved = wandering()
    found = descan(params)
    wavelength = wavelength_A(80.0)
    pixel_1A = 1.5e-3 / wavelength
    n = 48
    r = (np.arange(n) - n // 2) / (n * pixel_1A)
    tilt = found.params["tilts"][-1, 4]
    wave = np.exp(-((r / (0.05 * n / (n * pixel_1A))) ** 2)) * np.exp(2j * np.pi * tilt * r / wavelength)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft(np.fft.ifftshift(wave)))) ** 2
    centre = (spectrum * (np.arange(n) - n // 2)).sum() / spectrum.sum()
    assert centre == pytest.approx(moved[-1, 0], abs=0.08)


def test_given_tilts_inside_the_specimen_are_kept() -> None:
    tilts = np.zeros((256, 6))
    tilts[:, 2] = 0.01
    params, moved = wandering(tilts=tilts, tilt_mode=0)
    found = descan(params)
    assert found.params["tilt_mode"] == 3
    np.testing.assert_array_equal(found.params["tilts"][:, 2], tilts[:, 2])
    assert not tilts[:, 4:].any()
    np.testing.assert_allclose(found.params["tilts"][:, 4:] / 1.5e-3, moved, atol=0.06)


def test_a_constant_displacement_is_a_shift() -> None:
    pattern = soft_disk(48, 10.0, (21.0, 26.2), 0.5)
    found = descan(disk_scan(pattern, side=12))
    np.testing.assert_array_equal(found.params["data_shift_vector"], [3, -2])
    assert "tilts" not in found.params
    assert found.values["centre_y_px"] == pytest.approx(21.0, abs=0.03)


def test_a_specimen_that_deflects_the_beam_is_no_descan() -> None:
    found = descan(demo_scan(rez_pixel_size_mrad=2.34))
    assert not found.params
    assert found.values["drift_px"] < 0.05
    assert "nothing to correct" in found.text


def test_a_scan_of_one_line_is_followed_along_it() -> None:
    params, _ = wandering()
    line = {**params, "dataset": params["dataset"][:16], "scan_size": [1, 16]}
    found = descan(line)
    np.testing.assert_allclose(found.values["slope_x_px"], [-0.2, -1.6], atol=0.15)


def test_images_are_refused() -> None:
    params, _ = wandering(recon_type="near_field")
    with pytest.raises(ParameterError, match="descan: recon_type"):
        descan(params)


def test_coordinates_of_the_scan_run_from_minus_one_to_one() -> None:
    found = _unit((3, 5), np.arange(15))
    np.testing.assert_allclose(found[:, 0].reshape(3, 5)[:, 2], [-1, 0, 1])
    np.testing.assert_allclose(found[:, 1].reshape(3, 5)[1], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(_unit((1, 2), np.arange(2)), [[-1, -1], [-1, 1]])


def test_terms_are_those_that_the_blocks_determine() -> None:
    where = np.array([[-1.0, 0.5], [0.25, 1.0]])
    y, x = where.T
    one = np.ones(2)
    full = _polynomial(where, np.array([8, 8]))
    np.testing.assert_allclose(full, np.stack([one, y, y**2, x, x**2, y * x], axis=1))
    np.testing.assert_allclose(_polynomial(where, np.array([1, 1])), one[:, None])
    line = _polynomial(where, np.array([1, 8]))
    np.testing.assert_allclose(line, np.stack([one, x, x**2], axis=1))
