"""Good and damaged files of detectors, shared by the tests."""

from __future__ import annotations

import importlib
import math
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

SY, SX, KY, KX = 3, 4, 6, 5


def counts(dtype: str = "uint16", shape: tuple[int, ...] = (SY, SX, KY, KX)) -> np.ndarray:
    return (1 + np.arange(math.prod(shape))).reshape(shape).astype(dtype)


class Limited:
    """An array that can be sliced, and notes how much was asked for at once."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...] | None = None) -> None:
        self.array, self.shape, self.dtype, self.chunks = array, array.shape, array.dtype, chunks
        self.largest, self.reads = 0, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.array[key]
        self.largest, self.reads = max(self.largest, found.nbytes), self.reads + 1
        return found


def write_mat73(path: Path, name: str, shown: np.ndarray) -> None:
    """As MATLAB does: a header of 512 bytes, and axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file[name] = shown.transpose()
        file[name].attrs["MATLAB_class"] = np.bytes_({"u": "uint16", "f": "single"}[shown.dtype.kind])
        file["#refs#/a"] = counts()
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


EMPAD_XML = """<?xml version="1.0"?><root><raw_file filename="C:\\data\\scan.raw"/><pix_x>{x}</pix_x><pix_y>{y}</pix_y>
<iom_measurements><calibrated_pixelsize>{pixel}</calibrated_pixelsize><optics><get_full_scan_field_of_view>(4e-9, 4e-9)
</get_full_scan_field_of_view></optics></iom_measurements></root>"""


def empad(dtype: str, n: int, rows: int) -> np.ndarray:
    return np.random.default_rng(1).poisson(50, (n, rows, 128)).astype(dtype)


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


NION = {
    "spatial_calibrations": [{"scale": 0.05, "units": "nm"}] * 2 + [{"scale": 0.0005, "units": "rad"}] * 2,
    "metadata": {
        "scan": {"scan_size": [SY, SX], "fov_nm": 0.2},
        "instrument": {"high_tension_v": 60000.0, "defocus": 5e-9},
    },
}


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
    "h5 without anything": (h5(lambda file: None), "contains no arrays"),
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
        "3 axes are named",
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
    "tif of one page": (page_tif, "a single image is not a scan"),
    "zarr without chunks": (zarr_with(remove_chunks), "all 3 chunks are missing"),
    "zarr spoilt chunk": (zarr_with(spoil_chunk), "cannot be read"),
    "zarr spoilt header": (zarr_with(spoil_header), "cannot be read as zarr"),
    "blo cut": (cut(good_blo, 0.5), "cannot be read"),
    "blo header only": (cut(good_blo, 0.02), "cannot be read"),
    "hspy cut": (cut(good_hspy, 0.5), "cannot be opened as HDF5"),
    "json broken": (with_json("{"), "as JSON"),
    "json list": (with_json("[1]"), "a JSON object"),
    "json NaN": (with_json('{"high_tension_v": NaN}'), "high_tension_v = nan"),
    "json negative": (with_json('{"high_tension_v": -5}'), "acc_voltage_kV"),
    "json wrong scan": (with_json('{"scan_size": [5, 5]}'), "25 points"),
    "json scan of text": (with_json('{"scan_size": "big"}'), "scan_size"),
}
