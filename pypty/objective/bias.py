"""How much too small the phases of a reconstruction become on average, because a loss is biased for few counts.

The minimum of an amplitude loss is where sqrt(I) = E sqrt(D), smaller than sqrt(E D): by 1/(8 sqrt(I)) for
many counts; for few, E sqrt(D) is I. In the dark field the amplitude is proportional to the phase of a weak object; in
the bright disk sqrt(I) = a + s m, where m varies with the scan. With s the factor of the phase, and all else as it is,
the expected loss sum E l(I(s), D) is smallest for

    s = (sum_dark sqrt(I) E sqrt(D) + sum_bright m²) / (sum_dark I + sum_bright m²)        (lsq_sqrt),

and at the minimum of sum_dark E[(D - s² I)²/2D for D > 0, s² I for D = 0] + 2 (s - 1)² sum_bright m² (lsq_sqrt_2). The
intensity of a dark-field pixel varies over the scan as a speckle pattern does, with an exponential distribution.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial.laguerre import laggauss
from scipy.special import gammaln

BIASED = ("lsq_sqrt", "lsq_sqrt_2", "gauss_compressed")
"""Values of ``algorithm`` that are biased; ``lsq`` and the likelihoods are not. Preconditioned steps have the slope of
amplitudes, and with it the bias of the first (of the last for virtual detectors), whatever the algorithm is."""
_LARGEST = 1e3  # counts above which expansions in 1/I are exact to 1e-6
_NODES = 24
_POINTS = 300


def expected_factor(algorithm: str, dark: np.ndarray, bright: float, speckle: bool = True) -> float:
    """The factor by which phases are expected to be smaller: 1 for a loss without bias.

    Parameters
    ----------
    algorithm : one of :data:`BIASED`
    dark : mean electrons of each dark-field pixel in a pattern
    bright : sum over the disk of the variance of sqrt(I), electrons
    speckle : intensities vary over the scan; False for sums over many pixels
    """
    dark = dark[dark > 0]
    scattered = float(dark.sum()) + bright
    if scattered <= 0:
        return 1.0
    nodes, weights = laggauss(_NODES) if speckle else (np.ones(1), np.ones(1))
    means = dark[:, None] * nodes  # (pixels, nodes)
    logs = np.geomspace(max(float(means.min()), 1e-9), max(float(means.max()), 1e-8), _POINTS)
    root, inverse, empty = _moments(logs)

    def summed(values: np.ndarray) -> float:
        return float((np.interp(np.log(means), np.log(logs), values) @ weights).sum())

    if algorithm != "lsq_sqrt_2":
        return (summed(np.sqrt(logs) * root) + bright) / scattered
    linear, square = summed(logs * (2 * empty - 1)), summed(logs**2 * inverse)
    s = np.linspace(0, 1.2, 2401)
    return float(s[np.argmin(linear * s**2 + square * s**4 / 2 + 2 * bright * (s - 1) ** 2)])


def _moments(means: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E sqrt(D), E[1/D; D > 0] and P(D = 0) of Poisson-distributed counts with these means."""
    many = means > _LARGEST
    few = np.where(many, 1.0, means)
    top = float(few.max())
    k = np.arange(1, int(top + 12 * np.sqrt(top)) + 30)
    # (points, counts)
    p = np.exp(k * np.log(few)[:, None] - few[:, None] - gammaln(k + 1))
    root = np.where(many, np.sqrt(means) * (1 - 1 / (8 * means) - 7 / (128 * means**2)), p @ np.sqrt(k))
    inverse = np.where(many, (1 + 1 / means) / means, p @ (1 / k))
    return root, inverse, np.exp(-means)
