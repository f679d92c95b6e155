"""Parameters of regularisers, parametrisations and changes by hand: each has its documented effect.

Regularisers are compared with their formula by hand (docs/physics.md), changes by hand with what NumPy and SciPy give.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from parameter_registry import (
    EFFECTS,
    Desk,
    assert_refused,
    effect,
    frequency,
    names_in,
    spectrum,
    start,
)
from problems import N_PATTERNS, SCAN, SIDE, aperture_probe, scan_positions, small_params, smooth_object

import pypty
from pypty.experiment import Experiment

PIXEL = 0.4
"""Å, along both axes."""


def absorbing_object(n_slices: int = 1, seed: int = 5) -> np.ndarray:
    """(28, 28, slices, 1): phases and amplitudes that both vary smoothly."""
    return smooth_object(n_slices) * np.exp(np.angle(smooth_object(n_slices, seed)) - 0.5)


def penalty(name: str, weight: float = 0.3, **changes: Any) -> float:
    """The regulariser of a weight 1, after a look at how it is added to the loss."""
    given = {"skip_preprocessing": True, "obj": absorbing_object(), **changes}
    without, one, twice = (
        pypty.evaluate(small_params(**{**given, name: factor * weight})) for factor in (0, 1, 2)
    )
    assert without.regularizers == {}
    assert list(one.regularizers) == [name]
    value = one.regularizers[name]
    assert value > 1e-3 or value == 0, "not just rounding"
    assert one.loss - without.loss == pytest.approx(value, rel=1e-6)
    assert twice.regularizers[name] == pytest.approx(2 * value, rel=1e-12)
    weighted = pypty.evaluate(small_params(**{**given, name: weight, "loss_weight": 0.1}))
    assert weighted.loss == pytest.approx(0.1 * without.loss + value, rel=1e-10)
    return value / weight


# ------------------------------------------------------------------------------------------------ scan and tilts

JITTER = np.random.default_rng(0).uniform(-0.4, 0.4, (N_PATTERNS, 2))
POSITIONS: dict[str, Any] = {
    "positions": scan_positions() + 1 + JITTER,
    "update_probe_pos": True,
    "scan_size": SCAN,
}
TILTS: dict[str, Any] = {
    "tilts": np.random.default_rng(1).normal(0, 1e-2, (N_PATTERNS, 6)),
    "update_tilts": True,
    "scan_size": SCAN,
}


def bend(lines: np.ndarray) -> float:
    """Sum of squared second differences along the first axis."""
    return float((np.diff(lines, n=2, axis=0) ** 2).sum())


def along_fast(values: np.ndarray, scan: tuple[int, int] = SCAN) -> float:
    return bend(values.reshape(*scan, -1).swapaxes(0, 1))


def along_slow(values: np.ndarray) -> float:
    return bend(values.reshape(*SCAN, -1).sum(axis=1))


def off_grid(values: np.ndarray) -> float:
    """Squared distance from the best affine function of row and column."""
    row, column = np.divmod(np.arange(N_PATTERNS), SCAN[1])
    affine = np.stack([row, column, np.ones(N_PATTERNS)], axis=1)
    return float(np.linalg.lstsq(affine, values, rcond=None)[1].sum())


@effect("scan_size", bad=(5, 6))
def _(desk: Desk) -> None:
    """(slow, fast): it says which positions are neighbours."""
    for scan in (SCAN, (1, N_PATTERNS), (N_PATTERNS, 1)):
        found = penalty("fast_axis_reg_weight_positions", **{**POSITIONS, "scan_size": scan})
        assert found == pytest.approx(along_fast(POSITIONS["positions"], scan), rel=1e-10)


def _image(**changes: Any) -> np.ndarray:
    """Total counts of the scan as direct methods see it."""
    experiment = Experiment.from_params(small_params(scan_size=SCAN, **changes))
    return experiment.on_raster(small_params(**changes)["dataset"].sum(axis=(1, 2)), 0.0)


@effect("scan_order", bad="zigzag")
def _(desk: Desk) -> None:
    """It says where on the raster each pattern is; what needs neighbours in a run is refused."""
    np.testing.assert_array_equal(_image(scan_order="columns"), _image().T)
    np.testing.assert_array_equal(_image(scan_order="snake")[1], _image()[1, ::-1])
    for beside in (
        {"fast_axis_reg_weight_positions": 0.1, **POSITIONS},
        {"indices_mode": "center", "scan_size": SCAN},
    ):
        report = pypty.check(small_params(**{**beside, "scan_order": "snake"}))
        assert any("stored row by row" in problem for problem in report.problems), report


@effect(
    "missing_patterns",
    bad=[25],
    beside={"scan_size": SCAN},
    message="missing_patterns names points from 25 to 25",
)
def _(desk: Desk) -> None:
    short = {name: small_params()[name][2:] for name in ("dataset", "positions")}
    image = _image(**short, missing_patterns=[0, 1])
    assert (image.ravel()[:2] == 0).all() and (image.ravel()[2:] == _image().ravel()[2:]).all()
    assert pypty.check(small_params(**short, scan_size=SCAN, missing_patterns=[0, 1]))
    assert not pypty.check(small_params(**short, scan_size=SCAN))


@effect("fast_axis_reg_weight_positions", bad=0.1)
def _(desk: Desk) -> None:
    found = penalty("fast_axis_reg_weight_positions", **POSITIONS)
    assert found == pytest.approx(along_fast(JITTER), rel=1e-10), "a regular grid costs nothing"


@effect("slow_axis_reg_weight_positions", bad=lambda epoch: 0.1 * epoch)
def _(desk: Desk) -> None:
    assert penalty("slow_axis_reg_weight_positions", **POSITIONS) == pytest.approx(
        along_slow(JITTER), rel=1e-10
    )


@effect("deformation_reg_weight_positions", bad=-0.1, beside={"scan_size": SCAN})
def _(desk: Desk) -> None:
    found = penalty("deformation_reg_weight_positions", **POSITIONS)
    assert found == pytest.approx(off_grid(JITTER), rel=1e-10), (
        "neither a regular grid nor an affine map of it costs"
    )


@effect("fast_axis_reg_weight_tilts", bad=0.1)
def _(desk: Desk) -> None:
    found = penalty("fast_axis_reg_weight_tilts", weight=1e4, **TILTS)
    assert found == pytest.approx(along_fast(TILTS["tilts"]), rel=1e-10)


@effect("slow_axis_reg_weight_tilts", bad=np.inf, beside={"scan_size": SCAN})
def _(desk: Desk) -> None:
    found = penalty("slow_axis_reg_weight_tilts", weight=1e4, **TILTS)
    assert found == pytest.approx(along_slow(TILTS["tilts"]), rel=1e-10)


@effect("deformation_reg_weight_tilts", bad="many", beside={"scan_size": SCAN})
def _(desk: Desk) -> None:
    found = penalty("deformation_reg_weight_tilts", weight=1e4, **TILTS)
    assert found == pytest.approx(off_grid(TILTS["tilts"]), rel=1e-10)


@effect("positions_parametrization", bad="rigid")
def _(desk: Desk) -> None:
    """All positions by one affine map: what is left beside the best one is nothing."""
    given = {"obj": smooth_object(), "probe": aperture_probe(1.0), "update_obj": False, "update_probe": False}
    given |= {"positions": 1.02 * scan_positions() + 0.3 * JITTER, "update_probe_pos": True, "epoch_max": 4}
    left = {}
    for word in ("affine", "free"):
        result = pypty.run(small_params(**given, positions_parametrization=word))
        moved = result.positions - result.start_positions
        affine = np.c_[result.start_positions, np.ones(N_PATTERNS)]
        residual = moved - affine @ np.linalg.lstsq(affine, moved, rcond=None)[0]
        assert np.abs(moved).max() > 0.05
        assert result.loss[-1] < 0.9 * result.loss[0]
        left[word] = np.abs(residual).max()
    assert left["affine"] < 1e-12 and left["free"] > 0.02


@effect("puzzle_positions", bad=True)
def _(desk: Desk) -> None:
    """A line of 25 points, the last ten of which are six pixels off, is a line again."""
    line = np.stack([np.zeros(N_PATTERNS), np.arange(N_PATTERNS)], axis=1)
    torn = line + np.where(np.arange(N_PATTERNS)[:, None] >= 15, [[0, 6.0]], 0)
    given = {"positions": torn, "scan_size": (1, N_PATTERNS), "epoch_max": 1}
    apart, together = (pypty.run(small_params(**given, puzzle_positions=on)) for on in (False, True))
    assert np.array_equal(apart.positions, torn)
    assert np.abs(together.positions - line).max() < 1e-10


@effect("dynamically_resize_yx_object", bad=-1.0)
def _(desk: Desk) -> None:
    """Windows that are 3.2 px away from their positions, with a limit below and above; the object grows by 3 rows."""
    given = {
        "positions_correction": np.full((N_PATTERNS, 2), [3.2, 0]),
        "skip_preprocessing": True,
        "epoch_max": 1,
    }
    for limit, n_rows in ((0, 24), (3.5, 24), (3.0, 27)):
        result = pypty.run(small_params(**given, dynamically_resize_yx_object=limit))
        assert result.obj.shape == (n_rows, 24, 1, 1)
        assert np.allclose(result.positions, scan_positions() + [3.2, 0])


@effect("reset_positions", bad="yes")
def _(desk: Desk) -> None:
    given = {
        "obj": smooth_object(),
        "update_probe_pos": "epoch == 0",
        "update_obj": False,
        "update_probe": False,
    }
    kept, reset = (
        pypty.run(small_params(**given, epoch_max=2, reset_positions=when)).positions
        for when in (False, "epoch == 1")
    )
    assert np.abs(kept - scan_positions()).max() > 1e-3
    assert np.array_equal(reset, scan_positions())


# -------------------------------------------------------------------------------------------------------- object


@effect("phase_norm_weight", bad=-1)
def _(desk: Desk) -> None:
    assert penalty("phase_norm_weight") == pytest.approx(
        np.abs(np.angle(absorbing_object())).sum(), rel=1e-10
    )


@effect("abs_norm_weight", bad=np.nan)
def _(desk: Desk) -> None:
    expected = np.abs(np.log(np.abs(absorbing_object()))).sum()
    assert penalty("abs_norm_weight") == pytest.approx(expected, rel=1e-10)


def variation(p: float, q: float) -> float:
    """sum (|dx|^p + |dy|^p)^(q/p) with periodic differences."""
    plane = absorbing_object()[..., 0, 0]
    steps = [np.abs(np.roll(plane, 1, axis) - plane) ** p for axis in (0, 1)]
    return float(((steps[0] + steps[1]) ** (q / p)).sum())


@effect("atv_weight", bad=lambda epoch: epoch - 1)
def _(desk: Desk) -> None:
    assert penalty("atv_weight") == pytest.approx(variation(2, 1), rel=1e-6)


@effect("atv_q", bad=0)
def _(desk: Desk) -> None:
    assert penalty("atv_weight", atv_q=1.5) == pytest.approx(variation(2, 1.5), rel=1e-6)


@effect("atv_p", bad=0.5)
def _(desk: Desk) -> None:
    assert penalty("atv_weight", atv_p=1.0) == pytest.approx(variation(1, 1), rel=1e-6)


def two_modes() -> np.ndarray:
    """(28, 28, 1, 2) object of two different modes."""
    return np.concatenate([absorbing_object(), 0.3 * smooth_object(seed=8)], axis=3)


def mode_variance(sigma: float) -> float:
    """sum over modes of |blurred mode - their mean|^2 / number of modes, for the low-pass exp(-f^2/sigma^2)."""
    obj = two_modes()[..., 0, :]
    low_pass = np.exp(-(frequency(obj.shape) ** 2) / sigma**2)[..., None]
    blurred = np.fft.ifft2(low_pass * np.fft.fft2(obj, axes=(0, 1)), axes=(0, 1))
    return float((np.abs(blurred - blurred.mean(axis=2, keepdims=True)) ** 2).sum() / 2)


@effect("mixed_variance_weight", bad="np.nan")
def _(desk: Desk) -> None:
    assert penalty("mixed_variance_weight", obj=two_modes()) == pytest.approx(mode_variance(0.5), rel=1e-10)


@effect("mixed_variance_sigma", bad=0)
def _(desk: Desk) -> None:
    found = penalty("mixed_variance_weight", obj=two_modes(), mixed_variance_sigma=0.05)
    assert found == pytest.approx(mode_variance(0.05), rel=1e-10)


def wedge(beta: float, distance: float) -> float:
    """sum |F3 O|^2 (2/pi) arctan(beta^2 qz^2/qr^2)."""
    obj = absorbing_object(3)[..., 0]
    qy, qx, qz = (
        np.fft.fftfreq(n, size) for n, size in zip(obj.shape, (PIXEL, PIXEL, distance), strict=True)
    )
    radial = qy[:, None, None] ** 2 + qx[:, None] ** 2
    radial[0, 0] = 1
    weight = 2 / np.pi * np.arctan(beta**2 * qz**2 / radial)
    return float((weight * np.abs(np.fft.fftn(obj)) ** 2).sum())


@effect("wedge_mu", bad=[0.1])
def _(desk: Desk) -> None:
    for distance in (10.0, 4.0):
        given = {"obj": absorbing_object(3), "slice_distances": [distance], "beta_wedge": 1.0}
        assert penalty("wedge_mu", **given) == pytest.approx(wedge(1.0, distance), rel=1e-8)


@effect("beta_wedge", bad=-0.5)
def _(desk: Desk) -> None:
    for beta in (0.0, 0.5, 3.0):
        given = {"obj": absorbing_object(3), "beta_wedge": beta}
        assert penalty("wedge_mu", **given) == pytest.approx(wedge(beta, 10.0), rel=1e-8, abs=1e-12)


@effect("phase_only_obj", bad="phase")
def _(desk: Desk) -> None:
    free, phases = (
        pypty.run(small_params(obj=absorbing_object(), phase_only_obj=on)).obj for on in (False, True)
    )
    first = start(obj=absorbing_object()).obj
    assert np.allclose(np.abs(phases), np.abs(first), rtol=1e-12)
    assert np.abs(np.angle(phases / first)).max() > 0.05
    assert np.abs(np.abs(free) - np.abs(first)).max() > 0.01


@effect("obj_parametrization", bad="polar")
def _(desk: Desk) -> None:
    """What is refined stays band-limited: the complex object, or its amplitude and its phase."""
    outside = frequency((24, 24)) > 2 / 3 * 0.5

    def leak(image: np.ndarray) -> float:
        power = spectrum(image)
        return float(power[outside].max() / power.max())

    cartesian, polar = (
        pypty.run(small_params(obj_parametrization=word)).obj[..., 0, 0]
        for word in ("complex", "amplitude_phase")
    )
    assert leak(cartesian) < 1e-20 < 1e-9 < leak(np.abs(cartesian))
    assert max(leak(np.abs(polar)), leak(np.angle(polar))) < 1e-20 < 1e-9 < leak(polar)
    assert np.abs(np.abs(polar) - 1).max() > 0.01 and np.abs(np.angle(polar)).max() > 0.1


STILL: dict[str, Any] = {
    "update_obj": False,
    "update_probe": False,
    "skip_preprocessing": True,
    "lazy_clean": True,
    "epoch_max": 1,
}
"""Nothing is refined or band-limited: what changes was changed by hand."""


@effect("restart_from_vacuum", bad=2)
def _(desk: Desk) -> None:
    found = [
        pypty.run(small_params(**STILL, obj=smooth_object(), restart_from_vacuum=on)).obj for on in (0, 1)
    ]
    assert np.array_equal(found[0], smooth_object())
    assert np.array_equal(found[1], np.ones_like(smooth_object()))


def flipped(**changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """Phase and absorption after a charge flip."""
    obj = pypty.run(small_params(**STILL, obj=absorbing_object(), do_charge_flip=True, **changes)).obj
    return np.angle(obj), -np.log(np.abs(obj))


def flip(values: np.ndarray, delta: float, beta: float) -> np.ndarray:
    return np.where(values < delta * values.max(), beta * values, values)


PHASE, ABSORPTION = np.angle(absorbing_object()), -np.log(np.abs(absorbing_object()))


@effect("do_charge_flip", bad=None)
def _(desk: Desk) -> None:
    phase, absorption = flipped()
    assert np.allclose(phase, flip(PHASE, 0.1, -0.95), atol=1e-12)
    assert np.allclose(absorption, flip(ABSORPTION, 0.01, -0.95), atol=1e-8)
    untouched = pypty.run(small_params(**STILL, obj=absorbing_object(), do_charge_flip="epoch > 0")).obj
    assert np.array_equal(untouched, absorbing_object())


@effect("cf_delta_phase", bad=-0.1)
def _(desk: Desk) -> None:
    for delta in (0.0, 0.5):
        phase, absorption = flipped(cf_delta_phase=delta)
        assert np.allclose(phase, flip(PHASE, delta, -0.95), atol=1e-12)
        assert np.allclose(absorption, flip(ABSORPTION, 0.01, -0.95), atol=1e-8)


@effect("cf_delta_abs", bad=np.inf)
def _(desk: Desk) -> None:
    for delta in (0.0, 0.5):
        phase, absorption = flipped(cf_delta_abs=delta)
        assert np.allclose(phase, flip(PHASE, 0.1, -0.95), atol=1e-12)
        assert np.allclose(absorption, flip(ABSORPTION, delta, -0.95), atol=1e-8)


@effect("cf_beta_phase", bad="flip")
def _(desk: Desk) -> None:
    for beta in (-0.3, 0.0):
        assert np.allclose(flipped(cf_beta_phase=beta)[0], flip(PHASE, 0.1, beta), atol=1e-12)


@effect("cf_beta_abs", bad=[1.0, 2.0])
def _(desk: Desk) -> None:
    for beta in (-0.3, 0.0):
        found = flipped(cf_beta_abs=beta, cf_delta_abs=0.5)[1]
        assert np.allclose(found, flip(ABSORPTION, 0.5, beta), atol=1e-8)


@effect("fancy_sigma", bad=((1.0, 2.0, 3.0), None))
def _(desk: Desk) -> None:
    """A blur exp(-r^2/s^2) after the flip, of the phase or of the absorption; and a sharpening before, which the same
    blur takes back where nothing is flipped and there is no noise."""
    width = 4.0
    for which in (0, 1):
        pair = [None, None]
        pair[which] = (1e-6, width)
        maps = flipped(fancy_sigma=tuple(pair))
        for k, values in enumerate((flip(PHASE, 0.1, -0.95), flip(ABSORPTION, 0.01, -0.95))):
            if k == which:
                sigma = (width / math.sqrt(2), width / math.sqrt(2), 0, 0)
                values = scipy.ndimage.gaussian_filter(values, sigma, mode="reflect", truncate=9)
            assert np.allclose(maps[k], values, atol=1e-6)
    kept = {"cf_beta_phase": 1.0, "cf_beta_abs": 1.0}
    sharpened, sharpened_and_blurred = (
        flipped(**kept, fancy_sigma=((2.0, width), None))[0] for width in (1e-6, 2.0)
    )
    assert np.ptp(sharpened) > 1.2 * np.ptp(PHASE)
    assert np.abs(sharpened_and_blurred - PHASE).max() < 0.1 * np.ptp(PHASE)


FILTERS: tuple[tuple[Any, tuple[float, ...]], ...] = (
    ((1.0, 2.0), (1, 2, 0, 0)),
    ((0.7, 1.0, 2.0), (1, 2, 0.7, 0)),
    (True, (1, 1, 1, 0)),
    (0.7, (0.7, 0.7, 0.7, 0)),
)
"""Values of the filters, and the standard deviations along y, x, z and the modes."""


@effect("apply_gaussian_filter", bad=[-1.0, 1.0])
def _(desk: Desk) -> None:
    """After the update, on each slice alone or along z too; one number is that of all axes; the amplitude stays."""
    given = {"lazy_clean": True, "epoch_max": 1, "obj": absorbing_object(2), "skip_preprocessing": True}
    before = pypty.run(small_params(**given)).obj
    for value, sigma in (
        ((1.0, 2.0), (1, 2, 0, 0)),
        ((0.7, 1.0, 2.0), (1, 2, 0.7, 0)),
        (True, (1, 1, 1, 0)),
        (0.7, (0.7, 0.7, 0.7, 0)),
    ):
        found = pypty.run(small_params(**given, apply_gaussian_filter=value)).obj
        expected = scipy.ndimage.gaussian_filter(np.angle(before), sigma, mode="nearest")
        assert np.allclose(np.angle(found), expected, atol=1e-10)
        assert np.allclose(np.abs(found), np.abs(before), rtol=1e-10)


@effect("apply_gaussian_filter_amplitude", bad=[1.0])
def _(desk: Desk) -> None:
    given = {"lazy_clean": True, "epoch_max": 1, "obj": absorbing_object(2), "skip_preprocessing": True}
    before = pypty.run(small_params(**given)).obj
    for value, sigma in (
        ((1.0, 2.0), (1, 2, 0, 0)),
        ((0.7, 1.0, 2.0), (1, 2, 0.7, 0)),
        (True, (1, 1, 1, 0)),
        (0.7, (0.7, 0.7, 0.7, 0)),
    ):
        found = pypty.run(small_params(**given, apply_gaussian_filter_amplitude=value)).obj
        expected = scipy.ndimage.gaussian_filter(np.log(np.abs(before)), sigma, mode="nearest")
        assert np.allclose(np.log(np.abs(found)), expected, atol=1e-10)
        assert np.allclose(np.angle(found), np.angle(before), atol=1e-10)


# --------------------------------------------------------------------------------------------------------- probe


def probe_spectrum() -> np.ndarray:
    """(16, 16) amplitude of the probe's spectrum, zero frequency first."""
    return np.sqrt(spectrum(aperture_probe(0.7)[..., 0]))


