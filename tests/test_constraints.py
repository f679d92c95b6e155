"""Changes by hand between iterations: filters, flips, orthogonal modes, a growing object, a torn scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import random_complex, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter

from pypty.constraints.object import charge_flip, smooth_absorption, smooth_phase, vacuum_like
from pypty.constraints.probe import are_orthogonal, orthogonal_rotation, rotated
from pypty.constraints.scan import _otsu, _pieces, puzzle, resized, warped
from pypty.errors import ParameterError

GOLDEN = Path(__file__).parent / "golden" / "charge_flip.npz"  # from 24_initialisation_utils of PyPty 2.2
STRENGTH = {"delta_phase": 0.1, "delta_abs": 0.01, "beta_phase": -0.95, "beta_abs": -0.95}  # PyPty's defaults
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


def golden() -> SimpleNamespace:
    with np.load(GOLDEN) as file:
        return SimpleNamespace(**{key: file[key] for key in file.files})


def weak_object(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Phases without jumps, moderate absorption."""
    return np.exp(-rng.uniform(0, 0.5, shape) + 1j * rng.uniform(-1.5, 1.5, shape))


def absorption(obj: np.ndarray) -> np.ndarray:
    return -np.log(np.abs(obj))


# Gaussian filters


@pytest.mark.parametrize("sigma", [(1.2, 0.5), (0.0, 2.0), (0.8, 1.2, 0.5), (1.0, 0.0, 0.0)])
def test_filters_are_those_of_scipy(sigma: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    obj = np.exp(-rng.uniform(0, 0.5, (2, 4, 12, 15)) + 1j * rng.uniform(-0.7, 0.7, (2, 4, 12, 15)))
    widths = (0, *sigma) if len(sigma) == 2 else sigma
    if len(sigma) == 2:  # some pixels, but not all, jump from slice to slice
        obj *= np.exp(1.6j * np.array([1, -1, 1, -1]))[:, None, None]

    def layered(values: np.ndarray) -> np.ndarray:
        return np.stack([gaussian_filter(volume, widths, mode="nearest") for volume in values])

    by_phase, by_amplitude = smooth_phase(obj, sigma), smooth_absorption(obj, sigma)
    np.testing.assert_allclose(np.angle(by_phase), layered(np.angle(obj)), atol=1e-13)
    np.testing.assert_allclose(np.abs(by_phase), np.abs(obj), rtol=1e-13)
    np.testing.assert_allclose(absorption(by_amplitude), layered(absorption(obj)), atol=1e-13)
    np.testing.assert_allclose(np.angle(by_amplitude), np.angle(obj), atol=1e-13)


@pytest.mark.parametrize("sigma", [(2.0, 1.5), (1.0, 2.0, 1.5), (1.0, 0.0, 1.5)])
def test_a_wrapped_phase_is_filtered_as_the_continuous_one(sigma: tuple[float, ...]) -> None:
    z, y, x = np.meshgrid(np.arange(5), np.arange(24), np.arange(31), indexing="ij")
    phase = 0.9 * z + 0.7 * x - 0.02 * (y - 9) ** 2 + 0.3 * np.sin(x * y / 20)
    assert np.ptp(phase) > 6 * np.pi
    widths = (0, *sigma) if len(sigma) == 2 else sigma
    expected = gaussian_filter(phase, widths, mode="nearest")
    result = smooth_phase(np.exp(1j * phase)[None], sigma)[0]
    np.testing.assert_allclose(result, np.exp(1j * expected), atol=1e-10)


def test_slices_that_are_not_filtered_together_may_differ_by_any_phase() -> None:
    """A jump between slices counts only when they are filtered together."""
    flat = np.exp(1j * np.array([3.0, -3.0, 3.0]))[None, :, None, None] * np.ones((1, 1, 6, 7))
    np.testing.assert_allclose(smooth_phase(flat, (1, 1)), flat, atol=1e-13)
    through = np.angle(smooth_phase(flat, (5, 0, 0))[0, :, 0, 0])
    np.testing.assert_array_less(np.pi - 0.15, np.abs(through))  # they meet at pi, not at 0


def test_a_vortex_is_not_cut() -> None:
    """Somewhere its phase jumps from pi to -pi, which nothing may be seen of after filtering."""
    y, x = np.meshgrid(np.arange(33) - 16.3, np.arange(30) - 14.4, indexing="ij")
    theta = np.arctan2(y, x)
    result = smooth_phase(np.exp(1j * theta)[None, None], (1.5, 1.5))[0, 0]
    difference = np.angle(result * np.exp(-1j * theta))
    assert np.abs(difference[np.hypot(y, x) > 6]).max() < 0.1


def test_black_pixels_stay_finite() -> None:
    obj = weak_object(np.random.default_rng(1), (1, 2, 8, 9))
    obj[0, 0, 3, 4] = 0
    obj[0, 1] = 0
    by_phase, by_amplitude = smooth_phase(obj, (1, 1)), smooth_absorption(obj, (1, 1))
    flipped = charge_flip(obj, **STRENGTH, fancy_sigma=((1, 1), (1, 1)))
    assert all(np.isfinite(result).all() for result in (by_phase, by_amplitude, flipped))
    assert by_phase[0, 0, 3, 4] == 0
    values = absorption(np.where(obj == 0, 1e-10, obj))
    np.testing.assert_allclose(
        absorption(by_amplitude[0, 0]), gaussian_filter(values[0, 0], 1, mode="nearest"), rtol=1e-12
    )


@pytest.mark.parametrize("sigma", [(1,), (1, 1, 1, 1), (1, -1), (1, np.nan)])
@pytest.mark.parametrize("smooth", [smooth_phase, smooth_absorption])
def test_wrong_widths(smooth: Callable, sigma: tuple[float, ...]) -> None:
    with pytest.raises(ParameterError, match="2 numbers >= 0"):
        smooth(np.ones((1, 1, 4, 4), complex), sigma)


# Charge flipping


def test_charge_flip_is_that_of_pypty() -> None:
    case = golden()
    result = charge_flip(case.in_obj_cf.transpose(3, 2, 0, 1), **STRENGTH)
    np.testing.assert_allclose(result.transpose(2, 3, 1, 0), case.out_charge_flip, rtol=0, atol=1e-14)


def test_charge_flip_with_four_different_numbers() -> None:
    obj = weak_object(np.random.default_rng(21), (2, 3, 7, 8)) ** np.arange(1, 4)[:, None, None]
    result = charge_flip(obj, delta_phase=0.3, delta_abs=0.6, beta_phase=-0.7, beta_abs=0.2)
    for one, flipped in zip(obj.reshape(6, 7, 8), result.reshape(6, 7, 8), strict=True):
        phase, loss = np.angle(one), absorption(one)
        phase[phase < 0.3 * phase.max()] *= -0.7
        loss[loss < 0.6 * loss.max()] *= 0.2
        np.testing.assert_allclose(flipped, np.exp(-loss + 1j * phase), atol=1e-8)


def test_charge_flip_without_blur_is_plain() -> None:
    obj = golden().in_obj_cf.transpose(3, 2, 0, 1)
    plain = charge_flip(obj, **STRENGTH)
    for fancy in ((None, None), ((0, 0), (0, 0)), (None, (0, 0))):
        assert relative(charge_flip(obj, **STRENGTH, fancy_sigma=fancy), plain) < 1e-12


def cosine(shape: tuple[int, int], k: int) -> np.ndarray:
    """A wave that a filter with mirrored edges only multiplies."""
    return np.cos(np.pi * k * (np.arange(shape[1]) + 0.5) / shape[1]) * np.ones((shape[0], 1))


@pytest.mark.parametrize("width", [0.7, 2.0, 9.0])
def test_sharpening_and_blurring_of_one_wave(width: float) -> None:
    """Gains as documented, for phase and absorption on their own, before and after the flip."""
    shape, k = (6, 20), 5
    gain = np.exp(-((np.pi * width * k / 40) ** 2))
    wiener = 1.01 * gain / (gain**2 + 0.01)
    phase = 0.4 + 0.05 * cosine(shape, k)
    loss = 0.3 + 0.02 * cosine(shape, k)
    obj = (np.exp(-loss + 1j * phase) - 1e-10 * np.exp(1j * phase))[None, None]
    nothing = {"delta_phase": -100.0, "delta_abs": -100.0, "beta_phase": 7.0, "beta_abs": 7.0}
    # no value lies below -100 times the maximum
    for widths, factor in (((width, 0), wiener), ((0, width), gain)):
        result = charge_flip(obj, **nothing, fancy_sigma=(widths, None))[0, 0]
        np.testing.assert_allclose(np.angle(result), 0.4 + 0.05 * factor * cosine(shape, k), atol=1e-12)
        np.testing.assert_allclose(absorption(result), loss, atol=1e-12)
        result = charge_flip(obj, **nothing, fancy_sigma=(None, widths))[0, 0]
        np.testing.assert_allclose(absorption(result), 0.3 + 0.02 * factor * cosine(shape, k), atol=1e-12)
        np.testing.assert_allclose(np.angle(result), phase, atol=1e-12)


def test_sharpening_comes_before_the_flip_and_blurring_after() -> None:
    obj = weak_object(np.random.default_rng(2), (1, 1, 14, 15)) ** 0.15  # sharpened phases below pi
    sharp = charge_flip(
        obj, delta_phase=-100, delta_abs=-100, beta_phase=1, beta_abs=1, fancy_sigma=((1.5, 0), (1.0, 0))
    )
    flipped = charge_flip(sharp, delta_phase=0.2, delta_abs=0.3, beta_phase=-0.9, beta_abs=-0.8)
    expected = charge_flip(
        flipped, delta_phase=-100, delta_abs=-100, beta_phase=1, beta_abs=1, fancy_sigma=((0, 0.8), (0, 1.2))
    )
    result = charge_flip(
        obj,
        delta_phase=0.2,
        delta_abs=0.3,
        beta_phase=-0.9,
        beta_abs=-0.8,
        fancy_sigma=((1.5, 0.8), (1.0, 1.2)),
    )
    np.testing.assert_allclose(result, expected, atol=1e-7)  # 1e-10 is added to |O| each time


def test_blur_is_the_gaussian_of_that_width() -> None:
    obj = weak_object(np.random.default_rng(3), (1, 1, 16, 19))
    r = np.arange(-8, 9)
    kernel = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / 2.0**2)
    expected = convolve(np.angle(obj[0, 0]), kernel / kernel.sum(), mode="reflect")
    result = charge_flip(
        obj, delta_phase=-100, delta_abs=-100, beta_phase=1, beta_abs=1, fancy_sigma=((0, 2.0), None)
    )[0, 0]
    np.testing.assert_allclose(np.angle(result), expected, atol=3e-4)


