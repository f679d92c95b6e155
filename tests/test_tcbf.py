"""Tilt-corrected bright field."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

import pypty
from pypty.demo import demo_data
from pypty.direct_methods.numerics.bright_field import (
    BrightField,
    Detectors,
    binned_detectors,
    collect,
    gradient_basis,
    image_shifts_A,
    in_groups,
    phase_basis,
    subscan_chunks,
    virtual_detectors,
)
from pypty.direct_methods.numerics.bright_field_align import (
    BrightFieldScan,
    better_start,
    fit_scan,
    turned_positions,
)
from pypty.direct_methods.numerics.bright_field_drift import disk_shifts, without_drift
from pypty.direct_methods.numerics.bright_field_fit import Disk, FitResult, WeakPhase, fit_weak_phase
from pypty.direct_methods.numerics.bright_field_shifts import (
    CorrelationOptions,
    LeastSquares,
    fit_shifts,
    measure_shifts,
)
from pypty.direct_methods.numerics.bright_field_sum import ShiftedSum, contrast_transfer, flip_contrast
from pypty.errors import DataError, ParameterError
from pypty.experiment import Experiment
from pypty.optics.aberrations import aberration_basis
from pypty.optics.grid import Grid
from pypty.optics.scan_grid import rotation_yx, scan_grid_A
from pypty.tcbf import run_tcbf_alignment, run_tcbf_compressed_alignment, upsampled_tcbf

GOLDEN = Path(__file__).parent / "data" / "pypty_direct_golden.npz"
TRUE_C10_A = 104.0
LAMBDA = 0.0418


@pytest.fixture(scope="module")
def mos2():
    with h5py.File(demo_data(), "r") as file:
        a = file.attrs
        return {
            "dataset": file["data"][()],
            "acc_voltage": float(a["voltage_kV"]),
            "scan_size": [int(n) for n in a["scan_shape"]],
            "scan_step_A": float(a["scan_step_A"]),
            "rez_pixel_size_A": 1 / float(a["window_A"]),
            "conv_semiangle_mrad": float(a["semiangle_mrad"]),
        }


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def golden_images(golden) -> BrightField:
    images = golden["bright_field"].transpose(2, 0, 1)
    return BrightField(images, binned_detectors(golden["aperture"], (0.125, 0.125)))


def golden_params(golden, **changes) -> dict[str, object]:
    data = np.zeros((168, 32, 32), np.float32)
    data[:, golden["aperture"]] = golden["bright_field"].reshape(168, -1)
    return {
        "dataset": data,
        "acc_voltage": 60.0,
        "rez_pixel_size_A": 0.125,
        "scan_step_A": 0.6,
        "scan_size": (12, 14),
        "aperture_mask": golden["aperture"].astype(float),
        "aberrations": golden["aberrations"],
        **changes,
    }


def shifts_as_pypty(golden, rotation_deg: float, pixel_A: float) -> np.ndarray:
    """PyPty takes aberrations along the axes of the scan, not of the detector: k is turned and the shift is not."""
    k = binned_detectors(golden["aperture"], (0.125, 0.125)).k_1A @ rotation_yx(rotation_deg)
    return image_shifts_A(golden["aberrations"], k, 12.398 / np.sqrt(60 * (1022 + 60)), 0.0) / pixel_A


# --- aberrations and shifts -------------------------------------------------------------------------------------------


def test_phase_basis_is_that_of_the_optics():
    grid = Grid((8, 10), (0.3, 0.2), LAMBDA)
    k = np.stack(np.broadcast_arrays(grid.qy, grid.qx), axis=-1)
    np.testing.assert_allclose(phase_basis(k, 14, LAMBDA), aberration_basis(grid, 14), rtol=1e-10, atol=1e-12)


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
@settings(max_examples=40, deadline=None)
def test_shifts_are_the_gradient_of_the_phase(ky, kx):
    k, step = np.array([[ky, kx]]), 1e-5
    found = gradient_basis(k, 14, LAMBDA)[:, 0]
    for axis in (0, 1):
        ahead, behind = k.copy(), k.copy()
        ahead[0, axis] += step
        behind[0, axis] -= step
        slope = (phase_basis(ahead, 14, LAMBDA) - phase_basis(behind, 14, LAMBDA))[:, 0] / (2 * step)
        np.testing.assert_allclose(found[:, axis], slope / (2 * np.pi), rtol=1e-5, atol=1e-8)


def test_defocus_shifts_by_angle_times_defocus_along_the_axes_of_the_scan():
    k = np.array([[0.3, -0.2]])
    shift = image_shifts_A(np.array([150.0]), k, LAMBDA, 0.0)
    np.testing.assert_allclose(shift, 150.0 * LAMBDA * k)
    turned = image_shifts_A(np.array([150.0]), k, LAMBDA, 30.0)
    np.testing.assert_allclose(turned @ rotation_yx(30.0).T, shift)


# --- detectors --------------------------------------------------------------------------------------------------------


def test_collecting_binned_images():
    rng = np.random.default_rng(0)
    patterns = rng.poisson(5, (12, 10, 11)).astype(np.float32)
    y, x = np.mgrid[:10, :11]
    aperture = np.hypot(y - 5, x - 5) < 4
    detectors = binned_detectors(aperture, (0.1, 0.2), 2)
    found = collect([(np.arange(5), patterns[:5]), (np.arange(5, 12), patterns[5:])], detectors, (3, 4))
    expected = (patterns.reshape(12, -1) @ detectors.sums.toarray()).T.reshape(-1, 3, 4)
    np.testing.assert_allclose(found.images, expected, rtol=1e-6)
    assert detectors.weights.max() == 4 and detectors.weights.min() >= 2
    one = binned_detectors(aperture, (0.1, 0.2))
    np.testing.assert_allclose(one.k_1A, (np.argwhere(aperture) - 5) * [0.1, 0.2])
    groups = list(in_groups(lambda: [(np.arange(12), patterns)], one, (3, 4), 4 * 12 * 7))
    assert max(len(group.detectors) for group in groups) == 7
    np.testing.assert_array_equal(
        np.concatenate([group.images for group in groups]), patterns[:, aperture].T.reshape(-1, 3, 4)
    )


def test_blurred_detectors_keep_their_sum_and_centre():
    aperture = np.zeros((24, 24), bool)
    aperture[10:14, 10:14] = True
    detectors = binned_detectors(aperture, (0.1, 0.1), 2)
    wide = detectors.blurred((24, 24), 1.0)
    np.testing.assert_allclose(wide.weights, detectors.weights, rtol=1e-5)
    assert wide.sums.nnz > 4 * detectors.sums.nnz
    np.testing.assert_array_equal(wide.k_1A, detectors.k_1A)


def test_virtual_detectors():
    masks = np.zeros((3, 8, 8))
    masks[0, 4:6, 4], masks[1, 2, 2], masks[2, 7, 7] = 1, 2, 1
    found = virtual_detectors(masks, (0.1, 0.1))
    np.testing.assert_allclose(found.k_1A, [[0.05, 0], [-0.2, -0.2], [0.3, 0.3]], atol=1e-12)
    aperture = np.zeros((8, 8), bool)
    aperture[2:6, 2:6] = True
    assert len(virtual_detectors(masks, (0.1, 0.1), aperture)) == 2
    with pytest.raises(ParameterError, match="mask 1"):
        virtual_detectors(masks * np.array([1, 0, 1])[:, None, None], (0.1, 0.1))
    with pytest.raises(ParameterError, match="no virtual detector"):
        virtual_detectors(masks[2:], (0.1, 0.1), aperture)


def test_bad_detectors():
    with pytest.raises(ParameterError, match="no bright-field pixel"):
        binned_detectors(np.zeros((4, 4), bool), (1, 1))
    with pytest.raises(ParameterError, match="binning"):
        binned_detectors(np.ones((4, 4), bool), (1, 1), 0)
    lonely = np.zeros((8, 8), bool)
    lonely[4, 4] = True
    with pytest.raises(ParameterError, match="lower the binning"):
        binned_detectors(lonely, (1, 1), 4)


def test_subscan():
    patterns = np.arange(20.0).reshape(20, 1, 1)
    chunks, size = subscan_chunks(lambda: [(np.arange(20), patterns)], (4, 5), (1, 2, 3, 5))
    assert size == (2, 3)
    ((indices, data),) = list(chunks())
    np.testing.assert_array_equal(indices, np.arange(6))
    np.testing.assert_array_equal(data.ravel(), [7, 8, 9, 12, 13, 14])
    with pytest.raises(ParameterError, match="subscan_region"):
        subscan_chunks(lambda: [], (4, 5), (0, 0, 5, 5))


# --- the shifted sum --------------------------------------------------------------------------------------------------


@given(st.integers(3, 7), st.integers(3, 7), st.integers(1, 4), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_shifted_sum_is_the_definition(rows, columns, upsample, pad, seed):
    """Put each image on the fine grid, shift it there, add; divide by the shifted sampling points."""
    rng = np.random.default_rng(seed)
    images, shifts = rng.normal(1, 0.3, (5, rows, columns)), rng.normal(0, 2, (5, 2))
    total = ShiftedSum((rows, columns), upsample, pad)
    total.add(images[:2], shifts[:2])
    total.add(images[2:], shifts[2:])
    shape = ((rows + 2 * pad) * upsample, (columns + 2 * pad) * upsample)
    where = np.zeros(shape, bool)
    at = [slice(pad * upsample, (pad + n) * upsample, upsample) for n in (rows, columns)]
    where[at[0], at[1]] = True
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]

    def moved(image, shift):
        ramp_y, ramp_x = np.exp(-2j * np.pi * fy * shift[0]), np.exp(-2j * np.pi * fx * shift[1])
        ramp_y = np.where(np.abs(fy) == 0.5, ramp_y.real, ramp_y)
        ramp_x = np.where(np.abs(fx) == 0.5, ramp_x.real, ramp_x)
        return np.fft.ifft2(np.fft.fft2(image) * ramp_y * ramp_x).real

    top, weight = np.zeros(shape), np.zeros(shape)
    for image, shift in zip(images, shifts, strict=True):
        fine = np.zeros(shape)
        fine[where] = image.ravel()
        top += moved(fine, shift)
        weight += moved(where.astype(float), shift)
    np.testing.assert_allclose(total.image(), weight * top / (1e-3 + weight**2), atol=1e-9)


def test_golden_whole_pixel_shifts(golden):
    images = golden_images(golden)
    total = ShiftedSum((12, 14), 2, 4)
    total.add(images.images, np.round(shifts_as_pypty(golden, 12.0, 0.3)))
    assert np.abs(total.image() - golden["tcbf_round"]).max() < 1e-12 * np.abs(golden["tcbf_round"]).max()


def test_golden_upsampled(golden):
    """Equal inside the scan to 1 %. PyPty's ramp at the Nyquist frequency is complex, so its sums are, and their
    imaginary parts enter the quotient; a real image shifted by a fraction of a pixel stays real here."""
    images = golden_images(golden)
    total = ShiftedSum((12, 14), 2, 4)
    total.add(images.images, shifts_as_pypty(golden, 12.0, 0.3))
    found, expected = total.image()[8:-8, 8:-8], golden["tcbf"][8:-8, 8:-8]
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_golden_through_the_parameters(golden):
    """Without rotation the frames of scan and detector are one, and PyPty's image is ours; 12.4 against hc is 2e-4."""
    found, pixel = upsampled_tcbf(golden_params(golden), upsample=2, pad=4, round_shifts=True)
    total = ShiftedSum((12, 14), 2, 4)
    total.add(golden_images(golden).images, np.round(shifts_as_pypty(golden, 0.0, 0.3)))
    assert pixel == pytest.approx(0.3)
    np.testing.assert_allclose(found, total.image(), rtol=1e-5)


