"""Read a parameter dict: every problem is found and reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.errors import ParameterError, PyptyError
from pypty.params.kinds import Number, brief
from pypty.params.schedule import Constant, Schedule, make_schedule
from pypty.params.schema import NO_EFFECT, NOT_YET, SCHEMA, Parameter
from pypty.params.settings import Settings

_EPOCHS_CHECKED = 10_000
NOT_YET_CHOICES: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("recon_type", "near_field"): "far_field",
        ("propmethod", "better_multislice"): "multislice",
        ("propmethod", "yoshida"): "multislice",
        ("propmethod", "angular_spectrum"): "multislice",
        ("algorithm", "lsq_compressed"): "lsq",
        ("algorithm", "gauss_compressed"): "lsq_sqrt",
        ("algorithm", "poisson_compressed"): "ml",
    }
)
"""Documented values whose feature is not there yet, and what can be used today."""


@dataclass
class Report:
    """What :func:`pypty.check` found. True when there is no problem."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems

    def add(self, key: str, text: str) -> None:
        """Note a problem of parameter ``key``, once."""
        if f"{key}: {text}" not in self.problems:
            self.problems.append(f"{key}: {text}")

    def note_error(self, error: PyptyError) -> None:
        """Note an error that one part raised, once."""
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def __str__(self) -> str:
        lines = [f"  - {text}" for text in self.problems]
        head = (
            f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)} in the parameters:"
            if self.problems
            else "The parameters are usable."
        )
        notes = [f"  - {text}" for text in self.warnings]
        return "\n".join([head, *lines, *(["Warnings:", *notes] if notes else [])])

    __repr__ = __str__

    def raise_if_any(self) -> None:
        """Raise all problems as one ParameterError."""
        if self.problems:
            raise ParameterError(str(self))


