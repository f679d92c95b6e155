"""Nested HDF5 groups as plain values, and errors that name the expected content."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.hdf5 import check_tree, open_hdf5
from pypty.errors import DataError, PyptyError

_MOST_ITEMS = 10_000
"""Groups and data sets that are read as plain values: a group may be linked many times, or to itself."""


@contextlib.contextmanager
def opened(path: Path, expected: str) -> Iterator[h5py.File]:
    """The file, open for reading.

    Parameters
    ----------
    expected : the expected kind of file, in words

    Raises
    ------
    DataError
        The file cannot be opened or read as HDF5, points to what is missing or outside of its folder, or an item is
        missing (a KeyError inside the block).
    """
    try:
        file = open_hdf5(path)
    except DataError as error:
        raise DataError(f"{str(path)!r} cannot be read as {expected}: {error}") from error
    try:
        with file:
            check_tree(file)
            yield file
    except PyptyError:
        raise
    except KeyError as error:
        raise DataError(f"{str(path)!r} is not a complete {expected}: {error.args[0]}") from error
    except Exception as error:  # h5py raises many kinds on damaged trees
        raise DataError(f"{str(path)!r} cannot be read as {expected}: {error}") from error


def array_of(group: h5py.Group, name: str, ndim: tuple[int, ...] | None = None) -> np.ndarray:
    """The data set ``name``.

    Raises
    ------
    KeyError
        There is none.
    DataError
        It is not numeric, or has another number of dimensions.
    """
    item = group.get(name)
    if not isinstance(item, h5py.Dataset):
        where = group.name.rstrip("/")
        raise KeyError(f"it has no data set '{where}/{name}'")
    value = np.asarray(item[()])
    if value.dtype.names and set(value.dtype.names) == {"real", "imag"}:  # a compound type of complex numbers
        value = value["real"] + 1j * value["imag"]
    if value.dtype.kind not in "biufc":
        raise DataError(f"{item.file.filename!r}: {item.name!r} holds {value.dtype}, expected numbers")
    if ndim is not None and value.ndim not in ndim:
        wanted = " or ".join(str(n) for n in ndim)
        raise DataError(
            f"{item.file.filename!r}: {item.name!r} has shape {value.shape}, expected {wanted} axes"
        )
    return value


def plain(item: h5py.Group | h5py.Dataset, none: tuple[str, ...] = ()) -> Any:
    """A group as a dict, a data set as a number, string or array; strings in ``none`` become None.

    Raises
    ------
    DataError
        There are too many items.
    """
    return _plain(item, none, itertools.count(1))


def count_item(items: Iterator[int], item: h5py.Group | h5py.Dataset) -> None:
    """Count an item that is read.

    Raises
    ------
    DataError
        There are too many.
    """
    if next(items) > _MOST_ITEMS:
        raise DataError(
            f"{item.file.filename!r} has more than {_MOST_ITEMS} items, some of them linked many times; it is damaged"
        )


def _plain(item: h5py.Group | h5py.Dataset, none: tuple[str, ...], items: Iterator[int]) -> Any:
    count_item(items, item)
    if isinstance(item, h5py.Group):
        return {key: _plain(value, none, items) for key, value in item.items()}
    if not isinstance(item, h5py.Dataset):
        return None  # a named type
    value = item[()]
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return None if text in none else text
    if isinstance(value, np.generic):
        return value.item()
    return value
