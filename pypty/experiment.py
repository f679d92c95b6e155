"""A scan and its calibration, read from a parameter dict, for direct methods, calibration and checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.scan import missing_problem, size_of_layout, sort_sequence, stored_patterns
from pypty.data.sources import PatternSource, open_source
from pypty.data.survey import NORMS
from pypty.data.weights import DetectorWeights
from pypty.data.window import Window
from pypty.errors import DataError, ParameterError
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings

CHUNK_BYTES = 64 * 2**20
CALIBRATED = ("acc_voltage", "scan_step_A")
"""Parameters required by methods that relate angles to lengths in the scan."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A raster scan of diffraction patterns and its calibration.

    Patterns are those of the reconstruction after flip, shift and binning, without padding, zero frequency at n//2.

    Attributes
    ----------
    source : the measured patterns as they are stored, (N, ky, kx); with ``masks`` (N, 1, D) sums over virtual detectors
    scan_size : points (slow, fast); their product is N plus the number of ``missing_patterns``
    step_A : distance between scan points, Å
    rotation_deg : PLRotation_deg, see :func:`pypty.optics.scan_grid.rotation_yx`
    window : numbers and sizes of pixels of a pattern and of the reconstruction
    aberrations_A : Krivanek coefficients; the first includes the extra defocus of the probe
    settings : all parameters, checked one by one
    """

    source: PatternSource
    preprocess: Preprocess
    multiplier: float
    scan_size: tuple[int, int]
    step_A: float
    rotation_deg: float
    window: Window
    aberrations_A: np.ndarray
    settings: Settings

    @classmethod
    def from_params(cls, params: Mapping[str, Any], needs: Sequence[str] = ()) -> Experiment:
        """Read and check the parameters; the caller closes ``source``.

        Parameters
        ----------
        needs : keys that the user must set, since a default voltage or step would silently give a wrong calibration

        Raises
        ------
        ParameterError
            A parameter is wrong or missing; the message lists all of them.
        DataError
            The patterns cannot be read.
        """
        report = Report()
        settings = read_parameters(params, report)
        report.raise_if_any()
        missing = [key for key in needs if key not in settings.set_by_user]
        if missing:
            units = ", ".join(f"{key} in {SCHEMA[key].unit}" for key in missing)
            raise ParameterError(f"{' and '.join(missing)} not given, but needed here; set {units}")
        source = open_source(settings)
        if source is None:
            raise ParameterError("no patterns were given; set dataset to an array, or data_path to a file")
        preprocess = Preprocess.from_settings(settings).unpadded
        shape = preprocess.pattern_shape((source.shape[1], source.shape[2]))
        if settings["masks"] is not None:
            shape = (settings["masks"].shape[1], settings["masks"].shape[2])
        return cls(
            source=source,
            preprocess=preprocess,
            multiplier=float(settings["data_multiplier"]),
            scan_size=_scan_size(settings, source),
            step_A=float(settings["scan_step_A"]),
            rotation_deg=_number(settings, "PLRotation_deg", 0.0),
            window=_calibrated(settings, Window.of(settings, shape)),
            aberrations_A=_aberrations(settings),
            settings=settings,
        )

    @property
    def n_patterns(self) -> int:
        """Points of the raster, those of ``missing_patterns`` included."""
        return self.scan_size[0] * self.scan_size[1]

    @cached_property
    def points(self) -> np.ndarray:
        """(n_patterns,) stored pattern of each scan point, counted row by row; -1 where there is none."""
        settings = self.settings
        return stored_patterns(settings["scan_order"], self.scan_size, settings["missing_patterns"])

    def on_raster(self, values: np.ndarray, missing: float) -> np.ndarray:
        """(sy, sx) of one number per stored pattern, with another one where there is no pattern."""
        return np.where(self.points >= 0, values[self.points], missing).reshape(self.scan_size)

    def raster_of(self, stored: np.ndarray) -> np.ndarray:
        """Scan points, counted row by row, of these stored patterns."""
        return np.flatnonzero(np.isin(self.points, stored) & (self.points >= 0))

    @cached_property
    def pattern_shape(self) -> tuple[int, int]:
        """(ky, kx) pixels of the patterns that :meth:`patterns` returns."""
        return self.preprocess.pattern_shape((self.source.shape[1], self.source.shape[2]))

    @property
    def wavelength(self) -> float:
        """Å."""
        return self.window.wavelength_A

    @property
    def pixel_1A(self) -> tuple[float, float]:
        """(ky, kx) size of a pattern's pixel, 1/Å."""
        return self.window.pixel_1A

    @property
    def pixel_mrad(self) -> tuple[float, float]:
        """(ky, kx) size of a pattern's pixel, mrad."""
        return self.window.pixel_mrad

    def patterns(self, indices: np.ndarray) -> np.ndarray:
        """(n, ky, kx) float32 counts at these scan points, counted row by row; 0 where ``detector_mask`` is 0.

        Patterns that are missing, or not in ``sequence``, are replaced by the mean of the others, so that the raster
        stays complete.

        Raises
        ------
        DataError
            A value that is not masked is NaN or infinite.
        """
        points = np.asarray(indices)
        stored = self.points[points]
        out = self.left_out[points]
        if not out.any() and (np.diff(stored) > 0).all():
            return self._scaled(self._measured(stored))
        data = np.empty((len(points), *self.pattern_shape), np.float32)
        data[out] = self.mean_pattern
        if not out.all():
            order = np.argsort(stored[~out], kind="stable")  # files are read in their order
            read = np.empty((len(order), *self.pattern_shape), np.float32)
            read[order] = self._scaled(self._measured(stored[~out][order]))
            data[~out] = read
        return data

    def _scaled(self, data: np.ndarray) -> np.ndarray:
        return data if self.factor == 1 else data * np.float32(self.factor)

    @cached_property
    def factor(self) -> float:
        """Factor on every count: ``data_multiplier`` and ``data_normalization`` (which needs a pass over the data)."""
        norm = self.settings["data_normalization"]
        return (
            self.multiplier
            if norm is None
            else self.multiplier / NORMS[norm](self._plain_mean(self.preprocess.unresampled))
        )

    def _measured(self, indices: np.ndarray, preprocess: Preprocess | None = None) -> np.ndarray:
        """:meth:`patterns` without the factor, also for patterns that are not in ``sequence``."""
        measured = DetectorWeights(self.settings["detector_mask"]).blank(self.source.read(indices), indices)
        data = (preprocess or self.preprocess).patterns(measured).astype(np.float32)
        bad = ~np.isfinite(data).all(axis=(1, 2))
        if bad.any():
            raise DataError(
                f"{self.source.name}: pattern {indices[bad][0]} contains values that are NaN or infinite; give "
                "detector_mask='nan', a mask that is 0 there, or a sequence without it (pypty.calibrate.defects)"
            )
        return data

    def chunks(self, largest_bytes: int = CHUNK_BYTES) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, patterns) in pieces of at most ``largest_bytes``."""
        for indices in self._pieces(np.arange(self.n_patterns), largest_bytes):
            yield indices, self.patterns(indices)

    def _pieces(self, indices: np.ndarray, largest_bytes: int) -> Iterator[np.ndarray]:
        step = max(1, largest_bytes // (4 * self.pattern_shape[0] * self.pattern_shape[1]))
        for start in range(0, len(indices), step):
            yield indices[start : start + step]

    @cached_property
    def left_out(self) -> np.ndarray:
        """(n_patterns,) bool: scan points without a pattern, or whose pattern is not in ``sequence``."""
        return ~np.isin(self.points, self._used)

    @cached_property
    def _used(self) -> np.ndarray:
        """Sorted numbers of the stored patterns in ``sequence``."""
        return sort_sequence(self.settings.first()["sequence"], int(self.source.shape[0]))

    @cached_property
    def mean_pattern(self) -> np.ndarray:
        """(ky, kx) float64, over the patterns of ``sequence``."""
        return self.factor * self._plain_mean(self.preprocess)

    def _plain_mean(self, preprocess: Preprocess) -> np.ndarray:
        """:attr:`mean_pattern` without its factor."""
        shape = preprocess.pattern_shape((self.source.shape[1], self.source.shape[2]))
        total, counting = np.zeros(shape), self._used
        for indices in self._pieces(counting, CHUNK_BYTES):
            total += self._measured(indices, preprocess).sum(axis=0, dtype=np.float64)
        return total / len(counting)

    @cached_property
    def aperture(self) -> np.ndarray:
        """(ky, kx) bool: pixels of the bright-field disk.

        ``aperture_mask`` without its padding; else the disk of ``conv_semiangle_mrad`` around n//2; else the pixels of
        the mean pattern above ``bright_threshold`` (0.1) times its maximum.
        """
        mask = self.settings["aperture_mask"]
        if isinstance(mask, np.ndarray) and mask.ndim == 2:
            return self.window.mask_on_pattern(mask)
        ky, kx = self.frequencies_1A
        if mask is not None:
            # The tolerance keeps pixels on the edge of the disk inside, whatever the rounding.
            return np.hypot(ky, kx) <= float(mask) * self.window.nyquist_1A * (1 + 1e-9)
        angle = _number(self.settings, "conv_semiangle_mrad", 0.0)
        if angle > 0:
            return np.hypot(ky, kx) * self.wavelength <= 1e-3 * angle
        return self.mean_pattern > _number(self.settings, "bright_threshold", 0.1) * self.mean_pattern.max()

    @cached_property
    def frequencies_1A(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies (ky, 1) and (1, kx) of the pixel centres of a pattern, 1/Å; without binning 0 is at n//2."""
        ky, kx = (self._from_zero(axis) * self.pixel_1A[axis] for axis in (0, 1))
        return ky[:, None], kx[None, :]

    def _from_zero(self, axis: int) -> np.ndarray:
        """Pixels from the zero frequency, which is at n//2 of the detector.

        With an even ``data_bin`` it does not lie at the centre of a binned pixel.
        """
        n, size, f = self.pattern_shape[axis], self.preprocess.bin, self.preprocess.resample
        recorded = n if size == 1 and f == 1 else self.source.shape[1 + axis]
        return np.arange(n) + 0.5 * (1 - f) + f * (0.5 * (size - 1) - recorded // 2) / size

    def with_(self, **changes: Any) -> Experiment:
        """A copy with some attributes changed, for example the calibration."""
        return dataclasses.replace(self, **changes)


def _number(settings: Settings, key: str, default: float) -> float:
    """The value of a recorded key as a number; these keys are not checked when parameters are read."""
    value = settings.value(key)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ParameterError(f"{key} is {value!r}, expected a number")
    return number


def _scan_size(settings: Settings, source: PatternSource) -> tuple[int, int]:
    """``scan_size`` (rows, columns), else that of the first axes of 4-D data, else a square."""
    n = source.shape[0]
    points: Sequence[int] | np.ndarray | None = settings["scan_size"]
    if points is None:
        side = math.isqrt(n)
        if source.scan is not None:
            points = size_of_layout(source.scan, settings["scan_order"])
        elif side * side == n:
            points = (side, side)
        else:
            raise ParameterError(
                f"scan_size is not given, and {n} patterns do not form a square; give (slow, fast)"
            )
    size = (int(points[0]), int(points[1]))
    problem = missing_problem(settings["missing_patterns"], size, n)
    if problem:
        raise ParameterError(problem)
    return size


def _calibrated(settings: Settings, window: Window) -> Window:
    """The window, with the size of a pattern pixel from ``rez_pixel_size_mrad`` or ``rez_pixel_size_A`` if set.

    Both are sizes of a detector pixel, so binning and resampling are taken into account.
    """
    angle = _number(settings, "rez_pixel_size_mrad", 0.0) * 1e-3 / window.wavelength_A
    recorded_1A = angle or _number(settings, "rez_pixel_size_A", 0.0)
    if recorded_1A <= 0:
        return window
    pixel_1A = recorded_1A * window.detector_pixels
    return window.calibrated((pixel_1A, pixel_1A))


def _aberrations(settings: Settings) -> np.ndarray:
    aberrations = settings["aberrations"]
    coefficients_A = np.zeros(1) if aberrations is None else np.array(aberrations, float).ravel()
    if not coefficients_A.size:
        coefficients_A = np.zeros(1)
    coefficients_A[0] += float(settings["extra_probe_defocus"] or 0.0)
    return coefficients_A
