"""pypty import: from the file of a detector to a calibrated HDF5 file."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from detector_files import (
    AXES,
    DAMAGED,
    NION,
    Limited,
    counts,
    empad,
    write_mat73,
    write_py4dstem,
    write_rsciio,
)

import pypty
from pypty.data.sources import open_source
from pypty.errors import DataError, OutputError, ParameterError, PyptyError
from pypty.experiment import Experiment
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.readers import Metadata, Recording, import_file, open_recording, params_of
from pypty.readers.command import add_arguments, import_command

SY, SX, KY, KX = 3, 4, 6, 5


def npy(folder: Path) -> tuple[Path, np.ndarray]:
    np.save(folder / "a.npy", counts())
    (folder / "a.json").write_text(json.dumps(NION))
    return folder / "a.npy", counts()


def hdf5(folder: Path) -> tuple[Path, np.ndarray]:
    with h5py.File(folder / "in.h5", "w") as file:
        file["anywhere/at/all"] = counts("float32")
    return folder / "in.h5", counts("float32")


def mat5(folder: Path) -> tuple[Path, np.ndarray]:
    scipy.io.savemat(folder / "a.mat", {"cube": counts("uint8").transpose(2, 3, 0, 1)})
    return folder / "a.mat", counts("uint8")


def mat73(folder: Path) -> tuple[Path, np.ndarray]:
    write_mat73(folder / "a.mat", "cube", counts("uint16").transpose(2, 3, 0, 1))
    return folder / "a.mat", counts("uint16")


def empad1(folder: Path) -> tuple[Path, np.ndarray]:
    frames = empad("<f4", 12, 130)
    frames.tofile(folder / "scan_x4_y3.raw")
    return folder / "scan_x4_y3.raw", frames[:, :128]


def empad2(folder: Path) -> tuple[Path, np.ndarray]:
    frames = empad("<u4", 9, 128)
    frames.tofile(folder / "a.raw")
    return folder / "a.raw", frames


def tif(folder: Path) -> tuple[Path, np.ndarray]:
    tifffile = pytest.importorskip("tifffile", reason="extra io: tifffile is not installed")
    stack = counts("uint16", (12, 16, 16))
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", byteorder=">")
    return folder / "a.tif", stack


def zarr(folder: Path) -> tuple[Path, np.ndarray]:
    library = pytest.importorskip("zarr", reason="extra io: zarr is not installed")
    library.open(str(folder / "a.zarr"), mode="w", shape=counts().shape, chunks=(2, 2, KY, KX), dtype="u2")[
        ...
    ] = counts()
    return folder / "a.zarr", counts()


def py4dstem(folder: Path) -> tuple[Path, np.ndarray]:
    write_py4dstem(folder / "cube.h5")
    return folder / "cube.h5", counts("float32")


def rsciio(api: str, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    def build(folder: Path) -> tuple[Path, np.ndarray]:
        write_rsciio(api, folder / name, counts(dtype, shape))
        return folder / name, counts(dtype, shape)

    return build


FORMATS = {
    "npy": npy,
    "hdf5": hdf5,
    "mat5": mat5,
    "mat73": mat73,
    "empad1": empad1,
    "empad2": empad2,
    "tif": tif,
    "zarr": zarr,
    "py4dstem": py4dstem,
    "hspy": rsciio("hspy", "a.hspy", "uint16", (SY, SX, 8, 8)),
    "blo": rsciio("blockfile", "a.blo", "uint8", (SY, SX, 8, 8)),
    "emd": rsciio("emd", "a.emd", "uint16", (SY, SX, 8, 8)),
    "nxs": rsciio("nexus", "a.nxs", "uint16", (SY, SX, 8, 8)),
    "tvips": rsciio("tvips", "a_000.tvips", "uint16", (12, 8, 8)),
    "mrcz": rsciio("mrcz", "a.mrcz", "uint16", (12, 8, 8)),
    "rpl": rsciio("ripple", "a.rpl", "uint16", (12, 8, 8)),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_format_becomes_the_same_file(tmp_path: Path, name: str) -> None:
    """Patterns keep their values and type, and PyPty reads them by the parameters of the file."""
    path, expected = FORMATS[name](tmp_path)
    written = import_file(path, tmp_path / "out.h5", params={"acc_voltage": 80})
    flat = expected.reshape(-1, *expected.shape[-2:])
    with h5py.File(written) as file:
        assert file["data"].dtype == flat.dtype.newbyteorder("=")
        np.testing.assert_array_equal(file["data"][()], flat)
        assert file.attrs["acc_voltage_kV"] == 80
        assert file.attrs["source"] == path.name
    report = Report()
    source = open_source(read_parameters(params_of(written), report))
    report.raise_if_any()
    np.testing.assert_array_equal(source.read(np.array([0, 5, len(flat) - 1])), flat[[0, 5, len(flat) - 1]])
    source.close()
    with open_recording(written) as again:  # and is read like any other file
        assert again.metadata.acc_voltage_kV == 80
        assert again.shape == flat.shape


def test_calibration_reaches_the_parameters(tmp_path: Path) -> None:
    path, data = npy(tmp_path)
    written = import_file(
        path, tmp_path / "out.h5", params={"PLRotation_deg": -12.5, "sample_name": "MoS2", "flip_ky": True}
    )
    params = params_of(written)
    assert params == {
        "data_path": str(written),
        "data_key": "data",
        "acc_voltage": 60.0,
        "rez_pixel_size_mrad": 0.5,
        "scan_step_A": 0.5,
        "scan_size": (SY, SX),
        "fov_nm": 0.2,
        "defocus": -50.0,
        "PLRotation_deg": -12.5,
        "sample_name": "MoS2",
        "flip_ky": True,
    }
    problems = str(pypty.check(params)).splitlines()
    assert len(problems) == 2 and "positions" in problems[1]  # which a file of a detector cannot know
    experiment = Experiment.from_params(params)
    assert experiment.scan_size == (SY, SX)
    assert experiment.pixel_mrad[0] == pytest.approx(0.5)
    assert experiment.rotation_deg == -12.5
    np.testing.assert_array_equal(experiment.patterns(np.array([1]))[0], data[0, 1][::-1])
    experiment.source.close()
    with h5py.File(written) as file:
        assert file.attrs["rez_pixel_size_mrad"] == 0.5 and file.attrs["defocus_A"] == 50.0
        assert file["data"].attrs["units"] == "counts"


def test_a_pixel_that_is_given_replaces_the_files_in_any_unit(tmp_path: Path) -> None:
    path, _ = npy(tmp_path)
    params = params_of(import_file(path, tmp_path / "out.h5", params={"rez_pixel_size_A": 0.03}))
    assert params["rez_pixel_size_A"] == 0.03 and "rez_pixel_size_mrad" not in params


def test_patterns_are_transposed_cropped_and_binned(tmp_path: Path) -> None:
    data = counts("uint16", (12, 8, 6))
    metadata = Metadata(rez_pixel_size_A=0.01, beam_centre_px=(4.0, 2.0))
    written = import_file(
        Recording(data, "array", metadata), tmp_path / "out.h5", swap_axes=True, crop=(0, 4, 1, 8), bin=2
    )
    turned = data.swapaxes(1, 2)[:, 0:4, 1:7].astype(int)
    expected = turned.reshape(12, 2, 2, 3, 2).sum(axis=(2, 4))
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["data"][()], expected)
        assert file["data"].dtype == np.uint32  # 4 x 65535 does not fit 16 bits
        assert file.attrs["rez_pixel_size_A"] == 0.02
        # Pixel 2 is the first of the second block: a quarter of a large pixel before its centre.
        np.testing.assert_allclose(file.attrs["beam_centre_px"], [0.75, 1.25])


@pytest.mark.parametrize("compression", [None, "lzf", "gzip"])
def test_chunks_and_compression(tmp_path: Path, compression: str | None) -> None:
    path, expected = hdf5(tmp_path)
    written = import_file(path, tmp_path / "out.h5", compression=compression, patterns_per_chunk=5)
    with h5py.File(written) as file:
        assert file["data"].chunks == (5, KY, KX)
        assert file["data"].compression == compression
        np.testing.assert_array_equal(file["data"][()], expected.reshape(-1, KY, KX))


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing larger than the bound is read at once, and each pattern once."""
    monkeypatch.setattr(Recording.chunks, "__defaults__", (10 * 1024,))
    for shape, step in (((200, 16, 16), 20), ((20, 10, 16, 16), 20), ((4, 50, 16, 16), 20)):
        array = Limited(counts("uint16", shape))
        written = import_file(Recording(array, "array"), tmp_path / "out.h5", overwrite=True)
        assert array.largest <= 10 * 1024
        assert array.reads == math.ceil(shape[0] / step) if len(shape) == 3 else array.reads <= 12
        with h5py.File(written) as file:
            np.testing.assert_array_equal(file["data"][()], array.array.reshape(-1, 16, 16))


