"""Wigner distribution deconvolution and single sideband: the public name of :mod:`pypty.direct_methods.direct`."""

from pypty.direct_methods.direct import ssb, wdd

__all__ = ["ssb", "wdd"]
