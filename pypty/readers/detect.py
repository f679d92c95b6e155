"""Detect the format of a file from its first bytes, which must agree with its ending."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pypty.errors import DataError
from pypty.params.files import not_a_file

_HDF5 = b"\x89HDF\r\n\x1a\n"
_CONTENTS: Mapping[str, str] = MappingProxyType(
    {
        "npy": "a NumPy array (.npy)",
        "hdf5": "HDF5 (.h5)",
        "mat5": "MATLAB 5 (.mat)",
        "mat73": "MATLAB 7.3 (.mat)",
        "tif": "TIFF (.tif)",
        "zarr": "a zarr folder (.zarr)",
        "zip": "a zip archive",
        "other": "something else",
    }
)
_BY_ENDING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ".npy": ("npy",),
        ".mat": ("mat5", "mat73"),
        ".tif": ("tif",),
        ".tiff": ("tif",),
        ".h5": ("hdf5",),
        ".hdf5": ("hdf5",),
        ".hdf": ("hdf5",),
        ".nxs": ("hdf5",),
        ".emd": ("hdf5",),
        ".py4dstem": ("hdf5",),
        ".hspy": ("hdf5",),
        ".zarr": ("zarr",),
        ".raw": ("other",),
    }
)


def content_of(path: Path) -> str:
    """ "npy", "hdf5", "mat5", "mat73", "tif", "zarr", "zip" or "other" by the first bytes.

    Raises
    ------
    DataError
        The path does not exist, cannot be read, or is empty.
    """
    if path.is_dir():
        marks = (".zarray", ".zgroup", "zarr.json")
        return "zarr" if any((path / mark).is_file() for mark in marks) else "other"
    problem = not_a_file(path)
    if problem:
        raise DataError(problem)
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    if not head:
        raise DataError(f"{str(path)!r} is empty (0 bytes); copy it again from the microscope")
    if head.startswith(b"MATLAB 7.3"):
        return "mat73"
    if head.startswith(b"MATLAB 5"):
        return "mat5"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    # HDF5 allows a user block of 512, 1024, ... bytes before its signature.
    if any(head[start : start + 8] == _HDF5 for start in (0, 512, 1024, 2048)):
        return "hdf5"
    # TIFF and BigTIFF (+), little- and big-endian
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tif"
    return "zip" if head.startswith(b"PK\x03\x04") else "other"


def kind_of(path: Path) -> str:
    """The reader for a file: "npy", "hdf5", "mat5", "mat73", "tif", "zarr", "raw" or "vendor".

    Raises
    ------
    DataError
        The content does not agree with the ending, or the file is missing or empty.
    """
    content, ending = content_of(path), path.suffix.lower()
    expected = _BY_ENDING.get(ending)
    if path.is_dir() and content != "zarr" and ending != ".zspy":
        raise DataError(f"{str(path)!r} is a folder, but not a zarr folder; give the file with the patterns")
    if expected is None:
        return "zarr" if content == "zarr" and ending != ".zspy" else "vendor"
    if content not in expected:
        wanted = " or ".join(_CONTENTS[kind] for kind in expected)
        if ending == ".raw":
            wanted = "frames without a header (EMPAD)"
        raise DataError(
            f"{str(path)!r} has the ending {ending}, but its content is {_CONTENTS[content]}, expected {wanted}. "
            + _advice(content)
        )
    if ending == ".hspy":
        return "vendor"
    return "raw" if ending == ".raw" else content


def _advice(content: str) -> str:
    if content == "other":
        return "It is damaged, or a different kind of file"
    return f"If it is {_CONTENTS[content]}, give it that ending"
