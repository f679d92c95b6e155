"""The parameter ``tune``: tuned names, ranges and options. All problems are reported at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pypty.errors import ParameterError
from pypty.params.kinds import Anything, Choice, Flag, Kind, Number, Text, brief, optional
from pypty.params.nested import Field, Record
from pypty.params.report import Report
from pypty.tune.entries import near
from pypty.tune.names import components, find_target

OBJECTIVES = ("loss", "validation", "contrast")
_number = Number()
_positive = Number(low=0, open_low=True)
_count = Number(low=1, integer=True)

# fmt: off
LAYOUT = Record((
    Field("n_trials", 20, _count, "trials", "number of trials of this worker"),
    Field("max_trials", None, optional(_count), "trials", "stop when all workers together have finished this many"),
    Field("timeout_s", None, optional(_positive), "s", "start no trial after this time"),
    Field("objective", "loss", Choice(OBJECTIVES), "", "quantity to minimise"),
    Field("sampler", "TPE", Anything(), "", "how parameters are chosen"),
    Field("pruner", "Hyperband", Anything(), "", "which trials end early"),
    Field("storage", "sqlite:///tune.sqlite3", Text(), "", "where trials are stored"),
    Field("study_name", "study", Text(), "", "workers with the same name and storage work together"),
    Field("collate", True, Flag(), "", "write image and parameters of every trial"),
    Field("heartbeat_s", 60, Number(low=0, integer=True), "s", "interval of heartbeats in a database, 0 = none"),
    Field("parameters", {}, Anything(), "", "names and their ranges"),
))
"""The key ``tune``."""

PARAMETER = Record((
    Field("suggest", None, optional(Choice(("int", "float", "cat"))), "", "kind of value"),
    Field("low", None, optional(_number), "", "smallest value"),
    Field("high", None, optional(_number), "", "largest value"),
    Field("step", None, optional(_positive), "", "distance between values"),
    Field("log", False, Flag(), "", "uniform in the logarithm"),
    Field("choices", None, Anything(), "", "values"),
    Field("optim_configs", None, Anything(), "", "optimizer: optimizer_options of each choice"),
))
"""One entry of ``parameters``."""
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of one tuned name.

    Attributes
    ----------
    suggest : "int", "float" or "cat"
    choices : values of "cat"
    options : for the name "optimizer": optimizer_options of each choice
    """

    name: str
    suggest: str
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def labels(self) -> list[Any]:
        """The choices in types that a storage accepts."""
        return [choice if _is_scalar(choice) else json.dumps(choice) for choice in self.choices]

    def value(self, label: Any) -> Any:
        """The choice that a label stands for; numbers are returned unchanged."""
        return self.choices[self.labels.index(label)] if self.suggest == "cat" else label


