"""Large arrays that are allocated once and used again: nothing wave-sized is allocated in the loop over batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.backend.fft import Transforms

_ALIGNMENT = 64
"""Bytes; the width of a SIMD register, which fast Fourier transforms and loops ask for."""


class Workspace:
    """Named buffers of one thread, and its Fourier transforms. A buffer grows when it must and never shrinks.

    Parameters
    ----------
    xp : the array module whose arrays are given out
    fft_library : of the transforms on the CPU

    Attributes
    ----------
    fft : transforms in place, with the plans of this thread
    """

    def __init__(self, xp: Any, fft_library: str = "scipy") -> None:
        self.xp = xp
        self.fft = Transforms(fft_library)
        self._buffers: dict[str, Array] = {}
        self._views: dict[tuple[str, tuple[int, ...], np.dtype], Array] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this shape, contiguous, with whatever was left in it. The same name gives the same memory."""
        key = (name, shape, np.dtype(dtype))
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._make(*key)
        return view

    def _make(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        n_bytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            for key in [key for key in self._views if key[0] == name]:
                del self._views[key]
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = self._aligned(n_bytes)
        return buffer[:n_bytes].view(dtype).reshape(shape)

    def _aligned(self, n_bytes: int) -> Array:
        if self.xp is not np:
            return self.xp.empty(n_bytes, np.uint8)
        raw = np.empty(n_bytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start : start + n_bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every buffer."""
        return {name: int(buffer.nbytes) for name, buffer in self._buffers.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(self.sizes.values())

    def clear(self) -> None:
        """Give all memory back (after an out-of-memory)."""
        self._views.clear()
        self._buffers.clear()
