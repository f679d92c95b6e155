"""Where a falling curve turns flat, so that a figure can begin there."""

from __future__ import annotations

import numpy as np

_FLAT_RATIO = 2.0
_EARLY = 0.05
_FEWEST = 3


def knee_index(values: np.ndarray) -> int:
    """Index of the knee of a series (n,): what comes before it would hide what comes after.

    The knee of a curve is where it is farthest from its chord, both axes scaled to 1 (Satopaa et al., ICDCSW 2011). A
    curve that falls by less than a factor of two is cut twice; a positive one is looked at on a logarithmic scale,
    unless that cuts hardly anything.
    """
    values = np.asarray(values, float)
    if len(values) < _FEWEST or np.ptp(values) == 0:
        return 0
    if values.max() / (values.min() + 1e-9) < _FLAT_RATIO:
        return _twice(values)
    if (values > 0).all():
        index = _farthest_from_chord(np.log(values))
        return _twice(values) if index < _EARLY * len(values) else index
    return _farthest_from_chord(values)


def _twice(values: np.ndarray) -> int:
    """The knee of what follows the knee."""
    first = _farthest_from_chord(values)
    return first + _farthest_from_chord(values[first:])


def _farthest_from_chord(values: np.ndarray) -> int:
    height = float(np.ptp(values))
    if len(values) < _FEWEST or height == 0:
        return 0
    x = np.linspace(0, 1, len(values))
    y = (values - values.min()) / height
    return int(np.argmax(np.abs(y - y[0] - (y[-1] - y[0]) * x)))
