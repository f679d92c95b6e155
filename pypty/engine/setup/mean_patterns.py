"""The mean pattern on the pixels of the waves, and what the starting probe is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.resample import interpolation_matrix
from pypty.data.scan import sort_sequence
from pypty.data.sources import PatternSource
from pypty.data.survey import Survey, aligned_mean
from pypty.engine.setup.geometry import Geometry
from pypty.engine.setup.start_probe import Counts
from pypty.model.options import TILT_MODES
from pypty.optics.grid import Grid
from pypty.params.settings import Settings

_ALIGNED_PATTERNS = 1000


@dataclass(frozen=True, kw_only=True)
class MeanPatterns:
    """Mean counts and weights of the patterns, as the model's window has them.

    Attributes
    ----------
    settings, source, grid, preprocess, survey, geometry : as of a ``Setup``
    multiplier : factor of every count
    crop : pixels of the model's rim that are not compared with data
    near_field : patterns are images
    """

    settings: Settings
    source: PatternSource | None
    grid: Grid
    preprocess: Preprocess
    survey: Survey | None
    geometry: Geometry
    multiplier: float
    crop: int
    near_field: bool

    def mean_pattern(self) -> np.ndarray | None:
        """(ny, nx) mean measured counts in the padded window of the waves, centred; None without data."""
        if self.survey is None:
            return None
        if self.settings["masks"] is not None:
            return self._back_projected(self.survey.mean[0])
        mean, rim = self._in_window(self.survey.mean), self.preprocess.rim
        if rim is not None:
            u = self.settings["upsample_pattern"]
            mean = mean + rim.repeat(u, axis=0).repeat(u, axis=1) * (self.multiplier / u**2)
        return mean

    def _in_window(self, pattern: np.ndarray, rim: float = 0.0) -> np.ndarray:
        """A detector pattern on the model's pixels, counts shared equally, with its padding."""
        if self.settings["simu_match_mode"] == "crop":
            return self._surrounded(pattern, rim)
        if self.settings["simu_match_mode"] == "resample":
            return self._interpolated(pattern) * (pattern.size / math.prod(self.grid.shape))
        u = self.settings["upsample_pattern"]
        if u > 1:
            pattern = pattern.repeat(u, axis=0).repeat(u, axis=1) / u**2
        pad = self.settings["data_pad"]
        return np.pad(pattern, pad, constant_values=rim) if pad else pattern

    def _surrounded(self, pattern: np.ndarray, rim: float) -> np.ndarray:
        """A pattern where a simulated one is cropped."""
        out = np.full(self.grid.shape, rim, float)
        out[
            tuple(
                slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(out.shape, pattern.shape, strict=True)
            )
        ] = pattern
        return out

    def _interpolated(self, pattern: np.ndarray) -> np.ndarray:
        rows, columns = (
            interpolation_matrix(m, n) for n, m in zip(self.grid.shape, pattern.shape, strict=True)
        )
        return rows @ pattern @ columns.T

    def _back_projected(self, sums: np.ndarray) -> np.ndarray:
        """Sums over virtual detectors, spread evenly over what each sees."""
        masks = self.settings["masks"]
        assert masks is not None
        pattern = np.tensordot(sums / masks.sum(axis=(1, 2)), masks, axes=1)
        seen = masks.sum(axis=0)
        scale = sums.sum() / max(float((pattern * seen).sum()), np.finfo(float).tiny)
        return self._in_window(scale * pattern)

    def start_counts(self) -> Counts | None:
        """What the starting probe is made from and scaled to; None without data."""
        mean = self.mean_pattern()
        if mean is None or self.survey is None:
            return None
        given = self.settings["mean_pattern"]
        pattern = mean
        if given is not None:
            prepared = self.preprocess.unpadded.patterns(given) * self.multiplier
            pattern = self._in_window(prepared)
        elif self.settings["probe"] is None and self.source is not None:
            pattern = self._aligned_pattern(mean)
        return Counts(self._of_the_probe(mean), self._start_weights(), self._of_the_probe(pattern))

    def _of_the_probe(self, mean: np.ndarray) -> np.ndarray:
        """A mean pattern without a given background, at a beam current of 1."""
        background, current = self.settings["static_background"], self.settings["beam_current"]
        if isinstance(background, np.ndarray) and self.settings["masks"] is None:
            rim = (background.shape[0] - self.geometry.detector[0]) // 2
            ky, kx = self.geometry.detector
            mean = np.maximum(mean - self._in_window(background[rim : rim + ky, rim : rim + kx] ** 2), 0)
        if current is not None:
            used = sort_sequence(self.settings.first()["sequence"], self.geometry.n_patterns)
            mean = mean / max(float((current[used] ** 2).mean()), np.finfo(float).tiny)
        return mean

    def _aligned_pattern(self, mean: np.ndarray) -> np.ndarray:
        """The mean of patterns moved back by the tilts before and after the specimen, which displaced them by t/lambda;
        ``mean`` where no tilt does. Up to a thousand patterns, evenly spread."""
        tilts, (before, _, after) = self.settings["tilts"], TILT_MODES[self.settings["tilt_mode"]]
        if tilts is None or self.near_field or self.settings["masks"] is not None or self.source is None:
            return mean
        angles = before * tilts[:, 0:2] + after * tilts[:, 4:6]
        if not angles.any():
            return mean
        field_A = np.array(self.grid.shape) * np.array(self.grid.pixel_size_A)
        shifts = angles * field_A / (self.grid.wavelength * np.array(self.pixels_across))
        n = self.source.shape[0]
        used = sort_sequence(self.settings.first()["sequence"], n)
        indices = used[:: max(1, -(-len(used) // _ALIGNED_PATTERNS))]
        rows = np.broadcast_to(shifts, (n, 2))[indices]
        mask = self.settings["detector_mask"]
        return self._in_window(
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
        shared = math.prod(self.pixels_across)
        cropped = self.crop > 0 or self.settings["simu_match_mode"] == "crop"
        if self.settings["masks"] is not None:
            return self._in_window(self.settings["masks"].sum(axis=0)) * shared
        if self.survey.weights is None and not cropped:
            return None
        seen = np.ones(self.survey.mean.shape) if self.survey.weights is None else self.survey.weights
        return self._in_window(seen * shared, 0.0 if cropped else 1.0)

    @property
    def pixels_across(self) -> tuple[float, float]:
        """Model pixels per detector pixel along each axis."""
        if self.settings["simu_match_mode"] != "resample":
            return (self.settings["upsample_pattern"], self.settings["upsample_pattern"])
        ny, nx = (n / m for n, m in zip(self.grid.shape, self.geometry.detector, strict=True))
        return (ny, nx)
