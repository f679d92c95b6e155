"""The unknowns before the first epoch: object, probe and where their windows lie."""

from __future__ import annotations

import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, aperture_probe, patterns, scan_positions, small_params, smooth_object

import pypty


@pytest.mark.parametrize("tilts", [{}, {"tilts": np.full((1, 6), 1e-9), "tilt_mode": 2}])
def test_the_starting_probe_has_no_background(tilts: dict) -> None:
    """Of data with a background of 25 counts in each pixel, and twice the beam."""
    background = {
        "static_background": np.full((SIDE, SIDE), 5.0),
        "beam_current": np.full(N_PATTERNS, np.sqrt(2.0)),
    }
    plain = pypty.run(small_params(probe=None, epoch_max=0)).probe
    found = pypty.run(
        small_params(probe=None, epoch_max=0, dataset=2 * patterns() + 25, **background, **tilts)
    ).probe
    np.testing.assert_allclose(found, plain, atol=1e-9 * np.abs(plain).max())


def test_an_upsampled_window_is_a_larger_field() -> None:
    """The given probe keeps its width in pixels: a reciprocal pixel is divided, the real one stays."""

    def width(probe: np.ndarray) -> float:
        power = (np.abs(probe) ** 2).sum(axis=(2,))
        x = np.arange(len(power)) - len(power) // 2
        return float(np.sqrt((power * x[:, None] ** 2).sum() / power.sum()))

    given = aperture_probe(0.5)
    found = pypty.run(
        small_params(probe=given, upsample_pattern=2, epoch_max=0, skip_preprocessing=True)
    ).probe
    assert found.shape[:2] == (2 * SIDE, 2 * SIDE)
    assert width(found) == pytest.approx(width(given), rel=1e-6)


def test_a_given_object_stays_where_its_positions_are() -> None:
    """An object with a rim of 5 px, and positions that know about it."""
    rim = 5
    wide = np.pad(smooth_object(), ((rim, 0), (rim, 0), (0, 0), (0, 0)), constant_values=1)
    plain = small_params(obj=smooth_object())
    moved = small_params(obj=wide, positions=scan_positions() + rim)
    # The rim changes the band limit of the object a little; a wrong place changes the loss a hundredfold.
    assert (
        pypty.evaluate(moved).loss < 2 * pypty.evaluate(plain).loss < pypty.evaluate(small_params()).loss / 10
    )


def test_patterns_that_are_not_used_do_not_reach_the_start() -> None:
    """A NaN in a pattern that is never used; tilts, by which patterns are moved back for the starting probe."""
    data = patterns()
    data[20, 0, 0] = np.nan
    tilted = {"tilts": np.full((N_PATTERNS, 6), 5e-3), "tilt_mode": 2, "probe": None}
    result = pypty.run(small_params(dataset=data, sequence=range(10), **tilted))
    assert np.isfinite(result.probe).all()
    assert result.loss[-1] < result.loss[0]


def test_a_start_has_the_counts_whatever_the_number_of_object_modes() -> None:
    """Every mode of the object passes the whole probe on: two equal ones are as bright as one."""
    one = pypty.evaluate(small_params(obj=smooth_object()))
    twice = np.concatenate([smooth_object()] * 2, axis=3)
    assert pypty.evaluate(small_params(obj=twice)).loss == pytest.approx(one.loss, rel=1e-9)
