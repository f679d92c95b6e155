"""Batched 2-D Fourier and cosine transforms over the last two axes, and Fourier transforms along one axis.

Forward: unnormalised, kernel exp(-2 pi i k.r/n). Inverse: carries 1/n^2 (docs/conventions.md).
Threads work on whole batches (objective/objective.py), so each transform uses one.

The loop over batches uses :class:`Transforms`, which work in place and without normalisation: with FFTW where pyFFTW
is installed (the extra ``fast``), twice as fast as SciPy (benchmarks/README.md), and with cuFFT on a GPU.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft

from pypty.backend.array import Array
from pypty.backend.imports import imported

_AXES = (-2, -1)


def _library(array: Array) -> Any:
    if isinstance(array, np.ndarray):
        return scipy.fft
    return importlib.import_module("cupyx.scipy.fft")


def fft2(array: Array, overwrite: bool = False) -> Array:
    """F[array] over the last two axes; with ``overwrite`` the input may be destroyed."""
    return _library(array).fft2(array, axes=_AXES, overwrite_x=overwrite)


def ifft2(array: Array, overwrite: bool = False) -> Array:
    """Inverse transform with 1/n^2; with ``overwrite`` the input may be destroyed."""
    return _library(array).ifft2(array, axes=_AXES, overwrite_x=overwrite)


def fft2_adjoint(array: Array, overwrite: bool = False) -> Array:
    """Adjoint of :func:`fft2`: the inverse transform without its 1/n^2."""
    return _library(array).ifft2(array, axes=_AXES, norm="forward", overwrite_x=overwrite)


def ifft2_adjoint(array: Array, overwrite: bool = False) -> Array:
    """Adjoint of :func:`ifft2`: the forward transform with its 1/n^2."""
    return _library(array).fft2(array, axes=_AXES, norm="forward", overwrite_x=overwrite)


def fft_along(array: Array, axis: int) -> Array:
    """Fourier transform along one axis; the input may be destroyed."""
    return _library(array).fft(array, axis=axis, overwrite_x=True)


def ifft_along(array: Array, axis: int) -> Array:
    """Inverse of :func:`fft_along`, with 1/n; the input may be destroyed."""
    return _library(array).ifft(array, axis=axis, overwrite_x=True)


def dct2(array: Array) -> Array:
    """Orthonormal cosine transform (DCT-II) over the last two axes."""
    return _library(array).dctn(array, axes=_AXES, norm="ortho")


def idct2(array: Array) -> Array:
    """Inverse of :func:`dct2`; the input may be destroyed."""
    return _library(array).idctn(array, axes=_AXES, norm="ortho", overwrite_x=True)


@functools.lru_cache(maxsize=1)
def _planning() -> Any:
    """Lock for FFTW's planner, which is not thread-safe."""
    return threading.Lock()


class Transforms:
    """F and n^2 F^-1, in place and unnormalised, for the arrays of one thread. Plans are made once for each shape.

    Parameters
    ----------
    library : on the CPU, "fftw" or "scipy"; arrays on a GPU use cuFFT
    """

    def __init__(self, library: str = "scipy") -> None:
        self.library = library
        self._plans: dict[tuple, Callable[[Array], None]] = {}
        self._device_plans: dict[tuple, Any] = {}

    def forward(self, array: Array) -> None:
        """array <- F[array]; contiguous, complex."""
        self._plan(array, True)(array)

    def backward(self, array: Array) -> None:
        """array <- n^2 F^-1[array]; contiguous, complex."""
        self._plan(array, False)(array)

    def clear(self) -> None:
        """Drop all plans: those of cuFFT hold work areas, and those of FFTW the arrays of their last transform."""
        self._plans.clear()
        self._device_plans.clear()

    def _plan(self, array: Array, forward: bool) -> Callable[[Array], None]:
        key = (array.shape, array.dtype, forward)
        plan = self._plans.get(key)
        if plan is None:
            if not isinstance(array, np.ndarray):
                plan = self._cufft(array, forward)
            else:
                plan = (_fftw if self.library == "fftw" else _scipy)(array, forward)
            self._plans[key] = plan
        return plan

    def _cufft(self, array: Array, forward: bool) -> Callable[[Array], None]:
        """A cuFFT plan that is called directly, without CuPy's checks and its separate kernel for the normalisation.

        Both directions use the same plan, and so its work area.
        """
        cufft = importlib.import_module("cupy.cuda.cufft")
        plan = self._device_plans.get((array.shape, array.dtype))
        if plan is None:
            plan = self._device_plans[array.shape, array.dtype] = _cufft_plan(array)
        direction = cufft.CUFFT_FORWARD if forward else cufft.CUFFT_INVERSE

        def run(data: Array) -> None:
            plan.fft(data, data, direction)

        return run


