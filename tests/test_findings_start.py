"""What a review of readers, calibration, direct methods and initialize found, held fast: a test for each mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import pypty
from pypty.calibrate.orientation import _nominal_C10
from pypty.direct_methods.direct import _probe_spectrum
from pypty.direct_methods.numerics.bright_field import subscan_chunks
from pypty.direct_methods.numerics.bright_field_align import turned
from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.errors import DataError, ParameterError
from pypty.experiment import Experiment
from pypty.initialize import append_exp_params, create_pypty_data, get_approx_beam_tilt
from pypty.nexus.patterns import Patterns
from pypty.optics.scan_grid import rotation_yx


def disk(n: int = 32, radius: float = 6.0, centre: tuple[int, int] | None = None) -> np.ndarray:
    y0, x0 = centre or (n // 2, n // 2)
    y, x = np.ogrid[:n, :n]
    return 100.0 * (np.hypot(y - y0, x - x0) < radius)


def scan(**changes: Any) -> dict[str, Any]:
    given = {
        "dataset": np.broadcast_to(disk(), (4, 9, 32, 32)).astype(np.float32),
        "acc_voltage": 80.0,
        "rez_pixel_size_mrad": 2.0,
        "scan_step_A": 0.5,
    }
    return {**given, **changes}


def test_a_nominal_defocus_has_the_sign_of_C10_everywhere(tmp_path: Path) -> None:
    assert _nominal_C10(Experiment.from_params(scan(defocus=100.0))) == 100.0
    assert append_exp_params(scan(defocus=100.0, PLRotation_deg=0.0))["extra_probe_defocus"] == 100.0
    np.save(tmp_path / "d.npy", scan()["dataset"])
    pypty.readers.import_file(tmp_path / "d.npy", tmp_path / "d.h5", params={"defocus": 100.0})
    assert pypty.readers.params_of(tmp_path / "d.h5")["defocus"] == 100.0


@pytest.mark.parametrize("changes", [{"data_bin": 2}, {"data_shift_vector": [-3, 0]}, {"flip_ky": True}])
def test_a_given_mean_pattern_is_that_of_the_recording(changes: dict[str, Any]) -> None:
    pattern = disk(centre=(19, 16)) + 1
    data = np.broadcast_to(pattern, (4, 9, 32, 32)).astype(np.float32)
    measured = _probe_spectrum(Experiment.from_params(scan(dataset=data, **changes)))
    given = _probe_spectrum(Experiment.from_params(scan(dataset=data, mean_pattern=pattern, **changes)))
    np.testing.assert_allclose(given, measured, rtol=1e-6)


def test_the_aperture_of_upsampled_patterns() -> None:
    params = append_exp_params(scan(upsample_pattern=2, data_pad=8, PLRotation_deg=0.0))
    wanted = disk() > 1
    np.testing.assert_array_equal(Experiment.from_params(params).aperture, wanted)
    mask = pypty.se.get_aperture({**params, "aperture_mask": None})["aperture_mask"]
    np.testing.assert_array_equal(mask, params["aperture_mask"])


@pytest.mark.parametrize("ending", [".npy", ".h5"])
def test_the_raster_of_a_file_counts(tmp_path: Path, ending: str) -> None:
    """4 x 9 points are no 6 x 6."""
    path = tmp_path / f"scan{ending}"
    if ending == ".npy":
        np.save(path, scan()["dataset"])
    else:
        with h5py.File(path, "w") as file:
            file["data"] = scan()["dataset"]
    params = scan(dataset=None, data_path=str(path))
    assert Experiment.from_params(params).scan_size == (4, 9)
    assert np.ptp(append_exp_params({**params, "PLRotation_deg": 0.0})["positions"], axis=0)[1] > 0
    assert list(append_exp_params({**params, "PLRotation_deg": 0.0})["scan_size"]) == [4, 9]


def test_masked_pixels_reach_nothing() -> None:
    data, mask = scan()["dataset"].copy(), np.ones((32, 32))
    data[2, 3, 16, 16], data[1, 1, 3, 3], mask[16, 16], mask[3, 3] = np.nan, 1e5, 0, 0
    params = scan(dataset=data, detector_mask=mask, extra_probe_defocus=20.0, conv_semiangle_mrad=12.0)
    image, _ = pypty.tcbf.upsampled_tcbf(params, upsample=1, pad=0)
    assert np.isfinite(image).all()
    _, out = pypty.dpc.fft_based_dpc(params, hpass=1e-3)
    assert np.abs(out["comx"]).max() < 1e-3
    with pytest.raises(DataError, match="NaN or infinite; give detector_mask"):
        pypty.tcbf.upsampled_tcbf({**params, "detector_mask": None}, upsample=1, pad=0)


def test_a_mask_takes_nan_out_of_centres_of_mass() -> None:
    data, mask = np.ones((2, 4, 4)), np.ones((4, 4))
    data[:, 0, 0], mask[0, 0] = np.nan, 0
    found = centres_of_mass([(np.arange(2), data)], (2, 4, 4), mask)
    np.testing.assert_allclose(found, [[(-0.5 * 16 + 2) / 15] * 2] * 2)


def test_a_constant_descan_is_not_lost() -> None:
    """Stored centres have no mean."""
    data = np.broadcast_to(disk(centre=(16, 19)), (4, 9, 32, 32)).astype(np.float32)
    params = append_exp_params(scan(dataset=data, PLRotation_deg=0.0))
    _, stored = pypty.dpc.fft_based_dpc(params, hpass=1e-3)
    assert "comx" in stored
    tilts = get_approx_beam_tilt({**params, **{k: stored[k] for k in ("comx", "comy")}}, power=1)["tilts"]
    np.testing.assert_allclose(np.abs(tilts[:, 5]), 3 * 2e-3, rtol=1e-3)


def test_create_pypty_data_does_not_replace_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "raw.h5"
    with h5py.File(path, "w") as file:
        file["data"] = scan()["dataset"]
    before = path.read_bytes()
    with pytest.raises(ParameterError, match="the file that is read; give another one"):
        create_pypty_data(path, path, bin=2, exist_ok=False)
    with h5py.File(path) as file, pytest.raises(ParameterError, match="the file that is read"):
        create_pypty_data(file["data"], path, exist_ok=False)
    assert path.read_bytes() == before


def test_turning_takes_corrections_along() -> None:
    rng = np.random.default_rng(0)
    positions, correction = rng.uniform(0, 20, (6, 2)), rng.uniform(-1, 1, (6, 2))
    params = {"positions": positions, "positions_correction": correction, "obj": np.ones((50, 50, 2, 1))}
    found = turned(params, 30.0)
    points = (positions + correction) @ rotation_yx(30.0).T
    np.testing.assert_allclose(np.diff(found["positions"], axis=0), np.diff(points, axis=0))
    assert found["positions_correction"] is None and found["obj"].shape == (1, 1, 2, 1)
    assert turned({"positions": positions[:1]}, 30.0) == {}


def test_pieces_outside_a_region_are_passed_over() -> None:
    rows = [(np.arange(8 * r, 8 * r + 8), np.full((8, 2, 2), float(r))) for r in range(8)]
    open_chunks, size = subscan_chunks(lambda: iter(rows), (8, 8), (2, 0, 4, 4))
    pieces = list(open_chunks())
    assert size == (2, 4) and [len(indices) for indices, _ in pieces] == [4, 4]
    np.testing.assert_array_equal(np.concatenate([indices for indices, _ in pieces]), np.arange(8))


def test_sums_over_virtual_detectors_on_a_raster() -> None:
    assert (
        Patterns(path=Path("x"), key="data", shape=(4, 5, 3), dtype=np.dtype("f4"), sums=True).n_patterns
        == 20
    )
    assert Patterns(path=Path("x"), key="data", shape=(4, 5, 3), dtype=np.dtype("f4")).n_patterns == 4


def test_a_pattern_left_out_of_the_sequence_is_the_mean_of_the_others(tmp_path: Path) -> None:
    data = scan()["dataset"].copy()
    data[2, 3] = np.nan
    with pytest.raises(DataError, match="pattern 21 holds values that are NaN"):
        Experiment.from_params(scan(dataset=data)).patterns(np.arange(36))
    found = Experiment.from_params(scan(dataset=data, sequence=np.delete(np.arange(36), 21)))
    np.testing.assert_allclose(found.patterns(np.arange(36))[21], disk())
    np.testing.assert_allclose(found.mean_pattern, disk())
    pieces = [patterns for _, patterns in found.chunks(largest_bytes=1)]  # one that is left out stands alone
    np.testing.assert_allclose(pieces[21][0], disk())
    np.save(tmp_path / "d.npy", data)
    stored = scan(dataset=None, data_path=str(tmp_path / "d.npy"), sequence=np.delete(np.arange(36), 21))
    np.testing.assert_allclose(Experiment.from_params(stored).patterns(np.array([21]))[0], disk())
    with pytest.raises(ParameterError, match="expected some from 0 to 35"):
        Experiment.from_params(scan(sequence=[40])).patterns(np.arange(3))


@pytest.mark.parametrize("key", ["acc_voltage", "scan_step_A"])
def test_nothing_is_calibrated_by_a_default(key: str) -> None:
    params = {name: value for name, value in scan().items() if name != key}
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
    ky, _ = Experiment.from_params(scan(data_bin=2)).frequencies_1A
    pixel = Experiment.from_params(scan()).pixel_1A[0]
    assert ky[8, 0] == pytest.approx(0.5 * pixel) and ky[7, 0] == pytest.approx(-1.5 * pixel)
    ky, _ = Experiment.from_params(scan(data_bin=3)).frequencies_1A  # bins 15, 16, 17
    assert ky[5, 0] == pytest.approx(0)


def test_negative_read_out_noise_does_not_stop_the_parameters() -> None:
    noisy = scan()["dataset"] + np.random.default_rng(0).normal(-0.3, 0.5, (4, 9, 32, 32))
    params = append_exp_params(scan(dataset=noisy, algorithm="poisson_gaussian", PLRotation_deg=0.0))
    assert params["mean_pattern"].min() >= 0 and pypty.check(params)


def test_another_raster_than_the_stored_one_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    append_exp_params(scan(scan_size=[9, 4], PLRotation_deg=0.0))
    assert "the data are stored as (4, 9) points" in caplog.text
    caplog.clear()
    np.save(tmp_path / "d.npy", scan()["dataset"])
    pypty.readers.open_recording(tmp_path / "d.npy", scan_size=(9, 4)).close()
    assert "the data are stored as (4, 9)" in caplog.text


def test_a_rotation_that_the_maps_do_not_tell_is_said(caplog: pytest.LogCaptureFixture) -> None:
    y, x = np.mgrid[:12, :12]
    pypty.dpc.GetPLRotation(np.sin(x / 2.0), np.sin(y / 2.0))
    assert "or half a turn from it" in caplog.text


def test_wrong_types_are_parameter_errors(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected a dict"):
        pypty.calibrate.everything("scan.yaml")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="must be numbers from 0"):
        pypty.dpc.fft_based_dpc(scan(), hpass="a")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="eps is 'a'"):
        pypty.direct.ssb(scan(), eps="a")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="n_aberrations_to_fit is 'a'"):
        pypty.tcbf.run_tcbf_alignment(scan(), n_aberrations_to_fit="a")
    (tmp_path / "p.yaml").write_text("epoch_max: 3\n")
    with pytest.raises(ParameterError, match="need a list of values"):
        pypty.utils.change_params(tmp_path / "p.yaml", ["epoch_max"], 4)
    with pytest.raises(ParameterError, match="is a file of data"):
        pypty.load_preset(_data_file(tmp_path))


def _data_file(folder: Path) -> Path:
    path = folder / "d.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.ones((2, 4, 4))
    return path


def test_a_saved_data_path_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _data_file(tmp_path)
    pypty.utils.save_params("sub/scan.yaml", {"data_path": "d.h5", "epoch_max": 3})
    assert pypty.load_preset("sub/scan.yaml")["data_path"] == str((tmp_path / "d.h5").resolve())


def test_an_expression_that_cannot_be_read_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("update_probe: true\n")
    with pytest.raises(ParameterError, match="update_probe"):
        pypty.utils.change_params(path, "update_probe", "lambda x: x >")
    assert path.read_text() == "update_probe: true\n"
    pypty.utils.change_params(path, "update_probe", "lambda x: x > 3")
    assert pypty.load_preset(path)["update_probe"] == "lambda x: x > 3"


def test_running_a_folder_again_needs_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from problems import small_params

    from pypty.cli import main

    folder = tmp_path / "out"
    pypty.run(small_params(output_folder=str(folder), epoch_max=2))
    before = (folder / "loss.csv").read_text()
    assert main(["run", str(folder)]) == 1
    assert "would be replaced; add --resume" in capsys.readouterr().err
    assert (folder / "loss.csv").read_text() == before
