"""Pre-flight names defects of the detector, and a wrong order of the scan, before it blames the probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from calibration_data import as_snake, by_columns, simulated_scan

from pypty.calibrate import defects
from pypty.data.own_mask import mask_in_file
from pypty.errors import DataError
from pypty.preflight import Preflight, preflight
from pypty.preflight.defect_items import ask_defects, defect_items, good_pixels
from pypty.preflight.order_items import missing_items
from pypty.readers import import_file, params_of

SIDE, MIDDLE = 40, 20
_NOT_NEEDED = "time"


@pytest.fixture(autouse=True)
def _without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an evaluation takes half a second to measure, and is tested elsewhere."""
    monkeypatch.setattr("pypty.preflight.checks.cost_items", lambda facts: ([], [_NOT_NEEDED]), raising=True)


def flown(params: dict[str, Any], **changes: Any) -> Preflight:
    given = {
        "pixel_size_x_A": 0.25,
        "pixel_size_y_A": 0.25,
        "PLRotation_deg": 0.0,
        "extra_probe_defocus": 90.0,
        "backend": "cpu",
        "epoch_max": 1,
    }
    return preflight({**given, **params, **changes})


def shown(found: Preflight) -> dict[str, str]:
    return {item.name: item.status for item in found.items if item.status != "pass"}


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"kind": "lattice", "seed": 2},
        {"kind": "vacuum", "seed": 3},
        {"size": (5, 5), "seed": 4},
        {"dose": 200.0},
    ],
    ids=str,
)
def test_clean_data_never_fail_because_of_the_detector_or_the_order(changes: dict[str, Any]) -> None:
    found = flown(simulated_scan(**changes))
    for name in ("hot and dead pixels", "saturation", "gain"):
        assert found[name].status == "pass", found
    for name in ("order of the scan", "orientation of the detector"):
        assert found.items[0].name == "hot and dead pixels"
        assert name not in shown(found) or found[name].status == "warn", found
        if shown(found).get(name):
            assert "UNSURE" in found[name].text and "UNSURE" in found[name].meaning


def _hot(data: np.ndarray) -> None:
    data[:, 8, 9] = 9000


def _dead_row(data: np.ndarray) -> None:
    data[:, MIDDLE - 2] = 0


def _gap(value: float) -> Callable[[np.ndarray], None]:
    def change(data: np.ndarray) -> None:
        data[:, :, MIDDLE + 2 : MIDDLE + 5] = value

    return change


FAULTS: tuple[tuple[str, Callable[[np.ndarray], None], type], ...] = (
    ("hot pixel", _hot, np.uint16),
    ("dead row", _dead_row, np.uint16),
    ("gap of zeros", _gap(0), np.uint16),
    ("2^32 - 1", _gap(2**32 - 1), np.uint32),
    ("2^32 - 1, single precision", _gap(2**32 - 1), np.float32),
    ("2^16 - 1", _gap(2**16 - 1), np.uint16),
    ("2^16 - 1 in 32 bits", _gap(2**16 - 1), np.int32),
    ("-1", _gap(-1), np.int32),
    ("NaN", _gap(np.nan), np.float32),
)


