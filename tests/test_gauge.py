"""What ptychography leaves undetermined is removed, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pypty.refits.gauge import Area, difference, flattened, phases, without_affine, without_ramp

SHAPE = (40, 36)
AREA = Area(slice(6, 34), slice(5, 30))


def specimen(slices: int = 2, strength: float = 1.0) -> np.ndarray:
    """(y, x, z, 1) smooth phases that pass pi."""
    rng = np.random.default_rng(3)
    phase = np.stack([gaussian_filter(rng.normal(size=SHAPE), 3) for _ in range(slices)], axis=2)
    return np.exp(1j * strength * 4 * phase / abs(phase).max())[..., None]


def moved(obj: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Shifted by a part of a pixel, by the first-order change that the removal is exact for."""
    slopes = [np.angle(np.roll(obj, -1, axis) * np.roll(obj, 1, axis).conj()) / 2 for axis in (0, 1)]
    return obj * np.exp(-1j * (shift[0] * slopes[0] + shift[1] * slopes[1]))


def test_constants_ramps_and_a_common_shift_are_removed() -> None:
    obj = specimen()
    y, x = np.indices(SHAPE)
    ramps = np.stack([0.3 + 0.002 * y - 0.003 * x, -0.2 + 0.001 * y + 0.002 * x], axis=2)[..., None]
    other = moved(obj, (0.05, -0.08)) * np.exp(1j * ramps) * 1.7  # a factor that the probe takes
    found = difference(other, obj, area=AREA)
    assert found.shape == (28, 25, 2)
    assert abs(found).max() < 1e-9
    assert abs(difference(other, obj, area=AREA, lowpass_px=1.5)).max() < 5e-3


def test_what_is_different_stays() -> None:
    """A change that is neither constant, nor a ramp, nor a shift, also of slices against each other."""
    obj, rng = specimen(), np.random.default_rng(4)
    change = gaussian_filter(rng.normal(size=(*SHAPE, 2)), (1, 1, 0))
    change *= 0.01 / change.std()
    found = difference(obj * np.exp(1j * change[..., None]), obj, area=AREA)
    wanted = np.stack([without_ramp(AREA.of(change)[..., z]) for z in range(2)], axis=2)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    # shifted in opposite directions, slices are not where they were
    apart = np.concatenate([moved(obj, (0.1, 0))[:, :, :1], moved(obj, (-0.1, 0))[:, :, 1:]], axis=2)
    assert (
        difference(apart, obj, area=AREA).std()
        > 0.5 * difference(apart[:, :, :1], obj[:, :, :1], area=AREA).std()
    )
    assert difference(apart, obj, area=AREA).std() > 0.005


def test_a_smoothed_difference_has_less_noise() -> None:
    obj, rng = specimen(1), np.random.default_rng(5)
    noisy = obj * np.exp(1j * rng.normal(0, 0.01, (*SHAPE, 1, 1)))
    smooth = difference(noisy, obj, area=AREA, lowpass_px=2.0).std()
    # white noise after a Gaussian of s pixels: sigma / (2 sqrt(pi) s)
    assert smooth == pytest.approx(0.01 / (2 * np.sqrt(np.pi) * 2), rel=0.25)


def test_phases_are_averaged_over_modes() -> None:
    obj = np.concatenate([specimen(1, 0.2), specimen(1, 0.1)], axis=3)
    np.testing.assert_allclose(phases(obj), np.angle(obj).mean(axis=3))


def test_positions_lose_their_affine_part() -> None:
    rng = np.random.default_rng(6)
    positions = rng.uniform(0, 50, (30, 2))
    noise = rng.normal(0, 0.1, positions.shape)
    affine = positions @ np.array([[0.02, -0.01], [0.03, 0.01]]) + [3.0, -2.0]
    np.testing.assert_allclose(without_affine(affine, positions), 0, atol=1e-10)
    np.testing.assert_allclose(
        without_affine(affine + noise, positions), without_affine(noise, positions), atol=1e-10
    )


@pytest.mark.parametrize(
    ("positions", "rows", "columns"),
    [
        ([[0, 0], [10, 6]], slice(8, 19), slice(8, 15)),
        ([[0, 3], [10, 3]], slice(8, 19), slice(7, 15)),  # a line: a quarter of a probe on both sides
        ([[2, 2]], slice(6, 14), slice(6, 14)),
    ],
)
def test_the_scanned_area_lies_between_the_centres(positions: list, rows: slice, columns: slice) -> None:
    assert Area.scanned(np.array(positions, float), (16, 16), (30, 24)) == Area(rows, columns)


@pytest.mark.parametrize("gauge", ["constant", "ramp", "modes"])
def test_phase_factors_do_not_depend_on_what_is_undetermined(gauge: str) -> None:
    """Also where the phase passes pi, at which the angle jumps."""
    obj = specimen(2, 0.5)
    y, x = np.indices(SHAPE)
    turned = {"constant": obj * np.exp(3j), "ramp": obj * np.exp(0.05j * y - 0.08j * x)[..., None, None],
              "modes": np.repeat(obj, 2, axis=3) * np.exp(2j)}[gauge]  # fmt: skip
    found, wanted = flattened(turned, AREA), flattened(obj, AREA)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    np.testing.assert_allclose(abs(found), 1)
    assert abs(np.angle(found.mean(axis=(0, 1)))).max() < 1e-9
