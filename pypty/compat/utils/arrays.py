"""Up- and downsampling, resampling of slices, gradients with respect to other variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.errors import ParameterError


def upsample_something(something: np.ndarray, upsample: int, xp: Any = None) -> np.ndarray:
    """Repeat every pixel of (y, x[, …]) upsample x upsample times."""
    return np.repeat(np.repeat(something, _factor(upsample), axis=0), upsample, axis=1)


def upsample_something_3d(something: np.ndarray, upsample: int, xp: Any = None) -> np.ndarray:
    """:func:`upsample_something` along axes 1 and 2 of (n, y, x)."""
    return np.repeat(np.repeat(something, _factor(upsample), axis=1), upsample, axis=2)


def downsample_something(something: np.ndarray, upsample: int, xp: Any = None) -> np.ndarray:
    """Sums over upsample x upsample pixels of (y, x[, …]): the adjoint of :func:`upsample_something`."""
    return _sums(np.asarray(something), _factor(upsample), 0)


def downsample_something_3d(something: np.ndarray, upsample: int, xp: Any = None) -> np.ndarray:
    """:func:`downsample_something` along axes 1 and 2 of (n, y, x)."""
    return _sums(np.asarray(something), _factor(upsample), 1)


def _factor(factor: int) -> int:
    if int(factor) != factor or factor < 1:
        raise ParameterError(f"the factor is {factor!r}, expected a whole number from 1")
    return int(factor)


def _sums(array: np.ndarray, factor: int, axis: int) -> np.ndarray:
    ny, nx = array.shape[axis : axis + 2]
    if ny % factor or nx % factor:
        raise ParameterError(f"{ny} x {nx} pixels are not a whole number of blocks of {factor} x {factor}")
    # (..., ny, nx, ...) -> (..., ny//f, f, nx//f, f, ...) -> (..., ny//f, nx//f, ...)
    shape = (*array.shape[:axis], ny // factor, factor, nx // factor, factor, *array.shape[axis + 2 :])
    return array.reshape(shape).sum(axis=(axis + 1, axis + 3))


def complex_grad_to_phase_grad(grad: np.ndarray, array: np.ndarray) -> np.ndarray:
    """dL/d arg(z) from the gradient of a complex array z.

    Parameters
    ----------
    grad : G = dL/dRe z + i dL/dIm z, as returned by ``pypty.evaluate`` (twice PyPty's dL/dz*)
    array : z
    """
    return np.real(-1j * np.conj(array) * grad)


def complex_grad_to_mag_grad(grad: np.ndarray, array: np.ndarray) -> np.ndarray:
    """dL/d|z|; see :func:`complex_grad_to_phase_grad`."""
    return np.real(np.exp(-1j * np.angle(array)) * grad)


def complex_grad_to_phase_abs_grad(grad: np.ndarray, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """dL/d arg(z), and dL/da of z = exp(-a + i arg z), the absorption; see :func:`complex_grad_to_phase_grad`."""
    return complex_grad_to_phase_grad(grad, array), -np.real(np.conj(array) * grad)


def resample_slices(
    o: np.ndarray,
    params: Mapping[str, Any],
    refactor_thickness: float = 1,
    N_before: int = 0,
    N_after: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Resample the slices of an object, and add vacuum before and behind it.

    A new slice is the product of the old slices it overlaps, each to the power of the overlapping fraction, so that
    phase and absorption summed over depth do not change. Phases of old slices must be within +-pi.

    Parameters
    ----------
    o : (y, x, z, modes) complex
    params : with slice_distances, a single value for all slices
    refactor_thickness : ratio of new to old slice thickness, rounded to a whole number of slices
    N_before, N_after : number of vacuum slices added at the entrance and at the exit

    Returns
    -------
    obj, and a new dict with obj, num_slices, slice_distances, total_thickness

    Raises
    ------
    ParameterError
        The object is not 4-D, slice distances differ, or a number is out of range.
    """
    obj = np.asarray(o)
    distances = np.unique(np.asarray(params.get("slice_distances", 10.0), float))
    if obj.ndim != 4 or len(distances) != 1:
        raise ParameterError(
            f"an object of shape {obj.shape} with slice_distances {distances.tolist()} given; expected (y, x, z, "
            "modes) and one distance for all slices"
        )
    if not refactor_thickness > 0 or min(N_before, N_after) < 0:
        raise ParameterError(
            f"refactor_thickness {refactor_thickness!r}, N_before {N_before!r} and N_after {N_after!r} given; "
            "expected a positive number, and whole numbers >= 0"
        )
    old = obj.shape[2]
    new = max(1, round(old / refactor_thickness))
    logarithm = np.log(np.maximum(np.abs(obj), np.finfo(float).tiny)) + 1j * np.angle(obj)
    # (new, old): the length of each old slice inside each new one, in old slices
    edges_new, edges_old = np.linspace(0, old, new + 1), np.arange(old + 1)
    overlap = np.clip(
        np.minimum(edges_new[1:, None], edges_old[None, 1:])
        - np.maximum(edges_new[:-1, None], edges_old[None, :-1]),
        0,
        None,
    )
    out = np.exp(np.einsum("nz,yxzm->yxnm", overlap, logarithm))  # (y, x, new, modes)
    out = np.pad(out, ((0, 0), (0, 0), (int(N_before), int(N_after)), (0, 0)), constant_values=1)
    thickness = float(distances[0]) * old / new
    changes = {
        "obj": out,
        "num_slices": out.shape[2],
        "slice_distances": np.array([thickness]),
        "total_thickness": thickness * out.shape[2],
    }
    return out, {**params, **changes}
