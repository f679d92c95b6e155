"""Variables of MATLAB files, versions 5 to 7.3, with axes in MATLAB's order."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from pypty.errors import DataError
from pypty.importers.hdf5 import count_item, opened
from pypty.readers.matlab import check_mat_sizes


def read_mat(path: Path, names: Iterable[str], expected: str) -> dict[str, Any]:
    """The variables ``names``, as far as they exist: arrays as in MATLAB, cells as lists, structs as dicts.

    Parameters
    ----------
    expected : the expected kind of file, in words

    Raises
    ------
    DataError
        The file cannot be read.
    """
    if h5py.is_hdf5(path):
        with opened(path, expected) as file:
            items = itertools.count(1)
            return {name: _from_hdf5(file[name], file, items) for name in names if name in file}
    try:
        check_mat_sizes(path)
        content = scipy.io.loadmat(path, variable_names=list(names), struct_as_record=True)
    except Exception as error:  # scipy and zlib raise many kinds on damaged bytes
        raise DataError(f"{str(path)!r} cannot be read as {expected}: {error}") from error
    return {name: _from_scipy(value) for name, value in content.items() if not name.startswith("__")}


def _from_hdf5(item: h5py.Group | h5py.Dataset, file: h5py.File, items: Iterator[int]) -> Any:
    count_item(items, item)
    if isinstance(item, h5py.Group):
        return {key: _from_hdf5(value, file, items) for key, value in item.items()}
    if not isinstance(item, h5py.Dataset):
        raise KeyError("an entry is neither a group nor a data set")
    if item.attrs.get("MATLAB_empty", 0):
        return np.zeros((0, 0))
    value = item[()]
    if item.dtype == h5py.ref_dtype:  # a cell array
        return [_from_hdf5(file[reference], file, items) for reference in np.ravel(value, order="F")]
    if item.attrs.get("MATLAB_class") == b"char":
        return "".join(chr(code) for code in np.ravel(value))
    if value.dtype.names and set(value.dtype.names) == {"real", "imag"}:
        value = value["real"] + 1j * value["imag"]
    return np.asarray(value).transpose()  # HDF5 stores the axes in the opposite order


def _from_scipy(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.names:
        record = value.ravel()[0] if value.size else None
        return {} if record is None else {name: _from_scipy(record[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [_from_scipy(item) for item in value.ravel(order="F")]
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return "".join(str(item) for item in value.ravel())
    return value
