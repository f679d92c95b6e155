"""Files and arrays as lazily read patterns (N, ky, kx), in the type in which they are stored."""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from pypty.data.hdf5 import check_key, check_stored, open_hdf5
from pypty.errors import DataError
from pypty.params.files import NpyHeader, load_npy, not_a_file, read_npy_header
from pypty.params.settings import Settings


class PatternSource(Protocol):
    """Patterns that are read on demand."""

    @property
    def name(self) -> str:
        """The file or array, for messages."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, ky, kx)."""

    @property
    def scan(self) -> tuple[int, int] | None:
        """Points (slow, fast) of the raster if the patterns are stored as 4-D data, else None."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the values as stored."""

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The patterns with these sorted indices, (n, ky, kx)."""

    def close(self) -> None:
        """Release the file."""


@dataclass
class ArraySource:
    """Patterns of an array in memory, or memory-mapped: (N, ky, kx) or (sy, sx, ky, kx)."""

    array: Any
    name: str = "dataset"

    def __post_init__(self) -> None:
        _check_layout(tuple(self.array.shape), np.dtype(self.array.dtype), self.name)

    @property
    def shape(self) -> tuple[int, int, int]:
        return _flat_shape(tuple(self.array.shape))

    @property
    def scan(self) -> tuple[int, int] | None:
        return _raster(tuple(self.array.shape))

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        if len(self.array.shape) == 3:
            return np.asarray(self.array[as_slice(indices)])
        if isinstance(self.array, np.ndarray):
            return self.array[np.divmod(indices, self.array.shape[1])]  # (sy, sx, ky, kx) -> (n, ky, kx)
        return read_runs(self.array, indices)

    def close(self) -> None:
        """Nothing to release."""


class NpySource:
    """Patterns of a .npy file, read on demand in contiguous runs.

    The file is read and not memory-mapped: pages of a map stay in the memory of the process once they were accessed,
    and a limit of its address space (ulimit -v) would count the whole file.

    Parameters
    ----------
    header : of the file; its values are in C order
    """

    def __init__(self, path: Path, header: NpyHeader) -> None:
        self.name = str(path)
        self._shape, self.dtype, self._offset = header.shape, header.dtype, header.offset
        _check_layout(self._shape, self.dtype, self.name)
        self._file = path.open("rb", buffering=0)
        self._reading = threading.Lock()  # seek and read must not be interleaved between threads

    @property
    def shape(self) -> tuple[int, int, int]:
        return _flat_shape(self._shape)

    @property
    def scan(self) -> tuple[int, int] | None:
        return _raster(self._shape)

    def read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self._shape[-2:]), self.dtype)
        size = out[:1].nbytes
        with self._reading:
            for start, stop in _runs(indices, 0):
                self._file.seek(self._offset + int(indices[start]) * size)
                self._fill(out[start:stop].data.cast("B"))
        return out

    def _fill(self, view: memoryview) -> None:
        done = 0
        # An unbuffered read may return fewer bytes than requested; 0 bytes mean the end of the file.
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:
                raise DataError(f"{self.name!r} ends before its last pattern; it is truncated")
            done += count

    def close(self) -> None:
        self._file.close()


class Hdf5Source:
    """Patterns of a data set in an HDF5 file, read lazily in contiguous runs.

    Parameters
    ----------
    dataset : h5py.Dataset; whoever opened it has also chosen what it points to
    file : closed together with the source; None leaves the file to whoever opened it
    checked : its values were found to be there (:func:`pypty.data.hdf5.check_key`)
    """

    def __init__(self, dataset: Any, file: Any = None, checked: bool = False) -> None:
        self.name = f"{dataset.file.filename}:{dataset.name}"
        self._file = file
        self._data = dataset
        _check_layout(dataset.shape, dataset.dtype, self.name)
        if not checked:
            check_stored(dataset, trusted=True)

    @classmethod
    def open(cls, path: Path, key: str, trusted: bool = False) -> Hdf5Source:
        """Open data set ``key`` of a file; ``trusted``: it may point outside of the folder of the file."""
        file = open_hdf5(path)
        try:
            return cls(_find_dataset(file, key, path, trusted), file, checked=True)
        except DataError:
            file.close()
            raise
        except Exception as error:  # h5py raises many kinds on damaged trees
            file.close()
            raise DataError(f"{str(path)!r} cannot be read: {error}. It is damaged or truncated") from error

    @property
    def shape(self) -> tuple[int, int, int]:
        return _flat_shape(self._data.shape)

    @property
    def scan(self) -> tuple[int, int] | None:
        return _raster(self._data.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self._data.dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        try:
            return read_runs(self._data, indices)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{self.name} cannot be read: {error}. The file may be truncated, or a compression filter "
                "missing (pip install 'pypty[io]')"
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _find_dataset(file: Any, key: str, path: Path, trusted: bool) -> Any:
    check_key(file, key, trusted)
    item = file.get(key)
    if isinstance(item, h5py.Dataset):
        return item
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    listed = ", ".join(names[:8]) or "none"
    raise DataError(
        f"{str(path)!r} has no data set {key!r}; its data sets are: {listed}. Name one with data_key"
    )


def _check_layout(shape: tuple[int, ...] | None, dtype: np.dtype, name: str) -> None:
    if shape is None:
        raise DataError(f"{name} is an empty data set without a shape; expected patterns (N, ky, kx)")
    if len(shape) not in (3, 4):
        raise DataError(
            f"{name} has shape {shape}, expected 3-D (N, ky, kx) or 4-D (sy, sx, ky, kx) patterns"
        )
    if 0 in shape:
        raise DataError(f"{name} has shape {shape}: there are no patterns in it")
    if dtype.kind == "c":
        raise DataError(
            f"{name} is complex ({dtype}); measured patterns are real counts. Take the squared modulus, "
            "or give the right data set"
        )
    if dtype.kind not in "biuf":
        raise DataError(f"{name} has dtype {dtype}, which does not hold numbers; expected integers or floats")


def _flat_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(N, ky, kx) of 3-D or 4-D patterns."""
    return (math.prod(shape[:-2]), shape[-2], shape[-1])