def test_upsampled_options(mos2, tmp_path):
    params = {**mos2, "aberrations": [TRUE_C10_A], "output_folder": str(tmp_path)}
    whole, pixel = upsampled_tcbf(params, 2, 1, save=True)
    assert whole.shape == (68, 68) and pixel == pytest.approx(0.225)
    assert (tmp_path / "tcbf" / "tcbf_upsampled.png").exists()
    few, _ = upsampled_tcbf(params, 2, 1, max_parallel_fft=50)
    np.testing.assert_allclose(few, whole, rtol=1e-9, atol=1e-9)
    single, _ = upsampled_tcbf(params, 2, 1, default_float=32)
    np.testing.assert_allclose(single[8:-8, 8:-8], whole[8:-8, 8:-8], rtol=1e-3)
    binned, _ = upsampled_tcbf(params, 2, 1, bin_fac=2)
    assert np.corrcoef(binned[8:-8, 8:-8].ravel(), whole[8:-8, 8:-8].ravel())[0, 1] > 0.6
    on_scan, step = upsampled_tcbf(params, 1, 0)
    assert on_scan.shape == (32, 32) and step == pytest.approx(0.45)
    flipped, _ = upsampled_tcbf(params, 2, 1, ctf_sign_flip=True)
    assert flipped.mean() == pytest.approx(whole.mean()) and np.abs(flipped - whole).max() > 1e-3


