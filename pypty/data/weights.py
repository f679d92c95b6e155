"""Which detector pixels count, and how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DetectorWeights:
    """``detector_mask``: weights (ky, kx) or (N, ky, kx), "nan" (0 where the data are NaN), or None (all 1)."""

    mask: np.ndarray | str | None = None

    @property
    def common(self) -> np.ndarray | None:
        """(ky, kx) when all patterns have the same given weights."""
        return self.mask if isinstance(self.mask, np.ndarray) and self.mask.ndim == 2 else None

    def of(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
        """Weights of measured patterns ``data`` with these indices; broadcasts to them; None = all 1."""
        if self.mask is None:
            return None
        if isinstance(self.mask, str):
            return (~np.isnan(data)).astype(float) if data.dtype.kind == "f" else None
        return self.mask if self.mask.ndim == 2 else self.mask[indices]

    def blank(self, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """``data`` with 0 where the weight is 0, so that a NaN there can reach nothing."""
        weights = self.of(data, indices)
        return data if weights is None else np.where(weights > 0, data, np.zeros((), data.dtype))
