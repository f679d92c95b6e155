"""The bright-field disk: its edge to a fraction of a pixel, and what follows from it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from calibration_data import RADIUS_PX, demo_scan, disk_scan, soft_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty import check
from pypty.calibrate import disk
from pypty.calibrate.edge import fit_edge
from pypty.errors import DataError, ParameterError


@settings(max_examples=12, deadline=None)
@given(
    radius=st.floats(5, 20),
    off=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    blur=st.floats(0, 1),
    seed=st.integers(0, 100),
)
def test_integrated_disks_of_any_size_are_found_within_three_per_mille(
    radius: float, off: tuple[float, float], blur: float, seed: int
) -> None:
    centre = (26 + off[0], 26 + off[1])
    pattern = soft_disk(52, radius, centre, blur)
    # with 1000 counts per pixel shot noise alone would move the edge of the smallest disk by a few per mille
    counts = np.random.default_rng(seed).poisson(pattern * 10_000) / 10_000
    found = fit_edge(counts)
    assert found.radius_px == pytest.approx(radius, rel=3e-3)
    np.testing.assert_allclose(found.centre, centre, atol=0.02)
    assert found.ellipticity < 0.01


def test_an_ellipse_is_found_with_its_direction() -> None:
    found = fit_edge(soft_disk(64, 18.0, (31.0, 33.0), 0.5, ellipse=0.04, angle=np.deg2rad(30)))
    assert found.radius_px == pytest.approx(18.0, rel=3e-3)
    assert found.ellipticity == pytest.approx(1.04 / 0.96 - 1, rel=0.05)
    assert found.ellipse_angle_deg == pytest.approx(30, abs=1.5)


def test_structure_inside_and_outside_does_not_move_the_edge() -> None:
    y, x = np.indices((64, 64)) - 32
    angle, r = np.arctan2(y, x), np.hypot(y, x)
    inside = 1 + 0.3 * np.cos(4 * angle) * (r / 20) + 0.2 * (r / 15) ** 2
    outside = 0.3 * np.exp(-(r - 15) / 6) * (1 + 0.8 * np.cos(3 * angle))
    pattern = soft_disk(64, 15.3, (32.0, 32.0), 0.4, height=1) * (inside - outside) + outside
    assert fit_edge(pattern).radius_px == pytest.approx(15.3, rel=5e-3)


def test_the_demo_gives_its_pixel_within_a_tenth_of_the_limit() -> None:
    params = demo_scan(data_pad=4)
    assert "compute them again" in disk({**params, "positions": np.zeros((1024, 2))}).text
    found = disk(params)
    assert found.params["rez_pixel_size_mrad"] == pytest.approx(2.34, rel=5e-4)
    assert found.params["rez_pixel_size_A"] == pytest.approx(0.056038293, rel=5e-4)
    for axis in "xy":
        assert found.params[f"pixel_size_{axis}_A"] == pytest.approx(0.278827194 * 64 / 72, rel=5e-4)
    assert found.values["radius_px"] == pytest.approx(RADIUS_PX, rel=5e-4)
    np.testing.assert_array_equal(found.params["data_shift_vector"], [0, 0])
    mask = found.params["aperture_mask"]
    assert mask.shape == (72, 72) and mask.dtype == bool
    assert mask.sum() == pytest.approx(np.pi * RADIUS_PX**2, rel=0.02)
    assert mask[36, 36 + 10] and not mask[36, 36 + 11]
    assert found.figure is not None and "kx / px" in {a.get_xlabel() for a in found.figure.axes}
    check({**found.apply(params), "positions": np.zeros((1024, 2))})


def test_a_shifted_disk_asks_for_a_shift_and_then_for_none() -> None:
    pattern = soft_disk(48, 9.0, (21.2, 27.9), 0.4)
    params = disk_scan(pattern, conv_semiangle_mrad=20.0)
    found = disk(params)
    np.testing.assert_array_equal(found.params["data_shift_vector"], [3, -4])
    again = disk(found.apply(params))
    np.testing.assert_array_equal(again.params["data_shift_vector"], [3, -4])
    assert again.values["centre_y_px"] == pytest.approx(24.2, abs=0.05)
    assert again.values["centre_x_px"] == pytest.approx(23.9, abs=0.05)


def test_binning_shifts_and_pixels_count_in_detector_pixels() -> None:
    pattern = soft_disk(64, 20.0, (28.0, 33.0), 0.4)
    found = disk(disk_scan(pattern, conv_semiangle_mrad=20.0, data_bin=2))
    # The middle of pixel n//2 of the binned pattern lies between two detector pixels.
    np.testing.assert_allclose(found.params["data_shift_vector"], [4.5, -0.5], atol=0.6)
    assert found.values["radius_px"] == pytest.approx(10.0, rel=4e-3)
    assert found.params["rez_pixel_size_mrad"] == pytest.approx(1.0, rel=4e-3)


def test_a_known_pixel_gives_the_semi_angle_and_changes_no_pixel() -> None:
    params = disk_scan(soft_disk(48, 12.5, (24.0, 24.0)), rez_pixel_size_mrad=1.6)
    found = disk(params)
    assert found.params["conv_semiangle_mrad"] == pytest.approx(20.0, rel=3e-3)
    assert "rez_pixel_size_mrad" not in found.params and "pixel_size_x_A" not in found.params
    neither = disk({k: v for k, v in params.items() if k != "rez_pixel_size_mrad"})
    assert set(neither.params) == {"data_shift_vector", "aperture_mask"}
    assert "stays in pixels" in neither.text
    both = disk({**params, "conv_semiangle_mrad": 22.0})
    assert both.params["rez_pixel_size_mrad"] == pytest.approx(22 / 12.5, rel=3e-3)
    assert "the parameters gave 1.6 mrad" in both.text
    given_here = disk(params, conv_semiangle_mrad=11.0)
    assert given_here.values["pixel_mrad"] == pytest.approx(11 / 12.5, rel=3e-3)


def test_masked_pixels_do_not_count() -> None:
    pattern = soft_disk(48, 12.0, (24.0, 24.0))
    params = disk_scan(pattern, conv_semiangle_mrad=20.0)
    spoilt = params["dataset"].copy()
    spoilt[:, 23:26] = 0
    spoilt[:, 5, 24] = 60000
    mask = np.ones((48, 48))
    mask[23:26] = 0
    mask[5, 24] = 0
    found = disk({**params, "dataset": spoilt, "detector_mask": mask})
    assert found.values["radius_px"] == pytest.approx(12.0, rel=5e-3)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (np.full((32, 32), 20.0), "no bright-field disk was found"),
        (soft_disk(32, 14.5, (15.5, 15.5)), "end 2 px from the rim"),
        (soft_disk(32, 1.2, (16.0, 16.0)), "larger than 2 px"),
    ],
)
def test_without_a_disk_the_error_says_so(pattern: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        disk(disk_scan(pattern, conv_semiangle_mrad=20.0))


def test_data_that_are_no_patterns_are_refused() -> None:
    pattern = soft_disk(32, 8.0, (16.0, 16.0))
    with pytest.raises(ParameterError, match="recon_type says that the data are defocused images"):
        disk(disk_scan(pattern, recon_type="near_field"))
    sums = {
        "dataset": np.ones((64, 2)),
        "masks": np.ones((2, 8, 8)),
        "scan_size": [8, 8],
        "algorithm": "lsq_compressed",
    }
    with pytest.raises(ParameterError, match="masks says that the data are sums"):
        disk(sums)
    for wrong in (-3.0, "wide"):
        with pytest.raises(ParameterError, match="conv_semiangle_mrad is .*, expected"):
            disk(disk_scan(pattern), conv_semiangle_mrad=wrong)  # type: ignore[arg-type]


def test_the_words_of_a_disk_have_their_units() -> None:
    pattern = soft_disk(48, 10.0, (25.0, 22.0), 0.5)
    text = disk(disk_scan(pattern), conv_semiangle_mrad=20.0).text.splitlines()
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"disk: radius {number} px, centre \[25\.0\d, 22\.0\d\] px \(zero frequency belongs at \[24, 24\]\), "
        rf"ellipticity {number} %, edge {number} px wide",
        text[0],
    )
    pixel = next(line for line in text if line.startswith("  pixel "))
    assert pixel.endswith(" mrad from the semi-angle 20 mrad")
    assert "  patterns must be shifted by [-1, 2] detector pixels (ky, kx)" in text
    given = disk(disk_scan(pattern, rez_pixel_size_mrad=2.5)).text
    assert re.search(r"  semi-angle 2[45]\.\d* mrad from the given pixel", given)
    assert "semi-angle" in given and "mrad from the given pixel of 2.5 mrad" in given
    alone = disk(disk_scan(pattern)).text
    assert "the radius stays in pixels" in alone


def test_positions_in_pixels_are_to_be_made_anew_with_another_pixel_alone() -> None:
    pattern = soft_disk(48, 10.0, (24.0, 24.0), 0.5)
    stale = "positions were given in pixels: compute them again with this pixel size"
    positions = np.zeros((64, 2))
    assert stale in disk(disk_scan(pattern, positions=positions), conv_semiangle_mrad=20.0).text
    assert stale not in disk(disk_scan(pattern), conv_semiangle_mrad=20.0).text
    assert stale not in disk(disk_scan(pattern, positions=positions, rez_pixel_size_mrad=2.0)).text
