"""Translate loss_params and constraint_params of PtyRAD."""

from __future__ import annotations

from typing import Any

from pypty.errors import ParameterError
from pypty.importers.ptyrad.translation import Group, Ledger

_PATTERN_TERMS = ("single", "poissn", "pacbed")
_REMARKS = (
    ("kr_thresh", "coefficients are transformed back exactly here (PtyRAD's inverse transform is not exact)"),
    ("probe_mask_k", "with power_thresh = 1 all modes are masked here (PtyRAD stops with an error)"),
    ("probe_mask_r", "with power_thresh = 1 all modes are masked here (PtyRAD stops with an error)"),
)


def translate_losses(loss: Group, ledger: Ledger) -> None:
    """``loss_terms`` of the losses that are on, relative to the counts of the batch as in PtyRAD."""
    terms: dict[str, Any] = {}
    for theirs, entry in loss.items():
        name, key = theirs.removeprefix("loss_"), f"loss_params.{theirs}"
        if not entry["state"]:
            ledger.unused(key, "it is off")
            continue
        terms[name] = {field: value for field, value in entry.items() if field != "state"}
        ledger.ours(key, f"loss_terms.{name} = {terms[name]}")
    if not any(name in terms for name in _PATTERN_TERMS):
        raise ParameterError(
            f"{ledger.source}: loss_params: none of loss_single, loss_poissn, loss_pacbed is on; at least one must be"
        )
    ledger.params.update(loss_terms=terms, loss_scale="ratio")


def without_one_mode(params: dict[str, Any], object_modes: int, ledger: Ledger) -> None:
    """Drop loss_simlar if the object has one mode: it compares modes, and PtyRAD's loss becomes NaN."""
    if object_modes == 1 and "simlar" in params["loss_terms"]:
        del params["loss_terms"]["simlar"]
        ledger.note("loss_simlar is left out: the object has one mode (PtyRAD's loss becomes NaN)")


def translate_constraints(constraint: Group, ledger: Ledger) -> None:
    """``constraints`` with the same names; iteration n is epoch n - 1."""
    constraints: dict[str, Any] = {}
    remarks = dict(_REMARKS)
    for name, entry in constraint.items():
        key = f"constraint_params.{name}"
        if entry["start_iter"] is None:
            ledger.unused(key, "it is off")
            continue
        options = {
            field: value for field, value in entry.items() if field not in ("start_iter", "step", "end_iter")
        }
        constraints[name] = {**when(entry, key, ledger.source), **options}
        ledger.ours(key, f"constraints.{name} = {constraints[name]}")
        if name in remarks:
            ledger.note(f"{name}: {remarks[name]}")
    ledger.params["constraints"] = constraints


def when(entry: Group, key: str, source: str) -> dict[str, Any]:
    """start, step, end in epochs from 0."""
    start, end = first_epoch(entry["start_iter"], key, source), entry["end_iter"]
    return {
        "start": start,
        "step": 1 if entry["step"] is None else int(entry["step"]),
        "end": None if end is None else first_epoch(end, f"{key}.end_iter", source),
    }


def first_epoch(iteration: Any, key: str, source: str) -> int:
    """The epoch (counted from 0) of a PtyRAD iteration (counted from 1).

    Raises
    ------
    ParameterError
        The iteration is not a whole number >= 1.
    """
    if isinstance(iteration, bool) or not isinstance(iteration, (int, float)) or iteration != int(iteration):
        raise ParameterError(f"{source}: {key} is {iteration!r}, expected a whole number >= 1, or null")
    if iteration < 1:
        raise ParameterError(
            f"{source}: {key} is {iteration!r}; iterations count from 1: write null for 'never'"
        )
    return int(iteration) - 1
