"""States of optimiser and scheduler in model files of PtyRAD (``optim_state``, ``scheduler_state``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np

from pypty.errors import CheckpointError
from pypty.importers.hdf5 import array_of, opened, plain
from pypty.importers.ptyrad.model import OPTIMIZERS
from pypty.importers.ptyrad.model_file import NAME
from pypty.importers.ptyrad.schedulers import SCHEDULERS

_NONE = ("__NONE__",)
_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "obja": "obja",
        "objp": "objp",
        "obj_tilts": "tilts",
        "slice_thickness": "slice_distances",
        "probe": "probe",
        "probe_pos_shifts": "positions",
    }
)
"""PtyRAD's variables in the order of its parameter groups, and our names of what is moved."""
_MOMENTS: Mapping[str, str] = MappingProxyType(
    {
        "exp_avg": "mean",
        "exp_avg_sq": "square",
        "max_exp_avg_sq": "largest",
        "exp_inf": "norm",
        "momentum_buffer": "velocity",
        "square_avg": "square",
        "grad_avg": "mean",
        "sum": "sum",
        "acc_delta": "moved",
        "row_var": "row",
        "col_var": "column",
        "variance": "square",
        "prev": "gradient",
        "step_size": "step",
    }
)
"""PyTorch's names of the moments, and ours. (Those of ASGD only show what the steps give.)"""
_SIGNED = ("mean", "velocity", "gradient")


def optimizer_state(path: Path) -> tuple[str, dict[str, dict[str, np.ndarray]]]:
    """Our name of the method, and its moments by part, in the units of its steps: the probe times N, tilts in mrad with
    our sign.

    Raises
    ------
    CheckpointError
        The file has no such state, or that of a method that cannot be continued.
    DataError
        It is damaged.
    """
    with opened(path, NAME) as file:
        state = file.get("optim_state_dict")
        if not isinstance(state, h5py.Group) or "state" not in state:
            raise CheckpointError(
                f"{str(path)!r} has no state of the optimiser; save_result of its run needs optim_state"
            )
        name = _method(file, path)
        moving = [theirs for theirs in _PARTS if float(array_of(_rates(file), theirs))]
        if len(state["param_groups"]) != len(moving):
            raise CheckpointError(
                f"{str(path)!r}: its optimiser has {len(state['param_groups'])} groups of variables, and "
                f"{len(moving)} learning rates that are not 0 ({', '.join(moving)}); expected the same number"
            )
        moments = {}
        for number, theirs in enumerate(moving):
            index = int(np.ravel(state["param_groups"][str(number)]["params"][()])[0])
            if str(index) in state["state"]:  # a variable that has not been stepped yet has none
                moments[_PARTS[theirs]] = _moments(state["state"][str(index)], theirs)
        _turn_dark(moments, array_of(file["optimizable_tensors"], "obja", (4,)))
    return name, moments


def scheduler_state(path: Path) -> tuple[str, int, dict[str, float]]:
    """Our name of the scheduler, the number of its steps, and the state of plateau.

    Raises
    ------
    CheckpointError, DataError
        As :func:`optimizer_state`.
    """
    with opened(path, NAME) as file:
        if not isinstance(file.get("scheduler_state_dict"), h5py.Group):
            raise CheckpointError(
                f"{str(path)!r} has no state of a scheduler; save_result of its run needs scheduler_state"
            )
        state = plain(file["scheduler_state_dict"], _NONE)
        theirs = str(plain(file["params/model_params/scheduler_params/name"], _NONE))
        rates = [float(array_of(_rates(file), name)) for name in _PARTS]
    if theirs not in SCHEDULERS:
        raise CheckpointError(
            f"{str(path)!r} has the state of {theirs}, which cannot be continued; expected one of "
            f"{', '.join(SCHEDULERS)}"
        )
    ours = SCHEDULERS[theirs][0]
    if ours != "plateau":
        return ours, int(state["last_epoch"]), {}
    first = next((rate for rate in rates if rate), 1.0)
    return (
        ours,
        int(state["last_epoch"]),
        {
            "factor": float(np.ravel(state["_last_lr"])[0]) / first,
            "best": float(state["best"]),
            "bad": float(state["num_bad_epochs"]),
            "rest": float(state["cooldown_counter"]),
        },
    )


def _rates(file: h5py.File) -> h5py.Group:
    return file["model_attributes/lr_params"]


def _method(file: h5py.File, path: Path) -> str:
    entry = plain(file["params/model_params/optimizer_params"], _NONE)
    name = OPTIMIZERS.get(str(entry["name"]).lower(), "")
    if name in ("", "lbfgs"):
        raise CheckpointError(
            f"{str(path)!r} has the state of {entry['name']}, which cannot be continued; expected a first-order method"
        )
    momentum = (entry.get("configs") or {}).get("momentum")
    return "momentum" if name == "sgd" and momentum else name


def _moments(group: h5py.Group, theirs: str) -> dict[str, np.ndarray]:
    """Moments of a variable, with its counters."""
    # PyTorch's SGD does not count; its first step is behind it
    moments: dict[str, np.ndarray] = {"count": np.array(1)}
    for name in group:
        array = np.asarray(array_of(group, name))
        if name == "step":
            moments["count"] = np.array(round(float(array)))
        elif name == "mu_product":
            moments["product"] = np.array(float(array))
        elif name in _MOMENTS:
            moments[_MOMENTS[name]] = _ours(np.atleast_1d(array), _MOMENTS[name], theirs)
    return moments


def _ours(array: np.ndarray, moment: str, theirs: str) -> np.ndarray:
    if theirs != "obj_tilts":
        return array
    if array.shape[-1] != 2:  # adafactor's mean over [y, x]: ours is over six columns, of which four rest
        return array / 3
    # (n, [y x]) -> the columns inside the specimen of (n, 6), where a tilt has the opposite sign
    out = np.zeros((len(array), 6), array.dtype)
    out[:, 2:4] = -array if moment in _SIGNED else array
    return out


def _turn_dark(moments: Mapping[str, dict[str, np.ndarray]], amplitude: np.ndarray) -> None:
    """Where PtyRAD's amplitude is negative, ours is positive with a phase turned by pi."""
    if not (amplitude < 0).any():
        return
    sign = np.where(amplitude < 0, -1, 1)
    for name, array in moments.get("obja", {}).items():
        if name in _SIGNED:
            array *= sign
