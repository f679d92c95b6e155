"""Incoherent probe modes: golden values, power, brute force, and what a blurred beam looks like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import random_complex, relative
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.errors import ParameterError
from pypty.optics import probes
from pypty.optics.grid import Grid
from pypty.optics.modes import defocus_spread_modes, hermite_modes, monte_carlo_modes
from pypty.optics.propagators import fresnel
from pypty.optics.wavelength import wavelength_A

GOLDEN = Path(__file__).parent / "golden" / "hermite_modes.npz"
GRID = Grid((15, 18), (0.31, 0.24), wavelength_A(80))
SOURCE = {
    "focal_spread_A": 40.0,
    "source_size_y_A": 0.5,
    "source_size_x_A": 0.3,
    "source_covariance_A2": 0.1,
}
NO_SPREAD = dict.fromkeys(SOURCE, 0.0)


def power(modes: np.ndarray) -> float:
    return float((np.abs(modes) ** 2).sum())


def mode_powers(modes: np.ndarray) -> np.ndarray:
    return (np.abs(modes) ** 2).sum(axis=(1, 2))


def density_matrix(modes: np.ndarray) -> np.ndarray:
    """(pixels, pixels) sum of P P^dagger over modes: all that a measurement can see of them."""
    flat = modes.reshape(len(modes), -1)
    return flat.T @ flat.conj()


def smooth_probe(grid: Grid, modes: int = 1, seed: int = 0) -> np.ndarray:
    """(modes, y, x): random inside a circle of the spectrum, exactly zero outside."""
    return np.fft.ifft2(
        random_complex(np.random.default_rng(seed), (modes, *grid.shape)) * grid.band_mask(0.6)
    )


def monte_carlo(
    probe: np.ndarray, n_modes: int, n_samples: int, seed: int = 7, **changes: float
) -> np.ndarray:
    """Monte-Carlo modes on ``GRID``."""
    spreads = {**SOURCE, **changes}
    return monte_carlo_modes(
        probe, GRID, n_modes=n_modes, n_samples=n_samples, rng=np.random.default_rng(seed), **spreads
    )


# -------------------------------------------------------------------------------------------------------- all three

MAKERS: tuple[Callable[[np.ndarray, Grid], np.ndarray], ...] = (
    lambda probe, grid: hermite_modes(probe, 2, 1),
    lambda probe, grid: defocus_spread_modes(probe, grid, [-50.0, 0.0, 80.0]),
    lambda probe, grid: monte_carlo_modes(
        probe, grid, n_modes=3, n_samples=5, rng=np.random.default_rng(1), **SOURCE
    ),
)
makers = pytest.mark.parametrize("make", MAKERS, ids=["hermite", "defocus", "monte_carlo"])


@makers
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)), n_modes=st.integers(1, 3), seed=st.integers(0, 99)
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_power_is_kept(make: Callable, shape: tuple[int, int], n_modes: int, seed: int):
    """The sum over all modes, whatever the window and however many modes there were."""
    probe = 3.0 * random_complex(np.random.default_rng(seed), (n_modes, *shape))
    modes = make(probe, Grid(shape, (0.31, 0.24), 0.04))
    assert modes.shape[1:] == shape
    assert power(modes) == pytest.approx(power(probe), rel=1e-12)


@makers
def test_zero_probe(make: Callable):
    """No power, no modes, and nothing that is not a number."""
    modes = make(np.zeros((1, *GRID.shape), complex), GRID)
    assert len(modes) > 1
    np.testing.assert_array_equal(modes, 0)


@makers
def test_the_given_probe_is_not_changed(make: Callable):
    probe = smooth_probe(GRID, 2)
    before = probe.copy()
    make(probe, GRID)
    np.testing.assert_array_equal(probe, before)


@pytest.mark.parametrize("make", MAKERS[:2], ids=["hermite", "defocus"])
def test_first_mode_only(make: Callable):
    """Hermite and defocus modes: the other modes only add their power."""
    probe = smooth_probe(GRID, 3)
    ratio = np.sqrt(power(probe) / power(probe[0]))
    assert ratio > 1.5
    np.testing.assert_allclose(make(probe, GRID), ratio * make(probe[:1], GRID), atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- Hermite


def test_hermite_modes_are_those_of_pypty():
    """PyPty 2.2: same order, same shapes, and the summed power of the probe."""
    with np.load(GOLDEN) as file:
        probe, expected = file["in_probe"], file["out_hermite_nx2_ny1"].transpose(2, 0, 1)
    modes = hermite_modes(probe[None], 2, 1)
    assert modes.shape == expected.shape
    for mode, other in zip(modes, expected, strict=True):
        assert relative(mode, other) < 1e-12


@pytest.mark.parametrize(
    ("shape", "n_x", "n_y"), [((15, 18), 1, 3), ((12, 7), 3, 0), ((9, 16), 0, 2), ((8, 8), 0, 0)]
)
def test_hermite_modes_by_a_loop(shape: tuple[int, int], n_x: int, n_y: int):
    """P (x-xc)^a (y-yc)^b exp(-(x-xc)^2/(2vx) - (y-yc)^2/(2vy)), x along the last axis, a running fastest."""
    probe = random_complex(np.random.default_rng(3), (1, *shape))
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    weight = np.abs(probe[0]) ** 2 / power(probe)
    yc, xc = (weight * y).sum(), (weight * x).sum()
    vy, vx = (weight * (y - yc) ** 2).sum(), (weight * (x - xc) ** 2).sum()
    modes = hermite_modes(probe, n_x, n_y)
    assert modes.shape == ((n_x + 1) * (n_y + 1), *shape)
    for b in range(n_y + 1):
        for a in range(n_x + 1):
            envelope = np.exp(-((x - xc) ** 2) / (2 * vx) - (y - yc) ** 2 / (2 * vy)) if a or b else 1
            expected = probe[0] * (x - xc) ** a * (y - yc) ** b * envelope
            expected *= np.sqrt(power(probe) / len(modes) / power(expected))
            assert relative(modes[a + b * (n_x + 1)], expected) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_hermite_modes_of_a_single_pixel(seed: int):
    """There is nothing beside it: it keeps all the power, whatever the rounding of its centroid."""
    rng = np.random.default_rng(seed)
    probe = np.zeros((1, *GRID.shape), complex)
    probe[0, rng.integers(1, 15), rng.integers(1, 18)] = random_complex(rng, ())
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        modes = hermite_modes(probe, 2, 2)
    np.testing.assert_allclose(modes[0], probe[0], rtol=1e-12)
    np.testing.assert_array_equal(modes[1:], 0)


@pytest.mark.parametrize("row", range(3, 8))
def test_hermite_modes_of_a_single_row(row: int):
    """A probe one pixel high has modes along x, and none along y."""
    probe = np.zeros((1, *GRID.shape), complex)
    probe[0, row] = random_complex(np.random.default_rng(row), (GRID.shape[1],))
    modes = hermite_modes(probe, 2, 1)
    np.testing.assert_allclose(mode_powers(modes), np.repeat([power(probe) / 3, 0], 3), rtol=1e-12)


def test_hermite_modes_of_a_very_compact_probe():
    """A width below half a pixel is taken as half a pixel, so that the envelope does not cut the neighbour off."""
    probe = np.zeros((1, 8, 8), complex)
    probe[0, 4, 4], probe[0, 4, 5] = 1, 1e-3
    modes = hermite_modes(probe, 1, 0)
    centre = 4 + 1e-6 / (1 + 1e-6)
    expected = probe[0, 4, 4:6] * [(x - centre) * np.exp(-2 * (x - centre) ** 2) for x in (4, 5)]
    expected *= np.sqrt(power(probe) / 2) / np.linalg.norm(expected)
    np.testing.assert_allclose(modes[1, 4, 4:6], expected, rtol=1e-9)


@pytest.mark.parametrize("orders", [(-1, 2), (2, -1)])
def test_negative_hermite_orders(orders: tuple[int, int]):
    with pytest.raises(ParameterError, match="n_hermite_probe_modes"):
        hermite_modes(smooth_probe(GRID), *orders)


# ---------------------------------------------------------------------------------------------------- defocus spread


def test_defocus_spread_modes_are_defocused_probes():
    probe, defoci = smooth_probe(GRID), np.array([-120.0, 0.0, 35.0, 300.0])
    modes = defocus_spread_modes(probe, GRID, defoci)
    assert modes.shape == (4, *GRID.shape)
    np.testing.assert_allclose(mode_powers(modes), power(probe) / 4, rtol=1e-12)
    for mode, distance in zip(modes, defoci, strict=True):
        assert relative(2 * mode, probes.defocus(probe, GRID, distance)[0]) < 1e-12


def test_no_defocus_given():
    with pytest.raises(ParameterError, match="defocus_spread_modes"):
        defocus_spread_modes(smooth_probe(GRID), GRID, [])


# ------------------------------------------------------------------------------------------------------ Monte-Carlo


@pytest.mark.parametrize("probe_modes", [1, 3])
@pytest.mark.parametrize("limited", [True, False])
def test_monte_carlo_modes_by_brute_force(probe_modes: int, limited: bool):
    """Singular vectors of all samples, each shifted with a ramp and propagated; scaled to the power."""
    rng = np.random.default_rng(2)
    probe = smooth_probe(GRID, probe_modes) if limited else random_complex(rng, (probe_modes, *GRID.shape))
    n_samples, n_modes = 20, 6
    covariance = np.array([[0.5**2, 0.1], [0.1, 0.3**2]])
    draws = np.random.default_rng(7).standard_normal((n_samples, 3))
    samples = []
    for (dy, dx), df in zip(draws[:, :2] @ np.linalg.cholesky(covariance).T, 40.0 * draws[:, 2], strict=True):
        ramp = np.exp(-2j * np.pi * (GRID.qy * dy + GRID.qx * dx))
        samples += list(np.fft.ifft2(np.fft.fft2(probe) * ramp * fresnel(GRID, df)))
    u, s, _ = np.linalg.svd(np.reshape(samples, (len(samples), -1)).T, full_matrices=False)
    expected = (u * s).T[:n_modes].reshape(n_modes, *GRID.shape) / np.sqrt(n_samples)
    assert power(expected) < 0.99 * power(probe)
    expected *= np.sqrt(power(probe) / power(expected))
    for mode, other in zip(monte_carlo(probe, n_modes, n_samples), expected, strict=True):
        phase = np.vdot(other, mode) / abs(np.vdot(other, mode))
        assert relative(mode, phase * other) < 1e-9
        parts = np.array([np.vdot(sample, mode) for sample in samples])
        largest = parts[np.abs(parts).argmax()]
        assert largest == pytest.approx(abs(largest), rel=1e-9)  # positive: this fixes the phase


def test_a_weak_halo_of_the_spectrum_counts():
    """Pixels outside the aperture with a thousandth of the amplitude are part of the probe."""
    probe = smooth_probe(GRID)
    halo = np.fft.ifft2(random_complex(np.random.default_rng(9), GRID.shape) * ~GRID.band_mask(0.6))
    modes = monte_carlo(probe + 1e-3 * halo, 8, 30).reshape(8, -1)
    overlaps = modes.conj() @ modes.T
    np.testing.assert_allclose(overlaps, np.diag(np.diagonal(overlaps)), atol=1e-12 * overlaps[0, 0].real)


def test_monte_carlo_modes_are_reproducible():
    """The caller's seed decides, and nothing else."""
    probe = smooth_probe(GRID)
    first = monte_carlo(probe, 4, 30)
    np.random.default_rng().standard_normal(5)
    np.testing.assert_array_equal(monte_carlo(probe, 4, 30), first)
    assert relative(density_matrix(monte_carlo(probe, 4, 30, seed=8)), density_matrix(first)) > 1e-3


