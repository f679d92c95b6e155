"""Positions in another unit than pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pypty.params.report import Report
from pypty.params.settings import Settings

CLOSE_PX = 1e-3
"""Largest distance of positions that cannot be a scan in pixels."""
UNITS: Mapping[str, float] = MappingProxyType({"Å": 1.0, "nm": 10.0, "µm": 1e4, "m": 1e10})
"""Å in one unit."""
_FIELD_A = 300.0
"""Field of view of a usual scan; only its order of magnitude matters."""
_NEAR = 0.15


def check_positions(settings: Settings, report: Report) -> None:
    """Refuse positions that differ, but by less than a thousandth of a pixel."""
    positions = settings["positions"]
    extent = float(np.ptp(positions, axis=0).max()) if len(positions) > 1 else 0.0
    if 0 < extent < CLOSE_PX:
        report.add(
            "positions",
            f"{len(positions)} positions within {extent:.2g} px of each other, expected a scan in reconstruction "
            f"pixels; they could be in {likely_unit(positions)}: give position in Å / pixel_size_x_A",
        )


def pixel_A(settings: Settings) -> float:
    """Geometric mean of the two sides of a pixel."""
    return math.sqrt(settings["pixel_size_y_A"] * settings["pixel_size_x_A"])


def likely_unit(positions: np.ndarray) -> str:
    """The unit in which the extent of positions is nearest to a usual field of view."""
    extent = float(np.ptp(positions, axis=0).max())
    return min(UNITS, key=lambda unit: abs(math.log(extent * UNITS[unit] / _FIELD_A)))


def unit_of_step(found_A: float, expected_A: float, settings: Settings) -> str | None:
    """The unit of positions that would explain a scan step; None if none would.

    Parameters
    ----------
    found_A : step of the positions, taken as pixels
    expected_A : the nominal step
    """
    for unit, factor in UNITS.items():
        meant = found_A / pixel_A(settings) * factor
        if abs(meant / expected_A - 1) < _NEAR:
            return unit
    return None
