"""The measured patterns in a NeXus file: links to their file, or copies."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.errors import DataError

_log = logging.getLogger(__name__)
_CHUNK = 2**26  # bytes of patterns that are copied at once


@dataclass(frozen=True, kw_only=True)
class Patterns:
    """Location and layout of the stored patterns.

    Attributes
    ----------
    path : an HDF5 or .npy file
    key : data set in an HDF5 file
    shape, dtype : as stored
    offset : number of bytes before the values of a .npy file
    sums : whether each pattern is a row of sums over virtual detectors
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0
    sums: bool = False

    @property
    def n_tail(self) -> int:
        """Number of axes of a pattern: 2, or 1 for sums over virtual detectors."""
        return 1 if self.sums or len(self.shape) == 2 else 2

    @property
    def n_patterns(self) -> int:
        return int(np.prod(self.shape[: len(self.shape) - self.n_tail]))

    def write(self, file: h5py.File, name: str, lead: tuple[int, ...], folder: Path, copy: bool) -> None:
        """Create the data set ``name`` with leading axes ``lead`` (their product is the number of patterns).

        Without ``copy`` it is a link, valid as long as the patterns are not moved: a virtual data set for HDF5
        (relative to ``folder`` if possible), external storage for .npy.
        """
        # (N, ky, kx) or (sy, sx, ky, kx) -> (*lead, ky, kx)
        shape = (*lead, *self.shape[len(self.shape) - self.n_tail :])
        if copy:
            self._copy(file, name, shape)
        elif self.key:
            file.create_virtual_dataset(name, self._layout(shape, folder))
        else:
            size = int(np.prod(shape)) * self.dtype.itemsize
            file.create_dataset(name, shape, self.dtype, external=[(str(self.path), self.offset, size)])

    def _layout(self, shape: tuple[int, ...], folder: Path) -> h5py.VirtualLayout:
        layout = h5py.VirtualLayout(shape=shape, dtype=self.dtype)
        source = h5py.VirtualSource(_near(self.path, folder), self.key, shape=self.shape, dtype=self.dtype)
        if shape == self.shape:
            layout[...] = source
        elif len(shape) > len(self.shape):  # a raster from one list
            for row in range(shape[0]):
                layout[row] = source[row * shape[1] : (row + 1) * shape[1]]
        else:  # a list from a raster
            columns = self.shape[1]
            for row in range(self.shape[0]):
                layout[row * columns : (row + 1) * columns] = source[row]
        return layout

    def _copy(self, file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
        n = self.n_patterns
        tail = shape[-self.n_tail :]
        per_pattern = max(1, int(np.prod(tail)) * self.dtype.itemsize)
        step = max(1, _CHUNK // per_pattern)
        lead = shape[: len(shape) - self.n_tail]
        chunk = (*(1,) * len(lead), *tail)  # one pattern: readers pick patterns in any order
        out = file.create_dataset(
            name, shape, self.dtype, chunks=chunk, compression="gzip", compression_opts=1
        )
        if len(lead) == 2:
            step = max(1, min(step, lead[1]))
        with _Reader(self) as read:
            for start in range(0, n, step):
                stop = min(start + step, n)
                if len(lead) == 1:
                    out[start:stop] = read(start, stop)
                    continue
                while start < stop:  # HDF5 writes rectangular blocks: split at the end of a scan row
                    row, column = divmod(start, lead[1])
                    end = min(stop, (row + 1) * lead[1])
                    out[row, column : column + end - start] = read(start, end)
                    start = end


class _Reader:
    """Context manager that reads patterns start to stop of a file, as (n, ...)."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self._file: h5py.File | None = None

    def __enter__(self) -> _Reader:
        p = self._patterns
        if p.key:
            self._file = h5py.File(p.path, "r")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __call__(self, start: int, stop: int) -> np.ndarray:
        p = self._patterns
        tail = p.shape[len(p.shape) - p.n_tail :]
        if self._file is None:
            array = np.load(p.path, mmap_mode="r", allow_pickle=False).reshape(-1, *tail)
            return np.array(array[start:stop])
        data = self._file[p.key]
        if data.ndim == 1 + p.n_tail:
            return data[start:stop]
        # A raster: read the whole rows that contain the patterns, then cut.
        first, last = start // p.shape[1], (stop - 1) // p.shape[1]
        rows = data[first : last + 1].reshape(-1, *tail)
        return rows[start - first * p.shape[1] : stop - first * p.shape[1]]


def find_patterns(params: Mapping[str, Any], folder: Path) -> Patterns | None:
    """The patterns named by a folder's parameters; None, with a warning, if they cannot be located."""
    stored = params.get("dataset")
    path = Path(str(getattr(stored, "filename", ""))) if isinstance(stored, np.memmap) else None
    if path is None and params.get("data_path"):
        path = (folder / Path(str(params["data_path"])).expanduser()).resolve()
    if path is None or not path.is_file():
        _log.warning(
            "the patterns of %s (%s) were not found; the NeXus file is written without detector_1/data, although "
            "NXcxi_ptycho requires it",
            folder,
            path or "passed in memory and not stored",
        )
        return None
    try:
        patterns = (
            _of_npy(path)
            if path.suffix.lower() == ".npy"
            else _of_hdf5(path, str(params.get("data_key", "data")))
        )
    except (OSError, ValueError, EOFError, KeyError, RuntimeError) as error:
        raise DataError(f"the patterns in {str(path)!r} cannot be read: {error}") from error
    sums = params.get("masks") is not None
    return patterns if patterns is None else dataclasses.replace(patterns, sums=sums)


def _of_npy(path: Path) -> Patterns | None:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        _log.warning("the patterns in %s are not in C order and cannot be linked; they are left out", path)
        return None
    return _checked(
        Patterns(path=path, key="", shape=array.shape, dtype=array.dtype, offset=int(array.offset))
    )


def _of_hdf5(path: Path, key: str) -> Patterns:
    with h5py.File(path, "r") as file:
        data = file[key]
        if not isinstance(data, h5py.Dataset):
            raise KeyError(f"{key!r} is not a data set")
        return _checked(Patterns(path=path, key=key, shape=data.shape, dtype=data.dtype))


def _checked(patterns: Patterns) -> Patterns:
    if len(patterns.shape) not in (2, 3, 4):
        raise ValueError(f"shape {patterns.shape}, expected (N, ky, kx), (sy, sx, ky, kx) or (N, D)")
    return patterns


def _near(path: Path, folder: Path) -> str:
    """The path relative to the new file if they share more than the root, so that the folders can be moved together."""
    path, folder = path.resolve(), folder.resolve()
    try:
        shared = os.path.commonpath([path, folder])
    except ValueError:  # other drives
        return str(path)
    return str(path) if Path(shared) == Path(shared).anchor else os.path.relpath(path, folder)
