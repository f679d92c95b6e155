"""Batched 2-D Fourier transforms over the last two axes.

Forward: unnormalised, kernel exp(-2 pi i k.r/n). Inverse: carries 1/n^2 (docs/conventions.md).
Threads work on whole batches (objective/objective.py), so each transform uses one.
"""

from __future__ import annotations

import importlib
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
