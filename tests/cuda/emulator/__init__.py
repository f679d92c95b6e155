"""An emulated CUDA device: the real CuPy runs on the CPU (README.md).

``load`` comes before anything that imports CuPy. Nothing of CuPy is imported by this package before that.
"""

from emulator.build import why_not
from emulator.control import (
    counted,
    counters,
    forget_kept_memory,
    is_loaded,
    journal,
    load,
    overruns,
    settings,
)

__all__ = [
    "counted",
    "counters",
    "forget_kept_memory",
    "is_loaded",
    "journal",
    "load",
    "overruns",
    "settings",
    "why_not",
]
