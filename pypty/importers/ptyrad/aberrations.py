"""Aberrations by the names that PtyRAD accepts: Krivanek (polar or Cartesian), Haider, defocus and Cs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.optics.aberrations import krivanek_orders

HAIDER: Mapping[str, tuple[int, int, float]] = MappingProxyType(
    {
        "C1": (1, 0, 1.0),
        "A1": (1, 2, 1.0),
        "B2": (2, 1, 3.0),
        "A2": (2, 3, 1.0),
        "C3": (3, 0, 1.0),
        "S3": (3, 2, 4.0),
        "A3": (3, 4, 1.0),
        "B4": (4, 1, 4.0),
        "D4": (4, 3, 4.0),
        "A4": (4, 5, 1.0),
        "C5": (5, 0, 1.0),
        "S5": (5, 2, 6.0),
        "R5": (5, 4, 6.0),
        "A5": (5, 6, 1.0),
    }
)
"""Symbol: (n, m, factor), C_nm = factor x symbol (Haider et al., Ultramicroscopy 81 (2000) 163)."""

_DECIMALS = 3
_POLAR = re.compile(r"^(C|phi)(\d)(\d)$")
_CARTESIAN = re.compile(r"^C(\d)(\d)([ab])$")


def polar_terms(coefficients: Mapping[str, Any], source: str) -> dict[tuple[int, int], tuple[float, float]]:
    """(n, m): (C_nm in Å, phi_nm in degrees), each rounded to three decimals, as PtyRAD does.

    Raises
    ------
    ParameterError
        A name is unknown, an order does not exist, or a term is given twice.
    """
    parts: dict[tuple[int, int], dict[str, float]] = {}
    names: dict[tuple[int, int, str], str] = {}
    for name, value in coefficients.items():
        if value is None:
            continue
        n, m, part, number = _read(str(name), value, source)
        if (n, m, part) in names:
            raise ParameterError(
                f"{source}: the aberrations {names[n, m, part]!r} and {name!r} are the same term; give only one of them"
            )
        names[n, m, part] = str(name)
        parts.setdefault((n, m), {})[part] = number
    return {order: _polar(order, term, source) for order, term in sorted(parts.items())}


def cartesian_A(polar: Mapping[tuple[int, int], tuple[float, float]]) -> np.ndarray:
    """C10, C12a, C12b, C21a, ... in Å, up to the highest order: a = C cos(m phi), b = C sin(m phi), three decimals."""
    highest = max((n for n, _ in polar), default=1)
    out = []
    # Order n has n + 2 coefficients.
    for n, m, kind in krivanek_orders(sum(n_ + 2 for n_ in range(1, highest + 1))):
        if n > highest:
            break
        size, angle = polar.get((n, m), (0.0, 0.0))
        turn = m * np.deg2rad(angle)
        out.append(size * (np.sin(turn) if kind == "b" else np.cos(turn)))
    return np.round(out, _DECIMALS)


def _read(name: str, value: Any, source: str) -> tuple[int, int, str, float]:
    """(n, m, part, value) of one entry; part is C, phi, a or b."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ParameterError(f"{source}: the aberration {name!r} is {value!r}, expected a number")
    if name == "defocus":
        return 1, 0, "C", -number
    if name == "Cs":
        return 3, 0, "C", number
    symbol = name.removesuffix("phi")
    if symbol in HAIDER:
        n, m, factor = HAIDER[symbol]
        return (n, m, "phi", number) if name != symbol else (n, m, "C", factor * number)
    polar, cartesian = _POLAR.match(name), _CARTESIAN.match(name)
    if polar is not None:
        n, m, part = int(polar[2]), int(polar[3]), polar[1]
    elif cartesian is not None:
        n, m, part = int(cartesian[1]), int(cartesian[2]), cartesian[3]
    else:
        n, m, part = 0, 0, ""
    if n < 1 or m > n + 1 or (n - m) % 2 == 0 or (m == 0 and part in ("phi", "a", "b")):
        raise ParameterError(
            f"{source}: {name!r} is not an aberration; expected Cnm with phinm, Cnma and Cnmb, {', '.join(HAIDER)} "
            "(its angle with 'phi' appended), defocus or Cs, with n - m odd and m up to n + 1"
        )
    return n, m, part, number


def _polar(order: tuple[int, int], term: Mapping[str, float], source: str) -> tuple[float, float]:
    n, m = order
    if {"a", "b"} & set(term):
        if {"C", "phi"} & set(term):
            raise ParameterError(
                f"{source}: the aberration C{n}{m} is given both as magnitude and angle and as C{n}{m}a, C{n}{m}b; "
                "give one form"
            )
        a, b = term.get("a", 0.0), term.get("b", 0.0)
        # a = C cos(m phi), b = C sin(m phi)
        size, angle = float(np.hypot(a, b)), float(np.rad2deg(np.arctan2(b, a))) / m
    else:
        size, angle = term.get("C", 0.0), term.get("phi", 0.0)
    return round(size, _DECIMALS), round(angle, _DECIMALS)
