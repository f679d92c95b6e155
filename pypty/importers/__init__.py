"""Results and settings of other programs, as a start for this one."""

from __future__ import annotations

from pypty.importers.imported import Imported
from pypty.importers.load import load_result, parameters_of, params_from
from pypty.importers.ptyrad.params import load_params, translate, translate_file
from pypty.importers.ptyrad.translation import Translation

__all__ = [
    "Imported",
    "Translation",
    "load_params",
    "load_result",
    "parameters_of",
    "params_from",
    "translate",
    "translate_file",
]
