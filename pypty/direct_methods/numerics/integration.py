"""An image from its gradient or its Laplacian: by Fourier transform, or by iteration without periodic edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.fft

from pypty.errors import DataError, ParameterError

_MOST_HALVINGS = 40  # with beta = 0.5 a step is 1e-12 of the first one then

Misfit: TypeAlias = Callable[[np.ndarray], list[np.ndarray]]
Correction: TypeAlias = Callable[[list[np.ndarray]], np.ndarray]


def integrate_fourier(
    gradient_y: np.ndarray, gradient_x: np.ndarray, hpass: float = 0.0, lpass: float = 0.0
) -> np.ndarray:
    """The image with mean 0 whose gradient is closest to the given one (least squares, periodic edges).

    F^-1[(q_y F_y + q_x F_x) / (2 pi i (hpass + q^2 + lpass q^4))], 0 at q = 0 (Lazic, Bosch & Lazar, Ultramicroscopy
    160 (2016) 265, eq. 21; Close, Chen, Shibata & Findlay, Ultramicroscopy 159 (2015) 124).

    Parameters
    ----------
    gradient_y, gradient_x : (sy, sx), per point
    hpass, lpass : damping of low (cycles^2/point^2) and high (point^2/cycles^2) frequencies; q in cycles per point

    Raises
    ------
    DataError
        The two maps differ in shape or are not finite.
    """
    gy, gx = _maps(gradient_y, gradient_x)
    fy, fx = scipy.fft.fftfreq(gy.shape[0])[:, None], scipy.fft.rfftfreq(gy.shape[1])[None]
    # The Nyquist row has no partner of the other sign: only half of its derivative belongs to a real image.
    fy = np.where(np.abs(fy) == 0.5, 0.0, fy)
    fx_odd = np.where(fx == 0.5, 0.0, fx)
    numerator = fy * scipy.fft.rfft2(gy) + fx_odd * scipy.fft.rfft2(gx)
    return scipy.fft.irfft2(numerator * _damped_inverse(gy.shape, hpass, lpass) / 2j / np.pi, s=gy.shape)


def _damped_inverse(shape: tuple[int, ...], hpass: float, lpass: float) -> np.ndarray:
    """(sy, sx // 2 + 1): 1 / (hpass + q^2 + lpass q^4), 0 at q = 0."""
    if not all(isinstance(value, (int, float, np.number)) and value >= 0 for value in (hpass, lpass)):
        raise ParameterError(f"hpass {hpass!r} and lpass {lpass!r} must be numbers from 0")
    q2 = scipy.fft.fftfreq(shape[0])[:, None] ** 2 + scipy.fft.rfftfreq(shape[1])[None] ** 2
    inverse = 1 / np.where(q2 > 0, hpass + q2 + lpass * q2**2, 1.0)
    inverse[0, 0] = 0.0  # a gradient does not determine the mean
    return inverse


def _maps(*maps: np.ndarray) -> list[np.ndarray]:
    arrays = [np.asarray(values, float) for values in maps]
    if any(array.ndim != 2 or array.shape != arrays[0].shape or min(array.shape) < 3 for array in arrays):
        raise DataError(
            f"maps of shapes {[array.shape for array in arrays]}, expected equal shapes (sy, sx) from 3 x 3"
        )
    if not all(np.isfinite(array).all() for array in arrays):
        raise DataError("maps hold NaN or infinite values; leave out empty patterns or replace them")
    return arrays


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Options of an iterative integration.

    Attributes
    ----------
    iterations : upper limit
    step : first step, as a fraction of the Fourier solution of the residual
    beta : factor on a step that increases the error, until the error falls
    backtracking : False accepts every step
    hpass, lpass : as for :func:`integrate_fourier`
    pad : points added behind each axis, so that opposite edges do not meet
    """

    iterations: int = 100
    step: float = 0.1
    beta: float = 0.5
    backtracking: bool = True
    hpass: float = 0.0
    lpass: float = 0.0
    pad: int = 5

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 < self.beta < 1 or self.step <= 0 or self.pad < 0:
            raise ParameterError(
                f"iterations {self.iterations!r}, beta {self.beta!r}, step_size {self.step!r}, pad_width {self.pad!r}: "
                "expected at least 1, between 0 and 1, above 0, at least 0"
            )


def integrate_iteratively(
    gradient_y: np.ndarray, gradient_x: np.ndarray, options: Descent, select: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The image with mean 0 whose finite differences fit a gradient, without periodic edges.

    phase <- phase - step I[grad(phase) - g], I the Fourier solution (:func:`integrate_fourier`) of the padded map,
    the difference 0 outside the data.

    Parameters
    ----------
    gradient_y, gradient_x : (sy, sx), per point
    select : (sy, sx) bool, where the data count; None = everywhere

    Returns
    -------
    image (sy, sx), and the squared error after every step
    """
    gy, gx = _maps(gradient_y, gradient_x)
    valid = _selected(select, gy.shape)

    def misfit(image: np.ndarray) -> list[np.ndarray]:
        # one-sided differences of second order at the edges: nothing is periodic
        slope_y, slope_x = np.gradient(image, edge_order=2)
        return [valid * (slope_y - gy), valid * (slope_x - gx)]

    def correction(residual: list[np.ndarray]) -> np.ndarray:
        # the correction is periodic: the padding keeps opposite edges apart
        padded = [np.pad(part, ((0, options.pad), (0, options.pad))) for part in residual]
        return integrate_fourier(padded[0], padded[1], options.hpass, options.lpass)

    return _descend(gy.shape, misfit, correction, options)


def solve_poisson(
    laplacian: np.ndarray, options: Descent, select: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The image with mean 0 whose finite-difference Laplacian (per point^2) fits; as :func:`integrate_iteratively`."""
    (target,) = _maps(laplacian)
    valid = _selected(select, target.shape)

    def misfit(image: np.ndarray) -> list[np.ndarray]:
        slope_y, slope_x = np.gradient(image, edge_order=2)
        second = np.gradient(slope_y, axis=0, edge_order=2) + np.gradient(slope_x, axis=1, edge_order=2)
        return [valid * (second - target)]

    def correction(residual: list[np.ndarray]) -> np.ndarray:
        padded = np.pad(residual[0], ((0, options.pad), (0, options.pad)))
        inverse = _damped_inverse(padded.shape, options.hpass, options.lpass)
        # The Laplacian is -4 pi^2 q^2 in reciprocal space.
        return scipy.fft.irfft2(scipy.fft.rfft2(padded) * -inverse / (4 * np.pi**2), s=padded.shape)

    return _descend(target.shape, misfit, correction, options)


def _selected(select: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    if select is None:
        return np.ones(shape)
    mask = np.asarray(select)
    if mask.shape != shape or not (mask != 0).any():
        raise ParameterError(
            f"select has shape {mask.shape}, expected a mask of shape {shape} with some points in it"
        )
    return (mask != 0).astype(float)


def _descend(
    shape: tuple[int, ...], misfit: Misfit, correction: Correction, options: Descent
) -> tuple[np.ndarray, np.ndarray]:
    """Steps along ``correction`` until their number is reached or no step reduces the error. After a success the step
    grows again.
    """
    image, step = np.zeros(shape), options.step
    residual = misfit(image)
    error = _square(residual)
    errors = [error]
    for _ in range(options.iterations):
        if error == 0:
            break
        move = correction(residual)[: shape[0], : shape[1]]  # without the padding
        before = step
        for _ in range(_MOST_HALVINGS):
            trial = image - step * move
            residual_there = misfit(trial)
            error_there = _square(residual_there)
            if error_there < error or not options.backtracking:
                break
            # too long: shorten until the error falls
            step *= options.beta
        else:
            break
        image, residual, error = trial, residual_there, error_there
        errors.append(error)
        # accepted at once: try a longer step next time
        if options.backtracking and step == before:
            step = min(step / options.beta, 1.0)
    return image - image.mean(), np.array(errors)


def _square(residual: list[np.ndarray]) -> float:
    return float(sum((part**2).sum() for part in residual))
