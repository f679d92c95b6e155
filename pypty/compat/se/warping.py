"""Distortions of images: polynomial maps and vector fields, also for 4D data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import map_coordinates

from pypty.errors import DataError, ParameterError
from pypty.output.files import atomic, make_folder
from pypty.params.files import load_npy

_ORDERS = (1, 2, 3)  # of the polynomials, by trafo_flag


def find_ab(x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, trafo_flag: int = 2) -> np.ndarray:
    """Coefficients of the polynomial map (x, y) -> (u, v) that fits pairs of points best (least squares).

    Parameters
    ----------
    x, y, u, v : (N,) coordinates of the points before and after the map
    trafo_flag : 0 linear, 1 quadratic, 2 cubic

    Returns
    -------
    (2, K): coefficients of u and v for the terms 1, x, y, x^2, xy, y^2, x^3, x^2 y, x y^2, y^3; K = 3, 6 or 10

    Raises
    ------
    ParameterError
        The arrays differ in length, or the points do not determine the map.
    """
    if trafo_flag not in (0, 1, 2):
        raise ParameterError(f"trafo_flag is {trafo_flag!r}, expected 0 (linear), 1 (quadratic) or 2 (cubic)")
    columns = [np.asarray(values, float).ravel() for values in (x, y, u, v)]
    if len({len(values) for values in columns}) != 1:
        raise ParameterError(
            f"x, y, u, v have {[len(values) for values in columns]} values, expected equal numbers"
        )
    matrix = _monomials(np.stack(columns[:2], axis=-1), _ORDERS[trafo_flag])
    solution, _, rank, _ = np.linalg.lstsq(matrix, np.stack(columns[2:], axis=1), rcond=None)
    if rank < matrix.shape[1]:
        raise ParameterError(
            f"{len(matrix)} points do not determine {matrix.shape[1]} terms; give more, or a smaller trafo_flag"
        )
    return solution.T


def coordinate_transformation_2d(xy: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """(..., 2) [u, v]: the points ``xy`` (..., 2) [x, y] under the map of :func:`find_ab`."""
    points, coefficients, order = _checked(xy, ab)
    return _monomials(points, order) @ coefficients.T


def coordinate_transformation_2d_areamag(xy: np.ndarray, ab: np.ndarray) -> np.ndarray:
    """(...) area magnification of the map of :func:`find_ab` at ``xy``: |d(u, v)/d(x, y)|."""
    points, coefficients, order = _checked(xy, ab)
    # (..., K) @ (K, 2) -> (..., 2): columns of the Jacobian, whose determinant is the magnification
    by_x, by_y = (_monomials(points, order, axis) @ coefficients.T for axis in (0, 1))
    return np.abs(by_x[..., 0] * by_y[..., 1] - by_x[..., 1] * by_y[..., 0])


def unwarp_im(warp_im: np.ndarray, ab: np.ndarray, method: str = "linear") -> np.ndarray:
    """(y, x) image whose pixel (x, y) has the value of ``warp_im`` at (u, v), the map of :func:`find_ab` in pixels.

    Parameters
    ----------
    method : "nearest", "linear" or "cubic" interpolation; 0 outside the image
    """
    orders = {"nearest": 0, "linear": 1, "cubic": 3}
    image = np.asarray(warp_im)
    if method not in orders or image.ndim != 2:
        raise ParameterError(
            f"method {method!r}, image {image.shape}; expected {', '.join(orders)}, and (y, x)"
        )
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    uv = coordinate_transformation_2d(np.stack([x, y], axis=-1), ab)
    return _sample(image, uv[..., 1], uv[..., 0], orders[method])


def _checked(xy: np.ndarray, ab: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    points, coefficients = np.asarray(xy, float), np.asarray(ab, float)
    sizes = [(order + 1) * (order + 2) // 2 for order in _ORDERS]
    if points.shape[-1:] != (2,) or coefficients.ndim != 2 or coefficients.shape[1] not in sizes:
        raise ParameterError(
            f"xy {points.shape} and ab {coefficients.shape}; expected (..., 2) and (2, 3, 6 or 10)"
        )
    return points, coefficients, _ORDERS[sizes.index(coefficients.shape[1])]


def _monomials(points: np.ndarray, order: int, derivative: int | None = None) -> np.ndarray:
    """(..., K) x^i y^j with i + j <= order, or their derivatives by x (0) or y (1)."""
    x, y = points[..., 0], points[..., 1]
    out = []
    for total in range(order + 1):
        for j in range(total + 1):
            i = total - j
            if derivative is None:
                out.append(x**i * y**j)
            elif derivative == 0:
                out.append(i * x ** max(i - 1, 0) * y**j)
            else:
                out.append(j * x**i * y ** max(j - 1, 0))
    return np.stack(out, axis=-1).astype(float)


def _sample(
    image: np.ndarray, rows: np.ndarray, columns: np.ndarray, order: int, mode: str = "constant"
) -> np.ndarray:
    return map_coordinates(
        image, [rows, columns], order=order, mode=mode, output=np.result_type(image, np.float32)
    )


def fit_vector_field(
    x: np.ndarray, y: np.ndarray, u: np.ndarray, v: np.ndarray, Xi: np.ndarray, Yi: np.ndarray
) -> np.ndarray:
    """Interpolate vectors at scattered points by thin plate splines.

    Parameters
    ----------
    x, y : (N,) coordinates of the points
    u, v : (N,) components of the vectors
    Xi, Yi : coordinates at which the field is evaluated, of equal shape

    Returns
    -------
    (*Xi.shape, 2) [u, v]

    Raises
    ------
    ParameterError
        There are fewer than three points, all points are on a line, or the lengths differ.
    """
    columns = [np.asarray(values, float).ravel() for values in (x, y, u, v)]
    wanted = np.stack([np.asarray(Xi, float), np.asarray(Yi, float)], axis=-1)
    if len({len(values) for values in columns}) != 1 or len(columns[0]) < 3:
        raise ParameterError(
            f"x, y, u, v have {[len(g) for g in columns]} values, expected equal numbers, at least 3"
        )
    points = np.stack(columns[:2], axis=1)
    if (
        len(np.unique(points, axis=0)) < len(points)
        or np.linalg.matrix_rank(points - points.mean(axis=0)) < 2
    ):
        raise ParameterError(
            "these points do not determine a field: all are on a line, or a point occurs twice"
        )
    spline = RBFInterpolator(
        points, np.stack(columns[2:], axis=1)
    )  # its default kernel is the thin plate spline
    return spline(wanted.reshape(-1, 2)).reshape(wanted.shape)


def warp_image(
    image: np.ndarray, vector_field: np.ndarray, order: int = 1, extra_angle_rotation_compensation: float = 0
) -> np.ndarray:
    """(y, x): pixel p of the result is ``image`` at p + field(p); 0 outside the image.

    Parameters
    ----------
    image : (y, x), real or complex
    vector_field : (y, x, 2) [u, v] = displacement along [x, y] in pixels
    order : order of the spline, 0 to 5
    extra_angle_rotation_compensation : deg; rotation (x towards y) about the centre of the coordinates at which the
        image is read, which rotates the image back by this angle
    """
    rows, columns = warped_coordinates(vector_field, extra_angle_rotation_compensation)
    image = np.asarray(image)
    if image.shape != rows.shape:
        raise ParameterError(
            f"image {image.shape} and vector_field {np.shape(vector_field)} do not fit; expected (y, x) and (y, x, 2)"
        )
    _check_order(order)
    return _sample(image, rows, columns, order)


def warped_coordinates(vector_field: np.ndarray, angle_deg: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns), each (y, x): the coordinates at which :func:`warp_image` reads the image."""
    field = np.asarray(vector_field, float)
    if field.ndim != 3 or field.shape[2] != 2 or not np.isfinite(field).all():
        raise ParameterError(
            f"vector_field of shape {field.shape}, expected finite (y, x, 2) = [u, v] in pixels"
        )
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    middle_y, middle_x = (field.shape[0] - 1) / 2, (field.shape[1] - 1) / 2
    dx, dy = x + field[..., 0] - middle_x, y + field[..., 1] - middle_y
    # Displaced coordinates relative to the centre, then rotated about it.
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    return middle_y + s * dx + c * dy, middle_x + c * dx - s * dy


