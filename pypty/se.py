"""Signals, corrections and distortions with PyPty's names: the public name of :mod:`pypty.compat.se`."""

from pypty.compat.se import *  # noqa: F403
from pypty.compat.se import __all__ as __all__
