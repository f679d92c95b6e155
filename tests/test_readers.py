"""Files of detectors: what is read from good ones, and how damaged ones are refused."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from detector_files import (
    DAMAGED,
    EMPAD_XML,
    KX,
    KY,
    NION,
    SX,
    SY,
    Limited,
    counts,
    empad,
    good_h5,
    good_mat,
    good_mat73,
    good_npy,
    good_packed_tif,
    signal,
    write_mat73,
    write_py4dstem,
    write_rsciio,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.data.hdf5 import open_hdf5
from pypty.errors import DataError
from pypty.importers import load_result
from pypty.readers import Metadata, Recording, open_recording, read_nion_json
from pypty.readers.arrays import Frames, open_npy
from pypty.readers.axes import in_order
from pypty.readers.choose import only_one
from pypty.readers.detect import content_of, kind_of
from pypty.readers.empad import open_empad, raw_of_xml
from pypty.readers.hdf5 import find_dataset, is_for_rosettasciio, plain
from pypty.readers.headers import check_claims
from pypty.readers.mat5 import check_structure
from pypty.readers.matlab import open_mat5, open_mat73
from pypty.readers.optional import optional_library
from pypty.readers.units import convert, known_unit
from pypty.readers.vendor import open_vendor


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
    with pytest.raises(DataError, match="it has 12"):
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
    plain, turned = (open_npy(tmp_path / name, None) for name in ("a.npy", "f.npy"))
    assert isinstance(plain.data, Frames) and not isinstance(turned.data, Frames)  # read, not mapped
    plain.close()


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
    plugins.IO_PLUGINS = [{"name": "Stub", "file_extensions": ["tvips"], "api": "rsciio.stub"}]  # type: ignore[attr-defined]
    monkeypatch.setattr("pypty.readers.vendor.optional_library", lambda *arguments: plugins)


def test_axes_of_vendors_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Detector axes may come first; axes of one entry are dropped; signals are found by their title."""
    path = tmp_path / "a.tvips"
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
    path = tmp_path / "a.tvips"
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


# ------------------------------------------------------------------------------------------ each reader by itself


def test_frames_leave_out_the_header_and_the_rows_after_each_pattern(tmp_path: Path) -> None:
    """2 x 3 patterns of 4 x 5 in frames of 6 rows, after 7 bytes."""
    stored = np.arange(2 * 3 * 6 * 5, dtype="<u2").reshape(2, 3, 6, 5)
    (tmp_path / "a.raw").write_bytes(b"headers" + stored.tobytes())
    frames = Frames(tmp_path / "a.raw", 7, (2, 3, 4, 5), np.dtype("<u2"), rows=6)
    np.testing.assert_array_equal(frames[0:2], stored[:, :, :4])
    np.testing.assert_array_equal(frames[1:2], stored[1:2, :, :4])
    np.testing.assert_array_equal(frames[1, 1:3], stored[1, 1:3, :4])
    frames.close()
    (tmp_path / "b.raw").write_bytes(stored.tobytes()[:-1])
    short = Frames(tmp_path / "b.raw", 0, (6, 6, 5), np.dtype("<u2"))
    np.testing.assert_array_equal(short[4:5], stored.reshape(6, 6, 5)[4:5])
    with pytest.raises(DataError, match="ends before its last pattern"):
        short[5:6]
    short.close()


def test_the_array_of_patterns_is_chosen_by_its_axes() -> None:
    number, text = np.dtype("u2"), np.dtype(object)
    arrays = {"mean": ((8, 8), number), "a/cube": ((3, 4, 8, 8), number), "notes": ((3, 4, 8), text)}
    assert only_one(arrays, None, "file") == "a/cube"
    assert only_one(arrays, "/a/", "file") == only_one(arrays, "a/cube", "file") == "a/cube"
    assert only_one(arrays, "mean", "file") == "mean"
    two = {**arrays, "data": ((12, 8, 8), number)}
    assert only_one(two, None, "file") == "data"
    with pytest.raises(DataError, match="has 2 arrays that may be patterns.*a/cube.*other"):
        only_one({**arrays, "other": ((12, 8, 8), number)}, None, "file")
    with pytest.raises(DataError, match="no array 'x'; its arrays are: a/cube"):
        only_one(arrays, "x", "file")
    with pytest.raises(DataError, match="it contains no arrays"):
        only_one({}, None, "file")
    many = {f"m{k:02d}": ((2, 2), number) for k in range(15)}
    with pytest.raises(DataError, match="and 3 more"):
        only_one(many, None, "file")