def test_monte_carlo_modes_are_orthogonal_and_ordered():
    modes = monte_carlo(smooth_probe(GRID, 2), 8, 30).reshape(8, -1)
    overlaps = modes.conj() @ modes.T
    powers = np.diagonal(overlaps).real
    assert np.all(np.diff(powers) < 0)
    assert powers[-1] > 1e-4 * powers[0]
    np.testing.assert_allclose(overlaps, np.diag(powers), atol=1e-12 * powers[0])


def test_fewer_monte_carlo_modes_are_the_strongest():
    """Scaled up by one common factor for the power that is left out."""
    probe = smooth_probe(GRID)
    many, few = monte_carlo(probe, 10, 30), monte_carlo(probe, 3, 30)
    factor = np.sqrt(power(many) / power(many[:3]))
    assert factor > 1.01
    np.testing.assert_allclose(few, factor * many[:3], atol=1e-12)


def test_no_spread_leaves_the_probe():
    """One mode, the probe itself up to a phase; the others are exactly zero."""
    probe = smooth_probe(GRID)
    modes = monte_carlo(probe, 4, 30, **NO_SPREAD)
    overlap = np.vdot(probe, modes[0])
    assert abs(overlap) == pytest.approx(power(probe), rel=1e-12)
    assert relative(modes[0] * abs(overlap) / overlap, probe[0]) < 1e-12
    np.testing.assert_array_equal(modes[1:], 0)


