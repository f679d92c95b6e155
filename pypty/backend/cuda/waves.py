"""The kernels of waves.cu: the window sizes they support, and the launch of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.cuda.module import Compiler, KernelModule, Parameters

FILES = ("complex.cuh", "transform.cuh", "waves.cu")

_PATTERNS_PER_SUM = 8
"""Number of patterns whose probe gradients a block sums in registers before it writes the sum."""

_PIXEL_THREADS = 256
"""Threads of a block of the kernels that work on single pixels (as in waves.cu)."""


@dataclass(frozen=True)
class Plan:
    """How a window is divided among threads.

    Attributes
    ----------
    radices : radix of each stage of a transform; their product is the window size
    per_thread : points of a line that a thread holds; divisible by every radix
    rows, columns : lines per block in the row and in the column kernels
    """

    radices: tuple[int, int, int]
    per_thread: int
    rows: int
    columns: int

    @property
    def window(self) -> int:
        return self.radices[0] * self.radices[1] * self.radices[2]

    @property
    def row_threads(self) -> int:
        return self.window // self.per_thread * self.rows

    @property
    def column_threads(self) -> int:
        return self.window // self.per_thread * self.columns

    @property
    def parameters(self) -> Parameters:
        """Compile-time parameters."""
        numbers = {
            "WINDOW": self.window,
            "RADIX_1": self.radices[0],
            "RADIX_2": self.radices[1],
            "RADIX_3": self.radices[2],
            "PER_THREAD": self.per_thread,
            "ROWS": self.rows,
            "COLUMNS": self.columns,
        }
        return tuple((name, str(number)) for name, number in numbers.items())


PLANS: Mapping[int, Plan] = MappingProxyType(
    {
        plan.window: plan
        for plan in (
            Plan((8, 8, 1), per_thread=8, rows=16, columns=16),
            Plan((24, 4, 1), per_thread=24, rows=32, columns=16),
            Plan((16, 8, 1), per_thread=16, rows=16, columns=16),
            Plan((24, 8, 1), per_thread=24, rows=16, columns=16),
            Plan((16, 16, 1), per_thread=16, rows=8, columns=16),
            Plan((8, 8, 6), per_thread=24, rows=8, columns=8),
            Plan((16, 16, 2), per_thread=16, rows=4, columns=8),
        )
    }
)
"""Supported windows by their size in pixels."""


@dataclass(frozen=True)
class Layout:
    """Waves of a batch in memory: (patterns, modes, window, window) complex64.

    The columns of the ``half`` lowest positive and the ``half`` lowest negative frequencies are in use. The wave before
    the first slice and its gradient use ``entry`` instead of ``half``: a probe that is not shifted is not band-limited.
    """

    patterns: int
    modes: int
    half: int
    entry: int


class WaveKernels:
    """The kernels for one window size; arguments are those of waves.cu, with arrays on the device.

    Parameters
    ----------
    compiler : None for CuPy's (tests use one for the CPU)
    """

    def __init__(self, window: int, backend: Backend, compiler: Compiler | None = None) -> None:
        self.plan = PLANS[window]
        self.module = KernelModule(FILES, self.plan.parameters, compiler)
        # Roots of unity, rounded from float64 once, so that the kernels compute no sines.
        turns = np.arange(window) / window
        self.roots = backend.asarray(np.exp(-2j * np.pi * turns).astype(np.complex64))

    def _row_blocks(self, layout: Layout) -> int:
        return self.plan.window // self.plan.rows * layout.patterns

    def column_blocks(self, half: int) -> int:
        """Number of blocks for the columns of one wave (rounded up)."""
        return -(-2 * half // self.plan.columns)

    def probe_forward(self, wave: Array, spectrum: Array, ramps: Array, layout: Layout) -> None:
        n_blocks = self.column_blocks(layout.entry) * layout.patterns * layout.modes
        numbers = _int32(layout.modes, layout.entry)
        arrays = (wave, spectrum, ramps, self.roots)
        self.module.launch("probe_forward", n_blocks, self.plan.column_threads, *arrays, *numbers)

    def row_forward(
        self, wave: Array, incoming: Array, obj_slice: Array, crop_origins: Array, layout: Layout, first: bool
    ) -> None:
        half_in = layout.entry if first else layout.half
        numbers = _int32(layout.modes, obj_slice.shape[1], half_in, layout.half)
        arrays = (wave, incoming, obj_slice, crop_origins, self.roots)
        self.module.launch("row_forward", self._row_blocks(layout), self.plan.row_threads, *arrays, *numbers)

    def propagate(self, wave: Array, factor: Array, layout: Layout, conjugate: bool) -> None:
        n_blocks = self.column_blocks(layout.half) * layout.patterns * layout.modes
        numbers = _int32(layout.half, conjugate)
        self.module.launch(
            "propagate", n_blocks, self.plan.column_threads, wave, factor, self.roots, *numbers
        )

    def detector_forward(self, wave: Array, intensity: Array, mask: Array, layout: Layout) -> None:
        n_blocks = self.column_blocks(self.plan.window // 2) * layout.patterns
        numbers = _int32(layout.modes, layout.half)
        arrays = (wave, intensity, mask, self.roots)
        self.module.launch("detector_forward", n_blocks, self.plan.column_threads, *arrays, *numbers)

    def detector_adjoint(self, wave: Array, slope: Array, mask: Array, layout: Layout) -> None:
        n_blocks = self.column_blocks(layout.half) * layout.patterns
        numbers = _int32(layout.modes, layout.half)
        arrays = (wave, slope, mask, self.roots)
        self.module.launch("detector_adjoint", n_blocks, self.plan.column_threads, *arrays, *numbers)

    def row_adjoint(
        self,
        wave: Array,
        incoming: Array,
        obj_slice: Array,
        crop_origins: Array,
        layout: Layout,
        gradient: Array = None,
        window_gradient: Array = None,
        largest: Array = None,
        first: bool = False,
        leaves: bool = True,
    ) -> None:
        """``first``: this is the first slice; ``leaves``: the gradient of the wave before the slice is needed."""
        half_out = (layout.entry if first else layout.half) if leaves else 0
        numbers = _int32(layout.modes, obj_slice.shape[1], layout.half, half_out)
        arrays = (wave, incoming, obj_slice, crop_origins, self.roots, gradient, window_gradient, largest)
        self.module.launch("row_adjoint", self._row_blocks(layout), self.plan.row_threads, *arrays, *numbers)

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
        """Parts are (groups, modes, window, 2 entry) and (patterns, modes, blocks of columns)."""
        n_blocks = self.column_blocks(layout.entry) * layout.modes * self.groups(layout.patterns)
        numbers = _int32(layout.patterns, layout.modes, layout.entry, _PATTERNS_PER_SUM)
        arrays = (wave, spectrum, ramps, self.roots, spectrum_parts, shift_parts)
        self.module.launch("probe_adjoint", n_blocks, self.plan.column_threads, *arrays, *numbers)

    def add_spectra(self, spectrum_parts: Array, gradient: Array) -> None:
        """Add the parts of :meth:`probe_adjoint` to the gradient (modes, window, window) of the probe's spectrum."""
        groups, modes, _, columns = spectrum_parts.shape
        n_blocks = -(-(spectrum_parts.size // groups) // _PIXEL_THREADS)
        numbers = _int32(groups, modes, columns // 2)
        self.module.launch("add_spectra", n_blocks, _PIXEL_THREADS, spectrum_parts, gradient, *numbers)

    def add_shifts(self, shift_parts: Array, index: Array, gradient: Array) -> None:
        """Add the parts of :meth:`probe_adjoint` to the rows ``index`` of the gradient (N, 2) of the positions."""
        patterns, parts = len(shift_parts), shift_parts.size // max(1, len(shift_parts))
        numbers = (*_int32(patterns, parts), np.float64(2 * np.pi / self.plan.window))
        n_blocks = -(-patterns // _PIXEL_THREADS)
        self.module.launch("add_shifts", n_blocks, _PIXEL_THREADS, shift_parts, index, gradient, *numbers)

    def fixed_scatter(
        self, window_gradient: Array, crop_origins: Array, largest: Array, fixed: Array, object_width: int
    ) -> None:
        n_blocks = -(-window_gradient.size // _PIXEL_THREADS)
        numbers = _int32(len(window_gradient), object_width)
        arrays = (window_gradient, crop_origins, largest, fixed)
        self.module.launch("fixed_scatter", n_blocks, _PIXEL_THREADS, *arrays, *numbers)

    def fixed_add(self, fixed: Array, largest: Array, gradient: Array, patterns: int) -> None:
        n_blocks = -(-gradient.size // _PIXEL_THREADS)
        numbers = (np.int32(patterns), np.int64(gradient.size))
        self.module.launch("fixed_add", n_blocks, _PIXEL_THREADS, fixed, largest, gradient, *numbers)


def _int32(*numbers: int) -> tuple[np.int32, ...]:
    return tuple(np.int32(number) for number in numbers)