def test_vacuum() -> None:
    vacuum = vacuum_like(np.zeros((2, 3, 4, 5), np.complex64))
    assert vacuum.dtype == np.complex64
    np.testing.assert_array_equal(vacuum, np.ones((2, 3, 4, 5)))


# Orthogonal modes


def density(modes: np.ndarray) -> np.ndarray:
    rows = modes.reshape(len(modes), -1)
    return rows.T @ rows.conj()


def gram(modes: np.ndarray) -> np.ndarray:
    rows = modes.reshape(len(modes), -1)
    return rows @ rows.conj().T


def span(modes: np.ndarray) -> np.ndarray:
    """Projector on the space of the modes."""
    basis = np.linalg.qr(modes.reshape(len(modes), -1).T)[0]
    return basis @ basis.conj().T


def orthogonal_modes(probe: Any) -> Any:
    return rotated(probe, orthogonal_rotation(probe))


def test_orthogonal_modes_span_the_space_of_gram_schmidt() -> None:
    case = golden()
    modes, theirs = case.in_modes.transpose(2, 0, 1), case.out_orthogonal.transpose(2, 0, 1)
    ours = orthogonal_modes(modes)
    np.testing.assert_allclose(span(ours), span(theirs), atol=1e-10)
    assert np.vdot(theirs, theirs).real < 0.999 * np.vdot(ours, ours).real  # theirs lose power


