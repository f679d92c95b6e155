"""Read a parameter dict, and report all problems at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pypty.errors import ParameterError
from pypty.params.checks.combinations import check_combinations, check_epochs
from pypty.params.checks.positions import check_positions
from pypty.params.kinds import Choice, brief, complaint
from pypty.params.masked import unmasked
from pypty.params.parameter import NO_EFFECT, Parameter
from pypty.params.report import Report
from pypty.params.schedule import Constant, Schedule, make_schedule
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings

_MOST_UNKNOWN = 20
"""Unknown keys that are reported one by one: the search for similar names takes time."""


def read_parameters(params: Mapping[str, Any], report: Report) -> Settings:
    """Check every key on its own and against the others.

    Problems are added to ``report``. In the returned settings the default replaces every bad value, so that later
    checks can run and report their problems as well.

    Raises
    ------
    ParameterError
        ``params`` is not a mapping.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(
            f"given {brief(params)} as parameters, expected a dict, or the path of a preset file"
        )
    params = unmasked(params, report)
    fixed, schedules = read_keys(params, report)
    settings = Settings(
        MappingProxyType(fixed),
        MappingProxyType(schedules),
        frozenset(name for name in params if name in SCHEMA),
        tuple(report.warnings),
    )
    check_epochs(settings, report)
    check_combinations(settings, report)
    check_positions(settings, report)
    return settings


def read_keys(params: Mapping[str, Any], report: Report) -> tuple[dict[str, Any], dict[str, Schedule]]:
    """Check every key on its own: fixed values and schedules, with the default in place of a bad value."""
    _find_unknown_keys(params, report)
    fixed: dict[str, Any] = {}
    schedules: dict[str, Schedule] = {}
    for name, parameter in SCHEMA.items():
        given = name in params and not _is_left_open(parameter, params[name])
        value = _screen(parameter, params[name], report) if given else parameter.default
        if parameter.per_epoch:
            schedules[name] = _schedule(parameter, value, report)
        else:
            fixed[name] = _fixed(parameter, value, report)
    return fixed, schedules


def _is_left_open(parameter: Parameter, value: Any) -> bool:
    """Whether a value is None for a text, an array or a table, of which None can only mean that it is not given."""
    left_open = isinstance(parameter.default, (str, tuple, list, Mapping)) and not isinstance(
        parameter.kind, Choice
    )
    return value is None and left_open and parameter.kind.problem(None) is not None


def _find_unknown_keys(params: Mapping[str, Any], report: Report) -> None:
    unknown = [key for key in params if key not in SCHEMA]
    if len(unknown) > _MOST_UNKNOWN:
        report.problems.append(
            f"{len(unknown)} keys are not parameters; the first {_MOST_UNKNOWN} are listed here. Is this a file of "
            "parameters?"
        )
    for key in unknown[:_MOST_UNKNOWN]:
        if not isinstance(key, str):
            report.problems.append(f"{key!r} is not a parameter name; names are strings")
            continue
        near = difflib.get_close_matches(key, SCHEMA, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r} ({SCHEMA[near[0]].meaning})" if near else "no known key is similar"
        report.add(key, f"unknown parameter; {hint}")


def _screen(parameter: Parameter, value: Any, report: Report) -> Any:
    """Warn about keys without effect; returns the value to use."""
    if parameter.status == NO_EFFECT:
        if not callable(value) and parameter.kind.problem(value):
            return value  # refused below
        if callable(value) or parameter.kind.convert(value) != parameter.default:
            report.warnings.append(f"{parameter.name} = {brief(value)} has no effect: {parameter.meaning}")
        return parameter.default
    return value


def _fixed(parameter: Parameter, value: Any, report: Report) -> Any:
    if callable(value) and not hasattr(value, "shape") and not isinstance(value, type):
        report.add(
            parameter.name,
            f"given a function, but this parameter cannot vary with the epoch; expected "
            f"{parameter.kind.describe()}",
        )
        value = parameter.default
    problem = parameter.kind.problem(value)
    if problem:
        text = complaint(parameter.kind, problem, parameter.unit)
        report.add(parameter.name, f"{text}. ({parameter.meaning})")
        value = parameter.default
    return parameter.kind.convert(value)


def _schedule(parameter: Parameter, value: Any, report: Report) -> Schedule:
    try:
        return make_schedule(parameter, value)
    except ParameterError as error:
        text = str(error)
        report.problems.append(text if text.startswith(parameter.name) else f"{parameter.name}: {text}")
        return Constant(parameter.kind.convert(parameter.default))