def _check_order(order: int) -> None:
    if order not in range(6):
        raise ParameterError(f"order is {order!r}, expected a whole number from 0 to 5")


def compose_fields(
    field1: np.ndarray, field2: np.ndarray, order: int = 1, mode: str = "nearest"
) -> np.ndarray:
    """(y, x, 2) field that warps like ``field1`` followed by ``field2``: f2(p) + f1(p + f2(p)).

    ``mode`` sets the values of field1 outside the image, as in scipy.ndimage.
    """
    first, second = np.asarray(field1, float), np.asarray(field2, float)
    if first.shape != second.shape:
        raise ParameterError(
            f"the fields have shapes {first.shape} and {second.shape}, expected equal shapes (y, x, 2)"
        )
    _check_order(order)
    rows, columns = warped_coordinates(second)
    moved = [_sample(first[..., axis], rows, columns, order, mode) for axis in (0, 1)]
    return second + np.stack(moved, axis=-1)


def warp_images_batch(
    images: np.ndarray,
    vector_field: np.ndarray | None,
    batches: int,
    warped_rows: np.ndarray | None,
    warped_cols: np.ndarray | None,
    order: int,
    extra_angle_rotation_compensation: float,
) -> np.ndarray:
    """(N, y, x): :func:`warp_image` of every image.

    Parameters
    ----------
    images : (N, y, x)
    batches : number of images processed at a time
    warped_rows, warped_cols : (y, x) coordinates at which the images are read, from :func:`warped_coordinates`; None =
        computed from ``vector_field`` and the angle, which are not used otherwise
    """
    images = np.asarray(images)
    if images.ndim != 3 or batches < 1:
        raise ParameterError(
            f"images {images.shape}, batches {batches}; expected (N, y, x), and batches >= 1"
        )
    if warped_rows is None or warped_cols is None:
        if vector_field is None:
            raise ParameterError("neither vector_field nor warped_rows and warped_cols are given")
        warped_rows, warped_cols = warped_coordinates(vector_field, extra_angle_rotation_compensation)
    _check_order(order)
    if np.shape(warped_rows) != np.shape(warped_cols):
        raise ParameterError(
            f"warped_rows {np.shape(warped_rows)}, warped_cols {np.shape(warped_cols)} differ"
        )
    out = np.empty((len(images), *np.shape(warped_rows)), np.result_type(images, np.float32))
    for start in range(0, len(images), batches):
        for index, image in enumerate(np.asarray(images[start : start + batches], out.dtype), start):
            out[index] = _sample(image, warped_rows, warped_cols, order)
    return out


