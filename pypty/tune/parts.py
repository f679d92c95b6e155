"""Make Optuna's samplers and pruners from the names in ``tune``."""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.params.report import Report
from pypty.tune.entries import near
from pypty.tune.layout import PRUNERS, Range, SearchPart, SearchPlan, read_part
from pypty.tune.optional import load_optuna, quiet

_SAMPLER_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "TPE": MappingProxyType({"multivariate": True, "group": True, "constant_liar": True}),
    "GP": MappingProxyType({"deterministic_objective": True}),
    "QMC": MappingProxyType({"warn_asynchronous_seeding": False}),
})  # fmt: skip
_SEEDED_ONCE = ("Grid", "QMC")
"""Samplers that need the same seed in all trials: all workers go through one grid or sequence."""
_EXTRA_PACKAGES: Mapping[str, str] = MappingProxyType({"GP": "torch", "CmaEs": "cmaes", "QMC": "scipy"})
_HYPERBAND = MappingProxyType({"min_resource": 5, "reduction_factor": 2})
_WRAPPED = ("wrapped_pruner", "wrapped_pruner_configs")


def make_sampler(plan: SearchPlan, seed: int) -> Any:
    """The sampler; the random numbers of trial k depend only on the seed and k, not on the worker that runs it."""
    optuna = load_optuna()
    sampler_seed = plan.sampler.options.get("seed")
    seed = seed if sampler_seed is None else int(sampler_seed)
    if plan.sampler.name in _SEEDED_ONCE:
        return _build_sampler(plan, seed)

    class PerTrial(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        """Builds a new sampler for each trial."""

        inner = _build_sampler(plan, seed)

        def before_trial(self, study: Any, trial: Any) -> None:
            # crc32 gives the same seed in every process; hash() of a string would not.
            self.inner = _build_sampler(plan, zlib.crc32(f"{seed} {trial.number}".encode()))
            self.inner.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return self.inner.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self.inner.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self.inner.sample_independent(study, trial, name, distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            self.inner.after_trial(study, trial, state, values)

    return PerTrial()


def _build_sampler(plan: SearchPlan, seed: int) -> Any:
    name = plan.sampler.name
    options = {**_SAMPLER_DEFAULTS.get(name, {}), **plan.sampler.options, "seed": seed}
    if name == "Grid":
        options.setdefault("search_space", {item.name: grid_of(item) for item in plan.ranges})
    return _build(load_optuna().samplers, name, "Sampler", options)


def make_pruner(part: SearchPart | None, epoch_max: int) -> Any:
    """The pruner; Hyperband's resources are epochs, at most ``epoch_max``."""
    optuna = load_optuna()
    if part is None:
        return optuna.pruners.NopPruner()
    options = dict(part.options)
    if part.name == "Hyperband":
        options = {**_HYPERBAND, "max_resource": max(epoch_max, 1), **options}
        if "min_resource" not in part.options:  # for runs shorter than the default
            options["min_resource"] = min(options["min_resource"], options["max_resource"])
    if part.name == "Patient":
        wrapped = next((options.pop(key) for key in _WRAPPED if key in options), None)
        inner = None if wrapped is None else _wrapped(wrapped)
        options = {
            "patience": 3,
            **options,
            "wrapped_pruner": make_pruner(inner, epoch_max) if inner else None,
        }
    if part.name == "Percentile":
        options = {"percentile": 25.0, **options}
    return _build(optuna.pruners, part.name, "Pruner", options)


def _wrapped(wrapped_pruner: Any) -> SearchPart:
    """The pruner inside a Patient pruner."""
    report = Report()
    part = read_part(
        "tune.pruner.wrapped_pruner",
        wrapped_pruner,
        tuple(n for n in PRUNERS if n != "Patient"),
        "Pruner",
        report,
    )
    report.raise_if_any()
    assert part is not None
    return part


def _build(module: Any, name: str, ending: str, options: Mapping[str, Any]) -> Any:
    """Call a constructor; raises ParameterError if it does not accept the options."""
    key = f"tune.{ending.lower()}"
    constructor = getattr(module, name + ending, None)
    if constructor is None:
        raise ParameterError(f"{key}: this version of Optuna has no {name}; pip install --upgrade optuna")
    known = [item for item in inspect.signature(constructor).parameters if item != "kwargs"]
    strange = [option for option in options if option not in known]
    if strange:
        raise ParameterError(
            f"{key}: {name} has no option {strange[0]!r}{near(strange[0], known)}; it has {', '.join(known)}"
        )
    try:
        with quiet():
            return constructor(**options)
    except ImportError as error:
        package = _EXTRA_PACKAGES.get(name, "")
        raise ParameterError(
            f"{key}: {name} needs another package: pip install {package} ({error})"
        ) from error
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{key}: {name} does not accept these options: {error}") from error


def grid_of(range_: Range) -> list[Any]:
    """All values of a range, for samplers that try each of them.

    Raises
    ------
    ParameterError
        A range of real numbers has no step.
    """
    if range_.suggest == "cat":
        return range_.labels
    step = range_.step
    if step is None and range_.suggest == "int" and not range_.log:
        step = 1
    if step is None:
        raise ParameterError(f"tune.parameters.{range_.name}: Grid and BruteForce need a step, or choices")
    count = math.floor((range_.high - range_.low) / step + 1e-9) + 1
    values = range_.low + step * np.arange(count)
    return [int(v) for v in values] if range_.suggest == "int" else [float(v) for v in values]


def check_parts(plan: SearchPlan, epoch_max: int, report: Report) -> None:
    """Report problems of the sampler and the pruner."""
    names = {item.name for item in plan.ranges}
    space = plan.sampler.options.get("search_space")
    if isinstance(space, Mapping) and set(space) != names:
        report.add(
            "tune.sampler", f"search_space has {sorted(space)}, but the parameters are {sorted(names)}"
        )
    try:
        if plan.sampler.name in ("Grid", "BruteForce") and space is None:
            for item in plan.ranges:
                grid_of(item)
        _build_sampler(plan, 0)
    except ParameterError as error:
        report.note_error(error)
    try:
        make_pruner(plan.pruner, epoch_max)
    except ParameterError as error:
        report.note_error(error)
