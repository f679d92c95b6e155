"""Continue an earlier reconstruction."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pypty.errors import CheckpointError
from pypty.output.checkpoints import load_checkpoint
from pypty.params.presets import import_pickle, load_preset, with_old_defaults

_log = logging.getLogger(__name__)
_OLD = "params.pkl"


def prepare_restart(output_folder: str | Path, new_folder: str | Path | None = None) -> dict[str, Any]:
    """Parameters that continue an earlier reconstruction, of this PyPty or of PyPty 2.2, from its last arrays.

    The optimiser's history is not restored. (``pypty.resume(folder)`` continues a run of this PyPty exactly where it
    ended.)

    Parameters
    ----------
    output_folder : of the earlier run, with co.npy, cp.npy, ... and params.yaml, or PyPty 2.2's params.pkl (read with
        NumPy arrays and plain containers only)
    new_folder : output_folder of the new run; None = the same

    Returns
    -------
    dict: parameters of the earlier run with obj, probe, positions, ... and epoch_prev, the number of epochs done.
    epoch_max is unchanged, an absolute index. A dataset that was in memory is not in the folder: pass it again.

    Raises
    ------
    CheckpointError
        The folder lacks its arrays or parameters, or they are damaged.
    ParameterError
        The file of parameters cannot be read.
    """
    folder = Path(output_folder).expanduser()
    arrays = load_checkpoint(folder)
    if (folder / "params.yaml").is_file():
        params = load_preset(folder)
    elif (folder / _OLD).is_file():
        params = with_old_defaults(import_pickle(folder / _OLD))
    else:
        raise CheckpointError(f"{str(folder)!r} has neither params.yaml nor {_OLD}; is it an output folder?")
    target = folder if new_folder is None else Path(new_folder).expanduser()
    out = {**params, **arrays, "output_folder": str(target), "resume": False}
    if out.get("num_slices") is not None:
        out["num_slices"] = int(arrays["obj"].shape[2])
    if out.get("dataset") is None and not out.get("data_path"):
        _log.warning("the patterns were in memory and are not in %s; set dataset again", folder)
    return out
