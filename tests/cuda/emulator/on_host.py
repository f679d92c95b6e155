"""What CuPy's wheel has compiled for real devices, or leaves to libraries that are not emulated: done by NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import cupy
import cupy.cuda.thrust
import numpy as np

LINEAR_ALGEBRA = ("svd", "eigh", "eigvalsh", "qr", "cholesky", "solve", "inv", "pinv", "lstsq", "det")


def replace() -> None:
    cupy.cuda.thrust.sort = _sort
    cupy.cuda.thrust.argsort = _argsort
    for name in LINEAR_ALGEBRA:
        setattr(cupy.linalg, name, _on_host(getattr(np.linalg, name)))
    cupy.cuda.set_allocator(_new_memory)


def _view(address: int, dtype: Any, shape: Any) -> np.ndarray:
    """Memory of the device, when all tasks are done."""
    cupy.cuda.get_current_stream().synchronize()
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


def _sort(dtype: Any, data: int, keys: int, shape: Any) -> None:
    _view(data, dtype, shape).sort(axis=-1)


def _argsort(dtype: Any, indices: int, data: int, keys: int, shape: Any) -> None:
    _view(indices, np.intp, shape)[...] = np.argsort(_view(data, dtype, shape), axis=-1, kind="stable")


def _on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numpy.linalg that takes and returns device arrays."""

    def to_host(value: Any) -> Any:
        return value.get() if isinstance(value, cupy.ndarray) else value

    def to_device(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(to_device(item) for item in value)
        return cupy.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value

    def call(*given: Any, **named: Any) -> Any:
        return to_device(
            function(*map(to_host, given), **{key: to_host(value) for key, value in named.items()})
        )

    return call


def _new_memory(size: int) -> Any:
    """Memory of CuPy's pool, full of NaN: what another array left there is not found by chance."""
    stream = cupy.cuda.get_current_stream()
    if stream.is_capturing():
        raise RuntimeError(
            "memory is allocated while a stream is captured: a replay would find other arrays in it"
        )
    memory = cupy.get_default_memory_pool().malloc(size)
    if size:
        cupy.cuda.runtime.memsetAsync(memory.ptr, 0xFF, size, stream.ptr)
    return memory
