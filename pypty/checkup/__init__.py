"""Pre-flight: can these data and settings work? Told before the first epoch."""

from pypty.checkup.checks import preflight
from pypty.checkup.item import Item
from pypty.checkup.result import Preflight

__all__ = ["Item", "Preflight", "preflight"]
