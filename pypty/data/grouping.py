"""Division of the patterns into batches, and selection of the patterns of a raster that are used."""

from __future__ import annotations

import numpy as np

from pypty.errors import ParameterError

GROUP_MODES = ("random", "sparse", "compact", "hilbert", "fps")
_FPS_LIMIT = 65536
"""Number of positions above which sparse groups follow the Hilbert curve: farthest points take quadratic time."""
_FPS_BYTES = 2**30
"""Size of the table of distances (groups x positions, float32) above which they do so, too."""
_HILBERT_ORDER = 16


def number_of_groups(n_positions: int, batch_size: int) -> int:
    """Number of batches of at least ``batch_size`` patterns; 1 if there are fewer patterns."""
    return max(1, n_positions // batch_size)


def make_groups(
    positions_px: np.ndarray,
    n_groups: int | None = None,
    batch_size: int | None = None,
    mode: str = "random",
    seed: int = 0,
) -> list[np.ndarray]:
    """Split the positions into groups. Every position belongs to exactly one group, and no group is empty.

    Parameters
    ----------
    positions_px : (N, 2) [y, x], in any unit
    n_groups, batch_size : either the number of groups or the patterns in each (:func:`number_of_groups`)
    mode : "random"; "fps" (farthest-point sampling: each group spreads over the scan); "hilbert" (members are equally
        spaced along the Hilbert curve); "sparse" (fps, or hilbert for large scans); "compact" (neighbours)
    seed : seed of random groups, and of the first position of fps

    Returns
    -------
    groups : int64 indices; their sizes differ by at most 1

    Raises
    ------
    ParameterError
        Neither or both of ``n_groups`` and ``batch_size``, more groups than positions, or an unknown mode.
    """
    positions = np.asarray(positions_px, dtype=np.float64)
    count = len(positions)
    if (n_groups is None) == (batch_size is None):
        raise ParameterError(
            f"Groups of patterns need either their number or their size; given n_groups={n_groups}, "
            f"batch_size={batch_size}. Give one of them."
        )
    groups = number_of_groups(count, batch_size) if batch_size is not None else n_groups
    if groups is None or not 1 <= groups <= count:
        raise ParameterError(
            f"{count} patterns cannot make {groups} groups; expected 1 to {count} of them. Ask for fewer groups."
        )
    if mode == "random":
        return np.array_split(np.random.default_rng(seed).permutation(count), groups)
    if mode == "compact":
        return _compact(positions, np.arange(count), groups)
    if mode not in GROUP_MODES:
        raise ParameterError(f"group_mode is {mode!r}; expected one of {', '.join(GROUP_MODES)}.")
    large = count > _FPS_LIMIT or 4 * count * groups > _FPS_BYTES
    if mode == "hilbert" or (mode == "sparse" and large):
        order = np.argsort(hilbert_index(positions), kind="stable")
        return [order[first::groups] for first in range(groups)]
    return _farthest_points(positions, groups, seed)


def hilbert_index(positions: np.ndarray, order: int = _HILBERT_ORDER) -> np.ndarray:
    """Index of each position along the Hilbert curve of a 2^order x 2^order grid over the range of the positions.

    Component 0 is the curve's x, component 1 its y (Hilbert 1891; the usual conversion by quadrants).
    """
    low = positions.min(axis=0)
    side = 2**order
    grid = ((positions - low) / (np.ptp(positions, axis=0) + 1e-9) * (side - 1)).astype(np.int64)
    x, y = grid[:, 0].copy(), grid[:, 1].copy()
    index = np.zeros(len(positions), dtype=np.int64)
    step = side // 2
    # One bit of x and y per pass, from the largest quadrants to the smallest.
    while step:
        right, upper = (x & step) > 0, (y & step) > 0
        index += step * step * ((3 * right) ^ upper)
        # In the lower quadrants the curve is transposed, in the lower right one also mirrored: undo both.
        mirrored = ~upper & right
        x[mirrored], y[mirrored] = side - 1 - x[mirrored], side - 1 - y[mirrored]
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        step //= 2
    return index


def _farthest_points(positions: np.ndarray, groups: int, seed: int) -> list[np.ndarray]:
    """Farthest-point sampling: groups take turns, and each adds the free position farthest from all its members.

    Ties go to the lowest index. Group 0 starts at a random position (NumPy's legacy generator), the others at the
    positions farthest from it. Distances are float32, and -1 for positions that are taken.
    """
    points = positions.astype(np.float32)
    y, x = np.ascontiguousarray(points[:, 0]), np.ascontiguousarray(points[:, 1])
    count = len(points)
    # Distance of every position to the nearest member of each group
    nearest = np.empty((groups, count), dtype=np.float32)
    taken = np.zeros(count, dtype=bool)
    work, square = np.empty_like(y), np.empty_like(y)

    def distances(index: int) -> np.ndarray:
        np.subtract(y, y[index], out=work)
        np.multiply(work, work, out=work)
        np.subtract(x, x[index], out=square)
        np.multiply(square, square, out=square)
        np.add(work, square, out=work)
        return np.sqrt(work, out=work)

    start = int(np.random.RandomState(seed).randint(count))
    seeds = [start]
    taken[start] = True
    from_start = distances(start).copy()
    from_start[start] = -1
    for _ in range(1, groups):
        seeds.append(int(np.argmax(from_start)))
        from_start[seeds[-1]] = -1
    for group, index in enumerate(seeds):
        nearest[group] = distances(index)
    nearest[:, seeds] = -1
    members = [[index] for index in seeds]
    for placed in range(groups, count):
        group = placed % groups
        row = nearest[group]
        index = int(np.argmax(row))
        members[group].append(index)
        np.minimum(row, distances(index), out=row)
        nearest[:, index] = -1
    return [np.array(group, dtype=np.int64) for group in members]


def _compact(positions: np.ndarray, indices: np.ndarray, groups: int) -> list[np.ndarray]:
    """Split recursively along the longer side, groups and positions in proportion, until one group is left.

    K-means would give groups of unequal size, of which the largest could exceed the memory planned for a batch.
    """
    if groups == 1:
        return [np.sort(indices)]
    inside = positions[indices]
    axis = int(np.argmax(np.ptp(inside, axis=0)))
    ordered = indices[
        np.lexsort((inside[:, 1 - axis], inside[:, axis]))
    ]  # along ``axis``; ties by the other axis
    first = groups // 2
    cut = sum(len(part) for part in np.array_split(ordered, groups)[:first])
    return [
        *_compact(positions, ordered[:cut], first),
        *_compact(positions, ordered[cut:], groups - first),
    ]


def select_indices(
    scan_shape: tuple[int, int], mode: str, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Sorted flat indices of the patterns of a raster that are used (fast axis last).

    Parameters
    ----------
    scan_shape : (slow, fast) points of the raster
    mode : "full", "center" (the central rectangle) or "sub" (a regular subset over the whole field)
    shape : (slow, fast) points of the rectangle or subset; None = half of each side

    Raises
    ------
    ParameterError
        The subset does not fit into the raster, or the mode is not known.
    """
    if mode == "full":
        return np.arange(scan_shape[0] * scan_shape[1])
    if mode not in ("sub", "center"):
        raise ParameterError(f"indices_mode is {mode!r}; expected 'full', 'sub' or 'center'.")
    subset = [max(1, side // 2) for side in scan_shape] if shape is None else [int(n) for n in shape]
    if any(not 1 <= n <= side for n, side in zip(subset, scan_shape, strict=True)):
        raise ParameterError(
            f"indices_shape is {tuple(subset)}, but the scan has {tuple(scan_shape)} points (slow, fast); expected at "
            "least 1 and at most these. Choose a smaller subset."
        )
    # (rows, 1) and (columns,) -> (rows, columns) -> (rows * columns,)
    lines = [_along(side, n, mode) for side, n in zip(scan_shape, subset, strict=True)]
    return (lines[0][:, None] * scan_shape[1] + lines[1]).reshape(-1)


def _along(side: int, n: int, mode: str) -> np.ndarray:
    if mode == "center":
        return (side - n) // 2 + np.arange(n)
    return np.linspace(0, side - 1, n).astype(np.int64)
