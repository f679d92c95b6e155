"""The electron wavelength from CODATA constants; all other modules take it from here."""

from __future__ import annotations

import math

HC_KEV_A = 12.398419843
"""h c in keV Å (CODATA 2018)."""
REST_ENERGY_KEV = 510.99895
"""Electron rest energy in keV (CODATA 2018)."""


def wavelength_A(acc_voltage_kV: float) -> float:
    """Relativistic de Broglie wavelength in Å.

    lambda = h c / sqrt((2 m0 c^2 + E) E), E = e U (Kirkland, Advanced Computing in Electron
    Microscopy, eq. 2.5).
    """
    energy = float(acc_voltage_kV)
    return HC_KEV_A / math.sqrt((2 * REST_ENERGY_KEV + energy) * energy)


def acc_voltage_kV(wavelength: float) -> float:
    """The accelerating voltage in kV that gives ``wavelength`` (Å): inverse of :func:`wavelength_A`."""
    return math.sqrt(REST_ENERGY_KEV**2 + (HC_KEV_A / wavelength) ** 2) - REST_ENERGY_KEV


def interaction_constant_rad_per_VA(voltage_kV: float) -> float:
    """sigma = 2 pi m e lambda / h^2 in rad/(V Å) (Kirkland, eq. 5.6)."""
    energy = float(voltage_kV)
    # Written with energies instead of m and h; 1e3 turns kV into V.
    return (
        2
        * math.pi
        / (wavelength_A(energy) * energy * 1e3)
        * (REST_ENERGY_KEV + energy)
        / (2 * REST_ENERGY_KEV + energy)
    )
