"""``loss_terms``: a sum of losses of data and object, as a likelihood or relative to the counts of a batch.

D = modelled counts (plus a floor), M = measured; sums run over the patterns of one evaluation and their pixels, with
the weights of the pixels; n is the sum of the weights.

additive
    single  w sum (D^g - M^g)^2
    poissn  -w sum (M^g ln(D^g + e) - D^g)
    pacbed  w (patterns) sum_k (<D>^g - <M>^g)^2, <> = mean over patterns
    The first two are sums over patterns, whatever the batches; the third grows with the number of patterns.
ratio
    PtyRAD's: single w sqrt(mean (D^g - M^g)^2) / mean M^g, poissn -w mean(M^g ln(D^g + e) - D^g) / mean M^g,
    pacbed w sqrt(mean_k (<D>^g - <M>^g)^2) / mean M^g. The patterns of an evaluation correspond to one batch of
    PtyRAD, however they are divided for the computation.

The value of each term, and the factors of its slope, are functions of a few sums. A single term of pixels takes one
pass over the patterns, and its gradient is multiplied by its factor in the end. Otherwise a first pass computes only
intensities and sums, and a second one the gradient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Array
from pypty.objective.object_terms import ObjectTerms, make_object_terms
from pypty.objective.powers import (
    FLOOR,
    POISSN,
    RAISED,
    SINGLE,
    WEIGHT,
    PowerDifference,
    PowerPoisson,
    PowerSum,
)

_TYPICAL = 0.4
"""The loss of single and pacbed, for the scale of the preconditioner: 0.2 to 0.5 on measured data."""


@dataclass(frozen=True)
class Sums:
    """Sums over pixels and patterns, from which the terms are computed.

    Attributes
    ----------
    totals : (N_SUMS,) in the columns of :mod:`pypty.objective.powers`
    patterns : (ky, kx) sums over patterns, by name (:data:`pypty.objective.powers.PATTERN_SUMS`); empty without pacbed
    """

    totals: np.ndarray
    patterns: Mapping[str, np.ndarray]

    @property
    def n(self) -> float:
        """Number of compared values, each counted by its weight."""
        return float(self.totals[WEIGHT])

    def mean_power(self, number: int) -> float:
        """mean M^g with the exponent of a term (0 single, 1 poissn, 2 pacbed); 1 if there are no counts."""
        return float(self.totals[RAISED + number]) / self.n or 1.0


def added_sums(parts: Iterable[Sums | None]) -> Sums | None:
    """The sums of several parts of the patterns, in their order; None if the noise model has none."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    patterns = {name: np.sum([part.patterns[name] for part in known], axis=0) for name in known[0].patterns}
    return Sums(np.sum([part.totals for part in known], axis=0), patterns)


@dataclass(frozen=True)
class Pacbed:
    """The loss of the mean pattern.

    Attributes
    ----------
    weight, power : w, g
    """

    weight: float
    power: float

    def square_and_slope(self, sums: Sums) -> tuple[float, np.ndarray]:
        """Q = sum_k W (<D>^g - <M>^g)^2, W = sum of the weights of a pixel, and dQ/dD of a pixel of weight 1."""
        weights = sums.patterns["weights"]
        # a masked pixel has weight 0 in every pattern: its means are set to 1 and 0, and its difference to 0
        safe = np.where(weights > 0, weights, 1)
        modelled = np.where(weights > 0, sums.patterns["modelled"], 1) / safe
        measured = sums.patterns["measured"] / safe
        difference = np.where(weights > 0, modelled**self.power - measured**self.power, 0)
        # d<D>/dD is w/W: the weight w of the pixel is multiplied later, and W cancels that of Q
        slope = 2 * self.power * difference * modelled ** (self.power - 1)
        return float((weights * difference**2).sum()), slope

    def curvature(self, mean_pattern: np.ndarray) -> float:
        """As ``single`` with the same exponent: an upper bound, since the mean varies less than single patterns."""
        return PowerDifference(self.weight, self.power).curvature(mean_pattern)


