"""Edits of the unknowns between updates, as the parameters of an epoch ask for them, in a fixed order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.constraints import object as by_object
from pypty.constraints import scan as by_scan
from pypty.data.scan import Scan
from pypty.engine.setup.assembly import Setup
from pypty.model.blocks import Variables
from pypty.model.parametrization import BandLimits
from pypty.params.schema.values import EpochValues

_SAME = 1e-9
"""Relative changes up to this size count as no change."""


def before_update(
    variables: Variables, now: EpochValues, setup: Setup, limits: BandLimits
) -> tuple[Variables, list[str]]:
    """Vacuum, starting positions, aperture, charge flip; also returns the names of the edits that had an effect."""
    steps: tuple[tuple[str, bool, str, Callable[[Array], Array]], ...] = (
        ("restart_from_vacuum", now["restart_from_vacuum"], "obj", by_object.vacuum_like),
        ("reset_positions", now["reset_positions"], "positions", lambda _: setup.scan.positions),
        (
            "probe_reg_constraint_weight",
            math.isinf(now["probe_reg_constraint_weight"]),
            "probe",
            lambda probe: limits.limit("probe", probe),
        ),
        (
            "do_charge_flip",
            now["do_charge_flip"],
            "obj",
            lambda obj: limited(
                by_object.charge_flip(
                    obj,
                    delta_phase=now["cf_delta_phase"],
                    delta_abs=now["cf_delta_abs"],
                    beta_phase=now["cf_beta_phase"],
                    beta_abs=now["cf_beta_abs"],
                    fancy_sigma=now["fancy_sigma"],
                ),
                now,
                limits,
            ),
        ),
    )
    return _apply(variables, steps)


def after_update(variables: Variables, now: EpochValues, limits: BandLimits) -> tuple[Variables, list[str]]:
    """Gaussian filters of the object; also returns the names of the filters that had an effect."""
    phase, absorption = now["apply_gaussian_filter"], now["apply_gaussian_filter_amplitude"]
    steps: tuple[tuple[str, bool, str, Callable[[Array], Array]], ...] = (
        (
            "apply_gaussian_filter",
            _widths(phase) is not None,
            "obj",
            lambda obj: by_object.smooth_phase(obj, _widths(phase) or ()),
        ),
        (
            "apply_gaussian_filter_amplitude",
            _widths(absorption) is not None,
            "obj",
            lambda obj: by_object.smooth_absorption(obj, _widths(absorption) or ()),
        ),
    )
    variables, changed = _apply(variables, steps)
    if changed:
        # amplitude and phase are filtered separately, and their product is not band-limited
        variables = variables.replace({"obj": limited(variables.obj, now, limits)})
    return variables, changed


def limited(obj: Array, now: EpochValues, limits: BandLimits) -> Array:
    """Band-limit the object; with ``phase_only_obj`` only its phase, and the amplitude is kept."""
    if not now["phase_only_obj"]:
        return limits.limit("obj", obj)
    xp = array_module(obj)
    return (abs(obj) * xp.exp(1j * limits.limit("obj", xp.angle(obj)))).astype(obj.dtype)


def _widths(value: Any) -> tuple[float, ...] | None:
    """Standard deviations of a filter; one number is that of all axes, as SciPy understands it; zeros are none."""
    widths = np.broadcast_to(value, 3 if np.ndim(value) == 0 else len(value))
    return tuple(float(width) for width in widths) if widths.any() else None


def _apply(
    variables: Variables, steps: tuple[tuple[str, bool, str, Callable[[Array], Array]], ...]
) -> tuple[Variables, list[str]]:
    changed = []
    for name, asked, block, change in steps:
        if not asked:
            continue
        old = variables.block(block)
        # edits may return float64 or complex128; blocks keep their precision
        new = array_module(old).asarray(change(old)).astype(old.dtype)
        if _differs(old, new):
            variables = variables.replace({block: new})
            changed.append(name)
    return variables, changed


def _differs(old: Array, new: Array) -> bool:
    """Whether two arrays differ by more than rounding (and than the 1e-10 below which a pixel is black)."""
    least = max(100 * float(np.finfo(old.real.dtype).eps), _SAME)
    return bool(abs(new - old).max() > least * abs(old).max())


def moved_scan(
    variables: Variables, scan: Scan, now: EpochValues, setup: Setup
) -> tuple[Variables, Scan, list[str]]:
    """Close the gaps of a torn scan (``puzzle_positions``), and move crop origins that are too far from their
    positions, extending the object where needed (``dynamically_resize_yx_object``)."""
    changed = []
    window, limit = setup.grid.shape, now["dynamically_resize_yx_object"]
    if now["puzzle_positions"]:
        scan_size = setup.settings["scan_size"]
        assert scan_size is not None
        rows, columns = (int(n) for n in scan_size)
        solved = by_scan.puzzle(variables.positions, (rows, columns))
        if solved is not None:
            # the object is warped along, so that every pattern sees what it saw before
            obj = by_scan.warped(variables.obj, variables.positions, solved.positions, window)
            variables = variables.replace({"positions": solved.positions, "obj": obj})
            whole = np.round(to_host(solved.positions)).astype(np.int64)
            scan = _with_corners(scan, whole)
            variables, scan = _with_room(variables, scan, window, 0.0) or (variables, scan)
            changed.append("puzzle_positions")
    moved = _with_room(variables, scan, window, limit) if limit > 0 else None
    if moved is not None:
        variables, scan = moved
        changed.append("dynamically_resize_yx_object")
    return variables, scan, changed


def _with_room(
    variables: Variables, scan: Scan, window: tuple[int, int], limit: float
) -> tuple[Variables, Scan] | None:
    """New crop origins when a position is off by ``limit``, and an object with room for the patches; None when nothing
    changes.

    Patches outside the object belong to patterns that are not used: they are only shifted along.
    """
    n_rows = len(variables.positions)
    old = scan.crop_origins[:n_rows]
    # (N, 2) first pixel after each patch
    ends = old + np.array(window)
    inside = np.flatnonzero(((old >= 0) & (ends <= np.array(variables.obj.shape[-2:]))).all(axis=1))
    if len(inside) < n_rows and limit == 0:  # puzzle_positions has just moved all of them
        inside = np.arange(n_rows)
    xp = array_module(variables.positions)
    chosen = xp.asarray(inside)
    resized = by_scan.resized(variables.obj, variables.positions[chosen], old[inside], window, limit)
    if resized is None:
        return None
    crop_origins = old + resized.before
    # all origins shift with the rows and columns that were added; those in use are rounded anew
    crop_origins[inside] = to_host(resized.crop_origins)
    positions = variables.positions + xp.asarray(resized.before)
    positions[chosen] = resized.positions
    ny, nx = resized.obj.shape[-2:]
    # the starting positions shift with the object, so that reset_positions stays right
    placed = Scan(scan.positions + resized.before, scan.crop_origins, (ny, nx), scan.moved + resized.before)
    return variables.replace({"obj": resized.obj, "positions": positions}), _with_corners(
        placed, crop_origins
    )


def _with_corners(scan: Scan, crop_origins: np.ndarray) -> Scan:
    """The scan with other crop origins; a single row holds for all patterns."""
    # (1 or N, 2) -> (N, 2)
    repeats = len(scan.crop_origins) // len(crop_origins)
    return dataclasses.replace(scan, crop_origins=np.repeat(crop_origins, repeats, axis=0))
