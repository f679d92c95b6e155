"""Some of the patterns of a data set, in memory, by the numbers that they have there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class OwnedPatterns:
    """The patterns of a rank, as they were measured.

    Attributes
    ----------
    patterns : (n, ky, kx)
    numbers : (n,) sorted
    shape : (N, ky, kx) of the whole data set
    name : of the data set, for messages
    scan : points (slow, fast) of the raster, or None
    """

    patterns: np.ndarray
    numbers: np.ndarray
    shape: tuple[int, int, int]
    name: str
    scan: tuple[int, int] | None = None

    @property
    def dtype(self) -> np.dtype:
        return self.patterns.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The patterns with these sorted numbers, all of which are here."""
        rows = np.searchsorted(self.numbers, indices)
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):  # a view
            return self.patterns[rows[0] : rows[-1] + 1]
        return self.patterns[rows]

    def without_memory(self) -> OwnedPatterns:
        """The same without the patterns, of which nothing can be read any more."""
        return replace(self, patterns=self.patterns[:0].copy())

    def close(self) -> None:
        """Nothing to release."""
