"""Open the arrays that a PtyRAD parameter file refers to; axes keep the order in which they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from pypty.data.hdf5 import open_hdf5
from pypty.errors import DataError, ParameterError
from pypty.params.files import load_npy, not_a_file
from pypty.readers.arrays import open_tif, open_zarr
from pypty.readers.hdf5 import find_dataset
from pypty.readers.matlab import check_mat_sizes

_GAP_BYTES = 1024
"""Bytes between frames of the first EMPAD: two rows of 128 float32 numbers."""
_KNOWN = ("path", "key", "shape", "offset", "gap", "selection", "zarr_kwargs")


@dataclass(frozen=True)
class Stored:
    """An array in a file, read on access.

    Attributes
    ----------
    data : array-like with shape, dtype and slicing
    path, key : file and data set for the engine; None if the engine cannot read them
    """

    data: Any
    path: Path | None = None
    key: str | None = None


def find_path(name: Any, folder: Path, what: str) -> Path:
    """An existing path: relative to the current folder, else to the folder of the parameter file.

    Raises
    ------
    DataError
        The path does not exist.
    """
    if not isinstance(name, (str, Path)):
        raise ParameterError(f"{what} is {name!r}, expected a path")
    path = Path(name).expanduser()
    for candidate in (path, folder / path):
        if candidate.exists():
            return candidate
    raise DataError(
        f"{what}: the file {str(path)!r} does not exist (searched in {str(Path.cwd())!r} and {str(folder)!r})"
    )


def open_array(params: Any, folder: Path, what: str, raw_shape: Sequence[int] | None = None) -> Stored:
    """The array of a {path, key, shape, offset, gap, selection} entry, or an array itself.

    Parameters
    ----------
    what : the key, for messages
    raw_shape : shape of a .raw file if the entry has none

    Raises
    ------
    DataError
        The file is missing or damaged, or does not contain the array.
    ParameterError
        The entry has another form.
    """
    if isinstance(params, np.ndarray):
        return Stored(params)
    if isinstance(params, (str, Path)):
        params = {"path": params}
    if not isinstance(params, Mapping) or "path" not in params:
        raise ParameterError(
            f"{what} is {params!r}, expected {{path: FILE}} with key, shape, offset, gap, selection"
        )
    path = find_path(params["path"], folder, f"{what}.path")
    stored = _open(path, params, what, raw_shape)
    selection = params.get("selection")
    if selection is None:
        return stored
    return Stored(np.asarray(stored.data[tuple(_index(entry, what) for entry in selection)]))


def unknown_entries(params: Any) -> list[str]:
    """Entries of a {path, ...} mapping that have no meaning; PtyRAD silently ignores them."""
    return [str(key) for key in params if key not in _KNOWN] if isinstance(params, Mapping) else []


def _index(entry: Any, what: str) -> Any:
    """The index along one axis that an entry of ``selection`` stands for."""
    if entry is None:
        return slice(None)
    if isinstance(entry, int):
        return entry
    if isinstance(entry, (list, tuple)) and 1 <= len(entry) <= 3:
        return slice(*entry)
    raise ParameterError(
        f"{what}.selection: {entry!r}, expected [start, stop, step], a whole number or null per axis"
    )


def _open(path: Path, params: Mapping[str, Any], what: str, raw_shape: Sequence[int] | None) -> Stored:
    suffix, key = path.suffix.lower(), params.get("key")
    problem = not_a_file(path)
    if problem and suffix != ".zarr":  # a folder
        raise DataError(f"{what}.path: {problem}")
    if suffix == ".raw":
        return Stored(_raw(path, params, what, raw_shape))
    if suffix == ".npy":
        try:
            return Stored(load_npy(path, mapped=True), path)
        except DataError as error:
            raise DataError(f"{str(path)!r} cannot be read as .npy: {error}") from error
    if suffix in (".tif", ".tiff"):
        return Stored(open_tif(path, None).data)
    if suffix == ".zarr":
        return Stored(open_zarr(path, key, None).data)
    if h5py.is_hdf5(path):
        file = open_hdf5(path)
        name = None if key is None else str(key)
        if name is not None and name not in file:
            name = name.replace(".", "/")  # nested names may be written with dots
        dataset = find_dataset(file, name, path)
        readable = suffix in (".h5", ".hdf5", ".hdf")
        return Stored(dataset, path if readable else None, dataset.name.lstrip("/") if readable else None)
    if suffix == ".mat":
        return Stored(_old_matlab(path, key, what))
    raise DataError(
        f"{what}.path: {str(path)!r} has the ending {suffix!r}; expected .tif, .npy, .mat, .h5, .hdf5, .zarr or .raw"
    )


def _old_matlab(path: Path, key: Any, what: str) -> np.ndarray:
    try:
        check_mat_sizes(path)
        content = scipy.io.loadmat(path, variable_names=None if key is None else [str(key)])
    except DataError:
        raise
    except Exception as error:  # scipy and zlib raise many kinds on damaged bytes
        raise DataError(f"{str(path)!r} cannot be read as a MATLAB file: {error}") from error
    arrays = {
        name: value
        for name, value in content.items()
        if not name.startswith("__")
        and isinstance(value, np.ndarray)
        and (key is not None or value.ndim in (3, 4))  # without a key: arrays that may be patterns
    }
    if len(arrays) != 1:
        raise DataError(
            f"{what}: {str(path)!r} has {len(arrays)} possible arrays ({', '.join(arrays)}); choose one with key"
        )
    return np.asarray(next(iter(arrays.values())))


def _raw(path: Path, params: Mapping[str, Any], what: str, raw_shape: Sequence[int] | None) -> Any:
    """Frames of float32, each followed by ``gap`` bytes, after ``offset`` bytes."""
    shape = params.get("shape") or raw_shape
    if shape is None or len(shape) != 3:
        raise ParameterError(f"{what}.shape is {shape!r}, expected [N, height, width] of the .raw file")
    n, height, width = (int(size) for size in shape)
    offset = int(params.get("offset") or 0)
    gap = _GAP_BYTES if params.get("gap") is None else int(params["gap"])
    wanted = offset + n * (4 * height * width + gap)
    size = path.stat().st_size
    if size != wanted:
        raise DataError(
            f"{str(path)!r} has {size} bytes, but {n} frames of {height} x {width} numbers of 4 bytes, {gap} bytes "
            f"after each and {offset} bytes before the first, have {wanted}; correct shape, gap or offset"
        )
    # A structured dtype skips the gap after each frame without a copy.
    kind = np.dtype(
        [("frame", "<f4", (height, width)), ("gap", f"V{gap}")]
        if gap
        else [("frame", "<f4", (height, width))]
    )
    return np.memmap(path, kind, "r", offset, (n,))["frame"]
