"""All calibrations in a row, on spoilt and turned data."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from calibration_data import demo_scan, disk_scan, soft_disk, transformed

from pypty import check
from pypty.calibrate import everything
from pypty.errors import DataError


def test_a_flipped_shifted_and_spoilt_scan_is_put_right() -> None:
    params = demo_scan()
    data = transformed(params["dataset"], np.array([[0, 1], [1, 0]]))  # a transpose
    data = np.roll(data, (2, -3), axis=(1, 2))
    data[:, 20, 40] = 0
    data[:, 50, 10] = 5000
    data[100] = 0
    params["dataset"] = data
    before = dict(params)
    found = everything(params)
    assert params.keys() == before.keys() and params["dataset"] is data
    assert found.params["rez_pixel_size_mrad"] == pytest.approx(2.34, rel=5e-3)
    # Transposed: flip and a quarter turn.
    assert found.params["flip_ky"] is True
    assert (
        abs((found.params["PLRotation_deg"] + 90) % 360) < 0.7
        or abs((found.params["PLRotation_deg"] + 90) % 360) > 359.3
    )
    # The pattern of 64 px is flipped: its middle is one pixel further, and the shift along ky changes sign.
    np.testing.assert_array_equal(found.params["data_shift_vector"], [1 + 2, 3])
    assert found.params["detector_mask"][20, 40] == 0 and found.params["detector_mask"][50, 10] == 0
    assert found.params["detector_mask"].sum() == 64 * 64 - 2
    assert 100 not in found.params["sequence"]
    assert found.values["failed"] == ()
    assert found.values["defocus.C10_A"] == pytest.approx(100, rel=0.1)
    assert found.values["disk.radius_px"] == pytest.approx(10.684, rel=5e-3)
    assert found.figure is not None and len(found.figure.axes) == 6
    check({**found.apply(params), "positions": np.zeros((1024, 2))})


def test_what_cannot_be_done_is_said_and_the_rest_is_done() -> None:
    found = everything(disk_scan(soft_disk(32, 8.0, (16.0, 16.0)), side=4, conv_semiangle_mrad=20.0))
    assert "orientation" in found.values["failed"]
    assert "orientation: not done: the scan has (4, 4) points" in found.text
    assert "orientation: UNSURE" in found.text and "orientation: not done" in found.values["unsure"]
    assert any("scan_order: 4 x 4 points are few" in text for text in found.values["unsure"])
    assert found.params["rez_pixel_size_mrad"] == pytest.approx(2.5, rel=5e-3)
    unknown = everything(disk_scan(soft_disk(32, 8.0, (16.0, 16.0)), side=4))
    assert "defocus: not done: it needs the pixel size" in unknown.text


def test_without_a_disk_nothing_makes_sense() -> None:
    with pytest.raises(DataError, match="no bright-field disk"):
        everything(disk_scan(np.full((32, 32), 9.0)))


def test_a_thin_specimen_is_not_fitted_by_slabs() -> None:
    found = everything(demo_scan())
    assert found.values["orientation.outside_disk"] < 0.03
    assert not [name for name in found.values if name.startswith("specimen")]
    assert "multislice" not in found.text


def test_a_thick_specimen_is_fitted_from_the_defocus_that_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules[everything.__module__]
    asked: list[tuple[object, float]] = []

    def stub(params: object, near_C10_A: float) -> None:
        asked.append((params, near_C10_A))
        raise DataError("not fitted here")

    monkeypatch.setattr(module, "specimen", stub)
    monkeypatch.setattr(module, "_is_thick", lambda now, done: True)
    found = everything(demo_scan())
    ((params, near),) = asked
    assert isinstance(params, dict) and near == pytest.approx(found.values["defocus.C10_A"])
    assert "specimen: not done: not fitted here" in found.text
