"""Batched 2-D Fourier and cosine transforms over the last two axes, and Fourier transforms along one.

Forward: unnormalised, kernel exp(-2 pi i k.r/n). Inverse: carries 1/n^2 (docs/conventions.md).
Threads work on whole batches (objective/objective.py), so each transform uses one.

The hot loop uses :class:`Transforms`: in place, without any normalisation, by FFTW where pyFFTW is installed (the extra
``fast``), which is twice as fast as SciPy (benchmarks/README.md), and by cuFFT on a GPU.
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

_AXES = (-2, -1)


def _library(array: Array) -> Any:
    if isinstance(array, np.ndarray):
        return scipy.fft
    return importlib.import_module("cupyx.scipy.fft")


def fft2(array: Array, overwrite: bool = False) -> Array:
    """F[array] over the last two axes; ``overwrite`` lets the input be destroyed."""
    return _library(array).fft2(array, axes=_AXES, overwrite_x=overwrite)


def ifft2(array: Array, overwrite: bool = False) -> Array:
    """Inverse transform with 1/n^2; ``overwrite`` lets the input be destroyed."""
    return _library(array).ifft2(array, axes=_AXES, overwrite_x=overwrite)


def fft2_adjoint(array: Array, overwrite: bool = False) -> Array:
    """Adjoint of :func:`fft2`: the inverse transform without its 1/n^2."""
    return _library(array).ifft2(array, axes=_AXES, norm="forward", overwrite_x=overwrite)


def ifft2_adjoint(array: Array, overwrite: bool = False) -> Array:
    """Adjoint of :func:`ifft2`: the forward transform with its 1/n^2."""
    return _library(array).fft2(array, axes=_AXES, norm="forward", overwrite_x=overwrite)


def fft_along(array: Array, axis: int) -> Array:
    """The transform along one axis; the input may be destroyed."""
    return _library(array).fft(array, axis=axis, overwrite_x=True)


def ifft_along(array: Array, axis: int) -> Array:
    """Its inverse, with 1/n; the input may be destroyed."""
    return _library(array).ifft(array, axis=axis, overwrite_x=True)


def dct2(array: Array) -> Array:
    """Orthonormal cosine transform (DCT-II) over the last two axes."""
    return _library(array).dctn(array, axes=_AXES, norm="ortho")


def idct2(array: Array) -> Array:
    """Its inverse."""
    return _library(array).idctn(array, axes=_AXES, norm="ortho", overwrite_x=True)


@functools.lru_cache(maxsize=1)
def _planning() -> Any:
    """FFTW plans in one thread at a time."""
    return threading.Lock()


class Transforms:
    """F and n^2 F^-1, in place and unnormalised, for the arrays of one thread: plans are made once for each shape.

    Parameters
    ----------
    library : "fftw" or "scipy" on the CPU
    """

    def __init__(self, library: str = "scipy") -> None:
        self.library = library
        self._plans: dict[tuple, Callable[[Array], None]] = {}

    def forward(self, array: Array) -> None:
        """array <- F[array]; contiguous, complex."""
        self._plan(array, True)(array)

    def backward(self, array: Array) -> None:
        """array <- n^2 F^-1[array]; contiguous, complex."""
        self._plan(array, False)(array)

    def _plan(self, array: Array, forward: bool) -> Callable[[Array], None]:
        key = (array.shape, array.dtype, forward)
        plan = self._plans.get(key)
        if plan is None:
            host = isinstance(array, np.ndarray)
            make = _cufft if not host else _fftw if self.library == "fftw" else _scipy
            plan = self._plans[key] = make(array, forward)
        return plan


def _scipy(array: np.ndarray, forward: bool) -> Callable[[np.ndarray], None]:
    def run(data: np.ndarray) -> None:
        if forward:
            out = scipy.fft.fft2(data, axes=_AXES, overwrite_x=True)
        else:
            out = scipy.fft.ifft2(data, axes=_AXES, norm="forward", overwrite_x=True)
        if not np.may_share_memory(out, data):
            data[...] = out

    return run


def _fftw(array: np.ndarray, forward: bool) -> Callable[[np.ndarray], None]:
    """A measured plan (the default, an estimated one, can be several times slower). Measuring one window size serves
    all batches of it. Which plan wins may differ from one process to the next, and with it the last digits; see
    :func:`export_wisdom`."""
    module = importlib.import_module("pyfftw")

    def plan(aligned: bool) -> Any:
        like = module.empty_aligned if aligned else np.empty
        scratch = like(array.shape, dtype=array.dtype)
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
        except ValueError:  # not aligned: rare, and finding out beforehand takes longer
            if False not in plans:
                plans[False] = plan(False)
            chosen = plans[False]
            chosen.update_arrays(data, data)
        chosen.execute()

    return run


def export_wisdom() -> list[str]:
    """What FFTW has measured in this process: with it another process makes the same plans."""
    return [part.decode("ascii") for part in importlib.import_module("pyfftw").export_wisdom()]


def import_wisdom(wisdom: list[str]) -> None:
    """Let FFTW use what another process measured."""
    importlib.import_module("pyfftw").import_wisdom(tuple(part.encode("ascii") for part in wisdom))


def _cufft(array: Array, forward: bool) -> Callable[[Array], None]:
    """A cuFFT plan of its own, called without CuPy's checks and without its pass for the normalisation."""
    module = importlib.import_module("cupyx.scipy.fft")
    cufft = importlib.import_module("cupy.cuda.cufft")
    plan = module.get_fft_plan(array, axes=(array.ndim - 2, array.ndim - 1))
    direction = cufft.CUFFT_FORWARD if forward else cufft.CUFFT_INVERSE

    def run(data: Array) -> None:
        plan.fft(data, data, direction)

    return run