@dataclass(frozen=True)
class SearchPart:
    """A sampler or pruner by name, with the arguments of its constructor."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """The checked ``tune``. Attributes are those of ``LAYOUT``."""

    n_trials: int
    max_trials: int | None
    timeout_s: float | None
    objective: str
    sampler: SearchPart
    pruner: SearchPart | None
    storage: str
    study_name: str
    collate: bool
    heartbeat_s: int
    ranges: tuple[Range, ...]


SAMPLERS = ("Random", "TPE", "GP", "CmaEs", "NSGAII", "NSGAIII", "Grid", "QMC", "BruteForce")
PRUNERS = ("Median", "Patient", "Percentile", "SuccessiveHalving", "Hyperband", "Threshold")


def read_plan(raw: Any, report: Report) -> SearchPlan | None:
    """Check the key ``tune``; None if it has a problem."""
    before = len(report.problems)
    if not isinstance(raw, Mapping) or not raw:
        report.add(
            "tune",
            f"given {brief(raw)}, expected {LAYOUT.describe()}; for example "
            "tune: {parameters: {C10: [-100, 100]}}",
        )
        return None
    values = {item.name: item.default for item in LAYOUT.fields}
    kinds = {item.name: item for item in LAYOUT.fields}
    for name, value in raw.items():
        if name not in kinds:
            report.add("tune", f"given {name!r}, which is not an entry of it{near(str(name), kinds)}")
        elif kinds[name].kind.problem(value):
            _complain(report, f"tune.{name}", kinds[name].kind.problem(value), kinds[name].kind)
        else:
            values[name] = kinds[name].kind.convert(value)
    sampler = read_part("tune.sampler", values.pop("sampler"), SAMPLERS, "Sampler", report)
    pruner = read_part("tune.pruner", values.pop("pruner"), (*PRUNERS, "None"), "Pruner", report)
    ranges = _read_ranges(values.pop("parameters"), report)
    if len(report.problems) > before or sampler is None or pruner is None:
        return None
    return SearchPlan(
        sampler=sampler, pruner=None if pruner.name == "None" else pruner, ranges=ranges, **values
    )


def read_part(key: str, part: Any, names: tuple[str, ...], ending: str, report: Report) -> SearchPart | None:
    """Read a sampler or pruner: a name, or {name, ...} with constructor arguments (or in ``configs``, as in PtyRAD)."""
    options = dict(part) if isinstance(part, Mapping) else {"name": part}
    name = str(options.pop("name", None)).removesuffix(ending)
    configs = options.pop("configs", None)
    if configs is not None and not isinstance(configs, Mapping):
        report.add(key, f"'configs': given {brief(configs)}, expected a dict of constructor arguments")
        return None
    if name not in names:
        report.add(key, f"given {brief(part)}, expected one of {', '.join(names)}{near(name, names)}, or a dict "
                   "{name: ..., and its arguments}")  # fmt: skip
        return None
    return SearchPart(name, MappingProxyType({**(configs or {}), **options}))


def _read_ranges(table: Any, report: Report) -> tuple[Range, ...]:
    if not isinstance(table, Mapping) or not table:
        report.add(
            "tune.parameters",
            f"given {brief(table)}, expected a dict of at least one name and its range, C10: [-100, 100]",
        )
        return ()
    ranges: dict[str, Range] = {}
    for name, entry in table.items():
        key = f"tune.parameters.{name}"
        for part in components(str(name)):
            try:
                range_ = _read_range(part, entry)
            except ParameterError as error:
                report.add(key, str(error))
                break
            if part in ranges:
                report.add(key, f"{part} is given twice")
            ranges[part] = range_
    return tuple(ranges.values())


def _read_range(name: str, raw: Any) -> Range:
    """One entry of ``parameters``; raises ParameterError with the problem."""
    target = find_target(name)
    entry = _written_out(raw)
    problem = PARAMETER.problem(entry)
    if problem:
        raise ParameterError(
            f"{problem}; expected {PARAMETER.describe()}, or [low, high], or a list of choices"
        )
    values = PARAMETER.convert(entry)
    suggest = values["suggest"] or (
        "cat" if values["choices"] is not None else "int" if target.whole else "float"
    )
    if suggest == "float" and target.whole:
        suggest = "int"  # its values are whole numbers
    range_ = _choices(name, values) if suggest == "cat" else _interval(name, suggest, values)
    checked = range_.choices if suggest == "cat" else (range_.low, range_.high)
    for value in checked:
        problem = target.problem(value)
        if problem:
            raise ParameterError(problem)
    return range_


def _written_out(raw: Any) -> Any:
    """Expand shorthands: [low, high] or [low, high, step] of numbers; any other list holds choices."""
    if not isinstance(raw, (list, tuple)):
        return raw
    if len(raw) in (2, 3) and all(_number.problem(item) is None for item in raw):
        return dict(zip(("low", "high", "step"), raw, strict=False))
    return {"choices": list(raw)}


def _choices(name: str, values: Mapping[str, Any]) -> Range:
    choices = values["choices"]
    if not isinstance(choices, (list, tuple)) or len(choices) == 0:
        raise ParameterError(f"choices: given {brief(choices)}, expected a list of values")
    if values["low"] is not None or values["high"] is not None:
        raise ParameterError("choices are given together with low or high; give only one of them")
    wrong = [choice for choice in choices if not _is_plain(choice)]
    if wrong:
        raise ParameterError(
            f"choices: given {brief(wrong[0])}, expected numbers, words, True, False, None or lists"
        )
    if name == "optimizer":
        choices = [choice.lower() if isinstance(choice, str) else choice for choice in choices]
    options = values["optim_configs"] or {}
    if not isinstance(options, Mapping) or (options and name != "optimizer"):
        raise ParameterError(
            "optim_configs must be a dict {optimizer: its optimizer_options}, and needs the name 'optimizer'"
        )
    lowered = {str(key).lower(): value for key, value in options.items()}
    strange = [key for key in lowered if key not in choices]
    if strange:
        raise ParameterError(
            f"optim_configs: {strange[0]!r} is not one of the choices{near(strange[0], choices)}"
        )
    # Choices may be lists, which are not hashable.
    distinct = [choice for place, choice in enumerate(choices) if choice not in choices[:place]]
    return Range(name=name, suggest="cat", choices=tuple(distinct), options=MappingProxyType(lowered))


def _interval(name: str, suggest: str, values: Mapping[str, Any]) -> Range:
    low, high, step, log = (values[key] for key in ("low", "high", "step", "log"))
    if values["choices"] is not None:
        raise ParameterError(f"suggest is {suggest}, but choices need suggest 'cat'")
    if low is None or high is None:
        raise ParameterError("needs low and high, or choices")
    if low > high:
        raise ParameterError(f"low = {low:g} is above high = {high:g}")
    if log and low <= 0:
        raise ParameterError(f"low = {low:g}, expected a number > 0 for a logarithmic range")
    if log and step is not None:
        raise ParameterError("a logarithmic range cannot have a step")
    if suggest == "int":
        fractions = [key for key in ("low", "high", "step") if values[key] is not None and values[key] % 1]
        if fractions:
            raise ParameterError(
                f"{fractions[0]} = {values[fractions[0]]:g}, expected a whole number, as all values are integers"
            )
        low, high, step = int(low), int(high), None if step is None else int(step)
    return Range(name=name, suggest=suggest, low=low, high=high, step=step, log=log)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _is_plain(value: Any) -> bool:
    return _is_scalar(value) or (isinstance(value, list) and all(_is_plain(item) for item in value))


def _complain(report: Report, key: str, problem: str | None, kind: Kind) -> None:
    report.add(key, f"{problem}, expected {kind.describe()}")
