"""What a misfit looks like, and what to try: from the numbers of a fit to the sentences of a microscopist.

Every rule was found on simulated data of several specimens and doses with one fault at a time (docs/trust.md has the
table); limits lie between the right models and the faults.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.ndimage import label, percentile_filter

from pypty.trust.advice import (
    ADVICE,
    BAND_LIMIT,
    BLUR,
    COHERENCE,
    DARK_FIELD,
    FEW_DATA,
    FIXED_PROBE,
    GAIN,
    GEOMETRY,
    NOT_CONVERGED,
    PIXELS,
    POSITIONS,
    PROBE,
    SMALL_MISFIT,
    THICKNESS,
    WRONG_MODEL,
)
from pypty.trust.quality import BRIGHT, DARK, EDGE, FitQuality

SIGMAS = 5.0
"""A number counts as different from that of a right model if it differs by this many standard deviations, and by more
than its limit."""
RATIO, RATIO_BAD = 0.03, 0.15
"""Deviance above that of a right model, in units of the expectation: of all pixels, or of a region."""
PIX, PIX_BAD = 0.015, 0.03
"""Correlation of the residuals of neighbouring pixels where counts are many; for few counts the same error of the model
gives less (:func:`pix_limit`)."""
_PIX_PER_COUNT = 3e-4
_WRONG_PIX = 0.3
"""Correlation of neighbouring pixels above which hardly anything of the patterns is described."""
SCAN = 0.03
"""Correlation of the residuals of neighbouring positions."""
SPREAD = 0.03
"""Excess of the 95th percentile of the patterns' deviances over the median, beyond what noise gives."""
BEYOND, BEYOND_BAD = 0.01, 0.05
"""Share of the counts beyond the band limit."""
CONVERGED = 0.003
"""Relative decrease of the deviance in the last epoch above which a run has not converged."""
FEWEST_DATA = 0.7
"""Ratio of a right model after fitting below which its unknowns are too many for the data."""
_GAIN = 0.15
_GAIN_COUNTS = 0.1
"""Counts per pixel below which a deviance in units of its expectation does not tell a gain."""
_GAIN_IS_EVEN = 0.25
_GAIN_SPREAD = 0.1
_NORMAL_95 = 1.645
"""The 95th percentile of a normal distribution, in standard deviations."""
_ALONE_RATIO, _ALONE_SIGMAS, _ALONE_SHARE, _ALONE_SIZE = 2.0, 10.0, 0.1, 3
_AROUND, _MOST = 7, 90
_EDGE_ABOVE_BRIGHT = 4.0
_STATIC = 0.3
_POSITION_SCAN = 0.15
_POSITION_SPREAD, _ALIKE_SIGMAS = 0.3, 3.0
_COHERENCE_EDGE, _COHERENCE_DARK = 1.2, 1.02
_DARK_ALONE = 2.0
_THICK_SHARE = 0.03
"""Share of the electrons outside the bright field above which a specimen may be thick: a monolayer of MoS2 scatters
1.3 % there, 156 Å of SrTiO3 5.5 %."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known of the run beside the fit.

    Attributes
    ----------
    probe_refined : whether the probe was refined in the last epoch
    slices : number of slices of the model
    falling : decrease of the deviance in the last epoch, relative to what it is now; NaN if it is not known
    """

    probe_refined: bool = True
    slices: int = 1
    falling: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A likely cause of a misfit.

    Attributes
    ----------
    kind : one of :data:`ADVICE`
    text : what is seen
    advice : what to try, in names of parameters and functions
    numbers : what it was found from
    """

    kind: str
    text: str
    advice: str
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.text} Try: {self.advice}."


@dataclass(frozen=True, kw_only=True)
class Excess:
    """A fit in numbers that are 0 for a right model, whatever the dose.

    Attributes
    ----------
    ratio : deviance beyond that of a right model after fitting, over all pixels, in units of the expectation
    bright, edge, dark : the same by regions; 0 where there is no such region
    spread : 95th percentile of the patterns' deviances over their median, minus 1, without the share of noise
    pix : correlation of neighbouring pixels in units of its limit
    """

    ratio: float
    bright: float
    edge: float
    dark: float
    spread: float
    pix: float

    @classmethod
    def of(cls, fit: FitQuality) -> Excess:
        """Numbers that are not significant are 0; so are deviances of data that are no counts."""
        regions = {
            name: _beyond_noise(region.ratio - fit.ratio_fitted, region.error)
            for name, region in fit.regions.items()
            if fit.counts
        }
        limit = pix_limit(fit)
        return cls(
            ratio=_beyond_noise(fit.ratio - fit.ratio_fitted, fit.ratio_error) if fit.counts else 0.0,
            bright=regions.get(BRIGHT, 0.0),
            edge=regions.get(EDGE, 0.0),
            dark=regions.get(DARK, 0.0),
            spread=spread_beyond_noise(fit),
            pix=fit.pix / limit if math.isfinite(fit.pix) else 0.0,
        )

    @property
    def deviance(self) -> float:
        """The largest of the deviances: a fault in the bright field hardly changes the sum over all pixels. The edge is
        left out: a pixel there is partly inside the aperture, and fits last."""
        return max(self.ratio, self.bright, self.dark)


def _beyond_noise(value: float, error: float) -> float:
    return value if math.isfinite(value) and abs(value) > SIGMAS * error else 0.0


def pix_limit(fit: FitQuality) -> float:
    """Correlation of neighbouring pixels up to which a model is right: less for few counts, where noise hides errors,
    but never less than noise can give."""
    noise = SIGMAS * fit.pix_error if math.isfinite(fit.pix_error) else 0.0
    return max(noise, min(PIX, _PIX_PER_COUNT * fit.counts_per_pixel)) if fit.counts else max(noise, PIX)


def spread_beyond_noise(fit: FitQuality) -> float:
    """p95/median of the patterns' deviances, over what noise gives, minus 1; 0 for fewer than twenty patterns."""
    errors = fit.pattern_error[np.isfinite(fit.pattern_ratio)]
    if len(errors) < 20 or not fit.pattern_median > 0:
        return 0.0
    noise = float(np.median(errors))
    # a percentile of n numbers of a normal distribution is uncertain by about 2 sigma/sqrt(n)
    uncertain = 2 * noise / math.sqrt(len(errors))
    excess = fit.pattern_spread / (1 + _NORMAL_95 * noise / fit.pattern_median) - 1
    return _beyond_noise(excess, uncertain / SIGMAS * 3)