@pytest.mark.parametrize(("scale", "rounding"), [(1.0, 1e-12), (1e-6, 1e-8)])
def test_orthogonal_modes_change_nothing_that_is_measured(scale: float, rounding: float) -> None:
    """``scale``: power of the weak modes far below the rounding of the strong one, which a rotation brings in."""
    rng = np.random.default_rng(4)
    probe = random_complex(rng, (4, 6, 7)) * np.array([1, scale, scale**2, 1])[:, None, None]
    result = orthogonal_modes(probe)
    assert relative(density(result), density(probe)) < 1e-14
    np.testing.assert_allclose((np.abs(result) ** 2).sum(0), (np.abs(probe) ** 2).sum(0), rtol=1e-12)
    products = gram(result)
    power = products.diagonal().real
    assert (np.diff(power) <= 0).all()
    overlap = np.abs(products - np.diag(power)) / np.sqrt(np.outer(power, power))
    assert overlap.max() < rounding
    assert are_orthogonal(result, 100 * rounding)
    assert not are_orthogonal(probe, 100 * rounding)


def test_subscans_are_independent() -> None:
    probe = random_complex(np.random.default_rng(5), (3, 2, 6, 7))
    result = orthogonal_modes(probe)
    for old, new in zip(probe, result, strict=True):
        np.testing.assert_array_equal(new, orthogonal_modes(old))
    assert are_orthogonal(result, 1e-10)
    for changed in range(3):
        mixed = result.copy()
        mixed[changed] = probe[changed]
        assert not are_orthogonal(mixed, 1e-10)


def test_modes_that_are_orthogonal_stay() -> None:
    ordered = orthogonal_modes(random_complex(np.random.default_rng(6), (4, 6, 7)))
    assert relative(orthogonal_modes(ordered), ordered) < 1e-13
    wrong_order = ordered[[1, 0, 2, 3]]
    assert not are_orthogonal(wrong_order, 1e-10)
    np.testing.assert_allclose(orthogonal_modes(wrong_order), ordered, atol=1e-12)
    one = random_complex(np.random.default_rng(7), (1, 6, 7))
    assert are_orthogonal(one, 1e-10)
    assert relative(orthogonal_modes(one), one) < 1e-14


def test_tolerance_is_relative_to_the_powers() -> None:
    probe = np.zeros((2, 4, 4), complex)
    probe[0, 0, 0], probe[1, 1, 1] = 1e3, 1e-3
    probe[1, 0, 0] = 1e-5  # overlap 0.01 of the weak mode
    assert are_orthogonal(probe, 0.011)
    assert not are_orthogonal(probe, 0.009)
    equal = np.zeros((2, 4, 4), complex)
    equal[0, 0, 0], equal[1, 1, 1] = 1, 1 + 0.005  # power larger by 0.01
    assert are_orthogonal(equal, 0.011)
    assert not are_orthogonal(equal, 0.009)
    assert are_orthogonal(np.zeros((2, 4, 4)), 1e-10)


def test_single_precision_is_recognised() -> None:
    probe = random_complex(np.random.default_rng(8), (5, 16, 16)).astype(np.complex64)
    result = orthogonal_modes(probe)
    assert result.dtype == np.complex64
    assert are_orthogonal(result, 2e-8)  # products in double precision


