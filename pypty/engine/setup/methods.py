"""Checks of the optimiser's parameters: contradicting options, and keys without effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pypty.errors import ParameterError
from pypty.model.blocks import SWITCHES
from pypty.objective.regularizers import REGULARIZERS
from pypty.optimize.first_order import FirstOrder, unused_options
from pypty.params.checks.combinations import epochs_to_check, optimizers
from pypty.params.report import Report
from pypty.params.schedule import Constant
from pypty.params.schema import SCHEMA
from pypty.params.schema.batches import BATCHES, FOR_BATCHES, FOR_FIRST_ORDER, NOT_FIRST_ORDER
from pypty.params.settings import Settings

_OF_OBJECT = ("obj", "obja", "objp")


def check_methods(settings: Settings, report: Report, first: int | None = None) -> None:
    """Check that every method accepts its options, at every epoch from ``first`` on."""
    if any(report.has(key) for key in ("optimizer", "optimizer_options")):
        return
    for epoch, name, options in _methods(settings, first):
        try:
            FirstOrder(name, options)
        except ParameterError as error:
            report.add("optimizer_options", f"at epoch {epoch}: {error}")
            return


def idle_keys(settings: Settings) -> list[str]:
    """Warnings about given keys that no optimiser of the run uses."""
    used = optimizers(settings)
    methods, messages = used - set(NOT_FIRST_ORDER), []
    if not methods:
        messages += _idle(settings, _used(FOR_FIRST_ORDER), "no epoch uses a first-order method (optimizer)")
    if used == {"lbfgs"} and settings["warmup_epochs"] == 0:
        messages += _idle(settings, _used(FOR_BATCHES), "optimizer is lbfgs, and warmup_epochs 0")
    if used == {"preconditioned"}:
        messages += _left_out(settings)
    if methods:
        messages += _options_of_others(settings) + _rates_of_nothing(settings)
    scheduler = settings["lr_scheduler"]
    if scheduler is not None and scheduler["name"] == "multistep" and not len(scheduler["milestones"]):
        messages.append("lr_scheduler: 'multistep' without milestones has no effect")
    return messages + _never(settings)


def _used(when: str) -> tuple[str, ...]:
    """Parameters of batches and methods that have an effect under this condition only."""
    return tuple(parameter.name for parameter in BATCHES if parameter.when == when)


def _never(settings: Settings) -> list[str]:
    """Warnings about entries that end before they begin."""
    messages = []
    for key in ("learning_rates", "constraints"):
        schedule = settings.schedules[key]
        for name, entry in schedule.value.items() if isinstance(schedule, Constant) else ():
            if entry["end"] is not None and entry["end"] <= entry["start"]:
                messages.append(
                    f"{key}: {name!r} has no effect: it ends at epoch {entry['end']}, and starts at {entry['start']}"
                )
    return messages


def _methods(settings: Settings, first: int | None = None) -> list[tuple[int, str, Mapping[str, Any]]]:
    """First epoch, name and options of every first-order method of the run, each pair once."""
    names, options = (settings.schedules[key] for key in ("optimizer", "optimizer_options"))
    epochs = epochs_to_check(settings, first)
    constant = isinstance(names, Constant) and isinstance(options, Constant)
    methods: dict[tuple[str, str], tuple[int, str, Mapping[str, Any]]] = {}
    for epoch in epochs[:1] if constant else epochs:
        name = names.at(epoch)
        if name not in NOT_FIRST_ORDER:
            chosen = options.at(epoch)
            methods.setdefault((name, repr(chosen)), (epoch, name, chosen))
    return list(methods.values())


def _idle(settings: Settings, keys: tuple[str, ...], why: str) -> list[str]:
    return [
        f"{key} has no effect: {why}"
        for key in keys
        if key in settings.set_by_user and not SCHEMA[key].is_neutral(_constant(settings, key))
    ]


def _constant(settings: Settings, key: str) -> Any:
    """The value of a key, or of its schedule if it is constant."""
    return settings.value(key) if key in settings.fixed else getattr(settings.schedules[key], "value", True)


def _options_of_others(settings: Settings) -> list[str]:
    methods = _methods(settings)
    unused = [set(unused_options(name, options)) for _, name, options in methods]
    names = ", ".join(sorted({name for _, name, _ in methods}))
    return [
        f"optimizer_options: {key!r} has no effect: it is not an option of {names}"
        for key in sorted(set.intersection(*unused) if unused else ())
    ]


def _rates_of_nothing(settings: Settings) -> list[str]:
    """Warnings about rates of blocks that are never refined, or not in this parametrisation."""
    schedule = settings.schedules["learning_rates"]
    if not isinstance(schedule, Constant):
        return []
    # defaults are no mistake: only rates that the user changed are reported
    usual = SCHEMA["learning_rates"].kind.convert({})
    changed = [name for name, entry in schedule.value.items() if entry != usual[name] and entry["lr"] > 0]
    switches = {block: key for key, block in SWITCHES.items()} | {"probe_abs": "update_probe"}
    switches |= dict.fromkeys(_OF_OBJECT, "update_obj")
    messages = [
        f"learning_rates: {name!r} has no effect: {switches[name]} is off"
        for name in changed
        if not settings.may_be_on(switches[name])
    ]
    form, phase = (settings.schedules[key] for key in ("obj_parametrization", "phase_only_obj"))
    if isinstance(form, Constant) and isinstance(phase, Constant):
        moved_parts = ("obj",) if form.value == "complex" else ("obja", "objp")
        moved_parts = ("objp",) if phase.value else moved_parts
        messages += [
            f"learning_rates: {name!r} has no effect: the object is moved as {' and '.join(moved_parts)}"
            for name in changed
            if name in _OF_OBJECT and name not in moved_parts and settings.may_be_on("update_obj")
        ]
    return messages


def _left_out(settings: Settings) -> list[str]:
    """Warnings about keys that have no effect on preconditioned steps."""
    others = [key for key, block in SWITCHES.items() if block not in ("obj", "probe")]
    keys = [
        key for key in (*others, *REGULARIZERS) if key in settings.set_by_user and settings.may_be_on(key)
    ]
    return [
        f"{key} has no effect: preconditioned steps move object and probe by the data alone" for key in keys
    ]
