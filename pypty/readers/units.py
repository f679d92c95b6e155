"""Convert units of files to those used here: Å, mrad, 1/Å and kV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from pypty.errors import DataError

_LENGTHS: Mapping[str, float] = MappingProxyType(
    {
        "A": 1.0,
        "angstrom": 1.0,
        "ang": 1.0,
        "pm": 1e-2,
        "nm": 10.0,
        "um": 1e4,
        "mm": 1e7,
        "cm": 1e8,
        "m": 1e10,
    }
)
_ANGLES: Mapping[str, float] = MappingProxyType(
    {"mrad": 1.0, "rad": 1e3, "urad": 1e-3, "deg": 1e3 * math.pi / 180, "°": 1e3 * math.pi / 180}
)
_VOLTAGES: Mapping[str, float] = MappingProxyType(
    {"V": 1e-3, "kV": 1.0, "MV": 1e3, "eV": 1e-3, "keV": 1.0, "MeV": 1e3}
)
_SPELLINGS = (
    ("\u212b", "A"),  # Ångström sign
    ("\u00c5", "A"),  # A with ring
    ("\u00b5", "u"),  # micro sign
    ("\u03bc", "u"),  # Greek mu
    ("\u207b\u00b9", "^-1"),  # superscript -1
    ("**", "^"),
    ("Angstrom", "angstrom"),
    ("degrees", "deg"),
    ("degree", "deg"),
)


def known_unit(unit: object) -> tuple[str, float] | None:
    """The quantity that a unit measures, and its factor.

    Parameters
    ----------
    unit : text of a file, for example "1/nm", "nm^-1", "mrad", "Å", "kV"

    Returns
    -------
    ("length", Å per unit), ("reciprocal", 1/Å per unit), ("angle", mrad per unit) or ("voltage", kV per unit);
    None for an empty unit, pixels, and unknown units.
    """
    text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else str(unit or "")
    for old, new in _SPELLINGS:
        text = text.replace(old, new)
    # LaTeX as RosettaSciIO writes it: $nm^{-1}$
    text = "".join(character for character in text if character not in " ${}()")
    for kind, table in (("length", _LENGTHS), ("angle", _ANGLES), ("voltage", _VOLTAGES)):
        if text in table:
            return kind, table[text]
    for length, factor in _LENGTHS.items():
        if text in (f"1/{length}", f"{length}^-1", f"{length}-1", f"/{length}"):
            return "reciprocal", 1 / factor
    return None


def convert(value: float, unit: object, kind: str) -> float:
    """``value`` in Å, 1/Å, mrad or kV.

    Parameters
    ----------
    kind : "length", "reciprocal", "angle" or "voltage"

    Raises
    ------
    DataError
        The unit does not measure this quantity.
    """
    known = known_unit(unit)
    if known is None or known[0] != kind:
        raise DataError(
            f"{value!r} {unit!r}: the unit does not measure {kind}; correct the unit in the file, or give the value "
            "yourself"
        )
    return float(value) * known[1]
