"""A starting object from images of the scanned area: DPC, tcBF, WDD."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator, NearestNDInterpolator, RectBivariateSpline

from pypty.errors import ParameterError
from pypty.initialize.common import checked, model_shape, pixel_yx_A, positions_px, raster_of
from pypty.initialize.grid import fitted_raster, is_straight
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_LARGEST_PHASE = 0.75 * math.pi
"""rad per slice, for num_slices="auto"."""


def get_ptycho_obj_from_scan(
    params: Mapping[str, Any],
    num_slices: int | str | None = None,
    array_phase: np.ndarray | None = None,
    array_abs: np.ndarray | None = None,
    scale_phase: float = 1,
    scale_abs: float = 1,
    scan_array_A: np.ndarray | None = None,
    fill_value_type: str | float | None = None,
) -> dict[str, Any]:
    """A starting object from images of phase and amplitude.

    Images are interpolated onto the pixels of the object. Their pixels form an affine grid on the object (the best fit
    to their positions), on which cubic splines are used; if the positions are further than 5 % of a step from such a
    grid, scattered cubic interpolation (Clough and Tocher) is used. The phase is divided evenly among the slices, and
    each slice gets the amplitude a^(1/slices).

    Parameters
    ----------
    params : with positions, and data, probe or aperture_mask, which give the size of the patches
    num_slices : None = that of ``params``; "auto" = so many that the phase of each slice spans at most 0.75 pi
    array_phase : (rows, columns) rad, or None
    array_abs : (rows, columns) amplitude, or None = 1
    scale_phase, scale_abs : factors on the images
    scan_array_A : (rows * columns, 2) [y, x] in Å of the pixels of the images, from
        :func:`get_grid_for_upsampled_image`; None = pixels are the scan points
    fill_value_type : values outside the images: None phase 0 and the median of the amplitude; "median" the median of
        both; "edge" the nearest value; 0 phase 0 and amplitude 1. The rim is never opaque.

    Returns
    -------
    new dict with obj (y, x, z, 1) complex, large enough for all patches, num_slices, slice_distances if the number of
    slices changed (same total thickness), and positions, which begin at 0

    Raises
    ------
    ParameterError
        No image is given, images do not fit the scan or each other or are not finite, or the fill is unknown.
    """
    settings = checked(params)
    images = _images(array_phase, array_abs)
    fill = _fill(fill_value_type)
    pixel = pixel_yx_A(settings)
    positions = positions_px(settings)
    low = positions.min(axis=0)
    positions = positions - low
    window = model_shape(settings)
    if scan_array_A is None:
        points = positions
        size = raster_of(settings, params)
    else:
        points = np.asarray(scan_array_A, float) / pixel - low
        size = images["shape"]
    if images["shape"] != tuple(size) or points.shape != (size[0] * size[1], 2):
        raise ParameterError(
            f"images of {images['shape']} pixels given for {points.shape[0]} points of a grid {tuple(size)}; give one "
            "value for each scan point, or scan_array_A from get_grid_for_upsampled_image"
        )
    shape = np.round(positions).astype(int).max(axis=0) + np.array(window)
    # Scan points are at the centres of the patches.
    sample = _Sampler(
        points + np.array(window) // 2, (int(size[0]), int(size[1])), (int(shape[0]), int(shape[1]))
    )
    phase = amplitude = None
    if array_phase is not None:
        phase = sample(scale_phase * np.asarray(array_phase, float), fill, 0.0)
    if array_abs is not None:
        amplitude = sample(scale_abs * np.asarray(array_abs, float), fill or "median", 1.0)
    n = _n_slices(num_slices, settings, phase)
    layer = np.ones(tuple(shape), complex)
    if amplitude is not None:
        layer *= np.maximum(amplitude, 0) ** (1 / n)
    elif scale_abs != 1:
        layer *= float(scale_abs) ** (1 / n)
    if phase is not None:
        layer *= np.exp(1j * phase / n)
    out = {
        **params,
        "obj": np.repeat(layer[:, :, None, None], n, axis=2),
        "num_slices": n,
        "positions": positions,
    }
    if out.get("positions_correction") is not None:
        out["positions_correction"] = None
    return _with_distances(out, settings, n)


def _images(phase: Any, amplitude: Any) -> dict[str, Any]:
    images = {
        name: np.asarray(image) for name, image in (("phase", phase), ("abs", amplitude)) if image is not None
    }
    if not images:
        raise ParameterError("neither array_phase nor array_abs was given; give at least one image")
    shapes = {image.shape for image in images.values()}
    for name, image in images.items():
        if image.ndim != 2 or image.dtype.kind not in "biuf" or not np.isfinite(image).all():
            raise ParameterError(
                f"array_{name} has shape {image.shape} and dtype {image.dtype}; expected a real, finite image (rows, "
                "columns)"
            )
    if len(shapes) > 1:
        raise ParameterError(f"array_phase and array_abs have different shapes {sorted(shapes)}")
    if "abs" in images and images["abs"].min() < 0:
        raise ParameterError(
            f"array_abs has values down to {images['abs'].min():g}; an amplitude is not negative"
        )
    return {"shape": shapes.pop()}


def _fill(fill_value_type: str | float | None) -> str | None:
    """None, "zero", "median" or "edge"."""
    if fill_value_type is None or fill_value_type in ("median", "edge"):
        return fill_value_type
    if fill_value_type in (0, "0", "zero"):
        return "zero"
    raise ParameterError(f"fill_value_type is {fill_value_type!r}, expected None, 0, 'median' or 'edge'")


class _Sampler:
    """Interpolates images of one grid onto the pixels of the object.

    Parameters
    ----------
    points : (rows * columns, 2) [y, x] coordinates of the image's pixels, in object pixels
    size : (rows, columns)
    shape : (Y, X) of the object
    """

    def __init__(self, points: np.ndarray, size: tuple[int, int], shape: tuple[int, int]) -> None:
        self.points, self.size, self.shape = points, size, shape
        matrix, origin, residual = fitted_raster(points, size)
        self.straight = is_straight(matrix, residual)
        if self.straight:
            # Fractional rows and columns of the image at every object pixel, each (Y, X).
            inverse = np.linalg.inv(matrix)
            y, x = (np.arange(n)[:, None] - origin[i] for i, n in enumerate(shape))
            self.rows = inverse[0, 0] * y + inverse[0, 1] * x.T
            self.columns = inverse[1, 0] * y + inverse[1, 1] * x.T
        else:
            _log.info(
                "positions do not form an affine grid (rms deviation %.2g px): scattered interpolation",
                residual,
            )

    def __call__(self, image: np.ndarray, fill: str | None, zero: float) -> np.ndarray:
        """(Y, X) values; ``zero`` is the value outside the image with fill None or "zero"."""
        if self.straight:
            values, outside = self._regular(image)
        else:
            values, outside = self._scattered(image, fill == "edge")
        if fill != "edge":
            values[outside] = float(np.median(image)) if fill == "median" else zero
        return values

    def _regular(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inside = [
            np.clip(index, 0, n - 1) for index, n in zip((self.rows, self.columns), self.size, strict=True)
        ]
        # A spline needs two points along each axis.
        wide = np.pad(image, [(0, 1 if n == 1 else 0) for n in self.size], mode="edge")
        axes = [np.arange(n, dtype=float) for n in wide.shape]
        spline = RectBivariateSpline(*axes, wide, kx=min(3, wide.shape[0] - 1), ky=min(3, wide.shape[1] - 1))
        values = spline(inside[0], inside[1], grid=False)
        beyond = [
            (index < -1e-6) | (index > n - 1 + 1e-6)
            for index, n in zip((self.rows, self.columns), self.size, strict=True)
        ]
        return values, beyond[0] | beyond[1]

    def _scattered(self, image: np.ndarray, edge: bool) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.stack([index.ravel() for index in np.indices(self.shape)], axis=1).astype(float)
        values = CloughTocher2DInterpolator(self.points[:, ::-1], image.ravel())(pixels[:, ::-1])
        outside = np.isnan(values)  # NaN outside the convex hull of the points
        if edge:
            values[outside] = NearestNDInterpolator(self.points, image.ravel())(pixels[outside])
        return values.reshape(self.shape), outside.reshape(self.shape)


def _n_slices(num_slices: int | str | None, settings: Settings, phase: np.ndarray | None) -> int:
    if num_slices is None:
        return _present_slices(settings)
    if isinstance(num_slices, str):
        if num_slices != "auto":
            raise ParameterError(f"num_slices is {num_slices!r}, expected a whole number, 'auto' or None")
        span = 0.0 if phase is None else float(np.ptp(phase))
        return max(1, math.ceil(span / _LARGEST_PHASE))
    if int(num_slices) != num_slices or num_slices < 1:
        raise ParameterError(f"num_slices is {num_slices!r}, expected a whole number >= 1")
    return int(num_slices)


def _present_slices(settings: Settings) -> int:
    obj = settings["obj"]
    return int(settings["num_slices"] if obj is None else obj.shape[2])


def _with_distances(out: dict[str, Any], settings: Settings, n: int) -> dict[str, Any]:
    """Keep the total thickness with another number of slices."""
    before = _present_slices(settings)
    if n == before:
        return out
    distances = np.asarray(settings["slice_distances"], float)
    total = settings["total_thickness"]
    if total is None:
        total = distances[0] * before if len(distances) == 1 else distances[:before].sum()
    return {**out, "slice_distances": np.array([float(total) / n])}
