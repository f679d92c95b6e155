"""MATLAB files, version 5 to 7 (SciPy) and 7.3 (HDF5).

Axes are named as MATLAB shows them (``size(data)``), in both versions: HDF5 files store them reversed, which is undone
here. Without ``axes`` the patterns are MATLAB's first two axes: ``data(:,:,n)`` is (ky, kx, n), and ``data(:,:,iy,ix)``
is (ky, kx, sy, sx). A shape that suggests another order is refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np

from pypty.data.hdf5 import LARGEST_DEFLATED, check_key, open_hdf5
from pypty.errors import DataError
from pypty.readers.axes import AxesView, in_order
from pypty.readers.choose import only_one
from pypty.readers.mat5 import check_structure
from pypty.readers.recording import Recording


def open_mat5(path: Path, key: str | None, axes: str | None) -> Recording:
    """Read a variable of a file of version 5 to 7 into memory (such variables have at most 2 GiB).

    Raises
    ------
    DataError
        The file is damaged or truncated, or the variable is not found.
    """
    from scipy.io import loadmat

    try:
        chosen = only_one(check_mat_sizes(path), key, str(path))
        data = loadmat(str(path), variable_names=[chosen])[chosen]
    except DataError:
        raise
    except Exception as error:  # scipy and zlib raise many kinds on damaged bytes
        raise DataError(
            f"{str(path)!r} cannot be read as a MATLAB file: {type(error).__name__}: {error}. It is damaged or "
            "truncated"
        ) from error
    name = f"{path}:{chosen}"
    if isinstance(data, np.ndarray) and data.dtype.kind in "biuf" and data.ndim in (3, 4):
        data = in_order(data, axes, _usual(data.shape, axes, name), name)
    return Recording(data, name)


def check_mat_sizes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of the variables of a file of version 5 to 7.

    Raises
    ------
    DataError
        The file is damaged, or a variable is larger than it can hold. SciPy's errors are left to the caller.
    """
    from scipy.io import whosmat

    check_structure(path)
    have = path.stat().st_size
    shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    for name, sizes, kind in whosmat(str(path)):
        shape, dtype = tuple(int(n) for n in sizes), _class_dtype(kind)
        if math.prod(shape) * dtype.itemsize > LARGEST_DEFLATED * have:
            raise DataError(
                f"{str(path)!r}: its header says that {name} has shape {shape} of {dtype}, but the file has {have} "
                "bytes; it is damaged or truncated"
            )
        shapes[name] = (shape, dtype)
    return shapes


def open_mat73(path: Path, key: str | None, axes: str | None, trusted: bool = False) -> Recording:
    """Open a variable of a file of version 7.3, to be read lazily; ``trusted`` as for other HDF5 files.

    Raises
    ------
    DataError
        The file is damaged or truncated, or the variable is not found.
    """
    file = open_hdf5(path)
    try:
        arrays = {}
        for name in file:
            check_key(file, name, trusted)
            item = file[name]
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                arrays[name] = (tuple(item.shape)[::-1], item.dtype)  # axes as MATLAB shows them
        chosen = only_one(arrays, key, str(path))
        dataset, name = file[chosen], f"{path}:{chosen}"
        if dataset.dtype.names is not None and set(dataset.dtype.names) == {"real", "imag"}:
            raise DataError(
                f"{name} is complex; measured patterns are real counts. Choose another variable with key"
            )
        if dataset.ndim not in (3, 4):
            return Recording(dataset, name)  # raises DataError
        shown = AxesView(dataset, tuple(reversed(range(dataset.ndim))))
        data = in_order(shown, axes, _usual(shown.shape, axes, name), name)
        return Recording(data, name, closing=(file.close,))
    except DataError:
        file.close()
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        file.close()
        raise DataError(f"{str(path)!r} cannot be read: {error}. It is damaged or truncated") from error


def _class_dtype(kind: str) -> np.dtype:
    """dtype of a MATLAB class; cells, structures and text count as objects."""
    names = {"double": "f8", "single": "f4", "logical": "b1"}
    if kind in names:
        return np.dtype(names[kind])
    return np.dtype(kind) if kind.removeprefix("u").startswith("int") else np.dtype(object)


def _usual(shape: tuple[int, ...], axes: str | None, name: str) -> tuple[str, ...] | None:
    if axes is not None:
        return None
    usual = ("ky", "kx", "n") if len(shape) == 3 else ("ky", "kx", "sy", "sx")
    if shape[0] != shape[1] and shape[-1] == shape[-2]:
        other = "n,ky,kx" if len(shape) == 3 else "sy,sx,ky,kx"
        raise DataError(
            f"{name} has size {tuple(shape)} in MATLAB. Patterns are expected in the first two axes "
            f"({', '.join(usual)}), but only the last two axes have equal lengths; give axes={other!r} or "
            f"axes={','.join(usual)!r}"
        )
    return usual
