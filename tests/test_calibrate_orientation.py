"""Rotation and handedness: all eight flips and transposes of patterns whose orientation is known."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_data import demo_scan, disk_scan, soft_disk, transformed
from scipy.ndimage import gaussian_filter

from pypty.calibrate import Candidate, disk, orientation
from pypty.calibrate.fields import _DERIVATIVE, _LOW_ORDER, curl_angle, free_of_curl
from pypty.calibrate.shifts import PixelImages, _climb, best_number, mirror, refine, search, split, turn
from pypty.errors import DataError, ParameterError
from pypty.optics.scan_grid import rotation_yx

QUARTER = np.array([[0, 1], [-1, 0]])
EIGHT = [np.linalg.matrix_power(QUARTER, k) @ np.diag([f, 1]) for f in (1, -1) for k in range(4)]


def wanted(matrix: np.ndarray) -> tuple[bool, float]:
    """flip_ky and PLRotation_deg after which positions and patterns agree again: flip @ matrix = R."""
    flip = bool(np.linalg.det(matrix) < 0)
    rotation = np.diag([-1 if flip else 1, 1]) @ matrix
    angle = float(np.degrees(np.arctan2(rotation[0, 1], rotation[0, 0])))
    np.testing.assert_allclose(rotation, rotation_yx(angle), atol=1e-12)
    return flip, angle


def off(found: float, truth: float) -> float:
    return abs((found - truth + 180) % 360 - 180)


@pytest.mark.parametrize("matrix", EIGHT, ids=lambda m: str(m.tolist()))
def test_each_of_the_eight_is_told_from_the_others(matrix: np.ndarray) -> None:
    params = demo_scan(rez_pixel_size_mrad=2.34)
    found = orientation({**params, "dataset": transformed(params["dataset"], matrix)})
    flip, angle = wanted(matrix)
    assert found.params["flip_ky"] is flip
    assert off(found.params["PLRotation_deg"], angle) < 0.5
    assert found.values["margin"] > 2
    assert found.values["C10_A"] == pytest.approx(100, rel=0.15)
    assert found.values["decided_by"] == "bright-field shifts"
    assert f"coincide for an overfocus C10 = {found.values['C10_A']:.0f} Å (" in found.text
    assert found.values["half_turn_by"] == "attraction"
    assert len(found.values["candidates"]) == 8
    assert len({(c.flip, round(c.angle_deg / 90)) for c in found.values["candidates"]}) >= 8


def test_a_suggested_flip_keeps_the_disk_where_it_was() -> None:
    params = demo_scan(rez_pixel_size_mrad=2.34)
    params["dataset"] = transformed(params["dataset"], np.diag([-1, 1]))
    found = orientation(params)
    np.testing.assert_array_equal(found.params["data_shift_vector"], [1, 0])
    after = found.apply(params)
    assert disk(after).values["centre_y_px"] == pytest.approx(32.0, abs=0.01)
    again = orientation(after)
    assert again.params["flip_ky"] is True and "data_shift_vector" not in again.params
    assert off(again.params["PLRotation_deg"], 0) < 0.5


@pytest.mark.slow
def test_half_a_turn_follows_the_nominal_defocus_if_there_is_one() -> None:
    params = demo_scan(rez_pixel_size_mrad=2.34)
    for change, angle in (
        ({"extra_probe_defocus": 80.0}, 0.0),
        ({"extra_probe_defocus": -80.0}, 180.0),
        ({"aberrations": [50.0]}, 0.0),
        ({"defocus": -60.0}, 180.0),
        ({"defocus": -60.0, "total_thickness": 200.0}, 0.0),
    ):
        found = orientation({**params, **change})
        assert off(found.params["PLRotation_deg"], angle) < 0.5, change
        assert found.values["half_turn_by"] == "defocus"
        assert ("atoms seem to repel" in found.text) == (angle == 180.0)


def test_the_figure_names_the_best_orientation_first() -> None:
    found = orientation(demo_scan(rez_pixel_size_mrad=2.34, positions=np.zeros((1024, 2))))
    assert found.figure is not None
    scores = next(a for a in found.figure.axes if a.get_xlabel() == "score")
    assert scores.get_yticklabels()[0].get_text().startswith(("0.", "-0."))
    assert "compute them again" in found.text
    values = [c.score for c in found.values["candidates"]]
    assert values == sorted(values, reverse=True) and isinstance(found.values["candidates"][0], Candidate)


def gradient_field(angle_deg: float, flip: bool, size: int = 40) -> np.ndarray:
    """Centres of mass of a random smooth phase as a turned detector sees them."""
    phase = gaussian_filter(np.random.default_rng(4).normal(size=(size + 20, size + 20)), 3)
    field = np.stack(np.gradient(phase))[:, 10:-10, 10:-10]
    return np.einsum("ij,jk,kyx->iyx", mirror(flip), rotation_yx(angle_deg), field)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [-170.0, -62.0, 0.0, 33.0, 90.0])
def test_the_curl_vanishes_at_the_right_angle_of_the_right_hand_only(angle: float, flip: bool) -> None:
    field = gradient_field(angle, flip)
    found, free = curl_angle(field, flip)
    assert abs((found - angle + 90) % 180 - 90) < 0.5
    assert free > 0.98
    assert curl_angle(field, not flip)[1] < 0.8
    assert free_of_curl(field, flip, found + 90) < 0.02


@pytest.mark.parametrize(
    ("angle", "number", "flip"), [(20.0, 0.31, False), (-75.0, -0.22, True), (160.0, 0.45, True)]
)
def test_shifts_of_images_give_back_their_matrix(angle: float, number: float, flip: bool) -> None:
    rng = np.random.default_rng(1)
    image = gaussian_filter(rng.normal(size=(36, 36)), 1.2, mode="wrap")
    k = np.stack(np.meshgrid(np.arange(-5, 6), np.arange(-5, 6), indexing="ij"), axis=-1).reshape(-1, 2)
    matrix = number * turn(angle) @ mirror(flip)
    q = np.fft.fftfreq(36)
    spectrum = np.fft.fft2(image)
    moved = k @ matrix.T
    images = np.stack(
        [np.fft.ifft2(spectrum * np.exp(-2j * np.pi * (q[:, None] * y + q * x))).real for y, x in moved]
    )
    pixels = PixelImages.from_images(images + 0.3 * image.std() * rng.normal(size=images.shape), k)
    found = refine(pixels, search(pixels, flip, 6.0))
    np.testing.assert_allclose(found, matrix, atol=0.01)
    assert pixels.coherence(found) > max(0.6, 1.15 * pixels.coherence(np.zeros((2, 2))))
    value, coherence = best_number(pixels, angle, flip, 6.0)
    assert value == pytest.approx(number, abs=0.015) and coherence > 0.6
    _, reached = _climb(pixels, matrix.ravel(), 0.02, lambda p: p.reshape(2, 2))
    assert reached >= pixels.coherence(matrix)
    got, mean, spread = split(found, flip)
    assert off(got, angle if number > 0 else angle + 180) < 1
    assert mean == pytest.approx(abs(number), abs=0.01) and spread < 0.01


def test_nothing_to_see_is_said() -> None:
    found = orientation(
        disk_scan(soft_disk(32, 8.0, (16.0, 16.0)), side=8, rez_pixel_size_mrad=1.0, PLRotation_deg=20.0)
    )
    assert found.values["decided_by"] == "curl"
    if found.values["half_turn_by"] == "nothing":
        assert "WARNING" in found.text


def test_small_scans_and_images_are_refused() -> None:
    pattern = soft_disk(32, 8.0, (16.0, 16.0))
    with pytest.raises(DataError, match="at least 6 x 6 points"):
        orientation(disk_scan(pattern, side=5))
    with pytest.raises(ParameterError, match="orientation: recon_type"):
        orientation(disk_scan(pattern, recon_type="near_field"))
    dead = disk_scan(pattern)
    dead["dataset"][:, 16, 16] = 0
    with pytest.raises(DataError, match="never count"):
        orientation(dead)


@pytest.mark.parametrize("power", range(9))
def test_the_derivative_is_exact_for_polynomials_of_the_eighth_degree(power: int) -> None:
    steps = np.arange(-4.0, 5.0)
    assert float(_DERIVATIVE @ steps**power) == pytest.approx(1.0 if power == 1 else 0.0, abs=1e-8)
    if power < 3:
        assert float(_LOW_ORDER @ np.arange(-1.0, 2.0) ** power) == (1.0 if power == 1 else 0.0)