def test_a_file_is_seen_complete_or_not_at_all(tmp_path: Path) -> None:
    class Fails(Limited):
        def __getitem__(self, key: Any) -> np.ndarray:
            assert not (tmp_path / "out.h5").exists()
            assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
            raise OSError("disk pulled out")

    with pytest.raises(DataError, match="disk pulled out"):
        import_file(Recording(Fails(counts()), "array"), tmp_path / "out.h5")
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept(tmp_path: Path) -> None:
    path, expected = hdf5(tmp_path)
    target = tmp_path / "out.h5"
    target.write_text("precious")
    with pytest.raises(OutputError, match=r"exists.*--overwrite"):
        import_file(path, target)
    with pytest.raises(DataError, match="all values are zero"):
        import_file(Recording(np.zeros((4, 3, 3)), "array"), target, overwrite=True)
    assert target.read_text() == "precious"
    import_file(path, target, overwrite=True)
    assert params_of(target)["scan_size"] == (SY, SX)
    with pytest.raises(OutputError, match="is the file that is imported"):
        import_file(target, target, overwrite=True)
    assert h5py.File(target)["data"].shape == (SY * SX, KY, KX)
    with pytest.raises(OutputError, match="does not exist"):
        import_file(path, tmp_path / "nowhere" / "out.h5")
    assert expected.size


