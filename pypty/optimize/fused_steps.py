"""Steps of first-order methods on a GPU, in one kernel for each array.

The rules of :mod:`pypty.optimize.update_rules` are the definition; here are the numbers that their kernels
(backend/cuda/steps.cu) take. Not covered, and left to the rules: adafactor, whose step depends on means over the array,
and counts or rates that differ between rows (``lazy_moments``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from pypty.backend.array import Array
from pypty.backend.cuda.steps import step_kernels
from pypty.optimize import update_rules
from pypty.optimize.update_rules import Options, Part

_Numbers: TypeAlias = Callable[[Part, Options], tuple[float | bool, ...]]


def is_covered(rule: Callable[..., None], point: Array, rate: Any, count: np.ndarray) -> bool:
    """Whether there is a kernel for this rule on these arrays."""
    return (
        not isinstance(point, np.ndarray) and rule in _KERNELS and isinstance(rate, float) and count.ndim == 0
    )


def fused_step(rule: Callable[..., None], part: Part, options: Options, moved: Array) -> None:
    """moved = the point after the step; the moments and counters of ``part`` are advanced, its point is not."""
    kernel, numbers = _KERNELS[rule]
    taken = (number if isinstance(number, bool) else float(number) for number in numbers(part, options))
    step_kernels(part.point.dtype).step(kernel, part.point, part.gradient, moved, part.moments, tuple(taken))


def _averages(part: Part, options: Options) -> tuple[float, ...]:
    """Weights of the old and the new value in the two moments of Adam's kind."""
    beta1, beta2 = options["betas"]
    return beta1, 1 - beta1, beta2, 1 - beta2


def _adam_numbers(part: Part, options: Options, shrink: float, decay: float) -> tuple[float, ...]:
    beta1, beta2 = options["betas"]
    root = update_rules.root_of_bias(beta2, part.count)
    rate = part.rate / update_rules.bias(beta1, part.count)
    return shrink, decay, *_averages(part, options), root, options["eps"], rate


def _adam(part: Part, options: Options) -> tuple[float, ...]:
    return _adam_numbers(part, options, 1.0, options["weight_decay"])


def _adamw(part: Part, options: Options) -> tuple[float, ...]:
    return _adam_numbers(part, options, 1 - part.rate * options["weight_decay"], 0.0)


def _nadam(part: Part, options: Options) -> tuple[float, ...]:
    root = update_rules.root_of_bias(options["betas"][1], part.count)
    factors = update_rules.nadam_factors(part, options)
    return options["weight_decay"], *_averages(part, options), root, options["eps"], *factors, part.rate


def _radam(part: Part, options: Options) -> tuple[float, ...]:
    beta1, beta2 = options["betas"]
    factors = update_rules.radam_factors(beta2, part.count)
    rate = part.rate / update_rules.bias(beta1, part.count)
    return options["weight_decay"], *_averages(part, options), options["eps"], *factors, rate


def _adamax(part: Part, options: Options) -> tuple[float, ...]:
    beta1, beta2 = options["betas"]
    rate = part.rate / update_rules.bias(beta1, part.count)
    return options["weight_decay"], beta1, 1 - beta1, beta2, options["eps"], rate


def _sgd(part: Part, options: Options) -> tuple[float | bool, ...]:
    dampened = float(update_rules.share_of_gradient(part.count, options["dampening"]))
    return options["weight_decay"], options["momentum"], dampened, part.rate, bool(options["nesterov"])


def _rmsprop(part: Part, options: Options) -> tuple[float, ...]:
    alpha = options["alpha"]
    return options["weight_decay"], alpha, 1 - alpha, options["eps"], options["momentum"], part.rate


def _adagrad(part: Part, options: Options) -> tuple[float, ...]:
    rate = part.rate / update_rules.adagrad_divisor(part.count, options["lr_decay"])
    return options["weight_decay"], options["eps"], rate


def _adadelta(part: Part, options: Options) -> tuple[float, ...]:
    rho = options["rho"]
    return options["weight_decay"], rho, 1 - rho, options["eps"], part.rate


def _asgd(part: Part, options: Options) -> tuple[float, ...]:
    eta = update_rules.asgd_rate(part, options)
    weight = update_rules.asgd_weight(part.count, options["t0"])
    return options["weight_decay"], 1 - options["lambd"] * eta, weight, eta


def _rprop(part: Part, options: Options) -> tuple[float, ...]:
    return *options["etas"], *options["step_sizes"]


_KERNELS: Mapping[Callable[..., None], tuple[str, _Numbers]] = MappingProxyType(
    {
        update_rules.adam: ("adam", _adam),
        update_rules.adamw: ("adam", _adamw),
        update_rules.nadam: ("nadam", _nadam),
        update_rules.radam: ("radam", _radam),
        update_rules.adamax: ("adamax", _adamax),
        update_rules.sgd: ("sgd", _sgd),
        update_rules.rmsprop: ("rmsprop", _rmsprop),
        update_rules.adagrad: ("adagrad", _adagrad),
        update_rules.adadelta: ("adadelta", _adadelta),
        update_rules.asgd: ("asgd", _asgd),
        update_rules.rprop: ("rprop", _rprop),
    }
)
"""The kernel of a rule, and its numbers in the order of the kernel's arguments."""
