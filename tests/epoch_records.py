"""Records of epochs as a run writes them, shared by the tests."""

from __future__ import annotations

from typing import Any

from pypty.output.loss_log import EpochRecord


def record(epoch: int, **changes: Any) -> EpochRecord:
    """An epoch of Adam."""
    known: dict[str, Any] = {
        "epoch": epoch,
        "time_s": float(epoch),
        "loss": 10.0 / (1 + epoch),
        "sse": 1.0,
        "first_step": 1.0,
        "step": 0.5,
        "evaluations": 1,
        "slope": -1.0,
        "new_slope": 0.0,
        "optimizer": "adam",
        "learning_rates": {"obj": 1e-2, "probe": 1e-3},
        "validation": 5.0,
        "mean_tilt_mrad": (0.1 * epoch, 0.2),
        "mean_slice_distance_A": 4.0,
    }
    return EpochRecord(**{**known, **changes})


RECORDS = [
    record(0, terms={"a": 1.0}),
    record(1, convergence={"obja_bg": 0.1, "probe": 0.3}, update_norms={"obj": 2.0}),
    record(2, validation=None, learning_rates={"obj": 5e-3}, optimizer="lbfgs"),
    record(3, convergence={"obja_bg": 0.05, "probe": 0.2}),
]
