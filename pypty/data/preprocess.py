"""Virtual changes to the measured patterns: flip, shift, bin, pad. The file is never changed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from pypty.params.settings import Settings

_AXES = (-2, -1)


@dataclass(frozen=True)
class Preprocess:
    """Flip, then shift, bin and pad patterns; integers stay integers.

    Attributes
    ----------
    flip_ky : reverse the ky axis
    shift : (ky, kx) pixels; what wraps around is replaced by zeros
    bin : pixels are summed in blocks of bin x bin
    pad : zeros added on each side, after binning
    """

    flip_ky: bool = False
    shift: tuple[int, int] = (0, 0)
    bin: int = 1
    pad: int = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Preprocess:
        """Padding is part of it only when the padded rim is compared with zeros; virtual detectors stay as they are."""
        if settings["masks"] is not None:
            return cls()
        shift = settings["data_shift_vector"]
        return cls(
            settings["flip_ky"],
            (int(shift[0]), int(shift[1])),
            settings["data_bin"],
            settings["data_pad"] // settings["upsample_pattern"] if settings["use_padded_intensity"] else 0,
        )

    @property
    def unpadded(self) -> Preprocess:
        """The same without padding."""
        return dataclasses.replace(self, pad=0)

    def pattern_shape(self, measured: tuple[int, int]) -> tuple[int, int]:
        """Shape of a pattern after these changes."""
        return (measured[0] // self.bin + 2 * self.pad, measured[1] // self.bin + 2 * self.pad)

    def stored_dtype(self, dtype: np.dtype) -> np.dtype:
        """Type of prepared patterns measured in ``dtype``: binned integers may need a larger one."""
        return _sum_dtype(dtype, self.bin) if self.bin > 1 else dtype

    def patterns(self, data: np.ndarray) -> np.ndarray:
        """Change counts (…, ky, kx)."""
        data = _shift_blank(self._flip(data), self.shift, 0)
        if self.bin > 1:
            data = _blocks(data, self.bin).sum(axis=(-3, -1), dtype=_sum_dtype(data.dtype, self.bin))
        return self._padded(data, 0)

    def weights(self, mask: np.ndarray) -> np.ndarray:
        """Change detector weights (…, ky, kx) along with the counts.

        A block of binned pixels gets the smallest weight in it: a sum with a dead pixel is no measurement.
        """
        mask = _shift_blank(self._flip(mask), self.shift, 1)
        if self.bin > 1:
            mask = _blocks(mask, self.bin).min(axis=(-3, -1))
        return self._padded(mask, 1)

    def _flip(self, data: np.ndarray) -> np.ndarray:
        return data[..., ::-1, :] if self.flip_ky else data

    def _padded(self, data: np.ndarray, value: float) -> np.ndarray:
        if not self.pad:
            return data
        width = [(0, 0)] * (data.ndim - 2) + [(self.pad, self.pad)] * 2
        return np.pad(data, width, constant_values=value)


def _shift_blank(data: np.ndarray, shift: tuple[int, int], fill: float) -> np.ndarray:
    """Roll the last two axes by ``shift`` and overwrite what wrapped around."""
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
    cut = data[..., : ky * size, : kx * size]
    return cut.reshape(*cut.shape[:-2], ky, size, kx, size)


def _sum_dtype(dtype: np.dtype, size: int) -> np.dtype:
    """The smallest common type that surely holds a sum over size^2 pixels."""
    if dtype.kind == "f":
        return max(dtype, np.dtype(np.float32))
    if dtype.kind == "b":
        return np.dtype(np.uint32)
    largest = int(np.iinfo(dtype).max) * size**2
    candidates = (np.uint16, np.uint32, np.uint64) if dtype.kind == "u" else (np.int32, np.int64)
    return np.dtype(next((t for t in candidates if np.iinfo(t).max >= largest), candidates[-1]))


def to_corner(patterns: np.ndarray) -> np.ndarray:
    """Centred patterns (zero frequency at n//2) with the zero frequency first: once, when data enter."""
    return np.fft.ifftshift(patterns, axes=_AXES)


def to_centre(patterns: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_corner`."""
    return np.fft.fftshift(patterns, axes=_AXES)
