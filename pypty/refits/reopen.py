"""A finished reconstruction as parameters: where it ended, or where it began."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.importers import parameters_of
from pypty.model.blocks import BLOCKS
from pypty.output.checkpoints import load_checkpoint
from pypty.params.schema import SCHEMA
from pypty.results.result import Result

Finished = Result | str | Path | Mapping[str, Any]
"""A result, its output folder, or parameters (a dict, a model file, a preset) whose start is what is meant."""
_OBJECT = BLOCKS["obj"].file

_SILENT: Mapping[str, Any] = MappingProxyType(
    {
        "print_flag": 0,
        "output_folder": "",
        "resume": False,
        "overwrite": False,
        "save_iters": 0,
        "recon_dir_affixes": (),
        "prefix_time": False,
        "prefix": "",
        "postfix": "",
        "copy_params": "",
        "load_optimizer_state": "",
        "load_scheduler_state": "",
        "data_simulation_flag": False,
    }
)
"""Nothing is written or shown."""


def at_the_end(finished: Finished) -> dict[str, Any]:
    """Parameters of a run that begins where this one has ended, and writes nothing.

    Raises
    ------
    CheckpointError
        The folder is not that of a result.
    """
    if isinstance(finished, Result):
        settings = {
            name: value for name, value in changed(finished).items() if name != "num_slices"
        }  # as obj has
        return {**settings, **finished.params(), **_SILENT}
    if isinstance(finished, Mapping):
        return {**finished, **_SILENT}
    arrays = load_checkpoint(finished) if (Path(finished).expanduser() / _OBJECT).is_file() else {}
    return {**parameters_of(finished), **arrays, **_SILENT}


def at_the_start(finished: Finished) -> dict[str, Any]:
    """Parameters that repeat this run from its beginning, and write nothing."""
    if isinstance(finished, Result):
        return {**changed(finished), **_SILENT}
    given = finished if isinstance(finished, Mapping) else parameters_of(finished)
    return {**given, **_SILENT}


def changed(result: Result) -> dict[str, Any]:
    """The settings of a result that differ from the defaults: defaults that are given may contradict its arrays."""
    return {
        name: value
        for name, value in result.settings.items()
        if name in SCHEMA and not _same(value, SCHEMA[name].default)
    }


def _same(value: Any, default: Any) -> bool:
    try:
        return bool(np.array_equal(value, default))
    except (TypeError, ValueError):
        return False
