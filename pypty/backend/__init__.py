"""Devices, arrays and hot operations. Imports nothing else of pypty but its errors."""

from pypty.backend.array import Array, Backend, select, to_host

__all__ = ["Array", "Backend", "select", "to_host"]
