"""The first-order methods: each with its formula, its options, and what it keeps between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pypty.optimize.update_rules import (
    Options,
    Part,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    asgd,
    nadam,
    radam,
    rmsprop,
    rprop,
    sgd,
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A first-order method.

    Attributes
    ----------
    rule : its formula
    defaults : its options with the defaults of PyTorch 2
    moments : names of the arrays it keeps for given options and dimension of the block
    counters : further numbers it keeps, with their first values
    elementwise : every number is moved on its own
    momentum : the option that a cyclic schedule changes: "momentum", "betas" (the first of them) or ""
    """

    rule: Callable[[Part, Options], None]
    defaults: Options
    moments: Callable[[Options, int], tuple[str, ...]]
    counters: Options = field(default_factory=lambda: MappingProxyType({}))
    momentum: str = ""
    elementwise: bool = True


def _options(**defaults: Any) -> Options:
    return MappingProxyType({"weight_decay": 0.0, **defaults})


def _adam_moments(options: Options, ndim: int) -> tuple[str, ...]:
    return ("mean", "square", "largest") if options["amsgrad"] else ("mean", "square")


def _rmsprop_moments(options: Options, ndim: int) -> tuple[str, ...]:
    velocity = ("velocity",) if options["momentum"] else ()
    return ("square", *(("mean",) if options["centered"] else ()), *velocity)


def _fixed(*names: str) -> Callable[[Options, int], tuple[str, ...]]:
    return lambda options, ndim: names


def _velocity(options: Options, ndim: int) -> tuple[str, ...]:
    return ("velocity",) if options["momentum"] else ()


_MOVING = MappingProxyType({"betas": (0.9, 0.999), "eps": 1e-8})
_SGD = MappingProxyType({"momentum": 0.0, "dampening": 0.0, "nesterov": False})

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "adam": Method(
            rule=adam, defaults=_options(**_MOVING, amsgrad=False), moments=_adam_moments, momentum="betas"
        ),
        "adamw": Method(
            rule=adamw,
            defaults=_options(**{**_MOVING, "weight_decay": 1e-2, "amsgrad": False}),
            moments=_adam_moments,
            momentum="betas",
        ),
        "sgd": Method(rule=sgd, defaults=_options(**_SGD), moments=_velocity, momentum="momentum"),
        "momentum": Method(
            rule=sgd, defaults=_options(**{**_SGD, "momentum": 0.9}), moments=_velocity, momentum="momentum"
        ),
        "rmsprop": Method(
            rule=rmsprop,
            defaults=_options(alpha=0.99, eps=1e-8, momentum=0.0, centered=False),
            moments=_rmsprop_moments,
            momentum="momentum",
        ),
        "radam": Method(
            rule=radam, defaults=_options(**_MOVING), moments=_fixed("mean", "square"), momentum="betas"
        ),
        "nadam": Method(
            rule=nadam,
            defaults=_options(**_MOVING, momentum_decay=4e-3),
            moments=_fixed("mean", "square"),
            counters=MappingProxyType({"product": 1.0}),
            momentum="betas",
        ),
        "adagrad": Method(
            rule=adagrad,
            defaults=_options(lr_decay=0.0, initial_accumulator_value=0.0, eps=1e-10),
            moments=_fixed("sum"),
        ),
        "adadelta": Method(
            rule=adadelta, defaults=_options(rho=0.9, eps=1e-6), moments=_fixed("square", "moved")
        ),
        "adamax": Method(
            rule=adamax, defaults=_options(**_MOVING), moments=_fixed("mean", "norm"), momentum="betas"
        ),
        "adafactor": Method(
            rule=adafactor,
            defaults=_options(beta2_decay=-0.8, eps=1e-3, d=1.0),
            moments=lambda options, ndim: ("row", "column") if ndim > 1 else ("square",),
            elementwise=False,
        ),
        "asgd": Method(
            rule=asgd, defaults=_options(lambd=1e-4, alpha=0.75, t0=1e6), moments=_fixed("average")
        ),
        "rprop": Method(
            rule=rprop,
            defaults=MappingProxyType({"etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)}),
            moments=_fixed("gradient", "step"),
        ),
    }
)