def test_the_sum_is_sharpest_in_focus(mos2):
    contrast = []
    for defocus in (0.0, 60.0, 100.0, 140.0):
        image, _ = upsampled_tcbf({**mos2, "aberrations": [defocus]}, 1, 0)
        contrast.append(image[8:-8, 8:-8].std())
    assert np.argmax(contrast) == 2 and contrast[2] > 3 * contrast[0]


def test_contrast_has_the_sign_of_the_transfer(mos2):
    """1 + 2 sin(chi) phase: with the negative bands turned around it is the phase, atoms bright."""
    with h5py.File(demo_data(), "r") as file:
        true, pixel = file["truth/phase_total"][()].astype(float), float(file.attrs["pixel_size_A"])
        at = file["positions_A"][()] / pixel
    phase = map_coordinates(true, at.T, order=3, mode="wrap").reshape(32, 32)
    q = np.hypot(np.fft.fftfreq(32, 0.45)[:, None], np.fft.fftfreq(32, 0.45))

    def agreement(image: np.ndarray, low: float, high: float) -> float:
        bands = [np.fft.ifft2(np.fft.fft2(one) * ((q > low) & (q < high))).real for one in (image, phase)]
        return float(np.corrcoef(bands[0][6:-6, 6:-6].ravel(), bands[1][6:-6, 6:-6].ravel())[0, 1])

    params = {**mos2, "aberrations": [TRUE_C10_A]}
    plain, _ = upsampled_tcbf(params, 1, 0)
    flipped, _ = upsampled_tcbf(params, 1, 0, ctf_sign_flip=True)
    assert agreement(plain, 0.2, 0.48) > 0.95 and agreement(plain, 0.5, 0.75) < -0.8
    assert agreement(flipped, 0.2, 0.75) > 0.85


