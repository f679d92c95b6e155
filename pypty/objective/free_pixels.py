"""Pixels that are not fitted: blocks of 2 x 2 pixels, others in every pattern, whose deviance tells about the model.

A model that fits noise describes the fitted pixels ever better, and the free ones worse. As free pixels are spread over
all patterns and angles, they test every part of the model, and leave its sampling as it is; in blocks, since counts of
neighbouring pixels may belong to the same electron. Whether a block is free follows from a hash of the numbers of
pattern and block: nothing is stored, and every run with the same seed has the same free pixels. pixels.cuh repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Array, array_module
from pypty.backend.cuda.score import Hidden
from pypty.objective.deviance import CountModel, poisson_deviance

PATTERN, BLOCK, FIRST, SECOND = 0x6A09E667, 0xBB67AE85, 0x510E527F, 0x1F83D9AB
"""Odd factors without a pattern: digits of the square roots of 2, 3, 11 and 19."""


@dataclass(frozen=True)
class FreePixels:
    """Which pixels of which pattern are free.

    Attributes
    ----------
    fraction : of the blocks
    seed : chooses them
    counts : units in which their deviance is told
    usable : (ky, kx) on the device: 1 for pixels whose deviance counts, 0 where nothing is measured, or where the model
        can have no counts; None = all count
    """

    fraction: float
    seed: int = 0
    counts: CountModel = CountModel()
    usable: Array = None

    @property
    def below(self) -> int:
        """Blocks with a smaller hash are free."""
        return min(round(self.fraction * 2**32), 2**32 - 1)

    @property
    def start(self) -> int:
        """What the seed adds to every hash."""
        return (self.seed * SECOND + FIRST) % 2**32

    def hidden(self, index: Array) -> Hidden:
        """In the form that kernels take; index (b,) int32 numbers of the patterns, on the device."""
        gain, shift = self.counts.gain, self.counts.shift
        return Hidden(
            below=self.below, start=self.start, gain=gain, shift=shift, index=index, usable=self.usable
        )

    def mask(self, index: Array, shape: tuple[int, int]) -> Array:
        """(b, ky, kx) bool, true for free pixels, in the model's pixel order.

        Parameters
        ----------
        index : (b,) numbers of the patterns
        shape : (ky, kx) of a pattern
        """
        free = self._blocks(index, shape)
        return free.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[0], : shape[1]]

    def places(self, index: Array, shape: tuple[int, int]) -> Array:
        """Places of the free pixels in the flat array (b ky kx,), those of :meth:`mask`, block by block: faster than to
        look for them among all pixels."""
        xp = array_module(index)
        free = self._blocks(index, shape)
        found = xp.flatnonzero(free)
        pattern, block = found // free[0].size, found % free[0].size
        y, x = (2 * part[:, None] for part in (block // free.shape[2], block % free.shape[2]))
        # (blocks, 4)
        y, x = y + xp.asarray([0, 0, 1, 1]), x + xp.asarray([0, 1, 0, 1])
        inside = (y < shape[0]) & (x < shape[1])  # the last block of an odd side
        return (pattern[:, None] * (shape[0] * shape[1]) + y * shape[1] + x)[inside]

    def _blocks(self, index: Array, shape: tuple[int, int]) -> Array:
        """(b, ky/2, kx/2) bool, true for free blocks."""
        xp = array_module(index)
        rows, columns = (xp.arange(-(-n // 2), dtype=np.uint32) for n in shape)
        block = rows[:, None] * np.uint32(len(columns)) + columns
        pattern = index.astype(np.uint32) * np.uint32(PATTERN) + np.uint32(self.start)
        # unsigned products wrap around
        value = pattern[:, None, None] ^ (block * np.uint32(BLOCK))
        value ^= value >> np.uint32(16)
        value *= np.uint32(FIRST)
        value ^= value >> np.uint32(15)
        value *= np.uint32(SECOND)
        value ^= value >> np.uint32(16)
        return value < np.uint32(self.below)

    def score(
        self, intensity: Array, data: Array, weights: Array, index: Array
    ) -> tuple[Array, Array, Array]:
        """Places of the free pixels in the flat arrays, and the weighted sums of deviance and 1 over them.

        Parameters
        ----------
        intensity, data : (b, ky, kx) modelled and measured values
        weights : (ky, kx) or (b, ky, kx), or None for 1
        index : (b,) numbers of the patterns
        """
        xp = array_module(intensity)
        places = self.places(index, intensity.shape[-2:])
        measured, modelled = (xp.take(array, places) for array in (data, intensity))
        deviance = poisson_deviance(self.counts.electrons(measured), self.counts.electrons(modelled))
        chosen = xp.ones(places.shape, intensity.dtype)
        for factor in (weights, self.usable):
            if factor is not None:  # of each value, or of each pixel of every pattern
                chosen = chosen * xp.take(factor, places % factor.size)
        return places, (deviance * chosen).sum(dtype=np.float64), chosen.sum(dtype=np.float64)


def without(weights: Array, places: Array, like: Array) -> Array:
    """Weights (b, ky, kx) with 0 in these places; None stands for 1 everywhere."""
    xp = array_module(like)
    found = xp.ones_like(like) if weights is None else xp.broadcast_to(weights, like.shape).astype(like.dtype)
    xp.put(found, places, like.dtype.type(0))
    return found
