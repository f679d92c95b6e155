"""All unknowns of a reconstruction as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.backend.array import Array, Backend, array_module, to_host

BLOCKS = ("obj", "probe", "positions", "slice_distances")
"""Names of the refinable blocks, in the order in which they are stored and reported."""


@dataclass(frozen=True)
class Variables:
    """The unknowns, in the internal layout, on one device.

    Attributes
    ----------
    obj : (mode, z, Y, X) complex
        Transmission function of each slice; slice 0 meets the beam first.
    probe : (mode, y, x) complex
        Real-space probe, centred at n//2 of its window.
    positions : (N, 2) float64
        [y, x] of each window's top-left corner in object pixels.
    slice_distances : (1,) or (slices - 1,) float64
        Gap after each slice in Å; one value means the same for all.
    """

    obj: Array
    probe: Array
    positions: Array
    slice_distances: Array

    def block(self, name: str) -> Array:
        return getattr(self, name)

    def blocks(self, names: Iterable[str]) -> dict[str, Array]:
        """The named blocks, in the order of :data:`BLOCKS`."""
        wanted = set(names)
        return {name: self.block(name) for name in BLOCKS if name in wanted}

    def replace(self, blocks: Mapping[str, Array]) -> Variables:
        """A copy with some blocks exchanged; the others are shared."""
        return dataclasses.replace(self, **blocks)

    def zeros(self, names: Iterable[str]) -> dict[str, Array]:
        """Zero gradients of the named blocks."""
        return {name: array_module(array).zeros_like(array) for name, array in self.blocks(names).items()}


_TO_PUBLIC: Mapping[str, tuple[int, ...]] = MappingProxyType({"obj": (2, 3, 1, 0), "probe": (1, 2, 0)})
_TO_INTERNAL: Mapping[str, tuple[int, ...]] = MappingProxyType({"obj": (3, 2, 0, 1), "probe": (2, 0, 1)})


def to_public(name: str, array: Array) -> np.ndarray:
    """A block (or its gradient) on the host in the layout of docs/conventions.md."""
    host = to_host(array)
    return np.ascontiguousarray(host.transpose(_TO_PUBLIC[name])) if name in _TO_PUBLIC else host.copy()


def from_public(name: str, array: np.ndarray, backend: Backend) -> Array:
    """Inverse of :func:`to_public`; complex blocks take the precision of the backend, real ones float64."""
    if name in _TO_INTERNAL:
        return backend.asarray(np.ascontiguousarray(array.transpose(_TO_INTERNAL[name])), backend.complex)
    return backend.asarray(np.array(array, dtype=np.float64), np.float64)
