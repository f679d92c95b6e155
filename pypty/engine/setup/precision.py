"""The precision of waves: in which one a run begins, and its change to double precision (``default_dtype`` "auto")."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from pypty.backend.array import Backend, select, single_to_double
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.division import Division, of_scan
from pypty.engine.setup.memory import ever_chosen, make_plan
from pypty.engine.setup.memory_plan import ALONE, MemoryPlan, Ranks, Sizes
from pypty.engine.setup.sequences import used_at_any_epoch
from pypty.errors import ResourceError
from pypty.model.forward import executor_name
from pypty.params.checks.combinations import optimizers
from pypty.params.settings import Settings

AUTO = "auto"
_log = logging.getLogger(__name__)


def select_backend(settings: Settings, auto: str) -> Backend:
    """Device and precision that the parameters ask for; ``auto`` is the precision that "auto" stands for."""
    asked = settings["default_dtype"]
    return select(settings["backend"], auto if asked == AUTO else asked, settings["fft_library"])


def may_change(setup: Setup) -> bool:
    """Whether the run may go on in double precision."""
    return setup.settings["default_dtype"] == AUTO and setup.backend.precision == "single"


def planned(setup: Setup, ranks: Ranks = ALONE) -> Setup:
    """The setup with the memory plan of its backend, and what the run would need in double precision.

    Parameters
    ----------
    ranks : the processes that share the reconstruction

    Raises
    ------
    ResourceError
        Not even one pattern at a time fits.
    ParameterError
        There are fewer patterns than processes.
    """
    plan = _plan(setup, None, ranks)
    if may_change(setup) and "lbfgs" in optimizers(setup.settings):
        try:
            later = _plan(_with_precision(setup, "double"), None, ranks).total
        except ResourceError:
            later = 0
        plan = dataclasses.replace(plan, in_double=later)
    return dataclasses.replace(setup, plan=plan)


def in_precision(setup: Setup, precision: str, running: bool = False) -> Setup:
    """The setup with waves in another precision, and the memory plan of that.

    Parameters
    ----------
    running : patterns are in memory already, as its plan says

    Raises
    ------
    ResourceError
        Not even one pattern at a time fits.
    """
    if setup.backend.precision == precision:
        return setup
    other = dataclasses.replace(_with_precision(setup, precision), began_in=np.dtype(setup.backend.real))
    other = dataclasses.replace(other, plan=_plan(other, setup.plan if running else None, setup.plan.ranks))
    for text in cost_of_double(other):
        _log.info("%s", text)
    return other


def cost_of_double(setup: Setup) -> list[str]:
    """What double precision costs on this GPU; empty on the CPU, and in single precision."""
    backend = setup.backend
    if not backend.on_gpu or backend.precision == "single":
        return []
    ratio = single_to_double(backend)
    slower = (
        f"does {ratio} operations in single precision in the time of one"
        if ratio > 1
        else "moves twice the bytes"
    )
    text = f"double precision on a GPU: this one {slower}, and every array takes twice the memory"
    if _executor(_with_precision(setup, "single")) == "split":
        text += "; split kernels, which are the fastest, are in single precision only"
    return [
        f"{text}. default_dtype='auto' begins in single precision, and goes on in double where that is needed"
    ]


def _with_precision(setup: Setup, precision: str) -> Setup:
    return dataclasses.replace(setup, backend=setup.backend.in_precision(precision))


def _plan(setup: Setup, earlier: MemoryPlan | None, ranks: Ranks) -> MemoryPlan:
    sizes: Sizes = dataclasses.replace(setup.plan.sizes, executor=_executor(setup))
    return make_plan(setup.settings, setup.backend, sizes, earlier, ranks, division(setup, ranks.size))


def division(setup: Setup, ranks: int) -> Division | None:
    """What each of several ranks has of the patterns and of the object; None for one.

    Raises
    ------
    ParameterError
        There are fewer patterns than ranks.
    """
    if ranks == 1:
        return None
    used = used_at_any_epoch(setup.settings, setup.n_patterns)
    return of_scan(setup.scan.crop_origins, used, setup.grid.shape, setup.plan.sizes.object_shape, ranks)


def _executor(setup: Setup) -> str:
    """The executor that takes the most memory at any epoch."""
    options = [setup.model_options(True, method) for method in ever_chosen(setup.settings)]
    names = {executor_name(option, setup.backend) for option in options}
    return next(name for name in ("stages", "fused", "split") if name in names)
