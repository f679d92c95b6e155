"""Files of detectors: what is read from good ones, and how damaged ones are refused."""

from __future__ import annotations

import importlib
import json
import math
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.errors import DataError
from pypty.readers import Metadata, Recording, open_recording, read_nion_json
from pypty.readers.axes import in_order
from pypty.readers.units import convert, known_unit

SY, SX, KY, KX = 3, 4, 6, 5


def counts(dtype: str = "uint16", shape: tuple[int, ...] = (SY, SX, KY, KX)) -> np.ndarray:
    return (1 + np.arange(math.prod(shape))).reshape(shape).astype(dtype)


def assert_reads(recording: Recording, expected: np.ndarray) -> None:
    """Shape, type, any patterns, and all of them in pieces."""
    flat = expected.reshape(-1, *expected.shape[-2:])
    assert recording.shape == expected.shape
    assert recording.dtype == expected.dtype.newbyteorder("=")
    assert recording.n_patterns == len(flat)
    wanted = np.array([0, 1, len(flat) // 2, len(flat) - 1])
    np.testing.assert_array_equal(recording.read(wanted), flat[wanted])
    for size in (1, 3 * flat[0].nbytes, 2**30):
        pieces = list(recording.chunks(size))
        np.testing.assert_array_equal(
            np.concatenate([indices for indices, _ in pieces]), np.arange(len(flat))
        )
        np.testing.assert_array_equal(np.concatenate([patterns for _, patterns in pieces]), flat)


# ------------------------------------------------------------------------------------------------ units, metadata


@pytest.mark.parametrize(
    ("unit", "kind", "factor"),
    [
        ("Å", "length", 1),
        ("\u212b", "length", 1),
        ("A", "length", 1),
        ("nm", "length", 10),
        ("pm", "length", 0.01),
        ("µm", "length", 1e4),
        ("1/nm", "reciprocal", 0.1),
        ("nm^-1", "reciprocal", 0.1),
        ("nm⁻¹", "reciprocal", 0.1),
        ("$nm^{-1}$", "reciprocal", 0.1),
        (b"A^-1", "reciprocal", 1),
        ("1 / Å", "reciprocal", 1),
        ("mrad", "angle", 1),
        ("rad", "angle", 1e3),
        ("µrad", "angle", 1e-3),
        ("deg", "angle", 1e3 * math.pi / 180),
        ("V", "voltage", 1e-3),
        ("keV", "voltage", 1),
    ],
)
def test_units(unit: Any, kind: str, factor: float) -> None:
    assert known_unit(unit) == (kind, pytest.approx(factor))
    assert convert(2.5, unit, kind) == pytest.approx(2.5 * factor)


@pytest.mark.parametrize("unit", ["", None, "pixels", "px", "<undefined>", "counts", "MRAD"])
def test_unknown_units_say_nothing(unit: Any) -> None:
    assert known_unit(unit) is None
    with pytest.raises(DataError, match="does not measure length"):
        convert(1.0, unit, "length")


def test_metadata_become_parameters() -> None:
    metadata = Metadata(
        acc_voltage_kV=80, conv_semiangle_mrad=0, rotation_deg=-5, scan_size=(np.int64(3), 4), defocus_A=-10
    )
    assert metadata.conv_semiangle_mrad is None  # formats write 0 where nothing is known
    expected = {"acc_voltage": 80.0, "scan_size": (3, 4), "PLRotation_deg": -5.0, "defocus": 10.0}
    assert metadata.params() == expected
    assert Metadata(rez_pixel_size_A=0.1).filled_from(
        Metadata(rez_pixel_size_mrad=3, acc_voltage_kV=60)
    ) == Metadata(rez_pixel_size_A=0.1, acc_voltage_kV=60)


@pytest.mark.parametrize(
    "values",
    [
        {"acc_voltage_kV": math.nan},
        {"acc_voltage_kV": -80},
        {"scan_step_A": math.inf},
        {"rotation_deg": math.nan},
        {"conv_semiangle_mrad": "wide"},
        {"scan_size": (0, 4)},
        {"scan_size": (2.5, 4)},
        {"scan_size": (math.nan, 4)},
        {"scan_size": (4,)},
        {"scan_size": "4x4"},
    ],
)
def test_metadata_refuse_nonsense(values: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(values))):
        Metadata(**values)


# ------------------------------------------------------------------------------------------------ recording and axes


class Limited:
    """An array that can be sliced, and notes how much was asked for at once."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...] | None = None) -> None:
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, chunks
        self.largest, self.reads = 0, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.array[key]
        self.largest, self.reads = max(self.largest, found.nbytes), self.reads + 1
        return found


@settings(max_examples=60, deadline=None)
@given(
    scan=st.one_of(st.tuples(st.integers(1, 20)), st.tuples(st.integers(1, 7), st.integers(1, 7))),
    patterns=st.integers(1, 30),
    own=st.integers(1, 5),
)
def test_pieces_cover_the_scan_and_stay_small(scan: tuple[int, ...], patterns: int, own: int) -> None:
    array = Limited(counts("int32", (*scan, 3, 2)), chunks=(own, *scan[1:], 3, 2))
    recording = Recording(array, "array")
    limit = patterns * 4 * 3 * 2
    indices = np.concatenate([chosen for chosen, _ in recording.chunks(limit)])
    np.testing.assert_array_equal(indices, np.arange(math.prod(scan)))
    assert array.largest <= limit
    if len(scan) == 1 and own <= patterns:  # pieces begin at the file's own chunks
        assert all(chosen[0] % own == 0 for chosen, _ in recording.chunks(limit))


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(["sy", "sx", "ky", "kx"]))
def test_axes_are_put_in_order(order: list[str]) -> None:
    wanted = ("sy", "sx", "ky", "kx")
    expected = counts()
    stored = expected.transpose([wanted.index(name) for name in order])
    assert_reads(Recording(in_order(Limited(stored), ",".join(order), None, "array"), "array"), expected)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(["n", "ky", "kx"]))
def test_axes_of_a_stack_are_put_in_order(order: list[str]) -> None:
    expected = counts(shape=(7, KY, KX))
    stored = expected.transpose([("n", "ky", "kx").index(name) for name in order])
    assert_reads(Recording(in_order(Limited(stored), " ".join(order), None, "array"), "array"), expected)


def test_recording_refuses_wrong_patterns_and_wrong_indices() -> None:
    with pytest.raises(DataError, match="complex"):
        Recording(counts("complex64"), "array")
    recording = Recording(counts(), "array")
    with pytest.raises(DataError, match="there are 12"):
        recording.read(np.array([3, 12]))
    assert recording.read(np.array([], int)).shape == (0, KY, KX)
    assert recording.scan_size == (SY, SX)


# ------------------------------------------------------------------------------------------------ formats by hand


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", counts())
    np.save(tmp_path / "f.npy", np.asfortranarray(counts("float32")))
    np.save(tmp_path / "big.npy", counts(">u2", (12, KY, KX)))
    for name, expected in (("a", counts()), ("f", counts("float32")), ("big", counts(shape=(12, KY, KX)))):
        with open_recording(tmp_path / f"{name}.npy") as recording:
            assert_reads(recording, expected)
    with open_recording(tmp_path / "a.npy", axes="ky,kx,sy,sx", scan_size=(6, 5)) as recording:
        np.testing.assert_array_equal(recording.read(np.array([7])), counts()[:, :, 1, 2][None])
    with open_recording(tmp_path / "big.npy", scan_size=(3, 4)) as recording:
        assert recording.scan_size == (3, 4)


def test_hdf5_finds_the_patterns(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["measured/counts"] = counts()
        file["measured/image"] = counts(shape=(SY, SX))
        file["labels"] = np.array([[[b"a"]]])
        file.attrs["acc_voltage_kV"] = 80.0
        file["measured/counts"].attrs["scan_step_A"] = 0.5
    with open_recording(path) as recording:
        assert_reads(recording, counts())
        expected = {"acc_voltage": 80.0, "scan_step_A": 0.5, "scan_size": (SY, SX)}
        assert recording.metadata.params() == expected
        assert "measured/counts" in recording.name
    with open_recording(path, key="measured") as recording:
        assert recording.shape == (SY, SX, KY, KX)
    with h5py.File(path, "a") as file:
        file["other"] = counts()
    with pytest.raises(DataError, match=r"2 arrays.*measured/counts.*other"):
        open_recording(path)
    with open_recording(path, key="/other", ignore_metadata=True) as recording:
        assert recording.metadata.params() == {"scan_size": (SY, SX)}
    with h5py.File(path, "a") as file:
        file["data"] = counts("float32")
    with open_recording(path) as recording:  # the usual name
        assert recording.dtype == np.float32


def test_matlab_5(tmp_path: Path) -> None:
    """MATLAB shows data(ky, kx, n), and data(ky, kx, iy, ix)."""
    stack = counts("uint16", (7, KY, KY))
    scipy.io.savemat(tmp_path / "s.mat", {"dp": stack.transpose(1, 2, 0), "note": "text", "voltage": 80.0})
    scipy.io.savemat(
        tmp_path / "c.mat", {"cube": counts("single").transpose(2, 3, 0, 1)}, do_compression=True
    )
    scipy.io.savemat(tmp_path / "o.mat", {"cube": counts("float64")})
    with open_recording(tmp_path / "s.mat") as recording:
        assert_reads(recording, stack)
    with open_recording(tmp_path / "c.mat") as recording:
        assert_reads(recording, counts("single"))
    with open_recording(tmp_path / "o.mat", axes="sy,sx,ky,kx") as recording:
        assert_reads(recording, counts("float64"))


def write_mat73(path: Path, name: str, shown: np.ndarray) -> None:
    """As MATLAB does: a header of 512 bytes, and axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = shown.transpose()
        file[name].attrs["MATLAB_class"] = np.bytes_({"u": "uint16", "f": "single"}[shown.dtype.kind])
        file["#refs#/a"] = counts()
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_matlab_73_is_the_same_as_5(tmp_path: Path, dtype: str) -> None:
    shown = counts(dtype, (KY, KX, SY, SX))
    write_mat73(tmp_path / "new.mat", "cube", shown)
    scipy.io.savemat(tmp_path / "old.mat", {"cube": shown})
    for name in ("new", "old"):
        with open_recording(tmp_path / f"{name}.mat") as recording:
            assert_reads(recording, shown.transpose(2, 3, 0, 1))
    with open_recording(tmp_path / "new.mat", axes="kx,ky,sx,sy") as recording:
        np.testing.assert_array_equal(recording.read(np.array([1])), shown[:, :, 1, 0].T[None])


EMPAD_XML = """<?xml version="1.0"?><root><raw_file filename="C:\\data\\scan.raw"/><pix_x>{x}</pix_x><pix_y>{y}</pix_y>
<iom_measurements><calibrated_pixelsize>{pixel}</calibrated_pixelsize><optics><get_full_scan_field_of_view>(4e-9, 4e-9)
</get_full_scan_field_of_view></optics></iom_measurements></root>"""


def empad(dtype: str, n: int, rows: int) -> np.ndarray:
    return np.random.default_rng(1).poisson(50, (n, rows, 128)).astype(dtype)


@pytest.mark.parametrize(("rows", "dtype"), [(130, "<f4"), (128, "<f4"), (128, "<u4")])
def test_empad(tmp_path: Path, rows: int, dtype: str) -> None:
    """The version is found from the number of bytes, the type of version 2 from the values."""
    frames = empad(dtype, 12, rows)
    expected = frames[:, :128].reshape(3, 4, 128, 128)
    for name in ("scan_x4_y3.raw", "plain.raw"):
        frames.tofile(tmp_path / name)
    with open_recording(tmp_path / "scan_x4_y3.raw") as recording:
        assert_reads(recording, expected)
    with open_recording(tmp_path / "plain.raw", scan_size=(3, 4)) as recording:
        assert_reads(recording, expected)
    with pytest.raises(DataError, match="not a square scan"):
        open_recording(tmp_path / "plain.raw")
    frames[:9].tofile(tmp_path / "square.raw")
    with open_recording(tmp_path / "square.raw", version=1 if rows == 130 else 2) as recording:
        assert recording.scan_size == (3, 3)


def test_empad_versions_of_the_same_size(tmp_path: Path) -> None:
    """64 frames of version 1 have as many bytes as 65 of version 2: the scan decides."""
    empad("<f4", 64, 130).tofile(tmp_path / "a.raw")
    with open_recording(tmp_path / "a.raw") as recording:
        assert recording.shape == (8, 8, 128, 128)
    with open_recording(tmp_path / "a.raw", scan_size=(5, 13)) as recording:
        assert recording.shape == (5, 13, 128, 128)


def test_empad_xml(tmp_path: Path) -> None:
    frames = empad("<f4", 12, 130)
    frames.tofile(tmp_path / "scan.raw")
    (tmp_path / "acquisition_1.xml").write_text(EMPAD_XML.format(x=4, y=3, pixel=0.02e-8))
    (tmp_path / "another.xml").write_text("<root/>")
    for name in ("scan.raw", "acquisition_1.xml"):
        with open_recording(tmp_path / name) as recording:
            assert_reads(recording, frames[:, :128].reshape(3, 4, 128, 128))
            assert recording.metadata.scan_step_A == pytest.approx(40 / 4)
            assert recording.metadata.rez_pixel_size_A == pytest.approx(0.02)
            assert recording.metadata.scan_size == (3, 4)
    with pytest.raises(DataError, match="raw_file"):
        open_recording(tmp_path / "another.xml")


def test_tif(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="extra io: tifffile is not installed")
    stack = counts("uint16", (12, 16, 16))
    tifffile.imwrite(tmp_path / "plain.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "big.tif", stack, photometric="minisblack", byteorder=">")
    tifffile.imwrite(tmp_path / "packed.tif", stack, photometric="minisblack", compression="zlib")
    tifffile.imwrite(
        tmp_path / "cube.tif", stack.reshape(3, 4, 16, 16), photometric="minisblack", compression="zlib"
    )
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True)
    for name in ("plain", "big", "packed", "imagej"):
        with open_recording(tmp_path / f"{name}.tif") as recording:
            assert_reads(recording, stack)
    with open_recording(tmp_path / "cube.tif") as recording:
        assert_reads(recording, stack.reshape(3, 4, 16, 16))
    for name in ("plain", "packed"):
        with open_recording(tmp_path / f"{name}.tif", axes="n,kx,ky") as recording:
            assert_reads(recording, stack.swapaxes(1, 2))


def test_zarr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zarr = pytest.importorskip("zarr", reason="extra io: zarr is not installed")
    array = zarr.open(
        str(tmp_path / "a.zarr"), mode="w", shape=(SY, SX, KY, KX), chunks=(1, 2, KY, KX), dtype="u2"
    )
    array[...] = counts()
    with open_recording(tmp_path / "a.zarr") as recording:
        assert_reads(recording, counts())
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    for name in ("first", "second"):
        # zarr 2, the last one for Python 3.10, calls it create_dataset
        create = getattr(group, "create_array", None) or group.create_dataset
        create(name, shape=(12, KY, KX), chunks=(5, KY, KX), dtype="f4")[...] = counts("f4", (12, KY, KX))
    with open_recording(tmp_path / "g.zarr", key="second") as recording:
        assert_reads(recording, counts("f4", (12, KY, KX)))
    with pytest.raises(DataError, match=r"first.*second"):
        open_recording(tmp_path / "g.zarr")
    next(
        path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"
    ).unlink()
    with open_recording(tmp_path / "a.zarr"):
        assert "1 of 6 chunks are missing" in caplog.text


def write_py4dstem(path: Path, q_unit: str = "A^-1", as_attributes: bool = False) -> None:
    """The layout of EMD 1.0, as py4DSTEM 0.13 and 0.14 write it."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "authoring_program": "py4DSTEM"})
        root = file.create_group("datacube_root")
        root.attrs.update({"emd_group_type": "root", "python_class": "Root"})
        cube = root.create_group("datacube")
        cube.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        cube["data"] = counts("float32")
        for axis in range(4):
            cube[f"dim{axis}"] = np.arange(2)
        root["probe/data"] = counts("float32", (2, KY, KX))
        calibration = root.create_group("metadatabundle/calibration")
        values = {"Q_pixel_size": 0.025, "Q_pixel_units": q_unit, "R_pixel_size": 0.5, "R_pixel_units": "nm"}
        for key, value in values.items():
            if as_attributes:
                calibration.attrs[key] = value
            else:
                calibration[key] = value


@pytest.mark.parametrize("as_attributes", [False, True])
def test_py4dstem(tmp_path: Path, as_attributes: bool) -> None:
    path = tmp_path / "a.h5"
    write_py4dstem(path, as_attributes=as_attributes)
    with open_recording(path) as recording:
        assert_reads(recording, counts("float32"))
        expected = {"rez_pixel_size_A": 0.025, "scan_step_A": 5.0, "scan_size": (SY, SX)}
        assert recording.metadata.params() == expected
    write_py4dstem(path, "mrad")
    with open_recording(path) as recording:
        assert recording.metadata.rez_pixel_size_mrad == 0.025
    write_py4dstem(path, "pixels")
    with open_recording(path) as recording:
        assert "rez_pixel_size_A" not in recording.metadata.params()


NION = {
    "spatial_calibrations": [{"scale": 0.05, "units": "nm"}] * 2 + [{"scale": 0.0005, "units": "rad"}] * 2,
    "metadata": {
        "scan": {"scan_size": [SY, SX], "fov_nm": 0.2},
        "instrument": {"high_tension_v": 60000.0, "defocus": 5e-9},
    },
}


def test_nion_json(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", counts(shape=(12, KY, KX)))
    (tmp_path / "a.json").write_text(json.dumps(NION))
    with open_recording(tmp_path / "a.npy") as recording:
        found = recording.metadata.params()
    assert found == {
        "acc_voltage": 60.0,
        "rez_pixel_size_mrad": 0.5,
        "scan_step_A": 0.5,
        "scan_size": (SY, SX),
        "fov_nm": 0.2,
        "defocus": pytest.approx(-50.0),
    }
    plain = {key: value for key, value in NION.items() if key == "metadata"}
    (tmp_path / "b.json").write_text(json.dumps(plain))
    assert read_nion_json(tmp_path / "b.json").scan_step_A == pytest.approx(
        2 / 4
    )  # points of the longer side
    assert open_recording(tmp_path / "a.npy", ignore_metadata=True).metadata == Metadata()
    with pytest.raises(DataError, match="15 points"):
        open_recording(tmp_path / "a.npy", scan_size=(3, 5), metadata_file=tmp_path / "b.json")


# ------------------------------------------------------------------------------------------------ RosettaSciIO

AXES = (("y", SY, 0.05, "nm", True), ("x", SX, 0.05, "nm", True), ("ky", 8, 2.0, "mrad", False),
        ("kx", 8, 2.0, "mrad", False))  # fmt: skip


def signal(data: np.ndarray, offset: float = 0.0) -> dict[str, Any]:
    """A scan as HyperSpy hands it to RosettaSciIO."""
    keys = ("name", "size", "scale", "units", "navigate")
    axes = [dict(zip(keys, axis, strict=True)) for axis in AXES]
    if data.ndim == 3:
        axes = [{**axes[0], "size": len(data)}, *axes[2:]]
    for number, axis in enumerate(axes):
        offset_here = 0.0 if axis["navigate"] else offset
        axis.update({"index_in_array": number, "offset": offset_here, "_type": "UniformDataAxis"})
    return {
        "data": data,
        "axes": axes,
        "metadata": {
            "General": {"title": "scan"},
            "Signal": {"signal_type": "electron_diffraction"},
            "Acquisition_instrument": {"TEM": {"beam_energy": 200.0, "convergence_angle": 21.0}},
            "_HyperSpy": {},
        },
        "original_metadata": {},
        "attributes": {"_lazy": False},
        "package_info": {"name": "hyperspy", "version": "2.0"},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
    }


def write_rsciio(api: str, path: Path, data: np.ndarray, offset: float = 0.0) -> None:
    pytest.importorskip("rsciio", reason="extra io: RosettaSciIO is not installed")
    pytest.importorskip("dask", reason="extra io: dask is not installed")
    module = pytest.importorskip(
        f"rsciio.{api}", reason=f"what RosettaSciIO needs for {path.suffix} is not installed"
    )
    importlib.import_module(module.__name__).file_writer(str(path), signal(data, offset))


BEAM = {"acc_voltage": 200.0, "conv_semiangle_mrad": 21.0}
WRITTEN = {
    "hspy": ("a.hspy", "uint16", 4, {**BEAM, "rez_pixel_size_mrad": 2.0, "scan_step_A": 0.5}),
    "blockfile": ("a.blo", "uint8", 4, {"scan_step_A": 0.5}),  # its detector axes are lengths on the screen
    "emd": ("a.emd", "uint16", 4, {"rez_pixel_size_mrad": 2.0, "scan_step_A": 0.5}),  # EMD 0.2
    "nexus": ("a.nxs", "uint16", 4, {}),  # read as HDF5
    "tvips": ("a_000.tvips", "uint16", 3, {"acc_voltage": 200.0}),
    "mrcz": ("a.mrcz", "uint16", 3, BEAM),
    "ripple": ("a.rpl", "uint16", 3, {"rez_pixel_size_mrad": 2.0}),
}


@pytest.mark.parametrize("api", WRITTEN)
@pytest.mark.filterwarnings("ignore")
def test_formats_of_rosettasciio(tmp_path: Path, api: str) -> None:
    name, dtype, dimensions, params = WRITTEN[api]
    data = counts(dtype, (SY, SX, 8, 8) if dimensions == 4 else (12, 8, 8))
    write_rsciio(api, tmp_path / name, data)
    with open_recording(tmp_path / name) as recording:
        assert_reads(recording, data)
        found = recording.metadata.params()
        if dimensions == 4:
            assert found.pop("scan_size") == (SY, SX)
        assert found == pytest.approx(params)
        assert recording.metadata.beam_centre_px is None


def test_the_centre_of_the_detectors_axes_is_reported(tmp_path: Path) -> None:
    write_rsciio("hspy", tmp_path / "a.hspy", counts("uint8", (SY, SX, 8, 8)), offset=-9.0)
    with open_recording(tmp_path / "a.hspy") as recording:
        assert recording.metadata.beam_centre_px == (4.5, 4.5)


def test_emd_files_of_velox_and_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Velox stores frames last and EMD 0.2 may be reversed: RosettaSciIO knows. Others are plain HDF5."""
    seen: list[Path] = []

    def vendor(path: Path, *arguments: Any) -> Recording:
        seen.append(path)
        return Recording(counts(), str(path))

    monkeypatch.setattr("pypty.readers.opening.open_vendor", vendor)
    for name, attributes, group, expected in (
        ("velox", {}, "Presentation", 1),
        ("emd02", {"version_major": "0"}, "signals", 1),
        ("emd10", {"version_major": 1}, "signals", 0),
        ("plain", {}, "signals", 0),
    ):
        seen.clear()
        with h5py.File(tmp_path / f"{name}.emd", "w") as file:
            file["Data/Image/a"] = counts()
            file.create_group(group)
            file.attrs.update(attributes)
        with open_recording(tmp_path / f"{name}.emd") as recording:
            assert recording.n_patterns == 12
        assert len(seen) == expected
        if name == "emd02":
            with open_recording(tmp_path / "emd02.emd", key="Data/Image/a"):
                assert len(seen) == 1


@dataclass
class Stub:
    """Stands for one reader of RosettaSciIO."""

    signals: list[dict[str, Any]]

    def file_reader(self, name: str, lazy: bool) -> list[dict[str, Any]]:
        assert lazy
        return self.signals


def stub_reader(monkeypatch: pytest.MonkeyPatch, *signals: dict[str, Any]) -> None:
    plugins = Stub(list(signals))
    plugins.IO_PLUGINS = [{"name": "Stub", "file_extensions": ["dm4"], "api": "rsciio.stub"}]  # type: ignore[attr-defined]
    monkeypatch.setattr("pypty.readers.vendor.optional_library", lambda *arguments: plugins)


def test_axes_of_vendors_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detector axes may come first; axes of one entry are dropped; signals are found by their title."""
    path = tmp_path / "a.dm4"
    path.write_bytes(b"anything")
    data = counts("uint16", (SY, SX, 8, 8))
    turned = signal(data.transpose(2, 3, 0, 1))
    turned["axes"] = [{**turned["axes"][(n + 2) % 4], "index_in_array": n} for n in range(4)]
    survey = {
        "data": np.ones((5, 5)),
        "axes": signal(data)["axes"][:2],
        "metadata": {"General": {"title": "survey"}},
    }
    stub_reader(monkeypatch, survey, turned)
    with open_recording(path) as recording:
        assert_reads(recording, data)
        assert recording.metadata.scan_step_A == 0.5
    with pytest.raises(DataError, match=r"survey.*\(5, 5\)"):
        open_recording(path, key="survey2")
    long = signal(data[None])
    long["axes"] = [{"name": "t", "size": 1, "scale": 1.0, "navigate": True}, *signal(data)["axes"]]
    long["axes"] = [{**axis, "index_in_array": n} for n, axis in enumerate(long["axes"])]
    stub_reader(monkeypatch, long)
    with pytest.raises(DataError, match="no array of numbers"):  # five axes must be asked for
        open_recording(path)
    with open_recording(path, key="scan") as recording:
        assert recording.shape == data.shape
    spectra = signal(data)
    spectra["axes"][2]["navigate"] = True
    stub_reader(monkeypatch, spectra)
    with pytest.raises(DataError, match="1 detector axes"):
        open_recording(path)


def test_different_pixels_are_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.dm4"
    path.write_bytes(b"anything")
    oblong = signal(counts("uint16", (SY, SX, 8, 8)))
    oblong["axes"][3]["scale"] = 2.1
    stub_reader(monkeypatch, oblong)
    with open_recording(path) as recording:
        assert "rez_pixel_size_mrad" not in recording.metadata.params()
    assert "different pixels" in caplog.text
    oblong["axes"][2]["scale"] = oblong["axes"][3]["scale"] = math.nan
    with pytest.raises(DataError, match="rez_pixel_size_mrad"):
        open_recording(path)
    with open_recording(path, ignore_metadata=True) as recording:
        assert recording.n_patterns == 12


@pytest.mark.parametrize(("ending", "module"), [(".tif", "tifffile"), (".zarr", "zarr"), (".dm4", "rsciio")])
def test_a_missing_library_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, module: str
) -> None:
    path = tmp_path / f"a{ending}"
    if ending == ".zarr":
        path.mkdir()
        (path / ".zgroup").write_text("{}")
    else:
        path.write_bytes(b"II*\0" + bytes(40))

    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(DataError, match=r"pip install 'pypty\[io\]'"):
        open_recording(path)


# ------------------------------------------------------------------------------------------------ damaged files

Build = Callable[[Path], tuple[Path, dict[str, Any]]]


def npy_bytes(array: np.ndarray, **keywords: Any) -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, array, **keywords)
    return stream.getvalue()


def bytes_file(name: str, content: bytes, **options: Any) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        (folder / name).write_bytes(content)
        return folder / name, options

    return build


def hdf5_bytes(folder: Path) -> bytes:
    with h5py.File(folder / "whole.h5", "w") as file:
        file["data"] = counts()
    return (folder / "whole.h5").read_bytes()


def h5(write: Callable[[Any], None], name: str = "a.h5", **options: Any) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        with h5py.File(folder / name, "w") as file:
            write(file)
        return folder / name, options

    return build


def cut(make: Callable[[Path], Path], fraction: float) -> Build:
    """A file that a good writer made, cut short."""

    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        path = make(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: max(1, int(fraction * len(whole)))])
        return path, {}

    return build


def good_h5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("data", data=counts(), chunks=(1, SX, KY, KX))
    return folder / "a.h5"


def good_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", counts())
    return folder / "a.npy"


def good_mat(folder: Path) -> Path:
    scipy.io.savemat(
        folder / "a.mat", {"cube": np.random.default_rng(0).random((6, 6, 3, 4))}, do_compression=True
    )
    return folder / "a.mat"


def good_mat73(folder: Path) -> Path:
    write_mat73(folder / "a.mat", "cube", counts(shape=(6, 6, 3, 4)))
    return folder / "a.mat"


def good_raw(folder: Path) -> Path:
    empad("<f4", 9, 130).tofile(folder / "a.raw")
    return folder / "a.raw"


def good_tif(folder: Path) -> Path:
    tifffile = pytest.importorskip("tifffile", reason="extra io: tifffile is not installed")
    tifffile.imwrite(folder / "a.tif", counts("uint16", (12, 16, 16)), photometric="minisblack")
    return folder / "a.tif"


def good_packed_tif(folder: Path) -> Path:
    tifffile = pytest.importorskip("tifffile", reason="extra io: tifffile is not installed")
    tifffile.imwrite(
        folder / "a.tif", counts("uint16", (12, 16, 16)), photometric="minisblack", compression="zlib"
    )
    return folder / "a.tif"


def good_blo(folder: Path) -> Path:
    write_rsciio("blockfile", folder / "a.blo", counts("uint8", (SY, SX, 8, 8)))
    return folder / "a.blo"


def good_hspy(folder: Path) -> Path:
    write_rsciio("hspy", folder / "a.hspy", counts("uint8", (SY, SX, 8, 8)))
    return folder / "a.hspy"


def zarr_with(damage: Callable[[Path], None], **options: Any) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        zarr = pytest.importorskip("zarr", reason="extra io: zarr is not installed")
        array = zarr.open(
            str(folder / "a.zarr"), mode="w", shape=(12, KY, KX), chunks=(4, KY, KX), dtype="u2"
        )
        array[...] = counts(shape=(12, KY, KX))
        damage(folder / "a.zarr")
        return folder / "a.zarr", options

    return build


def chunk_files(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("zarr.json", ".zarray")
    ]


def remove_chunks(folder: Path) -> None:
    for path in chunk_files(folder):
        path.unlink()


def spoil_chunk(folder: Path) -> None:
    chunk_files(folder)[0].write_bytes(b"not a chunk")


def spoil_header(folder: Path) -> None:
    next(path for path in folder.rglob("*") if path.name in ("zarr.json", ".zarray")).write_text("{'not json")


def spoilt_h5_chunk(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", data=counts(), chunks=(1, SX, KY, KX), compression="gzip")
        where = data.id.get_chunk_info(1)
    with path.open("r+b") as stream:
        stream.seek(where.byte_offset)
        stream.write(b"\xff" * where.size)
    return path, {}


def wrong_offset_npy(folder: Path) -> tuple[Path, dict[str, Any]]:
    content = bytearray(npy_bytes(counts()))
    content[8:10] = struct.pack("<H", 60000)  # the header is said to be longer than the file
    (folder / "a.npy").write_bytes(content)
    return folder / "a.npy", {}


def with_json(text: str) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        np.save(folder / "a.npy", counts(shape=(12, KY, KX)))
        (folder / "a.json").write_text(text)
        return folder / "a.npy", {}

    return build


def with_xml(text: str) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        good_raw(folder)
        (folder / "a.xml").write_text(text)
        return folder / "a.raw", {}

    return build


def mat(values: dict[str, Any], **options: Any) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        scipy.io.savemat(folder / "a.mat", values)
        return folder / "a.mat", options

    return build


def complex_mat73(folder: Path) -> tuple[Path, dict[str, Any]]:
    pairs = np.zeros((6, 6, 7), dtype=[("real", "f8"), ("imag", "f8")])
    with h5py.File(folder / "a.mat", "w", userblock_size=512) as file:
        file["wave"] = pairs
    with (folder / "a.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    return folder / "a.mat", {"key": "wave"}


def page_tif(folder: Path) -> tuple[Path, dict[str, Any]]:
    tifffile = pytest.importorskip("tifffile", reason="extra io: tifffile is not installed")
    tifffile.imwrite(folder / "a.tif", counts("uint16", (16, 16)))
    return folder / "a.tif", {}


def renamed(make: Callable[[Path], Path], name: str) -> Build:
    def build(folder: Path) -> tuple[Path, dict[str, Any]]:
        return make(folder).rename(folder / name), {}

    return build


def no_file(folder: Path) -> tuple[Path, dict[str, Any]]:
    return folder / "nothing.h5", {}


def a_folder(folder: Path) -> tuple[Path, dict[str, Any]]:
    (folder / "a.zarr").mkdir()
    return folder / "a.zarr", {}


class Danger:
    """Unpickling this would write a file."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("unpickled"),))


TEXT = b"Diffraction patterns of Tuesday, see notebook.\n" * 50
OBJECTS = np.array([[[Danger()]]], dtype=object)

DAMAGED: dict[str, tuple[Build, str]] = {
    "missing": (no_file, "there is no file"),
    "folder": (a_folder, "is a folder"),
    **{
        f"empty {ending}": (bytes_file(f"a{ending}", b""), "is empty")
        for ending in (".h5", ".raw", ".mat", ".dm4")
    },
    **{
        f"text {ending}": (bytes_file(f"a{ending}", TEXT), "expected|something else|not a whole number")
        for ending in (".h5", ".mat", ".tif", ".npy", ".raw", ".zarr", ".emd", ".hspy")
    },
    "text .txt": (bytes_file("a.txt", TEXT), "no reader is known|RosettaSciIO"),
    "text .blo": (bytes_file("a.blo", TEXT), "cannot be read|RosettaSciIO"),
    "text .dm4": (bytes_file("a.dm4", TEXT), "cannot be read|RosettaSciIO"),
    "text .mib": (bytes_file("a.mib", TEXT), "cannot be read|RosettaSciIO"),
    "npy called h5": (renamed(good_npy, "b.h5"), r"content is a NumPy array"),
    "h5 called npy": (renamed(good_h5, "b.npy"), r"content is HDF5"),
    "h5 called mat": (renamed(good_h5, "b.mat"), r"content is HDF5"),
    "npy called raw": (renamed(good_npy, "b.raw"), r"frames without a header"),
    "h5 cut in its data": (cut(good_h5, 0.6), "truncated"),
    "h5 cut in its header": (cut(good_h5, 0.01), "truncated|damaged"),
    "h5 magic only": (bytes_file("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(200)), "damaged|truncated"),
    "h5 spoilt chunk": (spoilt_h5_chunk, "cannot be read"),
    "h5 without patterns": (h5(lambda file: file.create_dataset("image", data=np.ones((4, 4)))), "image"),
    "h5 without anything": (h5(lambda file: None), "holds no arrays"),
    "h5 missing key": (
        h5(lambda file: file.create_dataset("data", data=counts()), key="dp"),
        "no array 'dp'",
    ),
    "h5 complex": (h5(lambda file: file.create_dataset("data", data=counts("c8"))), "complex"),
    "h5 empty axis": (h5(lambda file: file.create_dataset("data", data=np.ones((0, 4, 4)))), "no patterns"),
    "h5 text": (
        h5(lambda file: file.create_dataset("data", data=np.full((2, 2, 2), b"a")), key="data"),
        "does not hold numbers",
    ),
    "h5 image by key": (
        h5(lambda file: file.create_dataset("image", data=np.ones((4, 4))), key="image"),
        "expected 3-D",
    ),
    "h5 NaN voltage": (
        h5(lambda file: file.create_dataset("data", data=counts()).attrs.update({"voltage_kV": math.nan})),
        "acc_voltage_kV = nan",
    ),
    "h5 voltage in words": (
        h5(lambda file: file.create_dataset("data", data=counts()).attrs.update({"voltage_kV": "80 kV"})),
        "acc_voltage_kV = '80 kV'",
    ),
    "h5 wrong scan in it": (
        h5(
            lambda file: file.create_dataset("data", data=counts(shape=(9, 4, 4))).attrs.update(
                {"scan_shape": [2, 4]}
            )
        ),
        "8 points",
    ),
    "h5 wrong scan_size": (
        h5(lambda file: file.create_dataset("data", data=counts()), scan_size=(5, 5)),
        "25 points",
    ),
    "h5 scan_size of one": (
        h5(lambda file: file.create_dataset("data", data=counts()), scan_size=(12,)),
        "scan_size",
    ),
    "h5 wrong axes": (
        h5(lambda file: file.create_dataset("data", data=counts()), axes="y,x,ky,kx"),
        "axes is",
    ),
    "h5 axes of a stack": (
        h5(lambda file: file.create_dataset("data", data=counts()), axes="n,ky,kx"),
        "3 axes were named",
    ),
    "h5 version": (
        h5(lambda file: file.create_dataset("data", data=counts()), version=1),
        "EMPAD .raw files only",
    ),
    "npy cut in its data": (cut(good_npy, 0.5), "truncated"),
    "npy cut in its header": (cut(good_npy, 0.04), "truncated"),
    "npy header too long": (wrong_offset_npy, "damaged"),
    "npy objects": (bytes_file("a.npy", npy_bytes(OBJECTS, allow_pickle=True)), "never unpickled"),
    "npy pickle": (bytes_file("a.npy", b"\x93NUMPY" + pickle.dumps([1, 2, 3])), "damaged"),
    "npy complex": (bytes_file("a.npy", npy_bytes(counts("c16"))), "complex"),
    "npy of two axes": (bytes_file("a.npy", npy_bytes(np.ones((4, 4)))), "expected 3-D"),
    "npy without patterns": (bytes_file("a.npy", npy_bytes(np.ones((0, 4, 4)))), "no patterns"),
    "npy dates": (bytes_file("a.npy", npy_bytes(np.zeros((2, 2, 2), "M8[s]"))), "does not hold numbers"),
    "mat cut": (cut(good_mat, 0.6), "damaged or truncated"),
    "mat header only": (cut(good_mat, 0.05), "arrays|damaged"),
    "mat without patterns": (mat({"a": 1.0, "note": "x"}), "no array of numbers"),
    "mat two cubes": (mat({"a": counts("f8"), "b": counts("f8")}), "2 arrays"),
    "mat complex": (mat({"a": counts("c16", (6, 6, 7))}), "complex"),
    "mat unclear order": (mat({"a": counts("f8", (7, 6, 6))}), r"axes='n,ky,kx'"),
    "mat 7.3 cut": (cut(good_mat73, 0.5), "truncated|damaged"),
    "mat 7.3 complex": (complex_mat73, "complex"),
    "raw cut": (cut(good_raw, 0.77), "not a whole number"),
    "raw cut by frames": (cut(good_raw, 8 / 9), "not a square"),
    "raw wrong scan_size": (
        bytes_file("a.raw", empad("<f4", 9, 130).tobytes(), scan_size=(3, 4)),
        "12 points",
    ),
    "raw wrong name": (bytes_file("a_x3_y4.raw", empad("<f4", 9, 130).tobytes()), "12 points"),
    "raw is noise": (
        bytes_file("a.raw", np.full(9 * 130 * 128, 3e38, "<f4").tobytes()),
        "not float32 counts",
    ),
    "raw not combined": (
        bytes_file("a.raw", np.arange(2**29, 2**29 + 9 * 128 * 128, dtype="<u4").tobytes()),
        "Combine the gains",
    ),
    "raw version 3": (bytes_file("a.raw", empad("<f4", 9, 130).tobytes(), version=3), "version is 3"),
    "raw of int8": (bytes_file("a.raw", empad("<f4", 9, 128).tobytes(), dtype="int8"), "dtype is 'int8'"),
    "raw bad xml": (with_xml("<root><raw_file"), "cannot be read"),
    "raw xml with a wrong scan": (with_xml("<root><pix_x>4</pix_x><pix_y>4</pix_y></root>"), "16 points"),
    "raw xml NaN": (
        with_xml("<root><calibrated_pixelsize>nan</calibrated_pixelsize></root>"),
        "positive numbers",
    ),
    "tif cut": (cut(good_tif, 0.5), "truncated|damaged"),
    "tif packed, cut": (cut(good_packed_tif, 0.5), "truncated|damaged|cannot be read"),
    "tif magic only": (bytes_file("a.tif", b"II*\0" + bytes(60)), "TIFF|tifffile|no pages"),
    "tif of one page": (page_tif, "one image is not a scan"),
    "zarr without chunks": (zarr_with(remove_chunks), "none of the 3 chunks"),
    "zarr spoilt chunk": (zarr_with(spoil_chunk), "cannot be read"),
    "zarr spoilt header": (zarr_with(spoil_header), "cannot be read as zarr"),
    "blo cut": (cut(good_blo, 0.5), "cannot be read"),
    "blo header only": (cut(good_blo, 0.02), "cannot be read"),
    "hspy cut": (cut(good_hspy, 0.5), "cannot be read"),
    "json broken": (with_json("{"), "as JSON"),
    "json list": (with_json("[1]"), "a JSON object"),
    "json NaN": (with_json('{"high_tension_v": NaN}'), "high_tension_v = nan"),
    "json negative": (with_json('{"high_tension_v": -5}'), "acc_voltage_kV"),
    "json wrong scan": (with_json('{"scan_size": [5, 5]}'), "25 points"),
    "json scan of text": (with_json('{"scan_size": "big"}'), "scan_size"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At opening, or at the first pattern that cannot be read; the message says what was found."""
    build, said = DAMAGED[name]
    monkeypatch.chdir(tmp_path)
    path, options = build(tmp_path)

    def read() -> None:
        with open_recording(path, **options) as recording:
            for _ in recording.chunks(256):
                pass

    with pytest.raises(DataError, match=said) as error:
        read()
    assert str(tmp_path) in str(error.value)  # the file is named
    assert not Path("unpickled").exists()


def test_there_are_many_damaged_files() -> None:
    assert len(DAMAGED) >= 60


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("make", [good_h5, good_npy, good_mat, good_mat73, good_packed_tif])
def test_no_other_error_whatever_byte_is_wrong(
    make: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Files with some bytes replaced are read, or refused by a DataError."""
    path = make(tmp_path_factory.mktemp("damaged"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with open_recording(path) as recording:
            for _, patterns in recording.chunks():
                assert patterns.ndim == 3
    except DataError:
        pass
