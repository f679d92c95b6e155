"""Learning-rate schedules: a factor on all learning rates as a function of the steps done.

The formulas are those of PyTorch 2's schedulers in closed form (its public documentation). Rates are relative to the
given learning rates: PyTorch's ``max_lr`` is ``max_factor`` times them, ``eta_min`` and ``min_factor`` are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pypty.errors import CheckpointError, ParameterError

_LAST_FACTOR = 0.01
"""Exponential schedule without gamma: the factor at the end of the run."""


class RateSchedule:
    """The schedule of a run.

    Parameters
    ----------
    config : complete record of ``lr_scheduler``
    total_epochs, batches_per_epoch : of the whole run; steps (after accumulation) of one epoch
    state : ``state`` of an earlier schedule (plateau only)

    Attributes
    ----------
    unit : "epoch" or "batch": the step that ``factor`` and ``momentum`` count; plateau always counts epochs
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        total_epochs: int,
        batches_per_epoch: int,
        state: Mapping[str, float] | None = None,
    ) -> None:
        self.name: str = config["name"]
        if self.name not in _FACTORS and self.name != "plateau":
            raise ParameterError(
                f"{self.name!r} is not a schedule of learning rates; expected one of plateau, {', '.join(_FACTORS)}."
            )
        self.unit: str = "epoch" if self.name == "plateau" else config["step_unit"]
        self._config = dict(config)
        self._total = max(1, total_epochs * (batches_per_epoch if self.unit == "batch" else 1))
        self._plateau = Plateau(config, state) if self.name == "plateau" else None

    @property
    def state(self) -> dict[str, float]:
        """Plain numbers that ``state`` of a new object takes; empty for all but plateau."""
        return self._plateau.state if self._plateau else {}

    def observe(self, loss: float) -> None:
        """Report the loss of an epoch; only plateau uses it."""
        if self._plateau:
            self._plateau.observe(loss)

    def factor(self, step: int) -> float:
        """Factor on the learning rates after ``step`` steps (of ``unit``)."""
        if self._plateau:
            return self._plateau.factor
        return float(_FACTORS[self.name](self._config, step, self._total))

    def momentum(self, step: int) -> float | None:
        """Momentum (or first beta) after ``step`` steps; None = that of the optimiser."""
        if self.name not in ("one_cycle", "cyclic") or not self._config["cycle_momentum"]:
            return None
        cycles = self.name == "cyclic"
        low = _given(self._config["base_momentum"], 0.8 if cycles else 0.85)
        high = _given(self._config["max_momentum"], 0.9 if cycles else 0.95)
        # Momentum runs against the rate: low where the rate is high.
        if cycles:
            return high - (high - low) * _cycle_height(self._config, step)
        return _one_cycle(self._config, step, self._total, (high, low, high, high))


