"""A batch: some scan positions that are computed together."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.workspace import Workspace


@dataclass(frozen=True)
class Placed:
    """Indices and crop origins of a batch on the device; nothing else changes from one batch to the next.

    Attributes
    ----------
    index : (B,) int32
    crop_origins : (B, 2) int32, crop origins
    """

    index: Array
    crop_origins: Array


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some scan positions that are computed together.

    Attributes
    ----------
    index : (B,) int, host
        Indices of the patterns.
    crop_origins : (B, 2) int, host
        Crop origins: [y, x] of the first pixel of each patch of the object.
    data : (B, ky, kx) on the device, in the model's order (far field: zero frequency first; virtual detectors:
        (B, 1, D)); on a GPU in the type in which they are stored. None when simulating
    weights : broadcasts to data, or None (all 1)
    workspace : memory of the thread that computes the batch
    rows : (B,) int32 on the device: rows of ``data`` (N, ky, kx) that belong to the batch; None = data are (B, ky, kx)
    multiplier : factor on data that are stored in the detector's type
    on_device : index and crop origins that are already on the device; None = copied when needed
    """

    index: np.ndarray
    crop_origins: np.ndarray
    data: Array = None
    weights: Array = None
    workspace: Workspace = field(default_factory=functools.partial(Workspace, np))
    rows: Array = None
    multiplier: float = 1.0
    on_device: Placed | None = None

    @classmethod
    def empty(cls) -> Batch:
        """A batch without scan positions."""
        return cls(index=np.zeros(0, np.int64), crop_origins=np.zeros((0, 2), np.int64))

    @functools.cached_property
    def placed(self) -> Placed:
        """Index and crop origins on the device."""
        if self.on_device is not None:
            return self.on_device
        xp = self.workspace.xp
        arrays = (np.ascontiguousarray(a, np.int32) for a in (self.index, self.crop_origins))
        return Placed(*(xp.asarray(a) for a in arrays))

    def index_of(self, array: Array) -> Array:
        """``index`` on the device of ``array``."""
        if isinstance(array, np.ndarray):
            return self.index
        return array_module(array).asarray(self.index) if self.on_device is None else self.on_device.index
