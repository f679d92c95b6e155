"""PyPty: quantitative phase images from 4D-STEM data by iterative ptychography.

The names below are loaded on first use, so that ``import pypty`` is cheap and needs no GPU.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pypty._moved import PUBLIC, moved_to
from pypty._version import __version__

if TYPE_CHECKING:
    from pypty.assessment import fit_quality, verdict
    from pypty.iterative import check, evaluate, plan, resume, run, simulate
    from pypty.output.checkpoints import load_checkpoint
    from pypty.params.presets import load_preset
    from pypty.preflight import Preflight, preflight
    from pypty.refits.compare import compare
    from pypty.refits.positions import position_trial
    from pypty.refits.resolution import resolution
    from pypty.refits.uncertainty import uncertainty
    from pypty.report_page import report
    from pypty.results.result import Result

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent unless the user, or print_flag, asks

_WHERE: Mapping[str, str] = MappingProxyType(
    {
        "run": "pypty.iterative",
        "evaluate": "pypty.iterative",
        "simulate": "pypty.iterative",
        "check": "pypty.iterative",
        "plan": "pypty.iterative",
        "resume": "pypty.iterative",
        "fit_quality": "pypty.assessment",
        "verdict": "pypty.assessment",
        "uncertainty": "pypty.refits.uncertainty",
        "resolution": "pypty.refits.resolution",
        "compare": "pypty.refits.compare",
        "position_trial": "pypty.refits.positions",
        "report": "pypty.report_page",
        "Result": "pypty.results.result",
        "load_checkpoint": "pypty.output.checkpoints",
        "load_preset": "pypty.params.presets",
        "preflight": "pypty.preflight",
        "Preflight": "pypty.preflight",
    }
)
_MODULES = (
    "backend",
    "calibrate",
    "direct",
    "dpc",
    "errors",
    "fft",
    "importers",
    "initialize",
    "iterative",
    "multislice_core",
    "nexus",
    "objective",
    "optics",
    "params",
    "plots",
    "readers",
    "results",
    "se",
    "tcbf",
    "trust",
    "tune",
    "utils",
    "vaa",
)

__all__ = [
    "Preflight",
    "Result",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "fit_quality",
    "load_checkpoint",
    "load_preset",
    "plan",
    "position_trial",
    "preflight",
    "report",
    "resolution",
    "resume",
    "run",
    "simulate",
    "uncertainty",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"pypty.{name}")
    place = moved_to(name)
    if place:
        raise AttributeError(f"pypty.{name} of PyPty 2.2 is not offered; instead: {place}")
    if not name.startswith("_"):  # PyPty 2.2 offers the names of its modules as its own, too
        for module in map(importlib.import_module, (f"pypty.{public}" for public in PUBLIC)):
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'pypty' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
