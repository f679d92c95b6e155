"""Bad pixels and patterns: what is put in is found, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_data import demo_scan, disk_scan, soft_disk

from pypty import check
from pypty.calibrate import defects
from pypty.calibrate.counts import Ceiling, outlying
from pypty.calibrate.gaps import dark_gaps, level_of_ring
from pypty.calibrate.pixels import expected_share, lines
from pypty.errors import DataError, ParameterError


def thinned(share: float) -> dict:
    """The demo at a lower dose."""
    params = demo_scan()
    params["dataset"] = np.random.default_rng(5).binomial(params["dataset"], share).astype(np.uint16)
    return params


@pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
def test_clean_data_need_no_mask_at_any_dose(share: float) -> None:
    found = defects(thinned(share))
    assert not found.params
    assert "no parameter needs to change" in str(found)


@pytest.mark.parametrize("share", [1.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hot_dead_and_stuck_pixels_are_all_found_and_no_other(share: float, seed: int) -> None:
    params = thinned(share)
    data, rng = params["dataset"], np.random.default_rng(seed)
    bright = int(2 * data.mean(axis=0).max())
    wrong = []
    for number, place in enumerate(rng.permutation(64 * 64)[:60]):
        y, x = divmod(int(place), 64)
        if data[:, y, x].sum() < 40:
            continue
        wrong.append((y, x))
        stuck = max(1, round(float(data[:, y, x].mean())))
        data[:, y, x] = (data[:, y, x] + rng.poisson(bright, 1024), 0, 65535, stuck)[number % 4]
    assert len(wrong) > 20
    mask = defects(params).params["detector_mask"]
    assert mask.shape == (64, 64)
    found = {(int(y), int(x)) for y, x in np.argwhere(mask == 0)}
    assert not set(wrong) - found
    assert len(found - set(wrong)) <= 4
    check({**params, "detector_mask": mask, "positions": np.zeros((1024, 2))})


def test_a_gap_of_the_detector_is_dead_but_a_dark_corner_is_not() -> None:
    y, x = np.indices((64, 64)) - 32
    pattern = soft_disk(64, 12.0, (32.0, 32.0)) + 2
    pattern[np.hypot(y, x) > 40] = 0
    params = disk_scan(pattern, side=16)
    assert not defects(params).params
    params["dataset"][:, 40:42] = 0
    mask = defects(params).params["detector_mask"]
    assert (mask[40:42, 12:52] == 0).all()
    assert (np.delete(mask, [40, 41], axis=0) == 1).all()


def test_patterns_that_are_empty_saturated_outlying_or_not_finite_are_left_out() -> None:
    params = demo_scan()
    data = params["dataset"]
    data[17] = 0
    data[200] *= 3
    data[300, 30, 30] = 65535
    found = defects(params)
    np.testing.assert_array_equal(found.values["empty"], [17])
    assert {200, 300} >= set(found.values["outlying"]) >= {200}
    np.testing.assert_array_equal(found.values["saturated"], [300])
    assert "detector_mask" not in found.params
    np.testing.assert_array_equal(found.params["sequence"], np.setdiff1d(np.arange(1024), [17, 200, 300]))
    part = defects({**params, "sequence": [5, 17, 300, 9]})
    np.testing.assert_array_equal(part.params["sequence"], [5, 9])
    floats = data.astype(np.float32)
    floats[40] = np.nan
    assert 40 not in defects({**params, "dataset": floats}).params["sequence"]
    assert found.figure is not None and "scan point, fast axis" in {a.get_xlabel() for a in found.figure.axes}


def test_a_pixel_that_saturates_in_many_patterns_is_masked_instead() -> None:
    params = disk_scan(soft_disk(32, 8.0, (16.0, 16.0)), side=12)
    data = params["dataset"]
    data[::2, 16, 15:18] = 150
    found = defects(params, saturation=150)
    np.testing.assert_array_equal(found.values["saturated_pixels"], [[16, 15], [16, 16], [16, 17]])
    assert (found.params["detector_mask"][16, 15:18] == 0).all()
    assert "sequence" not in found.params
    assert len(defects(params, saturation=1000).values["saturated_pixels"]) == 0


def test_whole_patterns_at_the_largest_value_of_the_type_are_saturated() -> None:
    params = disk_scan(soft_disk(16, 4.0, (8.0, 8.0)), side=8)
    params["dataset"][[9, 40]] = 65535
    found = defects(params)
    assert found.values["ceiling"] == 65535 and found.values["saturated_share"] > 0.05
    np.testing.assert_array_equal(found.values["saturated"], [9, 40])
    np.testing.assert_array_equal(found.params["sequence"], np.setdiff1d(np.arange(64), [9, 40]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_simulation_without_noise_that_is_scaled_to_its_type_is_not_saturated(dtype: type) -> None:
    """Every pixel reaches the limit in some pattern, as in full patterns, but no pattern does so on all pixels."""
    pattern = np.full((16, 16), 0.97)
    data = np.stack([np.where(np.arange(256).reshape(16, 16) % 64 == n, 1.0, pattern) for n in range(64)])
    params = disk_scan(pattern) | {"dataset": np.round(data * np.iinfo(dtype).max).astype(dtype)}
    assert defects(params).values["ceiling"] is None


def test_no_more_bytes_than_asked_but_sixteen_patterns_are_looked_at() -> None:
    params = disk_scan(soft_disk(16, 4.0, (8.0, 8.0)), side=8)
    values = [defects(params, most_bytes=n * 8 * 16 * 16).values for n in (20, 3, 100)]
    assert [found["looked_at"] for found in values] == [20, 16, 64]
    whole = defects(params)
    assert whole.values["looked_at"] == whole.values["n_patterns"] == 64 and whole.figure is not None


def test_a_given_mask_is_kept_and_its_pixels_are_not_judged() -> None:
    params = demo_scan()
    params["dataset"][:, 30:33, 30:33] = 0
    params["dataset"][:, 10, 10] = 60000
    given = np.ones((64, 64))
    given[30:33, 30:33] = 0
    given[5, 5] = 0.5
    found = defects({**params, "detector_mask": given})
    mask = found.params["detector_mask"]
    assert mask[10, 10] == 0 and mask[31, 31] == 0 and mask[5, 5] == 0.5
    np.testing.assert_array_equal(found.values["hot"], [[10, 10]])
    assert given[10, 10] == 1


def test_too_few_or_empty_patterns_are_an_error() -> None:
    with pytest.raises(DataError, match="at least 4 patterns"):
        defects({"dataset": np.ones((3, 8, 8)), "scan_size": [1, 3]})
    with pytest.raises(DataError, match="sum to 0"):
        defects({"dataset": np.zeros((9, 8, 8)), "scan_size": [3, 3]})
    with pytest.raises(ParameterError, match="defects: recon_type"):
        defects({"dataset": np.ones((9, 8, 8)), "scan_size": [3, 3], "recon_type": "near_field"})


def flat_disk_mean(side: int = 48, radius: float = 11.0) -> np.ndarray:
    y, x = np.indices((side, side)) - side // 2
    return 20.0 * (np.hypot(y, x) <= radius)


def test_the_dark_around_a_disk_in_vacuum_is_no_defect_but_what_is_missing_in_it_is() -> None:
    mean, known = flat_disk_mean(), np.zeros((48, 48), bool)
    assert not dark_gaps(mean, mean == 0, known, 0.1).any()
    mean[:, 26:29] = 0
    gap = dark_gaps(mean, mean == 0, known, 0.1)
    assert gap[:, 26:29].all() and gap.sum() - gap[:, 26:29].sum() < 20
    known[:, 26:29] = True
    assert not dark_gaps(mean, mean == 0, known, 0.1)[:, 26:29].any()
    spots = sum(np.roll(flat_disk_mean(radius=5.0), shift, (0, 1)) for shift in ((0, 0), (0, 14), (0, -14)))
    assert not dark_gaps(spots, spots == 0, np.zeros((48, 48), bool), 0.1).any(), (
        "the dark between Bragg disks"
    )


def test_a_dark_rim_of_a_lit_detector_is_dead() -> None:
    mean = np.full((32, 32), 20.0)
    mean[:2] = 0
    gap = dark_gaps(mean, mean == 0, np.zeros((32, 32), bool), 0.1)
    assert gap[:2].all() and not gap[2:].any()
    assert [part.tolist() for part in lines(gap)] == [[0, 1], []]


def test_the_share_of_bad_pixels_is_what_they_would_have_counted() -> None:
    mean, bad, none = flat_disk_mean(), np.zeros((48, 48), bool), np.zeros((48, 48), bool)
    assert expected_share(mean, bad, none) == 0
    bad[24, 24] = bad[2, 3] = True
    assert expected_share(mean, bad, none) == pytest.approx(1 / (mean > 0).sum(), rel=1e-6)
    np.testing.assert_allclose(level_of_ring(mean, mean == 0, none)[24, 20:28], 20.0)


def test_values_pile_up_at_a_ceiling() -> None:
    natural = Ceiling(top=60.0, times=3, below=12, levels=3.0)
    full = Ceiling(top=60.0, times=300, below=300, levels=3.0)
    assert not natural.is_reached(np.dtype(np.uint16)) and full.is_reached(np.dtype(np.uint16))
    assert Ceiling(top=255.0, times=1, below=0, levels=12.0).is_reached(np.dtype(np.uint8))
    assert not Ceiling(top=255.0, times=1, below=0, levels=12.0).is_reached(np.dtype(np.uint16))
    assert Ceiling(top=4095.0, times=5, below=200, levels=204.0).is_reached(np.dtype(np.uint16))


def test_outlying_totals_differ_from_those_around_them() -> None:
    totals = np.random.default_rng(0).normal(1000, 10, 64)
    totals[20] = 2000
    assert np.flatnonzero(outlying(totals, (8, 8), np.ones(64, bool))).tolist() == [20]
    assert not outlying(totals[:3], (1, 3), np.ones(3, bool)).any()


def test_few_patterns_and_few_counts_are_said() -> None:
    few = defects(disk_scan(soft_disk(32, 8.0, (16.0, 16.0)), side=4))
    assert any("16 patterns are few" in text for text in few.values["unsure"]) and "UNSURE" in few.text
    dim = defects(disk_scan(soft_disk(32, 8.0, (16.0, 16.0), height=0.05), side=8))
    assert any("would not be seen" in text for text in dim.values["unsure"])
