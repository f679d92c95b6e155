"""Filters that act on every step of the optimiser: x = x0 + G y.

A smoothing constraint between two steps of L-BFGS would move the point and invalidate its history. A filter of the
steps does not: with the preconditioner G D^-1 G^T instead of D^-1 every step, and so their sum, is in the range of G.
The starting value is not smoothed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pypty.backend.array import Array, array_module
from pypty.optics.filters import (
    REPLICATE,
    Blur,
    DepthPass,
    LateralPass,
    LinearFilter,
    gaussian_kernel,
)

STEP_FILTERS = ("obj_rblur", "obj_zblur", "kr_filter", "kz_filter", "pos_recenter", "tilt_smooth")
"""The constraints that are linear, in the order in which they act."""
TILT_KERNEL = 5
"""Scan points along each side of the kernel of tilt_smooth."""


@dataclass(frozen=True)
class StepFilter:
    """G of one block: filters one after the other.

    Attributes
    ----------
    parts : (filter, part of the object that it changes: "amplitude", "phase", "both"; "" for other blocks)
    text : description of the filters with their numbers
    """

    parts: tuple[tuple[LinearFilter, str], ...]
    text: str

    def apply(self, array: Array, form: str = "") -> Array:
        """G a.

        Parameters
        ----------
        array : a step as the optimiser takes it
        form : of the object (``parametrization.OBJECT_FORMS``). A complex step is filtered as a whole, for
            either part; with "phase" filters of the amplitude do nothing.
        """
        for part, target in self.parts:
            array = _on(part.apply, array, target, form)
        return array

    def adjoint(self, array: Array, form: str = "") -> Array:
        """G^T a, of a gradient."""
        for part, target in reversed(self.parts):
            array = _on(part.adjoint, array, target, form)
        return array


@dataclass(frozen=True)
class InsideTilts:
    """The tilts (N, 6) inside the specimen as maps of the scan, blurred.

    Other columns, and one tilt for all, stay as they are.
    """

    blur: Blur
    scan_size: tuple[int, int]

    def apply(self, array: Array) -> Array:
        return self._changed(array, self.blur.apply)

    def adjoint(self, array: Array) -> Array:
        return self._changed(array, self.blur.adjoint)

    def _changed(self, array: Array, change: Any) -> Array:
        if len(array) != self.scan_size[0] * self.scan_size[1]:  # one tilt for all
            return array
        out = array.copy()
        # (N, 2) -> (slow, fast, 2) -> (N, 2)
        maps = array[:, 2:4].reshape(*self.scan_size, 2)
        out[:, 2:4] = change(maps).reshape(-1, 2)
        return out


@dataclass(frozen=True)
class Centred:
    """Positions (N, 2) without (1 - relax) of their mean. Symmetric: its own adjoint."""

    relax: float

    def apply(self, array: Array) -> Array:
        return array - (1 - self.relax) * array.mean(axis=0)

    adjoint = apply


def is_between(record: Mapping[str, Any], epoch: int) -> bool:
    """Whether start <= epoch < end. (``step`` is not used: a pause would invalidate the history.)"""
    return bool(record["start"] <= epoch and (record["end"] is None or epoch < record["end"]))


def object_filter(name: str, record: Mapping[str, Any]) -> LinearFilter | None:
    """The filter of amplitude or phase behind a constraint; None if it does nothing."""
    if name in ("obj_rblur", "obj_zblur"):
        if record["std"] == 0:
            return None
        kernel = gaussian_kernel(int(record["kernel_size"]), float(record["std"]))
        return Blur(kernel, (-2, -1)) if name == "obj_rblur" else Blur(kernel, (-3,), REPLICATE)
    if name == "kr_filter":
        return LateralPass(float(record["radius"]), float(record["width"]))
    return DepthPass(float(record["beta"]), float(record["alpha"]))


def tilt_filter(record: Mapping[str, Any], scan_size: tuple[int, int] | None) -> InsideTilts | None:
    """The filter of ``tilt_smooth``; None without a raster, or if it does nothing."""
    if scan_size is None or record["std"] == 0:
        return None
    return InsideTilts(Blur(gaussian_kernel(TILT_KERNEL, float(record["std"])), (-3, -2)), scan_size)


def step_filters(
    table: Mapping[str, Mapping[str, Any]], epoch: int, scan_size: tuple[int, int] | None
) -> dict[str, StepFilter]:
    """The filters of the constraints that are on at an epoch, by block.

    Parameters
    ----------
    table : the value of ``constraints``: complete records by name
    scan_size : (slow, fast) scan points
    """
    out, parts, texts = {}, [], []
    for name in STEP_FILTERS[:4]:
        record = table.get(name)
        linear = object_filter(name, record) if record is not None and is_between(record, epoch) else None
        if record is not None and linear is not None:
            parts.append((linear, str(record["obj_type"])))
            texts.append(_text(name, record))
    if parts:
        out["obj"] = StepFilter(tuple(parts), ", ".join(texts))
    record = table.get("pos_recenter")
    if record is not None and is_between(record, epoch):
        # only the mean of a step is filtered: relax = 1 leaves it as it is
        out["positions"] = StepFilter(((Centred(record["relax"]), ""),), _text("pos_recenter", record))
    record = table.get("tilt_smooth")
    tilts = tilt_filter(record, scan_size) if record is not None and is_between(record, epoch) else None
    if record is not None and tilts is not None:
        out["tilts"] = StepFilter(((tilts, ""),), _text("tilt_smooth", record))
    return out


def _text(name: str, record: Mapping[str, Any]) -> str:
    numbers = [f"{key}={value}" for key, value in record.items() if key not in ("start", "step", "end")]
    return f"{name}({' '.join(numbers)})"


def _on(change: Any, array: Array, target: str, form: str) -> Array:
    """Apply ``change`` to the target: amplitude or phase on the first axis, a phase, or the whole array."""
    if form == "amplitude_phase" and target in ("amplitude", "phase"):
        amplitude, phase = array
        pair = (change(amplitude), phase) if target == "amplitude" else (amplitude, change(phase))
        return array_module(array).stack(pair)
    return array if form == "phase" and target == "amplitude" else change(array)
