"""Why a run ends before its last epoch: its loss falls no more, or no step can lower it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pypty.engine.epochs.observe import no_better
from pypty.engine.epochs.precision import stays_single
from pypty.engine.epochs.problem import refined_blocks
from pypty.engine.epochs.state import State
from pypty.engine.epochs.stuck import next_to_freeze
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

EPOCHS_AHEAD = 10_000
"""Epochs of which a schedule is asked at most."""


def why_stop(settings: Settings, state: State, precision: str) -> str:
    """Why the run ends after an epoch; "" = it goes on.

    Parameters
    ----------
    precision : of the waves
    """
    reason = no_better(settings, state.records)
    if reason:
        return reason
    if not state.is_stuck or state.epoch >= settings["epoch_max"]:
        return ""
    # being stuck ends the run only if the next epoch has nothing else to try
    follows = settings.at(state.epoch)
    blocks = refined_blocks(follows, state.variables, state.frozen)
    if blocks != state.records[-1].blocks:
        return ""
    if follows["freeze_stuck_blocks"] and next_to_freeze(blocks) is not None:
        return ""
    if not _is_settled(settings, state.epoch):
        return ""
    stuck = [
        state.monitor.told[name]
        for name in state.records[-1].blocks
        if name in state.monitor.told and name in state.monitor.still
    ]
    reason = "; ".join(stuck) or f"converged to the limit of {precision} precision"
    if stays_single(state.records):
        reason += "; double precision does not fit the memory"
    return f"no step along steepest descent decreases the loss: {reason}"


def _is_settled(settings: Settings, epoch: int) -> bool:
    """Whether all per-epoch values stay as in the last epoch; otherwise a later epoch may improve the loss."""
    first, last = epoch - 1, settings["epoch_max"]
    # only schedules can change later; fixed parameters cannot
    values: Mapping[str, object] = settings.at(epoch)
    varying = [item for item in settings.schedules.items() if not isinstance(item[1], Constant)]
    return all(
        np.array_equal(schedule.at(later), np.asarray(values[name]))
        for name, schedule in varying
        for later in range(first, min(last, first + EPOCHS_AHEAD))
    )
