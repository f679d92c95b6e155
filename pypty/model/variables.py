"""All unknowns of a reconstruction as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Array, Backend, array_module, to_host

BLOCKS = (
    "obj",
    "probe",
    "positions",
    "tilts",
    "slice_distances",
    "aberrations_array",
    "static_background",
    "beam_current",
    "detector_blur_std",
)
"""Names of the refinable blocks, in the order in which they are stored and reported. Each is also the name of the
parameter that holds its starting value."""


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The unknowns, in the internal layout, on one device. A block that the model does not have is None.

    Attributes
    ----------
    obj : (mode, z, Y, X) complex
        Transmission function of each slice; slice 0 meets the beam first.
    probe : (mode, y, x), or (subscan, mode, y, x) with ``probe_marker``, complex
        Real-space probe, centred at n//2 of its window.
    positions : (N, 2), or (1, 2) for all patterns, float64
        [y, x] of each window's top-left corner in object pixels.
    slice_distances : (1,) or (gaps,) float64
        Gap after each slice in Å; one value means the same for all.
    tilts : (N, 6), or (1, 6) for all patterns, float64
        [y, x] before, inside and after the specimen, rad.
    aberrations_array : (groups, K) float64
        Krivanek coefficients in Å of each group of patterns.
    static_background : (ky, kx) float64
        Square root of an additive intensity, as the patterns are compared, zero frequency at n//2.
    beam_current : (N,) float64
        Factor on the probe amplitude of each pattern.
    detector_blur_std : (1,) float64
        Standard deviation of the detector's Gaussian point spread, detector pixels.
    """

    obj: Array
    probe: Array
    positions: Array
    slice_distances: Array
    tilts: Array = None
    aberrations_array: Array = None
    static_background: Array = None
    beam_current: Array = None
    detector_blur_std: Array = None

    def block(self, name: str) -> Array:
        return getattr(self, name)

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the blocks that there are."""
        return tuple(name for name in BLOCKS if self.block(name) is not None)

    def blocks(self, names: Iterable[str]) -> dict[str, Array]:
        """The named blocks that there are, in the order of :data:`BLOCKS`."""
        wanted = set(names)
        return {name: self.block(name) for name in self.present if name in wanted}

    def replace(self, blocks: Mapping[str, Array]) -> Variables:
        """A copy with some blocks exchanged; the others are shared."""
        return dataclasses.replace(self, **blocks)

    def zeros(self, names: Iterable[str]) -> dict[str, Array]:
        """Zero gradients of the named blocks."""
        return {name: array_module(array).zeros_like(array) for name, array in self.blocks(names).items()}

    @property
    def n_slices(self) -> int:
        return int(self.obj.shape[1])


def to_public(name: str, array: Array) -> np.ndarray:
    """A block (or its gradient) on the host in the layout of docs/conventions.md."""
    host = to_host(array)
    if name == "obj":
        return np.ascontiguousarray(host.transpose(2, 3, 1, 0))
    if name == "probe":
        return np.ascontiguousarray(host.transpose(1, 2, 0) if host.ndim == 3 else host.transpose(2, 3, 1, 0))
    return host.copy()


def from_public(name: str, array: np.ndarray, backend: Backend) -> Array:
    """Inverse of :func:`to_public`; complex blocks take the precision of the backend, real ones float64."""
    if name == "obj":
        array = array.transpose(3, 2, 0, 1)
    elif name == "probe":
        array = array.transpose(2, 0, 1) if array.ndim == 3 else array.transpose(3, 2, 0, 1)
    else:
        return backend.asarray(np.array(array, dtype=np.float64), np.float64)
    return backend.asarray(np.ascontiguousarray(array), backend.complex)
