"""A line search for the strong Wolfe conditions: bracketing, then zooming, both by cubic interpolation.

Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 3.5 (line search) and 3.6 (zoom), eq. 3.7 (strong Wolfe
conditions) and 3.59 (interpolation). phi(alpha) = f(x_k + alpha p_k), and ``step`` is alpha. Deterministic.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Trial = Callable[[float, float], "Point"]
"""phi(alpha, limit): phi at a step length. Where it exceeds the limit the slope is not needed and may be NaN."""


@dataclass(frozen=True)
class Point:
    """phi(alpha) with its derivative, and a ``payload`` that the caller gets back for the accepted step."""

    step: float
    value: float
    slope: float
    payload: Any = None


@dataclass(frozen=True, kw_only=True)
class WolfeOptions:
    """Constants of the search.

    Attributes
    ----------
    c1 : sufficient decrease (3.7a): phi(alpha) <= phi(0) + c1 alpha phi'(0)
    c2 : curvature condition (3.7b): |phi'(alpha)| <= c2 |phi'(0)|; 0 < c1 < c2 < 1
    shrink : a step is reduced at most by this factor at a time
    grow : a step is enlarged at most by this factor at a time
    max_evaluations : limit on trials
    min_step : shorter steps are not tried
    """

    c1: float = 0.1
    c2: float = 0.9
    shrink: float = 0.1
    grow: float = 3.0
    max_evaluations: int = 20
    min_step: float = 1e-20


@dataclass
class LineSearch:
    """Outcome of a search.

    Attributes
    ----------
    point : the accepted point, or None when no step decreases phi sufficiently
    trials : every point that was evaluated, in order, without payloads
    reason : why nothing, or only sufficient decrease, was reached; "" for a strong Wolfe point
    """

    point: Point | None = None
    trials: list[Point] = field(default_factory=list)
    reason: str = ""


class _Search:
    def __init__(self, trial: Trial, start: Point, options: WolfeOptions) -> None:
        self.trial, self.start, self.options = trial, start, options
        self.trials: list[Point] = []
        self.best: Point | None = None

    def evaluate(self, step: float, limit: float = math.inf) -> Point:
        """Try a step; returns it without its payload, which holds a whole gradient. That of the best step so far, which
        an accepted step always is, is kept in ``best``.

        Above the limit, or without sufficient decrease, only the value is asked for, which saves the gradient.
        """
        sufficient = self.start.value + self.options.c1 * step * self.start.slope
        point = self.trial(step, min(sufficient, self.start.value, limit))
        if self.decreases(point) and (self.best is None or point.value < self.best.value):
            self.best = point
        self.trials.append(dataclasses.replace(point, payload=None))
        return self.trials[-1]

    @property
    def exhausted(self) -> bool:
        return len(self.trials) >= self.options.max_evaluations

    def decreases(self, point: Point) -> bool:
        """Sufficient decrease (3.7a), and a smaller value: at the limit of precision 3.7a holds without a decrease.

        A point without a gradient cannot be accepted, because the next iteration starts from its gradient.
        """
        sufficient = self.start.value + self.options.c1 * point.step * self.start.slope
        usable = math.isfinite(point.value) and math.isfinite(point.slope)
        return usable and point.value <= sufficient and point.value < self.start.value

    def flat(self, point: Point) -> bool:
        """Curvature condition (3.7b)."""
        return abs(point.slope) <= -self.options.c2 * self.start.slope


def strong_wolfe(trial: Trial, start: Point, first_step: float, options: WolfeOptions) -> LineSearch:
    """Find a step that satisfies the strong Wolfe conditions.

    Parameters
    ----------
    trial : evaluates a step
    start : phi at step 0, with negative slope
    first_step : the step tried first

    Returns
    -------
    LineSearch; when the evaluations run out, the best point with sufficient decrease is accepted, with a
    reason.
    """
    search = _Search(trial, start, options)
    reason = _bracket(search, first_step)
    return LineSearch(search.best, search.trials, reason)


def _bracket(search: _Search, step: float) -> str:
    """Algorithm 3.5: enlarge the step until it is accepted, or until an interval contains an acceptable one.

    Returns
    -------
    "" if the best step is a strong Wolfe point, else why there is none
    """
    previous = search.start  # alpha_{i-1}; alpha_0 = 0
    while not search.exhausted:
        point = search.evaluate(step)
        # phi rose: the minimum lies between the last two steps.
        if not search.decreases(point) or (previous is not search.start and point.value >= previous.value):
            return _zoom(search, previous, point)
        if search.flat(point):
            return ""
        # phi fell and rises again here: the minimum was passed.
        if point.slope >= 0:
            return _zoom(search, point, previous)
        # Still descending: alpha_{i+1} by extrapolation, at least 10 % longer, at most ``grow`` times as long.
        longest = search.options.grow * step
        extrapolated = _cubic_minimum(previous, point)
        if extrapolated is None or extrapolated <= step:
            step = longest
        else:
            step = min(max(extrapolated, 1.1 * step), longest)
        previous = point
    return f"no bracket after {len(search.trials)} evaluations"


def _zoom(search: _Search, low: Point, high: Point) -> str:
    """Algorithm 3.6: shrink the interval between alpha_lo (``low``, the best value so far) and alpha_hi (``high``).

    Either end may be the longer step. The slope at alpha_lo points into the interval.
    """
    while not search.exhausted:
        step = _inside(search, low, high)
        if step < search.options.min_step or abs(high.step - low.step) <= 1e-14 * max(high.step, low.step):
            return "the step became too small"
        point = search.evaluate(step, low.value)
        if not search.decreases(point) or point.value >= low.value:
            high = point
            continue
        if search.flat(point):
            return ""
        # The new alpha_lo descends away from alpha_hi: the minimum is on the other side, up to the old alpha_lo.
        if point.slope * (high.step - low.step) >= 0:
            high = low
        low = point
    return f"no Wolfe point after {len(search.trials)} evaluations"


def _inside(search: _Search, low: Point, high: Point) -> float:
    """The interpolated step alpha_j, kept away from the ends of the interval so that the interval shrinks by 10 % or
    more."""
    left, right = sorted((low.step, high.step))
    width = right - left
    step = None
    if math.isfinite(high.value):
        step = _cubic_minimum(low, high) if math.isfinite(high.slope) else _quadratic_minimum(low, high)
    if step is None:
        # No interpolation: bisect, or, where phi overflowed, go back much further.
        step = left + (search.options.shrink if not math.isfinite(high.value) else 0.5) * width
    if left == 0:
        # The best step may be orders of magnitude below the first trial: 10 % of the interval is no lower limit here.
        return min(max(step, search.options.shrink * right), right - 0.1 * width)
    return min(max(step, left + 0.1 * width), right - 0.1 * width)


def _quadratic_minimum(low: Point, high: Point) -> float | None:
    """Minimiser of the parabola through a point with its slope and a value (eq. 3.57), or None where it has none."""
    width = high.step - low.step
    curvature = high.value - low.value - low.slope * width
    if not curvature > 0:
        return None
    return low.step - low.slope * width**2 / (2 * curvature)


def _cubic_minimum(a: Point, b: Point) -> float | None:
    """Minimiser of the cubic through two points with slopes (eq. 3.59), or None where it has none."""
    if not (math.isfinite(a.value) and math.isfinite(b.value) and math.isfinite(b.slope)) or a.step == b.step:
        return None
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return None
    d2 = math.copysign(math.sqrt(square), b.step - a.step)
    denominator = b.slope - a.slope + 2 * d2
    if denominator == 0:
        return None
    step = b.step - (b.step - a.step) * (b.slope + d2 - d1) / denominator
    return step if math.isfinite(step) else None
