"""Differential phase contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.direct_methods.numerics.integration import (
    Descent,
    integrate_fourier,
    integrate_iteratively,
    solve_poisson,
)
from pypty.dpc import (
    GetPLRotation,
    fft_based_dpc,
    get_curl,
    get_curl_derivative,
    iterative_dpc,
    iterative_poisson_solver,
)
from pypty.errors import DataError, ParameterError
from pypty.optics.scan_grid import rotation_yx

GOLDEN = Path(__file__).parent / "data" / "pypty_direct_golden.npz"


def smooth_phase(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A periodic phase of a few low frequencies."""
    rng = np.random.default_rng(seed)
    spectrum = np.zeros(shape, complex)
    spectrum[:3, :3] = rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3))
    phase = np.fft.ifft2(spectrum).real
    return (phase - phase.mean()) / phase.std()


def fourier_gradient(phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fy, fx = np.fft.fftfreq(phase.shape[0])[:, None], np.fft.fftfreq(phase.shape[1])[None]
    spectrum = np.fft.fft2(phase)
    return np.fft.ifft2(2j * np.pi * fy * spectrum).real, np.fft.ifft2(2j * np.pi * fx * spectrum).real


def params_with_com(phase: np.ndarray, rotation_deg: float, step_A: float = 0.4) -> dict[str, object]:
    """Parameters whose centres of mass (detector pixels) are those of a pure phase object."""
    pixel = 0.05
    field = np.stack(fourier_gradient(phase)) / step_A / (2 * np.pi) / pixel
    com = np.einsum("ij,jyx->iyx", rotation_yx(rotation_deg), field)
    return {
        "dataset": np.ones((phase.size, 8, 8), np.float32),
        "acc_voltage": 80.0,
        "scan_size": phase.shape,
        "scan_step_A": step_A,
        "rez_pixel_size_A": pixel,
        "PLRotation_deg": rotation_deg,
        "comy": com[0],
        "comx": com[1],
    }


@given(st.integers(6, 20), st.integers(6, 20), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_integral_of_a_gradient_is_the_image(rows, columns, seed):
    phase = smooth_phase((rows, columns), seed)
    found = integrate_fourier(*fourier_gradient(phase))
    np.testing.assert_allclose(found, phase, atol=1e-10)


@pytest.mark.parametrize("rotation", [0.0, 37.0, -120.0])
def test_phase_is_in_radians_on_a_rectangular_rotated_scan(rotation):
    phase = smooth_phase((14, 20))
    params = params_with_com(phase, rotation)
    found, new = fft_based_dpc(params)
    np.testing.assert_allclose(found, phase, atol=1e-9)
    assert np.isfinite(found).all()
    assert abs(new["comx"].mean()) < 1e-12 and new["comx"].shape == (14, 20)
    assert pypty.check(new) is not None


def test_centres_of_mass_come_from_the_patterns():
    params = params_with_com(smooth_phase((5, 6)), 0.0)
    data = np.zeros((30, 8, 8), np.float32)
    rng = np.random.default_rng(3)
    at = rng.integers(0, 8, (30, 2))
    data[np.arange(30), at[:, 0], at[:, 1]] = rng.uniform(1, 9, 30)
    del params["comx"], params["comy"]
    _, new = fft_based_dpc({**params, "dataset": data})
    expected = at - at.mean(axis=0)
    np.testing.assert_allclose(new["comy"].ravel(), expected[:, 0], atol=1e-9)
    np.testing.assert_allclose(new["comx"].ravel(), expected[:, 1], atol=1e-9)


def test_given_centres_of_mass_win_and_nothing_is_changed_in_place():
    params = params_with_com(smooth_phase((8, 9)), 0.0)
    before = params["comx"].copy()
    doubled, _ = fft_based_dpc(params, comx=2 * params["comx"], comy=2 * params["comy"])
    once, _ = fft_based_dpc(params)
    np.testing.assert_allclose(doubled, 2 * once, atol=1e-10)
    np.testing.assert_array_equal(params["comx"], before)


def test_filters_damp_low_and_high_frequencies():
    params = params_with_com(smooth_phase((16, 16)), 0.0)
    plain, _ = fft_based_dpc(params)
    high, _ = fft_based_dpc(params, hpass=0.1)
    low, _ = fft_based_dpc(params, lpass=1e4)
    assert high.std() < 0.5 * plain.std() and low.std() < 0.5 * plain.std()


def test_golden_dpc():
    """PyPty 2.2 does not divide by the counts in this path; its moments go in as they are."""
    golden = np.load(GOLDEN)
    moments = golden["moments"][:2]
    moments = moments - moments.mean(axis=(1, 2), keepdims=True)
    field = np.einsum("ij,jyx->iyx", rotation_yx(12.0).T, moments)
    found = integrate_fourier(field[0], field[1], hpass=0.01, lpass=0.3)
    assert np.abs(found - golden["dpc"]).max() < 1e-6 * np.abs(golden["dpc"]).max()  # PyPty sums in float32


def test_golden_rotation_has_the_sign_of_the_positions():
    """PyPty's angle has the opposite sign of the positions' (a defect); its size is right."""
    golden = np.load(GOLDEN)
    com = golden["moments"][:2] / golden["moments"][2]
    assert GetPLRotation(com[1], com[0]) == pytest.approx(-float(golden["rotation_rad"]), abs=1e-5)


def test_curl_and_its_derivative():
    params = params_with_com(smooth_phase((24, 30), 5), 25.0)
    x, y = params["comx"], params["comy"]
    angle = np.deg2rad(25.0)
    assert get_curl(angle, x, y) < 0.1 * get_curl(angle + np.pi / 2, x, y)
    step = 1e-5
    for a in (-1.0, 0.3, 2.0):
        slope = (get_curl(a + step, x, y) - get_curl(a - step, x, y)) / (2 * step)
        assert get_curl_derivative(a, x, y) == pytest.approx(slope, rel=1e-5)
    assert get_curl_derivative(0.0, np.zeros((4, 4)), np.zeros((4, 4))) == 0.0


def test_iteration_needs_no_periodic_edges():
    y, x = np.meshgrid(np.arange(18.0), np.arange(25.0), indexing="ij")
    phase = 0.02 * (x - 12) ** 2 + 0.1 * y + np.sin(y / 3)
    phase -= phase.mean()
    gradient = np.gradient(phase, edge_order=2)
    found, errors = integrate_iteratively(gradient[0], gradient[1], Descent(iterations=300, step=0.5))
    assert (np.diff(errors) < 0).all()
    assert np.abs(found - phase).std() < 0.05 * phase.std()
    periodic = integrate_fourier(gradient[0], gradient[1])
    assert np.abs(found - phase).std() < 0.3 * np.abs(periodic - phase).std()


def test_iterative_dpc_in_radians(caplog):
    phase = smooth_phase((20, 26), 2)
    params = params_with_com(phase, 30.0)
    with caplog.at_level("INFO", "pypty"):
        found = iterative_dpc(params, num_iterations=300, step_size=0.5, print_flag=True)
    assert np.corrcoef(found.ravel(), phase.ravel())[0, 1] > 0.99
    assert found.std() == pytest.approx(phase.std(), rel=0.05)
    assert "squared error" in caplog.text
    half = iterative_dpc(params, num_iterations=300, step_size=0.5, px_size=0.2)
    np.testing.assert_allclose(half, found / 2, atol=1e-6)


def test_points_left_out_do_not_count():
    phase = smooth_phase((16, 16), 4)
    gy, gx = np.gradient(phase, edge_order=2)
    select = np.ones((16, 16))
    select[5:8, 5:8] = 0
    spoilt = gy.copy()
    spoilt[6, 6] = 50.0
    options = Descent(iterations=100, step=0.5)
    clean, _ = integrate_iteratively(gy, gx, options, select)
    found, _ = integrate_iteratively(spoilt, gx, options, select)
    np.testing.assert_allclose(found, clean, atol=1e-12)


def test_without_backtracking_the_step_stays():
    gy, gx = np.gradient(smooth_phase((12, 12), 6), edge_order=2)
    _, errors = integrate_iteratively(gy, gx, Descent(iterations=7, step=0.1, backtracking=False))
    assert len(errors) == 8


def test_poisson_solver():
    phase = smooth_phase((24, 24), 7)
    slopes = np.gradient(phase, edge_order=2)
    laplacian = np.gradient(slopes[0], axis=0, edge_order=2) + np.gradient(slopes[1], axis=1, edge_order=2)
    _, errors = solve_poisson(laplacian, Descent(iterations=200, step=0.2, pad=1))
    assert errors[-1] < 0.05 * errors[0] and (np.diff(errors) < 0).all()
    found = iterative_poisson_solver(
        laplacian / 0.25, num_iterations=200, step_size=0.2, px_size=0.5, print_flag=True
    )
    assert np.corrcoef(found.ravel(), phase.ravel())[0, 1] > 0.9


def test_saving(tmp_path):
    params = {**params_with_com(smooth_phase((8, 8)), 0.0), "output_folder": str(tmp_path)}
    phase, _ = fft_based_dpc(params, save=True)
    np.testing.assert_array_equal(np.load(tmp_path / "dpc" / "fft_dpc.npy"), phase)
    assert (tmp_path / "dpc" / "fft_dpc.png").stat().st_size > 1000
    iterative_dpc(params, num_iterations=2, plot=True)
    assert (tmp_path / "dpc" / "iterative_dpc.png").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: fft_based_dpc(p, save=True), "output_folder"),
        (lambda p: fft_based_dpc(p, comx=p["comx"]), "only one of"),
        (lambda p: fft_based_dpc(p, comx=np.ones(3), comy=np.ones(3)), "3 values"),
        (lambda p: fft_based_dpc(p, hpass=-1), "hpass"),
        (lambda p: iterative_dpc(p, px_size=0), "px_size"),
        (lambda p: iterative_dpc(p, num_iterations=0), "iterations"),
        (lambda p: iterative_dpc(p, select=np.ones((3, 3))), "select"),
        (lambda p: iterative_poisson_solver(np.ones((4, 4)), px_size=-1), "px_size"),
        (
            lambda p: fft_based_dpc(
                {
                    **p,
                    "masks": np.ones((2, 8, 8)),
                    "dataset": np.ones((64, 2)),
                    "comx": None,
                    "algorithm": "lsq_compressed",
                }
            ),
            "virtual",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ParameterError, match=message):
        call(params_with_com(smooth_phase((8, 8)), 0.0))


def test_bad_maps():
    with pytest.raises(DataError, match="shapes"):
        integrate_fourier(np.ones((4, 4)), np.ones((4, 5)))
    with pytest.raises(DataError, match="NaN"):
        integrate_fourier(np.full((4, 4), np.nan), np.ones((4, 4)))


def test_a_mask_takes_nan_out_of_centres_of_mass() -> None:
    data, mask = np.ones((2, 4, 4)), np.ones((4, 4))
    data[:, 0, 0], mask[0, 0] = np.nan, 0
    found = centres_of_mass([(np.arange(2), data)], (2, 4, 4), mask)
    np.testing.assert_allclose(found, [[(-0.5 * 16 + 2) / 15] * 2] * 2)


def test_a_rotation_that_the_maps_do_not_tell_is_said(caplog: pytest.LogCaptureFixture) -> None:
    y, x = np.mgrid[:12, :12]
    pypty.dpc.GetPLRotation(np.sin(x / 2.0), np.sin(y / 2.0))
    assert "or half a turn more: the centres of mass cannot decide" in caplog.text
