"""Changes of scan and object by hand: a larger object, a scan put together again, an object that follows its scan.

Positions are (N, 2) float64 [y, x] of the windows' top-left corners in object pixels, row-major over the scan.
Everything is computed on the host; results are on the devices of the arguments.
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
"""Standard deviations above the median at which a point belongs to a narrow seam beside a wide one."""

_QUARTILE = 0.6745
"""Median absolute deviation of normal noise, in standard deviations."""


@dataclass(frozen=True)
class Resized:
    """An object on which every window has room again.

    Attributes
    ----------
    obj : (mode, z, Y, X) complex, padded with the values of its edges
    positions : (N, 2) float64, moved by ``before``
    corners : (N, 2) int64, the whole parts of ``positions``
    before : (2,) int64 on the host, rows and columns added at the top and at the left
    changed_shape : whether the object grew
    """

    obj: Array
    positions: Array
    corners: Array
    before: np.ndarray
    changed_shape: bool


def resized(
    obj: Array, positions: Array, corners: Array, window: tuple[int, int], limit: float
) -> Resized | None:
    """Choose the windows of moved positions anew, and let the object grow where a window would leave it.

    Nothing happens before some |positions - corners| reaches ``limit``. Then corners = round(positions), and the
    object is padded with its edge values on every side where a window needs it
    (``dynamically_resize_yx_object``).

    The probe is shifted within its window by positions - corners, cyclically: a shift s is the same as s - n in a
    window of n pixels. So the correction is first brought into [-n/2, n/2), and no correction, however wild, makes the
    object grow by more than half a window. After positions were changed on purpose (:func:`puzzle`) give
    ``corners = round(positions)`` and ``limit = 0``.

    Parameters
    ----------
    obj : (mode, z, Y, X) complex
    positions : (N, 2) float64 px
    corners : (N, 2) int, first pixel of each window
    window : (ny, nx) of the probe
    limit : px

    Returns
    -------
    None when nothing changes: below the limit, or the same corners and room for every window.
    """
    size = np.array(window)
    old = to_host(corners).astype(np.int64)
    given = to_host(positions)
    correction = given - old
    if np.abs(correction).max() < limit:
        return None
    moved = given - size * np.floor(correction / size + 0.5)
    new = np.round(moved).astype(np.int64)
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
        corners=array_module(corners).asarray(new + before),
        before=before,
        changed_shape=grows,
    )


@dataclass(frozen=True)
class Puzzled:
    """A scan put together again.

    Attributes
    ----------
    positions : (N, 2) float64 px
    shifts : (N, 2) float64 px, what was added to each position
    """

    positions: Array
    shifts: Array


def puzzle(
    positions: Array, scan_size: tuple[int, int], score_limit: float = 1.2, smallest_shift: float = 0.5
) -> Puzzled | None:
    """Put together a scan that refinement has torn into pieces (``puzzle_positions``).

    With l the magnitude of the Laplacian of the grid of positions, a scan may be torn if var(l) / (mean l + 1e-8)^2 is
    above ``score_limit``: l is then large on few points. Those are the seams: l scaled to [0, 1] and blurred with a
    standard deviation of 0.4 points is above Otsu's threshold there. Beside wide seams that threshold misses narrow
    ones, so points with an l five robust standard deviations, and ``smallest_shift``, above the median of the rest
    are added. Closed with a block of 3 x 3 points the seams separate the pieces. Each piece gets a rigid shift,
    the largest one none.

    Shifts, and the positions on the seams, are the solution of one linear least-squares problem: the second
    differences of the grid along its rows and columns become as small as possible. So a row goes on behind the
    seam in the direction and at the speed that it had before, and positions on the seam are interpolated from the
    pieces. A straight or evenly bent grid is restored exactly.

    A scan that is bent, however sharply, is not torn: at a tear the second differences of neighbouring points
    have opposite signs, in a bend the same.

    Parameters
    ----------
    positions : (N, 2) float64 px, row-major over ``scan_size``
    scan_size : (rows, columns)
    score_limit : see above; normal noise on a regular grid has 4/pi - 1 = 0.27, a seam on a fraction f of the points
        1/f - 1
    smallest_shift : px; pieces that are all less out of place are left to the refinement

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
    grid = old.reshape(*scan_size, 2)
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
    """The object moved along with its scan.

    A pixel r of the new object takes the value of the old one at r - d, where d is the displacement of the scan
    point whose new window centre (position + n//2) is nearest to r. Between pixels real and imaginary part are
    interpolated linearly, and the amplitude is set to the interpolated amplitude, so that a pure phase object
    stays one. Beyond the edge the value of the nearest pixel is taken. The shape stays.

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
    pixels = np.moveaxis(np.indices(host.shape[2:]), 0, -1).reshape(-1, 2)
    of_pixel = displacement[centres.query(pixels)[1]]
    moved = np.flatnonzero(of_pixel.any(axis=1))
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
    rest = roughness[~wide]
    median = np.median(rest)
    deviation = np.median(np.abs(rest - median)) / _QUARTILE
    narrow = roughness > median + max(_OUTLIER * deviation, smallest_shift)
    # A gap in a seam is two points wide, one on each side: a cross of 3 x 3 would not close it.
    block = np.ones((3, 3))
    room = np.pad(wide | narrow, 2)  # otherwise closing opens a seam at its ends
    return scipy.ndimage.binary_closing(room, block)[2:-2, 2:-2]


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts ``values`` into two classes with the largest variance between them.

    With fractions w of the values and means m on both sides it is w0 w1 (m0 - m1)^2. Source: Otsu, IEEE Trans. Syst.
    Man Cybern. 9 (1979) 62.
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

    A piece holds a block of 2 x 2 points, by which its rows and columns are fixed; smaller ones belong to the
    seams.
    """
    labels, count = scipy.ndimage.label(~seams)
    block = np.lib.stride_tricks.sliding_window_view(labels, tuple(np.minimum(seams.shape, 2)))
    lowest = block.min(axis=(2, 3))
    counting = np.unique(lowest[lowest > 0])  # neighbours have the same label, or one of them is a seam
    size = np.bincount(labels.ravel(), minlength=count + 1)[counting]
    name = np.zeros(count + 1, dtype=np.int64)
    name[counting[np.argsort(-size, kind="stable")]] = np.arange(1, len(counting) + 1)
    return _without_dead_ends(name[labels])