@settings(deadline=None)
@given(st.sampled_from([(), (1,), (3,)]), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 2**32 - 1))
def test_orthogonal_modes_of_any_shape(subscans: tuple[int, ...], shape: tuple[int, ...], seed: int) -> None:
    """More modes than pixels too."""
    probe = random_complex(np.random.default_rng(seed), (*subscans, *shape))
    stored = np.asfortranarray(probe)
    result = orthogonal_modes(stored)
    assert result.shape == probe.shape
    pairs = zip(result.reshape(-1, *shape), probe.reshape(-1, *shape), strict=True)
    assert all(relative(density(new), density(old)) < 1e-13 for new, old in pairs)


# A growing object


def moved_windows(rng: np.random.Generator, drift: tuple[float, float]) -> SimpleNamespace:
    """Windows of 6 x 8 px on an object of 20 x 24 px, moved by ``drift``."""
    crop_origins = np.stack([rng.integers(3, 12, 9), rng.integers(3, 14, 9)], axis=1)
    positions = crop_origins + np.array(drift) + rng.uniform(-0.3, 0.3, (9, 2))
    obj = random_complex(rng, (2, 3, 20, 24))
    return SimpleNamespace(obj=obj, positions=positions, crop_origins=crop_origins, window=(6, 8))


def check_resized(case: SimpleNamespace, result) -> None:
    """Windows inside, corners those of the positions, the object under every pixel the same."""
    padded, before = result.obj, result.before
    room = np.array(padded.shape[2:]) - case.window
    assert (result.crop_origins >= 0).all()
    assert (result.crop_origins <= room).all()
    assert np.abs(result.positions - result.crop_origins).max() <= 0.5
    np.testing.assert_array_equal(
        padded[:, :, before[0] : before[0] + 20, before[1] : before[1] + 24], case.obj
    )
    y = np.clip(np.arange(padded.shape[2]) - before[0], 0, 19)
    x = np.clip(np.arange(padded.shape[3]) - before[1], 0, 23)
    np.testing.assert_array_equal(padded, case.obj[:, :, y][:, :, :, x])
    np.testing.assert_array_equal(before, np.maximum(0, -np.round(case.positions).astype(int).min(axis=0)))
    assert result.changed_shape == (padded.shape != case.obj.shape)
    assert result.crop_origins.dtype == np.int64


@pytest.mark.parametrize("drift", [(-2.6, 0), (2.6, 0), (0, -3.6), (0, 3.6), (-2.6, 3.6), (1.7, -1.6)])
def test_every_window_has_room_again(drift: tuple[float, float]) -> None:
    rng = np.random.default_rng(9)
    case = moved_windows(rng, drift)
    case.crop_origins[0], case.crop_origins[1] = (0, 0), (14, 16)  # the object's first and last window
    case.positions[:2] = case.crop_origins[:2] + np.array(drift)
    result = resized(case.obj, case.positions, case.crop_origins, case.window, 1.0)
    assert result is not None
    check_resized(case, result)
    np.testing.assert_allclose(result.positions, case.positions + result.before, atol=1e-12)
    top, left = np.maximum(0, -np.round(np.array(drift))).astype(int)
    bottom, right = np.maximum(0, np.round(np.array(drift))).astype(int)
    assert result.obj.shape == (2, 3, 20 + top + bottom, 24 + left + right)
    assert result.changed_shape


def test_corners_may_change_without_growth() -> None:
    case = moved_windows(np.random.default_rng(10), (1.2, 0))
    result = resized(case.obj, case.positions, case.crop_origins, case.window, 1.0)
    assert result is not None
    assert not result.changed_shape
    np.testing.assert_array_equal(result.crop_origins, np.round(case.positions))
    np.testing.assert_array_equal(result.positions, case.positions)
    np.testing.assert_array_equal(result.obj, case.obj)


def test_nothing_happens_below_the_limit_or_without_need() -> None:
    case = moved_windows(np.random.default_rng(11), (0.0, 2.0))
    largest = np.abs(case.positions - case.crop_origins).max()
    arguments = (case.obj, case.positions, case.crop_origins, case.window)
    assert resized(*arguments, largest + 1e-9) is None
    assert resized(*arguments, largest) is not None
    whole = np.round(case.positions).astype(int)
    assert resized(case.obj, case.positions, whole, case.window, 0.1) is None
    assert resized(case.obj, case.positions, whole, case.window, 0.0) is None


def test_windows_outside_although_the_corners_are_right() -> None:
    """After the scan has been put together on purpose."""
    case = moved_windows(np.random.default_rng(12), (-6.0, 9.0))
    whole = np.round(case.positions).astype(int)
    assert (whole < 0).any()
    result = resized(case.obj, case.positions, whole, case.window, 0.0)
    assert result is not None
    check_resized(case, result)


