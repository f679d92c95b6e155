"""Batches of patterns on the device, in the layout of the model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.workspace import Workspace
from pypty.data.preprocess import Preprocess, to_corner
from pypty.data.sources import PatternSource, as_slice
from pypty.data.weights import DetectorWeights

_CHUNK_PATTERNS = 256


@dataclass(frozen=True)
class Batch:
    """Some scan positions that are computed together.

    Attributes
    ----------
    index : (B,) int, host
        Which patterns.
    corners : (B, 2) int, host
        [y, x] of the first pixel of each window in the object.
    data : (B, ky, kx) on the device, in the model's order (far field: zero frequency first; virtual detectors:
        (B, 1, D)); None when simulating
    weights : broadcasts to data, or None (all 1)
    workspace : memory of the thread that computes them
    """

    index: np.ndarray
    corners: np.ndarray
    data: Array = None
    weights: Array = None
    workspace: Workspace = field(default_factory=functools.partial(Workspace, np))

    @classmethod
    def empty(cls) -> Batch:
        """No scan position."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


class Feed:
    """Gives batches; keeps the patterns in memory, in their own type, when told to.

    Parameters
    ----------
    source : where patterns come from; None gives batches without data
    weights : ``detector_mask``
    multiplier : factor on every count, applied on the device
    reorder : from the order of the data to that of the model's patterns
    """

    def __init__(
        self,
        backend: Backend,
        source: PatternSource | None,
        corners: np.ndarray,
        preprocess: Preprocess | None = None,
        weights: np.ndarray | str | None = None,
        multiplier: float = 1.0,
        reorder: Callable[[np.ndarray], np.ndarray] = to_corner,
    ) -> None:
        self.backend = backend
        self.source = source
        self.corners = corners
        self.preprocess = preprocess or Preprocess()
        self.weights = DetectorWeights(weights)
        self.multiplier = multiplier
        self.reorder = reorder
        common = self.weights.common
        self._common_weights = None if common is None else self._on_device(common)
        self._resident: np.ndarray | None = None
        self._resident_weights: np.ndarray | None = None

    def _on_device(self, weights: np.ndarray) -> Array:
        return self.backend.asarray(self.reorder(self.preprocess.weights(weights)), self.backend.real)

    @property
    def n_patterns(self) -> int:
        return len(self.corners)

    def make_resident(self) -> None:
        """Read and prepare all patterns once, keeping their type."""
        if self.source is None or self._resident is not None:
            return
        n = self.source.shape[0]
        for start in range(0, n, _CHUNK_PATTERNS):
            indices = np.arange(start, min(start + _CHUNK_PATTERNS, n))
            raw = self.source.read(indices)
            part = self._prepare(raw, indices)
            if self._resident is None:
                self._resident = np.empty((n, *part.shape[1:]), part.dtype)
            self._resident[indices] = part
            self._keep_weights(raw, indices, n)

    def _keep_weights(self, raw: np.ndarray, indices: np.ndarray, n: int) -> None:
        """Keep what detector_mask="nan" finds, one byte per pixel: the prepared patterns have no NaN any more."""
        weights = self.weights.of(raw, indices) if isinstance(self.weights.mask, str) else None
        if weights is None:
            return
        if self._resident_weights is None:
            self._resident_weights = np.ones((n, *weights.shape[1:]), bool)
        self._resident_weights[indices] = weights > 0

    def _prepare(self, raw: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return self.reorder(self.preprocess.patterns(self.weights.blank(raw, indices)))

    def patterns(self, indices: np.ndarray) -> np.ndarray:
        """Prepared patterns on the host, in the model's order, in their own type, without the multiplier."""
        if self._resident is not None:
            return self._resident[as_slice(indices)]
        assert self.source is not None
        return self._prepare(self.source.read(indices), indices)

    def batch(self, indices: np.ndarray, workspace: Workspace | None = None) -> Batch:
        """The batch of these patterns (sorted indices), in the memory of the thread that asks for it."""
        workspace = workspace or Workspace(self.backend.xp, self.backend.fft_library)
        corners = self.corners[indices]
        if self.source is None:
            return Batch(indices, corners, workspace=workspace)
        patterns = self.backend.asarray(self.patterns(indices))
        data = workspace.array("data", patterns.shape, self.backend.real)
        data[...] = patterns
        if self.multiplier != 1:
            data *= self.multiplier
        return Batch(indices, corners, data, self._batch_weights(indices), workspace)

    def _batch_weights(self, indices: np.ndarray) -> Array:
        if self.weights.mask is None or self._common_weights is not None:
            return self._common_weights
        mask = self.weights.mask
        if isinstance(mask, np.ndarray):
            return self._on_device(mask[indices])
        if self._resident is not None:
            kept = self._resident_weights
            return None if kept is None else self._on_device(kept[indices].astype(float))
        assert self.source is not None
        weights = self.weights.of(self.source.read(indices), indices)
        return None if weights is None else self._on_device(weights)
