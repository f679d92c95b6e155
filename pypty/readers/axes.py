"""Views, without copies, of arrays whose axes are stored in another order."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from pypty.errors import DataError
from pypty.readers.recording import stored_rows

_STACK = ("n", "ky", "kx")  # a list of patterns
_SCAN = ("sy", "sx", "ky", "kx")  # a raster, slow axis first

_log = logging.getLogger(__name__)


class AxesView:
    """A sliceable view of an array with its axes in another order.

    Parameters
    ----------
    array : array-like with ``shape``, ``dtype`` and slicing
    order : for each axis of the view, the stored axis
    """

    def __init__(self, array: Any, order: tuple[int, ...]) -> None:
        self._array, self._order = array, order
        self.shape = tuple(int(array.shape[axis]) for axis in order)
        self.dtype = np.dtype(array.dtype)
        # Chunk sizes in the order of the view, for Recording.chunks.
        self.chunks = tuple(stored_rows(array, axis) for axis in order)

    def __getitem__(self, key: Any) -> np.ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        index: list[Any] = [slice(None)] * len(self.shape)  # in the stored order
        for axis, part in zip(self._order, parts, strict=False):
            index[axis] = part
        values = np.asarray(self._array[tuple(index)])
        # An integer index removes its axis: transpose the remaining axes only.
        kept = [axis for axis in range(len(index)) if not isinstance(index[axis], (int, np.integer))]
        return values.transpose([kept.index(axis) for axis in self._order if axis in kept])


class StackOfPages:
    """Pages (ky, kx), read one by one, as an array (N, ky, kx).

    Parameters
    ----------
    read : returns page i
    """

    def __init__(self, read: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._read, self.shape, self.dtype = read, shape, dtype

    def __getitem__(self, key: slice) -> np.ndarray:
        chosen = range(*key.indices(self.shape[0]))
        out = np.empty((len(chosen), *self.shape[1:]), self.dtype)
        for place, page in enumerate(chosen):
            out[place] = self._read(page)
        return out


def in_order(array: Any, names: str | None, default: tuple[str, ...] | None, name: str) -> Any:
    """The array as (n, ky, kx) or (sy, sx, ky, kx).

    Parameters
    ----------
    names : names of the axes in the order of the file, slowest first: "n,ky,kx", "ky,kx,n", "sx,sy,ky,kx", ...
    default : names used if ``names`` is None; None = the order of the array

    Raises
    ------
    DataError
        The names are unknown, or their number is not that of the axes.
    """
    if names is None:
        order = default
    else:
        order = tuple(part.strip() for part in names.replace(" ", ",").split(",") if part.strip())
        if sorted(order) not in (sorted(_STACK), sorted(_SCAN)):
            raise DataError(
                f"axes is {names!r}, expected the three names n, ky, kx or the four sy, sx, ky, kx in the order of the "
                "file, for example 'ky,kx,n'"
            )
    if order is None:
        return array
    if len(order) != len(array.shape):
        raise DataError(
            f"{name} has shape {tuple(array.shape)}, but {len(order)} axes are named ({', '.join(order)}); name all"
        )
    wanted = _STACK if len(order) == 3 else _SCAN
    if order == wanted:
        return array
    return AxesView(array, tuple(order.index(axis) for axis in wanted))


def with_scan(array: Any, n_patterns: int, scan_size: tuple[int, int], name: str) -> None:
    """Check that the number of scan points equals the number of patterns.

    Raises
    ------
    DataError
        The numbers differ.
    """
    points = math.prod(scan_size)
    if points != n_patterns:
        raise DataError(
            f"{name}: scan_size {scan_size} has {points} points, but the shape {tuple(array.shape)} has {n_patterns} "
            "patterns; correct scan_size (slow, fast)"
        )
    if len(array.shape) == 4 and tuple(array.shape[:2]) != tuple(scan_size):
        _log.warning(
            "%s: scan_size %s is used, but the data are stored as %s", name, scan_size, array.shape[:2]
        )