def lonely_pixels(fit: FitQuality) -> tuple[int, float]:
    """Number of single pixels that fit much worse than those around them, and their share of the excess deviance."""
    ratio = fit.detector_ratio
    if min(ratio.shape) < _AROUND:
        return 0, 0.0
    known = np.isfinite(ratio) & (fit.detector_error > 0)
    # above most of its neighbours: a ring of misfit at the edge of the disk is no set of single pixels
    around = percentile_filter(np.where(known, ratio, 1.0), _MOST, _AROUND, mode="nearest")
    excess = np.where(known, ratio - around, 0.0)
    sure = np.zeros(ratio.shape, bool)
    sure[known] = excess[known] > _ALONE_SIGMAS * fit.detector_error[known]
    groups, _ = label(sure & (ratio > _ALONE_RATIO * np.maximum(around, 1.0)), np.ones((3, 3)))
    small = np.flatnonzero(np.bincount(groups.ravel()) <= _ALONE_SIZE)
    alone = np.isin(groups, small[small > 0])
    total = float(((ratio - fit.ratio_fitted) * fit.detector_expected)[known].sum())
    share = float((excess * fit.detector_expected)[alone].sum())
    return int(alone.sum()), share / total if total > 0 else 0.0


def signatures(fit: FitQuality, context: Context | None = None) -> tuple[Signature, ...]:
    """Likely causes of a misfit, the most likely first; none for a fit without one.

    Parameters
    ----------
    context : what else is known of the run
    """
    context = Context() if context is None else context
    excess = Excess.of(fit)
    seen = {kind: numbers for kind, rule in _RULES.items() if (numbers := rule(fit, excess, context))}
    if PIXELS in seen:
        seen.pop(GAIN, None)
    if PROBE in seen:
        seen.pop(FIXED_PROBE, None)
    if GAIN in seen:
        # the strength of the noise raises every ratio
        seen = {kind: numbers for kind, numbers in seen.items() if kind not in _ABOUT_RATIOS}
    # what has a name is not said again without one
    if set(seen) - {SMALL_MISFIT, BAND_LIMIT} and SMALL_MISFIT in seen:
        del seen[SMALL_MISFIT]
    return tuple(
        Signature(kind=kind, text=ADVICE[kind][0], advice=ADVICE[kind][1], numbers=numbers)
        for kind, numbers in seen.items()
    )


