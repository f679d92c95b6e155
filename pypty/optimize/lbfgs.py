"""Limited-memory BFGS over blocks, with a preconditioner as initial inverse Hessian.

Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 7.4 and 7.5. The initial inverse Hessian is
gamma M, M the preconditioner given by the caller and gamma = <s, y>/<y, M y> of the newest pair (eq. 7.20 in the
metric of M), one number for each block where that is positive.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.optimize.line_search import LineSearch, Point, WolfeOptions, strong_wolfe
from pypty.optimize.vector import BlockVector

Precondition = Callable[[BlockVector], BlockVector]
"""A symmetric positive definite map of gradients to steps."""

CURVATURE_FLOOR = 1e-10
"""A pair is kept only if <s, y> exceeds this fraction of |s| |y|."""


STILL = 1e-12
"""A block whose gradient changed, squared, by less than this fraction of the largest change kept has lost its slope."""

SCALE_FLOOR = 1e-6
"""A block's own scale is believed down to this fraction of that of all blocks. Below it the block did not move, and its
gradient changed because others did."""


@dataclass(frozen=True)
class Sample:
    """Value and gradient at a point, and whatever the caller wants to keep with them. The gradient is empty where only
    the value was needed."""

    value: float
    gradient: BlockVector
    info: Any = None


Function = Callable[[BlockVector, float], Sample]
"""The function at a point. Where its value is above the limit, the second argument, no gradient is needed: it may
be empty."""


@dataclass(frozen=True)
class Pair:
    """A step s and the change of gradient y along it."""

    s: BlockVector
    y: BlockVector

    @functools.cached_property
    def squares(self) -> dict[str, float]:
        """<y, y> of every block."""
        return self.y.dot_blocks(self.y)

    @property
    def rho(self) -> float:
        return 1 / self.s.dot(self.y)


@dataclass
class Step:
    """What one iteration did.

    Attributes
    ----------
    x, sample : the new point (the old one if the step was rejected)
    search : the line search, with all its trials
    slope : directional derivative at the start
    fell_back : the quasi-Newton direction did not descend and steepest descent was used
    """

    x: BlockVector
    sample: Sample
    search: LineSearch
    slope: float
    fell_back: bool = False

    @property
    def accepted(self) -> bool:
        return self.search.point is not None


@dataclass
class Lbfgs:
    """State of the optimiser: its pairs, oldest first.

    The inner products <s_i, y_j> of all pairs are kept, so that an iteration needs two rounds of inner products (those
    of the gradient and of the newest pair with all pairs, and those of the y_i with H0 q) instead of 4 m in sequence.
    """

    pairs: list[Pair] = field(default_factory=list)
    _products: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)

    def reset(self) -> None:
        """Forget the history."""
        self.pairs.clear()
        self._products.clear()

    def step(
        self,
        x: BlockVector,
        sample: Sample,
        function: Function,
        precondition: Precondition,
        hist_length: float,
        first_step: float,
        options: WolfeOptions,
    ) -> Step:
        """One iteration from ``x``, where ``sample`` is the function.

        Parameters
        ----------
        hist_length : number of pairs to keep; 0 gives preconditioned steepest descent, inf keeps all
        first_step : first trial of the line search
        """
        direction = self.direction(sample.gradient, precondition, hist_length)
        slope = direction.dot(sample.gradient)
        fell_back = slope >= 0 and bool(self.pairs)
        if fell_back:
            self.reset()
            direction = precondition(sample.gradient).scaled(-1.0)
            slope = direction.dot(sample.gradient)
        if not slope < 0 or not math.isfinite(slope):
            return Step(x, sample, LineSearch(reason="the gradient is zero"), slope, fell_back)

        def trial(step: float, limit: float) -> Point:
            new = function(x.plus(step, direction), limit)
            new_slope = direction.dot(new.gradient) if len(new.gradient) else math.nan
            return Point(step, new.value, new_slope, new)

        search = strong_wolfe(trial, Point(0.0, sample.value, slope), first_step, options)
        if search.point is None:
            return Step(x, sample, search, slope, fell_back)
        accepted: Sample = search.point.payload
        self._remember(
            direction.scaled(search.point.step), accepted.gradient.plus(-1.0, sample.gradient), hist_length
        )
        return Step(x.plus(search.point.step, direction), accepted, search, slope, fell_back)

    def direction(self, gradient: BlockVector, precondition: Precondition, hist_length: float) -> BlockVector:
        """-H gradient by the two-loop recursion (algorithm 7.4) over the newest ``hist_length`` pairs.

        Both loops run on numbers: q = g - sum alpha_i y_i and -d = H0 q + sum c_i s_i are put together at the end.
        """
        pairs = self.pairs[-int(min(hist_length, len(self.pairs))) :] if hist_length >= 1 else []
        s, y = [pair.s for pair in pairs], [pair.y for pair in pairs]
        sy = self._matrix(pairs)
        n = len(pairs)
        alphas, sg = np.zeros(n), gradient.dots(s)
        for i in reversed(range(n)):
            alphas[i] = (sg[i] - alphas[i + 1 :] @ sy[i, i + 1 :]) / sy[i, i]
        q = gradient.combined((-alphas).tolist(), y)
        r = precondition(q).scaled(self._scales(precondition)) if self.pairs else precondition(q)
        factors, yr = np.zeros(n), r.dots(y)
        for i in range(n):
            factors[i] = alphas[i] - (yr[i] + factors[:i] @ sy[:i, i]) / sy[i, i]
        return r.combined(factors.tolist(), s).scaled(-1.0)

    def _matrix(self, pairs: list[Pair]) -> np.ndarray:
        """<s_i, y_j>; only products with new pairs are computed."""
        known = {(a, b) for a in map(id, pairs) for b in map(id, pairs)} & self._products.keys()
        self._products = {key: self._products[key] for key in known}
        for a in pairs:
            missing = [b for b in pairs if (id(a), id(b)) not in known]
            for b, value in zip(missing, a.s.dots([b.y for b in missing]), strict=True):
                self._products[id(a), id(b)] = value
        products = [self._products[id(a), id(b)] for a in pairs for b in pairs]
        return np.array(products).reshape(len(pairs), len(pairs))

    def _scales(self, precondition: Precondition) -> dict[str, float]:
        """gamma of every block, from the newest pair in which its gradient changed; that of all blocks together where a
        block's own means nothing."""
        newest = self.pairs[-1]
        sy = newest.s.dot_blocks(newest.y)
        ymy = newest.y.dot_blocks(precondition(newest.y))
        common = sum(sy.values()) / max(sum(ymy.values()), 1e-300)
        scales = {}
        for name in sy:
            pair = self._moving(name)
            if pair is not newest:
                sy[name] = pair.s.dot_blocks(pair.y)[name]
                ymy[name] = pair.y.dot_blocks(precondition(pair.y))[name]
            own = sy[name] / ymy[name] if ymy[name] > 0 else 0.0
            scales[name] = own if SCALE_FLOOR * common < own < math.inf else common
        return scales

    def _moving(self, name: str) -> Pair:
        """The newest pair in which the gradient of a block changed by more than rounding."""
        largest = max(pair.squares[name] for pair in self.pairs)
        return next(pair for pair in reversed(self.pairs) if pair.squares[name] >= STILL * largest)

    def _remember(self, s: BlockVector, y: BlockVector, hist_length: float) -> None:
        """Append a pair whose curvature is positive beyond rounding; keep the newest ``hist_length``.

        One pair is kept even for ``hist_length`` 0: it gives the length of the next step (gamma), and no
        direction.
        """
        if s.dot(y) > CURVATURE_FLOOR * s.norm() * y.norm():
            self.pairs.append(Pair(s, y))
        while len(self.pairs) > max(hist_length, 1):
            self.pairs.pop(0)
