"""Suggestion: new dicts, merging, reading."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from pypty.calibrate.measured import clean_chunks, open_far_field, pixel_weights, wrap_deg
from pypty.calibrate.suggestion import Suggestion
from pypty.errors import ParameterError


def test_apply_gives_a_new_dict_with_copies_of_the_arrays() -> None:
    mask = np.ones((3, 3))
    found = Suggestion({"detector_mask": mask, "flip_ky": True})
    before = {"acc_voltage": 80.0, "flip_ky": False}
    after = found.apply(before)
    assert before == {"acc_voltage": 80.0, "flip_ky": False}
    assert after["flip_ky"] is True and after["acc_voltage"] == 80.0
    after["detector_mask"][0, 0] = 0
    assert mask[0, 0] == 1


def test_a_suggestion_cannot_be_changed() -> None:
    found = Suggestion({"flip_ky": True})
    with pytest.raises(TypeError):
        found.params["flip_ky"] = False  # type: ignore[index]
    with pytest.raises(AttributeError):
        found.text = "else"  # type: ignore[misc]


def test_merge_lets_the_later_one_count_and_keeps_the_last_figure() -> None:
    figure = Figure()
    one = Suggestion({"a": 1, "b": 1}, {"x": 1.0}, "first", figure)
    two = Suggestion({"b": 2}, {"y": 2.0}, "second")
    both = one.merge(two)
    assert dict(both.params) == {"a": 1, "b": 2}
    assert dict(both.values) == {"x": 1.0, "y": 2.0}
    assert both.text == "first\nsecond"
    assert both.figure is figure
    other = Figure()
    assert one.merge(two, figure=other).figure is other
    with pytest.raises(ParameterError, match="merge: a dict"):
        one.merge({"a": 1})  # type: ignore[arg-type]


def test_str_names_every_parameter_on_a_line() -> None:
    found = Suggestion(
        {
            "aperture_mask": np.eye(4, dtype=bool),
            "detector_mask": np.eye(4),
            "data_shift_vector": np.array([1, 2]),
            "PLRotation_deg": 1.23456789,
            "flip_ky": True,
        },
        text="found it",
    )
    assert str(found).splitlines() == [
        "found it",
        "suggested parameters:",
        "  aperture_mask = array (4, 4) bool, 4 true",
        "  detector_mask = array (4, 4) float64, 0 to 1",
        "  data_shift_vector = [1, 2]",
        "  PLRotation_deg = 1.23457",
        "  flip_ky = True",
    ]
    assert "no parameter" in str(Suggestion())


@pytest.mark.parametrize(
    ("angle", "same"), [(0, 0), (180, 180), (-180, 180), (190, -170), (-541, 179), (725, 5)]
)
def test_angles_are_between_half_turns(angle: float, same: float) -> None:
    assert wrap_deg(angle) == pytest.approx(same)


def test_pixels_that_do_not_count_are_empty() -> None:
    """Masked, NaN, and blanked by the shift of the patterns."""
    data, mask = np.full((2, 3, 6, 8), 4.0, np.float32), np.ones((6, 8))
    mask[2, 3] = mask[4, 4] = 0
    data[1, 1, 4, 4] = np.nan
    given = {"dataset": data, "detector_mask": mask, "data_shift_vector": [1, 0], "acc_voltage": 80.0}
    experiment = open_far_field({**given, "rez_pixel_size_mrad": 2.0, "scan_step_A": 0.5}, "disk")
    weights = pixel_weights(experiment)
    assert weights.shape == (6, 8) and weights.sum() == 8 * 5 - 2
    assert set(np.unique(weights)) == {0, 1}
    total = sum(patterns.sum() for _, patterns in clean_chunks(experiment, weights))
    assert total == 4 * 6 * weights.sum()


def test_images_and_virtual_detectors_have_no_disk() -> None:
    data = {
        "dataset": np.ones((2, 3, 6, 8)),
        "acc_voltage": 80.0,
        "rez_pixel_size_mrad": 2.0,
        "scan_step_A": 0.5,
    }
    with pytest.raises(ParameterError, match="disk: recon_type says that the data are defocused images"):
        open_far_field({**data, "recon_type": "near_field"}, "disk")
    sums = {**data, "dataset": np.ones((6, 4)), "scan_size": [2, 3], "masks": np.ones((4, 6, 8))}
    sums["algorithm"] = "lsq_compressed"
    with pytest.raises(ParameterError, match="masks says that the data are sums over virtual detectors"):
        open_far_field(sums, "disk")
