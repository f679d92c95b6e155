"""States of optimisers and schedulers with which a run begins (``load_optimizer_state``, ``load_scheduler_state``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import CheckpointError
from pypty.importers.hdf5 import opened
from pypty.importers.ptyrad import state as of_ptyrad
from pypty.importers.ptyrad.model_file import is_ptyrad
from pypty.params.settings import Settings
from pypty.results.model_file import PROBE_SCALE, read_model

_OF_OBJECT = ("obj", "obja", "objp")


def loaded_progress(settings: Settings) -> dict[str, Any]:
    """The fields of ``engine.epochs.first_order.Progress`` that the files of these settings determine.

    Learning rates, constants and schedules are those of the settings; the files give moments and numbers of steps.

    Raises
    ------
    CheckpointError
        A file has no such state, or that of another method, parametrisation or schedule.
    DataError
        A file is damaged, or no model file.
    """
    fields: dict[str, Any] = {}
    if settings["load_optimizer_state"]:
        fields |= _optimizer(Path(settings["load_optimizer_state"]).expanduser(), settings)
    if settings["load_scheduler_state"]:
        fields |= _scheduler(Path(settings["load_scheduler_state"]).expanduser(), settings)
    return fields


def _is_of_ptyrad(path: Path) -> bool:
    with opened(path, "model file of PyPty or PtyRAD") as file:
        return is_ptyrad(file)


def _optimizer(path: Path, settings: Settings) -> dict[str, Any]:
    now = settings.first()
    scale = 0.0
    if _is_of_ptyrad(path):
        name, moments = of_ptyrad.optimizer_state(path)
        if "probe" in moments and not now["learning_rates"]["probe_abs"]["lr"]:
            raise CheckpointError(
                f"load_optimizer_state: {str(path)!r} has moments of the probe in PtyRAD's unit; give the probe's rate "
                "as learning_rates.probe_abs"
            )
    else:
        name, moments, scale = _own_moments(path)
    if name != now["optimizer"]:
        raise CheckpointError(
            f"load_optimizer_state: {str(path)!r} has the state of {name or 'no first-order method'}, but optimizer is "
            f"{now['optimizer']!r}; use the same, or leave load_optimizer_state out"
        )
    if now["phase_only_obj"]:
        expected = {"objp"}
    else:
        expected = {"obja", "objp"} if now["obj_parametrization"] == "amplitude_phase" else {"obj"}
    wrong = set(moments) & set(_OF_OBJECT) - expected
    if wrong:
        raise CheckpointError(
            f"load_optimizer_state: {str(path)!r} has moments of {', '.join(sorted(wrong))}, but the object is moved "
            f"as {', '.join(sorted(expected))}; set obj_parametrization and phase_only_obj as in its run"
        )
    return {"name": name, "moments": moments, "probe_scale": scale}


def _own_moments(path: Path) -> tuple[str, dict[str, dict[str, np.ndarray]], float]:
    arrays: Mapping[str, np.ndarray] = read_model(path)["optimizer"]
    names = {key.split("/")[0] for key in arrays} - {"lbfgs"}
    if len(names) != 1:
        raise CheckpointError(
            f"load_optimizer_state: {str(path)!r} has no state of a first-order method; save_result of its run needs "
            "optim_state, and L-BFGS continues with resume only"
        )
    name = names.pop()
    moments: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        if key.startswith(f"{name}/") and key != f"{name}/{PROBE_SCALE}":
            if key.count("/") != 2:
                raise CheckpointError(
                    f"load_optimizer_state: {str(path)!r} has a moment {key!r} without a part; it is damaged"
                )
            _, part, moment = key.split("/")
            moments.setdefault(part, {})[moment] = array
    return name, moments, float(arrays.get(f"{name}/{PROBE_SCALE}", 0.0))


def _scheduler(path: Path, settings: Settings) -> dict[str, Any]:
    asked = settings["lr_scheduler"]
    if asked is None:
        raise CheckpointError(
            "load_scheduler_state is given, but lr_scheduler is not; give the scheduler, or leave the state out"
        )
    if _is_of_ptyrad(path):
        name, steps, schedule = of_ptyrad.scheduler_state(path)
        # its scheduler counts one of the two
        by_batch = asked["step_unit"] == "batch" and name != "plateau"
        counts = {"steps": steps if by_batch else 0, "epochs": 0 if by_batch else steps}
    else:
        model = read_model(path)
        stored = {key: value.item() for key, value in model["scheduler"].items()}
        if "steps" not in stored:
            raise CheckpointError(
                f"load_scheduler_state: {str(path)!r} has no state of a scheduler; save_result of its run needs "
                "scheduler_state"
            )
        name = (model["settings"].get("lr_scheduler") or {}).get("name", "")
        counts = {key: int(stored.pop(key)) for key in ("steps", "epochs")}
        schedule = stored
    if name != asked["name"]:
        raise CheckpointError(
            f"load_scheduler_state: {str(path)!r} has the state of {name or 'no schedule'}, but lr_scheduler is "
            f"{asked['name']!r}; use the same, or leave load_scheduler_state out"
        )
    return {**counts, "schedule": schedule}
