"""Whether the values in resume.h5 and history.jsonl can be those of a run: types, shapes and finite numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.backend.array import array_module
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.errors import CheckpointError, ParameterError
from pypty.model.blocks import BLOCKS
from pypty.optimize.vector import BlockVector
from pypty.output.loss_log import EpochRecord
from pypty.output.settings_file import NAME as SETTINGS_FILE
from pypty.output.settings_file import yaml_value
from pypty.params.presets import read_yaml
from pypty.params.settings import Settings

_MOST_EPOCHS = 2**40
_MOST_PIXELS = 2**31


def check_state(state: State, setup: Setup) -> None:
    """Check a state that was read.

    Raises
    ------
    ValueError
        A value cannot be that of a run.
    """
    if not 0 <= state.epoch < _MOST_EPOCHS or not 0 <= state.rejected < _MOST_EPOCHS:
        raise ValueError(f"epoch {state.epoch} with {state.rejected} rejected updates")
    _numbers("elapsed time", {"": state.elapsed_s})
    _blocks(state, setup)
    _scan(state)
    _vectors(state)
    _monitor(state)
    progress = state.progress
    # before the first finite loss the best one is infinite
    finite = {name: value for name, value in progress.schedule.items() if value != math.inf}
    _numbers("the schedule of learning rates", finite)
    _numbers(
        "the first-order method",
        {"steps": progress.steps, "epochs": progress.epochs, "": progress.probe_scale},
    )
    for part, moments in progress.moments.items():
        _arrays(f"the moments of {part}", moments)
    for record in state.records:
        check_record(record)


def check_fit(run: Reconstruction) -> None:
    """Check that the gradient and the L-BFGS pairs that were read have the shapes of what is refined next.

    Raises
    ------
    CheckpointError
        They have other shapes.
    """
    state, vectors = run.state, list(_all_vectors(run.state))
    if not vectors or state.epoch >= run.settings["epoch_max"]:
        return
    problem = run.problem(run.settings.at(state.epoch))
    if problem.signature != state.signature:
        return  # they are dropped
    wanted = {name: array.shape for name, array in problem.point().items()}
    if any({name: array.shape for name, array in vector.items()} != wanted for vector in vectors):
        raise CheckpointError(
            "the gradient or the L-BFGS pairs in resume.h5 have other shapes than what is refined; it is damaged: "
            "start again from pypty.load_checkpoint(folder)"
        )


def change_of_loss(folder: Path, settings: Settings) -> str:
    """What to say where the loss of the earlier epochs, by params.yaml, is another one now because the parameters leave
    out a key of it; "" where it is the same, was changed by name, or is not known."""
    given, has_noise = settings.set_by_user, settings["algorithm"] == "poisson_gaussian"
    if "loss_terms" in given or ("algorithm" in given and not has_noise):
        return ""
    try:
        earlier = read_yaml(folder / SETTINGS_FILE)
    except ParameterError:  # lost or damaged; it is written anew, and nothing but this depends on it
        return ""
    keys = ["loss_terms", "algorithm"]
    if has_noise or earlier.get("algorithm") in ("auto", "poisson_gaussian"):
        keys += ["detector_gain", "readout_noise"]
    asked, changes = settings.record(), []
    for key in keys:
        if key not in earlier or key in given:
            continue
        before, now = earlier[key], yaml_value(settings.value(key))
        if before not in (now, yaml_value(asked[key])):
            changes.append((key, before, now))
    if not changes:
        return ""
    had = " and ".join(f"{key} = {before!r}" for key, before, _ in changes)
    have = " and ".join(f"{key} = {now!r}" for key, _, now in changes)
    names = " and ".join(key for key, _, _ in changes)
    return (
        f"the loss changes: the earlier epochs in {str(folder)!r} had {had}, those from now on have {have}, since the "
        f"parameters leave out {names}; to go on with the same loss set {had}"
    )


def check_record(record: EpochRecord) -> None:
    """Check what was recorded of an epoch.

    Raises
    ------
    ValueError
        A value has another type.
    """
    for item in dataclasses.fields(record):
        value, kind = getattr(record, item.name), str(item.type)
        if kind in ("int", "float") or kind.startswith("float |"):
            good = isinstance(value, (int, float)) and not isinstance(value, bool)
            good = good or (value is None and "None" in kind)
        elif kind == "str":
            good = isinstance(value, str)
        elif kind.startswith("dict"):
            good = isinstance(value, dict) and all(
                isinstance(entry, (int, float)) for entry in value.values()
            )
        elif "float" in kind:
            good = len(value) == 2 and all(isinstance(entry, (int, float)) for entry in value)
        else:
            good = isinstance(value, (list, tuple)) and all(isinstance(entry, str) for entry in value)
        if not good or (kind == "int" and not (isinstance(value, int) and abs(value) < _MOST_EPOCHS)):
            raise ValueError(f"{item.name} of an epoch is {str(value)[:80]}")


def _blocks(state: State, setup: Setup) -> None:
    fresh = setup.variables()
    for name in BLOCKS:
        have, want = state.variables.block(name), fresh.block(name)
        if have is None or want is None:
            continue  # shapes were compared with the parameters
        if have.dtype != want.dtype:
            raise ValueError(f"{name} has dtype {have.dtype}, expected {want.dtype}")
        _arrays("the unknowns", {name: have})
    if state.snapshot is not None:
        _arrays("the arrays of the convergence monitor", state.snapshot)


def _scan(state: State) -> None:
    """Whether those that are used lie on the object is checked in every epoch."""
    if state.scan is None:
        return
    scan, n = state.scan, len(state.variables.positions)
    corners, positions = np.asarray(scan.crop_origins), np.asarray(scan.positions)
    if corners.shape != (n, 2) or corners.dtype.kind not in "iu" or positions.shape != (n, 2):
        raise ValueError(f"crop origins of shape {corners.shape} and positions of shape {positions.shape}")
    if np.shape(scan.moved) != (2,) or not (np.isfinite(positions).all() and np.isfinite(scan.moved).all()):
        raise ValueError("positions that are not finite numbers")
    if (abs(corners) > _MOST_PIXELS).any():
        raise ValueError(f"crop origins up to {abs(corners).max()} px")


def _vectors(state: State) -> None:
    """Gradient and pairs have the same blocks, and each of them the same shape and type."""
    vectors = list(_all_vectors(state))
    kinds = [{name: (array.shape, array.dtype) for name, array in vector.items()} for vector in vectors]
    if any(kind != kinds[0] for kind in kinds):
        raise ValueError("the gradient and the L-BFGS pairs do not fit together")
    if state.signature is not None and kinds and set(kinds[0]) != set(state.signature.blocks):
        raise ValueError(
            f"gradients of {sorted(kinds[0])}, but {sorted(state.signature.blocks)} were refined"
        )
    for vector in vectors:
        _arrays("the gradient and the L-BFGS pairs", vector)
    if state.sample is not None:
        _numbers("the loss", {"loss": state.sample.value, "sse": state.sample.info.sse})
        _numbers("the regularisers", state.sample.info.terms)
        _numbers("loss_terms", state.sample.info.loss_terms)
        _arrays("the loss of the batches", {"parts": state.sample.info.parts})


def _all_vectors(state: State) -> Iterator[BlockVector]:
    if state.sample is not None:
        yield state.sample.gradient
    for pair in state.optimizer.pairs:
        yield from (pair.s, pair.y)


def _monitor(state: State) -> None:
    monitor = state.monitor
    _numbers("the monitor of stuck blocks", {"patience": monitor.patience, **monitor.still})
    if not all(isinstance(text, str) for text in monitor.told.values()):
        raise ValueError(f"the monitor of stuck blocks has told {monitor.told}")
    if not {*state.frozen, *monitor.still, *monitor.told} <= set(BLOCKS):
        raise ValueError(f"stuck blocks {sorted({*state.frozen, *monitor.still, *monitor.told})}")


def _numbers(what: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{what} has {name} {str(value)[:80]}, expected a finite number")


def _arrays(what: str, arrays: Mapping[str, Any]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" or not array_module(array).isfinite(array).all():
            raise ValueError(f"{what} have {name} with values that are not finite numbers")
