"""Pixels that are not fitted: blocks of 2 x 2 pixels, others in every pattern, whose deviance tells about the model.

A model that fits noise describes the fitted pixels ever better, and the free ones worse. As free pixels are spread over
all patterns and angles, they test every part of the model, and leave its sampling as it is; in blocks, since counts of
neighbouring pixels may belong to the same electron. Whether a block is free follows from a hash of the numbers of
pattern and block: nothing is stored, and every run with the same seed has the same free pixels. score.cu repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Array, array_module
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

    def mask(self, index: Array, shape: tuple[int, int]) -> Array:
        """(b, ky, kx) bool, true for free pixels, in the model's pixel order.

        Parameters
        ----------
        index : (b,) numbers of the patterns
        shape : (ky, kx) of a pattern
        """
        xp = array_module(index)
        rows, columns = (xp.arange(-(-n // 2), dtype=np.uint32) for n in shape)
        block = rows[:, None] * np.uint32(len(columns)) + columns
        pattern = index.astype(np.uint32) * np.uint32(PATTERN) + np.uint32(self.start)
        # (b, ky/2, kx/2); unsigned products wrap around
        value = pattern[:, None, None] ^ (block * np.uint32(BLOCK))
        value ^= value >> np.uint32(16)
        value *= np.uint32(FIRST)
        value ^= value >> np.uint32(15)
        value *= np.uint32(SECOND)
        value ^= value >> np.uint32(16)
        free = value < np.uint32(self.below)
        return free.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[0], : shape[1]]

    def score(
        self, intensity: Array, data: Array, weights: Array, index: Array
    ) -> tuple[Array, Array, Array]:
        """The weights of the fitted pixels, and the weighted sums of deviance and 1 over the free ones.

        Parameters
        ----------
        intensity, data : (b, ky, kx) modelled and measured values
        weights : broadcasts to them, or None for 1
        index : (b,) numbers of the patterns
        """
        xp, real = array_module(intensity), intensity.dtype
        free = self.mask(index, intensity.shape[-2:])
        ones = xp.ones((), real) if weights is None else weights
        counted = ones if self.usable is None else ones * self.usable
        chosen = xp.broadcast_to(counted, intensity.shape)[free]
        deviance = poisson_deviance(self.counts.electrons(data[free]), self.counts.electrons(intensity[free]))
        fitted = xp.where(free, real.type(0), ones)
        return fitted, (deviance * chosen).sum(dtype=np.float64), chosen.sum(dtype=np.float64)