@effect("probe_reg_constraint_weight", bad=0.1)
def _(desk: Desk) -> None:
    """The power outside the aperture; inf leaves nothing there."""
    outside = frequency((SIDE, SIDE)) > 0.5 * 0.4
    found = penalty("probe_reg_constraint_weight", probe_constraint_mask=0.4)
    assert found == pytest.approx((probe_spectrum()[outside] ** 2).sum(), rel=1e-10)
    left = {}
    for weight in (0, 100.0, np.inf):
        result = pypty.run(small_params(probe_reg_constraint_weight=weight, probe_constraint_mask=0.4))
        power = spectrum(result.probe[..., 0])
        left[weight] = power[outside].sum() / power.sum()
    assert left[np.inf] < 1e-25 < left[100.0] < 0.6 * left[0]


@effect("probe_constraint_mask", bad=np.ones((SIDE, SIDE - 2)))
def _(desk: Desk) -> None:
    """An array, zero frequency at n//2; a radius; or else ``aperture_mask``."""
    array = np.zeros((SIDE, SIDE))
    array[6:10, 7:12] = 1
    expected = (probe_spectrum()[np.fft.ifftshift(array) == 0] ** 2).sum()
    for name in ("probe_constraint_mask", "aperture_mask"):
        found = penalty("probe_reg_constraint_weight", **{name: array})
        assert found == pytest.approx(expected, rel=1e-10)
    disk = np.fft.fftshift(frequency((SIDE, SIDE)) <= 0.15)
    numbers = [penalty("probe_reg_constraint_weight", probe_constraint_mask=mask) for mask in (0.3, disk)]
    assert numbers[0] == numbers[1]
    both = penalty("probe_reg_constraint_weight", probe_constraint_mask=array, aperture_mask=0.3)
    assert both == pytest.approx(expected, rel=1e-10)


