"""Multislice functions of PyPty 2.2: each name says what to use instead."""

from pypty._moved import answers

__all__: list[str] = []
__getattr__ = answers("multislice_core")
