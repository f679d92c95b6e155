"""Learning rates and their kin against the other parameters."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pypty.params.report import Report
from pypty.params.schedule import Constant
from pypty.params.schema_batches import LEARNING_RATES
from pypty.params.settings import Settings

_NO_RATES = ("lbfgs", "preconditioned")
_ONLY_FIRST_ORDER = (
    "learning_rates",
    "lr_scheduler",
    "optimizer_options",
    "grad_accumulation",
    "lazy_moments",
)
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"complex": ("obj",), "amplitude_phase": ("obja", "objp"), "phase": ("objp",)}
)


def check_rates(settings: Settings, report: Report, epochs: range) -> None:
    """Intervals that hold an epoch, and decays below 1."""
    for name in ("learning_rates", "constraints"):
        schedule = settings.schedules[name]
        if report.has(name):
            continue
        for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
            empty = [
                (key, entry["start"], entry["end"])
                for key, entry in schedule.at(epoch).items()
                if entry["end"] is not None and entry["end"] <= entry["start"]
            ]
            if empty:
                key, start, end = empty[0]
                report.add(
                    name, f"'{key}': 'end' given as {end}, expected more than 'start', which is {start}"
                )
                break
    options = settings.schedules["optimizer_options"]
    if not report.has("optimizer_options") and isinstance(options, Constant):
        betas = options.at(0)["betas"]
        if betas is not None and (betas >= 1).any():
            report.add(
                "optimizer_options", f"'betas': given {betas.tolist()}, expected two numbers >= 0 and < 1"
            )


def rates_without_effect(settings: Settings) -> dict[str, tuple[bool, str]]:
    """Keys that only first-order methods read, and why they do nothing."""
    optimizer = settings.schedules["optimizer"]
    idle = isinstance(optimizer, Constant) and optimizer.value in _NO_RATES
    why = f"optimizer is {optimizer.at(0)}; first-order methods, like adam, read it" if idle else ""
    return dict.fromkeys(_ONLY_FIRST_ORDER, (idle, why))


def idle_rates(given: Any, settings: Settings) -> list[str]:
    """Warnings about rates of the object in another parametrisation than it has.

    Parameters
    ----------
    given : ``learning_rates`` as the user wrote it
    """
    form, phase_only = settings.schedules["obj_parametrization"], settings.schedules["phase_only_obj"]
    table = settings.schedules["learning_rates"]
    if not all(isinstance(one, Constant) for one in (form, phase_only, table)) or not isinstance(
        given, Mapping
    ):
        return []
    name = "phase" if phase_only.at(0) else str(form.at(0))
    meant, usual = table.at(0), LEARNING_RATES.convert({})  # params.yaml has all of them
    idle = [
        key
        for key in ("obj", "obja", "objp")
        if key in given and key not in _PARTS[name] and meant[key] != usual[key]
    ]
    reason = "phase_only_obj is on" if phase_only.at(0) else f"obj_parametrization is {name!r}"
    return [
        f"learning_rates: {key!r} has no effect: {reason}; the object moves by {' and '.join(map(repr, _PARTS[name]))}"
        for key in idle
    ]
