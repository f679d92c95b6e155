"""Pixels of the detector, of the loss and of the model: their numbers, their sizes, and the maps between them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.resample import interpolation_matrix
from pypty.optics.probes import resize, resize_spectrum, spectrum_of_probe
from pypty.optics.wavelength import wavelength_A
from pypty.params.settings import Settings

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Window:
    """Three sets of pixels, from the detector to the model.

    * *pattern*: a measured pattern after flip, shift, binning and resampling, without padding, zero frequency at n//2;
    * *compared*: the pixels of the loss: the pattern, with its padding if ``use_padded_intensity`` is set;
    * *model*: the waves. ``upsample`` model pixels per pattern pixel and axis, then ``pad`` on each side; or
      ``simu_Npix`` pixels, which are cropped to the pattern (crop) or cover the same angles as it (resample).

    Attributes
    ----------
    pattern, compared, model : (ky, kx) pixels
    upsample : model pixels per pattern pixel and axis (1 with ``simu_Npix``)
    pad : model pixels on each side of the upsampled pattern
    match : how a simulated pattern of ``simu_Npix`` pixels is matched to a measured one: "crop", "resample", or None
    detector_pixels : detector pixels per pattern pixel, along each axis (``data_bin/data_resample``)
    pixel_size_A : (y, x) of the model in real space
    wavelength_A : Å
    near_field : patterns are images, and padding enlarges the field of view
    """

    pattern: Pair
    compared: Pair
    model: Pair
    upsample: int
    pad: int
    match: str | None
    detector_pixels: float
    pixel_size_A: tuple[float, float]
    wavelength_A: float
    near_field: bool

    @classmethod
    def of(cls, settings: Settings, pattern: Pair) -> Window:
        """The window of these parameters, for patterns of (ky, kx) pixels after preprocessing, without padding."""
        up, pad, side = int(settings["upsample_pattern"]), int(settings["data_pad"]), settings["simu_Npix"]
        ny, nx = (up * n + 2 * pad if side is None else int(side) for n in pattern)
        # The loss sees the padding in pattern pixels, of which each holds ``up`` model pixels per axis.
        rim = pad // up if settings["use_padded_intensity"] and settings["masks"] is None else 0
        return cls(
            pattern=pattern,
            compared=(pattern[0] + 2 * rim, pattern[1] + 2 * rim),
            model=(ny, nx),
            upsample=up,
            pad=pad,
            match=None if side is None else settings["simu_match_mode"],
            detector_pixels=Preprocess.from_settings(settings).detector_pixels,
            pixel_size_A=(float(settings["pixel_size_y_A"]), float(settings["pixel_size_x_A"])),
            wavelength_A=wavelength_A(settings["acc_voltage"]),
            near_field=settings["recon_type"] == "near_field",
        )

    @property
    def across(self) -> tuple[float, float]:
        """(ky, kx) model pixels per pattern pixel."""
        if self.match != "resample":
            return (float(self.upsample), float(self.upsample))
        return (self.model[0] / self.pattern[0], self.model[1] / self.pattern[1])

    @property
    def shared(self) -> float:
        """Model pixels in the area of one pattern pixel."""
        return math.prod(self.across)

    @property
    def origin(self) -> Pair:
        """The model pixel [y, x] at which the first pixel of the pattern begins."""
        if self.match == "resample":
            return (0, 0)
        y, x = ((n - self.upsample * m) // 2 for n, m in zip(self.model, self.pattern, strict=True))
        return (y, x)

    # Calibration. A wave of n pixels of size p has spectral pixels of 1/(n p).

    @property
    def model_pixel_1A(self) -> tuple[float, float]:
        """(ky, kx) size of a pixel of the model's spectrum, 1/Å."""
        return (1 / (self.model[0] * self.pixel_size_A[0]), 1 / (self.model[1] * self.pixel_size_A[1]))

    @property
    def pixel_1A(self) -> tuple[float, float]:
        """(ky, kx) size of a pattern pixel, 1/Å."""
        (y, x), (ay, ax) = self.model_pixel_1A, self.across
        return (ay * y, ax * x)

    @property
    def model_pixel_mrad(self) -> tuple[float, float]:
        """(ky, kx) size of a pixel of the model's spectrum, mrad."""
        return (
            1e3 * self.wavelength_A * self.model_pixel_1A[0],
            1e3 * self.wavelength_A * self.model_pixel_1A[1],
        )

    @property
    def pixel_mrad(self) -> tuple[float, float]:
        """(ky, kx) size of a pattern pixel, mrad."""
        return (1e3 * self.wavelength_A * self.pixel_1A[0], 1e3 * self.wavelength_A * self.pixel_1A[1])

    @property
    def nyquist_1A(self) -> float:
        """The Nyquist frequency of the model along its coarser axis, 1/Å."""
        return 0.5 / max(self.pixel_size_A)

    @property
    def edge_1A(self) -> float:
        """The largest frequency that a pattern holds along both axes, 1/Å."""
        return 0.5 * min(n * pixel for n, pixel in zip(self.pattern, self.pixel_1A, strict=True))

    def calibrated(self, pixel_1A: tuple[float, float]) -> Window:
        """This window with pattern pixels of (ky, kx) 1/Å."""
        (ky, kx), (ay, ax), (ny, nx) = pixel_1A, self.across, self.model
        return dataclasses.replace(self, pixel_size_A=(ay / (ky * ny), ax / (kx * nx)))

    # Maps from a pattern to the model.

    def values_on_model(self, pattern: np.ndarray, rim: float = 0.0) -> np.ndarray:
        """(ky, kx) -> (ny, nx): the value of the pattern at every model pixel (interpolated for resample).

        Model pixels outside the pattern get the value ``rim``.
        """
        if self.match == "resample":
            rows, columns = (
                interpolation_matrix(m, n) for n, m in zip(self.model, self.pattern, strict=True)
            )
            return rows @ pattern @ columns.T
        larger = pattern.repeat(self.upsample, axis=0).repeat(self.upsample, axis=1)  # (up ky, up kx)
        if larger.shape == self.model:
            return larger
        out = np.full(self.model, rim, float)
        out[self._inside(larger.shape)] = larger
        return out

    def counts_on_model(self, pattern: np.ndarray, rim: float = 0.0) -> np.ndarray:
        """(ky, kx) counts -> (ny, nx): the counts of a pattern pixel are divided equally among its model pixels.

        Model pixels outside the pattern get ``rim`` counts.
        """
        return self.values_on_model(pattern / self.shared, rim)

    def mask_on_model(self, mask: np.ndarray) -> np.ndarray:
        """(ky, kx) bool -> (ny, nx) bool; False outside the pattern."""
        return self.values_on_model(np.asarray(mask, float)) > 0.5

    def compared_counts_on_model(self, compared: np.ndarray) -> np.ndarray:
        """(ky, kx) counts of compared pixels, padding included -> (ny, nx), divided equally among model pixels."""
        if compared.shape == self.pattern:
            return self.counts_on_model(compared)
        return compared.repeat(self.upsample, axis=0).repeat(self.upsample, axis=1) / self.shared

    def _inside(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        (y, x), (ny, nx) = self.origin, shape
        return (slice(y, y + ny), slice(x, x + nx))

    # Maps from the model to a pattern.

    def mask_on_pattern(self, mask: np.ndarray) -> np.ndarray:
        """(ny, nx) mask of the model -> (ky, kx) bool: its value at the centre of every pattern pixel.

        A mask made for another padding is first cropped, or padded with zeros.
        """
        inside = resize(np.asarray(mask, float)[None], self.model)[0]
        rows, columns = (
            start + np.floor(a * (np.arange(n) + 0.5)).astype(int)
            for start, a, n in zip(self.origin, self.across, self.pattern, strict=True)
        )
        return inside[np.ix_(rows, columns)] > 0.5

    def spectrum_on_pattern(self, wave: np.ndarray) -> np.ndarray:
        """Spectrum (..., ky, kx) of far-field waves (..., ny, nx) at the pattern's frequencies, zero frequency at n//2.

        Angles beyond the pattern are left out. Coarser frequencies belong to a smaller field of the same pixels: with
        resample the wave is folded into that field, with upsample every ``upsample``-th frequency is taken, which is
        the same.
        """
        if self.match == "resample":
            return spectrum_of_probe(_folded(wave, self.pattern))
        size = (self.upsample * self.pattern[0], self.upsample * self.pattern[1])
        spectrum = resize(spectrum_of_probe(wave), size)  # (..., up ky, up kx)
        up = self.upsample
        # The zero frequency, at big // 2, must be among the frequencies taken, at index n // 2.
        first = [big // 2 - up * (n // 2) for big, n in zip(size, self.pattern, strict=True)]
        return spectrum[..., first[0] :: up, first[1] :: up]

    # The window of a probe.

    def probe_on_model(self, probe: np.ndarray) -> np.ndarray:
        """Waves (..., y, x) in the window of a pattern, or already in that of the model -> (..., ny, nx).

        Upsampling (and simu_match_mode "resample") enlarges the field with pixels of the same size; padding enlarges
        the spectrum, so pixels become finer. In the near field padding enlarges the field.
        """
        if probe.shape[-2:] == self.model:
            return probe
        ny, nx = probe.shape[-2:]
        field = self.model if self.match == "resample" else (self.upsample * ny, self.upsample * nx)
        larger = resize(probe, field)
        return resize(larger, self.model) if self.near_field else resize_spectrum(larger, self.model)


def _folded(wave: np.ndarray, shape: Pair) -> np.ndarray:
    """Waves (..., y, x), centre at n//2, folded periodically into a window of ``shape``.

    Folding in real space samples the spectrum at the coarser frequencies of the smaller window.
    """
    for axis, size in ((-2, shape[0]), (-1, shape[1])):
        old = wave.shape[axis]
        place = (np.arange(old) - old // 2 + size // 2) % size  # index of each pixel in the smaller window
        moved = np.moveaxis(wave, axis, 0)
        out = np.zeros((size, *moved.shape[1:]), wave.dtype)
        np.add.at(out, place, moved)  # several pixels fall on one; += would add only one of them
        wave = np.moveaxis(out, 0, axis)
    return wave
