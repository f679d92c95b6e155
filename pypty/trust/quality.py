"""The numbers that say how well the model of a reconstruction describes its data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BRIGHT, EDGE, DARK = "bright field", "edge", "dark field"
REGIONS = (BRIGHT, EDGE, DARK)
"""Parts of the detector, by the distance from the centre of the bright-field disk in units of its radius: below 0.95,
up to 1.1, and beyond."""
_WORST = 10


@dataclass(frozen=True, kw_only=True)
class RegionFit:
    """The fit in a part of the detector.

    Attributes
    ----------
    pixels : number of detector pixels
    share : share of the measured counts
    ratio : deviance in units of its expectation (:class:`FitQuality`)
    error : standard deviation of the ratio of a right model, from noise
    counts_ratio : measured counts / modelled counts
    counts_error : its standard deviation, from noise
    static : share of the squared residuals that all patterns have in common: 1/n for noise, 1 where the mean pattern
        explains all of the misfit
    """

    pixels: int
    share: float
    ratio: float
    error: float
    counts_ratio: float
    counts_error: float
    static: float


@dataclass(frozen=True, kw_only=True)
class FitQuality:
    """How well a model describes the patterns that it was fitted to (docs/trust.md).

    The *deviance* of a pixel is twice the difference between the log-likelihoods of the best possible model and of this
    one, for counts with Poisson noise. Its sum is given in units of what a right model has on average, so that 1 means
    that the data differ from the model by noise alone, at every dose. Fitting lowers it, since noise is fitted, too.

    NaN stands for a number that these data do not give, as for neighbouring pixels of virtual detectors.

    Attributes
    ----------
    counts : whether the data are whole numbers of counts, or their gain is known. Else deviances have no expected
        value, and ratios are not judged
    ratio : deviance in units of its expectation, over all used pixels of all fitted patterns
    ratio_error : standard deviation of the ratio of a right model, from noise
    ratio_fitted : ratio that a right model has after its unknowns were fitted to the noise, estimated from their
        number; 0 where they are as many as the data, and nothing can be told
    free : as ``ratio``, over the pixels that were not fitted (``free_pixels``); NaN without such pixels
    free_error : standard deviation of ``free`` for a right model, from noise
    unknowns : number of real numbers that were refined, inside the band limit, where the probe has been
    regions : the fit by parts of the detector (:data:`REGIONS`); empty where there is no bright-field disk
    counts_per_pixel : mean measured counts of a used pixel of a pattern
    beyond : share of the counts on pixels where the model can have none (the band limit)
    indices : (n,) the fitted patterns
    positions_A : (n, 2) their scan positions [y, x], Å
    pattern_ratio : (n,) deviance of each pattern in units of its expectation; NaN for a pattern without used pixels
    pattern_error : (n,) standard deviation of that ratio for a right model, from noise
    pix : correlation of the residuals (D - I)/sqrt(I) of neighbouring pixels, along kx and ky; 0 for noise
    pix_error : its standard deviation for a right model
    scan : correlation of the residuals of the same pixel at neighbouring positions of the scan; 0 for noise
    scan_error : its standard deviation for a right model
    detector_ratio : (ky, kx) deviance of each pixel in units of its expectation, zero frequency at n//2; NaN where it
        is not used; (1, D) for virtual detectors
    detector_residual : (ky, kx) difference of the mean pattern and the mean model, in standard deviations
    detector_error : (ky, kx) standard deviation of ``detector_ratio`` for a right model, from noise
    detector_expected : (ky, kx) expected deviance, by which the ratios are weighted
    """

    counts: bool
    ratio: float
    ratio_error: float
    ratio_fitted: float
    free: float = math.nan
    free_error: float = math.nan
    unknowns: int
    regions: Mapping[str, RegionFit] = field(default_factory=dict)
    counts_per_pixel: float
    beyond: float
    indices: np.ndarray
    positions_A: np.ndarray
    pattern_ratio: np.ndarray
    pattern_error: np.ndarray
    pix: float
    pix_error: float
    scan: float
    scan_error: float
    detector_ratio: np.ndarray
    detector_residual: np.ndarray
    detector_error: np.ndarray
    detector_expected: np.ndarray

    @property
    def pattern_median(self) -> float:
        """Median of ``pattern_ratio``; NaN where no pattern has one."""
        known = self._known_ratios()
        return float(np.median(known)) if len(known) else math.nan

    @property
    def pattern_spread(self) -> float:
        """95th percentile of ``pattern_ratio`` over its median; NaN where that is not positive."""
        median = self.pattern_median
        return float(np.percentile(self._known_ratios(), 95) / median) if median > 0 else math.nan

    @property
    def worst(self) -> np.ndarray:
        """Indices of the (at most ten) patterns that fit worst, the worst first; patterns without a ratio are none."""
        order = np.argsort(-self.pattern_ratio, kind="stable")  # NaN comes last
        return self.indices[order[: min(_WORST, len(self._known_ratios()))]]

    @property
    def fitted_text(self) -> str:
        """``ratio_fitted`` in words."""
        return f"about {self.ratio_fitted:.3f}" if self.ratio_fitted > 0 else "no known one: too few data"

    def _known_ratios(self) -> np.ndarray:
        """Those of the patterns that have one: all pixels of a pattern may have weight 0."""
        return self.pattern_ratio[np.isfinite(self.pattern_ratio)]

    def numbers(self) -> dict[str, Any]:
        """All numbers as plain values, for JSON; None for NaN. Maps over the detector are left out."""
        plain: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, (np.ndarray, Mapping)):
                plain[item.name] = _plain(value)
        plain["regions"] = {
            name: {key: _plain(value) for key, value in vars(region).items()}
            for name, region in self.regions.items()
        }
        plain |= {name: _plain(getattr(self, name)) for name in ("pattern_median", "pattern_spread")}
        plain |= {name: getattr(self, name).tolist() for name in ("worst", "indices")}
        plain["pattern_ratio"] = [_plain(value) for value in self.pattern_ratio.tolist()]
        return plain

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by path ("ratio", "regions/edge/ratio", ...), as in files."""
        out: dict[str, np.ndarray] = {}
        for item in dataclasses.fields(self):
            if item.name != "regions":
                out[item.name] = np.asarray(getattr(self, item.name))
        for name, region in self.regions.items():
            out |= {f"regions/{name}/{key}": np.asarray(value) for key, value in vars(region).items()}
        return out

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> FitQuality:
        """Inverse of :meth:`arrays`; raises KeyError if something is missing."""
        values = {
            item.name: _restored(item.type, arrays[item.name])
            for item in dataclasses.fields(cls)
            if item.name != "regions"
        }
        regions = {}
        for name in REGIONS:
            if f"regions/{name}/ratio" in arrays:
                regions[name] = RegionFit(
                    **{
                        item.name: _restored(item.type, arrays[f"regions/{name}/{item.name}"])
                        for item in dataclasses.fields(RegionFit)
                    }
                )
        return cls(**values, regions=regions)


def _plain(value: Any) -> Any:
    """A number as JSON has it."""
    if isinstance(value, (bool, int)):
        return value
    return float(value) if np.isfinite(value) else None


def _restored(kind: Any, array: np.ndarray) -> Any:
    """An array from a file as the type that a field has."""
    return {"bool": bool, "int": int, "float": float}.get(str(kind), np.asarray)(array)
