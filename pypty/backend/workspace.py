"""Large arrays that are allocated once and reused, so that the loop over batches allocates no array of wave size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.backend.fft import Transforms

_ALIGNMENT = 64
"""Bytes; the width of the widest SIMD registers, for which FFTW and NumPy have faster code."""


class Workspace:
    """Named buffers of one thread, and its Fourier transforms. Buffers grow on demand and never shrink.

    Parameters
    ----------
    xp : array module of the buffers
    fft_library : library of the transforms on the CPU

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
        """A contiguous array with undefined content. Arrays of the same name share their memory."""
        key = (name, shape, np.dtype(dtype))
        view = self._views.get(key)
        if view is None:
            view = self._views[key] = self._make(*key)
        return view

    def _make(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        n_bytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < n_bytes:
            # Views and the old buffer go first, so that old and new memory are not held at the same time.
            for key in [key for key in self._views if key[0] == name]:
                del self._views[key]
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = self._aligned(n_bytes)
        return buffer[:n_bytes].view(dtype).reshape(shape)

    def _aligned(self, n_bytes: int) -> Array:
        if self.xp is not np:
            return self.xp.empty(n_bytes, np.uint8)
        raw = np.empty(n_bytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT  # bytes up to the next aligned address
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
        """Free all memory, and that of the plans of transforms (after an out-of-memory error)."""
        self.fft.clear()
        self._views.clear()
        self._buffers.clear()
