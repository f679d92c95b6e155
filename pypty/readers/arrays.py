"""Files that contain a single array: .npy, .tif, .zarr, and frames without a header."""

from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np

from pypty.data.hdf5 import LARGEST_RATIO
from pypty.errors import DataError
from pypty.params.files import load_npy, read_npy_header
from pypty.readers.axes import StackOfPages, in_order
from pypty.readers.choose import only_one
from pypty.readers.optional import optional_library
from pypty.readers.recording import Recording

_LOG = logging.getLogger("pypty")


class Frames:
    """Consecutive frames of a file, read on access; a memory map would count as memory of the process.

    Parameters
    ----------
    offset : number of bytes before the first frame
    shape : (N, ky, kx) or (sy, sx, ky, kx)
    rows : number of rows of a stored frame; the first ky of them are the pattern
    """

    def __init__(
        self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype, rows: int | None = None
    ) -> None:
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        self._name, self._offset, self._rows = str(path), offset, rows or self.shape[-2]
        self._file = path.open("rb", buffering=0)
        self._reading = threading.Lock()

    def __getitem__(self, key: Any) -> np.ndarray:
        """``[a:b]``, or ``[row, a:b]`` of four axes."""
        columns = math.prod(self.shape[1:-2])  # patterns per entry of the first axis; 1 for a list
        if isinstance(key, tuple):
            row, part = key
            start, stop, _ = part.indices(columns)
            return self._read(row * columns + start, row * columns + stop)
        start, stop, _ = key.indices(self.shape[0])
        return self._read(start * columns, stop * columns).reshape(-1, *self.shape[1:])

    def _read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((max(0, stop - start), self._rows, self.shape[-1]), self.dtype)
        view, done = out.reshape(-1).view(np.uint8).data, 0
        with self._reading:
            self._file.seek(self._offset + start * self._rows * self.shape[-1] * self.dtype.itemsize)
            while done < len(view):  # readinto may return fewer bytes than requested
                count = self._file.readinto(view[done:])
                if not count:
                    raise DataError(f"{self._name!r} ends before its last pattern; it is truncated")
                done += count
        return out[:, : self.shape[-2]]  # (n, rows, kx) -> (n, ky, kx)

    def close(self) -> None:
        self._file.close()


def open_npy(path: Path, axes: str | None) -> Recording:
    """Open a .npy file; arrays of Python objects are refused, nothing is unpickled.

    Raises
    ------
    DataError
        The file is damaged or truncated, or does not contain numbers with three or four axes.
    """
    try:
        header = read_npy_header(path)
        as_stored = (
            axes is None and header.in_c_order and len(header.shape) in (3, 4) and 0 not in header.shape
        )
        mapped = None if as_stored else load_npy(path, mapped=True)
    except DataError as error:
        raise DataError(
            f"{str(path)!r} cannot be read as .npy: {error}. It is damaged or truncated, or contains Python objects, "
            "which are never unpickled; write it again with numpy.save(..., allow_pickle=False)"
        ) from error
    if mapped is not None:
        return Recording(in_order(mapped, axes, None, str(path)), str(path))
    frames = Frames(path, header.offset, header.shape, header.dtype)
    return Recording(frames, str(path), closing=(frames.close,))


def open_tif(path: Path, axes: str | None) -> Recording:
    """Open a TIFF stack: one pattern per page, or an uncompressed stack with three or four axes.

    Raises
    ------
    DataError
        tifffile is not installed, or the file is damaged or not a stack.
    """
    tifffile = optional_library("tifffile", "tifffile", f"reading {str(path)!r}")
    try:
        file = tifffile.TiffFile(path)
    except Exception as error:  # a damaged header may raise anything
        raise DataError(
            f"{str(path)!r} cannot be read as TIFF: {error}. It is damaged or truncated"
        ) from error
    try:
        data, closing = _tif_data(file, path, axes)
        return Recording(in_order(data, axes, None, str(path)), str(path), closing=(*closing, file.close))
    except DataError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise DataError(
            f"{str(path)!r} cannot be read as TIFF: {error}. It is damaged or truncated"
        ) from error


