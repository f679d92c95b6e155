"""Poisson deviance of counts from a model, and what it would be if the model were right.

The deviance of a pixel with D counts where the model has I is d = 2 (I - D + D log(D/I)): twice the difference between
the log-likelihoods of the best possible model, I = D, and of this one (McCullagh and Nelder, Generalized Linear Models,
2nd ed., section 2.3). For many counts d is the square of the residual in units of its standard deviation, with mean 1.
For few counts its mean is not 1: E[d | I] -> 2 I log(1/I) as I -> 0. So a sum of deviances is compared with the sum of
E[d | I]: their ratio is 1 for a right model at every dose.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from pypty.backend.array import Array, array_module

SMALLEST, LARGEST = 1e-8, 3e4
"""Counts between which E[d | I] is tabulated. Above, it is 1 within 1e-5; below, a pixel has no counts."""
_KNOTS, _POINTS = 800, 2**13
"""Points at which the moments are summed, and points of the table: its nearest point is used, which is ten times as
fast as an interpolation; the steps of 0.0035 in log I average out."""
_NOISY_KNOTS, _NOISE_POINTS = 200, 81
"""The same with read-out noise, and points of its distribution."""
_SIGMAS = 12.0
"""The sum over D ends this many standard deviations from the mean."""


@dataclass(frozen=True)
class CountModel:
    """From data units to electrons: D = g n + r, n ~ Poisson(I/g), r ~ N(0, s^2). (D + c)/g with c = s^2/g has the mean
    and the variance (I + c)/g, and is taken as Poisson-distributed (objective/noise.py, :class:`PoissonGaussian`).

    Attributes
    ----------
    gain : g, data units per electron
    readout : s, standard deviation of the read-out noise, data units
    """

    gain: float = 1.0
    readout: float = 0.0

    @property
    def sigma(self) -> float:
        """s/g, standard deviation of the read-out noise in electrons."""
        return self.readout / self.gain

    @property
    def shift(self) -> float:
        """c, data units."""
        return self.readout**2 / self.gain

    def electrons(self, values: Array) -> Array:
        """Measured or modelled data units as electrons; a read-out below -c counts as -c."""
        if self.gain == 1 and self.shift == 0:
            return values
        real = values.dtype.type
        return array_module(values).maximum(values + real(self.shift), real(0)) / real(self.gain)


def poisson_deviance(counts: Array, model: Array) -> Array:
    """2 (I - D + D log(D/I)), element by element, in the precision of ``model``.

    Parameters
    ----------
    counts : D >= 0
    model : I > 0, of the same shape; smaller values count as :data:`SMALLEST`
    """
    return _deviance(counts.astype(model.dtype, copy=False), *_safe(model))


def expected_deviance(model: Array, sigma: float = 0.0) -> tuple[Array, Array]:
    """E[d | I] and Var[d | I] of counts from a Poisson distribution of mean I, from a table.

    Sums over many pixels are within 2e-4 of the exact ones, relatively.

    Parameters
    ----------
    sigma : of the read-out noise, electrons: counts are then max(n + r + sigma^2, 0) with n ~ Poisson(I - sigma^2) and
        r ~ N(0, sigma^2), and I is at least sigma^2 (:class:`CountModel`)
    """
    return _expected(_safe(model)[1], sigma)


def deviance_terms(counts: Array, model: Array, sigma: float = 0.0) -> tuple[Array, Array, Array]:
    """d, E[d | I] and Var[d | I] of every element: :func:`poisson_deviance` and :func:`expected_deviance` with one
    logarithm."""
    safe, log_model = _safe(model)
    return _deviance(counts.astype(model.dtype, copy=False), safe, log_model), *_expected(log_model, sigma)


def _safe(model: Array) -> tuple[Array, Array]:
    """I, at least :data:`SMALLEST`, and log I."""
    xp = array_module(model)
    safe = xp.maximum(model, model.dtype.type(SMALLEST))
    return safe, xp.log(safe)


def _deviance(counts: Array, model: Array, log_model: Array) -> Array:
    xp, real = array_module(model), model.dtype.type
    # 0 log 0 = 0: the logarithm of a small number stands for that of 0
    difference = xp.log(xp.maximum(counts, real(SMALLEST)))
    difference -= log_model
    difference *= counts
    difference += model
    difference -= counts
    difference *= real(2)
    return difference


def _expected(log_model: Array, sigma: float) -> tuple[Array, Array]:
    xp, real = array_module(log_model), log_model.dtype.type
    first, step, *rows = _table(float(sigma))
    # truncation after adding 1/2 finds the nearest point
    place = ((log_model - real(first)) * real(1 / step) + real(0.5)).astype(np.int32)
    place = xp.clip(place, np.int32(0), np.int32(_POINTS - 1))
    mean, variance = (xp.asarray(row.astype(log_model.dtype)) for row in rows)
    return xp.take(mean, place), xp.take(variance, place)


@functools.lru_cache(maxsize=4)
def _table(sigma: float) -> tuple[float, float, np.ndarray, np.ndarray]:
    """First point and step in log I of the table, E[d | I] and Var[d | I], from sums over the distribution."""
    electrons = np.geomspace(SMALLEST, LARGEST, _KNOTS if sigma == 0 else _NOISY_KNOTS)
    moments = np.array([_moments(i, sigma) for i in electrons])
    first = np.log(max(SMALLEST, sigma**2))
    at = np.linspace(first, np.log(LARGEST + sigma**2), _POINTS)
    mean, variance = (np.interp(at, np.log(electrons + sigma**2), column) for column in moments.T)
    return float(first), float(at[1] - at[0]), mean, variance


def _moments(electrons: float, sigma: float) -> tuple[float, float]:
    """Mean and variance of d for a mean number of electrons, with read-out noise."""
    width = _SIGMAS * np.sqrt(electrons)
    n = np.arange(max(0, int(electrons - width - _SIGMAS)), int(electrons + width + 2.5 * _SIGMAS) + 1)
    weight = np.exp(xlogy(n, electrons) - electrons - gammaln(n + 1))
    if sigma > 0:
        # midpoints of equal parts of the normal distribution, up to where nothing is left
        r = np.linspace(-5, 5, _NOISE_POINTS)
        density = np.exp(-(r**2) / 2)
        weight = (weight[:, None] * (density / density.sum())).ravel()
        n = np.maximum(n[:, None] + sigma * r + sigma**2, 0).ravel()
    i = electrons + sigma**2
    deviance = 2 * (i - n + xlogy(n, n / i))
    mean = float((weight * deviance).sum())
    return mean, float((weight * (deviance - mean) ** 2).sum())