def test_a_wild_correction_is_one_within_the_window() -> None:
    """The probe is shifted cyclically: a correction of whole windows is none."""
    case = moved_windows(np.random.default_rng(13), (0.0, 0.0))
    tame = case.positions.copy()
    tame[0] = case.crop_origins[0] + (-3.0, 3.25)  # -n/2 is in the range, n/2 is not
    case.positions[0] = case.crop_origins[0] + (3.0 + 6e6, 3.25 - 8e6)
    result = resized(case.obj, case.positions, case.crop_origins, case.window, 1.0)
    assert result is not None
    np.testing.assert_allclose(result.positions, tame + result.before, atol=1e-8)


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_resized_for_any_drift(dy: float, dx: float, limit: float, seed: int) -> None:
    case = moved_windows(np.random.default_rng(seed), (0.5 * dy, 0.7 * dx))
    result = resized(case.obj, case.positions, case.crop_origins, case.window, limit)
    outside = (np.round(case.positions) < 0).any() or (np.round(case.positions) > (14, 16)).any()
    changed = outside or (np.round(case.positions) != case.crop_origins).any()
    assert (result is not None) == (np.abs(case.positions - case.crop_origins).max() >= limit and changed)
    if result is not None:
        check_resized(case, result)


# A torn scan


def regular(size: tuple[int, int], bend: float = 0.0) -> np.ndarray:
    """A turned grid with 5 px steps; ``bend`` px: the middle column in front of the straight line."""
    row, column = np.indices(size)
    t = 2 * column / (size[1] - 1) - 1
    y = 5 * row - 0.4 * column + bend * (1 - t**2)
    x = 0.4 * row + 5 * column + bend * (1 - t**2) * row / size[0]
    return np.stack([y, x], axis=-1)


