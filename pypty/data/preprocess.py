"""Preprocessing of measured patterns as they are read: flip, shift, bin, resample, pad. Files are never changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from pypty.data.resample import interpolation_matrix
from pypty.params.settings import Settings

_AXES = (-2, -1)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Flip, then shift, bin, resample and pad patterns; integers stay integers where nothing is interpolated.

    Attributes
    ----------
    flip_ky : reverse the ky axis
    shift : (ky, kx) pixels; pixels without a source are set to zero
    bin : blocks of bin x bin pixels are summed
    pad : pixels added on each side, after binning and resampling
    resample : pixels of a prepared pattern per binned pixel and axis; the sum of the counts is kept
    filled : the padding holds a background (``data_pad_fill``) instead of zeros
    rim : (ky, kx) of a padded pattern: counts of that background, 0 in the area of the pattern; None until the mean
        pattern is known
    """

    flip_ky: bool = False
    shift: tuple[int, int] = (0, 0)
    bin: int = 1
    pad: int = 0
    resample: float = 1.0
    filled: bool = False
    rim: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> Preprocess:
        """The preprocessing that the parameters ask for; none for virtual detectors.

        Patterns are padded only with ``use_padded_intensity``; otherwise the model alone has the padding.
        """
        if settings["masks"] is not None:
            return cls()
        shift = settings["data_shift_vector"]
        pad = settings["data_pad"] // settings["upsample_pattern"] if settings["use_padded_intensity"] else 0
        return cls(
            flip_ky=settings["flip_ky"],
            shift=(int(shift[0]), int(shift[1])),
            bin=settings["data_bin"],
            pad=pad,
            resample=settings["data_resample"],
            filled=pad > 0 and settings["data_pad_fill"] != "zero",
        )

    @property
    def unpadded(self) -> Preprocess:
        """This preprocessing without padding."""
        return dataclasses.replace(self, pad=0, filled=False, rim=None)

    @property
    def unresampled(self) -> Preprocess:
        """This preprocessing without padding and resampling."""
        return dataclasses.replace(self.unpadded, resample=1.0)

    @property
    def detector_pixels(self) -> float:
        """Detector pixels per pixel of a prepared pattern, along each axis."""
        return self.bin / self.resample

    def pattern_shape(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Shape of a prepared pattern."""
        ky, kx = (self._resampled_size(n // self.bin) + 2 * self.pad for n in measured)
        return (ky, kx)

    def _resampled_size(self, n: int) -> int:
        return n if self.resample == 1 else int(n * self.resample + 1e-9)  # 1e-9: 100 * 0.29 is not 28

    def stored_dtype(self, dtype: np.dtype) -> np.dtype:
        """Type of prepared patterns measured in ``dtype``: binned integers may need a larger one."""
        dtype = _sum_dtype(dtype, self.bin) if self.bin > 1 else dtype
        return np.promote_types(dtype, np.float32) if self._interpolates else dtype

    @property
    def _interpolates(self) -> bool:
        """Whether prepared counts are no longer whole numbers."""
        return self.resample != 1 or self.filled

    def patterns(self, data: np.ndarray) -> np.ndarray:
        """Prepare counts (…, ky, kx)."""
        data = _shift_blank(self._flip(data), self.shift, 0)
        if self.bin > 1:
            # (..., ky, kx) -> (..., ky//bin, bin, kx//bin, bin) -> (..., ky//bin, kx//bin)
            data = _blocks(data, self.bin).sum(axis=(-3, -1), dtype=_sum_dtype(data.dtype, self.bin))
        if self._interpolates:
            data = data.astype(np.promote_types(data.dtype, np.float32), copy=False)
        if self.resample != 1:
            data = resampled(data, self.resample)
        data = self._padded(data, 0)
        if self.filled and self.rim is not None:
            data += self.rim.astype(data.dtype)
        return data

    def weights(self, mask: np.ndarray) -> np.ndarray:
        """Prepare detector weights (…, ky, kx) in the same way as the counts.

        A binned or interpolated pixel gets the smallest weight of its source pixels: a sum that includes a dead pixel
        is not a measurement.
        """
        mask = _shift_blank(self._flip(mask), self.shift, 1)
        if self.bin > 1:
            mask = _blocks(mask, self.bin).min(axis=(-3, -1))
        if self.resample != 1:
            mask = _least_of_sources(mask, self.resample)
        return self._padded(mask, 1)

    def _flip(self, data: np.ndarray) -> np.ndarray:
        return data[..., ::-1, :] if self.flip_ky else data

    def _padded(self, data: np.ndarray, value: float) -> np.ndarray:
        if not self.pad:
            return data
        width = [(0, 0)] * (data.ndim - 2) + [(self.pad, self.pad)] * 2
        return np.pad(data, width, constant_values=value)


def _shift_blank(data: np.ndarray, shift: tuple[int, int], fill: float) -> np.ndarray:
    """Roll the last two axes by ``shift`` and overwrite the pixels that wrapped around with ``fill``."""
    if not any(shift):
        return data
    data = np.roll(data, shift, axis=_AXES)
    for axis, amount in zip(_AXES, shift, strict=True):
        edge: list[slice] = [slice(None)] * data.ndim
        edge[axis] = slice(0, amount) if amount > 0 else slice(data.shape[axis] + amount, None)
        if amount:
            data[tuple(edge)] = fill
    return data


def _blocks(data: np.ndarray, size: int) -> np.ndarray:
    """View (…, ky, kx) as (…, ky//size, size, kx//size, size)."""
    ky, kx = (n // size for n in data.shape[-2:])
    # Rows and columns that do not fill a block are dropped at the end.
    cut = data[..., : ky * size, : kx * size]
    return cut.reshape(*cut.shape[:-2], ky, size, kx, size)


def resampled(data: np.ndarray, factor: float) -> np.ndarray:
    """Patterns (..., ky, kx) of floats, bilinearly interpolated to floor(n factor) pixels, divided by factor^2.

    New pixel i has its centre at x = (i + 1/2)/factor - 1/2 of the old pixels.
    """
    # (my, ky) @ (..., ky, kx) @ (kx, mx) -> (..., my, mx); division by factor^2 keeps the sum of the counts
    rows, columns = _interpolation(data.shape, factor)
    return (rows.astype(data.dtype) @ data @ columns.T.astype(data.dtype)) / data.dtype.type(factor**2)


def _interpolation(shape: tuple[int, ...], factor: float) -> list[np.ndarray]:
    return [interpolation_matrix(n, int(n * factor + 1e-9), factor) for n in shape[-2:]]


def _least_of_sources(mask: np.ndarray, factor: float) -> np.ndarray:
    """For each interpolated pixel the smallest weight of the pixels that contribute to it."""
    rows, columns = (matrix > 0 for matrix in _interpolation(mask.shape, factor))
    # (..., ky, kx) -> (..., ky, mx) -> (..., my, mx)
    along_x = np.stack([mask[..., sources].min(axis=-1) for sources in columns], axis=-1)
    return np.stack([along_x[..., sources, :].min(axis=-2) for sources in rows], axis=-2)


def _sum_dtype(dtype: np.dtype, size: int) -> np.dtype:
    """The smallest common type that holds any sum over size^2 pixels (64 bits at most)."""
    if dtype.kind == "f":
        return max(dtype, np.dtype(np.float32))
    if dtype.kind == "b":
        return np.dtype(np.uint32)
    largest = int(np.iinfo(dtype).max) * size**2
    candidates = (np.uint16, np.uint32, np.uint64) if dtype.kind == "u" else (np.int32, np.int64)
    return np.dtype(next((t for t in candidates if np.iinfo(t).max >= largest), candidates[-1]))


def to_corner(patterns: np.ndarray) -> np.ndarray:
    """Centred patterns (zero frequency at n//2) with the zero frequency moved to the first pixel."""
    return np.fft.ifftshift(patterns, axes=_AXES)


def to_centre(patterns: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_corner`."""
    return np.fft.fftshift(patterns, axes=_AXES)