def _raster(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(slow, fast) of 4-D patterns."""
    return (shape[0], shape[1]) if len(shape) == 4 else None


def read_runs(data: Any, indices: np.ndarray) -> np.ndarray:
    """Patterns of a lazily read 3-D or 4-D array, in contiguous runs within a scan row."""
    out = np.empty((len(indices), *data.shape[-2:]), dtype=data.dtype)
    columns = data.shape[1] if len(data.shape) == 4 else 0
    for start, stop in _runs(indices, columns):
        first, last = int(indices[start]), int(indices[stop - 1])
        if columns:
            row, column = divmod(first, columns)
            out[start:stop] = data[row, column : column + last - first + 1]
        else:
            out[start:stop] = data[first : last + 1]
    return out


def as_slice(indices: np.ndarray) -> Any:
    """A slice where the indices are one run (no copy), else the indices."""
    if len(indices) and indices[-1] - indices[0] + 1 == len(indices):
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _runs(indices: np.ndarray, columns: int) -> list[tuple[int, int]]:
    """(start, stop) in ``indices`` of each run of consecutive numbers.

    With ``columns`` > 0 a run also ends at the end of a scan row, since 4-D data can be sliced within a row only.
    """
    ends = np.diff(indices) != 1
    if columns:
        ends |= np.diff(indices // columns) != 0
    edges = [0, *(np.flatnonzero(ends) + 1).tolist(), len(indices)]
    return list(zip(edges[:-1], edges[1:], strict=True))


@dataclass
class CastSource:
    """Another source with its values cast when read (``force_dataset_dtype``)."""

    source: PatternSource
    dtype: np.dtype

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def scan(self) -> tuple[int, int] | None:
        return self.source.scan

    def read(self, indices: np.ndarray) -> np.ndarray:
        data = self.source.read(indices)
        if self.dtype.kind in "iu" and data.size:
            limits = np.iinfo(self.dtype)
            if not (np.isfinite(data).all() and data.min() >= limits.min and data.max() <= limits.max):
                raise DataError(
                    f"{self.name}: values that are NaN, or outside {limits.min} to {limits.max}, cannot be cast to "
                    f"force_dataset_dtype = {self.dtype.name}; choose a floating-point type"
                )
        return data.astype(self.dtype)

    def close(self) -> None:
        self.source.close()


def open_source(settings: Settings) -> PatternSource | None:
    """The source of the patterns that the parameters name, or None if they name none.

    Raises
    ------
    DataError
        The file is missing, damaged, or holds no real 3-D or 4-D array.
    """
    source = _open_as_stored(settings) if settings["masks"] is None else _open_virtual(settings)
    forced = settings["force_dataset_dtype"]
    return source if source is None or forced is None else CastSource(source, np.dtype(forced))


def _open_virtual(settings: Settings) -> PatternSource | None:
    """Sums over virtual detectors, (N, D) or (sy, sx, D), as patterns (N, 1, D). All are read: they are small."""
    dataset, path = settings["dataset"], Path(settings["data_path"]).expanduser()
    name = "dataset" if dataset is not None else str(path)
    if dataset is None:
        if not settings["data_path"]:
            return None
        _check_data_path(path)
        dataset = _all_sums(path, settings)
    values = np.asarray(dataset[()] if isinstance(dataset, h5py.Dataset) else dataset)
    masks = settings["masks"]
    assert masks is not None
    n_detectors = len(masks)
    if values.ndim not in (2, 3) or values.shape[-1] != n_detectors:
        raise DataError(
            f"{name} has shape {values.shape}, but there are {n_detectors} masks; expected (N, {n_detectors}), one sum "
            "for each position and virtual detector"
        )
    return ArraySource(values.reshape(-1, 1, n_detectors), name)


def _all_sums(path: Path, settings: Settings) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        return _load_npy(path)
    with open_hdf5(path) as file:
        data = _find_dataset(file, settings["data_key"], path, settings["trust_external_links"])
        try:
            return np.asarray(data[()])
        except Exception as error:  # h5py raises many kinds on damaged trees
            raise DataError(f"{str(path)!r} cannot be read: {error}. It is damaged or truncated") from error


def _check_data_path(path: Path) -> None:
    problem = not_a_file(path)
    if problem:
        raise DataError(f"data_path: {problem}")


def _load_npy(path: Path) -> np.ndarray:
    try:
        return load_npy(path, mapped=True)
    except DataError as error:
        raise DataError(f"{str(path)!r} cannot be read as .npy: {error}") from error


def _open_as_stored(settings: Settings) -> PatternSource | None:
    dataset = settings["dataset"]
    if dataset is not None:
        return Hdf5Source(dataset) if isinstance(dataset, h5py.Dataset) else ArraySource(dataset)
    if not settings["data_path"]:
        return None
    path = Path(settings["data_path"]).expanduser()
    _check_data_path(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".nxs"):
        return Hdf5Source.open(path, settings["data_key"], settings["trust_external_links"])
    if path.suffix.lower() == ".npy":
        try:
            header = read_npy_header(path)
        except DataError as error:
            raise DataError(f"{str(path)!r} cannot be read as .npy: {error}") from error
        if header.in_c_order:
            return NpySource(path, header)
        return ArraySource(_load_npy(path), str(path))
    raise DataError(
        f"data_path: {str(path)!r} has the ending {path.suffix!r}; .h5, .hdf5 and .npy can be read. Other formats: "
        f"pypty import {path.name} -o data.h5"
    )


def fingerprint(source: PatternSource) -> str:
    """A short hash of shape, type and a few patterns, by which a resumed run recognises its data.

    Four patterns are enough to tell data sets apart, and reading all of them could take minutes.
    """
    n = source.shape[0]
    digest = hashlib.sha256(f"{source.shape}{source.dtype}".encode())
    for index in sorted({0, n // 3, n // 2, n - 1}):
        digest.update(np.ascontiguousarray(source.read(np.array([index]))).tobytes())
    return digest.hexdigest()[:16]