def window_penalty(inner: float, outer: float) -> float:
    """Power of the probe, counted from the inner radius on, fully from the outer one on."""
    r = (np.arange(SIDE) - SIDE // 2) / (SIDE / 2)
    part = np.clip((np.hypot(r[:, None], r[None, :]) - inner) / (outer - inner), 0, 1)
    return float((0.5 * (1 - np.cos(np.pi * part)) * np.abs(aperture_probe(0.7)[..., 0]) ** 2).sum())


@effect("window_weight", bad=0.1)
def _(desk: Desk) -> None:
    assert penalty("window_weight", window=[0.4, 0.8]) == pytest.approx(window_penalty(0.4, 0.8), rel=1e-10)


@effect("window", bad=[0.8, 0.4])
def _(desk: Desk) -> None:
    assert penalty("window_weight", window=[0.1, 1.2]) == pytest.approx(window_penalty(0.1, 1.2), rel=1e-10)
    sharp = penalty("window_weight", window=[0.5, 0.5])
    assert sharp == pytest.approx(window_penalty(0.5, 0.5 + 1e-9), rel=1e-10)


def modulation(step: float, tolerance: float, cutoff: float = 2 / 3) -> float:
    """Squared curvature of |F P| near the points of the scan's reciprocal lattice, each looked at by itself."""
    amplitude = probe_spectrum()
    curvature = sum(np.roll(amplitude, k, axis) for axis in (0, 1) for k in (1, -1)) - 4 * amplitude
    q = np.fft.fftfreq(SIDE, PIXEL) * step
    last = math.ceil(0.5 * step / PIXEL)
    near = np.zeros((SIDE, SIDE), bool)
    for h in range(-last, last + 1):
        for k in range(-last, last + 1):
            if h**2 + k**2 <= (cutoff * last) ** 2:
                near |= np.hypot(q[:, None] - k, q[None, :] - h) <= tolerance
    return float((curvature[near] ** 2).sum())


@effect("probe_mod_reg_weight", bad=-0.1)
def _(desk: Desk) -> None:
    found = penalty("probe_mod_reg_weight", scan_step_A=1.4, probe_mod_tol=0.2)
    assert found == pytest.approx(modulation(1.4, 0.2), rel=1e-10)


@effect("probe_mod_tol", bad=0)
def _(desk: Desk) -> None:
    for tolerance in (0.3, 0.9):
        found = penalty("probe_mod_reg_weight", scan_step_A=2.0, probe_mod_tol=tolerance)
        assert found == pytest.approx(modulation(2.0, tolerance), rel=1e-10)


@effect("scan_step_A", bad=0)
def _(desk: Desk) -> None:
    wide = {"scan_step_A": 4.0, "probe_mod_tol": 0.3}
    found = penalty("probe_mod_reg_weight", **wide, damping_cutoff_multislice=0.5)
    assert found == pytest.approx(modulation(4.0, 0.3, 0.5), rel=1e-10), "no points beyond the band limit"
    assert 0 < found < 0.9 * modulation(4.0, 0.3)
    values = [modulation(step, 0.3) for step in (1.0, 1.7)]
    assert abs(values[0] / values[1] - 1) > 0.1
    for step, expected in zip((1.0, 1.7), values, strict=True):
        found = penalty("probe_mod_reg_weight", scan_step_A=step, probe_mod_tol=0.3)
        assert found == pytest.approx(expected, rel=1e-10)


def spectra(**changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The probe's spectrum at the start, where it is lit, and after three epochs."""
    first, last = (np.fft.fft2(pypty.run(small_params(epoch_max=n, **changes)).probe[..., 0]) for n in (0, 3))
    lit = np.abs(first) > 1e-3 * np.abs(first).max()
    return first[lit], last[lit]


@effect("tune_only_probe_phase", bad="on")
def _(desk: Desk) -> None:
    first, last = spectra(tune_only_probe_phase=True)
    assert np.allclose(np.abs(last), np.abs(first), rtol=1e-10)
    assert np.abs(np.angle(last / first)).max() > 0.01


@effect("tune_only_probe_abs", bad=True, beside={"tune_only_probe_phase": True})
def _(desk: Desk) -> None:
    first, last = spectra(tune_only_probe_abs=True)
    assert np.abs(np.angle(last / first)).max() < 1e-10
    assert np.abs(np.abs(last / first) - 1).max() > 0.05


@effect("keep_probe_states_orthogonal", bad=3)
def _(desk: Desk) -> None:
    """Orthogonal, the strongest first; patterns and power stay."""
    given = {"probe": np.concatenate([0.3 * aperture_probe(2.0), aperture_probe(0.7)], axis=2), **STILL}
    before, after = (
        pypty.run(small_params(**given, keep_probe_states_orthogonal=on)) for on in (False, True)
    )
    overlaps = [np.abs(np.einsum("yxi,yxj->ij", r.probe.conj(), r.probe)) for r in (before, after)]
    assert overlaps[0][0, 1] > 0.1 * overlaps[0][0, 0]
    assert overlaps[1][0, 1] < 1e-12 * overlaps[1][1, 1]
    assert overlaps[1][0, 0] > overlaps[0][1, 1] > overlaps[1][1, 1]
    assert np.trace(overlaps[0]) == pytest.approx(np.trace(overlaps[1]), rel=1e-12)
    assert after.loss[-1] == pytest.approx(before.loss[0], rel=1e-12)


# ------------------------------------------------------------------------------------------------------ optimiser


@effect("freeze_stuck_blocks", bad="positions")
def _(desk: Desk) -> None:
    """All steps are too long. After two rejected updates the probe is frozen for ten epochs; or the run ends."""
    stuck = {"update_step_bfgs": 1e6, "min_step": 1e5, "epoch_max": 30}
    on, off = (pypty.run(small_params(**stuck, freeze_stuck_blocks=value)) for value in (True, False))
    assert len(off.epochs) == 2 and off.decisions == ()
    assert len(on.epochs) == 3
    assert len(on.decisions) == 1 and "'probe' is frozen until epoch 12" in on.decisions[0]
    goes_on = {**stuck, "update_step_bfgs": "1e6 if epoch < 2 else 1", "epoch_max": 14}
    again = pypty.run(small_params(**goes_on))
    assert "epoch 12: block 'probe' is refined again" in again.decisions
    until_then = pypty.run(small_params(**{**goes_on, "epoch_max": 12}))
    assert np.array_equal(until_then.probe, start().probe)
    assert not np.array_equal(again.probe, until_then.probe)


# --------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", names_in(__name__))
def test_it_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    EFFECTS[name].test(Desk(tmp_path, monkeypatch, capfd))


@pytest.mark.parametrize("name", names_in(__name__))
def test_a_bad_value_is_refused_by_name(name: str) -> None:
    assert_refused(name)
