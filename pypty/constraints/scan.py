"""Edits of scan and object: a larger object, a torn scan reassembled, an object that follows its scan.

Positions are (N, 2) float64 [y, x] of the top-left corners of patches in object pixels, row-major over the scan. Their
whole parts are the crop origins. Everything is computed on the host; results are on the devices of the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import scipy.sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from pypty.backend.array import Array, array_module, to_host
from pypty.errors import ParameterError

_BINS = 256
"""Histogram bins of Otsu's threshold."""

_OUTLIER = 5
"""Standard deviations above the median from which a point belongs to a narrow seam."""

_QUARTILE = 0.6745
"""Median absolute deviation of normal noise, in standard deviations."""


@dataclass(frozen=True)
class Resized:
    """An object that contains every patch again.

    Attributes
    ----------
    obj : (mode, z, Y, X) complex, padded with the values of its edges
    positions : (N, 2) float64, moved by ``before``
    crop_origins : (N, 2) int64 crop origins, the whole parts of ``positions``
    before : (2,) int64 on the host, rows and columns added at the top and at the left
    changed_shape : whether the object grew
    """

    obj: Array
    positions: Array
    crop_origins: Array
    before: np.ndarray
    changed_shape: bool


def resized(
    obj: Array, positions: Array, crop_origins: Array, window: tuple[int, int], limit: float
) -> Resized | None:
    """Update the crop origins of moved positions, and enlarge the object where a patch would leave it
    (``dynamically_resize_yx_object``).

    Nothing happens until some |positions - crop_origins| reaches ``limit``. Then crop_origins = round(positions),
    and the object is padded with its edge values on every side where a patch needs it.

    The probe is shifted within its window by positions - crop_origins, cyclically: in a window of n pixels a shift s
    equals s - n. Corrections are therefore first wrapped into [-n/2, n/2), so that the object never grows by more than
    half a window. After positions were changed on purpose (:func:`puzzle`) pass ``crop_origins = round(positions)`` and
    ``limit = 0``.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    positions : (N, 2) float64 px
    crop_origins : (N, 2) int, crop origins
    window : (ny, nx) of the probe
    limit : px

    Returns
    -------
    None when nothing changes: below the limit, or the same crop origins, all inside the object.
    """
    size = np.array(window)
    old = to_host(crop_origins).astype(np.int64)
    unwrapped = to_host(positions)
    correction = unwrapped - old
    if np.abs(correction).max() < limit:
        return None
    moved = unwrapped - size * np.floor(correction / size + 0.5)  # |moved - old| <= n/2
    new = np.round(moved).astype(np.int64)
    # Rows and columns that are missing in front of the first and behind the last patch.
    before = np.maximum(0, -new.min(axis=0))
    after = np.maximum(0, new.max(axis=0) + size - np.array(obj.shape[2:]))
    grows = bool(before.any() or after.any())
    if not grows and (new == old).all():
        return None
    padding = ((0, 0), (0, 0), *zip(before.tolist(), after.tolist(), strict=True))
    padded = np.pad(to_host(obj), padding, mode="edge")
    return Resized(
        obj=array_module(obj).asarray(padded),
        positions=array_module(positions).asarray(moved + before),
        crop_origins=array_module(crop_origins).asarray(new + before),
        before=before,
        changed_shape=grows,
    )


@dataclass(frozen=True)
class Puzzled:
    """A reassembled scan.

    Attributes
    ----------
    positions : (N, 2) float64 px
    shifts : (N, 2) float64 px, added to each position
    """

    positions: Array
    shifts: Array


