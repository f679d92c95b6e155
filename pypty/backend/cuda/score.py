"""The kernels of score.cu: loss, slope and squared errors of a batch in one pass.

Memory traffic decides the speed. As array expressions in single precision, the loss of amplitudes moves 87 bytes per
pixel of a pattern (subtract 12, square 8, two roots 16, subtract 12, compare and copy 11, divide 12, square 8, two sums
8) and 6 more to convert the data, in 14 launches. The kernel moves 8 bytes and the 1 to 4 of the measured value, in two
launches. With P probe modes, each pixel of a pattern stands for P pixels of waves, each of which moves about 521 bytes
in six slices (P = 6) or 684 (P = 1), so the kernel saves 3 % or 13 % of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from pypty.backend.array import Array
from pypty.backend.cuda.module import Compiler, KernelModule, Parameters

FILES = ("complex.cuh", "pixels.cuh", "score.cu")
DATA_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
"""Types in which measured data can be stored on the device."""

_KINDS: Mapping[str, int] = MappingProxyType(
    {"amplitudes": 0, "poisson": 1, "intensities": 2, "expansion": 3, "shifted_poisson": 4}
)
THREADS = 256
_PIXELS_PER_BLOCK = 4 * THREADS
"""As in pixels.cuh."""
N_TOTALS = 4
"""Sums of a batch: loss, squared errors, and of the free pixels deviance and number; all weighted."""


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A noise model in the form that the kernel takes (defined in objective/noise.py).

    Attributes
    ----------
    kind : "amplitudes", "poisson", "intensities", "expansion" or "shifted_poisson"
    dark : counts below which an intensity is a rounding error
    shift, gain : parameters of shifted_poisson
    reachable : (ky, kx) bool on the device, true where the model can have counts; None = everywhere
    bounded : if not None, the slope is that of "amplitudes" with this ``dark`` instead of the formula's
    """

    kind: str
    dark: float = 0.0
    shift: float = 0.0
    gain: float = 1.0
    reachable: Array = None
    bounded: float | None = None


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """Free pixels in the form that the kernel takes (defined in objective/free_pixels.py).

    Attributes
    ----------
    below, start : blocks whose hash, which begins with ``start``, is smaller are free
    gain, shift : electrons of a value v are (v + shift)/gain
    index : (B,) int32 numbers of the patterns
    usable : (ky, kx) 1 for pixels whose deviance counts, else 0; None = all count
    """

    below: int
    start: int
    gain: float
    shift: float
    index: Array
    usable: Array = None


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of a batch in the form that kernels take.

    Attributes
    ----------
    intensity : (B, ky, kx)
    data : (rows, ky, kx); pattern j has row ``rows[j]`` (int32), or row j if that is None
    weights : (ky, kx) or (B, ky, kx), or None for 1
    multiplier : factor on every measured value
    hidden : free pixels; None = there are none
    """

    intensity: Array
    data: Array
    rows: Array = None
    weights: Array = None
    multiplier: float = 1.0
    hidden: Hidden | None = None

    @property
    def pixels(self) -> int:
        """Pixels of a pattern."""
        return int(self.intensity.size // max(1, len(self.intensity)))

    @property
    def blocks(self) -> int:
        """Number of blocks for each pattern."""
        return max(1, -(-self.pixels // _PIXELS_PER_BLOCK))

    @property
    def n_parts(self) -> int:
        """Number of blocks; each writes its own partial sums."""
        return len(self.intensity) * self.blocks

    def arguments(self) -> tuple[Any, ...]:
        """What every kernel takes first."""
        free = self.hidden or Hidden(below=0, start=0, gain=1.0, shift=0.0, index=None)
        real = self.intensity.dtype.type
        per_pattern = (
            self.weights is not None and self.weights.size > self.pixels
        )  # (B, ky, kx), not (ky, kx)
        return (
            *(self.intensity, self.data, self.rows, self.weights, free.index, free.usable),
            *(np.int32(n) for n in (self.pixels, self.intensity.shape[-1], per_pattern)),
            *(real(x) for x in (self.multiplier, free.gain, free.shift)),
            *(np.uint32(n) for n in (free.below, free.start)),
        )


def parameters(real: str, data: str) -> Parameters:
    """Compile-time parameters for a precision, "float" or "double", and the name of a type of :data:`DATA_TYPES`."""
    return (("REAL", real), ("DATA", data))


def stored_type(dtype: np.dtype) -> np.dtype:
    """The type in which data are stored on the device: their own if the kernels have it, else a wider one.

    64-bit integers become float64, which is exact up to 2^53.
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.name in DATA_TYPES:
        return dtype
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32 if dtype.name == "float16" else np.float64)


class PixelKernels:
    """Kernels of a loss of pixels, for one precision and one type of the data.

    Parameters
    ----------
    real : "float" or "double"
    data : the name of a NumPy type
    compiler : None for CuPy's (tests use one for the CPU)
    """

    files: ClassVar[tuple[str, ...]]

    def __init__(self, real: str, data: str, compiler: Compiler | None = None) -> None:
        self.real = np.dtype(np.float32 if real == "float" else np.float64).type
        self.module = KernelModule(self.files, parameters(real, data), compiler)


@lru_cache(maxsize=32)
def device_kernels(kind: type[PixelKernels], real: np.dtype, data: np.dtype) -> Any:
    """The device's kernels of this kind for a dtype of the intensities and a dtype of the data; made once."""
    return kind("float" if np.dtype(real) == np.float32 else "double", np.dtype(data).name)


class ScoreKernels(PixelKernels):
    """The kernels of score.cu."""

    files = FILES

    def score(self, formula: Formula, values: Values, slope: Array, parts: Array, totals: Array) -> None:
        """slope (B, ky, kx) = dLoss/dI, and totals (4,) float64, all weighted (:data:`N_TOTALS`).

        ``parts`` is scratch, (:attr:`Values.n_parts`, 4) float64.
        """
        bounded = formula.bounded is not None
        numbers = (values.blocks, _KINDS[formula.kind], bounded)
        reals = (formula.dark, formula.shift, formula.gain, formula.bounded or 0.0)
        arguments = (
            *values.arguments(),
            *(formula.reachable, slope, parts),
            *(np.int32(n) for n in numbers),
            *(self.real(x) for x in reals),
        )
        self.module.launch("score", values.n_parts, THREADS, *arguments)
        # A second kernel adds the partial sums in fixed order: atomic additions would change the last bits.
        self.module.launch("add_parts", 1, THREADS, parts, totals, np.int32(values.n_parts))
