"""Aberration phases in Krivanek's notation."""

from __future__ import annotations

import numpy as np

from pypty.optics.grid import Grid


def krivanek_orders(n_terms: int) -> list[tuple[int, int, str]]:
    """The first ``n_terms`` of C10, C12a, C12b, C21a, C21b, C23a, C23b, C30, ... as (n, m, "", "a" or "b").

    For n = 1, 2, 3, ...: m runs over (n + 1) mod 2, then in steps of 2 up to n + 1.
    """
    orders: list[tuple[int, int, str]] = []
    n = 1
    while len(orders) < n_terms:
        for m in range((n + 1) % 2, n + 2, 2):
            orders += [(n, m, "")] if m == 0 else [(n, m, "a"), (n, m, "b")]
        n += 1
    return orders[:n_terms]


def aberration_names(n_terms: int) -> list[str]:
    """Names of the coefficients in order, for example ['C10', 'C12a', 'C12b']."""
    return [f"C{n}{m}{kind}" for n, m, kind in krivanek_orders(n_terms)]


def aberration_phase(grid: Grid, coefficients_A: np.ndarray) -> np.ndarray:
    """(ny, nx) chi in rad, zero frequency first.

    chi = (2 pi/lambda) sum_nm C_nm k^(n+1)/(n+1) {1, cos(m phi), sin(m phi)}, k = lambda q
    (Krivanek et al., Ultramicroscopy 78 (1999) 1, eq. 1). A probe is aberrated by exp(-i chi);
    C10 > 0 is therefore a propagation by +C10.
    """
    k = grid.wavelength * np.sqrt(grid.q2)
    angle = np.arctan2(grid.qy, grid.qx)
    chi = np.zeros(grid.shape)
    for value, (n, m, kind) in zip(coefficients_A, krivanek_orders(len(coefficients_A)), strict=True):
        azimuth = np.sin(m * angle) if kind == "b" else np.cos(m * angle)
        chi += value * k ** (n + 1) / (n + 1) * azimuth
    return 2 * np.pi / grid.wavelength * chi
