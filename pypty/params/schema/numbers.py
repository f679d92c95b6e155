"""Kinds of numbers that many parameters share."""

from __future__ import annotations

from pypty.params.kinds import ArrayOf, Number

WHOLE = Number(integer=True)
NATURAL = Number(low=0, integer=True)
POSITIVE = Number(low=0, open_low=True)
NON_NEGATIVE = Number(low=0)
POSITIVE_WHOLE = Number(low=1, integer=True)
FRACTION = Number(low=0, high=1)
PATTERN = ArrayOf((("ky", "kx"),))
