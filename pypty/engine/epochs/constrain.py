"""Constraints at the end of an epoch (parameter ``constraints``), and their effect on gradient and history."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Array
from pypty.constraints.projections import OF_OBJECT, ProjectionContext, acts, apply_projections, differs
from pypty.engine.epochs.edits import limited
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.model.parametrization import BandLimits
from pypty.model.step_filters import STEP_FILTERS
from pypty.params.schema.values import EpochValues


def starting_probe_power(setup: Setup, state: State) -> float:
    """sum |probe|^2 over all modes at the start of the run, also in a run that was resumed."""
    # a resumed probe has been refined already: the power is that of a new start
    fresh = state.epoch == setup.settings.first_epoch
    return probe_power((state.variables if fresh else setup.variables()).probe)


def probe_power(probe: Array) -> float:
    """sum |probe|^2 over all modes."""
    return float((abs(probe) ** 2).sum(dtype=np.float64))


def constrain(
    state: State, now: EpochValues, setup: Setup, limits: BandLimits, probe_power: float
) -> tuple[str, ...]:
    """Apply the constraints after the update of epoch ``state.epoch``; return the names of those that changed the
    point.

    After a change gradient and history are dropped. If probe modes were made orthogonal and nothing else changed, they
    are rotated with the modes.

    With lbfgs the linear constraints filter its steps instead (model/step_filters.py). Clipping creates frequencies
    outside the band limit; those of the previous epoch are removed before the object is constrained again.
    """
    table, settings = now["constraints"], setup.settings
    skip = STEP_FILTERS if now["optimizer"] == "lbfgs" else ()
    acting = [name for name, record in table.items() if name not in skip and acts(record, state.epoch)]
    if not acting:
        return ()
    variables, changed = state.variables, []
    if any(name in OF_OBJECT for name in acting):
        obj = limited(variables.obj, now, limits)
        if differs(variables.obj, obj):
            variables, changed = variables.replace({"obj": obj}), ["band limit"]
    size = settings["scan_size"]
    context = ProjectionContext(
        setup.grid.wavelength,
        setup.grid.pixel_size_A,
        None if size is None else (int(size[0]), int(size[1])),
        probe_power,
        setup.scan.positions,
    )
    done = apply_projections(variables, table, state.epoch, context, skip)
    changed += done.changed
    if changed:
        state.take(done.variables, f"constraints: {', '.join(changed)}")
    # an orthogonal rotation of modes leaves the intensities alone, so L-BFGS can keep its history
    elif done.rotation is not None:
        state.make_modes_orthogonal("ortho_pmode")
    return tuple(changed)
