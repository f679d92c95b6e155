"""Regions of a scan: the patterns of a rank, and the window of the object that they see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pypty.backend.array import Array, array_module
from pypty.data.grouping import make_groups
from pypty.errors import ParameterError
from pypty.model.blocks import BLOCKS, Variables


@dataclass(frozen=True, kw_only=True)
class Region:
    """The part of a reconstruction that a rank computes.

    Attributes
    ----------
    patterns : sorted numbers
    origin : [y, x] of the first pixel of the window of the object, px
    shape : of that window, px
    """

    patterns: np.ndarray
    origin: tuple[int, int]
    shape: tuple[int, int]

    def of(self, indices: np.ndarray) -> np.ndarray:
        """Those of the patterns (sorted) that belong to the region."""
        return np.intersect1d(indices, self.patterns, assume_unique=True)

    def seen(self, variables: Variables) -> Variables:
        """The unknowns as the region sees them: the window of the object, and positions within it.

        Per-pattern blocks keep their rows of all patterns, so that patterns have the same numbers everywhere.
        """
        own = {"obj": array_module(variables.obj).ascontiguousarray(self._window(variables.obj))}
        if any(self.origin):
            shift = array_module(variables.positions).asarray(self.origin, variables.positions.dtype)
            # whole pixels: what remains of a position is exact
            own["positions"] = variables.positions - shift
        return variables.replace(own)

    def add(self, totals: Mapping[str, Array], part: Mapping[str, Array], indices: np.ndarray) -> None:
        """Add the gradients of the region to those of everything.

        Parameters
        ----------
        part : gradients as :meth:`seen` has the blocks; of per-pattern blocks only the rows ``indices``
        indices : patterns of the region that were computed
        """
        for name, array in part.items():
            if name == "obj":
                self._window(totals[name])[...] += array
            elif has_rows(name, totals[name]):
                totals[name][array_module(totals[name]).asarray(indices)] += array
            else:
                totals[name][...] += array

    def rows(self, blocks: Mapping[str, Array], indices: np.ndarray) -> dict[str, Array]:
        """Blocks, or gradients as :meth:`add` takes them: of per-pattern blocks only the rows of these patterns."""
        return {
            name: array[array_module(array).asarray(indices)] if has_rows(name, array) else array
            for name, array in blocks.items()
        }

    def _window(self, array: Array) -> Array:
        """The window of an array (..., Y, X)."""
        (y, x), (ny, nx) = self.origin, self.shape
        return array[..., y : y + ny, x : x + nx]


def with_rows(blocks: Mapping[str, Array]) -> tuple[str, ...]:
    """Names of the blocks that have a row for each pattern."""
    return tuple(name for name, array in blocks.items() if has_rows(name, array))


def in_rows(part: Array, indices: np.ndarray, n_patterns: int) -> Array:
    """An array (N, ...) with these rows, and 0 in those of other patterns; inverse of :meth:`Region.rows`."""
    xp = array_module(part)
    whole = xp.zeros((n_patterns, *part.shape[1:]), part.dtype)
    whole[xp.asarray(indices)] = part
    return whole


def has_rows(name: str, array: Array) -> bool:
    """Whether a block has a row for each pattern, not one for all."""
    return BLOCKS[name].per_pattern and len(array) > 1


def divide(positions: np.ndarray, used: np.ndarray, n: int) -> list[np.ndarray]:
    """Divide the patterns of a scan into n compact regions with equal numbers of those that are used.

    The scan is cut in two along its longer side, and so are the parts (recursive bisection of coordinates: Berger and
    Bokhari, IEEE Trans. Comput. C-36, 570 (1987)).

    Parameters
    ----------
    positions : (N, 2) [y, x], in any unit
    used : sorted numbers of the patterns that are fitted; each of the others goes to the region of its nearest one

    Returns
    -------
    sorted numbers of the patterns of each region

    Raises
    ------
    ParameterError
        There are fewer patterns than regions.
    """
    if len(used) < n:
        raise ParameterError(
            f"devices: {len(used)} patterns cannot be divided among {n} processes; ask for fewer"
        )
    groups = make_groups(positions[used], n_groups=n, mode="compact")
    owner = np.full(len(positions), -1)
    for number, group in enumerate(groups):
        owner[used[group]] = number
    rest = np.flatnonzero(owner < 0)
    if len(rest):
        owner[rest] = owner[used[cKDTree(positions[used]).query(positions[rest])[1]]]
    return [np.flatnonzero(owner == number) for number in range(n)]


def region_of(
    patterns: np.ndarray, crop_origins: np.ndarray, window: tuple[int, int], size: Sequence[int]
) -> Region:
    """The region of these patterns, with the smallest window that holds all their patches, as far as these lie on the
    object: patterns that are not fitted may lie outside of it.

    Parameters
    ----------
    crop_origins : (N, 2) of all patterns
    window : shape of a patch, px
    size : (Y, X) of the object
    """
    own = crop_origins[patterns]
    low = np.clip(own.min(axis=0), 0, size)
    high = np.clip(own.max(axis=0) + np.array(window), low, size)
    origin, shape = low.tolist(), (high - low).tolist()
    return Region(patterns=patterns, origin=(origin[0], origin[1]), shape=(shape[0], shape[1]))
