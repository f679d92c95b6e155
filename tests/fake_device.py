"""A stand-in for CuPy on machines without a GPU: arrays that refuse to mix with NumPy arrays.

CuPy raises TypeError where a NumPy array meets a device array; so does this module. It has CuPy's interface as far as
pypty uses it, and computes with NumPy; kernels are built for the CPU (cuda/cpu_module.py). A reconstruction that runs
on it moves every array explicitly, and orders copies and kernels (fake_streams.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_streams
import numpy as np
from fake_streams import submit
from numpy.lib.mixins import NDArrayOperatorsMixin

sys.path.append(str(Path(__file__).parent / "cuda"))
from cpu_module import CpuModule, why_not


def _host(value: Any) -> Any:
    """The NumPy value inside; refuses NumPy arrays, which live on the other side."""
    if isinstance(value, ndarray):
        return value._host_array
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: a host array met a device array")
    if isinstance(value, (tuple, list)):
        return type(value)(_host(item) for item in value)
    return value


def _device(value: Any, *given: Any) -> Any:
    """A device array of a result; those that are none of the ``given`` arrays, nor views, are new memory."""
    if isinstance(value, (np.ndarray, np.generic)):
        if not any(value is one for one in given) and (isinstance(value, np.generic) or value.flags.owndata):
            fake_streams.allocate()
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
        fake_streams.read_by_host()
        return self._host_array.copy()

    def set(self, array: np.ndarray, stream: Any = None) -> None:
        """From pinned memory, whenever the stream comes to it."""
        assert (array.shape, array.dtype) == (self.shape, self.dtype)
        assert any(np.may_share_memory(array, pinned) for pinned in PINNED), (
            "the copy would not be asynchronous"
        )
        fake_streams.JOURNAL.note("copy")
        stream.later(lambda: np.copyto(self._host_array, array))

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self._host_array.ctypes.data)

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        hosted = tuple(_host(item) for item in inputs)
        run = getattr(ufunc, method)
        if out is None:
            return _device(run(*hosted, **kwargs))
        kwargs["out"] = tuple(_host(item) for item in out)
        submit(lambda: run(*hosted, **kwargs))
        return out[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # above all __array_interface__, by which NumPy would help itself
            raise AttributeError(name)
        value = getattr(self._host_array, name)
        if name == "fill":
            return lambda number: submit(lambda: value(number))
        if callable(value):
            return lambda *args, **kwargs: _device(
                value(*(_host(item) for item in args), **{key: _host(item) for key, item in kwargs.items()})
            )
        return _device(value) if isinstance(value, np.ndarray) else value

    def __getitem__(self, key: Any) -> Any:
        key = _host(key)
        value = self._host_array[key]
        if isinstance(value, np.generic):
            value = self._host_array[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        return _device(value)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, value = _host(key), _host(value)
        submit(lambda: self._host_array.__setitem__(key, value))

    def __len__(self) -> int:
        return len(self._host_array)

    def __float__(self) -> float:
        fake_streams.read_by_host()
        return float(self._host_array)

    def __int__(self) -> int:
        fake_streams.read_by_host()
        return int(self._host_array)

    def __bool__(self) -> bool:
        fake_streams.read_by_host()
        return bool(self._host_array)


def _wrapped(function: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_host(item) for item in args)
        found = function(*args, **{key: _host(item) for key, item in kwargs.items()})
        return _device(found, *args, kwargs.get("out"))

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


PINNED: list[np.ndarray] = []


def _empty_pinned(shape: Any, dtype: Any) -> np.ndarray:
    PINNED.append(np.empty(shape, dtype))
    return PINNED[-1][...]


cupyx = SimpleNamespace(scatter_add=_scatter_add, empty_pinned=_empty_pinned)


NOT_USABLE = why_not()
"""Why kernels cannot be built here; "" if they can."""


class RawModule:
    """Kernels, built for the CPU."""

    order = 0
    """In which order blocks run (cuda/cpu_module.py); a class attribute, so that tests can change it."""

    def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
        self.module = CpuModule(code, options)

    def get_function(self, name: str) -> Any:
        function = self.module.get_function(name)

        def launch(grid: tuple[int], block: tuple[int], arguments: Sequence[Any]) -> None:
            hosted = tuple(_host(argument) for argument in arguments)

            def run() -> None:
                self.module.order = RawModule.order
                function(grid, block, hosted)

            submit(run)

        return launch


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
    Stream=fake_streams.Stream,
    Event=fake_streams.Event,
    get_current_stream=fake_streams.get_current_stream,
)


MODULES = {
    "cupy": sys.modules[__name__],
    "cupyx": cupyx,
    "cupyx.scipy.fft": SimpleNamespace(get_fft_plan=lambda array, axes: Plan(array, axes)),
    "cupy.cuda.cufft": cufft,
}
"""What is imported by name, for ``sys.modules``."""


def get_default_memory_pool() -> SimpleNamespace:
    return SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
