"""Results of tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BEST_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial.

    Attributes
    ----------
    number : index in the study, from 0
    state : "complete", "pruned", "failed", "running" or "waiting"
    value : objective; for a pruned trial, the last value; None = none
    values : values of the tuned names
    epochs : number of finished epochs
    seconds : duration
    worker : name of the worker
    note : why it failed, or which trial it repeats
    history : objective by number of finished epochs
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    epochs: int = 0
    seconds: float = 0.0
    worker: str = ""
    note: str = ""
    history: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search for the best parameters.

    Attributes
    ----------
    best_params : tuned names with their best values; empty if no trial was completed
    best_value : objective of the best trial, or None
    best_trial : number of the best trial, or None
    trials : all trials of the study, of all workers
    params : complete parameters with the best values, for ``pypty.run``
    objective : name of the minimised quantity
    importances : fraction of the objective's variation that each name explains (sum 1); empty with too few trials
    folder : output folder, or None
    stop_reason : why this worker stopped
    """

    best_params: Mapping[str, Any]
    best_value: float | None
    best_trial: int | None
    trials: tuple[TrialRecord, ...]
    params: Mapping[str, Any]
    objective: str
    importances: Mapping[str, float]
    folder: Path | None
    stop_reason: str

    @property
    def completed(self) -> tuple[TrialRecord, ...]:
        """Completed trials, the best first."""
        done = [item for item in self.trials if item.state == "complete" and item.value is not None]
        return tuple(
            sorted(done, key=lambda item: (item.value, item.number))
        )  # the earlier of equal trials first

    def table(self, n_best: int = _BEST_SHOWN) -> str:
        """Table of the best trials, one line each."""
        best = self.completed[:n_best]
        names = list(dict.fromkeys(name for item in best for name in item.values))
        rows = [["trial", self.objective, *names, "epochs"]]
        for item in best:
            values = [short(item.values[name], name) if name in item.values else "" for name in names]
            rows.append([str(item.number), f"{item.value:.5f}", *values, str(item.epochs)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        counts = ", ".join(
            f"{sum(item.state == state for item in self.trials)} {state}"
            for state in ("complete", "pruned", "failed", "running", "waiting")
            if any(item.state == state for item in self.trials)
        )
        if not best:
            lines = ["no trial was completed"]
        where = f"\nbest parameters: {self.folder / 'best.yaml'}" if self.folder and best else ""
        return (
            "\n".join([*lines, f"{len(self.trials)} trials ({counts}); stopped: {self.stop_reason}"]) + where
        )

    def __repr__(self) -> str:
        best = (
            ", ".join(f"{name} = {short(value, name)}" for name, value in self.best_params.items()) or "none"
        )
        return f"Study({len(self.trials)} trials, best {self.objective} {self.best_value}, {best})"


def short(value: Any, name: str = "") -> str:
    """A value in a table or file name; learning rates in scientific notation."""
    if isinstance(value, float):
        return f"{value:.1e}" if name.endswith("lr") else f"{value:.4g}"
    return str(value)