class Plateau:
    """The factor falls when the loss has not improved for more than ``patience`` epochs.

    PyTorch also ignores falls of a rate by less than 1e-8; here nothing but ``min_factor`` ends them.
    """

    def __init__(self, config: Mapping[str, Any], state: Mapping[str, float] | None) -> None:
        self._config = dict(config)
        known = {"factor": 1.0, "best": math.inf, "bad": 0, "rest": 0}
        if state is not None and set(state) != set(known):
            raise CheckpointError(
                f"The state of a plateau schedule has {', '.join(known)}; given {', '.join(state) or 'nothing'}. "
                "It is that of another schedule: start without it."
            )
        self.state: dict[str, float] = {
            **known,
            **{key: float(value) for key, value in (state or {}).items()},
        }

    @property
    def factor(self) -> float:
        return self.state["factor"]

    def observe(self, loss: float) -> None:
        """Losses that are not finite count as no improvement."""
        state, config = self.state, self._config
        best, threshold = state["best"], config["threshold"]
        enough = best - threshold if config["threshold_mode"] == "abs" else best * (1 - threshold)
        # The first finite loss counts as an improvement, even with a threshold of 1, for which ``enough`` is NaN.
        if math.isinf(best) and loss < best or loss < enough:
            state["best"], state["bad"] = float(loss), 0
        else:
            state["bad"] += 1
        # During the cooldown after a fall no bad epoch is counted.
        if state["rest"] > 0:
            state["rest"] -= 1
            state["bad"] = 0
        if state["bad"] > config["patience"]:
            fallen = state["factor"] * _given(config["factor"], 0.1)
            state["factor"] = max(fallen, config["min_factor"])
            state["rest"], state["bad"] = config["cooldown"], 0


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _step(config: Mapping[str, Any], step: int, total: int) -> float:
    return _given(config["gamma"], 0.1) ** (step // config["step_size"])


def _multistep(config: Mapping[str, Any], step: int, total: int) -> float:
    return _given(config["gamma"], 0.1) ** sum(1 for milestone in config["milestones"] if milestone <= step)


def _constant(config: Mapping[str, Any], step: int, total: int) -> float:
    return _given(config["factor"], 1 / 3) if step < config["total_iters"] else 1.0


def _linear(config: Mapping[str, Any], step: int, total: int) -> float:
    first, last, length = config["start_factor"], config["end_factor"], config["total_iters"]
    return first + (last - first) * min(step, length) / length


def _exponential(config: Mapping[str, Any], step: int, total: int) -> float:
    return _given(config["gamma"], _LAST_FACTOR ** (1 / total)) ** step


def _polynomial(config: Mapping[str, Any], step: int, total: int) -> float:
    length = config["total_iters"]
    return (1 - min(step, length) / length) ** config["power"]


def _half_wave(low: float, phase: float) -> float:
    """From 1 (phase 0) to ``low`` (phase 1) and back."""
    return low + (1 - low) * (1 + math.cos(math.pi * phase)) / 2


def _cosine(config: Mapping[str, Any], step: int, total: int) -> float:
    return _half_wave(config["eta_min"], step / _given(config["T_max"], total))


def _cosine_restarts(config: Mapping[str, Any], step: int, total: int) -> float:
    period, left = config["T_0"], step
    # Restarts of Loshchilov and Hutter (SGDR): each period is T_mult times as long as the one before.
    while left >= period:
        left -= period
        period *= config["T_mult"]
    return _half_wave(config["eta_min"], left / period)


def _one_cycle_factor(config: Mapping[str, Any], step: int, total: int) -> float:
    high = config["max_factor"]
    first = high / config["div_factor"]
    last = first / config["final_div_factor"]
    crop_origins = (first, high, first, last) if config["three_phase"] else (first, high, last, last)
    return _one_cycle(config, step, total, crop_origins)


def _one_cycle(
    config: Mapping[str, Any], step: int, total: int, crop_origins: tuple[float, float, float, float]
) -> float:
    """Between the values at the ends of the two or three phases; the last one after the end."""
    length = int(_given(config["total_steps"], total))
    # Ends of the phases in steps, counted from 0 as PyTorch does: hence the -1 (and -2 after two equal phases).
    rising = config["pct_start"] * length
    ends = [rising - 1, length - 1.0]
    if config["three_phase"]:
        ends.insert(1, 2 * rising - 2)
    begin = 0.0
    for end, start_value, end_value in zip(ends, crop_origins[:-1], crop_origins[1:], strict=False):
        if step <= end or end == ends[-1]:
            part = min(1.0, (step - begin) / (end - begin)) if end > begin else 1.0
            if config["anneal_strategy"] == "linear":
                return start_value + (end_value - start_value) * part
            return end_value + (start_value - end_value) / 2 * (1 + math.cos(math.pi * part))
        begin = end
    return crop_origins[-1]


def _cycle_height(config: Mapping[str, Any], step: int) -> float:
    """0 at the smallest rate, 1 at the largest, with the decay of the mode."""
    up = config["step_size_up"]
    length = up + _given(config["step_size_down"], up)
    rising = up / length
    cycle = math.floor(1 + step / length)  # from 1
    within = 1 + step / length - cycle  # position within the cycle, 0 to 1
    height = within / rising if within <= rising else (within - 1) / (rising - 1)
    if config["mode"] == "triangular2":
        return height / 2 ** (cycle - 1)
    if config["mode"] == "exp_range":
        return float(height * _given(config["gamma"], 1.0) ** step)
    return height


def _cyclic(config: Mapping[str, Any], step: int, total: int) -> float:
    low = config["base_factor"]
    return low + (config["max_factor"] - low) * _cycle_height(config, step)


_FACTORS: Mapping[str, Callable[[Mapping[str, Any], int, int], float]] = MappingProxyType(
    {
        "step": _step,
        "multistep": _multistep,
        "constant": _constant,
        "linear": _linear,
        "exponential": _exponential,
        "polynomial": _polynomial,
        "cosine": _cosine,
        "cosine_restarts": _cosine_restarts,
        "one_cycle": _one_cycle_factor,
        "cyclic": _cyclic,
    }
)