def unwarp_4dstem_batch(
    data_old: np.ndarray | str | Path,
    path_numpy_new: str | Path | None = None,
    vector_field: np.ndarray | None = None,
    batch_size: int = 20,
    order: int = 5,
    return_data: bool = False,
    extra_angle_rotation_compensation: float = 0,
) -> np.ndarray | None:
    """Warp all patterns of a 4D data set with the same field, a few at a time.

    Parameters
    ----------
    data_old : (N, ky, kx) or (slow, fast, ky, kx) real, or the .npy file that contains it
    path_numpy_new : .npy file to write, float32; None = no file, then ``return_data`` must be True
    vector_field : (ky, kx, 2), see :func:`warp_image`
    batch_size : number of patterns in memory at a time; need not divide their total number
    return_data : return the new array (memory-mapped if a file is written) instead of None

    Raises
    ------
    ParameterError, DataError
        Neither a file nor returned data are asked for; shapes do not fit; the file cannot be read.
    """
    if path_numpy_new is None and not return_data:
        raise ParameterError("nothing to do: give path_numpy_new, or return_data=True")
    if vector_field is None:
        raise ParameterError("vector_field is not given; make one with fit_vector_field")
    data = _load(data_old) if isinstance(data_old, (str, Path)) else np.asarray(data_old)
    rows, columns = warped_coordinates(vector_field, extra_angle_rotation_compensation)
    if data.ndim not in (3, 4) or data.shape[-2:] != rows.shape or batch_size < 1:
        raise ParameterError(
            f"data {data.shape}, vector_field {np.shape(vector_field)}, batch_size {batch_size} do not fit"
        )
    if path_numpy_new is None:
        memory = np.empty(data.shape, np.float32)
        _warp_into(memory, data, rows, columns, batch_size, order)
        return memory
    path = Path(path_numpy_new)
    if isinstance(data_old, (str, Path)) and path.resolve() == Path(data_old).resolve():
        raise ParameterError(f"path_numpy_new is {str(path)!r}, which is the input file; give another path")
    make_folder(path.parent)
    with atomic(path) as temporary:
        target = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=data.shape)
        _warp_into(target, data, rows, columns, batch_size, order)
        target.flush()
    return _load(path) if return_data else None


def _load(path: str | Path) -> np.ndarray:
    try:
        return load_npy(Path(path), mapped=True)
    except DataError as error:
        raise DataError(f"{str(path)!r} cannot be read as .npy: {error}") from error


def _warp_into(
    out: np.ndarray, data: Any, rows: np.ndarray, columns: np.ndarray, batch_size: int, order: int
) -> None:
    # (slow, fast, ky, kx) -> (N, ky, kx); views, also of memory-mapped files
    flat_in, flat_out = (a.reshape(-1, *data.shape[-2:]) for a in (data, out))
    for start in range(0, len(flat_in), batch_size):
        part = slice(start, start + batch_size)
        flat_out[part] = warp_images_batch(flat_in[part], None, batch_size, rows, columns, order, 0)