def _tif_data(file: Any, path: Path, axes: str | None) -> tuple[Any, tuple[Any, ...]]:
    # The number of pages is asked for first: tifffile then ends a chain of pages that leads back to itself.
    if len(file.pages) == 0 or len(file.series) == 0:
        raise DataError(f"{str(path)!r} has no pages; it is damaged or truncated")
    series = file.series[0]
    shape, dtype = tuple(series.shape), np.dtype(series.dtype).newbyteorder(file.byteorder)
    if len(file.series) > 1:
        raise DataError(
            f"{str(path)!r} contains {len(file.series)} series of pages, of shapes "
            f"{', '.join(str(tuple(item.shape)) for item in file.series[:6])}; expected a single stack of patterns of "
            "the same shape. If it was written in pieces, write it again as one stack"
        )
    if len(shape) not in (3, 4):
        raise DataError(
            f"{str(path)!r} has shape {shape}, expected a stack of patterns (N, ky, kx) or (sy, sx, ky, kx); a single "
            "image is not a scan"
        )
    if series.dataoffset is not None:  # the pages are contiguous and not compressed
        needed, have = int(series.dataoffset) + math.prod(shape) * dtype.itemsize, path.stat().st_size
        if have < needed:
            raise DataError(f"{str(path)!r} has {have} bytes, but its header needs {needed}; it is truncated")
        if axes is None:
            frames = Frames(path, int(series.dataoffset), shape, dtype)
            return frames, (frames.close,)
        return np.memmap(path, dtype, "r", int(series.dataoffset), shape), ()
    if math.prod(shape) * dtype.itemsize > LARGEST_RATIO * path.stat().st_size:
        raise DataError(
            f"{str(path)!r} has {path.stat().st_size} bytes, but its header says shape {shape} and dtype {dtype}; it "
            "is damaged or truncated"
        )
    pages = series.pages
    if len(pages) != math.prod(shape[:-2]) or axes is not None:
        return series.asarray(), ()  # several patterns per page, or another order of axes: read into memory
    flat = StackOfPages(lambda page: pages[page].asarray(), (len(pages), *shape[-2:]), dtype)
    return (flat if len(shape) == 3 else _Rows(flat, shape)), ()


class _Rows:
    """View of a stack (N, ky, kx) as (sy, sx, ky, kx)."""

    def __init__(self, stack: StackOfPages, shape: tuple[int, ...]) -> None:
        self._stack, self.shape, self.dtype = stack, shape, stack.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        columns = self.shape[1]
        if isinstance(key, tuple):
            start, stop, _ = key[1].indices(columns)
            return self._stack[key[0] * columns + start : key[0] * columns + stop]
        start, stop, _ = key.indices(self.shape[0])
        return self._stack[start * columns : stop * columns].reshape(-1, *self.shape[1:])


def open_zarr(path: Path, key: str | None, axes: str | None) -> Recording:
    """Open a zarr array, or the array ``key`` of a group.

    Raises
    ------
    DataError
        zarr is not installed, the folder is damaged, or the array is not found.
    """
    zarr = optional_library("zarr", "zarr", f"reading {str(path)!r}")
    try:
        opened = zarr.open(str(path), mode="r")
        array = opened if hasattr(opened, "shape") else _zarr_member(opened, key, path)
        # zarr silently reads missing chunks as the fill value.
        missing = int(array.nchunks) - int(array.nchunks_initialized)
    except DataError:
        raise
    except Exception as error:  # damaged JSON, unknown codecs, missing members
        raise DataError(
            f"{str(path)!r} cannot be read as zarr: {type(error).__name__}: {error}. Is the folder complete?"
        ) from error
    wanted, have = math.prod(array.shape) * np.dtype(array.dtype).itemsize, _bytes_below(path)
    if wanted > LARGEST_RATIO * have and missing < array.nchunks:
        raise DataError(
            f"{str(path)!r} says shape {array.shape} and dtype {array.dtype}, {wanted} bytes, but its files have "
            f"{have}; it is damaged or incomplete"
        )
    if missing:
        if missing == array.nchunks:
            raise DataError(
                f"{str(path)!r}: all {missing} chunks are missing; copy the folder again, with all files"
            )
        _LOG.warning(
            "%s: %d of %d chunks are missing; zarr reads them as %r. This is right for empty chunks, but wrong if the "
            "copy is incomplete",
            path,
            missing,
            array.nchunks,
            array.fill_value,
        )
    return Recording(in_order(array, axes, None, str(path)), str(path))


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _zarr_member(group: Any, key: str | None, path: Path) -> Any:
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for name, member in (
        group.members(max_depth=None) if hasattr(group, "members") else group.arrays(recurse=True)
    ):
        if hasattr(member, "shape"):
            shapes[name] = (tuple(member.shape), np.dtype(member.dtype))
    return group[only_one(shapes, key, str(path))]
