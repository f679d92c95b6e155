"""A stand-in for CuPy on machines without a GPU: arrays that refuse to mix with NumPy arrays.

CuPy raises TypeError where a NumPy array meets a device array; so does this module. It has CuPy's interface as far as
pypty uses it, and computes with NumPy. A reconstruction that runs on it moves every array explicitly.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


def _host(value: Any) -> Any:
    """The NumPy value inside; refuses NumPy arrays, which live on the other side."""
    if isinstance(value, ndarray):
        return value._host_array
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a host array met a device array")
    if isinstance(value, (tuple, list)):
        return type(value)(_host(item) for item in value)
    return value


def _device(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(np.asarray(value))
    if isinstance(value, (tuple, list)):  # a named tuple, as of linalg.svd, becomes a plain one
        return (list if isinstance(value, list) else tuple)(_device(item) for item in value)
    return value


class ndarray(NDArrayOperatorsMixin):
    """A device array. ``get`` is the only way back to the host, besides 0-d conversions to Python numbers."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray) -> None:
        self._host_array = host

    def get(self) -> np.ndarray:
        return self._host_array.copy()

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        if out is not None:
            kwargs["out"] = tuple(_host(item) for item in out)
        result = getattr(ufunc, method)(*(_host(item) for item in inputs), **kwargs)
        return out[0] if out is not None else _device(result)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # above all __array_interface__, by which NumPy would help itself
            raise AttributeError(name)
        value = getattr(self._host_array, name)
        if callable(value):
            return lambda *args, **kwargs: _device(
                value(*(_host(item) for item in args), **{key: _host(item) for key, item in kwargs.items()})
            )
        return _device(value) if isinstance(value, np.ndarray) else value

    def __getitem__(self, key: Any) -> Any:
        value = self._host_array[_host(key)]
        return ndarray(np.asarray(value)) if isinstance(value, np.generic) else ndarray(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host_array[_host(key)] = _host(value)

    def __len__(self) -> int:
        return len(self._host_array)

    def __float__(self) -> float:
        return float(self._host_array)

    def __int__(self) -> int:
        return int(self._host_array)

    def __bool__(self) -> bool:
        return bool(self._host_array)


def _wrapped(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_host(item) for item in args)
        return _device(function(*args, **{key: _host(item) for key, item in kwargs.items()}))

    return call


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """Host to device (a copy), or the same device array."""
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else ndarray(value._host_array.astype(dtype))
    return ndarray(np.array(value, dtype=dtype))


def __getattr__(name: str) -> Any:
    value = getattr(np, name)
    return _wrapped(value) if callable(value) and not isinstance(value, type) else value


class Library:
    """numpy.fft, scipy.fft or numpy.linalg with device arrays."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        return _wrapped(getattr(self._library, name))


fft = Library(np.fft)
linalg = Library(np.linalg)


def _scatter_add(array: ndarray, index: Any, values: ndarray) -> None:
    np.add.at(_host(array), _host(index), _host(values))


cupyx = SimpleNamespace(scatter_add=_scatter_add)


class Plan:
    """cuFFT's plan: unnormalised, in either direction, from one array to another of the shape it was made for."""

    def __init__(self, like: ndarray, axes: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.axes = like.shape, like.dtype, axes

    def fft(self, source: ndarray, out: ndarray, direction: int) -> None:
        assert (source.shape, source.dtype) == (out.shape, out.dtype) == (self.shape, self.dtype)
        run = np.fft.fftn if direction == cufft.CUFFT_FORWARD else np.fft.ifftn
        out[...] = _device(
            run(_host(source), axes=self.axes, norm="backward" if run is np.fft.fftn else "forward")
        )


cufft = SimpleNamespace(CUFFT_FORWARD=-1, CUFFT_INVERSE=1)
cuda = SimpleNamespace(
    cufft=cufft,
    runtime=SimpleNamespace(memGetInfo=lambda: (8 * 2**30, 16 * 2**30)),
    memory=SimpleNamespace(OutOfMemoryError=MemoryError),
)


MODULES = {
    "cupyx": cupyx,
    "cupyx.scipy.fft": SimpleNamespace(get_fft_plan=lambda array, axes: Plan(array, axes)),
    "cupy.cuda.cufft": cufft,
}
"""What is imported by name, for ``sys.modules``."""


def get_default_memory_pool() -> SimpleNamespace:
    return SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
