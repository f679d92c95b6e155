"""Model files of this package (model_iter*.h5) as a start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from pypty.importers.imported import Imported, make_imported
from pypty.model.blocks import BLOCKS, OPTIONAL
from pypty.output.checkpoints import MADE_THE_START
from pypty.params.schema import SCHEMA
from pypty.results.model_file import read_model

_log = logging.getLogger(__name__)
_NOT_CARRIED = (
    "acc_voltage",
    "pixel_size_y_A",
    "pixel_size_x_A",
    "dataset",
    "output_folder",
    "resume",
    "overwrite",
)


def load_model(path: Path) -> Imported:
    """Read a model file; its parameters continue after its last epoch.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    model = read_model(path)
    settings: dict[str, Any] = {
        key: value for key, value in model["settings"].items() if key in SCHEMA and key not in _NOT_CARRIED
    }
    unknown = sorted(set(model["settings"]) - set(SCHEMA))
    if unknown:
        _log.warning(
            "%s: parameters that this version does not know are left out: %s", path, ", ".join(unknown)
        )
    # The stored unknowns replace the starting values of the earlier run.
    for name in BLOCKS:
        settings.pop(name, None)
    settings.update({name: BLOCKS[name].as_parameter(model[name]) for name in OPTIONAL if name in model})
    settings.update(MADE_THE_START, skip_preprocessing=True, epoch_prev=model["epochs_done"])
    several = model["obj"].shape[2] > 1
    return make_imported(
        model["obj"],
        model["probe"],
        model["positions"],
        f"{str(path)!r} (PyPty {model['provenance'].get('pypty_version', '')})",
        pixel_size_A=np.asarray(model["pixel_size_A"], float),
        slice_distances_A=model["slice_distances"] if several and "slice_distances" in model else None,
        acc_voltage=model["acc_voltage_kV"],
        settings=settings,
        extras={key: model[key] for key in ("history", "provenance", "epochs_done", "optimizer")},
    )