def cut(name: str, size: tuple[int, int]) -> np.ndarray:
    """Which piece a point belongs to."""
    row, column = np.indices(size)
    half, third = size[0] // 2, size[1] // 3
    return {
        "columns": column >= third,
        "rows": row >= half,
        "slanted": column + row // 2 >= size[1] // 2 + 4,
        "island": (abs(row - half) < size[0] // 4) & (abs(column - size[1] // 2) < size[1] // 4),
        "three": np.where(row < third, 0, np.where(column < size[1] // 2, 1, 2)),
        "four": 2 * (row >= half) + (column >= third),
    }[name].astype(int)


SHIFTS = np.array([(0, 0), (4.3, -2.6), (-3.2, -5.1), (6.1, 3.7)])


def torn(name: str, size: tuple[int, int], bend: float = 0.0) -> np.ndarray:
    return regular(size, bend) + SHIFTS[cut(name, size)]


def distance(positions: np.ndarray, expected: np.ndarray) -> float:
    """RMS in px, apart from a common shift."""
    difference = positions.reshape(-1, 2) - expected.reshape(-1, 2)
    return float(np.sqrt(((difference - difference.mean(axis=0)) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("size", [(18, 22), (40, 31)])
@pytest.mark.parametrize("name", ["columns", "rows", "slanted", "island", "three", "four"])
def test_a_torn_scan_is_put_together(name: str, size: tuple[int, int]) -> None:
    positions = torn(name, size).reshape(-1, 2)
    result = puzzle(positions, size)
    assert result is not None
    assert distance(positions, regular(size)) > 1
    assert distance(result.positions, regular(size)) < 1e-6
    np.testing.assert_allclose(result.positions, positions + result.shifts, atol=1e-12)
    still = cut(name, size).ravel() == np.argmax(np.bincount(cut(name, size).ravel()))
    assert np.count_nonzero((result.shifts == 0).all(axis=1)) > 0.6 * np.count_nonzero(still)
    assert puzzle(result.positions, size) is None


@pytest.mark.parametrize("name", ["columns", "slanted", "island", "three", "four"])
@pytest.mark.parametrize("bend", [0.0, 6.0])
def test_a_torn_scan_with_noise_and_a_bend(name: str, bend: float) -> None:
    size = (36, 40)
    noise = 0.05 * np.random.default_rng(14).standard_normal((*size, 2))
    result = puzzle((torn(name, size, bend) + noise).reshape(-1, 2), size)
    assert result is not None
    assert distance(result.positions, regular(size, bend)) < 0.1


@pytest.mark.parametrize("name", ["columns", "slanted", "island", "three", "four"])
def test_a_torn_scan_with_strong_noise(name: str) -> None:
    """Some points of the seams lie below the threshold, some others above; the noise itself remains."""
    size = (20, 24)
    for seed in range(5):
        noise = 0.15 * np.random.default_rng(seed).standard_normal((*size, 2))
        result = puzzle((torn(name, size) + noise).reshape(-1, 2), size)
        assert result is not None
        assert distance(result.positions, regular(size)) < 0.35


@pytest.mark.parametrize(("strength", "seeds"), [(0.2, range(30)), (0.25, (27, 58))])
def test_gaps_in_the_seams_are_closed(strength: float, seeds: range | tuple[int, ...]) -> None:
    """Noise so strong that points on both sides of a seam lie below the threshold here and there."""
    size = (20, 24)
    for seed in seeds:
        noise = strength * np.random.default_rng(seed).standard_normal((*size, 2))
        result = puzzle((torn("four", size) + noise).reshape(-1, 2), size)
        assert result is not None
        assert distance(result.positions, regular(size)) < 2.5 * strength


def test_names_of_pieces() -> None:
    """The largest is 1; a strip of one point is none; a seam that touches one piece only is none either."""
    picture = """
        aa..bbbb.
        aa..bb.b.
        aa.bbbbb.
        aa.bbb..c
        .......cc
        ccccccccc
        cc.cccccc
    """
    seams = np.array([[point == "." for point in row] for row in picture.split()])
    names = """
        330022220
        330022220
        330222220
        330222001
        000000011
        111111111
        111111111
    """
    np.testing.assert_array_equal(_pieces(seams), [[int(point) for point in row] for row in names.split()])
    strip = np.ones((5, 6), dtype=bool)
    strip[:, :2] = strip[1:, 5] = False
    np.testing.assert_array_equal(_pieces(strip), np.ones((5, 6)))  # the rest touches only piece 1


def test_pieces_of_one_column_hold_nothing_together() -> None:
    """Between their seams one column of each is left: its distance from the next is not known."""
    size = (12, 19)
    piece = (np.indices(size)[1] + 1) // 3
    positions = regular(size) + SHIFTS[piece % 2]
    assert puzzle(positions.reshape(-1, 2), size, score_limit=0.01) is None


def test_only_the_seam_is_interpolated() -> None:
    size = (36, 40)
    noise = 0.05 * np.random.default_rng(22).standard_normal((*size, 2))
    result = puzzle((torn("columns", size) + noise).reshape(-1, 2), size)
    assert result is not None
    shifts = result.shifts.reshape(*size, 2)
    assert len(np.unique(shifts.reshape(-1, 2), axis=0)) == 2 + 2 * 36
    seam = slice(12, 14)  # the last column of one piece and the first of the other
    assert (np.ptp(shifts[:, seam], axis=0) > 0).all()
    np.testing.assert_array_equal(np.ptp(np.delete(shifts, seam, axis=1), axis=0), 0)


def test_gentle_distortions_are_kept() -> None:
    """Beside a seam, columns that are out of line by less than a refinement could mend stay so."""
    size = (30, 36)
    expected = regular(size)
    expected[..., 1] += 0.6 * np.exp(-np.arange(36) / 2)
    result = puzzle((expected + SHIFTS[cut("rows", size)]).reshape(-1, 2), size)
    assert result is not None
    assert distance(result.positions, expected) < 0.002


def test_narrow_seams_beside_a_wide_one() -> None:
    """Otsu's threshold alone lies above them."""
    size = (30, 36)
    piece = cut("four", size)
    positions = regular(size) + np.array([(0, 0), (1.5, 0.5), (0.3, 20.0), (1.6, 20.8)])[piece]
    result = puzzle(positions.reshape(-1, 2), size)
    assert result is not None
    assert distance(result.positions, regular(size)) < 1e-6


def test_a_line_of_positions_can_be_torn() -> None:
    for size in ((1, 40), (40, 1), (2, 40)):
        positions = np.stack([np.linspace(0, 80, 80), np.linspace(0, 300, 80)], axis=1)
        line = positions[: size[0] * size[1]].reshape(*size, 2).copy()
        expected = line.copy()
        line[size[0] // 2 if size[1] == 1 else 0 :, size[1] // 2 if size[1] > 1 else 0 :] += (6, -3)
        result = puzzle(line.reshape(-1, 2), size)
        assert result is not None
        assert distance(result.positions, expected) < 1e-8


def test_a_stray_point_stays_where_it_is() -> None:
    """Refinement may know why; only a piece is moved, and it takes its stray points along."""
    size = (30, 36)
    positions = torn("columns", size)
    positions[20, 30] += (9, -7)
    result = puzzle(positions.reshape(-1, 2), size)
    assert result is not None
    shifts = result.shifts.reshape(*size, 2)
    np.testing.assert_allclose(shifts[20, 30], shifts[10, 25], atol=1e-10)
    lone = regular(size)
    lone[20, 30] += (9, -7)
    assert puzzle(lone.reshape(-1, 2), size) is None


INTACT = (
    "regular",
    "rounding",
    "noise",
    "row jitter",
    "parabola",
    "waves",
    "drift",
    "flyback",
    "step over several columns",
    "step in two",
    "kink",
    "bump",
    "small step",
    "step over several columns, stray points",
    "small step, stray point on it",
)


def intact(name: str) -> np.ndarray:
    """Grids (30, 40, 2) that are not torn, however bent they are."""
    rng = np.random.default_rng(15)
    row, column = np.indices((30, 40))
    grid = regular((30, 40))
    grid[..., 1] += {
        "regular": 0 * row,
        "rounding": 1e-9 * (rng.random((30, 40)) < 0.05),
        "noise": rng.standard_normal((30, 40)),
        "row jitter": rng.standard_normal((30, 1)) + 0 * row,
        "parabola": 0.05 * (column - 20) ** 2,
        "waves": 5 * np.sin(column / 4) + 3 * np.cos(row / 5),
        "drift": 9 * np.exp(-row / 3),
        "flyback": 9 * np.exp(-column / 2),
        "step over several columns": 9 * np.tanh((column - 20) / 1.5),
        "step in two": 9 * np.clip((column - 19) / 2, 0, 1),
        "kink": 3.0 * np.abs(column - 20),
        "bump": 12 * np.exp(-((row - 15) ** 2 + (column - 20) ** 2) / 18),
        "small step": 0.4 * (column > 20),
    }[name.split(",")[0]]
    if "stray points" in name:
        grid[4::7, [4, 10, 30, 36]] += (5, -6)
    if "stray point on" in name:
        grid[10, 20] += (0, 0.6)
    return grid


@pytest.mark.parametrize("name", INTACT)
def test_an_intact_scan_is_left_alone(name: str) -> None:
    assert puzzle(intact(name).reshape(-1, 2), (30, 40)) is None


def test_threshold_of_otsu() -> None:
    rng = np.random.default_rng(23)
    values = np.concatenate([rng.normal(0.3, 0.1, 700), rng.normal(0.8, 0.05, 90), rng.uniform(0, 1, 50)])

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(between(threshold) for threshold in np.sort(values)[:-1])
    assert between(_otsu(values)) > 0.999 * best
    assert 0 <= _otsu(np.array([0.0, 0, 0, 1])) < 1


def test_limits_of_the_puzzle() -> None:
    size = (30, 40)
    step = intact("small step").reshape(-1, 2)
    closer = puzzle(step, size, smallest_shift=0.3)
    assert closer is not None
    assert distance(closer.positions, regular(size)) < 1e-8
    gap = torn("columns", size).reshape(-1, 2)
    assert puzzle(gap, size, score_limit=18.9) is not None  # two columns of 40: 1/f - 1 = 19
    assert puzzle(gap, size, score_limit=19.1) is None
    tiny = regular(size) + 1e-9 * cut("columns", size)[..., None]
    assert puzzle(tiny.reshape(-1, 2), size, smallest_shift=0) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 3), (3, 1), (4, 3)])
def test_scans_that_are_too_small_to_be_torn(size: tuple[int, int]) -> None:
    positions = regular((4, 4))[: size[0], : size[1]].copy()
    positions[size[0] // 2 :] += 9
    assert puzzle(positions.reshape(-1, 2), size) is None


def test_scan_size_must_fit() -> None:
    with pytest.raises(ParameterError, match="there are 12 positions"):
        puzzle(np.zeros((12, 2)), (3, 5))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 0.2, 3.0]), st.integers(0, 2**32 - 1))
def test_puzzle_of_any_scan(rows: int, columns: int, noise: float, seed: int) -> None:
    """It never makes a grid rougher."""
    rng = np.random.default_rng(seed)
    grid = 5.0 * np.stack(np.indices((rows, columns)), axis=-1)
    grid[rng.integers(rows) :, rng.integers(columns) :] += rng.uniform(-9, 9, 2)
    grid += noise * rng.standard_normal(grid.shape)
    result = puzzle(grid.reshape(-1, 2), (rows, columns))
    if result is None:
        return
    assert result.positions.shape == result.shifts.shape == (rows * columns, 2)

    def roughness(positions: np.ndarray) -> float:
        positions = positions.reshape(rows, columns, 2)
        return sum(float((np.diff(positions, n=2, axis=axis) ** 2).sum()) for axis in range(2))

    assert roughness(result.positions) < roughness(grid)


# An object that follows its scan

WINDOW = (16, 20)


def halves() -> SimpleNamespace:
    """An object whose right half, and the positions there, lie 3 px lower and 6 px further right."""
    rng = np.random.default_rng(16)
    size = (8, 12)
    positions = 5.0 * np.stack(np.indices(size), axis=-1)
    right = np.indices(size)[1] >= 6
    obj = weak_object(rng, (2, 2, 60, 80))
    # Window centres are 10 px right of the positions: the columns 5 and 6 have theirs at 35 and 40.
    apart = np.ones_like(obj)
    apart[..., :38] = obj[..., :38]
    apart[..., 3:, 44:] = obj[..., :-3, 38:-6]
    away = positions + right[..., None] * np.array([3.0, 6.0])
    return SimpleNamespace(
        obj=obj, apart=apart, positions=positions.reshape(-1, 2), away=away.reshape(-1, 2), size=size
    )


def test_an_object_cut_in_two_is_put_together() -> None:
    case = halves()
    scan = puzzle(case.away, case.size)
    assert scan is not None
    assert distance(scan.positions, case.positions) < 1e-9
    result = warped(case.apart, case.away, case.positions, WINDOW)
    np.testing.assert_allclose(result[..., :-3, :-6], case.obj[..., :-3, :-6], atol=1e-12)
    # Beyond the object its edge is repeated.
    np.testing.assert_allclose(result[..., 10, -6:], case.apart[..., 13, -1:] * np.ones(6), atol=1e-12)


def test_the_object_moves_by_parts_of_a_pixel() -> None:
    obj = weak_object(np.random.default_rng(17), (1, 1, 20, 22))
    old = np.array([[2.0, 3.0]])
    result = warped(obj, old, old + (0.25, -0.5), (8, 8))[0, 0]
    real = obj[0, 0]

    def at(part: np.ndarray) -> np.ndarray:
        """Value at (y - 0.25, x + 0.5) by hand, inside."""
        mixed = 0.25 * part[:-1] + 0.75 * part[1:]
        return (mixed[:, :-1] + mixed[:, 1:]) / 2

    np.testing.assert_allclose(np.abs(result[1:, :-1]), at(np.abs(real)), atol=1e-12)
    np.testing.assert_allclose(np.angle(result[1:, :-1]), np.angle(at(real)), atol=1e-12)


def test_a_phase_object_stays_one() -> None:
    phase = np.random.default_rng(18).uniform(-3, 3, (1, 2, 15, 16))
    result = warped(np.exp(1j * phase), np.zeros((1, 2)), np.array([[0.4, 0.6]]), (8, 8))
    np.testing.assert_allclose(np.abs(result), 1, atol=1e-12)


def test_what_does_not_move_keeps_its_bits() -> None:
    case = halves()
    np.testing.assert_array_equal(warped(case.obj, case.away, case.away, WINDOW), case.obj)
    result = warped(case.apart, case.away, case.positions, WINDOW)
    np.testing.assert_array_equal(result[..., :38], case.apart[..., :38])


@settings(deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1))
def test_shape_and_precision_are_kept(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    obj = np.asfortranarray(weak_object(rng, shape)).astype(np.complex64)
    old = rng.uniform(-2, 9, (4, 2))
    for result in (
        smooth_phase(obj, (1, 0.5)),
        smooth_phase(3j * obj, (0.7, 1, 0.5)),
        smooth_absorption(obj, (0.7, 1, 0.5)),
        charge_flip(obj, **STRENGTH),
        charge_flip(obj, **STRENGTH, fancy_sigma=((1, 1), (2, 1))),
        warped(obj, old, old + rng.uniform(-3, 3, (4, 2)), (3, 4)),
        vacuum_like(obj),
    ):
        assert result.shape == shape
        assert result.dtype == np.complex64
        assert np.isfinite(result).all()


# What all of them have in common


def calls() -> dict[str, tuple[Callable, list[np.ndarray]]]:
    """Every function with the arrays it takes."""
    case = moved_windows(np.random.default_rng(19), (-2.0, 2.0))
    wrapped = np.exp(1j * np.cumsum(np.full((2, 3, 20, 24), 0.9), axis=-1)) * np.abs(case.obj)
    two = halves()
    return {
        "smooth_phase": (lambda obj: smooth_phase(obj, (1, 2)), [case.obj]),
        "smooth_phase, jumps": (lambda obj: smooth_phase(obj, (1, 1, 2)), [wrapped]),
        "smooth_absorption": (lambda obj: smooth_absorption(obj, (1, 1, 2)), [case.obj]),
        "charge_flip": (lambda obj: charge_flip(obj, **STRENGTH), [case.obj]),
        "charge_flip, fancy": (
            lambda obj: charge_flip(obj, **STRENGTH, fancy_sigma=((1, 1), (1, 1))),
            [case.obj],
        ),
        "vacuum_like": (vacuum_like, [case.obj]),
        "orthogonal_modes": (orthogonal_modes, [case.obj[0]]),
        "orthogonal_modes, subscans": (orthogonal_modes, [case.obj]),
        "resized": (
            lambda obj, positions, crop_origins: resized(obj, positions, crop_origins, case.window, 1),
            [case.obj, case.positions, case.crop_origins],
        ),
        "puzzle": (lambda positions: puzzle(positions, two.size), [two.away]),
        "warped": (
            lambda obj, old, new: warped(obj, old, new, WINDOW),
            [two.apart, two.away, two.positions],
        ),
    }


def arrays_of(result) -> dict[str, np.ndarray]:
    return vars(result) if hasattr(result, "__dataclass_fields__") else {"result": result}


@pytest.mark.parametrize("name", calls())
def test_arguments_are_not_changed(name: str) -> None:
    """Nor is a result a view of them."""
    function, arrays = calls()[name]
    for array in arrays:
        array.flags.writeable = False
    copies = [array.copy() for array in arrays]
    result = function(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        for value in arrays_of(result).values():
            assert not (isinstance(value, np.ndarray) and np.shares_memory(value, array))


@pytest.mark.parametrize("name", [name for name in calls() if name != "puzzle"])
def test_single_precision_is_computed_in_double(name: str) -> None:
    """A result in single precision is the rounded result in double precision."""
    function, (first, *others) = calls()[name]
    single = first.astype(np.complex64)
    result = arrays_of(function(single, *others))
    expected = arrays_of(function(single.astype(np.complex128), *others))
    key = "obj" if "obj" in expected else "result"
    assert result[key].dtype == np.complex64
    np.testing.assert_array_equal(result[key], expected[key].astype(np.complex64))


@pytest.mark.parametrize("name", calls())
def test_device_arrays_come_back_as_such(device: None, name: str) -> None:
    import cupy

    function, arrays = calls()[name]
    expected = arrays_of(function(*arrays))
    result = arrays_of(function(*(cupy.asarray(array) for array in arrays)))
    for key, value in expected.items():
        if key in ("before", "changed_shape"):  # of the host
            np.testing.assert_array_equal(result[key], value)
            continue
        assert isinstance(result[key], cupy.ndarray)
        assert result[key].dtype == value.dtype
        # sums and transforms are rounded in another order on a device
        np.testing.assert_allclose(result[key].get(), value, rtol=1e-12, atol=1e-12 * np.abs(value).max())


def test_are_orthogonal_takes_device_arrays(device: None) -> None:
    import cupy

    probe = random_complex(np.random.default_rng(20), (2, 5, 6))
    assert not are_orthogonal(cupy.asarray(probe), 1e-6)
    assert are_orthogonal(cupy.asarray(orthogonal_modes(probe)), 1e-6)