def puzzle(
    positions: Array, scan_size: tuple[int, int], score_limit: float = 1.2, smallest_shift: float = 0.5
) -> Puzzled | None:
    """Reassemble a scan that refinement has torn into pieces (``puzzle_positions``).

    Detection: with l the magnitude of the Laplacian of the grid of positions, a scan may be torn if
    var(l) / (mean l + 1e-8)^2 exceeds ``score_limit``, because l is then large on few points.

    Seams: l, scaled to [0, 1] and blurred with a standard deviation of 0.4 points, exceeds Otsu's threshold there.
    Next to wide seams that threshold misses narrow ones; therefore points are added whose l exceeds the median of the
    others by five robust standard deviations and by ``smallest_shift``. After a closing with a block of 3 x 3 points
    the seams separate the pieces. Each piece gets a rigid shift, except the largest.

    Solution: shifts and the positions on the seams solve one linear least-squares problem, which makes the second
    differences of the grid along rows and columns as small as possible. A row continues behind the seam with the
    direction and the step that it had before, and positions on the seam are interpolated. A straight or evenly bent
    grid is restored exactly.

    A scan that is bent, however sharply, is not torn: at a tear the second differences of neighbouring points have
    opposite signs, in a bend the same sign.

    Parameters
    ----------
    positions : (N, 2) float64 px, row-major over ``scan_size``
    scan_size : (rows, columns)
    score_limit : see above; normal noise on a regular grid has 4/pi - 1 = 0.27, a seam on a fraction f of the points
        1/f - 1
    smallest_shift : px; if all pieces are displaced by less, they are left to the refinement

    Returns
    -------
    None when the scan is not torn.

    Raises
    ------
    ParameterError
        ``scan_size`` does not fit the number of positions.
    """
    old = to_host(positions).astype(np.float64)
    if scan_size[0] * scan_size[1] != len(old):
        raise ParameterError(
            f"scan_size: {tuple(scan_size)} given, but there are {len(old)} positions; puzzle_positions needs "
            "rows x columns = number of positions"
        )
    grid = old.reshape(*scan_size, 2)  # (N, 2) -> (rows, columns, 2)
    bending = [_second_difference(grid, axis) for axis in range(2)]
    seams = _seams(np.linalg.norm(sum(bending), axis=-1), score_limit, smallest_shift)
    if seams is None:
        return None
    pieces = _pieces(seams)
    if pieces.max() < 2 or not _torn(grid, pieces == 0):
        return None
    shifts = _shifts(grid, pieces)
    if np.linalg.norm(shifts[pieces > 0], axis=-1).max() < smallest_shift:
        return None
    xp = array_module(positions)
    return Puzzled(xp.asarray(old + shifts.reshape(-1, 2)), xp.asarray(shifts.reshape(-1, 2)))


