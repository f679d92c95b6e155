"""What an epoch records, and the decision to stop a run that no longer improves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pypty.backend.array import Array, array_module, to_host
from pypty.data.scan import Scan
from pypty.engine.epochs.convergence import ConvergenceMonitor, illuminated_area
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.model.blocks import Variables
from pypty.output.loss_log import EpochRecord
from pypty.params.settings import Settings

_DEFAULT_EVERY = 10


def first_look(settings: Settings, setup: Setup, state: State) -> dict[str, Array] | None:
    """The first snapshot of the convergence monitor, at the present point; None if it is off."""
    asked = settings["convergence_monitor"]
    if asked is None:
        return None
    monitor = _monitor(asked, setup, None)
    _observe(monitor, state.variables)
    return monitor.previous


def watch(settings: Settings, setup: Setup, state: State, record: EpochRecord) -> dict[str, Array] | None:
    """Update the convergence monitor: write its metrics to the record when they are due, and return the snapshot to
    compare with. After crop origins were moved a new snapshot is made, without a comparison."""
    asked = settings["convergence_monitor"]
    # a resumed run may watch other tensors
    if asked is None or state.snapshot is None or set(state.snapshot) != set(asked["tensors"]):
        return first_look(settings, setup, state)
    every = asked["every"] or settings["save_iters"] or _DEFAULT_EVERY
    if (record.epoch + 1) % every:
        return state.snapshot
    monitor = _monitor(asked, setup, state.snapshot)
    record.convergence = _observe(monitor, state.variables)
    return monitor.previous


def _monitor(
    asked: Mapping[str, Any], setup: Setup, snapshot: Mapping[str, Array] | None
) -> ConvergenceMonitor:
    return ConvergenceMonitor(
        illuminated_area(setup.scan.crop_origins, setup.grid.shape),
        setup.grid.pixel_size_A,
        asked["tensors"],
        tuple(asked["percentile_range"]),
        snapshot,
    )


def _observe(monitor: ConvergenceMonitor, variables: Variables) -> dict[str, float]:
    xp = array_module(variables.obj)
    return monitor.observe(abs(variables.obj), xp.angle(variables.obj), variables.probe, variables.positions)


def sees_the_same(old: Scan, new: Scan, window: tuple[int, int]) -> bool:
    """Whether snapshots from before and after crop origins were moved can be compared."""
    areas = [illuminated_area(scan.crop_origins, window) for scan in (old, new)]
    return areas[0] == areas[1] and bool((old.moved == new.moved).all())


def describe(variables: Variables, record: EpochRecord) -> None:
    """Means of slice distances and tilts after the epoch."""
    if variables.n_slices > 1:
        record.mean_slice_distance_A = float(to_host(variables.slice_distances).mean())
    if variables.tilts is not None:
        # (N, 6) rad -> mean inside tilt [y, x], mrad
        y, x = 1e3 * to_host(variables.tilts)[:, 2:4].mean(axis=0)
        record.mean_tilt_mrad = (float(y), float(x))


def no_better(settings: Settings, records: Sequence[EpochRecord]) -> str:
    """Why the run stops: the loss has not fallen for ``stop_patience`` epochs. "" = go on.

    Only epochs with the same held-out patterns, whose losses are computed in the same way, can be compared: those since
    the optimiser last changed. Improvements are relative to the fall of the loss so far, not to its size, which for
    ``ml`` contains a large constant.
    """
    patience, tolerance = settings["stop_patience"], settings["stop_tolerance"]
    if patience == 0 or not records:
        return ""
    last = records[-1].optimizer
    changed = [number for number, record in enumerate(records) if record.optimizer != last]
    comparable = records[changed[-1] + 1 if changed else 0 :]
    held_out = records[-1].validation is not None
    values = [record.validation if held_out else record.loss for record in comparable]
    first = records[0].validation if held_out else comparable[0].loss
    best, since = np.inf, 0
    for count, value in enumerate(values):
        # how far the loss has fallen so far: the scale of an improvement
        fall = 0.0 if first is None or np.isinf(best) else max(first - best, 0.0)
        if value is not None and value < best - tolerance * fall:
            best, since = value, count
    waited = len(values) - 1 - since
    if waited < patience:
        return ""
    what = "the loss of the held-out patterns" if held_out else "the loss"
    return (
        f"{what} has not improved by {100 * tolerance:g} % of its fall so far for {waited} epochs (best {best:.6g} "
        f"in epoch {comparable[since].epoch}; stop_patience = {patience})"
    )
