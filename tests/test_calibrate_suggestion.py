"""Suggestion: new dicts, merging, reading."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

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
