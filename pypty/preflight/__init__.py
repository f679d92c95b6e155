"""Pre-flight: check before the first epoch whether data and settings can work.

Users call ``pypty.preflight(params)``. An imported subpackage takes the name of that function, so the package itself
is callable.
"""

from __future__ import annotations

import sys
from types import ModuleType

from pypty.engine.setup.prepare import Params
from pypty.preflight.checks import preflight
from pypty.preflight.item import Item
from pypty.preflight.result import Preflight

__all__ = ["Item", "Preflight", "preflight"]


class _CallablePackage(ModuleType):
    def __call__(self, params: Params) -> Preflight:
        return preflight(params)


sys.modules[__name__].__class__ = _CallablePackage
