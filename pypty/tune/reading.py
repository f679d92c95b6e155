"""Convert Optuna's study to records of PyPty."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pypty.tune.layout import SearchPlan
from pypty.tune.names import with_values
from pypty.tune.optional import load_optuna, quiet
from pypty.tune.results import Study, TrialRecord

_ENOUGH = 4
"""Number of completed trials needed for meaningful importances."""


def values_of(plan: SearchPlan, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Values by tuned name, from the values in the storage."""
    known = {item.name: item for item in plan.ranges}
    return {name: known[name].value(value) if name in known else value for name, value in stored.items()}


def records_of(study: Any, plan: SearchPlan) -> tuple[TrialRecord, ...]:
    """Records of all trials."""
    return tuple(_record(trial, plan) for trial in study.get_trials(deepcopy=False))


def _record(trial: Any, plan: SearchPlan) -> TrialRecord:
    states = load_optuna().trial.TrialState
    names = {
        states.COMPLETE: "complete",
        states.PRUNED: "pruned",
        states.FAIL: "failed",
        states.RUNNING: "running",
        states.WAITING: "waiting",
    }
    attributes = trial.user_attrs
    history = dict(trial.intermediate_values)
    value = trial.value if trial.state == states.COMPLETE else None
    if trial.state == states.PRUNED and history:  # Optuna stores no final value for pruned trials
        value = history[max(history)]
    notes = [str(attributes["error"])] if "error" in attributes else []
    if "retry of" in attributes:
        notes.append(f"repeats trial {attributes['retry of']}")
    return TrialRecord(
        number=trial.number,
        state=names[trial.state],
        value=value,
        values=values_of(plan, trial.params),
        epochs=int(attributes.get("epochs", 0)),
        seconds=trial.duration.total_seconds() if trial.duration is not None else 0.0,
        worker=str((attributes.get("worker") or {}).get("name", "")),
        note="; ".join(notes),
        history=history,
    )


def study_of(
    study: Any, plan: SearchPlan, params: Mapping[str, Any], folder: Path | None, reason: str
) -> Study:
    """The current state of the search."""
    trials = records_of(study, plan)
    done = [item for item in trials if item.state == "complete" and item.value is not None]
    best = min(done, key=lambda item: (item.value, item.number), default=None)
    values = dict(best.values) if best else {}
    return Study(
        best_params=values,
        best_value=best.value if best else None,
        best_trial=best.number if best else None,
        trials=trials,
        params=best_params(params, values, plan),
        objective=plan.objective,
        importances=_importances(study, len(done)),
        folder=folder,
        stop_reason=reason,
    )


def best_params(params: Mapping[str, Any], values: Mapping[str, Any], plan: SearchPlan) -> dict[str, Any]:
    """The parameters with these values, without ``tune``."""
    out = with_values({name: value for name, value in params.items() if name != "tune"}, values)
    optimizer = values.get("optimizer")
    options = next((item.options for item in plan.ranges if item.name == "optimizer"), {})
    if isinstance(optimizer, str) and optimizer in options:
        out["optimizer_options"] = options[optimizer]
    return out


def _importances(study: Any, n_completed: int) -> dict[str, float]:
    """Importance of each name by PED-ANOVA; empty if it cannot be computed."""
    if n_completed < _ENOUGH:
        return {}
    importance = load_optuna().importance
    try:
        with quiet():
            importances = importance.get_param_importances(
                study, evaluator=importance.PedAnovaImportanceEvaluator()
            )
    except (ValueError, RuntimeError, ImportError, ZeroDivisionError):
        return {}
    return {str(name): float(value) for name, value in importances.items()}
