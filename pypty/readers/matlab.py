"""MATLAB files, version 5 to 7 (SciPy) and 7.3 (HDF5).

Axes are named as MATLAB shows them (``size(data)``), in both versions: HDF5 files store them reversed, which is undone
here. Without ``axes`` the patterns are MATLAB's first two axes: ``data(:,:,n)`` is (ky, kx, n), and ``data(:,:,iy,ix)``
is (ky, kx, sy, sx). A shape that suggests another order is refused.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from pypty.errors import DataError
from pypty.readers.axes import AxesView, in_order
from pypty.readers.choose import only_one
from pypty.readers.hdf5 import open_file
from pypty.readers.recording import Recording


def open_mat5(path: Path, key: str | None, axes: str | None) -> Recording:
    """Read a variable of a file of version 5 to 7 into memory (such variables have at most 2 GiB).

    Raises
    ------
    DataError
        The file is damaged or truncated, or the variable is not found.
    """
    from scipy.io import loadmat, whosmat

    try:
        shapes = {
            name: (tuple(int(n) for n in shape), _class_dtype(kind))
            for name, shape, kind in whosmat(str(path))
        }
        chosen = only_one(shapes, key, str(path))
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


def open_mat73(path: Path, key: str | None, axes: str | None) -> Recording:
    """Open a variable of a file of version 7.3, to be read lazily.

    Raises
    ------
    DataError
        The file is damaged or truncated, or the variable is not found.
    """
    file = open_file(path)
    try:
        arrays = {
            name: (tuple(item.shape)[::-1], item.dtype)  # axes as MATLAB shows them
            for name, item in file.items()
            if isinstance(item, h5py.Dataset) and item.shape is not None
        }
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