def test_a_disk_that_is_full_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(28, "No space left on device")

    path, _ = hdf5(tmp_path)
    monkeypatch.setattr("pypty.readers.importing.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        import_file(path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists() and not list(tmp_path.glob(".*"))


def test_values_that_are_not_finite_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = counts("float32", (4, 3, 3))
    data[1, 2, 2] = np.nan
    written = import_file(Recording(data, "array"), tmp_path / "out.h5")
    assert "1 values are NaN" in caplog.text
    np.testing.assert_array_equal(h5py.File(written)["data"][()], data)
    with pytest.raises(DataError, match="not finite"):
        import_file(Recording(np.full((4, 3, 3), np.nan), "array"), tmp_path / "other.h5")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bin": 0}, "bin is 0"),
        ({"bin": 7}, "leaves no pixel"),
        ({"bin": True}, "bin is True"),
        ({"patterns_per_chunk": 1.5}, "patterns_per_chunk"),
        ({"compression": "zip"}, "'lzf' or 'gzip'"),
        ({"crop": (0, 9, 0, 4)}, "crop is"),
        ({"crop": (3, 3, 0, 4)}, "crop is"),
        ({"crop": (0, 4)}, "crop is"),
        ({"params": {"acc_voltag": 80}}, "acc_voltage"),
        ({"params": {"acc_voltage": "80 kV"}}, "acc_voltage"),
        ({"params": {"rez_pixel_size_mrad": -1}}, "rez_pixel_size_mrad = -1"),
        ({"params": {"conv_semiangle_mrad": math.nan}}, "conv_semiangle_mrad"),
        ({"params": {"data_path": "other.h5"}}, "data_path"),
        ({"params": {"obj": np.ones((200, 200, 1, 1), complex)}}, "obj"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path, _ = hdf5(tmp_path)
    with pytest.raises(ParameterError, match=said):
        import_file(path, tmp_path / "out.h5", **options)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_scan_with_other_points_is_refused(tmp_path: Path) -> None:
    path, _ = hdf5(tmp_path)
    with pytest.raises(DataError, match="25 points"):
        import_file(path, tmp_path / "out.h5", params={"scan_size": (5, 5)})
    assert params_of(import_file(path, tmp_path / "out.h5", params={"scan_size": (2, 6)}))["scan_size"] == (
        2,
        6,
    )


def test_the_ending_of_the_output(tmp_path: Path) -> None:
    path, _ = hdf5(tmp_path)
    with pytest.raises(ParameterError, match=r"expected \.h5"):
        import_file(path, tmp_path / "out.npy")
    with open_recording(path) as recording, pytest.raises(ParameterError, match="open already"):
        import_file(recording, tmp_path / "out.h5", key="a")


def test_params_of_other_files(tmp_path: Path) -> None:
    path, _ = hdf5(tmp_path)
    with pytest.raises(DataError, match="pypty import"):
        params_of(path)
    with pytest.raises(DataError, match="there is no file"):
        params_of(tmp_path / "nothing.h5")
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="damaged"):
        params_of(path)


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_not_imported(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, and neither a file nor a part of one."""
    build, said = DAMAGED[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    path, options = build(tmp_path / "in")
    with pytest.raises(DataError, match=said):
        import_file(path, tmp_path / "out" / "a.h5", **options)
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------------------------ the command


def command(*arguments: Any) -> str:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return import_command(parser.parse_args([str(one) for one in arguments]))


def test_command(tmp_path: Path) -> None:
    frames = empad("<f4", 12, 130)
    frames.tofile(tmp_path / "a.raw")
    target = tmp_path / "data.h5"
    told = command(
        tmp_path / "a.raw", "-o", target, "--scan-size", 3, 4, "--bin", 2, "--set", "acc_voltage=80", "--set",
        "scan_step_A=0.5", "--crop", 0, 128, 0, 64, "--empad-version", 1, "--compression", "lzf",
    )  # fmt: skip
    assert "12 patterns of 64 x 32 pixels, float32" in told
    assert "scan_size: (3, 4)" in told and "acc_voltage: 80.0" in told
    assert "conv_semiangle_mrad (convergence semi-angle, mrad)" in told
    assert params_of(target)["scan_step_A"] == 0.5
    with pytest.raises(OutputError, match="--overwrite"):
        command(tmp_path / "a.raw", "-o", target, "--scan-size", 3, 4)
    command(tmp_path / "a.raw", "-o", target, "--scan-size", 3, 4, "--overwrite")
    with pytest.raises(PyptyError, match="expected KEY=VALUE"):
        command(tmp_path / "a.raw", "-o", target, "--overwrite", "--set", "acc_voltage")
    with pytest.raises(PyptyError, match="not a square scan"):
        command(tmp_path / "a.raw", "-o", target, "--overwrite")


def test_command_with_a_file_that_points_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.arange(1, 301).reshape(12, 5, 5)
    with h5py.File(tmp_path / "here" / "a.h5", "w") as file:
        file["scan"] = h5py.ExternalLink("../b.h5", "/data")
    asked = (tmp_path / "here" / "a.h5", "-o", tmp_path / "c.h5", "--key", "scan")
    with pytest.raises(DataError, match="--trust-external-links"):
        command(*asked)
    assert not (tmp_path / "c.h5").exists()
    assert "12 patterns of 5 x 5 pixels" in command(*asked, "--trust-external-links")


def test_command_with_a_key_and_axes(tmp_path: Path) -> None:
    path = tmp_path / "in.h5"
    with h5py.File(path, "w") as file:
        file["first"] = file["second"] = counts(shape=(KY, KX, SY, SX))
        file["second"].attrs["voltage_kV"] = math.nan
    with pytest.raises(DataError, match="acc_voltage_kV"):
        command(path, "-o", tmp_path / "out.h5", "--key", "second", "--axes", "ky,kx,sy,sx")
    told = command(
        path, "-o", tmp_path / "out.h5", "--key", "second", "--axes", "ky,kx,sy,sx", "--ignore-metadata"
    )
    assert f"12 patterns of {KY} x {KX}" in told
    assert len(AXES) == 4


def test_the_command_says_what_the_file_does_not(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", counts())
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args(
        [str(tmp_path / "a.npy"), "-o", str(tmp_path / "a.h5"), "--set", "acc_voltage=80"]
    )
    lines = import_command(given).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'a.h5'}: 12 patterns of 6 x 5 pixels, uint16, 0.0 MiB")
    assert any(line.startswith("  acc_voltage: 80") for line in lines)
    start = next(number for number, line in enumerate(lines) if line.startswith("Not in the file"))
    assert lines[start + 1 :] == [
        "  scan_step_A (distance between scan points, Å)",
        "  conv_semiangle_mrad (convergence semi-angle, mrad)",
        "  rez_pixel_size_mrad (pixel of the detector, mrad)",
    ]
    np.save(tmp_path / "b.npy", counts(shape=(12, 6, 5)))
    again = parser.parse_args(
        [str(tmp_path / "b.npy"), "-o", str(tmp_path / "b.h5"), "--set", "rez_pixel_size_A=0.1"]
    )
    text = import_command(again)
    assert (
        "acc_voltage (accelerating voltage, kV)" in text
        and "scan_size (points of the scan, [slow, fast])" in text
    )
    assert "rez_pixel_size_mrad (" not in text