def test_contrast_transfer_and_flip():
    transfer = contrast_transfer(
        np.array([100.0]), (16, 18), pixel_size_A=0.5, wavelength=LAMBDA, rotation_deg=20.0
    )
    q2 = np.fft.fftfreq(16, 0.5)[:, None] ** 2 + np.fft.rfftfreq(18, 0.5)[None] ** 2
    np.testing.assert_allclose(transfer, np.sin(np.pi * LAMBDA * 100.0 * q2), atol=1e-12)
    image = np.random.default_rng(1).normal(size=(16, 18)) + 7
    once = flip_contrast(image, transfer)
    assert once.mean() == pytest.approx(image.mean())
    np.testing.assert_allclose(flip_contrast(once, transfer), image, atol=1e-12)


# --- shifts by correlation --------------------------------------------------------------------------------------------


def shifted_images(shifts: np.ndarray, size: tuple[int, int] = (40, 36), seed: int = 0) -> np.ndarray:
    """(D, sy, sx) windows on one random smooth object, each displaced so that ``shifts`` bring it back."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(3 * size[0])[:, None], np.fft.fftfreq(3 * size[1])[None]
    spectrum = np.fft.fft2(rng.normal(size=(3 * size[0], 3 * size[1]))) * (np.hypot(fy, fx) < 0.4)
    images = [
        np.fft.ifft2(spectrum * np.exp(2j * np.pi * (fy * dy + fx * dx))).real[
            size[0] : 2 * size[0], size[1] : 2 * size[1]
        ]
        for dy, dx in shifts
    ]
    return 10 + np.array(images)


@pytest.mark.parametrize(
    "options", [{}, {"phase": False}, {"formula": True}, {"upsample": 8}, {"binning": 2}]
)
def test_measured_shifts(options):
    shifts = np.random.default_rng(1).uniform(-2.5, 2.5, (12, 2))
    images = shifted_images(shifts)
    chosen = CorrelationOptions(**{"box": 4, **options})
    found = shifts * 0.8
    for _ in range(3):
        found = measure_shifts(images, found, chosen)
    error = (found - found.mean(axis=0)) - (shifts - shifts.mean(axis=0))
    assert np.abs(error).max() < (0.5 if options.get("formula") or options.get("binning") else 0.15)


def test_shifts_against_the_central_image():
    shifts = np.array([[0.0, 0.0], [1.5, -2.0], [-1.0, 0.7]])
    images = shifted_images(shifts)
    found = measure_shifts(
        images, np.zeros((3, 2)), CorrelationOptions(reference="central", box=4), central=0
    )
    np.testing.assert_allclose(found, shifts, atol=0.15)


@pytest.mark.parametrize("rotation", [0.0, 25.0])
def test_fitted_shifts(rotation):
    k = binned_detectors(np.hypot(*np.mgrid[-8:8, -8:8]) < 7, (0.07, 0.07)).k_1A
    true = np.array([120.0, 8.0, -5.0, 300.0, -200.0, 150.0, 90.0])
    shifts = image_shifts_A(true, k, LAMBDA, rotation) + [0.4, -0.3]
    found = fit_shifts(
        shifts,
        k,
        wavelength=LAMBDA,
        step_A=0.5,
        aberrations_A=np.r_[80.0, np.zeros(6)],
        rotation_deg=rotation + 10,
        fit_rotation=True,
    )
    np.testing.assert_allclose(found.aberrations_A, true, atol=1e-3)
    assert found.rotation_deg == pytest.approx(rotation, abs=1e-4) and found.residual_px < 1e-6
    fixed = fit_shifts(
        shifts,
        k,
        wavelength=LAMBDA,
        step_A=0.5,
        aberrations_A=np.r_[80.0, np.zeros(6)],
        rotation_deg=rotation,
        fit_rotation=False,
    )
    np.testing.assert_allclose(fixed.aberrations_A, true, atol=1e-3)
    spoilt = shifts.copy()
    spoilt[3] += 5.0
    robust = LeastSquares("soft_l1", 0.05)
    better = fit_shifts(
        spoilt,
        k,
        wavelength=LAMBDA,
        step_A=0.5,
        aberrations_A=true,
        rotation_deg=rotation,
        fit_rotation=False,
        options=robust,
    ).aberrations_A[0]
    assert abs(better - 120) < 0.3 * abs(
        fit_shifts(
            spoilt,
            k,
            wavelength=LAMBDA,
            step_A=0.5,
            aberrations_A=true,
            rotation_deg=rotation,
            fit_rotation=False,
        ).aberrations_A[0]
        - 120
    )


def test_too_few_shifts():
    with pytest.raises(DataError, match="cannot give"):
        fit_shifts(
            np.zeros((2, 2)),
            np.ones((2, 2)),
            wavelength=LAMBDA,
            step_A=1.0,
            aberrations_A=np.zeros(3),
            rotation_deg=0.0,
        )


# --- weak-phase fit ---------------------------------------------------------------------------------------------------


def weak_phase_scan(
    aberrations: np.ndarray, rotation_deg: float, size: tuple[int, int] = (24, 28), step: float = 0.5
) -> BrightFieldScan:
    """Patterns of a weak random phase object, by multiplication in real space on a window of 32 x 32 pixels."""
    n, pixel = 32, 0.45
    dk = 1 / (n * pixel)
    grid = Grid((n, n), (pixel, pixel), LAMBDA)
    aperture = np.sqrt(grid.q2) <= 0.6
    chi = np.tensordot(aberrations, aberration_basis(grid, len(aberrations)), axes=1)
    spectrum = aperture * np.exp(-1j * chi)
    rng = np.random.default_rng(5)
    waves = rng.normal(size=(60, 2)) * 0.35
    heights, starts = 0.004 * rng.normal(size=60), rng.uniform(0, 2 * np.pi, 60)
    y, x = (np.fft.fftfreq(n) * n * pixel)[:, None], (np.fft.fftfreq(n) * n * pixel)[None]
    patterns = []
    probe = np.fft.ifft2(spectrum)
    for py, px in scan_grid_A(size, step, rotation_deg):
        phase = sum(
            h * np.cos(2 * np.pi * (q[0] * (y + py) + q[1] * (x + px)) + s)
            for h, q, s in zip(heights, np.round(waves / dk) * dk, starts, strict=True)
        )
        patterns.append(np.abs(np.fft.fft2(probe * np.exp(1j * phase))) ** 2)
    data = np.fft.fftshift(np.array(patterns), axes=(1, 2)).astype(np.float32)
    indices = np.arange(len(data))
    return BrightFieldScan(
        open_chunks=lambda: [(indices, data)],
        scan_size=size,
        step_A=step,
        wavelength=LAMBDA,
        pixel_1A=(dk, dk),
        aperture=np.fft.fftshift(aperture),
    )


def test_slope_of_the_explained_contrast():
    scan = weak_phase_scan(np.array([100.0, 6.0, 4.0]), 10.0, (10, 12))
    model = WeakPhase(scan.images(scan.some_pixels()), scan.step_A, LAMBDA, scan.disk)
    at = np.array([70.0, 3.0, -4.0, 60.0])
    _, slope, by_angle = model.slope(at, 3.0)
    for term, step in enumerate((1e-3, 1e-3, 1e-3, 1e-2)):
        move = step * np.eye(4)[term]
        found = (model.explained(at + move, 3.0) - model.explained(at - move, 3.0)) / (2 * step)
        assert slope[term] == pytest.approx(found, rel=1e-4, abs=1e-9)
    # The edge of the disk is a ramp with corners, so the derivative by the angle is a finite difference.
    assert by_angle == pytest.approx((model.explained(at, 3.05) - model.explained(at, 2.95)) / 0.1, rel=1e-9)


@pytest.mark.parametrize("true", [(120.0, 10.0, -7.0), (-90.0, 0.0, 6.0)])
def test_weak_phase_fit_finds_aberrations_and_rotation(true):
    scan = weak_phase_scan(np.array(true), 18.0)
    start = better_start(scan, FitResult(np.zeros(1), 0.0, 0.0), True)
    found = fit_scan(scan, start, 3, True)
    assert found.explained > 0.7
    assert found.aberrations_A[0] == pytest.approx(true[0], rel=0.04)
    np.testing.assert_allclose(found.aberrations_A[1:], true[1:], atol=2.0)
    assert found.rotation_deg == pytest.approx(18.0, abs=1.0)


def test_a_start_that_explains_more_is_kept():
    scan = weak_phase_scan(np.array([100.0, 40.0, 0.0]), 0.0, (16, 16))
    given_start = FitResult(np.array([100.0, 40.0, 0.0]), 0.0, 0.0)
    np.testing.assert_array_equal(
        better_start(scan, given_start, False).aberrations_A, given_start.aberrations_A
    )
    wrong = FitResult(np.array([-300.0]), 0.0, 0.0)
    assert better_start(scan, wrong, False).aberrations_A[0] > 50


def test_terms_beyond_those_fitted_stay():
    scan = weak_phase_scan(np.array([100.0]), 0.0, (12, 12))
    model = WeakPhase(scan.images(scan.some_pixels()), scan.step_A, LAMBDA, scan.disk)
    found = fit_weak_phase(model, np.array([90.0, 0.0, 3.0]), 0.0, False, 1)
    assert found.aberrations_A[2] == 3.0 and found.aberrations_A[0] != 90.0 and found.rotation_deg == 0.0


def test_scans_without_information():
    detectors = binned_detectors(np.ones((2, 2), bool), (0.1, 0.1))
    disk = Disk(np.zeros(2), 0.3, 0.05)
    with pytest.raises(DataError, match="no contrast"):
        WeakPhase(BrightField(np.ones((4, 8, 8), np.float32), detectors), 0.5, LAMBDA, disk)
    with pytest.raises(DataError, match="no spatial frequency"):
        WeakPhase(BrightField(np.ones((4, 1, 1), np.float32), detectors), 0.5, LAMBDA, disk)


def test_images_are_few_for_a_fine_detector():
    scan = weak_phase_scan(np.array([100.0]), 0.0, (4, 4))
    fine = BrightFieldScan(
        open_chunks=scan.open_chunks,
        scan_size=(4, 4),
        step_A=0.5,
        wavelength=LAMBDA,
        pixel_1A=(0.01, 0.01),
        aperture=np.hypot(*np.mgrid[-64:64, -64:64]) < 60,
    )
    assert len(fine.some_pixels()) <= 600
    assert len(fine.squares(1e4)) <= 600 and fine.squares(1e4).weights.max() == 1
    assert fine.squares(20.0).weights.max() > 4


# --- alignment through parameters -------------------------------------------------------------------------------------


def test_alignment_of_mos2(mos2, tmp_path):
    positions = (
        np.stack(np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij"), -1).reshape(-1, 2) + 3.0
    )
    params = {
        **mos2,
        "positions": positions,
        "probe": np.ones((64, 64, 1), complex),
        "output_folder": str(tmp_path),
    }
    before = positions.copy()
    found = run_tcbf_alignment({**params, "extra_probe_defocus": -40.0})
    assert found["aberrations"].shape == (12,)
    assert found["aberrations"][0] == pytest.approx(TRUE_C10_A, rel=0.05)
    assert found["PLRotation_deg"] == pytest.approx(0.0, abs=0.5)
    assert found["extra_probe_defocus"] == 0.0 and found["probe"] is None
    np.testing.assert_array_equal(params["positions"], before)
    assert np.abs(found["positions"] - positions).max() < 0.5
    assert pypty.check(found) is not None
    assert (tmp_path / "tcbf" / "tcbf.png").exists()


def test_alignment_by_shifts(mos2):
    """A shift alone cannot explain side bands outside the disk, so it is near, not within 5 % (about -7 %)."""
    options = {"n_aberrations_to_fit": 3, "method": "shifts", "save": False}
    found = run_tcbf_alignment(mos2, [4, 2, 2], cross_corr_type="plain", **options)
    assert found["aberrations"][0] == pytest.approx(TRUE_C10_A, rel=0.10)
    assert found["PLRotation_deg"] == pytest.approx(0.0, abs=1.5)
    robust = run_tcbf_alignment(
        mos2,
        [2],
        aberrations=[95.0],
        optimize_angle=False,
        cancel_large_shifts=0.9,
        pattern_blur_width=0.5,
        reference_type="bf",
        loss_lsq="soft_l1",
        f_scale_lsq=0.3,
        scan_pad=6,
        interpolate_scan_factor=2,
        cross_corr_type="plain",
        subscan_region=(0, 0, 32, 28),
        aperture=Experiment.from_params(mos2).aperture,
        **options,
    )
    assert robust["aberrations"][0] == pytest.approx(TRUE_C10_A, rel=0.12) and robust["PLRotation_deg"] == 0.0
    central = run_tcbf_alignment(mos2, [4], aberrations=[100.0], reference_type="central", **options)
    assert np.isfinite(central["aberrations"]).all()


def test_alignment_explains_more_than_pyptys(golden):
    """PyPty's fit of this data set (51.99, 0.11, 8.56) Å is not reproduced: it rounds modelled shifts to a third of a
    scan point and takes peaks from a cubic interpolation. What is asked for is that ours explains the images better."""
    params = golden_params(golden, aberrations=[40.0, 0.0, 0.0])
    found = run_tcbf_alignment(params, aberrations=[40.0, 0, 0], n_aberrations_to_fit=3, optimize_angle=False)
    experiment = Experiment.from_params(params)
    disk = Disk.from_aperture(experiment.aperture, experiment.pixel_1A)
    model = WeakPhase(golden_images(golden), 0.6, experiment.wavelength, disk)
    assert model.explained(found["aberrations"], 0.0) > model.explained(golden["alignment"], 0.0)
    assert found["aberrations"][0] == pytest.approx(float(golden["aberrations"][0]), rel=0.05)


def compressed(mos2) -> dict[str, object]:
    """The same scan through virtual detectors: squares of 3 x 3 pixels."""
    masks = np.zeros((49, 64, 64))
    for number in range(49):
        row, column = np.divmod(number, 7)
        masks[number, 22 + 3 * row : 25 + 3 * row, 22 + 3 * column : 25 + 3 * column] = 1
    data = np.einsum("nyx,dyx->nd", mos2["dataset"].astype(float), masks)
    return {**mos2, "dataset": data, "masks": masks, "algorithm": "lsq_compressed", "scan_size": (32, 32)}


def test_alignment_of_virtual_detectors(mos2):
    params = compressed(mos2)
    found = run_tcbf_compressed_alignment(
        params, 4, n_aberrations_to_fit=1, cross_corr_type="plain", save=False
    )
    assert found["aberrations"][0] == pytest.approx(TRUE_C10_A, rel=0.12)
    assert found["PLRotation_deg"] == pytest.approx(0.0, abs=3.0)
    image, _ = upsampled_tcbf({**params, "aberrations": found["aberrations"]}, 1, 0)
    whole, _ = upsampled_tcbf({**mos2, "aberrations": [TRUE_C10_A]}, 1, 0)
    assert np.corrcoef(image[8:-8, 8:-8].ravel(), whole[8:-8, 8:-8].ravel())[0, 1] > 0.9
    given_start = run_tcbf_compressed_alignment(
        {**params, "conv_semiangle_mrad": None}, 1, n_aberrations_to_fit=1, aberrations=[100.0], save=False
    )
    assert given_start["aberrations"][0] > 50


def test_drift_of_the_disk(mos2):
    rng = np.random.default_rng(0)
    drift = np.round(np.cumsum(rng.normal(0, 0.2, (1024, 2)), axis=0)).astype(int)
    drift = np.clip(drift - np.round(drift.mean(axis=0)).astype(int), -6, 6)
    data = mos2["dataset"].copy()
    for number, (dy, dx) in enumerate(drift):
        data[number] = np.roll(data[number], (dy, dx), (0, 1))
    found = disk_shifts([(np.arange(1024), data.astype(np.float32))], 1024, 0.3)
    assert np.abs(found - (drift - drift.mean(axis=0))).mean() < 0.5
    (_, back), *_ = without_drift([(np.arange(1024), data)], drift)
    np.testing.assert_array_equal(back[:, 10:-10, 10:-10], mos2["dataset"][:, 10:-10, 10:-10])
    params = {**mos2, "dataset": data}
    result = run_tcbf_alignment(
        params, n_aberrations_to_fit=1, compensate_lowfreq_drift=0.3, optimize_angle=False
    )
    assert result["aberrations"][0] == pytest.approx(TRUE_C10_A, rel=0.1)
    assert result["aperture_shifts_y"].shape == (1024,)
    with pytest.raises(ParameterError, match="compensate_lowfreq_drift"):
        disk_shifts([], 3, 2.0)
    with pytest.raises(DataError, match="pattern 1 is empty"):
        disk_shifts([(np.arange(2), np.stack([np.ones((5, 5)), np.zeros((5, 5))]))], 2, 0.3)


def test_turned_positions_are_those_of_the_new_rotation():
    pixel = (0.3, 0.2)
    old = scan_grid_A((5, 7), 0.5, 10.0) / pixel
    new = scan_grid_A((5, 7), 0.5, 25.0) / pixel
    found = turned_positions(old - old.min(axis=0) + 4.0, 15.0, pixel)
    np.testing.assert_allclose(found, new - new.min(axis=0) + 4.0, atol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: run_tcbf_alignment(p, no_such_option=1), "no_such_option"),
        (lambda p: run_tcbf_alignment(p, method="guess"), "method"),
        (lambda p: run_tcbf_alignment(p, cross_corr_type="x"), "cross_corr_type"),
        (lambda p: run_tcbf_alignment(p, n_aberrations_to_fit=0), "n_aberrations_to_fit"),
        (lambda p: run_tcbf_alignment(p, aperture=np.ones((3, 3))), "aperture"),
        (lambda p: run_tcbf_alignment(p, [4], method="shifts", cancel_large_shifts=2), "cancel_large_shifts"),
        (lambda p: run_tcbf_alignment(p, [4], method="shifts", reference_type="x"), "reference_type"),
        (lambda p: run_tcbf_alignment(compressed(p)), "compressed"),
        (lambda p: run_tcbf_compressed_alignment(p), "run_tcbf_alignment"),
        (lambda p: run_tcbf_compressed_alignment(p, 0), "num_iterations"),
        (lambda p: upsampled_tcbf(p, default_float=16), "default_float"),
        (lambda p: upsampled_tcbf(p, upsample=0), "upsample"),
        (lambda p: upsampled_tcbf(p, upsample=1, pad=0, save=True), "output_folder"),
    ],
)
def test_bad_input(mos2, call, message):
    with pytest.raises(ParameterError, match=message):
        call(mos2)


def test_detectors_of_a_part():
    detectors = binned_detectors(np.ones((3, 3), bool), (1.0, 1.0))
    part = detectors.part(slice(None, None, 4))
    assert isinstance(part, Detectors) and len(part) == 3 and part.sums.shape == (9, 3)