def _cufft_plan(array: Array) -> Any:
    module = importlib.import_module("cupyx.scipy.fft")
    return module.get_fft_plan(array, axes=(array.ndim - 2, array.ndim - 1))


@functools.lru_cache(maxsize=16)
def work_bytes(xp: Any, window: tuple[int, int], dtype: np.dtype) -> int:
    """Bytes of cuFFT's work area for each window of a batched transform, asked of a plan for one window.

    cuFFT needs as much memory as the array for most windows, more where a side has a prime factor above 127, and
    nothing for some small ones.

    Parameters
    ----------
    xp : CuPy
    """
    plan = _cufft_plan(xp.empty((1, *window), dtype))
    return int(plan.work_area.mem.size)


def _scipy(array: np.ndarray, forward: bool) -> Callable[[np.ndarray], None]:
    def run(data: np.ndarray) -> None:
        if forward:
            out = scipy.fft.fft2(data, axes=_AXES, overwrite_x=True)
        else:
            out = scipy.fft.ifft2(data, axes=_AXES, norm="forward", overwrite_x=True)
        # overwrite_x permits SciPy to work in place, but does not oblige it to.
        if not np.may_share_memory(out, data):
            data[...] = out

    return run


def _fftw(array: np.ndarray, forward: bool) -> Callable[[np.ndarray], None]:
    """A measured plan; an estimated one, FFTW's alternative, can be several times slower.

    A measurement serves all batches of the same shape. The fastest plan, and with it the last digits of the results,
    may differ from one process to the next; see :func:`export_wisdom`.
    """
    module = imported("pyfftw")

    def plan(aligned: bool) -> Any:
        like = module.empty_aligned if aligned else np.empty
        scratch = like(array.shape, dtype=array.dtype)  # measuring overwrites its arrays
        with _planning():
            return module.FFTW(
                scratch,
                scratch,
                axes=(array.ndim - 2, array.ndim - 1),
                direction="FFTW_FORWARD" if forward else "FFTW_BACKWARD",
                flags=("FFTW_MEASURE",) if aligned else ("FFTW_MEASURE", "FFTW_UNALIGNED"),
            )

    plans = {True: plan(True)}

    def run(data: np.ndarray) -> None:
        chosen = plans[True]
        try:
            chosen.update_arrays(data, data)
        except ValueError:  # not aligned: rare, and a check beforehand takes longer than the exception
            if False not in plans:
                plans[False] = plan(False)
            chosen = plans[False]
            chosen.update_arrays(data, data)
        chosen.execute()

    return run


def export_wisdom() -> list[str]:
    """FFTW's measurements of this process; another process that imports them makes the same plans."""
    return [part.decode("ascii") for part in imported("pyfftw").export_wisdom()]


def import_wisdom(wisdom: list[str]) -> None:
    """Let FFTW use the measurements of another process (:func:`export_wisdom`)."""
    imported("pyfftw").import_wisdom(tuple(part.encode("ascii") for part in wisdom))
