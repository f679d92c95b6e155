"""The mean pattern on the pixels of the waves, and the counts for the starting probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.scan import sort_sequence
from pypty.data.sources import PatternSource
from pypty.data.survey import Survey, aligned_mean
from pypty.data.window import Window
from pypty.engine.setup.start_probe import Counts
from pypty.model.options import TILT_MODES
from pypty.optics.grid import Grid
from pypty.params.settings import Settings

_ALIGNED_PATTERNS = 1000


@dataclass(frozen=True, kw_only=True)
class MeanPatterns:
    """Mean counts and weights of the patterns, in the window of the model.

    Attributes
    ----------
    settings, source, grid, preprocess, survey, n_patterns, window : as of a ``Setup``
    multiplier : factor of every count
    crop : pixels of the model's rim that are not compared with data
    """

    settings: Settings
    source: PatternSource | None
    grid: Grid
    preprocess: Preprocess
    survey: Survey | None
    n_patterns: int
    window: Window
    multiplier: float
    crop: int

    def mean_pattern(self) -> np.ndarray | None:
        """(ny, nx) mean measured counts in the padded window of the waves, centred; None without data."""
        if self.survey is None:
            return None
        if self.settings["masks"] is not None:
            return self._back_projected(self.survey.mean[0])
        mean, rim = self.window.counts_on_model(self.survey.mean), self.preprocess.rim
        return mean if rim is None else mean + self.window.compared_counts_on_model(rim * self.multiplier)

    def _back_projected(self, sums: np.ndarray) -> np.ndarray:
        """Spread the sum of each virtual detector evenly over its pixels."""
        masks = self.settings["masks"]
        assert masks is not None
        # (D,) and (D, ky, kx) -> (ky, kx); overlapping detectors count a pixel twice, hence the scale below
        pattern = np.tensordot(sums / masks.sum(axis=(1, 2)), masks, axes=1)
        seen = masks.sum(axis=0)
        scale = sums.sum() / max(float((pattern * seen).sum()), np.finfo(float).tiny)
        return self.window.counts_on_model(scale * pattern)

    def start_counts(self) -> Counts | None:
        """The counts from which the starting probe is made, and to which it is scaled; None without data."""
        mean = self.mean_pattern()
        if mean is None or self.survey is None:
            return None
        unprepared = self.settings["mean_pattern"]
        pattern = mean
        if unprepared is not None:
            # mean_pattern is given as measured: prepare it as the patterns are
            prepared = self.preprocess.unpadded.patterns(unprepared) * self.multiplier
            pattern = self.window.counts_on_model(prepared)
        elif self.settings["probe"] is None and self.source is not None:
            pattern = self._aligned_pattern(mean)
        return Counts(self._of_the_probe(mean), self._start_weights(), self._of_the_probe(pattern))

    def _of_the_probe(self, mean: np.ndarray) -> np.ndarray:
        """The mean pattern minus the background of the parameters, at a beam current of 1."""
        background, current = self.settings["static_background"], self.settings["beam_current"]
        if isinstance(background, np.ndarray) and self.settings["masks"] is None:
            # the padded rim of the background, which the mean pattern does not have
            rim = (background.shape[0] - self.window.pattern[0]) // 2
            ky, kx = self.window.pattern
            mean = np.maximum(
                mean - self.window.counts_on_model(background[rim : rim + ky, rim : rim + kx] ** 2), 0
            )
        if current is not None:
            used = sort_sequence(self.settings.first()["sequence"], self.n_patterns)
            # the current multiplies the amplitude: counts follow its square
            mean = mean / max(float((current[used] ** 2).mean()), np.finfo(float).tiny)
        return mean

    def _aligned_pattern(self, mean: np.ndarray) -> np.ndarray:
        """The mean of patterns after undoing their shift t/lambda by the tilts before and after the specimen;
        ``mean`` if no tilt shifts them. Uses up to a thousand evenly spread patterns."""
        tilts, (before, _, after) = self.settings["tilts"], TILT_MODES[self.settings["tilt_mode"]]
        if (
            tilts is None
            or self.window.near_field
            or self.settings["masks"] is not None
            or self.source is None
        ):
            return mean
        # only tilts outside the specimen move a pattern as a whole: (N or 1, 2) rad
        angles = before * tilts[:, 0:2] + after * tilts[:, 4:6]
        if not angles.any():
            return mean
        field_A = np.array(self.grid.shape) * np.array(self.grid.pixel_size_A)
        # t/lambda in 1/Å, times the field in Å: pixels of the wave, then of the detector, (N or 1, 2)
        shifts = angles * field_A / (self.grid.wavelength * np.array(self.window.across))
        n = self.source.shape[0]
        used = sort_sequence(self.settings.first()["sequence"], n)
        # ceil(n/1000) apart
        indices = used[:: max(1, -(-len(used) // _ALIGNED_PATTERNS))]
        rows = np.broadcast_to(shifts, (n, 2))[indices]
        mask = self.settings["detector_mask"]
        return self.window.counts_on_model(
            aligned_mean(
                self.source,
                indices,
                detector_mask=mask,
                preprocess=self.preprocess,
                multiplier=self.multiplier,
                shifts=rows,
            )
        )

    def _start_weights(self) -> np.ndarray | None:
        """(ny, nx) mean weight of each pixel of the padded window; a rim that is not compared has none."""
        assert self.survey is not None
        cropped = self.crop > 0 or self.window.match == "crop"
        if self.settings["masks"] is not None:
            return self.window.values_on_model(self.settings["masks"].sum(axis=0))
        if self.survey.weights is None and not cropped:
            return None
        # outside the compared area nothing is known: weight 0 there
        seen = np.ones(self.survey.mean.shape) if self.survey.weights is None else self.survey.weights
        return self.window.values_on_model(seen, 0.0 if cropped else 1.0)
