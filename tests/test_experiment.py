"""The scan as direct methods, calibration and checks see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from calibration_data import flat_disk, flat_scan
from hypothesis import given
from hypothesis import strategies as st

import pypty
from pypty.calibrate.orientation import _nominal_C10
from pypty.errors import DataError, ParameterError
from pypty.experiment import Experiment
from pypty.initialize import append_exp_params
from pypty.optics.scan_grid import rotation_yx, scan_grid_A
from pypty.optics.wavelength import wavelength_A


def params(**changes: Any) -> dict[str, Any]:
    data = np.arange(3 * 4 * 8 * 10, dtype=np.uint16).reshape(3, 4, 8, 10)
    return {"dataset": data, "acc_voltage": 80.0, "scan_step_A": 0.5, "rez_pixel_size_mrad": 2.0, **changes}


def test_patterns_are_read_in_pieces_and_in_order() -> None:
    given = params()
    experiment = Experiment.from_params(given)
    pieces = list(experiment.chunks(largest_bytes=5 * 4 * 8 * 10))
    assert [len(indices) for indices, _ in pieces] == [5, 5, 2]
    together = np.concatenate([patterns for _, patterns in pieces])
    np.testing.assert_array_equal(together, given["dataset"].reshape(12, 8, 10))
    assert together.dtype == np.float32
    np.testing.assert_allclose(experiment.mean_pattern, given["dataset"].mean(axis=(0, 1)))


def test_patterns_are_those_of_the_reconstruction() -> None:
    given = params(flip_ky=True, data_shift_vector=(1, 0), data_bin=2, data_multiplier=3.0)
    experiment = Experiment.from_params(given)
    wanted = given["dataset"].reshape(12, 8, 10)[:, ::-1].astype(float)
    wanted = np.roll(wanted, 1, axis=1)
    wanted[:, 0] = 0
    wanted = 3 * wanted.reshape(12, 4, 2, 5, 2).sum(axis=(2, 4))
    np.testing.assert_allclose(experiment.patterns(np.arange(12)), wanted)
    assert experiment.pixel_mrad == pytest.approx((4.0, 4.0))


def test_reciprocal_pixel_from_each_source() -> None:
    wavelength = wavelength_A(80.0)
    by_angle = Experiment.from_params(params())
    assert by_angle.pixel_1A == pytest.approx((2e-3 / wavelength,) * 2)
    direct = Experiment.from_params(params(rez_pixel_size_mrad=None, rez_pixel_size_A=0.05))
    assert direct.pixel_1A == pytest.approx((0.05, 0.05))
    reconstruction = {"pixel_size_y_A": 0.25, "pixel_size_x_A": 0.2, "data_pad": 2}
    other = Experiment.from_params(params(rez_pixel_size_mrad=None, **reconstruction))
    assert other.pixel_1A == pytest.approx((1 / (0.25 * 12), 1 / (0.2 * 14)))
    fy, fx = by_angle.frequencies_1A
    assert fy[4, 0] == 0 and fx[0, 5] == 0 and fy[0, 0] == pytest.approx(-4 * by_angle.pixel_1A[0])


def test_aperture_from_each_source() -> None:
    padded = np.zeros((12, 14), bool)
    padded[4:8, 5:9] = True
    assert Experiment.from_params(params(aperture_mask=padded, data_pad=2)).aperture.sum() == 16
    assert Experiment.from_params(params(aperture_mask=padded, data_pad=2)).aperture[4, 5]
    by_angle = Experiment.from_params(params(conv_semiangle_mrad=4.1)).aperture
    assert by_angle.sum() == 13 and by_angle[4, 5]  # the pixels at most two pixels from the centre
    by_fraction = Experiment.from_params(params(aperture_mask=0.5)).aperture
    np.testing.assert_array_equal(by_fraction, by_angle)
    by_threshold = Experiment.from_params(params(bright_threshold=0.99))
    mean = by_threshold.mean_pattern
    np.testing.assert_array_equal(by_threshold.aperture, mean > 0.99 * mean.max())


def test_a_small_mask_is_padded() -> None:
    mask = np.ones((4, 4), bool)
    found = Experiment.from_params(params(aperture_mask=mask)).aperture
    assert found.sum() == 16 and found[2:6, 3:7].all()


def test_defocus_belongs_to_the_aberrations() -> None:
    given = params(aberrations=[10.0, 2.0], extra_probe_defocus=5.0)
    np.testing.assert_allclose(Experiment.from_params(given).aberrations_A, [15.0, 2.0])
    np.testing.assert_allclose(given["aberrations"], [10.0, 2.0])
    np.testing.assert_allclose(Experiment.from_params(params()).aberrations_A, [0.0])


def test_scan_size() -> None:
    assert Experiment.from_params(params()).scan_size == (3, 4)
    flat = params(dataset=np.ones((9, 8, 8)))
    assert Experiment.from_params(flat).scan_size == (3, 3)
    with pytest.raises(ParameterError, match="do not form a square; give \\(slow, fast\\)"):
        Experiment.from_params(params(dataset=np.ones((8, 8, 8))))
    with pytest.raises(ParameterError, match="has 10 points, but the data have 12 patterns"):
        Experiment.from_params(params(scan_size=(2, 5)))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"dataset": None}, ParameterError, "no patterns were given"),
        ({"PLRotation_deg": "left"}, ParameterError, "PLRotation_deg is 'left', expected a number"),
        ({"data_path": "nowhere.h5", "dataset": None}, DataError, "no file 'nowhere.h5'"),
        ({"acc_voltage": -1}, ParameterError, "acc_voltage"),
    ],
)
def test_bad_values(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Experiment.from_params(params(**changes))


@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    step=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)),
    angle=st.floats(-180, 180),
)
def test_scan_grid_is_a_rotated_raster(
    size: tuple[int, int], step: tuple[float, float], angle: float
) -> None:
    points = scan_grid_A(size, step, angle).reshape(*size, 2)
    back = points @ rotation_yx(angle)  # R^-1 = R^T, on rows
    np.testing.assert_allclose(
        back[:, :, 0], np.arange(size[0])[:, None] * step[0] + 0 * back[:, :, 0], atol=1e-9
    )
    np.testing.assert_allclose(
        back[:, :, 1], np.arange(size[1])[None, :] * step[1] + 0 * back[:, :, 1], atol=1e-9
    )


def test_sign_of_the_rotation() -> None:
    """x' = x cos a - y sin a, y' = x sin a + y cos a."""
    np.testing.assert_allclose(rotation_yx(90.0) @ [0.0, 1.0], [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(rotation_yx(90.0) @ [1.0, 0.0], [0.0, -1.0], atol=1e-12)
    sheared = scan_grid_A((2, 2), 1.0, 0.0, np.array([[1.0, 0.5], [0.0, 1.0]]))
    np.testing.assert_allclose(sheared[1], [0.5, 1.0])


def test_a_nominal_defocus_has_the_sign_of_C10_everywhere(tmp_path: Path) -> None:
    assert _nominal_C10(Experiment.from_params(flat_scan(defocus=100.0))) == 100.0
    assert append_exp_params(flat_scan(defocus=100.0, PLRotation_deg=0.0))["extra_probe_defocus"] == 100.0
    np.save(tmp_path / "d.npy", flat_scan()["dataset"])
    pypty.readers.import_file(tmp_path / "d.npy", tmp_path / "d.h5", params={"defocus": 100.0})
    assert pypty.readers.params_of(tmp_path / "d.h5")["defocus"] == 100.0


def test_the_aperture_of_upsampled_patterns() -> None:
    params = append_exp_params(flat_scan(upsample_pattern=2, data_pad=8, PLRotation_deg=0.0))
    wanted = flat_disk() > 1
    np.testing.assert_array_equal(Experiment.from_params(params).aperture, wanted)
    mask = pypty.se.get_aperture({**params, "aperture_mask": None})["aperture_mask"]
    np.testing.assert_array_equal(mask, params["aperture_mask"])


@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_the_raster_of_a_file_counts(tmp_path: Path, ending: str) -> None:
    """4 x 9 points are no 6 x 6."""
    path = tmp_path / f"scan{ending}"
    if ending == ".npy":
        np.save(path, flat_scan()["dataset"])
    else:
        with h5py.File(path, "w") as file:
            file["data"] = flat_scan()["dataset"]
    params = flat_scan(dataset=None, data_path=str(path))
    assert Experiment.from_params(params).scan_size == (4, 9)
    assert np.ptp(append_exp_params({**params, "PLRotation_deg": 0.0})["positions"], axis=0)[1] > 0
    assert list(append_exp_params({**params, "PLRotation_deg": 0.0})["scan_size"]) == [4, 9]


def test_masked_pixels_reach_nothing() -> None:
    data, mask = flat_scan()["dataset"].copy(), np.ones((32, 32))
    data[2, 3, 16, 16], data[1, 1, 3, 3], mask[16, 16], mask[3, 3] = np.nan, 1e5, 0, 0
    params = flat_scan(dataset=data, detector_mask=mask, extra_probe_defocus=20.0, conv_semiangle_mrad=12.0)
    image, _ = pypty.tcbf.upsampled_tcbf(params, upsample=1, pad=0)
    assert np.isfinite(image).all()
    _, out = pypty.dpc.fft_based_dpc(params, hpass=1e-3)
    assert np.abs(out["comx"]).max() < 1e-3
    with pytest.raises(DataError, match="NaN or infinite; give detector_mask"):
        pypty.tcbf.upsampled_tcbf({**params, "detector_mask": None}, upsample=1, pad=0)


def test_a_pattern_left_out_of_the_sequence_is_the_mean_of_the_others(tmp_path: Path) -> None:
    data = flat_scan()["dataset"].copy()
    data[2, 3] = np.nan
    with pytest.raises(DataError, match="pattern 21 contains values that are NaN"):
        Experiment.from_params(flat_scan(dataset=data)).patterns(np.arange(36))
    found = Experiment.from_params(flat_scan(dataset=data, sequence=np.delete(np.arange(36), 21)))
    np.testing.assert_allclose(found.patterns(np.arange(36))[21], flat_disk())
    np.testing.assert_allclose(found.mean_pattern, flat_disk())
    pieces = [patterns for _, patterns in found.chunks(largest_bytes=1)]  # one that is left out stands alone
    np.testing.assert_allclose(pieces[21][0], flat_disk())
    np.save(tmp_path / "d.npy", data)
    stored = flat_scan(dataset=None, data_path=str(tmp_path / "d.npy"), sequence=np.delete(np.arange(36), 21))
    np.testing.assert_allclose(Experiment.from_params(stored).patterns(np.array([21]))[0], flat_disk())
    with pytest.raises(ParameterError, match=r"index 40 given, but there are 36 patterns \(0 to 35\)"):
        Experiment.from_params(flat_scan(sequence=[40])).patterns(np.arange(3))


@pytest.mark.parametrize("key", ["acc_voltage", "scan_step_A"])
def test_nothing_is_calibrated_by_a_default(key: str) -> None:
    params = {name: value for name, value in flat_scan().items() if name != key}
    for method in (
        pypty.calibrate.everything,
        pypty.calibrate.defocus,
        pypty.tcbf.upsampled_tcbf,
        pypty.direct.ssb,
    ):
        with pytest.raises(ParameterError, match=f"{key} not given"):
            method(params)


def test_frequencies_of_binned_patterns() -> None:
    """Recorded pixel 16 is zero; bins of two hold 16 and 17, whose middle is half a recorded pixel further."""
    ky, _ = Experiment.from_params(flat_scan(data_bin=2)).frequencies_1A
    pixel = Experiment.from_params(flat_scan()).pixel_1A[0]
    assert ky[8, 0] == pytest.approx(0.5 * pixel) and ky[7, 0] == pytest.approx(-1.5 * pixel)
    ky, _ = Experiment.from_params(flat_scan(data_bin=3)).frequencies_1A  # bins 15, 16, 17
    assert ky[5, 0] == pytest.approx(0)


def test_another_raster_than_the_stored_one_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    append_exp_params(flat_scan(scan_size=[9, 4], PLRotation_deg=0.0))
    assert "the data are stored as (4, 9) points" in caplog.text
    caplog.clear()
    np.save(tmp_path / "d.npy", flat_scan()["dataset"])
    pypty.readers.open_recording(tmp_path / "d.npy", scan_size=(9, 4)).close()
    assert "the data are stored as (4, 9)" in caplog.text
