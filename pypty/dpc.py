"""Differential phase contrast: the public name of :mod:`pypty.direct_methods.dpc`."""

from pypty.direct_methods.dpc import (
    GetPLRotation,
    fft_based_dpc,
    get_curl,
    get_curl_derivative,
    iterative_dpc,
    iterative_poisson_solver,
)

__all__ = [
    "GetPLRotation",
    "fft_based_dpc",
    "get_curl",
    "get_curl_derivative",
    "iterative_dpc",
    "iterative_poisson_solver",
]