@dataclass(frozen=True)
class LossTerms:
    """The terms of a run.

    Attributes
    ----------
    noise : the additive terms of pixels, with their weights
    pacbed, objects : None = there are none
    ratio : relative to the counts of the batch
    """

    noise: PowerSum
    pacbed: Pacbed | None
    objects: ObjectTerms | None
    ratio: bool

    @property
    def two_passes(self) -> bool:
        """Whether slopes depend on sums over all patterns by more than a common factor."""
        # one ratio term alone has a common factor, which can follow in the end
        several = self.pacbed is not None or (self.ratio and len(self.noise.terms) > 1)
        return several and not self.noise.bounded

    @property
    def is_pixelwise(self) -> bool:
        """Whether the data term is a sum over pixels and patterns, so that a line search may compare parts of it."""
        return not self.ratio and self.pacbed is None

    def with_bounded_slope(self) -> LossTerms:
        """The same loss, with the slope of amplitudes (of weight 1, whatever the scale) and without that of the object
        terms: for steps of a fixed length."""
        return dataclasses.replace(self, noise=dataclasses.replace(self.noise, bounded=True))

    def values(self, sums: Sums) -> dict[str, float]:
        """Value of each data term, with its weight."""
        values = {}
        if self.noise.single is not None:
            values["single"] = self.noise.single.weight * self._root(float(sums.totals[SINGLE]), sums, 0)
        if self.noise.poissn is not None:
            # mean over values, over mean M^g
            scale = sums.n * sums.mean_power(1) if self.ratio else 1.0
            values["poissn"] = self.noise.poissn.weight * float(sums.totals[POISSN]) / scale
        if self.pacbed is not None:
            square = self.pacbed.square_and_slope(sums)[0]
            values["pacbed"] = self.pacbed.weight * self._root(square, sums, 2)
        return values

    def _root(self, square: float, sums: Sums, number: int) -> float:
        """The sum of squares; for a ratio, the root of their mean divided by the mean of M^g."""
        # sqrt(Q/n)/<M^g>
        return math.sqrt(square / sums.n) / sums.mean_power(number) if self.ratio else square

    def _root_slope(self, square: float, sums: Sums, number: int) -> float:
        """The derivative of :meth:`_root`; 0 for a perfect fit, where it is undefined."""
        if not self.ratio:
            return 1.0
        # d/dQ of sqrt(Q/n)/<M^g>
        return 0.5 / (math.sqrt(square * sums.n) * sums.mean_power(number)) if square > 0 else 0.0

    def _factors(self, sums: Sums) -> dict[int, float]:
        """Derivative of the value with respect to the sum of each term of pixels, by its column."""
        poissn = 1.0 / (sums.n * sums.mean_power(1)) if self.ratio else 1.0
        return {SINGLE: self._root_slope(float(sums.totals[SINGLE]), sums, 0), POISSN: poissn}

    def factor(self, sums: Sums) -> float:
        """Factor of a gradient that was summed up in a single pass."""
        if self.noise.bounded or not self.ratio:
            return 1.0
        return self._factors(sums)[self.noise.terms[0][0]]

    def with_slopes(self, sums: Sums) -> PowerSum:
        """The terms for the second pass: with their factors, and the slope of the mean pattern (arrays on the host)."""
        found = self._factors(sums)
        # a term that there is not has no factor
        present = [column for column, _ in self.noise.terms]
        factors = np.array([found[column] if column in present else 1.0 for column in (SINGLE, POISSN)])
        shared = None
        if self.pacbed is not None:
            square, slope = self.pacbed.square_and_slope(sums)
            shared = self.pacbed.weight * self._root_slope(square, sums, 2) * slope
        return dataclasses.replace(self.noise, pacbed_power=None, factors=factors, shared=shared)

    def of_object(
        self, obj: Array, crop_origins: np.ndarray, chunk: int, wanted: bool
    ) -> tuple[dict[str, float], Array]:
        """Value of each term of the object, and their gradient if it is wanted; None if it has none."""
        if self.objects is None:
            return {}, None
        return self.objects.values_and_gradient(obj, crop_origins, chunk, wanted and not self.noise.bounded)

    def curvature(self, mean_pattern: np.ndarray, n: int) -> float:
        """Scale of the preconditioner (:class:`pypty.objective.noise.NoiseModel`), from the data terms.

        For a ratio it holds at a loss of :data:`_TYPICAL`; at others the optimiser finds the scale itself.

        Parameters
        ----------
        n : compared values
        """
        curvature = 0.0
        terms = ((self.noise.single, True), (self.pacbed, True), (self.noise.poissn, False))
        for term, is_root in terms:
            if term is not None:
                mean = float((mean_pattern**term.power).mean()) or 1.0
                # the root r has the slope 1/(2 r): divided by twice a typical r
                typical = 2 * _TYPICAL * mean if is_root else 1.0
                curvature += term.curvature(mean_pattern) / (n * mean * typical if self.ratio else 1.0)
        return curvature


def make_loss_terms(
    loss_terms: Mapping[str, Mapping[str, Any]],
    *,
    scale: str,
    dark: float,
    window: tuple[int, int],
    mode_weights: np.ndarray | None = None,
    deterministic: bool = False,
    pixels: float = 1.0,
) -> LossTerms:
    """The terms that the parameters ask for; terms of weight 0 are left out.

    Parameters
    ----------
    loss_terms, scale : ``loss_terms``, ``loss_scale``
    dark : counts below which an intensity is only rounding
    window : (y, x) pixels of a patch of the object
    mode_weights : ``obj_mode_weights``; None = equal weights that sum to 1
    deterministic : on a GPU, the same bits every time
    pixels : model pixels per compared pixel; each adds its floor
    """
    floor = pixels * FLOOR
    used = {name: entry for name, entry in loss_terms.items() if entry["weight"] > 0}
    single, poissn, pacbed = (used.get(name) for name in ("single", "poissn", "pacbed"))
    noise = PowerSum(
        single=None if single is None else PowerDifference(single["weight"], single["dp_pow"], dark, floor),
        poissn=None
        if poissn is None
        else PowerPoisson(poissn["weight"], poissn["dp_pow"], poissn["eps"], dark, floor),
        dark=dark,
        pacbed_power=None if pacbed is None else pacbed["dp_pow"],
        floor=floor,
    )
    objects = make_object_terms(used, scale == "ratio", window, mode_weights, deterministic)
    mean = None if pacbed is None else Pacbed(pacbed["weight"], pacbed["dp_pow"])
    return LossTerms(noise, mean, objects, scale == "ratio")