def read_parameters(params: Mapping[str, Any], report: Report) -> Settings:
    """Check every key on its own and against the others.

    Problems go into ``report``; the settings returned hold the defaults in their place, so that later
    checks can go on and report theirs as well.

    Raises
    ------
    ParameterError
        ``params`` is no mapping.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(
            f"given {brief(params)} as parameters, expected a dict, or the path of a preset file"
        )
    _find_unknown_keys(params, report)
    fixed: dict[str, Any] = {}
    schedules: dict[str, Schedule] = {}
    for name, parameter in SCHEMA.items():
        given = name in params
        value = params[name] if given else parameter.default
        if given:
            value = _screen(parameter, value, report)
        if parameter.per_epoch:
            schedules[name] = _schedule(parameter, value, report)
        else:
            fixed[name] = _fixed(parameter, value, report)
    settings = Settings(
        MappingProxyType(fixed),
        MappingProxyType(schedules),
        frozenset(name for name in params if name in SCHEMA),
        tuple(report.warnings),
    )
    _check_epochs(settings, report)
    _check_combinations(settings, report)
    return settings


def _find_unknown_keys(params: Mapping[str, Any], report: Report) -> None:
    for key in params:
        if key in SCHEMA:
            continue
        if not isinstance(key, str):
            report.problems.append(f"{key!r} is not a parameter name; names are strings")
            continue
        near = difflib.get_close_matches(key, SCHEMA, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r} ({SCHEMA[near[0]].meaning})" if near else "no known key is near"
        report.add(key, f"unknown parameter; {hint}")


def _screen(parameter: Parameter, value: Any, report: Report) -> Any:
    """Refuse what is not available yet and note what has no effect; returns the value to go on with."""
    if parameter.status == NOT_YET and not parameter.is_neutral(value):
        report.add(
            parameter.name,
            f"given {brief(value)}, but this feature is {NOT_YET}; leave it out or set it to "
            f"{parameter.default!r}. ({parameter.meaning})",
        )
        return parameter.default
    if parameter.status == NOT_YET:
        return parameter.default
    if parameter.status == NO_EFFECT:
        if callable(value) or value != parameter.default:
            report.warnings.append(f"{parameter.name} = {brief(value)} has no effect: {parameter.meaning}")
        return parameter.default
    if isinstance(value, str) and (parameter.name, value) in NOT_YET_CHOICES:
        report.add(
            parameter.name,
            f"given {value!r}, which is {NOT_YET}; use {NOT_YET_CHOICES[parameter.name, value]!r} today",
        )
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
        unit = f" in {parameter.unit}" if parameter.unit else ""
        report.add(parameter.name, f"{problem}, expected {parameter.kind.describe()}{unit}")
        value = parameter.default
    return parameter.kind.convert(value)


def _schedule(parameter: Parameter, value: Any, report: Report) -> Schedule:
    try:
        return make_schedule(parameter, value)
    except ParameterError as error:
        text = str(error)
        report.problems.append(text if text.startswith(parameter.name) else f"{parameter.name}: {text}")
        return Constant(parameter.kind.convert(parameter.default))


def _check_epochs(settings: Settings, report: Report) -> None:
    """Evaluate every scalar schedule at every epoch of the run: what fails at epoch 37 must fail now."""
    first, last = settings.first_epoch, settings["epoch_max"]
    epochs = range(first, min(max(last, first + 1), first + _EPOCHS_CHECKED))
    for name, schedule in settings.schedules.items():
        if isinstance(schedule, Constant):
            continue
        for epoch in epochs[:1] if name == "sequence" else epochs:
            try:
                value = schedule.at(epoch)
            except ParameterError as error:
                report.note_error(error)
                break
            parameter = SCHEMA[name]
            if parameter.status == NOT_YET and not parameter.is_neutral(value):
                report.add(name, f"{brief(value)} at epoch {epoch}, but this feature is {NOT_YET}")
                break


def _check_combinations(settings: Settings, report: Report) -> None:
    now = _values_of_first_epoch(settings)
    if settings["data_path"] and settings["dataset"] is not None:
        report.warnings.append("both dataset and data_path are given: the dataset in memory is used")
    if now and now["wolfe_c1_constant"] >= now["wolfe_c2_constant"]:
        report.add(
            "wolfe_c1_constant",
            f"{now['wolfe_c1_constant']:g} is not smaller than wolfe_c2_constant = "
            f"{now['wolfe_c2_constant']:g}; 0 < c1 < c2 < 1 is needed for a step to exist",
        )
    if settings["positions_correction"] is not None and (
        settings["positions_correction"].shape != settings["positions"].shape
    ):
        report.add(
            "positions_correction",
            f"shape {settings['positions_correction'].shape}, but positions have shape "
            f"{settings['positions'].shape}; one row per position is needed",
        )
    if settings["resume"] and not settings["output_folder"]:
        report.add("resume", "True, but output_folder is empty; give the folder that holds resume.h5")
    if isinstance(settings["probe"], str) and settings["aperture_mask"] is None:
        report.add(
            "probe", "'aperture' needs aperture_mask: an array, or the radius as a fraction of Nyquist"
        )
    if settings["update_extra_cut"] >= settings["damping_cutoff_multislice"]:
        report.add(
            "update_extra_cut",
            f"{settings['update_extra_cut']:g} leaves nothing of damping_cutoff_multislice = "
            f"{settings['damping_cutoff_multislice']:g}; it must be smaller",
        )
    if settings["slice_distances"].min() < 0:
        report.add(
            "slice_distances",
            f"given {settings['slice_distances'].min():g} Å; distances must not be negative",
        )
    _check_slices(settings, report)
    mask = settings["detector_mask"]
    if isinstance(mask, np.ndarray) and ((mask < 0).any() or not mask.any()):
        report.add("detector_mask", "weights must not be negative, and not all may be zero")
    if settings["force_dataset_dtype"] is not None:
        _check_dtype(settings["force_dataset_dtype"], report)


def _values_of_first_epoch(settings: Settings) -> Mapping[str, Any] | None:
    try:
        return settings.first()
    except ParameterError:
        return None  # already reported by the check of the epochs


def _check_slices(settings: Settings, report: Report) -> None:
    obj = settings["obj"]
    n_slices = settings["num_slices"] if obj is None else obj.shape[2]
    if obj is not None and "num_slices" in settings.given and settings["num_slices"] != n_slices:
        report.add(
            "num_slices", f"given {settings['num_slices']}, but obj has {n_slices} slices (its third axis)"
        )
    n_distances = len(settings["slice_distances"])
    if n_distances != 1 and n_distances < n_slices - 1:
        report.add(
            "slice_distances",
            f"{n_distances} values, but {n_slices} slices have {n_slices - 1} gaps; give one "
            f"value for all, or {n_slices - 1}",
        )
    if settings["edge_slice_thickness"] is not None and n_distances > 1:
        report.add(
            "edge_slice_thickness",
            "given together with individual slice_distances; put it into slice_distances[0] instead",
        )


def _check_dtype(dtype: Any, report: Report) -> None:
    try:
        kind = np.dtype(dtype).kind
    except TypeError:
        kind = "?"
    if kind not in "biuf":
        report.add(
            "force_dataset_dtype",
            f"given {dtype!r}, expected a real NumPy dtype such as 'float32' or 'uint16'",
        )


def explain(name: str) -> str:
    """What ``pypty explain NAME`` prints.

    Raises
    ------
    ParameterError
        There is no such parameter.
    """
    if name not in SCHEMA:
        near = difflib.get_close_matches(name, SCHEMA, n=3, cutoff=0.4)
        raise ParameterError(f"unknown parameter {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
    parameter = SCHEMA[name]
    lines = [
        f"{name}: {parameter.meaning}",
        f"  value    {parameter.kind.describe()}",
        f"  default  {default_text(parameter)}",
    ]
    if parameter.unit:
        lines.append(f"  unit     {parameter.unit}")
    lines.append(
        f"  epoch    {'may vary: a function or an expression of the epoch' if parameter.per_epoch else 'fixed'}"
    )
    effect = {
        NOT_YET: f"{NOT_YET}: only the default is accepted",
        NO_EFFECT: "none; accepted so that PyPty 2.2 presets run, with a warning",
        "recorded": "none on the reconstruction; written to params.yaml",
    }.get(parameter.status, f"when {parameter.when}" if parameter.when else "always")
    lines.append(f"  effect   {effect}")
    return "\n".join(lines)


def default_text(parameter: Parameter) -> str:
    """The default as documentation shows it."""
    if isinstance(parameter.default, float) and isinstance(parameter.kind, Number):
        return f"{parameter.default:.6g}"
    return repr(parameter.default)