def test_no_spread_leaves_the_mixed_state():
    """Several modes come back orthogonal: other modes, but the same beam."""
    probe = smooth_probe(GRID, 3)
    modes = monte_carlo(probe, 5, 10, **NO_SPREAD)
    assert relative(density_matrix(modes), density_matrix(probe)) < 1e-12
    np.testing.assert_array_equal(modes[3:], 0)


@pytest.mark.parametrize("probe_modes", [1, 2])
def test_blur_does_not_change_the_vacuum_pattern(probe_modes: int):
    """Shifts and defocus only turn phases of the spectrum; with every mode kept the pattern is that of the probe."""
    probe = smooth_probe(GRID, probe_modes)
    modes = monte_carlo(probe, 20, 20)
    pattern, expected = ((np.abs(np.fft.fft2(p)) ** 2).sum(axis=0) for p in (modes, probe))
    if probe_modes == 1:
        np.testing.assert_allclose(pattern, expected, atol=1e-10 * expected.max())
    else:  # only the strongest 20 of 40
        assert relative(pattern, expected) < 0.05


def centred_gaussian(grid: Grid, sigma_y: float, sigma_x: float) -> np.ndarray:
    """(1, y, x) amplitude whose intensity has these standard deviations (Å)."""
    y, x = ((np.arange(n) - n // 2) * p for n, p in zip(grid.shape, grid.pixel_size_A, strict=True))
    return np.exp(-((y[:, None] / sigma_y) ** 2 + (x[None, :] / sigma_x) ** 2) / 4)[None].astype(complex)


@pytest.mark.parametrize("source", [(0.9, 0.35, 0.2), (0.35, 0.9, -0.2), (0.0, 0.8, 0.0), (0.5, 0.8, 0.4)])
def test_source_size_blurs_the_intensity(source: tuple[float, float, float]):
    """The summed intensity is that of the probe, convolved with the source: in reciprocal space a product with
    exp(-2 pi^2 q.C q), C the covariance matrix of the source. The last source is a line."""
    sigma_y, sigma_x, covariance = source
    grid = Grid((24, 21), (0.3, 0.35), wavelength_A(80))
    probe = centred_gaussian(grid, 0.7, 0.6)
    modes = monte_carlo_modes(
        probe,
        grid,
        n_modes=60,
        n_samples=800,
        focal_spread_A=0.0,
        source_size_y_A=sigma_y,
        source_size_x_A=sigma_x,
        source_covariance_A2=covariance,
        rng=np.random.default_rng(11),
    )
    form = (sigma_y * grid.qy) ** 2 + 2 * covariance * grid.qy * grid.qx + (sigma_x * grid.qx) ** 2
    intensity = np.abs(probe[0]) ** 2
    expected = np.fft.ifft2(np.fft.fft2(intensity) * np.exp(-2 * np.pi**2 * form)).real
    assert relative(intensity, expected) > 0.15
    assert relative((np.abs(modes) ** 2).sum(axis=0), expected) < 0.06


def test_focal_spread_blurs_the_intensity():
    """The average over a Gaussian distribution of defocus, here by quadrature."""
    grid = Grid((24, 21), (0.3, 0.35), wavelength_A(80))
    probe = centred_gaussian(grid, 0.5, 0.5)
    modes = monte_carlo_modes(
        probe,
        grid,
        n_modes=60,
        n_samples=800,
        focal_spread_A=60.0,
        source_size_y_A=0.0,
        source_size_x_A=0.0,
        source_covariance_A2=0.0,
        rng=np.random.default_rng(11),
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    expected = np.zeros(grid.shape)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        expected += weight * np.abs(probes.defocus(probe, grid, 60.0 * node)[0]) ** 2
    assert relative(np.abs(probe[0]) ** 2, expected) > 0.15
    assert relative((np.abs(modes) ** 2).sum(axis=0), expected) < 0.03


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("size_y", "size_x"), [(0.3, 0.7), (3.9, 0.7), (0.5, 0.0), (0.0, 0.0)])
def test_source_covariance_limit(size_y: float, size_x: float, sign: int):
    """Up to the product of the sizes there is such a source, beyond there is none."""
    sizes = {"source_size_y_A": size_y, "source_size_x_A": size_x}
    limit = sign * size_y * size_x
    modes = monte_carlo(smooth_probe(GRID), 2, 8, source_covariance_A2=limit, **sizes)
    assert np.isfinite(modes).all()
    with pytest.raises(ParameterError, match=r"^spatial_coh_xy: .*spatial_coh_y_A.*spatial_coh_x_A.*; lower"):
        monte_carlo(smooth_probe(GRID), 2, 8, source_covariance_A2=limit + sign * 0.001, **sizes)


@pytest.mark.parametrize("n_modes", [0, 9])
def test_number_of_monte_carlo_modes(n_modes: int):
    """At least one, at most one per sample."""
    assert len(monte_carlo(smooth_probe(GRID), 8, 8)) == 8
    with pytest.raises(ParameterError, match=f"^mc_n_modes: {n_modes} given.*n_mc_samples = 8"):
        monte_carlo(smooth_probe(GRID), n_modes, 8)
