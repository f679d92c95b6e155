"""The kernels of steps.cu: what happens to vectors between evaluations, for float and double.

As array expressions a step of Adam reads and writes 128 bytes of each number in 14 launches; the kernel needs 28 bytes
in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.backend.cuda.module import Compiler, KernelModule, Parameters

FILES = ("complex.cuh", "steps.cu")

_THREADS = 256
"""Threads of a block (as in steps.cu)."""
_SUMS = 128
"""Blocks that share the inner product of two arrays. A constant: the order of a sum, and so its last bits, depends on
the arrays alone."""

COPIES = 4
"""Arrays that a launch copies."""

MOMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "adam": ("mean", "square", "largest"),
        "nadam": ("mean", "square"),
        "radam": ("mean", "square"),
        "adamax": ("mean", "norm"),
        "sgd": ("velocity",),
        "rmsprop": ("square", "mean", "velocity"),
        "adagrad": ("sum",),
        "adadelta": ("square", "moved"),
        "asgd": ("average",),
        "rprop": ("gradient", "step"),
    }
)
"""Moments that the kernel of each rule takes, in its order; those that a method does not keep are null."""


def parameters(real: str) -> Parameters:
    """Compile-time parameters for a precision, "float" or "double"."""
    return (("REAL", real),)


def step_kernels(dtype: np.dtype) -> StepKernels:
    """The device's kernels for a real dtype, or for the real and imaginary parts of a complex one."""
    return _of_precision("float" if np.dtype(dtype) in (np.float32, np.complex64) else "double")


@lru_cache(maxsize=2)
def _of_precision(real: str) -> StepKernels:
    return StepKernels(real)


