"""How a reconstruction is divided among ranks: who computes how many patterns, and sees which part of the object."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from pypty.engine.setup.memory_plan import Sizes
from pypty.errors import ParameterError
from pypty.objective.regions import divide, region_of


@dataclass(frozen=True, kw_only=True)
class Division:
    """What ranks have of the patterns and of the object.

    Attributes
    ----------
    windows : (Y, X) of the part of the object that each rank sees, px; that of rank 0 comes first
    n_patterns : largest number of patterns of a rank
    """

    windows: tuple[tuple[int, int], ...]
    n_patterns: int

    @property
    def ranks(self) -> int:
        return len(self.windows)

    @property
    def largest(self) -> tuple[int, int]:
        """The largest window."""
        return max(self.windows, key=math.prod)

    @property
    def sent_pixels(self) -> int:
        """Pixels of a slice that are sent to the other ranks, and come back."""
        return sum(map(math.prod, self.windows[1:]))

    def overlap(self, sizes: Sizes) -> float:
        """Area of all windows over that of the object; 1 + halo."""
        return sum(map(math.prod, self.windows)) / math.prod(sizes.object_shape)

    def share(self, sizes: Sizes) -> Sizes:
        """The sizes with the patterns of one rank; the object stays whole."""
        return dataclasses.replace(
            sizes,
            n_patterns=self.n_patterns,
            data_bytes=-(-sizes.data_bytes * self.n_patterns // max(sizes.n_patterns, 1)),
        )


def rectangles(sizes: Sizes, ranks: int) -> Division:
    """The division of a scan that fills its object evenly.

    Crop origins lie in a rectangle of (Y - y) x (X - x) pixels, where the object has Y x X and a patch y x x. It is cut
    in two along its longer side, for K // 2 and K - K // 2 ranks and in this proportion, and so are the parts
    (:func:`pypty.objective.regions.divide`). A rank whose crop origins lie in h x w pixels sees (h + y) x (w + x): for
    K ranks about a square of sqrt((Y - y) (X - x) / K) plus the patch on each side.

    Raises
    ------
    ParameterError
        There are fewer patterns than ranks.
    """
    if not 1 <= ranks <= sizes.n_patterns:
        raise ParameterError(
            f"{sizes.n_patterns} patterns cannot be divided among {ranks} ranks; give 1 to {sizes.n_patterns}"
        )
    span = [float(whole - patch) for whole, patch in zip(sizes.object_shape, sizes.window, strict=True)]
    windows = [
        (math.ceil(height) + sizes.window[0], math.ceil(width) + sizes.window[1])
        for height, width in _cut(span[0], span[1], ranks)
    ]
    if ranks == 1:
        windows = [sizes.object_shape]
    return Division(windows=tuple(windows), n_patterns=-(-sizes.n_patterns // ranks))


def _cut(height: float, width: float, parts: int) -> list[tuple[float, float]]:
    """Sides of the parts of a rectangle."""
    if parts == 1:
        return [(height, width)]
    first = parts // 2
    share = first / parts
    halves = (
        [(height * share, width), (height * (1 - share), width)]
        if height >= width
        else [(height, width * share), (height, width * (1 - share))]
    )
    return [*_cut(*halves[0], first), *_cut(*halves[1], parts - first)]


def of_scan(
    crop_origins: np.ndarray, used: np.ndarray, window: tuple[int, int], size: tuple[int, int], ranks: int
) -> Division:
    """The division of a scan as the ranks will make it.

    Parameters
    ----------
    crop_origins : (N, 2) of all patches
    used : sorted numbers of the patterns that are fitted
    window : shape of a patch, px
    size : (Y, X) of the object

    Raises
    ------
    ParameterError
        There are fewer patterns than ranks.
    """
    parts = divide(crop_origins.astype(float), used, ranks)
    return Division(
        windows=tuple(region_of(part, crop_origins, window, size).shape for part in parts),
        n_patterns=max(map(len, parts)),
    )
