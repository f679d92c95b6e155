"""Pre-flight: can these data and settings work? Told before the first epoch.

``pypty.preflight(params)`` is what users type. Python puts an imported subpackage where that function would
stand, so the package itself can be called.
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
