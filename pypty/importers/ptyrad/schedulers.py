"""Translate learning-rate schedulers of PyTorch, with PtyRAD's names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pypty.errors import ParameterError
from pypty.importers.ptyrad.translation import Group, Ledger

SCHEDULERS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "StepLR": ("step", ("step_size", "gamma")),
        "MultiStepLR": ("multistep", ("milestones", "gamma")),
        "ConstantLR": ("constant", ("factor", "total_iters")),
        "LinearLR": ("linear", ("start_factor", "end_factor", "total_iters")),
        "ExponentialLR": ("exponential", ("gamma",)),
        "PolynomialLR": ("polynomial", ("power", "total_iters")),
        "CosineAnnealingLR": ("cosine", ("T_max",)),
        "CosineAnnealingWarmRestarts": ("cosine_restarts", ("T_0", "T_mult")),
        "ReduceLROnPlateau": ("plateau", ("factor", "patience", "threshold", "cooldown")),
        "CyclicLR": (
            "cyclic",
            (
                "step_size_up",
                "step_size_down",
                "mode",
                "gamma",
                "cycle_momentum",
                "base_momentum",
                "max_momentum",
            ),
        ),
        "OneCycleLR": (
            "one_cycle",
            (
                *(
                    "total_steps",
                    "pct_start",
                    "anneal_strategy",
                    "cycle_momentum",
                    "base_momentum",
                    "max_momentum",
                ),
                *("div_factor", "final_div_factor", "three_phase"),
            ),
        ),
    }
)
"""PtyRAD's name: our name, and the constants with the same meaning."""

_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "CyclicLR": {"gamma": 1.0, "base_momentum": 0.8, "max_momentum": 0.9},
        "OneCycleLR": {"base_momentum": 0.85, "max_momentum": 0.95},
    }
)
_REQUIRED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "StepLR": ("step_size",),
        "MultiStepLR": ("milestones",),
        "ExponentialLR": ("gamma",),
        "CosineAnnealingLR": ("T_max",),
        "CosineAnnealingWarmRestarts": ("T_0",),
        "CyclicLR": ("base_lr", "max_lr"),
        "OneCycleLR": ("max_lr",),
    }
)
_SMALLEST: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "CosineAnnealingLR": ("eta_min", "eta_min"),
        "CosineAnnealingWarmRestarts": ("eta_min", "eta_min"),
        "ReduceLROnPlateau": ("min_lr", "min_factor"),
    }
)
"""PyTorch's name of the smallest rate (absolute), and ours (a fraction of the rate of each block)."""
_WITHOUT_MEANING = ("last_epoch", "verbose")
_KEY = "model_params.scheduler_params"


def translate_scheduler(
    entry: Group | None,
    rates: dict[str, dict[str, Any]],
    optimizer: str,
    probe_unit: float,
    ledger: Ledger,
) -> None:
    """Translate scheduler_params (``entry``) to ``lr_scheduler``; schedulers that set rates replace those in ``rates``.

    Parameters
    ----------
    optimizer : its name here
    probe_unit : learning rate of the probe here that corresponds to 1 in PtyRAD

    Raises
    ------
    ParameterError
        The scheduler is unknown, it needs Python functions, or a constant is missing.
    """
    if entry is None or entry["name"] is None:
        ledger.unused(_KEY, "no scheduler is given")
        return
    if optimizer == "lbfgs":
        ledger.unused(_KEY, "L-BFGS has no learning rate (PtyRAD does not use it with LBFGS either)")
        return
    name, configs = str(entry["name"]), dict(entry["configs"] or {})
    if name in ("LambdaLR", "MultiplicativeLR"):
        raise ParameterError(
            f"{ledger.source}: {_KEY}.name = {name} needs Python functions, which a file cannot contain; in Python, "
            "give learning_rates as a function of the epoch"
        )
    if name not in SCHEDULERS:
        raise ParameterError(
            f"{ledger.source}: {_KEY}.name is {name!r}, expected one of {', '.join(SCHEDULERS)}"
        )
    missing = [key for key in _REQUIRED.get(name, ()) if key not in configs]
    if missing:
        raise ParameterError(f"{ledger.source}: {_KEY}.configs of {name} needs {', '.join(missing)}")
    ours, same = SCHEDULERS[name]
    unit = "batch" if entry["step_unit"] == "batch" and name != "ReduceLROnPlateau" else "epoch"
    out: dict[str, Any] = {"name": ours, "step_unit": unit}
    out |= {key: value for key, value in _DEFAULTS.get(name, {}).items() if key not in configs}
    out |= {key: configs.pop(key) for key in same if key in configs}
    _rates(name, configs, out, rates, probe_unit, ledger)
    _smallest(name, configs, out, rates, ledger)
    _rest(configs, out, ledger)
    ledger.ours(f"{_KEY}.configs", lr_scheduler=out)
    ledger.ours(f"{_KEY}.name", f"lr_scheduler.name = {ours}")
    ledger.ours(f"{_KEY}.step_unit", f"lr_scheduler.step_unit = {unit}")