def warped(obj: Array, positions_old: Array, positions_new: Array, window: tuple[int, int]) -> Array:
    """The object after its scan has moved.

    A pixel r of the new object takes the value of the old object at r - d, where d is the displacement of the scan
    point whose new patch centre (position + n//2) is nearest to r. Real and imaginary part are interpolated linearly,
    and the amplitude is replaced by the interpolated amplitude, so that a pure phase object remains a phase
    object. Outside the old object the value of the nearest pixel is used. The shape does not change.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    positions_old, positions_new : (N, 2) float64 px
    window : (ny, nx) of the probe
    """
    host = to_host(obj)
    new = to_host(positions_new)
    displacement = new - to_host(positions_old)
    centres = cKDTree(new + np.array(window) // 2)
    pixels = np.moveaxis(np.indices(host.shape[2:]), 0, -1).reshape(-1, 2)  # (Y X, 2)
    of_pixel = displacement[centres.query(pixels)[1]]  # (Y X, 2)
    moved = np.flatnonzero(of_pixel.any(axis=1))  # the other pixels are copied, without interpolation
    source = (pixels[moved] - of_pixel[moved]).T
    result = host.reshape(*host.shape[:2], -1).copy()
    for index in np.ndindex(*host.shape[:2]):
        result[index][moved] = _interpolated(host[index].astype(np.complex128), source)
    return array_module(obj).asarray(result.reshape(host.shape))


def _interpolated(layer: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Linear interpolation of a complex (Y, X) layer at ``source`` (2, points), its amplitude interpolated as such."""

    def sample(part: np.ndarray) -> np.ndarray:
        return scipy.ndimage.map_coordinates(part, source, order=1, mode="nearest")

    phase = np.angle(sample(layer.real) + 1j * sample(layer.imag))
    return sample(np.abs(layer)) * np.exp(1j * phase)


def _second_difference(grid: np.ndarray, axis: int) -> np.ndarray:
    """x[i-1] - 2 x[i] + x[i+1] of a grid (rows, columns, 2); the ends have the value of their neighbour."""
    if grid.shape[axis] < 3:
        return np.zeros_like(grid)
    padding = [(1, 1) if other == axis else (0, 0) for other in range(grid.ndim)]
    return np.pad(np.diff(grid, n=2, axis=axis), padding, mode="edge")


def _seams(roughness: np.ndarray, score_limit: float, smallest_shift: float) -> np.ndarray | None:
    """Points (rows, columns) of the scan where the grid is torn; None where the score is below its limit."""
    if not roughness.var() > score_limit * (roughness.mean() + 1e-8) ** 2:
        return None
    scaled = (roughness - roughness.min()) / np.ptp(roughness)
    blurred = scipy.ndimage.gaussian_filter(scaled, 0.4, mode="nearest")
    wide = blurred > _otsu(blurred)
    others = roughness[~wide]
    median = np.median(others)
    # Median absolute deviation, as a standard deviation: seams that were missed do not widen it.
    deviation = np.median(np.abs(others - median)) / _QUARTILE
    narrow = roughness > median + max(_OUTLIER * deviation, smallest_shift)
    # A gap in a seam is two points wide, one on each side: a cross of 3 x 3 would not close it.
    block = np.ones((3, 3))
    room = np.pad(wide | narrow, 2)  # otherwise closing opens a seam at its ends
    return scipy.ndimage.binary_closing(room, block)[2:-2, 2:-2]


def _otsu(values: np.ndarray) -> float:
    """The threshold that splits ``values`` into two classes with the largest variance between the classes.

    That variance is w0 w1 (m0 - m1)^2, with the fractions w and the means m of the two classes (Otsu, IEEE Trans. Syst.
    Man Cybern. 9 (1979) 62).
    """
    counts, edges = np.histogram(values, bins=_BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below  # neither is 0: the first and the last bin hold the extremes
    first = np.cumsum(counts * centres)
    between = below * above * (first[:-1] / below - (first[-1] - first[:-1]) / above) ** 2
    return float(edges[1 + between.argmax()])


def _pieces(seams: np.ndarray) -> np.ndarray:
    """(rows, columns) labels: 0 on the seams, 1 on the largest piece, 2, ... on the others.

    A piece contains at least one block of 2 x 2 points, which determines its shift; smaller ones belong to the seams.
    """
    labels, count = scipy.ndimage.label(~seams)
    block = np.lib.stride_tricks.sliding_window_view(labels, tuple(np.minimum(seams.shape, 2)))
    lowest = block.min(axis=(2, 3))
    # Neighbours have the same label, or one of them is a seam: the lowest label of a block is that of all four, or 0.
    large = np.unique(lowest[lowest > 0])
    size = np.bincount(labels.ravel(), minlength=count + 1)[large]
    number = np.zeros(count + 1, dtype=np.int64)  # label of scipy -> 0 or rank by size
    number[large[np.argsort(-size, kind="stable")]] = np.arange(1, len(large) + 1)
    return _without_dead_ends(number[labels])


def _without_dead_ends(pieces: np.ndarray) -> np.ndarray:
    """Add each connected seam that touches one piece only, such as a single stray point, to that piece."""
    around = np.ones((3, 3))
    parts, count = scipy.ndimage.label(pieces == 0, around)
    # The highest and the lowest piece next to each seam: equal if it touches one piece. Seams must not win the minimum.
    named = np.where(pieces > 0, pieces, pieces.size + 1)
    highest = scipy.ndimage.maximum_filter(pieces, footprint=around, mode="nearest")
    lowest = scipy.ndimage.minimum_filter(named, footprint=around, mode="nearest")
    numbers = np.arange(count + 1)
    highest = np.asarray(scipy.ndimage.maximum(highest, parts, numbers), dtype=np.int64)
    lowest = np.asarray(scipy.ndimage.minimum(lowest, parts, numbers), dtype=np.int64)
    return np.where(pieces == 0, np.where(lowest == highest, highest, 0)[parts], pieces)


def _torn(grid: np.ndarray, seams: np.ndarray) -> bool:
    """Whether the grid jumps at its seams instead of bending.

    A jump by d between two points makes their second differences d and -d: the product, summed over neighbours, is -1/2
    of the sum of squares. It is 0 at a kink or for a jump in two steps, and positive in a bend.
    """
    products = squares = 0.0
    for axis in range(2):
        bending = np.moveaxis(np.diff(grid, n=2, axis=axis), axis, 0)  # (n - 2, others, 2)
        bending = bending * np.moveaxis(seams, axis, 0)[1:-1, :, None]
        products += float((bending[1:] * bending[:-1]).sum())
        squares += float((bending**2).sum())
    return products < -squares / 4


def _shifts(grid: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """(rows, columns, 2) shifts: 0 on piece 1, one value on each other piece, free on every seam point.

    They minimise |D (x + B u)|^2, with the second differences D along rows and columns and the matrix B that spreads
    the unknowns u over the points: (D B)^T D B u = -(D B)^T D x. The null space of D is bilinear in row and column, and
    a bilinear function that is 0 on a block of 2 x 2 points is 0 everywhere. Therefore u is unique.
    """
    rows, columns = pieces.shape
    flat = pieces.ravel()
    unknown = flat - 2  # index of the unknown of each point; piece 1 has none (-1)
    seam = flat == 0
    unknown[seam] = flat.max() - 1 + np.arange(np.count_nonzero(seam))
    points = np.flatnonzero(unknown >= 0)
    # B: (points, unknowns), a single 1 in each row that is free
    pattern = scipy.sparse.csr_matrix(
        (np.ones(len(points)), (points, unknown[points])), shape=(len(flat), unknown.max() + 1)
    )
    differences = scipy.sparse.vstack(
        [
            scipy.sparse.kron(_difference_matrix(rows), scipy.sparse.identity(columns)),
            scipy.sparse.kron(scipy.sparse.identity(rows), _difference_matrix(columns)),
        ]
    ).tocsr()
    reduced = (differences @ pattern).tocsc()  # D B
    solution = spsolve((reduced.T @ reduced).tocsc(), -(reduced.T @ (differences @ grid.reshape(-1, 2))))
    return (pattern @ solution).reshape(grid.shape)


def _difference_matrix(n: int) -> scipy.sparse.spmatrix:
    """(n - 2, n) second differences."""
    if n < 3:
        return scipy.sparse.csr_matrix((0, n))
    return scipy.sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