class StepKernels:
    """The kernels of steps.cu for one precision.

    Parameters
    ----------
    real : "float" or "double"
    compiler : None for CuPy's (tests use one for the CPU)
    """

    def __init__(self, real: str, compiler: Compiler | None = None) -> None:
        self.real = np.dtype(np.float32 if real == "float" else np.float64).type
        self.module = KernelModule(FILES, parameters(real), compiler)

    def _launch(self, name: str, size: int, *arguments: Array) -> None:
        """A thread for each of ``size`` numbers. Python numbers: floats in this precision, the others as int32."""
        converted = (
            self.real(a) if type(a) is float else np.int32(a) if isinstance(a, int) else a for a in arguments
        )
        self.module.launch(name, -(-size // _THREADS), _THREADS, *converted, np.int64(size))

    def step(
        self,
        rule: str,
        point: Array,
        gradient: Array,
        moved: Array,
        moments: Mapping[str, Array],
        numbers: Sequence[float | bool],
    ) -> None:
        """moved = the point after a step of a rule (a key of :data:`MOMENTS`), and its moments advanced in place.

        Arrays are real and have one shape; ``moved`` may be ``point``. ``numbers`` are those that the kernel takes.
        """
        kept = (moments.get(name) for name in MOMENTS[rule])
        self._launch(rule, point.size, point, gradient, moved, *kept, *numbers)

    def polar(self, amplitude: Array, phase: Array, out: Array) -> None:
        """out = amplitude exp(i phase)."""
        self._launch("polar", out.size, amplitude, phase, out)

    def polar_gradient(
        self,
        gradient: Array,
        z: Array,
        amplitude: Array,
        phase: Array,
        along_amplitude: Array,
        along_phase: Array,
    ) -> None:
        """dL/da and dL/dtheta from the gradient with respect to z = a exp(i theta); without amplitude the latter."""
        arrays = (gradient, z, amplitude, phase, along_amplitude, along_phase)
        self._launch("polar_gradient", z.size, *arrays)

    def combine(self, base: Array, table: Array, count: int, out: Array) -> None:
        """out = base + sum of factors x arrays; the table (2 count,) int64 holds their addresses, then the factors."""
        self._launch("combine", _n_reals(base), as_reals(base), table, as_reals(out), count)

    def transmitted(self, waves: Array, weights: Array = None) -> Array:
        """(Y, X) sum over modes of w |product of the slices|^2, waves (modes, slices, Y, X), weights (modes,) real."""
        modes, slices, height, width = waves.shape
        out = array_module(waves).empty((height, width), self.real)
        self._launch("transmitted", out.size, waves, weights, out, modes, slices)
        return out

    def illumination(
        self, window: Array, crop_origins: Array, shape: tuple[int, int], factor: float, share: float
    ) -> Array:
        """(Y, X) factor (L + share max L), L the sum of ``window`` (y, x) at the crop origins (B, 2) int32.

        Every pixel looks at all patterns: for few of them.
        """
        ny, nx = window.shape
        sizes = (len(crop_origins), ny, nx, shape[1])
        return self._raised("illuminate", (window, crop_origins), sizes, shape, factor, share)

    def added_patches(
        self, image: Array, crop_origins: Array, shape: tuple[int, int], factor: float, share: float
    ) -> Array:
        """(y, x) factor (S + share max S), S the sum of the patches of ``image`` (Y, X) at the crop origins."""
        sizes = (len(crop_origins), shape[1], image.shape[1])
        return self._raised("add_patches", (image, crop_origins), sizes, shape, factor, share)

    def _raised(
        self,
        name: str,
        given: tuple[Array, Array],
        sizes: tuple[int, ...],
        shape: tuple[int, int],
        factor: float,
        share: float,
    ) -> Array:
        xp = array_module(given[0])
        sums, largest = xp.empty(shape, np.float64), xp.zeros(1, np.uint64)
        self._launch(name, sums.size, *given, sums, largest, *sizes)
        out = xp.empty(shape, self.real)
        self._launch("raised", out.size, sums, largest, out, np.float64(factor), np.float64(share))
        return out

    def copy(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """to = from for up to :data:`COPIES` pairs (from, to) of contiguous arrays of one type and size."""
        words = [(_words(array), _words(place)) for array, place in pairs]
        sizes = [array.size for array, _ in words]
        arguments: list[Any] = []
        for number in range(COPIES):
            array, place = words[number] if number < len(words) else (None, None)
            arguments += [array, place, np.int64(sizes[number] if number < len(words) else 0)]
        self.module.launch("copy_arrays", -(-sum(sizes) // _THREADS), _THREADS, *arguments)

    def inner_products(self, table: Array, parts: Array) -> None:
        """parts (rows, n) = sums over n pieces of each row of the table (rows, 4) int64: two addresses, the number of
        real numbers, and 1 for double precision or 0."""
        rows, n = parts.shape
        self.module.launch("inner_products", rows * n, _THREADS, table, parts, np.int32(n))


def copy_all(pairs: Sequence[tuple[Array, Array]]) -> None:
    """to = from for pairs (from, to) of arrays of one type and size, on the device, in few launches."""
    kernels = step_kernels(np.dtype(np.float32))
    whole = [(array_module(array).ascontiguousarray(array), place) for array, place in pairs]
    for first in range(0, len(whole), COPIES):
        kernels.copy(whole[first : first + COPIES])


def added(array: Array, factor: float, other: Array) -> Array:
    """array + factor x other, of one shape, on the device; a new array of the type of ``array``."""
    xp = array_module(array)
    base, change = (as_reals(one) for one in (xp.ascontiguousarray(array), _like(array, other)))
    out = xp.empty(array.shape, array.dtype)
    # a step of gradient descent, without decay and momentum
    numbers = (0.0, 0.0, 1.0, -float(factor), False)
    step_kernels(array.dtype).step("sgd", base, change, as_reals(out), {}, numbers)
    return out


def combined(
    bases: Sequence[Array], factors: Sequence[float], others: Sequence[Sequence[Array]]
) -> list[Array]:
    """base + sum of factors x arrays for each base with its arrays, on the device. All factors go there together."""
    xp, count = array_module(bases[0]), len(factors)
    arrays = [[_like(base, array) for array in own] for base, own in zip(bases, others, strict=True)]
    numbers = np.asarray(factors, np.float64).view(np.int64)
    rows = [np.concatenate([np.array([_address(a) for a in own], np.int64), numbers]) for own in arrays]
    table = xp.asarray(np.stack(rows))
    sums = []
    for base, row in zip(bases, table, strict=True):
        out = xp.empty(base.shape, base.dtype)
        step_kernels(base.dtype).combine(xp.ascontiguousarray(base), row, count, out)
        sums.append(out)
    return sums


def inner_products(pairs: Sequence[tuple[Array, Array]]) -> np.ndarray:
    """(pairs,) float64: Re sum a conj(b) of each pair of arrays of one shape, on the device.

    One launch and one transfer to the host, for pairs of any precision and length.
    """
    xp = array_module(pairs[0][0])
    alike = [(xp.ascontiguousarray(a), _like(a, b)) for a, b in pairs]
    rows = [(_address(a), _address(b), _n_reals(a), _is_double(a)) for a, b in alike]
    parts = xp.empty((len(rows), _SUMS), np.float64)
    step_kernels(np.dtype(np.float32)).inner_products(xp.asarray(np.array(rows, np.int64)), parts)
    return to_host(parts).sum(axis=1)


def _like(array: Array, other: Array) -> Array:
    """``other`` contiguous, and of the type of ``array``."""
    return array_module(array).ascontiguousarray(other, dtype=array.dtype)


def as_reals(array: Array) -> Array:
    """A contiguous array as real numbers: complex (...) as (..., 2), a view."""
    if array.dtype.kind != "c":
        return array
    return array.reshape((*array.shape, 1)).view(array.real.dtype)


def _words(array: Array) -> Array:
    """A contiguous array as words of four bytes."""
    return array.reshape(-1).view(np.uint32)


def _address(array: Array) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _n_reals(array: Array) -> int:
    return int(array.size) * (2 if array.dtype.kind == "c" else 1)


def _is_double(array: Array) -> bool:
    return bool(np.dtype(array.dtype) in (np.float64, np.complex128))
