"""The kernels of powers.cu: sums and slope of the data terms of ``loss_terms``, in two launches for each batch.

As array expressions two terms take fifty launches, and their arrays are allocated, so that no CUDA graph can hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Array
from pypty.backend.cuda.score import THREADS, PixelKernels, Values

FILES = ("complex.cuh", "pixels.cuh", "powers.cu")

_SINGLE, _POISSN, _PACBED = 1, 2, 4
"""Bits of the terms (as in powers.cu)."""
_PIXEL_THREADS = 64
"""Threads of a block where each has a pixel of all patterns: small blocks, as there are few pixels."""


@dataclass(frozen=True, kw_only=True)
class PowerFormula:
    """The terms in the form that the kernels take (defined in objective/powers.py).

    Attributes
    ----------
    single : weight and power; None = there is no such term
    poissn : weight, power and eps, or None
    pacbed_power : None = there is no such term
    floor : counts added to every intensity
    dark : counts below which an intensity is only rounding
    bounded : the slope is that of amplitudes
    shared : (ky, kx) added to the slope of every pattern, or None
    factors : (2,) float64, factors on the slopes of single and poissn; None = 1
    """

    single: tuple[float, float] | None
    poissn: tuple[float, float, float] | None
    pacbed_power: float | None
    floor: float
    dark: float
    bounded: bool
    shared: Array = None
    factors: Array = None

    @property
    def weights(self) -> tuple[np.float64, np.float64]:
        """Of single and poissn."""
        single, poissn = ((0.0,) if term is None else term for term in (self.single, self.poissn))
        return np.float64(single[0]), np.float64(poissn[0])


class PowerKernels(PixelKernels):
    """The kernels of powers.cu."""

    files = FILES

    def score(self, formula: PowerFormula, values: Values, slope: Array, parts: Array, totals: Array) -> None:
        """slope (B, ky, kx) = dLoss/dI, weighted, and totals (n,) float64 in the columns of objective/powers.py.

        ``parts`` is scratch, (:attr:`Values.n_parts`, n) float64.
        """
        _, single_power = formula.single or (0.0, 1.0)
        _, poissn_power, eps = formula.poissn or (0.0, 1.0, 1.0)
        terms = (formula.single is not None) * _SINGLE + (formula.poissn is not None) * _POISSN
        terms += (formula.pacbed_power is not None) * _PACBED
        powers = (single_power, poissn_power, formula.pacbed_power or 1.0)
        arguments = (
            *values.arguments(),
            *(formula.shared, formula.factors, slope, parts),
            *(np.int32(n) for n in (values.blocks, terms, formula.bounded)),
            *(self.real(x) for x in (formula.floor, formula.dark, *powers, eps)),
            *formula.weights,
        )
        self.module.launch("score_powers", values.n_parts, THREADS, *arguments)
        self.module.launch(
            "add_powers", 1, THREADS, parts, totals, np.int32(values.n_parts), *formula.weights
        )

    def add_patterns(self, values: Values, floor: float, sums: Array) -> None:
        """Add to ``sums`` (3, ky, kx) float64 the weighted sums of intensity + ``floor``, of the data, and of 1 over
        the patterns of the batch, in their order."""
        arguments = (*values.arguments(), sums, np.int32(len(values.intensity)), self.real(floor))
        self.module.launch("add_patterns", -(-values.pixels // _PIXEL_THREADS), _PIXEL_THREADS, *arguments)