def _pixels(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    if _edge_stands_out(excess):  # a wrong aperture misses single pixels all around the disk
        return {}
    number, share = lonely_pixels(fit)
    return {"pixels": number, "share": share} if number and share > _ALONE_SHARE else {}


def _gain(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    """Every region has the same ratio, and residuals are independent. Of few counts a ratio says little."""
    if not fit.counts or fit.ratio_fitted < FEWEST_DATA or fit.counts_per_pixel < _GAIN_COUNTS:
        return {}
    region = fit.regions.get(BRIGHT)
    # how much of the noise is fitted in the bright field depends on what the unknowns do: none of it, or its share
    most = fit.ratio_fitted if region is None else 1.0
    ratio, error = (fit.ratio, fit.ratio_error) if region is None else (region.ratio, region.error)
    if not ratio > 0:
        return {}
    gain = ratio / min(max(ratio, fit.ratio_fitted), most)
    edge = fit.regions.get(EDGE)
    uneven = 0.0 if edge is None else abs(edge.ratio - ratio) / ratio
    # noise that is stronger spreads the patterns' deviances, too
    even = excess.spread < 2 * SPREAD + _GAIN_SPREAD * abs(gain - 1)
    independent = excess.pix < 1 and not abs(fit.scan) > SCAN and even
    if independent and abs(gain - 1) > _GAIN + SIGMAS * error and uneven < _GAIN_IS_EVEN:
        return {"gain": gain}
    return {}


def _edge_stands_out(excess: Excess) -> bool:
    return excess.edge > RATIO_BAD and excess.edge > _EDGE_ABOVE_BRIGHT * max(excess.bright, RATIO)


def _blur(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    if _edge_stands_out(excess) and fit.regions[EDGE].static < _STATIC:
        return {"edge": fit.regions[EDGE].ratio, "static": fit.regions[EDGE].static}
    return {}


def _probe(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    static = fit.regions[EDGE].static if EDGE in fit.regions else 0.0
    if excess.edge > RATIO_BAD and static > _STATIC and fit.scan > SCAN:
        return {"edge": excess.edge, "static": static, "scan": fit.scan}
    return {}


def _fixed_probe(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"pix": fit.pix} if not context.probe_refined and excess.pix > 1 else {}


def _positions(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    alike = fit.scan > max(_POSITION_SCAN * fit.pix, _ALIKE_SIGMAS * fit.scan_error)
    unequal = excess.spread > max(SPREAD, _POSITION_SPREAD * excess.ratio)
    if unequal and not alike and excess.pix > 1:
        return {"spread": fit.pattern_spread, "scan": fit.scan, "pix": fit.pix}
    return {}


def _coherence(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    if DARK not in fit.regions or EDGE not in fit.regions or excess.pix < 1:
        return {}
    more = fit.regions[DARK].counts_ratio
    significant = more - 1 > SIGMAS * fit.regions[DARK].counts_error
    smoother = excess.edge > _COHERENCE_EDGE * max(excess.bright, RATIO) and more > _COHERENCE_DARK
    return {"edge": excess.edge, "dark counts": more} if smoother and significant else {}


def _wrong_model(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"pix": fit.pix, "scan": fit.scan} if fit.pix > _WRONG_PIX else {}


def _thickness(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    scattered = fit.regions[DARK].share if DARK in fit.regions else 0.0
    if context.slices == 1 and scattered > _THICK_SHARE and fit.pix > _WRONG_PIX:
        return {"share": scattered, "pix": fit.pix}
    return {}


def _geometry(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"pix": fit.pix, "scan": fit.scan} if excess.pix > 1 and fit.pix <= _WRONG_PIX else {}


def _dark(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    if excess.dark > RATIO and excess.dark > _DARK_ALONE * max(excess.bright, 0.0):
        return {"dark field": fit.regions[DARK].ratio}
    return {}


def _band_limit(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"share": fit.beyond} if fit.beyond > BEYOND else {}


def _few_data(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"unknowns": fit.unknowns, "ratio": fit.ratio_fitted} if fit.ratio_fitted < FEWEST_DATA else {}


def _not_converged(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"falling": context.falling} if context.falling > CONVERGED else {}


def _small(fit: FitQuality, excess: Excess, context: Context) -> dict[str, float]:
    return {"excess": excess.deviance} if fit.counts and excess.deviance > RATIO else {}


_Rule = Callable[[FitQuality, Excess, Context], dict[str, Any]]
_RULES: Mapping[str, _Rule] = MappingProxyType(
    {
        PIXELS: _pixels,
        GAIN: _gain,
        BLUR: _blur,
        PROBE: _probe,
        POSITIONS: _positions,
        COHERENCE: _coherence,
        DARK_FIELD: _dark,
        WRONG_MODEL: _wrong_model,
        THICKNESS: _thickness,
        GEOMETRY: _geometry,
        FIXED_PROBE: _fixed_probe,
        BAND_LIMIT: _band_limit,
        FEW_DATA: _few_data,
        NOT_CONVERGED: _not_converged,
        SMALL_MISFIT: _small,
    }
)
"""In the order of their certainty: each rule leaves out what those above it explain better."""
_ABOUT_RATIOS = (SMALL_MISFIT, DARK_FIELD)