@pytest.mark.parametrize(
    ("head", "content"),
    [
        (b"\x93NUMPY", "npy"),
        (b"MATLAB 5.0", "mat5"),
        (b"MATLAB 7.3", "mat73"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n", "hdf5"),
        (bytes(2048) + b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"II*\0", "tif"),
        (b"MM\0+", "tif"),
        (b"PK\x03\x04", "zip"),
        (b"plain text", "other"),
    ],
)
def test_the_content_is_told_by_the_first_bytes(head: bytes, content: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(head + bytes(3000))
    assert content_of(path) == content


def test_the_reader_is_that_of_content_and_ending(tmp_path: Path) -> None:
    hdf5, folder = tmp_path / "a.h5", tmp_path / "a.zarr"
    with h5py.File(hdf5, "w") as file:
        file["data"] = 1
    folder.mkdir()
    with pytest.raises(DataError, match="is a folder, but not a zarr folder"):
        kind_of(folder)
    (folder / ".zgroup").write_text("{}")
    assert (kind_of(hdf5), kind_of(folder)) == ("hdf5", "zarr")
    for name, kind in (("b.hspy", "vendor"), ("b.xyz", "vendor"), ("b.NXS", "hdf5")):
        (tmp_path / name).write_bytes(hdf5.read_bytes())
        assert kind_of(tmp_path / name) == kind
    (tmp_path / "frames.raw").write_bytes(bytes(100))
    assert kind_of(tmp_path / "frames.raw") == "raw"
    (tmp_path / "wrong.npy").write_bytes(hdf5.read_bytes())
    with pytest.raises(DataError, match=r"content is HDF5 \(.h5\), expected a NumPy array"):
        kind_of(tmp_path / "wrong.npy")
    (tmp_path / "wrong.raw").write_bytes(hdf5.read_bytes())
    with pytest.raises(DataError, match=r"expected frames without a header \(EMPAD\)"):
        kind_of(tmp_path / "wrong.raw")


def test_the_version_of_an_empad_file_is_that_of_its_size(tmp_path: Path) -> None:
    """12 frames of 130 rows in a scan of 3 x 4 points, by its name fast x slow."""
    stored = empad("<f4", 12, 130)
    path = tmp_path / "scan_x4_y3.raw"
    stored.tofile(path)
    recording = open_empad(path, None, None, None, True)
    assert recording.data.shape == (3, 4, 128, 128) and recording.data.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(recording.data[1, 2:3][0], stored.reshape(3, 4, 130, 128)[1, 2, :128])
    recording.close()
    (tmp_path / "scan_x4_y3.xml").write_text(
        "<root><raw_file filename='scan_x4_y3.raw'/><pix_x>4</pix_x><pix_y>3</pix_y></root>"
    )
    assert raw_of_xml(tmp_path / "scan_x4_y3.xml") == path
    with pytest.raises(DataError, match="version is 3, expected 1"):
        open_empad(path, None, 3, None, True)
    with pytest.raises(DataError, match="2 x 5 has 10 points"):
        open_empad(path, (2, 5), None, None, True)
    path.write_bytes(b"12345")
    with pytest.raises(DataError, match=r"has 5 bytes, .* \((65536 or 66560|66560 or 65536) bytes each\)"):
        open_empad(path, (3, 4), None, None, True)


def test_data_sets_of_hdf5_are_found_through_links_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["deep/cube/data"] = counts()
        file["deep/cube"].attrs["emd_group_type"] = "array"
        file["other"] = counts()
        file["link"] = h5py.SoftLink("/deep/cube/data")
        file.attrs["version_major"] = 0
    with open_hdf5(path) as file:
        assert find_dataset(file, None, path).name == "/deep/cube/data", "the cube of py4DSTEM"
        assert find_dataset(file, "link", path).shape == (SY, SX, KY, KX)
        assert find_dataset(file, "other", path).name == "/other"
    assert is_for_rosettasciio(path, None) and not is_for_rosettasciio(path, "other")
    (tmp_path / "b.h5").write_bytes(b"none")
    with pytest.raises(DataError, match="cannot be opened as HDF5"):
        open_hdf5(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (b"\xc3\x85", "Å"),
        (np.array(3.5), 3.5),
        (np.array([1, 2]), (1, 2)),
        (np.int64(4), 4),
        (np.array(b"text"), "text"),
        ("text", "text"),
    ],
)
def test_attributes_of_hdf5_become_plain_values(stored: Any, expected: Any) -> None:
    found = plain(stored)
    assert found == expected and type(found) is type(expected)


def test_both_versions_of_matlab_have_the_patterns_first(tmp_path: Path) -> None:
    """data(:,:,iy,ix) is (ky, kx, sy, sx)."""
    from scipy.io import savemat

    shown = np.random.default_rng(0).random((6, 5, 3, 4))
    savemat(tmp_path / "a.mat", {"cube": shown, "note": "text"})
    write_mat73(tmp_path / "b.mat", "cube", shown)
    for reader, name in ((open_mat5, "a.mat"), (open_mat73, "b.mat")):
        recording = reader(tmp_path / name, None, None)
        assert recording.data.shape == (3, 4, 6, 5), name
        np.testing.assert_array_equal(np.asarray(recording.data[1:2])[0, 2], shown[:, :, 1, 2])
        recording.close()
        named = reader(tmp_path / name, "cube", "sx,sy,kx,ky")
        assert named.data.shape == (5, 6, 4, 3)
        named.close()
        with pytest.raises(DataError, match="no array 'x'"):
            reader(tmp_path / name, "x", None)


def test_a_missing_library_says_how_to_get_it() -> None:
    assert optional_library("json", "JSON", "reading").loads("1") == 1
    with pytest.raises(DataError, match=r"reading a.xyz needs Xyz, .*pip install 'pypty\[io\]'"):
        optional_library("no_such_module", "Xyz", "reading a.xyz")


def test_a_vendors_file_has_its_scan_first_and_its_units(tmp_path: Path) -> None:
    pytest.importorskip("rsciio", reason="extra io: RosettaSciIO is not installed")
    data = counts("uint8", (SY, SX, 8, 8))
    write_rsciio("hspy", tmp_path / "a.hspy", data)
    recording = open_vendor(tmp_path / "a.hspy", None, None, False)
    assert recording.data.shape == data.shape
    np.testing.assert_array_equal(np.asarray(recording.data[1:2])[0], data[1])
    assert (
        recording.metadata.scan_step_A == pytest.approx(0.5) and recording.metadata.rez_pixel_size_mrad == 2.0
    )
    write_rsciio("hspy", tmp_path / "list.hspy", data[0])  # one axis of the scan
    assert open_vendor(tmp_path / "list.hspy", None, None, False).metadata.rez_pixel_size_mrad == 2.0
    plainly = open_vendor(tmp_path / "a.hspy", None, None, True)
    assert plainly.metadata.scan_step_A is None and plainly.metadata.acc_voltage_kV is None
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(DataError, match=r"the ending '.xyz', for which no reader is known"):
        open_vendor(tmp_path / "a.xyz", None, None, False)


@pytest.mark.parametrize(
    ("unit", "kind", "factor"),
    [
        ("Å", "length", 1.0),
        ("angstrom", "length", 1.0),
        ("Angstrom", "length", 1.0),
        ("pm", "length", 0.01),
        ("nm", "length", 10.0),
        ("um", "length", 1e4),
        ("μm", "length", 1e4),
        ("mm", "length", 1e7),
        ("cm", "length", 1e8),
        ("m", "length", 1e10),
        ("1/nm", "reciprocal", 0.1),
        ("1/Å", "reciprocal", 1.0),
        ("m**-1", "reciprocal", 1e-10),
        ("mrad", "angle", 1.0),
        ("rad", "angle", 1e3),
        ("urad", "angle", 1e-3),
        ("deg", "angle", 1e3 * math.pi / 180),
        ("degrees", "angle", 1e3 * math.pi / 180),
        ("degree", "angle", 1e3 * math.pi / 180),
        ("°", "angle", 1e3 * math.pi / 180),
        ("V", "voltage", 1e-3),
        ("kV", "voltage", 1.0),
        ("MV", "voltage", 1e3),
        ("eV", "voltage", 1e-3),
        ("keV", "voltage", 1.0),
        ("MeV", "voltage", 1e3),
    ],
)
def test_every_unit_is_what_it_measures(unit: str, kind: str, factor: float) -> None:
    assert known_unit(unit) == (kind, pytest.approx(factor))
    assert convert(3.0, unit, kind) == pytest.approx(3 * factor)
    with pytest.raises(DataError, match="does not measure"):
        convert(3.0, unit, "length" if kind != "length" else "angle")


def test_a_stack_of_a_vendor_has_the_centre_of_its_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three axes: a list of patterns, whose step along the scan nobody knows. ky and kx have centres of their own."""
    (tmp_path / "a.tvips").write_bytes(b"anything")
    stack = signal(counts("uint16", (12, 8, 8)), -4.0)
    stack["axes"][2]["offset"] = -10.0
    stub_reader(monkeypatch, stack)
    with open_recording(tmp_path / "a.tvips") as recording:
        assert recording.shape == (12, 8, 8) and recording.metadata.beam_centre_px == (2.0, 5.0)
        assert recording.metadata.rez_pixel_size_mrad == 2.0 and recording.metadata.scan_step_A is None
        assert (recording.metadata.acc_voltage_kV, recording.metadata.conv_semiangle_mrad) == (200.0, 21.0)


# ----------------------------------------------------------------------------------------------- sizes in headers


def dm(version: int, images: list[tuple[tuple[int, ...], int]], tail: bytes = b"") -> bytes:
    """A file of Digital Micrograph with nothing but sizes of images, a string, a struct and an array."""
    count = ">I" if version == 3 else ">Q"
    number = lambda n: struct.pack(count, n)  # noqa: E731
    head = lambda kind, name: struct.pack(">BH", kind, len(name)) + name + (b"" if version == 3 else bytes(8))  # noqa: E731

    def group(items: list[bytes]) -> bytes:
        return b"\0\0" + number(len(items)) + b"".join(items)

    def value(name: bytes, info: list[int], content: bytes) -> bytes:
        return head(21, name) + b"%%%%" + number(len(info)) + b"".join(map(number, info)) + content

    def image(shape: tuple[int, ...], depth: int) -> bytes:
        sizes = [value(b"", [5], struct.pack("<I", n)) for n in shape]
        data = [
            value(b"Name", [18, 4], b"scan"),
            value(b"Rect", [15, 0, 2, 0, 3, 0, 7], bytes(12)),
            value(b"Text", [20, 4, 3], bytes(6)),
            head(20, b"Dimensions") + group(sizes),
            value(b"PixelDepth", [3], struct.pack("<I", depth)),
        ]
        return head(20, b"") + group([head(20, b"ImageData") + group(data)])

    images_ = head(20, b"ImageList") + group([image(*item) for item in images])
    return struct.pack(">I", version) + number(0) + struct.pack(">I", 1) + group([images_]) + tail


def ser(valid: int, version: int = 0x220) -> bytes:
    wide = version > 528
    return struct.pack("<3H4I", 0x4949, 0x0197, version, 0x4122, 0x4152, valid, valid) + struct.pack(
        "<Q" if wide else "<I", 40
    )


def mrc(shape: tuple[int, int, int], mode: int = 1, extended: int = 0) -> bytes:
    head = struct.pack("<4i", *shape[::-1], mode).ljust(92, b"\0") + struct.pack("<i", extended)
    return head.ljust(1024, b"\0")


def blo(side: int, nx: int, ny: int) -> bytes:
    return struct.pack("<6sH3I4H", b"IMGBLO", 258, 0x1000, 0x1000, 0, side, 0, nx, ny)


CLAIMS = {
    "mrc": ("a.mrc", mrc((12, 8, 8)), 1024 + 2 * 12 * 64),
    "mrc of floats with more header": ("a.mrc", mrc((12, 8, 8), 2, 100), 1124 + 4 * 12 * 64),
    "mrc of 1e15 bytes": ("a.mrc", mrc((10**5, 10**5, 10**5), 0), 1024 + 10**15),
    "blo": ("a.blo", blo(8, 4, 3), 0x1000 + 12 * 64),
    "ser": ("a.ser", ser(10), 40 + 80),
    "ser of 32 bits": ("a.ser", ser(10, 0x210), 40 + 40),
    "dm3": ("a.dm3", dm(3, [((7, 5), 4), ((100, 100, 3, 4), 2)]), 2 * 120_000),
    "dm4 of 1e15 bytes": ("a.dm4", dm(4, [((10**4, 10**4, 10**4, 10**3), 1)]), 10**15),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_header_claims_must_be_there(name: str, tmp_path: Path) -> None:
    file, head, needed = CLAIMS[name]
    (tmp_path / file).write_bytes(head)
    with pytest.raises(
        DataError, match=f"it has {len(head)} bytes, but its header needs {needed}; it is damaged"
    ):
        check_claims(tmp_path / file)
    with pytest.raises(DataError, match="its header needs"):
        open_recording(tmp_path / file)
    if needed < 10**6:
        (tmp_path / file).write_bytes(head.ljust(needed, b"\0"))
        check_claims(tmp_path / file)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.mrc", b"short"),
        ("a.mrc", mrc((-1, 8, 8))),
        ("a.dm4", dm(4, [((4, 4), 1)])[:-3]),
        ("a.dm3", struct.pack(">I", 7)),
        ("a.ser", b"II"),
        ("a.blo", b"IMGBLO"),
    ],
)
def test_a_header_that_is_cut_off(file: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match="the header of .* cannot be read"):
        check_claims(tmp_path / file)


def test_sizes_of_matlab_are_compared_with_the_file(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"cube": np.zeros((6, 6, 12))})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    place = content.index(struct.pack("<3i", 6, 6, 12))
    content[place : place + 12] = struct.pack("<3i", 10**6, 10**6, 10**3)
    (tmp_path / "a.mat").write_bytes(content)
    for work in (open_recording, load_result):
        with pytest.raises(
            DataError,
            match=r"cannot be read as a MATLAB file: 3456 bytes for shape \(1000000, 1000000, 1000\)",
        ):
            work(tmp_path / "a.mat")


def test_sizes_of_packed_pages_are_compared_with_the_file(tmp_path: Path) -> None:
    path = good_packed_tif(tmp_path)
    content = bytearray(path.read_bytes())
    tag = struct.pack("<HHI", 256, 4, 1)  # ImageWidth
    for place in (n for n in range(len(content)) if content[n : n + 8] == tag):
        content[place + 8 : place + 12] = struct.pack("<I", 2**31)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"its header says shape|cannot be read"):
        open_recording(path).read(np.arange(2))


EVERYTHING = {
    "numbers": np.arange(24.0).reshape(2, 3, 4),
    "complex": np.ones((3, 3)) * 1j,
    "bytes": np.arange(3, dtype="u1"),
    "empty": np.zeros((0, 0)),
    "text": "some text",
    "struct": {"a": 1.0, "b": {"c": "d"}, "e": np.array([1, "x", {"y": 2}], dtype=object)},
    "cells": np.array([np.ones(3), "x", 1j], dtype=object),
    "sparse": scipy.sparse.csc_matrix(np.eye(3)),
    "flag": True,
}


@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_variable_of_matlab_passes(packed: bool, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", EVERYTHING, do_compression=packed)
    check_structure(tmp_path / "a.mat")
    content = (tmp_path / "a.mat").read_bytes()
    (tmp_path / "b.mat").write_bytes(content[: 2 * len(content) // 3])
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        check_structure(tmp_path / "b.mat")


@pytest.mark.parametrize("kind", [0, 8, 99, 2**31 - 1])
def test_a_tag_that_would_end_the_process(kind: int, tmp_path: Path) -> None:
    """SciPy looks such a type up behind the end of its table."""
    scipy.io.savemat(tmp_path / "a.mat", {"cube": np.ones((6, 6, 12))})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    place = content.index(struct.pack("<2I", 9, 8 * 6 * 6 * 12))
    content[place : place + 4] = struct.pack("<I", kind)
    (tmp_path / "a.mat").write_bytes(content)
    for work in (open_recording, load_result):
        with pytest.raises(DataError, match="element of type"):
            work(tmp_path / "a.mat")
