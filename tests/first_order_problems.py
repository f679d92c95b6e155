"""Small runs of first-order methods, shared by the tests."""

from __future__ import annotations

from typing import Any

from problems import small_params

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.output.loss_log import EpochRecord


def first_order(**changes: Any) -> dict[str, Any]:
    """Four epochs of Adam, by amplitude and phase, five patterns a step."""
    adam = {"optimizer": "adam", "obj_parametrization": "amplitude_phase", "batch_size": 5, "epoch_max": 4}
    return small_params(**{**adam, **changes})


def done(**changes: Any) -> Reconstruction:
    """After all epochs."""
    setup = prepare(first_order(**changes))
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    for _ in run.epochs():
        pass
    setup.close()
    return run


def records(**changes: Any) -> list[EpochRecord]:
    return done(**changes).state.records


WANDERING: dict[str, Any] = {
    "update_probe_pos": True,
    "dynamically_resize_yx_object": 0.5,
    "learning_rates": {"positions": 0.3},
}


ADAM = {"optimizer": "adam", "obj_parametrization": "amplitude_phase", "batch_size": 8}
