"""Limited-memory BFGS over blocks, with a preconditioner as initial inverse Hessian.

Nocedal and Wright, Numerical Optimization, 2nd ed., algorithms 7.4 (two-loop recursion) and 7.5 (L-BFGS). Their
symbols are used: s_k = x_{k+1} - x_k, y_k = grad f_{k+1} - grad f_k, rho_k = 1/<s_k, y_k>, H_k^0 the initial inverse
Hessian. Here H_k^0 = gamma_k M, with the preconditioner M of the caller and gamma_k = <s, y>/<y, M y> of the newest
pair (eq. 7.20 in the metric of M), a separate gamma_k for each block where it is positive.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.optimize.line_search import LineSearch, Point, WolfeOptions, strong_wolfe
from pypty.optimize.vector import BlockVector, inner_products

Precondition = Callable[[BlockVector], BlockVector]
"""A symmetric positive definite map of gradients to steps."""

CURVATURE_FLOOR = 1e-10
"""A pair is kept only if <s, y> exceeds this fraction of |s| |y| (curvature condition, eq. 6.7)."""

STILL = 1e-12
"""A block did not move in a pair whose <y, y> is less than this fraction of the largest <y, y> of that block."""

SCALE_FLOOR = 1e-6
"""Smallest credible ratio of a block's gamma_k to that of all blocks together. Below it the block did not move, and its
gradient changed only because other blocks did."""


@dataclass(frozen=True)
class ValueAndGradient:
    """Value and gradient at a point, with ``info`` for the caller. The gradient is empty where only the value was
    needed."""

    value: float
    gradient: BlockVector
    info: Any = None


Keep = Callable[[BlockVector], BlockVector]
"""Where vectors of the history are kept: the same vector, perhaps in other memory."""

Function = Callable[[BlockVector, float], ValueAndGradient]
"""f(x, limit): the function at x. Where its value exceeds the limit the gradient is not needed and may be empty."""


@dataclass(frozen=True)
class Pair:
    """A step s_k and the change y_k of the gradient along it."""

    s: BlockVector
    y: BlockVector

    @functools.cached_property
    def products(self) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """<s, y>, <s, s> and <y, y> of every block."""
        sy, ss, yy = inner_products([(self.s, self.y), (self.s, self.s), (self.y, self.y)])
        return sy, ss, yy

    @property
    def squares(self) -> dict[str, float]:
        """<y, y> of every block."""
        return self.products[2]

    @property
    def is_curved(self) -> bool:
        """Whether <s, y> is positive beyond rounding."""
        sy, s, y = (float(sum(blocks.values())) for blocks in self.products)
        return sy > CURVATURE_FLOOR * float(np.sqrt(s)) * float(np.sqrt(y))

    def kept_by(self, keep: Keep) -> Pair:
        """The same pair in the memory where vectors are kept."""
        pair = Pair(keep(self.s), keep(self.y))
        pair.__dict__["products"] = self.products  # computed while the vectors were here
        return pair

    @property
    def rho(self) -> float:
        """rho_k = 1/<s_k, y_k> (eq. 7.17)."""
        return 1 / self.s.dot(self.y)


@dataclass(kw_only=True)
class Step:
    """The outcome of one iteration.

    Attributes
    ----------
    x, sample : the new point and the function there (the old ones if the step was rejected)
    search : the line search, with all its trials
    slope : directional derivative <p_k, grad f_k> at the start
    fell_back : the quasi-Newton direction did not descend and preconditioned steepest descent was used
    squares : <s_k, s_k> of every block; empty if the step was rejected
    """

    x: BlockVector
    sample: ValueAndGradient
    search: LineSearch
    slope: float
    fell_back: bool = False
    squares: dict[str, float] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        return self.search.point is not None


@dataclass
class Lbfgs:
    """State of the optimiser: its m pairs (s_k, y_k), oldest first.

    The inner products <s_i, y_j> of all pairs are kept, so that an iteration needs two rounds of inner products
    (<s_i, gradient> and those of the newest pair, then <y_i, H_k^0 q>) instead of 4 m products in sequence. On a GPU
    each round costs one wait.
    """

    pairs: list[Pair] = field(default_factory=list)
    _products: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)

    def reset(self) -> None:
        """Forget the history."""
        self.pairs.clear()
        self._products.clear()

    def keep_pairs(self, keep: Keep) -> None:
        """Keep all pairs where new ones are kept."""
        kept = [keep(pair.s) for pair in self.pairs]
        self.pairs = [
            pair if s is pair.s else Pair(s, keep(pair.y)) for pair, s in zip(self.pairs, kept, strict=True)
        ]

    def step(
        self,
        x: BlockVector,
        sample: ValueAndGradient,
        function: Function,
        precondition: Precondition,
        hist_length: float,
        first_step: float,
        options: WolfeOptions,
        keep: Keep = lambda vector: vector,
    ) -> Step:
        """One iteration from ``x`` (algorithm 7.5).

        Parameters
        ----------
        sample : the function at ``x``
        hist_length : number m of pairs to keep; 0 gives preconditioned steepest descent, inf keeps all
        first_step : first trial of the line search
        keep : where a new pair is kept
        """
        direction = self.direction(sample.gradient, precondition, hist_length)  # p_k = -H_k grad f_k
        slope = direction.dot(sample.gradient)
        fell_back = slope >= 0 and bool(self.pairs)
        if fell_back:
            # H_k is positive definite in exact arithmetic; rounding, or a preconditioner that changed between epochs,
            # can spoil it. The pairs are of no use then.
            self.reset()
            direction = precondition(sample.gradient).scaled(-1.0)
            slope = direction.dot(sample.gradient)
        if not slope < 0 or not math.isfinite(slope):
            still = LineSearch(reason="the gradient is zero")
            return Step(x=x, sample=sample, search=still, slope=slope, fell_back=fell_back)

        def trial(step: float, limit: float) -> Point:
            new = function(x.plus(step, direction), limit)
            new_slope = direction.dot(new.gradient) if len(new.gradient) else math.nan
            return Point(step, new.value, new_slope, new)

        search = strong_wolfe(trial, Point(0.0, sample.value, slope), first_step, options)
        if search.point is None:
            return Step(x=x, sample=sample, search=search, slope=slope, fell_back=fell_back)
        accepted: ValueAndGradient = search.point.payload
        # s_k and y_k have no names here, so that they go where their pair is kept elsewhere
        squares = self._remember(
            Pair(direction.scaled(search.point.step), accepted.gradient.plus(-1.0, sample.gradient)),
            hist_length,
            keep,
        )
        return Step(
            x=x.plus(search.point.step, direction),
            sample=accepted,
            search=search,
            slope=slope,
            fell_back=fell_back,
            squares=squares,
        )

    def direction(self, gradient: BlockVector, precondition: Precondition, hist_length: float) -> BlockVector:
        """-H_k gradient by the two-loop recursion (algorithm 7.4) over the newest ``hist_length`` pairs.

        Both loops run on numbers instead of vectors: with <s_i, y_j> known, alpha_i and beta_i follow by substitution,
        and q = gradient - sum alpha_i y_i and r = H_k^0 q + sum (alpha_i - beta_i) s_i are each computed in one
        pass over the memory.
        """
        pairs = self.pairs[-int(min(hist_length, len(self.pairs))) :] if hist_length >= 1 else []
        s, y = [pair.s for pair in pairs], [pair.y for pair in pairs]
        sy, sg = self._inner_products(pairs, gradient)  # (m, m) and (m,); sy[i, i] = 1/rho_i
        m = len(pairs)
        # First loop, newest pair first: alpha_i = rho_i <s_i, q>.
        alpha = np.zeros(m)
        for i in reversed(range(m)):
            alpha[i] = (sg[i] - alpha[i + 1 :] @ sy[i, i + 1 :]) / sy[i, i]
        q = gradient.combined((-alpha).tolist(), y)
        # r = H_k^0 q
        r = precondition(q).scaled(self._gammas(precondition)) if self.pairs else precondition(q)
        # Second loop, oldest pair first: beta_i = rho_i <y_i, r>.
        alpha_minus_beta, yr = np.zeros(m), r.dots(y)
        for i in range(m):
            beta = (yr[i] + alpha_minus_beta[:i] @ sy[:i, i]) / sy[i, i]
            alpha_minus_beta[i] = alpha[i] - beta
        return r.combined(alpha_minus_beta.tolist(), s).scaled(-1.0)

    def _inner_products(self, pairs: list[Pair], gradient: BlockVector) -> tuple[np.ndarray, list[float]]:
        """(m, m) matrix of <s_i, y_j>, and <s_i, gradient>; of the matrix only products with new pairs are computed."""
        known = {(a, b) for a in map(id, pairs) for b in map(id, pairs)} & self._products.keys()
        self._products = {key: self._products[key] for key in known}
        missing = [(a, b) for a in pairs for b in pairs if (id(a), id(b)) not in known]
        wanted = [(a.s, b.y) for a, b in missing] + [(gradient, pair.s) for pair in pairs]
        values = [sum(blocks.values()) for blocks in inner_products(wanted)]
        for (a, b), value in zip(missing, values, strict=False):
            self._products[id(a), id(b)] = value
        products = [self._products[id(a), id(b)] for a in pairs for b in pairs]
        return np.array(products).reshape(len(pairs), len(pairs)), values[len(missing) :]

    def _gammas(self, precondition: Precondition) -> dict[str, float]:
        """gamma_k of every block, from the newest pair in which its gradient changed; that of all blocks together where
        the block has no usable value.

        Blocks have different units, and some rest while others move, so that a common gamma_k would be dominated by
        the block with the largest <s, y>.
        """
        newest = self.pairs[-1]
        sy = dict(newest.products[0])
        ymy = newest.y.dot_blocks(precondition(newest.y))
        common = sum(sy.values()) / max(sum(ymy.values()), 1e-300)
        gammas = {}
        for name in sy:
            pair = self._newest_moving(name)
            if pair is not newest:
                sy[name] = pair.products[0][name]
                ymy[name] = pair.y.dot_blocks(precondition(pair.y))[name]
            gamma = sy[name] / ymy[name] if ymy[name] > 0 else 0.0
            gammas[name] = gamma if SCALE_FLOOR * common < gamma < math.inf else common
        return gammas

    def _newest_moving(self, name: str) -> Pair:
        """The newest pair in which the gradient of a block changed by more than rounding."""
        largest = max(pair.squares[name] for pair in self.pairs)
        return next(pair for pair in reversed(self.pairs) if pair.squares[name] >= STILL * largest)

    def _remember(self, pair: Pair, hist_length: float, keep: Keep) -> dict[str, float]:
        """Append a pair whose curvature is positive beyond rounding; keep the newest ``hist_length``. Returns <s, s> of
        every block.

        One pair is kept even for ``hist_length`` 0: it gives the length of the next step (gamma_k), and no
        direction.
        """
        # The strong Wolfe conditions make <s, y> positive; a step with sufficient decrease alone need not.
        if pair.is_curved:
            self.pairs.append(pair.kept_by(keep))
        while len(self.pairs) > max(hist_length, 1):
            self.pairs.pop(0)
        return pair.products[1]
