"""The result of an importer: arrays and calibration in the conventions of this package."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.errors import DataError, ParameterError

_log = logging.getLogger(__name__)

ALL_FREQUENCIES = 2.0
"""Value of ``damping_cutoff_multislice`` without a band limit, since the models of other programs have none."""

_NEEDED = ("acc_voltage", "pixel_size_y_A", "pixel_size_x_A")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A reconstruction of another program, in the conventions of docs/conventions.md.

    Attributes
    ----------
    obj : (y, x, z, modes) complex128 transmission functions; slice 0 meets the beam first; intensities of modes add
    probe : (y, x, modes[, subscans]) complex128, centred at n//2, intensities of modes add
    positions : (N, 2) float64 crop origin [y, x] of each patch, pixels of ``obj``
    source : the file, and the program that wrote it
    pixel_size_A : (2,) [y, x], or None if it is not in the file
    slice_distances_A : (1,) or (slices - 1,), or None for one slice or if they are not in the file
    acc_voltage : kV, or None if it is not in the file
    settings : further parameters of this package that the file determines (tilts, scan_size, propmethod, ...)
    extras : values without a counterpart here, by the other program's names
    notes : hints for a continuation (the treatment of the patterns by the other program, ...)
    """

    obj: np.ndarray
    probe: np.ndarray
    positions: np.ndarray
    source: str
    pixel_size_A: np.ndarray | None = None
    slice_distances_A: np.ndarray | None = None
    acc_voltage: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def params(self, keep_scale: bool = False, **changes: Any) -> dict[str, Any]:
        """Parameters that start from this result; add ``data_path`` or ``dataset``.

        Parameters
        ----------
        keep_scale : take the probe's intensity as it is. False scales it to the counts of your patterns, which the
            other program may have normalised
        changes : parameters that replace or complete those of the file

        Raises
        ------
        ParameterError
            A required parameter without a default is neither in the file nor among ``changes``.
        """
        params: dict[str, Any] = {
            **self.settings,
            "obj": self.obj.copy(),
            "probe": self.probe.copy(),
            "positions": self.positions.copy(),
        }
        if self.pixel_size_A is not None:
            params["pixel_size_y_A"] = float(self.pixel_size_A[0])
            params["pixel_size_x_A"] = float(self.pixel_size_A[1])
        if self.acc_voltage is not None:
            params["acc_voltage"] = float(self.acc_voltage)
        if self.slice_distances_A is not None:
            params["slice_distances"] = self.slice_distances_A.copy()
        if keep_scale:
            params["skip_preprocessing"] = True
        params.update(changes)
        needed = [*_NEEDED, *(["slice_distances"] if self.obj.shape[2] > 1 else [])]
        missing = [name for name in needed if name not in params]
        if missing:
            raise ParameterError(
                f"{self.source} does not contain {', '.join(missing)}; give them, as in params({missing[0]}=...)"
            )
        for note in self.notes:
            _log.warning("%s: %s", self.source, note)
        return params


def make_imported(
    obj: np.ndarray, probe: np.ndarray, positions: np.ndarray, source: str, **rest: Any
) -> Imported:
    """Check the arrays against each other; vacuum is added where a patch extends beyond the object.

    Raises
    ------
    DataError
        They do not fit together, or contain values that are not finite.
    """
    obj, probe = np.asarray(obj, np.complex128), np.asarray(probe, np.complex128)
    positions = np.array(positions, np.float64)
    shapes = f"object {obj.shape}, probe {probe.shape}, positions {positions.shape}"
    if obj.ndim != 4 or probe.ndim not in (3, 4) or positions.ndim != 2 or positions.shape[1] != 2:
        raise DataError(
            f"{source}: arrays of other dimensions than expected: {shapes}, for object (y, x, z, modes), probe "
            "(y, x, modes) and positions (N, 2)"
        )
    if not (obj.size and probe.size and positions.size):
        raise DataError(f"{source}: an array is empty: {shapes}")
    for name, array in (("object", obj), ("probe", probe), ("positions", positions)):
        if not np.isfinite(array).all():
            raise DataError(
                f"{source}: the {name} contains values that are not finite; the reconstruction diverged"
            )
    obj, positions = _covering(obj, positions, probe.shape[:2], source)
    return Imported(obj=obj, probe=probe, positions=positions, source=source, **rest)


def _covering(
    obj: np.ndarray, positions: np.ndarray, window: tuple[int, ...], source: str
) -> tuple[np.ndarray, np.ndarray]:
    """The object with vacuum added where patches need it, and positions on its pixels."""
    # Vacuum needed before the first and after the last pixel of the object, along y and x.
    crop_origins = np.round(positions)
    before = np.maximum(-crop_origins.min(axis=0), 0)
    after = np.maximum(crop_origins.max(axis=0) + np.array(window) - np.array(obj.shape[:2]), 0)
    if (before > obj.shape[:2]).any() or (after > obj.shape[:2]).any():
        raise DataError(
            f"{source}: positions from {positions.min(axis=0)} to {positions.max(axis=0)} px do not lie on the object "
            f"of {obj.shape[:2]} px; are they in pixels?"
        )
    if not (before.any() or after.any()):
        return obj, positions
    rim = [(int(a), int(b)) for a, b in zip(before, after, strict=True)]
    return np.pad(obj, [*rim, (0, 0), (0, 0)], constant_values=1), positions + before
