"""Weights of the detector pixels in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DetectorWeights:
    """``detector_mask``: weights (ky, kx) or (N, ky, kx), "nan" (0 where the data are NaN), or None (all 1).

    Attributes
    ----------
    numbers : (n,) sorted numbers of the patterns to which the weights (n, ky, kx) belong; None = all N
    """

    mask: np.ndarray | str | None = None
    numbers: np.ndarray | None = None

    @property
    def common(self) -> np.ndarray | None:
        """(ky, kx) weights if the user's mask is the same for all patterns, else None."""
        return self.mask if isinstance(self.mask, np.ndarray) and self.mask.ndim == 2 else None

    def of(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
        """Weights of the measured patterns ``data`` with these indices, in a shape that broadcasts; None = all 1."""
        if self.mask is None:
            return None
        if isinstance(self.mask, str):
            return (~np.isnan(data)).astype(float) if data.dtype.kind == "f" else None
        return self.mask if self.mask.ndim == 2 else self.mask[self._rows(indices)]

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """Rows of (N or n, ky, kx) that belong to these patterns."""
        return indices if self.numbers is None else np.searchsorted(self.numbers, indices)

    def blank(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """``data`` with 0 where the weight is 0: a weight of 0 alone does not stop a NaN, as 0 x NaN = NaN."""
        weights = self.of(data, indices)
        return data if weights is None else np.where(weights > 0, data, np.zeros((), data.dtype))
