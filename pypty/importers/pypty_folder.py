"""Output folders of PyPty: those of this package, and those of PyPty 2.2."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.importers.imported import Imported, make_imported
from pypty.output.checkpoints import load_checkpoint
from pypty.params.presets import import_pickle, load_preset, with_old_defaults
from pypty.params.schedule import make_schedule
from pypty.params.schema import SCHEMA

_log = logging.getLogger(__name__)
_STATE = ("obj", "probe", "positions", "slice_distances")
_NOT_CARRIED = (*_STATE, "acc_voltage", "dataset", "output_folder", "resume", "overwrite")
_PICKLE = "params.pkl"


def load_folder(folder: Path, trust_pickle: bool) -> Imported:
    """Arrays and (if they may be read) parameters of an output folder.

    params.yaml is read; params.pkl of PyPty 2.2 only with ``trust_pickle``, and then restricted to arrays and plain
    containers.

    Raises
    ------
    CheckpointError
        The folder contains no arrays, or damaged ones.
    ParameterError
        The parameters cannot be read.
    """
    arrays = load_checkpoint(folder)
    settings = folder_params(folder, trust_pickle)
    untrusted = not settings and (folder / _PICKLE).is_file()
    pixels = [settings.get(f"pixel_size_{axis}_A") for axis in "yx"]
    state = {name: arrays.pop(name) for name in _STATE if name in arrays}
    # Refined arrays take precedence over the parameters.
    positions = state.get("positions", settings.get("positions"))
    if positions is None:
        raise ParameterError(f"{str(folder)!r} has no cg.npy, and its parameters no positions")
    distances = state.get("slice_distances", settings.get("slice_distances"))
    version = "2.2" if not (folder / "params.yaml").exists() else "params.yaml"
    rest = {key: value for key, value in settings.items() if key not in _NOT_CARRIED}
    return make_imported(
        state["obj"],
        _with_modes(state["probe"]),
        positions,
        f"{str(folder)!r} (PyPty, {version})",
        pixel_size_A=None if None in pixels else np.array(pixels, float),
        slice_distances_A=None if distances is None else np.atleast_1d(np.asarray(distances, float)),
        acc_voltage=settings.get("acc_voltage"),
        settings={**rest, **arrays},
        notes=(f"its parameters are in {_PICKLE}, which was not opened; trust_pickle=True reads them",)
        * untrusted,
    )


def folder_params(folder: Path, trust_pickle: bool) -> dict[str, Any]:
    """The parameters of an output folder; empty if they may not be read."""
    if (folder / "params.yaml").is_file():
        return load_preset(folder)
    if (folder / _PICKLE).is_file() and trust_pickle:
        return known_params(import_pickle(folder / _PICKLE))
    return {}


def known_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of PyPty 2.2 that exist here and are valid; the log lists the others."""
    out: dict[str, Any] = {}
    left: list[str] = []
    for key, value in with_old_defaults(params).items():
        parameter = SCHEMA.get(key)
        if parameter is None or parameter.status == "no effect":
            left.append(str(key))
            continue
        try:
            if parameter.per_epoch:
                make_schedule(parameter, value)
            elif parameter.kind.problem(value):
                raise ParameterError(str(parameter.kind.problem(value)))
        except ParameterError:
            left.append(str(key))
        else:
            out[key] = value
    if left:
        _log.warning(
            "parameters of PyPty 2.2 without a counterpart are left out: %s", ", ".join(sorted(left))
        )
    return out


def _with_modes(probe: np.ndarray) -> np.ndarray:
    return probe[..., None] if probe.ndim == 2 else probe
