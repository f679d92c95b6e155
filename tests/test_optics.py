"""Formulas of electron optics against known values, loops, and physics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.constants as const
from helpers import random_complex, relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.engine.setup.prepare import prepare
from pypty.optics import probes
from pypty.optics.aberrations import aberration_names, aberration_phase, krivanek_orders
from pypty.optics.grid import Grid, object_band_mask
from pypty.optics.propagators import fresnel, fresnel_phase_rate
from pypty.optics.wavelength import acc_voltage_kV, interaction_constant_rad_per_VA, wavelength_A

GRID = Grid((15, 18), (0.31, 0.24), wavelength_A(80))


# ----------------------------------------------------------------------------------------------------- wavelength


@pytest.mark.parametrize(
    ("voltage", "expected"),
    [(60, 0.0486606), (80, 0.0417572), (100, 0.0370144), (200, 0.0250793), (300, 0.0196875)],
)
def test_wavelength(voltage: float, expected: float):
    """Tabulated values (Kirkland, Advanced Computing in Electron Microscopy, table 2.2, and Reimer)."""
    assert wavelength_A(voltage) == pytest.approx(expected, abs=6e-8)


@pytest.mark.parametrize("voltage", [1.0, 30.0, 300.0, 3000.0])
def test_wavelength_from_si_constants(voltage: float):
    """The momentum of an electron of kinetic energy eU, in SI units."""
    energy = voltage * 1e3 * const.e
    momentum = math.sqrt(2 * const.m_e * energy + (energy / const.c) ** 2)
    assert wavelength_A(voltage) == pytest.approx(const.h / momentum * 1e10, rel=1e-8)


@given(st.floats(0.01, 5000))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_voltage_is_the_inverse(voltage: float):
    assert acc_voltage_kV(wavelength_A(voltage)) == pytest.approx(voltage, rel=1e-9)


@pytest.mark.parametrize(
    ("voltage", "expected"), [(80, 1.00871e-3), (100, 0.92440e-3), (200, 0.72884e-3), (300, 0.65262e-3)]
)
def test_interaction_constant(voltage: float, expected: float):
    """rad/(V Å): tabulated, and 2 pi m e lambda / h^2 with the relativistic mass."""
    found = interaction_constant_rad_per_VA(voltage)
    assert found == pytest.approx(expected, abs=6e-9)
    mass = const.m_e + voltage * 1e3 * const.e / const.c**2
    si = 2 * math.pi * mass * const.e * wavelength_A(voltage) * 1e-10 / const.h**2
    assert found == pytest.approx(si * 1e-10, rel=1e-8)


# ---------------------------------------------------------------------------------------------- grid, band limits


def test_frequencies():
    """Zero first, in cycles per pixel and 1/Å; y before x."""
    assert GRID.fy.shape == (15, 1)
    assert GRID.fx.shape == (1, 18)
    assert GRID.qy[1, 0] == pytest.approx(1 / (15 * 0.31))
    assert GRID.qx[0, 1] == pytest.approx(1 / (18 * 0.24))
    assert GRID.qx[0, 9] == pytest.approx(-1 / (2 * 0.24))
    assert GRID.q2[2, 17] == pytest.approx((2 / (15 * 0.31)) ** 2 + (1 / (18 * 0.24)) ** 2)
    assert GRID.largest_frequency == pytest.approx(7 / (15 * 0.31))


def test_single_pixel():
    """Its only frequency is zero, which every band limit lets pass."""
    grid = Grid((1, 1), (0.3, 0.3), 0.04)
    assert grid.largest_frequency == 0
    assert grid.band_mask(2 / 3).tolist() == [[True]]


@pytest.mark.parametrize("cutoff", [0.31, 0.7, 0.95])
@pytest.mark.parametrize("grid", [GRID, Grid((16, 16), (0.2, 0.2), 0.04), Grid((12, 25), (0.2, 0.3), 0.04)])
def test_band_mask(grid: Grid, cutoff: float):
    """A circle in 1/Å, relative to the smaller of the two largest frequencies; by a loop, zero centred."""
    ny, nx = grid.shape
    py, px = grid.pixel_size_A
    limit = cutoff * min((ny - 1) // 2 / (ny * py), (nx - 1) // 2 / (nx * px))
    centred = np.fft.fftshift(grid.band_mask(cutoff))
    assert centred.dtype == bool
    for i, j in np.ndindex(ny, nx):
        q = math.hypot((i - ny // 2) / (ny * py), (j - nx // 2) / (nx * px))
        assert centred[i, j] == (q <= limit)


@pytest.mark.parametrize("n", [16, 32, 64, 128])
def test_band_mask_does_not_depend_on_the_pixel_size(n: int):
    """Square windows and pixels: the circle is the same in cycles per pixel, at any sampling.

    For 32 and 128 pixels it passes through lattice points, (10, 0) and (6, 8): rounding must not decide.
    """
    first, *others = (
        Grid((n, n), (pixel, pixel), 0.04).band_mask(2 / 3) for pixel in (0.1, 0.13, 0.2, 0.3, 0.37, 1.0)
    )
    for mask in others:
        np.testing.assert_array_equal(mask, first)


def test_object_band_mask_is_relative_to_nyquist():
    """1/(2 p) of the coarser axis, by a loop; the same physical frequency for objects of any size."""
    pixels, cutoff = (0.31, 0.24), 0.63
    for shape in ((20, 31), (47, 33)):
        mask = object_band_mask(shape, pixels, cutoff)
        for i, j in np.ndindex(shape):
            qy = (i if i < (shape[0] + 1) // 2 else i - shape[0]) / (shape[0] * pixels[0])
            qx = (j if j < (shape[1] + 1) // 2 else j - shape[1]) / (shape[1] * pixels[1])
            assert mask[i, j] == (math.hypot(qy, qx) <= cutoff / (2 * 0.31))


# ---------------------------------------------------------------------------------------------------- aberrations


def test_krivanek_order():
    names = "C10 C12a C12b C21a C21b C23a C23b C30 C32a C32b C34a C34b C41a C41b C43a C43b C45a C45b C50"
    assert aberration_names(19) == names.split()
    assert krivanek_orders(3) == [(1, 0, ""), (1, 2, "a"), (1, 2, "b")]
    assert krivanek_orders(0) == []


@given(st.integers(0, 80))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_krivanek_orders_are_all_terms(n_terms: int):
    """Every (n, m) with n + m odd and m <= n + 1, each a and b once, in increasing order."""
    orders = krivanek_orders(n_terms)
    assert len(orders) == len(set(orders)) == n_terms
    assert all((n + m) % 2 == 1 and 0 <= m <= n + 1 for n, m, _ in orders)
    assert [(n, m) for n, m, _ in orders] == sorted((n, m) for n, m, _ in orders)


@pytest.mark.parametrize("term", range(12))
def test_aberration_phase(term: int):
    """2 pi/lambda C k^(n+1)/(n+1) cos or sin(m phi), pixel by pixel; phi from x towards y."""
    n, m, kind = krivanek_orders(12)[term]
    coefficients = np.zeros(12)
    coefficients[term] = 1234.5
    chi = aberration_phase(GRID, coefficients)
    assert chi.shape == GRID.shape
    for i, j in ((0, 0), (1, 0), (0, 2), (3, 4), (14, 17), (8, 2)):
        qy, qx = GRID.qy[i, 0], GRID.qx[0, j]
        k, angle = GRID.wavelength * math.hypot(qy, qx), math.atan2(qy, qx)
        azimuth = math.sin(m * angle) if kind == "b" else math.cos(m * angle)
        expected = 2 * math.pi / GRID.wavelength * 1234.5 * k ** (n + 1) / (n + 1) * azimuth
        assert chi[i, j] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_aberrations_add():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=8), rng.normal(size=8)
    np.testing.assert_allclose(
        aberration_phase(GRID, a + b), aberration_phase(GRID, a) + aberration_phase(GRID, b), atol=1e-12
    )


# ------------------------------------------------------------------------------------------ propagation, defocus


def test_fresnel():
    """exp(-i pi lambda z q^2); distances add, and nothing is lost."""
    i, j = 3, 5
    expected = np.exp(-1j * np.pi * GRID.wavelength * 25.0 * GRID.q2[i, j])
    assert fresnel(GRID, 25.0)[i, j] == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(np.abs(fresnel(GRID, 25.0)), 1, rtol=1e-12)
    np.testing.assert_allclose(fresnel(GRID, 25.0) * fresnel(GRID, -10.0), fresnel(GRID, 15.0), rtol=1e-12)
    np.testing.assert_allclose(np.exp(1j * 25.0 * fresnel_phase_rate(GRID)), fresnel(GRID, 25.0), rtol=1e-12)


def test_defocus_is_c10_is_propagation():
    """Positive C10, positive defocus and propagation forward are the same thing."""
    probe = random_complex(np.random.default_rng(1), (2, *GRID.shape))
    propagated = np.fft.ifft2(np.fft.fft2(probe) * fresnel(GRID, 120.0))
    np.testing.assert_allclose(probes.defocus(probe, GRID, 120.0), propagated, atol=1e-12)
    np.testing.assert_allclose(probes.aberrate(probe, GRID, np.array([120.0, 0, 0])), propagated, atol=1e-12)
    np.testing.assert_allclose(
        probes.modulate(probe, aberration_phase(GRID, np.array([120.0]))), propagated, atol=1e-12
    )


@pytest.mark.parametrize("distance", [300.0, -300.0])
def test_propagation_is_forward(distance: float):
    """A Gaussian beam after its waist diverges: with exp(+i k z) its phase grows with radius as k r^2/(2 R),
    R = z (1 + (zR/z)^2); before the waist it converges. This fixes the sign without any convention of Fourier
    transforms."""
    n, pixel, waist = 128, 0.2, 1.0
    grid = Grid((n, n), (pixel, pixel), wavelength_A(80))
    x = (np.arange(n) - n // 2) * pixel
    r2 = x[:, None] ** 2 + x[None, :] ** 2
    beam = np.exp(-r2 / waist**2).astype(complex)
    moved = probes.defocus(beam[None], grid, distance)[0]
    rayleigh = np.pi * waist**2 / grid.wavelength
    radius = distance * (1 + (rayleigh / distance) ** 2)
    near = r2 < 4 * waist**2
    curvature = np.angle(moved * np.conj(moved[n // 2, n // 2]))[near]
    expected = (np.pi * r2 / (grid.wavelength * radius))[near]
    np.testing.assert_allclose(np.exp(1j * curvature), np.exp(1j * expected), atol=1e-6)
    assert np.sign((curvature * r2[near]).sum()) == np.sign(distance)


# --------------------------------------------------------------------------------------------------------- probes


@pytest.mark.parametrize("shape", [(12, 12), (13, 16), (9, 15)])
def test_probe_from_pattern(shape: tuple[int, int]):
    """It has that diffraction pattern, is centred at n//2, and is in focus; noise below zero is dropped."""
    rng = np.random.default_rng(2)
    y, x = (np.arange(n) - n // 2 for n in shape)
    pattern = 100 * np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / 8.0) + rng.uniform(0, 0.1, shape)
    pattern[0, 0] = -0.2
    probe = probes.probe_from_pattern(pattern)
    assert probe.shape == (1, *shape)
    spectrum = probes.spectrum_of_probe(probe)[0]
    np.testing.assert_allclose(np.abs(spectrum) ** 2, np.maximum(pattern, 0), atol=1e-10)
    brightest = np.unravel_index(np.abs(probe[0]).argmax(), shape)
    assert brightest == (shape[0] // 2, shape[1] // 2)
    assert probe[0][brightest].imag == pytest.approx(0, abs=1e-12)


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_spectrum_round_trip(shape: tuple[int, int]):
    probe = random_complex(np.random.default_rng(3), (2, *shape))
    np.testing.assert_allclose(probes.probe_from_spectrum(probes.spectrum_of_probe(probe)), probe, atol=1e-12)


def test_flat_spectrum_is_a_point_at_the_centre():
    probe = probes.probe_from_spectrum(np.ones((6, 7)))
    expected = np.zeros((6, 7))
    expected[3, 3] = 1
    np.testing.assert_allclose(probe, expected, atol=1e-12)


@given(
    old=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    more=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_padding_the_spectrum_keeps_the_pattern(old: tuple[int, int], more: tuple[int, int]):
    """The old pattern is in the middle of the new one, zeros around it; cropping takes it out again."""
    new = (old[0] + more[0], old[1] + more[1])
    probe = random_complex(np.random.default_rng(4), (2, *old))
    spectrum = probes.spectrum_of_probe(probe)
    padded = probes.resize_spectrum(probe, new)
    expected = np.zeros((2, *new), complex)
    top, left = (n // 2 - o // 2 for n, o in zip(new, old, strict=True))
    expected[:, top : top + old[0], left : left + old[1]] = spectrum
    np.testing.assert_allclose(probes.spectrum_of_probe(padded), expected, atol=1e-11)
    np.testing.assert_allclose(probes.resize_spectrum(padded, old), probe, atol=1e-11)


def test_finer_pixels_show_the_same_field():
    """Twice the window in reciprocal space: every second pixel is the old probe, a quarter as high."""
    y, x = (np.arange(n) - n // 2 for n in (16, 12))
    probe = np.exp(-(y[:, None] ** 2 / 5.0) - x[None, :] ** 2 / 4.0 + 0.3j * y[:, None])[None]
    fine = probes.resize_spectrum(probe, (32, 24))
    np.testing.assert_allclose(4 * fine[:, ::2, ::2], probe, atol=1e-3)


def band_limited_probe(params: dict, grid: Grid) -> np.ndarray:
    """(y, x, modes) inside the band limit of the start, so that only the scaling changes it."""
    spectrum = np.fft.fft2(params["probe"], axes=(0, 1)) * grid.band_mask(0.6)[:, :, None]
    return np.fft.ifft2(spectrum, axes=(0, 1))


@pytest.mark.parametrize("mask_seed", [None, 5])
def test_given_probe_is_scaled_to_the_counts(mask_seed: int | None):
    """Sum |F P|^2 over modes of probe and object and live pixels equals the mean counts there; the shape is kept."""
    params = small_problem(31, skip_preprocessing=False, data_multiplier=1.5)
    grid = Grid((16, 20), (0.31, 0.26), wavelength_A(80))
    given_probe = 17.0 * band_limited_probe(params, grid)
    params["probe"] = given_probe
    weights = np.ones((16, 20))
    if mask_seed is not None:
        rng = np.random.default_rng(mask_seed)
        weights = rng.uniform(0, 1, (16, 20)) * (rng.uniform(0, 1, (16, 20)) > 0.3)
        params["detector_mask"] = weights
    found = prepare(params).variables().probe
    pattern = params["obj"].shape[3] * (np.abs(probes.spectrum_of_probe(found)) ** 2).sum(axis=0)
    mean = 1.5 * params["dataset"].mean(axis=0)
    assert (pattern * weights).sum() == pytest.approx((mean * weights).sum(), rel=1e-10)
    ratio = found / given_probe.transpose(2, 0, 1)
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-8)


def test_given_probe_is_kept_when_preprocessing_is_skipped():
    params = small_problem(32)
    found = prepare(params).variables().probe
    assert relative(found.transpose(1, 2, 0), params["probe"]) < 1e-12


def test_start_probe_from_the_data_has_their_mean_pattern():
    """Inside the band limit; the aperture probe has the same counts."""
    params = small_problem(33, skip_preprocessing=False, probe=None, damping_cutoff_multislice=2.0)
    mean = params["dataset"].mean(axis=0)
    modes = params["obj"].shape[3]  # each passes the whole probe on
    found = prepare(params).variables().probe
    vacuum = modes * np.abs(probes.spectrum_of_probe(found)[0]) ** 2
    np.testing.assert_allclose(vacuum, mean, atol=1e-9 * mean.max())
    disk = prepare({**params, "probe": "aperture", "aperture_mask": 0.5}).variables().probe
    pattern = modes * np.abs(probes.spectrum_of_probe(disk)[0]) ** 2
    assert pattern.sum() == pytest.approx(mean.sum(), rel=1e-10)
    inside = pattern > 1e-9 * pattern.max()
    np.testing.assert_allclose(pattern[inside], pattern.max(), rtol=1e-9)
    y, x = np.nonzero(inside)
    assert np.hypot((y - 8) / 16, (x - 10) / 20).max() <= 0.25


def test_start_defocus_and_aberrations_add():
    """extra_probe_defocus has the sign of C10."""
    params = small_problem(34)
    by_distance = prepare({**params, "extra_probe_defocus": 80.0}).variables().probe
    by_c10 = prepare({**params, "aberrations": [80.0, 0.0, 0.0]}).variables().probe
    grid = Grid((16, 20), (0.31, 0.26), wavelength_A(80))
    expected = np.fft.ifft2(np.fft.fft2(params["probe"].transpose(2, 0, 1)) * fresnel(grid, 80.0))
    assert relative(by_distance, expected) < 1e-12
    assert relative(by_c10, expected) < 1e-12
