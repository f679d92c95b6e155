"""The unknowns before the first epoch: object, probe and where their windows lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import N_PATTERNS, SIDE, aperture_probe, patterns, scan_positions, small_params, smooth_object

import pypty
from pypty.data.scan import make_scan, sort_sequence
from pypty.data.sources import open_source
from pypty.data.weights import DetectorWeights
from pypty.data.window import Window
from pypty.engine.setup.geometry import check_arrays, count_patterns, find_window
from pypty.engine.setup.mean_patterns import MeanPatterns
from pypty.engine.setup.prepare import prepare
from pypty.engine.setup.start import propagates_after_last, start_background, start_distances, start_object
from pypty.engine.setup.start_probe import aperture, n_subscans, probe_modes
from pypty.errors import ParameterError
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.settings import Settings


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


# ------------------------------------------------------------------------- numbers of patterns, windows, arrays


def settings_of(**changes: Any) -> Settings:
    """Settings of parameters that are right one by one."""
    report = Report()
    found = read_parameters(small_params(**changes), report)
    report.raise_if_any()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (25, (16, 16), (16, 16), (16, 16))),
        ({"data_pad": 3}, (25, (22, 22), (16, 16), (22, 22))),
        ({"data_pad": 3, "use_padded_intensity": False}, (25, (22, 22), (16, 16), (16, 16))),
        ({"data_pad": 4, "upsample_pattern": 2}, (25, (40, 40), (16, 16), (20, 20))),
        ({"data_bin": 2, "data_pad": 3}, (25, (14, 14), (8, 8), (14, 14))),
        ({"simu_Npix": 20, "simu_match_mode": "crop"}, (25, (20, 20), (16, 16), (16, 16))),
        ({"dataset": np.ones((7, 12, 20))}, (7, (12, 20), (12, 20), (12, 20))),
        (
            {"dataset": ..., "probe": np.ones((18, 22, 1)), "data_pad": 2},
            (25, (18, 22), (14, 18), (18, 22)),
        ),
    ],
)
def test_windows_of_the_model_and_pixels_of_the_detector(changes: dict[str, Any], expected: tuple) -> None:
    settings, report = settings_of(**changes), Report()
    source = open_source(settings)
    window = find_window(settings, source, report)
    assert window is not None and not report.problems
    found = (count_patterns(settings, source, None), window.model, window.pattern, window.compared)
    assert found == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_bin": 20}, "patterns are only 16 x 16"),
        ({"data_shift_vector": [0, 16]}, "nothing would be left"),
        ({"dataset": np.ones((25, 3, 3))}, "the window would be 3 x 3"),
        ({"data_pad": 10_000}, "lower data_pad"),
        ({"dataset": np.ones((25, 12, 16)), "simu_Npix": 20, "simu_match_mode": "crop"}, "12 x 16 pixels"),
        ({"simu_Npix": 12, "simu_match_mode": "crop"}, "cannot be cropped to the 16"),
        ({"dataset": ..., "probe": ...}, "without data the window is taken from the probe"),
    ],
)
def test_windows_that_cannot_be_are_told(changes: dict[str, Any], message: str) -> None:
    settings, report = settings_of(**changes), Report()
    find_window(settings, open_source(settings), report)
    assert any(message in text for text in report.problems), report.problems


def test_arrays_of_another_length_or_shape_are_told() -> None:
    settings = settings_of(
        beam_current=np.ones(24),
        scan_size=[4, 6],
        aperture_mask=np.ones((8, 8)),
        tilts=np.zeros((1, 6)),
        static_background=np.ones((5, 5)),
    )
    source, report = open_source(settings), Report()
    window = find_window(settings, source, report)
    assert window is not None
    check_arrays(settings, source, None, window, report)
    told = {text.partition(":")[0] for text in report.problems}
    assert told == {"beam_current", "scan_size", "aperture_mask", "static_background"}


def test_windows_begin_where_the_positions_say() -> None:
    settings = settings_of(positions=[[-1.2, 4.0], [3.4, 9.6]], dataset=np.ones((2, 16, 16)))
    scan = make_scan(settings, (16, 16), np.arange(2), 2)
    extra = settings["extra_space_on_side_px"]
    np.testing.assert_allclose(scan.positions, [[extra, extra], [extra + 4.6, extra + 5.6]])
    np.testing.assert_array_equal(scan.crop_origins, np.round(scan.positions))
    np.testing.assert_allclose(scan.moved, [extra + 1.2, extra - 4.0])
    assert scan.object_shape == tuple(scan.crop_origins[1] + 16 + extra)
    with pytest.raises(ParameterError, match="1 patches begin outside the object"):
        outside = settings_of(positions=[[-9.0, 0.0], [3.0, 0.0]], skip_preprocessing=True)
        make_scan(outside, (16, 16), np.arange(2), 2)


def test_sequences_are_sorted_and_within_the_patterns() -> None:
    assert sort_sequence(None, 3).tolist() == [0, 1, 2]
    assert sort_sequence(np.array([4, 1]), 5).tolist() == [1, 4]
    assert sort_sequence(np.arange(5) % 3 == 1, 5).tolist() == [1, 4]
    for wrong, message in (
        ([], "no index"),
        ([-1, 2], "index -1"),
        ([2, 5], "index 5"),
        ([4, 1, 4], "index 4 is given 2"),
    ):
        with pytest.raises(ParameterError, match=message):
            sort_sequence(np.array(wrong), 5)


def test_weights_of_pixels_are_common_or_each_patterns_own() -> None:
    data = np.array([[[1.0, np.nan], [3.0, 4.0]], [[5.0, 6.0], [np.nan, 8.0]]])
    both = np.arange(2)
    assert DetectorWeights(None).of(data, both) is None and DetectorWeights(None).common is None
    mask = np.array([[1.0, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(DetectorWeights(mask).common, mask)
    own = DetectorWeights(np.stack([mask, 1 - mask]))
    assert own.common is None
    np.testing.assert_array_equal(own.of(data[1:], both[1:]), [1 - mask])
    by_nan = DetectorWeights("nan")
    np.testing.assert_array_equal(by_nan.of(data, both), [[[1, 0], [1, 1]], [[1, 1], [0, 1]]])
    np.testing.assert_array_equal(by_nan.blank(data, both), np.nan_to_num(data))
    assert by_nan.of(data.astype(int), both) is None


# --------------------------------------------------------------------------------------------- starting values


def test_gaps_between_slices_at_the_start() -> None:
    assert start_distances(settings_of(slice_distances=[10.0]), 4).tolist() == [10.0]
    assert start_distances(settings_of(slice_distances=[10.0, 20.0, 30.0]), 3).tolist() == [10, 20]
    edge = settings_of(slice_distances=[10.0], edge_slice_thickness=15.0, num_slices=4)
    assert start_distances(edge, 4).tolist() == [15, 10, 10]
    assert start_distances(settings_of(slice_distances=[10.0], edge_slice_thickness=5.0), 4).tolist() == [10]
    assert not propagates_after_last(settings_of(propmethod="multislice"))
    assert propagates_after_last(settings_of(propmethod="'multislice' if epoch else 'angular_spectrum'"))


def test_a_given_object_lies_in_vacuum() -> None:
    given = np.full((4, 5, 1, 1), 0.5 + 0j)
    settings = settings_of(obj=given, extra_space_on_side_px=2)
    obj = start_object(settings, make_scan(settings, (16, 16), np.arange(25), 25))
    np.testing.assert_array_equal(obj[2:6, 2:7], given)
    assert obj.sum() == obj.size - 0.5 * given.size


def test_a_random_background_has_the_sum_that_is_asked_for() -> None:
    settings = settings_of(static_background=32.0, data_pad=2)
    window = Window.of(settings, (16, 16))
    found = start_background(settings, window)
    assert found is not None and found.shape == (20, 20) and found.sum() == pytest.approx(32)
    inside = found[2:-2, 2:-2]
    assert inside.max() / inside.min() < 10 and found.sum() == pytest.approx(inside.sum())
    assert start_background(settings_of(), window) is None


@pytest.mark.parametrize(
    ("changes", "modes", "subscans"),
    [
        ({}, 1, 1),
        ({"probe": np.ones((16, 16, 3))}, 3, 1),
        ({"mc_n_modes": 5, "focal_spread": 10.0}, 5, 1),
        ({"n_hermite_probe_modes": [1, 2]}, 6, 1),
        ({"defocus_spread_modes": [-1.0, 0.0, 1.0, 2.0]}, 4, 1),
        ({"probe_marker": np.arange(25) % 3}, 1, 3),
        ({"probe": np.ones((16, 16, 2, 4)), "probe_marker": np.arange(25) % 3}, 2, 4),
    ],
)
def test_modes_of_the_starting_probe(changes: dict[str, Any], modes: int, subscans: int) -> None:
    settings = settings_of(**changes)
    assert (probe_modes(settings), n_subscans(settings)) == (modes, subscans)


def test_an_aperture_is_a_fraction_of_nyquist() -> None:
    """Along ky and kx alike, whatever the numbers of pixels."""
    found = aperture(0.5, (16, 32))
    assert found[8, 16] == found[8 + 4, 16] == found[8, 16 + 8] == 1
    assert found[8 + 5, 16] == found[8, 16 + 9] == 0
    mask = np.ones((3, 3))
    assert aperture(mask, (16, 16)) is mask


@pytest.mark.parametrize(
    "changes", [{"data_pad": 3}, {"upsample_pattern": 2}, {"simu_Npix": 20, "simu_match_mode": "crop"}]
)
def test_the_mean_pattern_in_the_window_has_all_counts(changes: dict[str, Any]) -> None:
    setup = prepare(small_params(**changes))
    assert isinstance(setup.seen, MeanPatterns)
    mean = setup.seen.mean_pattern()
    assert mean is not None and mean.shape == setup.grid.shape
    assert mean.sum() == pytest.approx(patterns().mean(axis=0).sum())
    centre = np.unravel_index(mean.argmax(), mean.shape)
    assert np.abs(np.array(centre) - np.array(mean.shape) // 2).max() <= 8
    setup.close()


def test_a_given_mean_pattern_makes_the_probe_and_the_data_scale_it() -> None:
    setup = prepare(small_params(mean_pattern=3 * np.ones((16, 16)), detector_mask=np.eye(16)))
    counts = setup.seen.start_counts()
    assert counts is not None
    np.testing.assert_array_equal(counts.pattern, 3 * np.ones((16, 16)))
    assert counts.weights is not None
    np.testing.assert_array_equal(counts.weights, np.eye(16))
    assert counts.mean.sum() <= patterns().mean(axis=0).sum() + 1e-9
    setup.close()
