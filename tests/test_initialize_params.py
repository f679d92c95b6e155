"""append_exp_params: what PyPty 2.2 gives where it is right (golden file 24), and what it should give elsewhere."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from calibration_data import flat_scan

import pypty
from pypty.errors import DataError, ParameterError
from pypty.initialize import append_exp_params
from pypty.initialize.common import (
    check_all,
    checked,
    model_shape,
    pattern_shape,
    pixel_yx_A,
    positions_px,
    raster_of,
)
from pypty.initialize.experimental_values import read_values, was_flipped
from pypty.initialize.slices import choose_slices, starting_object
from pypty.optics.scan_grid import rotation_yx
from pypty.optics.wavelength import acc_voltage_kV, wavelength_A
from pypty.params.report import Report

GOLDEN = Path(__file__).parent / "data" / "initialize_golden.npz"


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def disk(shape: tuple[int, int] = (16, 16), radius: float = 4.2) -> np.ndarray:
    y, x = (np.arange(n) - n // 2 for n in shape)
    return (np.hypot(y[:, None], x[None, :]) <= radius) * 10.0


def experiment(**changes: Any) -> dict[str, Any]:
    """A rectangular scan of 4 x 5 points."""
    given = {
        "dataset": np.broadcast_to(disk(), (4, 5, 16, 16)),
        "acc_voltage": 80.0,
        "rez_pixel_size_A": 0.1,
        "scan_step_A": 0.5,
        "PLRotation_deg": 0.0,
    }
    return {**given, **changes}


@pytest.mark.parametrize(("mode", "pixel_A"), [("crop", 1 / (0.1 * 32)), ("resample", 1 / (0.1 * 16))])
def test_window_of_the_simulated_pattern(mode: str, pixel_A: float) -> None:
    """crop: 32 pixels of the pattern's size reach further; resample: they cover the pattern's own angles."""
    given = experiment(simu_Npix=32, simu_match_mode=mode, num_obj_modes=1, total_thickness=100.0)
    out = append_exp_params({**given, "slice_thickness": "auto"})
    assert out["data_pad"] == 0
    assert out["aperture_mask"].shape == (32, 32)
    assert (out["pixel_size_y_A"], out["pixel_size_x_A"]) == pytest.approx((pixel_A, pixel_A))
    reach = np.round(out["positions"]).astype(int).max(axis=0) + 32
    assert out["obj"].shape[:2] == tuple(reach)
    plain = append_exp_params(experiment(data_pad=0, total_thickness=100.0, slice_thickness="auto"))
    assert out["num_slices"] == plain["num_slices"]  # from the angles of the measured pattern
    assert pypty.check(out)


def test_a_resampled_pattern_has_larger_pixels() -> None:
    out = append_exp_params(experiment(data_resample=0.5, data_pad=2))
    assert out["pixel_size_x_A"] == pytest.approx(1 / (0.2 * 12)) and out["aperture_mask"].shape == (12, 12)
    assert out["rez_pixel_size_A"] == pytest.approx(0.1)


@pytest.mark.parametrize("setup", [0, 1, 2])
def test_golden(setup: int) -> None:
    """PyPty computes the wavelength with h c = 12.4 keV Å: here the voltage is changed to give that wavelength.

    Deviating on purpose: num_slices is used (PyPty's file 0 has 7 slices although 3 were given); with
    upsample_pattern 2 (file 2) rez_pixel_size_A stays that of the detector, and the aperture consists of whole detector
    pixels, where PyPty interpolates the pattern on a stretched grid.
    """
    z = golden()
    given = json.loads(str(z[f"params{setup}_json"]))
    voltage = acc_voltage_kV(12.4 / np.sqrt(given["acc_voltage"] * (given["acc_voltage"] + 1022)))
    given |= {"acc_voltage": voltage, "output_folder": "", "scan_size": [12, 14]}
    if setup == 0:
        given.pop("num_slices")  # "auto" counts then
    given["dataset"] = np.broadcast_to(z["mean_pattern"], (12, 14, 32, 32))
    params = append_exp_params(given)
    up = given["upsample_pattern"]
    assert params["pixel_size_x_A"] == pytest.approx(float(z[f"out{setup}_pixel_size_x_A"]), rel=1e-12)
    assert params["pixel_size_y_A"] == params["pixel_size_x_A"]
    np.testing.assert_allclose(params["positions"], z[f"out{setup}_positions"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(params["slice_distances"], z[f"out{setup}_slice_distances"], rtol=1e-12)
    assert params["num_slices"] == z[f"out{setup}_num_slices"]
    assert params["data_pad"] == z[f"out{setup}_data_pad"]
    assert params["rez_pixel_size_A"] == pytest.approx(
        up * float(z[f"out{setup}_rez_pixel_size_A"]), rel=1e-12
    )
    np.testing.assert_allclose(params["mean_pattern"], z["mean_pattern"], rtol=1e-12)
    expected = z[f"out{setup}_aperture_mask"]
    if up == 1:
        np.testing.assert_array_equal(params["aperture_mask"], expected)
    else:
        assert params["aperture_mask"].shape == expected.shape
        assert params["aperture_mask"].sum() == pytest.approx(expected.sum(), rel=0.1)
    assert pypty.check(params)


def test_exact_wavelength_without_adjustment() -> None:
    """PyPty's wavelength is 1.3e-4 too large here: 12.4 for h c, and 511 keV."""
    z = golden()
    given = json.loads(str(z["params0_json"])) | {"output_folder": "", "scan_size": [12, 14]}
    given["dataset"] = np.broadcast_to(z["mean_pattern"], (12, 14, 32, 32))
    params = append_exp_params(given)
    ratio = params["pixel_size_x_A"] / float(z["out0_pixel_size_x_A"])
    assert 1e-4 < abs(ratio - 1) < 2e-4


def test_result_is_usable_and_nothing_given_is_changed() -> None:
    given = experiment(aberrations=[1.0, 2.0, 3.0], defocus=40, sample_name="MoS2", chemical_fomula="MoS2")
    before = dict(given)
    base = {"epoch_max": 7, "num_slices": 2, "slice_distances": np.array([11.0])}
    params = append_exp_params(given, base)
    assert given == before
    assert base == {"epoch_max": 7, "num_slices": 2, "slice_distances": np.array([11.0])}
    assert pypty.check(params)
    assert params["epoch_max"] == 7
    assert params["num_slices"] == 2
    assert params["slice_distances"] == 11
    assert params["obj"].shape == (1, 1, 2, 1)
    assert params["extra_probe_defocus"] == 40
    np.testing.assert_array_equal(params["aberrations"], [1, 2, 3])
    assert (params["sample_name"], params["chemical_formula"]) == ("MoS2", "MoS2")
    assert params["scan_size"] == (4, 5)


def test_a_reconstruction_runs_from_it() -> None:
    result = pypty.run(append_exp_params(experiment(), {"epoch_max": 1, "print_flag": 0, "warmup_epochs": 0}))
    assert result.obj.ndim == 4
    assert np.isfinite(result.loss).all()


def test_positions_have_the_sign_of_the_rotation() -> None:
    params = append_exp_params(
        experiment(PLRotation_deg=25.0, transform_axis_matrix=[[1.0, 0.1], [0.0, 0.9]])
    )
    pixel = np.array([params["pixel_size_y_A"], params["pixel_size_x_A"]])
    points = (params["positions"] * pixel).reshape(4, 5, 2)
    matrix = rotation_yx(25.0) @ np.array([[1.0, 0.1], [0.0, 0.9]]) * 0.5
    np.testing.assert_allclose(points[1, 0] - points[0, 0], matrix @ [1, 0], atol=1e-12)
    np.testing.assert_allclose(points[0, 1] - points[0, 0], matrix @ [0, 1], atol=1e-12)
    np.testing.assert_allclose(params["positions"].min(axis=0), 0, atol=1e-12)


def test_rectangular_patterns_have_their_own_pixels() -> None:
    data = np.broadcast_to(disk((12, 20)), (20, 12, 20))
    params = append_exp_params(experiment(dataset=data, scan_size=(4, 5), data_pad=2))
    assert params["pixel_size_y_A"] == pytest.approx(1 / (0.1 * 16))
    assert params["pixel_size_x_A"] == pytest.approx(1 / (0.1 * 24))
    assert params["aperture_mask"].shape == (16, 24)
    assert pypty.check(params)


@pytest.mark.parametrize("binning", [1, 2])
def test_the_disk_gives_the_pixel(binning: int) -> None:
    given = experiment(conv_semiangle_mrad=20.0, data_bin=binning, bright_threshold=0.5)
    del given["rez_pixel_size_A"]
    params = append_exp_params(given)
    small = (
        disk()[: 16 // binning * binning].reshape(16 // binning, binning, 16 // binning, binning).sum((1, 3))
    )
    radius = np.sqrt((small > 0.5 * small.max()).sum() / np.pi)
    expected = 0.020 / (radius * wavelength_A(80)) / binning
    assert params["rez_pixel_size_A"] == pytest.approx(expected, rel=1e-12)
    assert params["pixel_size_x_A"] == pytest.approx(
        1 / (expected * binning * params["aperture_mask"].shape[1])
    )
    assert pypty.check(params)


def test_one_source_of_the_pixel() -> None:
    params = append_exp_params(experiment(rez_pixel_size_mrad=2.0), {"rez_pixel_size_mrad": 9.0})
    assert params["rez_pixel_size_A"] == pytest.approx(2e-3 / wavelength_A(80))
    assert "rez_pixel_size_mrad" not in params
    given = experiment(conv_semiangle_mrad=20.0)
    del given["rez_pixel_size_A"]
    fresh, stale = append_exp_params(given), append_exp_params(given, {"rez_pixel_size_A": 0.5})
    assert stale["rez_pixel_size_A"] == fresh["rez_pixel_size_A"]


@pytest.mark.parametrize(
    ("given", "slices", "distance"),
    [
        ({}, 1, 1.0),
        ({"num_slices": 3, "total_thickness": 60}, 3, 20.0),
        ({"num_slices": 3, "total_thickness": 60, "slice_thickness": "auto"}, 3, 20.0),
        ({"num_slices": 3, "total_thickness": 60, "slice_thickness": 10}, 6, 10.0),
        ({"total_thickness": 60, "slice_thickness": 11}, 6, 10.0),
        ({"total_thickness": 60, "slice_thickness": None}, 1, 60.0),
        ({"total_thickness": 60, "conv_semiangle_mrad": 30}, 3, 20.0),  # 0.5/(0.030 * 0.8) = 20.8 Å
    ],
)
def test_number_of_slices(given: dict[str, Any], slices: int, distance: float) -> None:
    params = append_exp_params(experiment(**given))
    assert params["num_slices"] == slices
    np.testing.assert_allclose(params["slice_distances"], distance)
    assert params["obj"].shape[2] == slices


def test_step_from_the_field_of_view_of_the_fast_axis() -> None:
    given = experiment(fov_nm=2.0)
    del given["scan_step_A"]
    assert append_exp_params(given)["scan_step_A"] == pytest.approx(20 / 4)  # five columns
    with pytest.raises(ParameterError, match="column"):
        append_exp_params({**given, "dataset": given["dataset"].reshape(20, 1, 16, 16)})


def test_metadata_of_nion_swift(tmp_path: Path) -> None:
    path = tmp_path / "scan.json"
    tree = {
        "metadata": {
            "instrument": {"high_tension_v": 100000.0, "defocus": -5e-9},
            "scan": {"scan_size": [4, 5], "fov_nm": 2.0},
        }
    }
    path.write_text(json.dumps(tree))
    given = experiment(path_json=str(path), dataset=np.broadcast_to(disk(), (20, 16, 16)))
    del given["acc_voltage"], given["scan_step_A"]
    params = append_exp_params(given)
    assert params["acc_voltage"] == 100
    assert params["scan_size"] == (4, 5)
    assert params["scan_step_A"] == pytest.approx(
        20 / 5
    )  # Nion's field of view has as many pixels as the longer side
    assert params["extra_probe_defocus"] == pytest.approx(50)
    assert append_exp_params({**given, "acc_voltage": 60})["acc_voltage"] == 60
    path.write_text("{")
    with pytest.raises(DataError, match="JSON"):
        append_exp_params(given)


def test_virtual_detectors() -> None:
    """Sums over nine square masks; the centre of mass of the sums gives the rotation."""
    rng = np.random.default_rng(2)
    masks = np.zeros((9, 15, 15))
    for k in range(9):
        masks[k, k // 3 * 5 : k // 3 * 5 + 5, k % 3 * 5 : k % 3 * 5 + 5] = 1
    data = rng.poisson(50, (20, 9)) * np.where(np.arange(9) == 4, 10, 1)
    params = append_exp_params(experiment(dataset=data, masks=masks, scan_size=(4, 5), PLRotation_deg="auto"))
    assert "algorithm" not in params, "the run chooses, by whether these are counts"
    assert params["mean_pattern"].shape == (15, 15)
    assert params["aperture_mask"].shape == (15 + 2 * 4,) * 2
    assert params["comx"].shape == (20,)
    weights = data / data.sum(axis=1, keepdims=True)
    expected = weights @ (np.arange(9) % 3 * 5 - 5)
    np.testing.assert_allclose(params["comx"], expected - expected.mean(), atol=1e-12)
    assert pypty.check(params)


def test_dead_and_hot_pixels_do_not_count(caplog: pytest.LogCaptureFixture) -> None:
    plain = append_exp_params(experiment(PLRotation_deg="auto"))
    data = np.array(experiment()["dataset"], np.float32)
    mask = np.ones((16, 16))
    mask[3, 4] = 0
    data[..., 3, 4] = 1e6
    masked = append_exp_params(experiment(PLRotation_deg="auto", dataset=data, detector_mask=mask))
    data[..., 3, 4] = np.nan
    nan = append_exp_params(experiment(PLRotation_deg="auto", dataset=data, detector_mask="nan"))
    for found in (masked, nan):
        for name in ("aperture_mask", "mean_pattern", "comx", "positions"):
            np.testing.assert_array_equal(found[name], plain[name])
        assert pypty.check(found)
    with pytest.raises(ParameterError, match="detector_mask"):
        append_exp_params(experiment(detector_mask=np.ones((3, 3))))


def test_special_positions_are_only_scaled() -> None:
    points = np.random.default_rng(0).uniform(-3, 9, (20, 2))
    for key in ("special_postions_A", "special_positions_A"):
        params = append_exp_params(
            experiment(dataset=np.broadcast_to(disk(), (20, 16, 16)), PLRotation_deg="auto", **{key: points})
        )
        np.testing.assert_allclose(
            params["positions"] * params["pixel_size_x_A"], points - points.min(axis=0), atol=1e-12
        )
        assert params["PLRotation_deg"] == 0
        assert pypty.check(params)


def test_random_object_modes() -> None:
    given = experiment(num_obj_modes=2, obj_phase_sigma=0.3, num_slices=3, total_thickness=30)
    params = append_exp_params(given)
    window = np.array(params["aperture_mask"].shape)
    shape = np.round(params["positions"]).max(axis=0).astype(int) + window
    assert params["obj"].shape == (*shape, 3, 2)
    np.testing.assert_allclose(np.abs(params["obj"]), 1)
    assert np.angle(params["obj"]).std() == pytest.approx(0.3, rel=0.05)
    np.testing.assert_array_equal(params["obj"], append_exp_params(given)["obj"])
    assert pypty.check(params)


def test_probe_of_a_preset_is_kept_or_erased() -> None:
    probe = np.ones((24, 24, 1), complex)
    assert append_exp_params(experiment(), {"probe": probe})["probe"] is probe
    assert "probe" not in append_exp_params(experiment(erase_probe=True), {"probe": probe})


def test_an_aperture_that_is_given() -> None:
    mask = disk(radius=2.0) > 0
    params = append_exp_params(experiment(aperture=mask, data_pad=3))
    np.testing.assert_array_equal(params["aperture_mask"][3:-3, 3:-3], mask)
    with pytest.raises(ParameterError, match="aperture"):
        append_exp_params(experiment(aperture=mask[:5]))


def test_arrays_are_saved_where_a_folder_is_given(tmp_path: Path) -> None:
    append_exp_params(experiment(output_folder=str(tmp_path / "a"), PLRotation_deg="auto"))
    names = {path.stem for path in (tmp_path / "a" / "preprocessing").iterdir()}
    assert names == {"mean_pattern", "aperture_mask", "positions", "comx", "comy"}
    append_exp_params(experiment(output_folder=str(tmp_path / "b"), save_preprocessing_files=False))
    assert not (tmp_path / "b").exists()


def test_patterns_are_not_flipped_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pypty.initialize.create_pypty_data(
        np.broadcast_to(disk(), (4, 5, 16, 16)), tmp_path / "a.h5", flip_ky=True
    )
    given = experiment(data_path=str(path), flip_ky=True, scan_size=(4, 5))
    del given["dataset"]
    params = append_exp_params(given)
    assert params["flip_ky"] is False
    assert "already flipped when it was written" in caplog.text


def test_calibration_of_an_imported_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "imported.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.broadcast_to(disk(), (20, 16, 16))
        group = file.create_group("pypty")
        group.attrs.update(
            {"acc_voltage": 200.0, "scan_size": [4, 5], "scan_step_A": 0.7, "rez_pixel_size_A": 0.2}
        )
    params = append_exp_params({"data_path": str(path), "PLRotation_deg": 0.0, "scan_step_A": 0.9})
    assert (params["acc_voltage"], params["scan_step_A"], params["rez_pixel_size_A"]) == (200, 0.9, 0.2)


def test_a_square_is_guessed_aloud(caplog: pytest.LogCaptureFixture) -> None:
    params = append_exp_params(experiment(dataset=np.broadcast_to(disk(), (16, 16, 16))))
    assert params["scan_size"] == (4, 4)
    assert "assumed to be a square" in caplog.text
    with caplog.at_level(logging.WARNING):
        given = experiment(plot=True)
        del given["acc_voltage"]
        assert append_exp_params(given)["acc_voltage"] == 60
    assert "60 kV is assumed" in caplog.text
    assert "plot" in caplog.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scan_stepA": 1}, "did you mean 'scan_step_A'"),
        ({"positions": np.zeros((20, 2))}, "computed here"),
        ({"rez_pixel_size_A": None}, "pixel size of the detector is unknown"),
        ({"rez_pixel_size_A": -0.1}, "rez_pixel_size_A: given -0.1, expected a positive"),
        ({"scan_step_A": None}, "neither scan_step_A nor fov_nm"),
        ({"scan_step_A": 0.0}, "scan_step_A"),
        ({"fov_nm": -1.0}, "fov_nm"),
        ({"num_obj_modes": 2, "obj_phase_sigma": -1.0}, "obj_phase_sigma"),
        ({"transform_axis_matrix": [[1, 0], [0]]}, "transform_axis_matrix"),
        ({"transform_axis_matrix": [[1, 0], [0, "x"]]}, "transform_axis_matrix"),
        ({"special_postions_A": "x"}, "special_postions_A"),
        ({"defocus": [1, 2]}, "defocus"),
        ({"dataset": None, "data_path": 5}, "data_path"),
        ({"path_json": 3}, "path_json"),
        ({"scan_size": (4, 4)}, "16 points"),
        ({"PLRotation_deg": "later"}, "PLRotation_deg"),
        ({"transform_axis_matrix": [1, 0]}, "transform_axis_matrix"),
        ({"special_postions_A": np.zeros((3, 2))}, "special_postions_A"),
        ({"slice_thickness": "thin"}, "slice_thickness"),
        ({"slice_thickness": 0}, "slice_thickness"),
        ({"total_thickness": -5}, "total_thickness"),
        ({"num_slices": 0}, "num_slices"),
        ({"num_obj_modes": -1}, "num_obj_modes"),
        ({"dataset": None}, "no patterns"),
        ({"dataset": np.zeros((4, 5, 16, 16))}, "no counts"),
        ({"dataset": np.ones((7, 8, 8))}, "do not form a square"),
        ({"algorithm": "best"}, "algorithm"),
    ],
)
def test_what_is_missing_or_wrong_is_said(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        append_exp_params({**experiment(), **changes})


def test_all_problems_are_reported_in_one_round() -> None:
    """Of the experiment, of the parameters that it is added to, and of the data."""
    bad = {"scan_size": (3, 3), "acc_voltag": 80, "rez_pixel_size_A": -1, "slice_thickness": "thin"}
    bad |= {
        "PLRotation_deg": "later",
        "transform_axis_matrix": [1, 0],
        "scan_step_A": None,
        "positions": [[0, 0]],
    }
    with pytest.raises(ParameterError) as raised:
        append_exp_params(
            {**experiment(), **bad}, {"epoch_mx": 3, "hist_length": -1, "update_obj": "lambda x: x+"}
        )
    text = str(raised.value)
    for word in (
        *(
            "9 points",
            "acc_voltag",
            "rez_pixel_size_A",
            "slice_thickness",
            "PLRotation_deg",
            "neither scan_step_A",
        ),
        *("transform_axis_matrix", "positions", "epoch_mx", "hist_length", "update_obj"),
    ):
        assert word in text
    assert text.startswith("11 problems")


def test_the_size_of_patterns_stored_by_columns(caplog: pytest.LogCaptureFixture) -> None:
    """An oblong scan of 4 rows and 5 columns, whose data have the columns first."""
    stored = np.broadcast_to(disk(), (5, 4, 16, 16))
    params = append_exp_params(experiment(dataset=stored, scan_order="columns"))
    assert params["scan_size"] == (4, 5)
    given = append_exp_params(experiment(dataset=stored, scan_order="columns", scan_size=(4, 5)))
    np.testing.assert_array_equal(params["positions"], given["positions"])
    assert np.ptp(params["positions"][:4, 0]) > 0 == np.ptp(params["positions"][:4, 1])
    assert "are stored as" not in caplog.text


def test_none_is_not_given() -> None:
    params = append_exp_params(experiment(obj_phase_sigma=None), {"num_slices": None})
    assert params["num_slices"] == 1


def test_no_dict() -> None:
    with pytest.raises(ParameterError, match="expected a dict"):
        append_exp_params(["data.h5"])  # type: ignore[arg-type]


def test_what_calibration_found_is_taken_as_it_is() -> None:
    """Its pixel of the reconstruction knows no padding and is computed anew; its aperture counts; a defocus that it
    measured is not added to a nominal one."""
    mask = disk() > 1
    found = {"pixel_size_x_A": 9.0, "pixel_size_y_A": 9.0, "aperture_mask": mask, "data_pad": 4}
    beam = {"aberrations": [50.0], "extra_probe_defocus": 0.0, "defocus": 45.0}
    params = append_exp_params(experiment(**found, **beam))
    assert params["pixel_size_x_A"] == pytest.approx(1 / (0.1 * 24))
    np.testing.assert_array_equal(params["aperture_mask"][4:-4, 4:-4] > 0.5, mask)
    assert params["aberrations"][0] == 50.0 and params["extra_probe_defocus"] == 0.0
    assert append_exp_params(experiment(defocus=45.0))["extra_probe_defocus"] == 45.0


def test_negative_read_out_noise_does_not_stop_the_parameters() -> None:
    noisy = flat_scan()["dataset"] + np.random.default_rng(0).normal(-0.3, 0.5, (4, 9, 32, 32))
    params = append_exp_params(flat_scan(dataset=noisy, algorithm="poisson_gaussian", PLRotation_deg=0.0))
    assert params["mean_pattern"].min() >= 0 and pypty.check(params)


# --------------------------------------------------------------------------------------------- part by part


def test_numbers_of_incomplete_parameters() -> None:
    given = {
        "pixel_size_y_A": 0.3,
        "pixel_size_x_A": 0.2,
        "positions": [[1, 2], [3, 4], [5, 6], [7, 8]],
        "positions_correction": [[0.1, 0.2]] * 4,
        "masks": np.ones((3, 10, 14)),
        "upsample_pattern": 2,
        "data_pad": 3,
    }
    settings = checked(given)
    assert pixel_yx_A(settings).tolist() == [0.3, 0.2]
    np.testing.assert_allclose(positions_px(settings), np.array(given["positions"]) + [0.1, 0.2])
    assert pattern_shape(settings) == (10, 14) and model_shape(settings) == (26, 34)
    assert model_shape(checked({**given, "aperture_mask": np.ones((8, 9))})) == (8, 9)
    assert model_shape(checked({**given, "simu_Npix": 12})) == (12, 12)
    assert raster_of(settings, given) == (2, 2)
    assert raster_of(checked({**given, "scan_size": [1, 4]}), given) == (1, 4)
    assert raster_of(checked({}), {"dataset": np.ones((3, 5, 2, 2))}) == (3, 5)
    with pytest.raises(ParameterError, match="scan_size is not given"):
        raster_of(checked({}), {})
    with pytest.raises(ParameterError, match="2 problems"):
        checked({"acc_voltage": -1, "data_pad": "a"})
    with pytest.raises(ParameterError, match="epoch_mx"):
        check_all({"epoch_mx": 3})


def test_what_is_given_of_an_experiment() -> None:
    values, known_keys = read_values(
        {"acc_voltage": 80.0, "rez_pixel_size_mrad": 1.0, "chemical_fomula": "MoS2", "fov_nm": 3.0},
        report := Report(),
    )
    assert values["slice_thickness"] == "auto" and values["chemical_formula"] == "MoS2"
    assert {
        "rez_pixel_size_A",
        "rez_pixel_size_mrad",
        "scan_step_A",
        "fov_nm",
    } <= known_keys and "plot" not in known_keys
    moved, _ = read_values(
        {"aperture_mask": np.ones((2, 2)), "pixel_size_x_A": 0.1, "rez_pixel_size_A": 0.1}, report
    )
    assert report and moved["aperture"].shape == (2, 2) and moved.get("pixel_size_x_A") is None
    read_values({"acc_voltag": 80, "pixel_size_x_A": 0.1}, report)
    assert "did you mean 'acc_voltage'" in report.problems[0]
    assert "pixel_size_x_A, which are computed here" in report.problems[1] and len(report.problems) == 2
    with pytest.raises(ParameterError, match="is list, expected a dict"):
        read_values([], report)  # type: ignore[arg-type]


def test_a_file_says_whether_ky_was_reversed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["data"], file["other"] = np.ones(3), np.ones(3)
        file["data"].attrs["flip_ky"] = True
    assert was_flipped(path, "data") and not was_flipped(path, "other") and not was_flipped(path, "none")
    assert not was_flipped(None, "data") and not was_flipped(tmp_path / "b.h5", "data")


@pytest.mark.parametrize(
    ("thickness", "out", "n"),
    [
        (20.0, {"total_thickness": 90.0}, 5),
        (30.0, {"total_thickness": 90.0, "num_slices": 7}, 3),
        (None, {"total_thickness": 90.0, "num_slices": 7}, 7),
        ("auto", {"num_slices": 4}, 4),
        (None, {}, 1),
    ],
)
def test_numbers_of_slices(thickness: Any, out: dict[str, Any], n: int) -> None:
    found = choose_slices({"slice_thickness": thickness, **out}, set(), out, 1.0)
    total = out.get("total_thickness", 1.0)
    assert found["num_slices"] == n and found["slice_distances"] == pytest.approx([total / n])


def test_slices_as_thick_as_the_largest_frequency_allows() -> None:
    """0.5/(alpha k_max) = 0.5/(0.02 x 2 /Å) Å: 12.5 Å."""
    out = {"total_thickness": 60.0, "conv_semiangle_mrad": 20.0, "acc_voltage": 80.0}
    found = choose_slices({"slice_thickness": "auto"}, set(), out, 2.0)
    assert found["num_slices"] == int(np.ceil(60.0 / 12.5))
    kept = choose_slices({"slice_thickness": None}, set(), {"slice_distances": [3.0], "num_slices": 2}, 2.0)
    assert kept == {"num_slices": 2}


def test_a_random_object_covers_the_scan() -> None:
    out = {"num_slices": 2, "positions": np.array([[0.0, 0.0], [4.4, 9.6]]), "seed": 3}
    vacuum = starting_object({"num_obj_modes": None}, out, (8, 6))
    np.testing.assert_array_equal(vacuum, np.ones((1, 1, 2, 1)))
    found = starting_object({"num_obj_modes": 3, "obj_phase_sigma": 0.1}, out, (8, 6))
    assert found.shape == (12, 16, 2, 3)
    np.testing.assert_allclose(np.abs(found), 1)
    assert np.angle(found).std() == pytest.approx(0.1, rel=0.1)
