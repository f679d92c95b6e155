"""How much object, probe and positions change between snapshots: the metrics of the convergence monitor.

Loss curves flatten long before a weak foreground stops changing. Background and foreground are therefore compared
separately: the pixels below the lower and above the upper percentile of the newest snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.errors import CheckpointError

TENSORS = ("obja", "objp", "probe", "probe_pos_shifts")
_TINY = 1e-8


class ConvergenceMonitor:
    """Compares each snapshot with the one before.

    Parameters
    ----------
    area : (rows, columns) of the object that is compared (``illuminated_area``)
    pixel_A : (y, x) size of an object pixel
    tensors : which of ``TENSORS``
    percentile_range : lower and upper percentile, 0 to 100
    previous : ``previous`` of an earlier monitor, to continue it

    Raises
    ------
    CheckpointError
        ``previous`` has other arrays than ``tensors``.
    """

    def __init__(
        self,
        area: tuple[slice, slice],
        pixel_A: tuple[float, float],
        tensors: Sequence[str] = TENSORS,
        percentile_range: tuple[float, float] = (15.0, 85.0),
        previous: Mapping[str, Array] | None = None,
    ) -> None:
        self.tensors = tuple(tensors)
        self._area = area
        self._pixel_A = (float(pixel_A[0]), float(pixel_A[1]))
        self._range = tuple(sorted(float(value) for value in percentile_range))
        if previous and set(previous) != set(self.tensors):
            raise CheckpointError(
                f"The saved snapshot of the convergence monitor has {', '.join(previous)}; expected "
                f"{', '.join(self.tensors)}. Start without it, or watch the same tensors."
            )
        self.previous: dict[str, Array] = dict(previous or {})
        """The last snapshot: "obja" and "objp" (mode, slice, rows, columns), "probe" (y, x) intensity,
        "probe_pos_shifts" (N, 2) px; empty before the first."""

    def observe(
        self,
        amplitude: Array | None = None,
        phase: Array | None = None,
        probe: Array | None = None,
        positions_px: Array | None = None,
    ) -> dict[str, float]:
        """Changes since the last snapshot (empty at the first); the arrays are copied as the new snapshot.

        Parameters
        ----------
        amplitude, phase : (mode, slice, y, x) of the whole object; the phase is compared as it is given
        probe : (..., mode, y, x) complex
        positions_px : (N, 2) [y, x]

        Returns
        -------
        metrics : "obja_bg", "obja_fg", "objp_bg", "objp_fg": mean absolute change of 1 - amplitude and of phase, rad;
            "probe": relative change of the intensity, summed over modes; "probe_pos_shifts": root mean square
            displacement, Å
        """
        arrays = {"obja": amplitude, "objp": phase, "probe": probe, "probe_pos_shifts": positions_px}
        metrics: dict[str, float] = {}
        for name in self.tensors:
            array = arrays[name]
            if array is None:
                raise ValueError(f"the convergence monitor watches {name!r}, which was not given")
            now = self._snapshot(name, array)
            before = self.previous.get(name)
            if before is not None:
                metrics |= self._compared(name, now, array_module(now).asarray(before))
            self.previous[name] = now
        return metrics

    def _snapshot(self, name: str, array: Array) -> Array:
        if name == "probe":
            # (..., mode, y, x) -> (..., y, x)
            return (array.real**2 + array.imag**2).sum(axis=-3)
        # (mode, slice, Y, X) -> (mode, slice, rows, columns): the unscanned rim never converges
        return array.copy() if name == "probe_pos_shifts" else array[(..., *self._area)].copy()

    def _compared(self, name: str, now: Array, before: Array) -> dict[str, float]:
        if name == "probe":
            # relative to the total intensity; the small number avoids a division by zero for an empty probe
            return {name: float(abs(now - before).sum()) / (float(before.sum()) + _TINY)}
        if name == "probe_pos_shifts":
            xp = array_module(now)
            # (N, 2) px * (2,) Å/px
            moved_A = (now - before) * xp.asarray(np.array(self._pixel_A))
            # (N, 2) Å -> (N,) -> root mean square
            return {name: float((moved_A**2).sum(axis=-1).mean()) ** 0.5}
        change = abs(now - before)
        if name == "objp":  # phases from -pi to pi: the shorter way around the circle
            change = array_module(now).minimum(change, abs(2 * np.pi - change))
        # vacuum has amplitude 1: its absorption 1 - |O| is 0, the background
        return self._outside(name, 1 - now if name == "obja" else now, change)

    def _outside(self, name: str, values: Array, change: Array) -> dict[str, float]:
        """Mean change where the values are below the lower percentile, and above the upper one."""
        xp = array_module(values)
        low, high = xp.percentile(values, self._range[0]), xp.percentile(values, self._range[1])
        return {
            f"{name}_bg": _mean_where(change, values < low),
            f"{name}_fg": _mean_where(change, values > high),
        }


def _mean_where(change: Array, where: Array) -> float:
    # 0 rather than NaN where a percentile selects nothing, as in an object of one value
    count = int(where.sum())
    return float((change * where).sum(dtype=np.float64)) / count if count else 0.0


def illuminated_area(crop_origins: np.ndarray, window: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns from one pixel before the first patch centre to the last one (exclusive).

    Parameters
    ----------
    crop_origins : (N, 2) whole pixels [y, x] of the patches' top-left corners
    window : (ny, nx)
    """
    # (N, 2) centre pixels, at n//2 of each patch
    centres = np.asarray(crop_origins) + np.array(window) // 2
    low, high = centres.min(axis=0), centres.max(axis=0)
    return (
        slice(max(0, int(low[0]) - 1), int(high[0])),
        slice(max(0, int(low[1]) - 1), int(high[1])),
    )
