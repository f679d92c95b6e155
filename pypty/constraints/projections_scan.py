"""Constraints of positions and tilts, by PtyRAD's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.model.step_filters import tilt_filter


def pos_recenter(positions: Array, reference: np.ndarray, numbers: Mapping[str, Any]) -> Array:
    """Positions (N, 2) without their common drift from ``reference``: p -> p - (1 - relax) mean(p - reference)."""
    drift = (positions - array_module(positions).asarray(reference)).mean(axis=0)
    return positions - (1 - numbers["relax"]) * drift


def tilt_smooth(tilts: Array, numbers: Mapping[str, Any], scan_size: tuple[int, int] | None) -> Array:
    """Tilts (N, 6) inside the specimen (columns 2 and 3), Gaussian-blurred over the raster with a kernel of 5 x 5
    points, reflected at its edges. One tilt for all patterns stays as it is."""
    found = tilt_filter(numbers, scan_size)
    return tilts if found is None else found.apply(tilts)
