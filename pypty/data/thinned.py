"""Counts divided at random between two data sets, each with the noise of half the dose.

If D is Poisson-distributed with mean I, a binomial draw A ~ B(D, 1/2) and the rest D - A are independent, and both are
Poisson-distributed with mean I/2: thinning of a Poisson process. Both halves keep every scan position and every pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.data.sources import PatternSource
from pypty.errors import DataError


@dataclass(frozen=True)
class ThinnedSource:
    """One of the halves of a source; the same every time it is read.

    Attributes
    ----------
    source : patterns of whole counts; it stays with its owner, and is not closed
    seed : of the draws; each pattern has its own
    rest : the other half, D - A
    """

    source: PatternSource
    seed: int
    rest: bool = False

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def scan(self) -> tuple[int, int] | None:
        return self.source.scan

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The patterns with these sorted indices, (n, ky, kx); pixels that are NaN stay so.

        Raises
        ------
        DataError
            A value is negative, or not whole.
        """
        patterns = self.source.read(indices)
        counted = np.nan_to_num(patterns) if patterns.dtype.kind == "f" else patterns
        whole = counted.astype(np.int64)
        if (whole != counted).any() or (whole < 0).any():
            raise DataError(
                f"{self.source.name}: only whole, non-negative counts can be divided into two halves"
            )
        half = np.stack(
            [
                np.random.default_rng([self.seed, int(index)]).binomial(pattern, 0.5)
                for index, pattern in zip(indices, whole, strict=True)
            ]
        )
        drawn = (whole - half if self.rest else half).astype(patterns.dtype)
        return np.where(np.isnan(patterns), patterns, drawn) if patterns.dtype.kind == "f" else drawn

    def close(self) -> None:
        """Nothing to release: the source belongs to another."""