def _without_dead_ends(pieces: np.ndarray) -> np.ndarray:
    """Labels in which a connected seam that touches one piece only, such as a single stray point, belongs to it."""
    around = np.ones((3, 3))
    parts, count = scipy.ndimage.label(pieces == 0, around)
    named = np.where(pieces > 0, pieces, pieces.size + 1)
    highest = scipy.ndimage.maximum_filter(pieces, footprint=around, mode="nearest")
    lowest = scipy.ndimage.minimum_filter(named, footprint=around, mode="nearest")
    numbers = np.arange(count + 1)
    highest = np.asarray(scipy.ndimage.maximum(highest, parts, numbers), dtype=np.int64)
    lowest = np.asarray(scipy.ndimage.minimum(lowest, parts, numbers), dtype=np.int64)
    return np.where(pieces == 0, np.where(lowest == highest, highest, 0)[parts], pieces)


def _torn(grid: np.ndarray, seams: np.ndarray) -> bool:
    """Whether the grid jumps at its seams, rather than bends.

    A jump by d between two points gives the second differences d, -d at them: their product, summed over
    neighbours, is -1/2 of the sum of squares. It is 0 at a kink or for a jump in two steps, positive in a bend.
    """
    products = squares = 0.0
    for axis in range(2):
        bending = np.moveaxis(np.diff(grid, n=2, axis=axis), axis, 0)
        bending = bending * np.moveaxis(seams, axis, 0)[1:-1, :, None]
        products += float((bending[1:] * bending[:-1]).sum())
        squares += float((bending**2).sum())
    return products < -squares / 4


def _shifts(grid: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """(rows, columns, 2) shifts: 0 on piece 1, one value on each other piece, free on every seam point.

    With D the second differences along rows and columns and B the pattern of the unknowns u they minimise
    |D (x + B u)|^2: (D B)^T D B u = -(D B)^T D x. What D does not see is bilinear in row and column, and a
    bilinear function that is 0 on a block of 2 x 2 points is 0 everywhere: u is unique.
    """
    rows, columns = pieces.shape
    flat = pieces.ravel()
    unknown = flat - 2  # piece 1 has none
    seam = flat == 0
    unknown[seam] = flat.max() - 1 + np.arange(np.count_nonzero(seam))
    points = np.flatnonzero(unknown >= 0)
    pattern = scipy.sparse.csr_matrix(
        (np.ones(len(points)), (points, unknown[points])), shape=(len(flat), unknown.max() + 1)
    )
    differences = scipy.sparse.vstack(
        [
            scipy.sparse.kron(_difference_matrix(rows), scipy.sparse.identity(columns)),
            scipy.sparse.kron(scipy.sparse.identity(rows), _difference_matrix(columns)),
        ]
    ).tocsr()
    seen = (differences @ pattern).tocsc()
    solution = spsolve((seen.T @ seen).tocsc(), -(seen.T @ (differences @ grid.reshape(-1, 2))))
    return (pattern @ solution).reshape(grid.shape)


def _difference_matrix(n: int) -> scipy.sparse.spmatrix:
    """(n - 2, n) second differences."""
    if n < 3:
        return scipy.sparse.csr_matrix((0, n))
    return scipy.sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
