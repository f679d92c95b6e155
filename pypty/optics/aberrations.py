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


def aberration_basis(grid: Grid, n_terms: int) -> np.ndarray:
    """(n_terms, ny, nx): the phase in rad of 1 Å of each aberration, zero frequency first.

    B_nm = (2 pi/lambda) k^(n+1)/(n+1) {1, cos(m phi), sin(m phi)}, k = lambda q
    (Krivanek et al., Ultramicroscopy 78 (1999) 1, eq. 1).
    """
    # k is the scattering angle in rad (small-angle approximation), (ny, nx)
    k = grid.wavelength * np.sqrt(grid.q2)
    angle = np.arctan2(grid.qy, grid.qx)
    basis = np.empty((n_terms, *grid.shape))
    for term, (n, m, kind) in zip(basis, krivanek_orders(n_terms), strict=True):
        azimuth = np.sin(m * angle) if kind == "b" else np.cos(m * angle)
        term[...] = 2 * np.pi / grid.wavelength * k ** (n + 1) / (n + 1) * azimuth
    return basis


def aberration_phase(grid: Grid, coefficients_A: np.ndarray) -> np.ndarray:
    """(ny, nx) chi in rad, zero frequency first: sum of coefficients times :func:`aberration_basis`.

    The spectrum of a probe is multiplied by exp(-i chi), so C10 > 0 propagates it forward by C10.
    """
    coefficients = np.asarray(coefficients_A, float)
    # (n_terms,) . (n_terms, ny, nx) -> (ny, nx)
    return np.tensordot(coefficients, aberration_basis(grid, len(coefficients)), axes=1)
