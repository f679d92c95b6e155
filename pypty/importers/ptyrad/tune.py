"""Translate hypertune_params of PtyRAD to the parameter ``tune``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pypty.errors import ParameterError
from pypty.importers.ptyrad.defaults import TUNED
from pypty.importers.ptyrad.model import OPTIMIZERS
from pypty.importers.ptyrad.translation import Group, Ledger

_KEY = "hypertune_params."
_OLD = ("defocus", "c3", "c5")
_ENTRY = ("state", "suggest", "kwargs")
_KINDS = ("int", "float", "cat")


def tuned_names(hypertune: Group, source: str) -> frozenset[str]:
    """Names that hypertune searches; empty if it is off.

    Raises
    ------
    ParameterError
        A name or entry is unknown.
    """
    names = set()
    for name, entry in (hypertune["tune_params"] or {}).items():
        if name not in TUNED:
            near = difflib.get_close_matches(str(name), TUNED, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"{source}: hypertune_params.tune_params has no {name!r}{hint}")
        if entry is None:
            continue
        wrong = [key for key in entry if key not in _ENTRY] if isinstance(entry, Mapping) else ["?"]
        if wrong:
            raise ParameterError(
                f"{source}: hypertune_params.tune_params.{name} is {entry!r}, expected state, suggest and kwargs"
            )
        if entry.get("state"):
            names.add(str(name))
    return frozenset(names) if hypertune["if_hypertune"] else frozenset()


def translate_tune(hypertune: Group, probe_unit: float, ledger: Ledger) -> None:
    """Translate hypertune_params to ``tune``, if hypertune is on.

    Parameters
    ----------
    probe_unit : learning rate of the probe here that corresponds to 1 in PtyRAD
    """
    if not hypertune["if_hypertune"]:
        for name in hypertune:
            ledger.unused(_KEY + name, "if_hypertune is false")
        return
    names = tuned_names(hypertune, ledger.source)
    if not names:
        raise ParameterError(
            f"{ledger.source}: hypertune_params.if_hypertune is on, but no entry of tune_params has state: true"
        )
    entries = {name: _range(name, hypertune["tune_params"][name], probe_unit, ledger) for name in names}
    tune: dict[str, Any] = {
        "n_trials": int(hypertune["n_trials"]),
        "objective": str(hypertune["error_metric"]),
        "sampler": _part(hypertune["sampler_params"], "Sampler"),
        "pruner": "None"
        if hypertune["pruner_params"] is None
        else _part(hypertune["pruner_params"], "Pruner"),
        "storage": str(hypertune["storage_path"]),
        "study_name": str(hypertune["study_name"]),
        "collate": bool(hypertune["collate_results"]),
        "parameters": {name: entries[name] for name in TUNED if name in entries},
    }
    if hypertune["timeout"] is not None:
        tune["timeout_s"] = float(hypertune["timeout"])
    ledger.params["tune"] = tune
    for theirs, ours in (
        ("if_hypertune", "tune"),
        ("n_trials", "n_trials"),
        ("timeout", "timeout_s"),
        ("sampler_params", "sampler"),
        ("pruner_params", "pruner"),
        ("storage_path", "storage"),
        ("study_name", "study_name"),
        ("error_metric", "objective"),
        ("collate_results", "collate"),
        ("tune_params", "parameters"),
    ):
        ledger.ours(_KEY + theirs, "tune" if ours == "tune" else f"tune.{ours} = {tune.get(ours)}")
    ledger.unused(_KEY + "verbosity", "trials are silent (print_flag)")
    ledger.unused(_KEY + "append_params", "files of a trial always contain its values")
    ledger.note("pypty tune  searches hypertune_params;  pypty run  reconstructs once")


def _part(entry: Group, ending: str) -> dict[str, Any]:
    """Name (without ``ending``) and constructor arguments of a sampler or pruner."""
    out: dict[str, Any] = {"name": str(entry.get("name", "")).removesuffix(ending)}
    configs = dict(entry.get("configs") or {})
    return {**out, "configs": configs} if configs else out


def _range(name: str, entry: Group, probe_unit: float, ledger: Ledger) -> dict[str, Any]:
    kind, kwargs = entry.get("suggest"), dict(entry.get("kwargs") or {})
    if name in _OLD:
        raise ParameterError(
            f"{ledger.source}: hypertune_params.tune_params.{name} is obsolete; search C10, C30 or C50 instead"
        )
    if kind not in _KINDS:
        raise ParameterError(
            f"{ledger.source}: hypertune_params.tune_params.{name}.suggest is {kind!r}, expected int, float or cat"
        )
    out: dict[str, Any] = {
        "suggest": kind,
        **{key: kwargs[key] for key in ("low", "high", "step", "log", "choices") if key in kwargs},
    }
    if name == "optimizer":
        _optimizers(out, kwargs, ledger)
    if name == "plr":  # PtyRAD's rate of the probe, in our unit
        for key in ("low", "high", "step"):
            if key in out and out[key] is not None:
                out[key] = out[key] * probe_unit
        if "choices" in out:
            out["choices"] = [choice * probe_unit for choice in out["choices"]]
    if "choices" in out:
        out["choices"] = list(dict.fromkeys(out["choices"]))  # PtyRAD's own default has one twice
    return out


def _optimizers(out: dict[str, Any], kwargs: Mapping[str, Any], ledger: Ledger) -> None:
    choices = [str(choice) for choice in out.get("choices", [])]
    unknown = [choice for choice in choices if choice.lower() not in OPTIMIZERS]
    if unknown:
        raise ParameterError(
            f"{ledger.source}: hypertune_params.tune_params.optimizer: {unknown} do not work in PtyRAD either; "
            f"expected some of {', '.join(OPTIMIZERS.values())}"
        )
    out["choices"] = [OPTIMIZERS[choice.lower()] for choice in choices]
    configs = kwargs.get("optim_configs") or {}
    known = {
        OPTIMIZERS[str(name).lower()]: dict(value or {})
        for name, value in configs.items()
        if str(name).lower() in OPTIMIZERS
    }
    if known:
        out["optim_configs"] = known
        ledger.note("hypertune of optimizer: its optim_configs are used (PtyRAD stops with an error)")
