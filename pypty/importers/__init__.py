"""Results and settings of other programs, as a start for this one."""

from __future__ import annotations

from pypty.importers.imported import Imported
from pypty.importers.load import load_result, parameters_of, params_from

__all__ = ["Imported", "load_result", "parameters_of", "params_from"]
