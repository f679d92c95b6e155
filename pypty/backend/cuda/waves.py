"""The kernels of waves.cu, and the launch of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.cuda.module import Compiler, KernelModule
from pypty.backend.cuda.plans import plan_of

FILES = ("complex.cuh", "transform.cuh", "waves.cu")

_PATTERNS_PER_SUM = 8
"""Number of patterns whose probe gradients a block sums in registers before it writes the sum."""

_PIXEL_THREADS = 256
"""Threads of a block of the kernels that work on single pixels (as in waves.cu)."""


_TRAFFIC: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "probe_forward": (8, 0, 0),
        "row_forward": (16, 8, 0),
        "propagate": (16, 0, 0),
        "propagate_adjoint": (24, 0, 0),
        "detector_forward": (8, 4, 0),
        "detector_adjoint": (16, 0, 4),
        "row_adjoint": (24, 24, 0),
        "probe_adjoint": (9, 0, 0),
    }
)
"""Bytes that a kernel reads and writes for a pixel of a wave: in columns that are in use, shared by all modes, and
shared in columns that are in use."""


def wave_bytes(kernel: str, used: float, modes: int) -> float:
    """Bytes per pixel of a wave, if a part ``used`` of its columns is in use."""
    columns, shared, both = _TRAFFIC[kernel]
    return columns * used + (shared + both * used) / modes


@dataclass(frozen=True)
class Layout:
    """Waves of a batch in memory: (patterns, probe modes, object modes, window, window) complex64.

    The ``columns`` lowest frequencies kx are in use. The wave before the first slice and its gradient use ``entry``
    instead: a probe that is not shifted is not band-limited.
    """

    patterns: int
    probes: int
    columns: int
    entry: int
    objects: int = 1

    @property
    def modes(self) -> int:
        return self.probes * self.objects


@dataclass(frozen=True)
class Slice:
    """A slice of an object (object mode, slice, Y, X), complex64, seen by patches at crop origins (patterns, 2)."""

    obj: Array
    number: int
    crop_origins: Array

    def sizes(self, layout: Layout) -> tuple[int, ...]:
        """The sizes that row kernels take, and columns before and after the slice."""
        before = layout.entry if self.number == 0 else layout.columns
        _, slices, height, width = self.obj.shape
        one_object = self.number == 0
        sizes = (layout.probes, layout.objects, slices, self.number, height, width, before, layout.columns)
        return (*sizes, int(one_object))


class WaveKernels:
    """The kernels for one window size; arguments are those of waves.cu, with arrays on the device.

    Parameters
    ----------
    compiler : None for CuPy's (tests use one for the CPU)
    """

    def __init__(self, window: int, backend: Backend, compiler: Compiler | None = None) -> None:
        self.plan = plan_of(window)
        self.module = KernelModule(FILES, self.plan.parameters, compiler)
        # Roots of unity, rounded from float64 once, so that the kernels compute no sines.
        turns = np.arange(window) / window
        self.roots = backend.asarray(np.exp(-2j * np.pi * turns).astype(np.complex64))

    def _rows(self, name: str, layout: Layout, *arguments: Array) -> None:
        n_blocks = self.plan.window // self.plan.rows * layout.patterns
        self.module.launch(name, n_blocks, self.plan.row_threads, *_converted(arguments))

    def _columns(self, name: str, columns: int, n_items: int, *arguments: Array) -> None:
        n_blocks = self.column_blocks(columns) * n_items
        self.module.launch(name, n_blocks, self.plan.column_threads, *_converted(arguments))

    def _threads(self, name: str, n_threads: int, *arguments: Array) -> None:
        self.module.launch(name, -(-n_threads // _PIXEL_THREADS), _PIXEL_THREADS, *_converted(arguments))

    def column_blocks(self, columns: int) -> int:
        """Number of blocks for the columns of one wave (rounded up)."""
        return -(-columns // self.plan.columns)

    def probe_forward(self, wave: Array, spectrum: Array, ramps: Array, layout: Layout) -> None:
        """wave (B, P, window, window): the probe of every pattern, which all object modes share."""
        sizes = (layout.probes, layout.entry)
        n_items = layout.patterns * layout.probes
        self._columns("probe_forward", layout.entry, n_items, wave, spectrum, ramps, self.roots, *sizes)

    def row_forward(self, before: Array, after: Array, place: Slice, layout: Layout) -> None:
        """``after`` may be ``before``, except at the first of several object modes' slices."""
        arrays = (before, after, place.obj, place.crop_origins, self.roots)
        self._rows("row_forward", layout, *arrays, *place.sizes(layout))

    def propagate(
        self, wave: Array, factor: Array, layout: Layout, *, ramps: Array = None, conjugate: bool = False
    ) -> None:
        sizes = (layout.modes, layout.columns, conjugate)
        n_items = layout.patterns * layout.modes
        self._columns("propagate", layout.columns, n_items, wave, factor, ramps, self.roots, *sizes)

    def propagate_adjoint(
        self,
        wave: Array,
        after: Array,
        factor: Array,
        rate: Array,
        slope_parts: Array,
        layout: Layout,
        *,
        ramps: Array = None,
    ) -> None:
        """``slope_parts`` (B, P O, blocks of columns, 3) float32."""
        arrays = (wave, after, factor, ramps, rate, self.roots, slope_parts)
        n_items = layout.patterns * layout.modes
        self._columns("propagate_adjoint", layout.columns, n_items, *arrays, layout.modes, layout.columns)

    def detector_forward(
        self, wave: Array, intensity: Array, mask: Array, layout: Layout, weights: Array = None
    ) -> None:
        sizes = (layout.modes, layout.objects, layout.columns)
        arrays = (wave, intensity, mask, weights, self.roots)
        self._columns("detector_forward", self.plan.window, layout.patterns, *arrays, *sizes)

    def detector_adjoint(
        self, wave: Array, slope: Array, mask: Array, layout: Layout, weights: Array = None
    ) -> None:
        sizes = (layout.modes, layout.objects, layout.columns)
        arrays = (wave, slope, mask, weights, self.roots)
        self._columns("detector_adjoint", layout.columns, layout.patterns, *arrays, *sizes)

    def row_adjoint(
        self,
        wave: Array,
        before: Array,
        place: Slice,
        layout: Layout,
        *,
        gradient: Array = None,
        parts: Array = None,
        leaves: bool = True,
    ) -> None:
        """``before`` as in :meth:`row_forward`; ``leaves``: the gradient of the wave before the slice is needed."""
        arrays = (wave, before, place.obj, place.crop_origins, self.roots, gradient, parts)
        self._rows("row_adjoint", layout, *arrays, *place.sizes(layout), leaves)

    def groups(self, patterns: int) -> int:
        """Number of groups of patterns for which :meth:`probe_adjoint` writes a sum."""
        return -(-patterns // _PATTERNS_PER_SUM)

    def probe_adjoint(
        self,
        wave: Array,
        spectrum: Array,
        ramps: Array,
        layout: Layout,
        spectrum_parts: Array = None,
        shift_parts: Array = None,
    ) -> None:
        """Parts are (groups, P, window, entry) complex64 and (B, P, blocks of columns, 2) float32."""
        arrays = (wave, spectrum, ramps, self.roots, spectrum_parts, shift_parts)
        sizes = (layout.patterns, layout.probes, layout.objects, layout.entry, _PATTERNS_PER_SUM)
        n_items = layout.probes * self.groups(layout.patterns)
        self._columns("probe_adjoint", layout.entry, n_items, *arrays, *sizes)

    def add_spectra(self, spectrum_parts: Array, gradient: Array) -> None:
        """Add the parts of :meth:`probe_adjoint` to the gradient (P, window, window) of the probe's spectrum."""
        groups, modes, _, columns = spectrum_parts.shape
        sizes = (groups, modes, columns)
        self._threads("add_spectra", spectrum_parts.size // groups, spectrum_parts, gradient, *sizes)

    def add_shifts(self, shift_parts: Array, index: Array, gradient: Array) -> None:
        """Add the parts of :meth:`probe_adjoint` to the rows ``index`` of the gradient (N, 2) of the positions."""
        patterns, parts = len(index), shift_parts.size // max(1, 2 * len(index))
        scale = np.float64(2 * np.pi / self.plan.window)
        self._threads("add_shifts", patterns, shift_parts, index, gradient, patterns, parts, scale)

    def sum_slopes(self, slope_parts: Array, sums: Array) -> None:
        """sums (gaps, B, 3) float64 = sums of the parts (gaps, B, P O, blocks, 3) of :meth:`propagate_adjoint`."""
        rows = sums.size // 3
        self._threads("sum_slopes", sums.size, slope_parts, sums, rows, slope_parts.size // max(1, sums.size))

    def add_slopes(
        self,
        sums: Array,
        index: Array,
        tilts: Array,
        distances: Array,
        distance_gradient: Array,
        tilt_gradient: Array,
        units: tuple[float, float],
    ) -> None:
        """Add :meth:`sum_slopes` to the gradients of the distances (gaps or fewer,) and of the tilts (N or 1, 6).

        ``tilts`` and either gradient may be None; ``units`` [y, x]: rad/Å of one pixel of the spectrum.
        """
        gaps, patterns, _ = sums.shape
        arrays = (sums, index, tilts, distances, distance_gradient, tilt_gradient)
        one_tilt = tilts is None or len(tilts) == 1
        sizes = (patterns, gaps, len(distances), one_tilt)
        factors = (*(np.float64(unit) for unit in units), np.float64(1 / self.plan.window))
        self.module.launch("add_slopes", 1, _PIXEL_THREADS, *_converted((*arrays, *sizes, *factors)))


def _converted(arguments: tuple[Array, ...]) -> tuple[Array, ...]:
    """Python integers and bools are passed as int32."""
    return tuple(np.int32(a) if isinstance(a, (int, bool)) else a for a in arguments)