def _rates(
    name: str,
    configs: dict[str, Any],
    out: dict[str, Any],
    rates: dict[str, dict[str, Any]],
    probe_unit: float,
    ledger: Ledger,
) -> None:
    """Set the rates of cyclic schedulers, which replace those of update_params by one rate for all variables."""
    if name not in ("CyclicLR", "OneCycleLR"):
        return
    largest = _numbers(configs.pop("max_lr"))
    smallest = _numbers(configs.pop("base_lr", 0.0))
    if len(set(largest)) > 1 or len(set(smallest)) > 1:
        raise ParameterError(
            f"{ledger.source}: {_KEY}.configs: max_lr is {largest}, expected a single max_lr (and base_lr) for all "
            "variables"
        )
    if not largest[0] > 0:
        raise ParameterError(
            f"{ledger.source}: {_KEY}.configs: max_lr is {largest[0]}, expected a positive number"
        )
    for block, rate in rates.items():
        if rate["lr"]:
            rate["lr"] = largest[0] * (probe_unit if block == "probe_abs" else 1.0)
    out["max_factor"] = 1.0
    if name == "CyclicLR":
        out["base_factor"] = max(smallest[0], 1e-12 * largest[0]) / largest[0]
    ledger.note(f"{name} sets the learning rates of all variables to max_lr, here in learning_rates")


def _numbers(value: Any) -> list[float]:
    return [float(number) for number in (value if isinstance(value, (list, tuple)) else [value])] or [0.0]


def _smallest(
    name: str,
    configs: dict[str, Any],
    out: dict[str, Any],
    rates: Mapping[str, Mapping[str, Any]],
    ledger: Ledger,
) -> None:
    if name not in _SMALLEST:
        return
    theirs, ours = _SMALLEST[name]
    least = max(_numbers(configs.pop(theirs, 0.0)))
    reference = next(
        (rate["lr"] for block, rate in rates.items() if block != "probe_abs" and rate["lr"]), 0.0
    )
    if not least or not reference:
        return
    out[ours] = min(least / reference, 1.0)  # a fraction of the first rate other than the probe's
    ledger.note(
        f"{_KEY}: {theirs} = {least:g} is the same rate for all variables in PtyRAD, but the fraction {out[ours]:g} "
        "of each learning rate here (exact for the object)"
    )


def _rest(configs: dict[str, Any], out: dict[str, Any], ledger: Ledger) -> None:
    """Translate the remaining entries of ``configs``."""
    epochs, steps = configs.pop("epochs", None), configs.pop("steps_per_epoch", None)
    if epochs and steps and "total_steps" not in out:
        out["total_steps"] = int(epochs) * int(steps)
    for key, value in configs.items():
        neutral = {
            "mode": "min",
            "threshold_mode": "rel",
            "scale_mode": "cycle",
            "scale_fn": None,
            "eps": 1e-8,
        }
        if key in _WITHOUT_MEANING or (key in neutral and neutral[key] == value):
            ledger.unused(f"{_KEY}.configs.{key}", "nothing depends on it")
        else:
            ledger.without(f"{_KEY}.configs.{key}", f"{value!r}: not an option here")
