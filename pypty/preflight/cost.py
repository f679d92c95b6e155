"""Estimated cost of the reconstruction: memory from its plan, time from an evaluation of a few patterns."""

from __future__ import annotations

import dataclasses

from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.epochs.timing import evaluate_first, evaluation_time
from pypty.engine.setup.memory_plan import size_text
from pypty.engine.setup.scaling import EVALUATIONS
from pypty.errors import PyptyError
from pypty.preflight.facts import Facts
from pypty.preflight.item import FAIL, Item, number, worse_above

_PATIENCE_H = 24.0  # hours above which the time is a warning
_GIB = 2**30


def cost_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Expected memory and time."""
    settings = facts.setup.settings
    items = [_memory_item(facts)]
    epochs = settings["epoch_max"] - settings["epoch_prev"]
    if epochs < 1:
        return items, ["time: the run has no epochs"]
    try:
        seconds = epoch_seconds(facts)
    except PyptyError as error:
        advice = f"Use {_single(facts)}a lower compute_batch or memory_saturation."
        text = f"An evaluation of a few patterns failed: {error}"
        return [
            *items,
            Item(
                name="time",
                status=FAIL,
                value="not measured",
                unit="",
                limit="must run",
                meaning=text,
                what_to_do=advice,
            ),
        ], []
    total = EVALUATIONS * seconds * epochs
    value, unit = _readable(total)
    items.append(
        Item(
            name="time",
            status=worse_above(total, 3600 * _PATIENCE_H),
            value=f"about {number(value)}",
            unit=unit,
            limit=f"warn above {_PATIENCE_H:g} h",
            meaning=(
                f"{epochs} epochs of about {number(seconds)} s each on {facts.setup.plan.device}{_precision(facts)}, "
                f"from an evaluation of some patterns, times {EVALUATIONS:g} for line searches; right to a factor of "
                "two."
            ),
            what_to_do=f"Use a GPU, {_single(facts)}fewer slices or modes, data_bin, or a lower epoch_max.",
        )
    )
    return items, []


def _memory_item(facts: Facts) -> Item:
    plan = facts.setup.plan
    again = f" Only waves at every {plan.keep_every} slices are kept." if plan.keep_every > 1 else ""
    data = (
        "kept on the GPU" if plan.resident_on_device else "kept" if plan.resident else "read in every epoch"
    )
    return Item(
        name="memory",
        status=worse_above(plan.total, max(plan.limit, 1)),
        value=plan.total / _GIB if plan.total > _GIB / 10 else plan.total / 2**20,
        unit="GiB" if plan.total > _GIB / 10 else "MiB",
        limit=f"warn above {number(plan.limit / _GIB)} GiB, memory_saturation of the free memory",
        meaning=f"Planned on {plan.device}{_precision(facts)}: {plan.batch} patterns at a time, data {data}.{again}"
        f"{_later(plan.in_double)}",
        what_to_do=f"Use {_single(facts)}a lower hist_length, or fewer slices.",
    )


def _precision(facts: Facts) -> str:
    return f" in {facts.setup.plan.precision} precision"


def _single(facts: Facts) -> str:
    """Advice to compute in single precision, unless that is done already."""
    return "" if facts.setup.plan.precision == "single" else "default_dtype='single', "


def _later(in_double: int | None) -> str:
    """What double precision needs, in which the run may go on."""
    if in_double is None:
        return ""
    if not in_double:
        return " Double precision does not fit: the run ends where single precision stops it."
    return f" If it goes on in double precision, {size_text(in_double)}."


def epoch_seconds(facts: Facts) -> float:
    """Seconds of one evaluation of all patterns, extrapolated from a few, which are read from the source."""
    plan = dataclasses.replace(facts.setup.plan, resident=False, resident_on_device=False)
    setup = dataclasses.replace(facts.setup, plan=plan)
    now = setup.settings.first()
    problem = Reconstruction(
        setup, State(variables=facts.variables, epoch=setup.settings.first_epoch)
    ).problem(now)
    n_all = len(problem.indices)
    return evaluation_time(lambda n: evaluate_first(problem, n), n_all, plan.n_threads).seconds(n_all)


def _readable(seconds: float) -> tuple[float, str]:
    if seconds < 100:
        return seconds, "s"
    return (seconds / 60, "min") if seconds < 6000 else (seconds / 3600, "h")