@pytest.mark.parametrize(("name", "fault", "dtype"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_faulty_detector_comes_first_and_its_mask_helps(
    name: str, fault: Callable[[np.ndarray], None], dtype: type
) -> None:
    params = simulated_scan((10, 10), seed=5)
    data = params["dataset"].astype(dtype)
    fault(data)
    params["dataset"] = data
    found = flown(params)
    assert not found.ok and found.items[0].name == "hot and dead pixels" and found.items[0].status == "fail"
    assert "detector_mask" in found.items[0].what_to_do
    for item in found.items[3:]:
        if item.status != "pass" and item.name != "parameters":
            assert item.what_to_do.startswith("First correct the defects"), item.name
    mended = flown(defects(params).apply(params))
    assert mended["hot and dead pixels"].status == "pass" and mended["parameters"].status != "fail", mended


@pytest.mark.parametrize(("ceiling", "dose"), [(4095, 8e5), (1500, 4e5), (137, 3e4)])
def test_the_true_ceiling_of_the_counter_is_found(ceiling: int, dose: float) -> None:
    params = simulated_scan((10, 10), seed=6, dose=dose)
    assert params["dataset"].max() > ceiling
    assert flown(params)["saturation"].status == "pass"
    params["dataset"] = np.minimum(params["dataset"], ceiling)
    found = flown(params)
    assert found["saturation"].status == "fail" and f"{ceiling:g}" in found["saturation"].meaning
    assert found.items[1].name == "saturation"


@pytest.mark.parametrize("gain", [7, 7.3, 0.25])
def test_a_gain_is_seen_and_undone(gain: float) -> None:
    params = simulated_scan((10, 10), seed=7)
    params["dataset"] = (
        params["dataset"] * gain if isinstance(gain, int) else (params["dataset"] * gain).astype(np.float32)
    )
    found = flown(params)
    assert found["gain"].status == "warn" and found["gain"].value == pytest.approx(gain)
    assert flown(params, data_multiplier=1 / gain)["gain"].status == "pass"
    assert defects(params).params["data_multiplier"] == pytest.approx(1 / gain)


def test_constant_and_analogue_values_have_no_gain() -> None:
    params = simulated_scan((10, 10), seed=7)
    noise = np.random.default_rng(0).normal(0, 0.3, params["dataset"].shape)
    analogue = {**params, "dataset": (params["dataset"] * 7 + noise).astype(np.float32)}
    constant = {**params, "dataset": np.broadcast_to(7 * params["dataset"][0], params["dataset"].shape)}
    for data in (analogue, constant):
        assert "data_multiplier" not in defects(data, most_patterns=50).params


def test_the_detectors_own_mask_is_used(tmp_path: Path) -> None:
    params = simulated_scan((10, 10), seed=8)
    bad = np.zeros((SIDE, SIDE), np.uint32)
    bad[3, 4], bad[:, 30] = 2, 1
    with h5py.File(tmp_path / "scan_master.h5", "w") as file:
        file["entry/data/data"] = params.pop("dataset")
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = bad
    stored = {**params, "data_path": str(tmp_path / "scan_master.h5"), "data_key": "entry/data/data"}
    found = flown(stored)
    assert "41 are masked by the detector itself" in found.items[0].meaning
    assert found.items[0].status in ("warn", "fail")
    mask = defects(stored).params["detector_mask"]
    np.testing.assert_array_equal(mask == 0, bad > 0)
    assert flown(stored, detector_mask=mask)["hot and dead pixels"].status == "pass"
    # An import keeps it, and changes it with the patterns.
    import_file(stored["data_path"], tmp_path / "a.h5", key="entry/data/data", crop=(0, 20, 20, 40), bin=2)
    kept = params_of(tmp_path / "a.h5")["detector_mask"]
    wanted = (bad > 0)[:20, 20:].reshape(10, 2, 10, 2).any(axis=(1, 3))
    np.testing.assert_array_equal(kept == 0, wanted)
    alone = {**params, "data_path": str(tmp_path / "a.h5"), "positions": None, "detector_mask": None}
    assert (
        len(defects({key: v for key, v in alone.items() if v is not None}).values["own_mask"]) == wanted.sum()
    )


def test_a_mask_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("entry/pixel_mask", (8, 8), np.uint32, external=[("gone.bin", 0, 256)])
        with pytest.raises(DataError, match="pixel_mask"):
            mask_in_file(file, (8, 8))
        assert mask_in_file(file, (8, 9)) is None


def test_a_snake_and_exchanged_axes_fail_and_what_to_set_is_said() -> None:
    params = simulated_scan((14, 14), seed=9, dose=2e4)
    assert flown(params)["order of the scan"].status == "pass"
    snake = {**params, "dataset": as_snake(params["dataset"], (14, 14))}
    found = flown(snake)
    assert found["order of the scan"].status == "fail" and "'snake'" in found["order of the scan"].what_to_do
    right = flown({**snake, "positions": params["positions"][as_snake(np.arange(196), (14, 14))]})
    assert right["order of the scan"].status == "pass"
    turned = flown({**params, "dataset": by_columns(params["dataset"], (14, 14))})
    item = turned["orientation of the detector"]
    assert (
        item.status == "fail" and "scan_order='columns'" in item.what_to_do and "flip_ky" in item.what_to_do
    )


def test_missing_frames_are_named() -> None:
    params = simulated_scan((12, 16), seed=10, dose=2e4)
    lost = np.arange(80, 85)
    short = {**params, "dataset": np.delete(params["dataset"], lost, axis=0)}
    short["positions"] = np.delete(params["positions"], lost, axis=0)
    found = flown(short)
    assert (
        found["missing patterns"].status == "fail"
        and "missing_patterns" in found["missing patterns"].what_to_do
    )
    assert [item.name for item in missing_items({key: short[key] for key in ("dataset", "scan_size")})] == [
        "missing patterns"
    ]
    assert missing_items({"dataset": np.ones((3, 8, 8)), "scan_size": [1, 2]}) == []
    right = flown({**short, "missing_patterns": lost})
    assert right["parameters"].status == "pass" and right["order of the scan"].status != "fail"
    assert right["scan raster"].value == 0


def test_a_mistyped_scan_size_is_said_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"dataset": np.ones((120, 8, 8)), "scan_size": [16, 12]}
    monkeypatch.setattr("pypty.preflight.order_items.scan_order", pytest.fail)
    (item,) = missing_items(given)
    assert "(16, 12) has 192 points, but the data have 120 patterns" in item.meaning
    assert item.status == "fail" and item.value == "72, UNSURE where" and "scan_size" in item.what_to_do
    assert missing_items({**given, "scan_size": [12, 10]}) == []
    monkeypatch.setattr("pypty.preflight.order_items._MOST_BYTES", 119 * 8 * 8 * 8)
    (item,) = missing_items({**given, "scan_size": [11, 11]})
    assert "reads more than" in item.meaning and "probably wrong" in item.meaning


def test_defects_are_searched_for_in_a_bounded_part_of_the_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    params = simulated_scan((10, 10), seed=5)
    whole, _ = ask_defects(params)
    assert whole is not None and "Looked at" not in defect_items(whole)[0].meaning
    monkeypatch.setattr("pypty.preflight.defect_items.MOST_BYTES", 40 * SIDE * SIDE * 8)
    part, _ = ask_defects(params)
    assert part is not None and all(
        "Looked at: 40 of 100 patterns" in item.meaning for item in defect_items(part)[:2]
    )


def test_whole_frames_at_full_scale_fail() -> None:
    params = simulated_scan((10, 10), seed=5)
    params["dataset"][[20, 70]] = 65535
    assert flown(params)["saturation"].status == "fail"


def test_what_cannot_be_asked_is_not_checked() -> None:
    found, missing = ask_defects({"dataset": np.ones((3, 8, 8)), "scan_size": [1, 3]})
    assert found is None and "at least 4 patterns" in missing[0]
    assert (good_pixels(None, (8, 8)) == 1).all()
    near = flown(simulated_scan((6, 6)), recon_type="near_field", defocus_array=[100.0])
    assert any("defects of the detector" in text for text in near.not_checked)
    params = simulated_scan((6, 6))
    params["dataset"][:, 3, 3] = 500
    asked, _ = ask_defects(params)
    assert asked is not None and len(defect_items(asked)) == 3
    assert (
        good_pixels(asked, (SIDE, SIDE))[3, 3] == 0 and good_pixels(asked, (SIDE, SIDE)).sum() == SIDE**2 - 1
    )
