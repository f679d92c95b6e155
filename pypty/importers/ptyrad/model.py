"""Translate model_params of PtyRAD: optimiser, scheduler, learning rates, detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pypty.errors import ParameterError
from pypty.importers.ptyrad.data import find_path
from pypty.importers.ptyrad.losses import first_epoch
from pypty.importers.ptyrad.schedulers import translate_scheduler
from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.params.schema.batches import OPTIMIZER_OPTIONS

OPTIMIZERS: Mapping[str, str] = MappingProxyType(
    {
        name.lower(): ours
        for name, ours in (
            ("Adadelta", "adadelta"),
            ("Adafactor", "adafactor"),
            ("Adagrad", "adagrad"),
            ("Adam", "adam"),
            ("AdamW", "adamw"),
            ("Adamax", "adamax"),
            ("ASGD", "asgd"),
            ("LBFGS", "lbfgs"),
            ("Nadam", "nadam"),
            ("RAdam", "radam"),
            ("RMSprop", "rmsprop"),
            ("Rprop", "rprop"),
            ("SGD", "sgd"),
        )
    }
)
"""Keys are lower case, since PyTorch's NAdam is Nadam in PtyRAD."""

_PLAIN_OPTIONS = ("foreach", "fused", "capturable", "differentiable", "lr")
_BLOCKS = (
    ("obja", "obja", "amplitude"),
    ("objp", "objp", "phase"),
    ("obj_tilts", "tilts", "mrad"),
    ("slice_thickness", "slice_distances", "Å, one for all gaps"),
    ("probe", "probe_abs", ""),
    ("probe_pos_shifts", "positions", "px"),
)
_SWITCHES = MappingProxyType(
    {
        "obj_tilts": "update_tilts",
        "slice_thickness": "update_slice_distances",
        "probe": "update_probe",
        "probe_pos_shifts": "update_probe_pos",
    }
)


def translate_model(
    model: Group, window: int, n_slices: int, ledger: Ledger, folder: Path | None = None
) -> None:
    """Translate all keys of model_params.

    Parameters
    ----------
    folder : folder of the parameter file, for the files of load_state; None = the current one
    window : N, side of the simulated pattern
    n_slices : number of slices; tilts and slice thickness have no effect if it is 1
    """
    blur = model["detector_blur_std"]
    if blur:
        ledger.ours(
            "model_params.detector_blur_std", detector_blur_std=float(blur), detector_blur_edge="reflect"
        )
    else:
        ledger.unused("model_params.detector_blur_std", "it is off")
    ledger.unused(
        "model_params.preload_data",
        "patterns are kept in memory if they fit, and otherwise read during the computation",
    )
    preblur = model["obj_preblur_std"]
    if preblur:
        ledger.ours(
            "model_params.obj_preblur_std", "PtyRAD ignores it since b13", obj_preblur_std=float(preblur)
        )
    else:
        ledger.unused("model_params.obj_preblur_std", "it is off")
    folder = Path.cwd() if folder is None else folder
    name = _optimizer(model["optimizer_params"], folder, ledger)
    rates = _updates(model["update_params"], name, window, n_slices, ledger)
    translate_scheduler(model["scheduler_params"], rates, name, 1 / window, ledger)
    entry = model["scheduler_params"]
    if entry is not None and "lr_scheduler" in ledger.params:
        load_state(entry["load_state"], "model_params.scheduler_params", folder, ledger)
    if name != "lbfgs":
        ledger.params.update(learning_rates=rates, lazy_moments=False)


def _optimizer(entry: Group, folder: Path, ledger: Ledger) -> str:
    """Name of the optimiser here; ``entry`` is optimizer_params."""
    key = "model_params.optimizer_params"
    name = OPTIMIZERS.get(str(entry["name"]).lower())
    if name is None:
        raise ParameterError(
            f"{ledger.source}: {key}.name is {entry['name']!r}, which does not work in PtyRAD either; choose one of "
            f"{', '.join(sorted(OPTIMIZERS.values()))}"
        )
    configs = dict(entry["configs"] or {})
    if name == "sgd" and configs.get("momentum"):
        ledger.ours(f"{key}.name", optimizer="momentum")
    else:
        ledger.ours(f"{key}.name", optimizer=name)
    if name == "lbfgs":
        _lbfgs(configs, ledger)
    else:
        options = _options(name, configs, ledger)
        ledger.ours(f"{key}.configs", optimizer_options=options)
    if name != "lbfgs":
        load_state(entry["load_state"], key, folder, ledger)
    elif entry["load_state"] is not None:
        ledger.without(f"{key}.load_state", "L-BFGS continues with resume only")
    else:
        ledger.unused(f"{key}.load_state", "no state is given")
    return "momentum" if ledger.params["optimizer"] == "momentum" else name


def load_state(value: Any, key: str, folder: Path, ledger: Ledger) -> None:
    """The model file of PtyRAD or PyPty whose state goes on; ``key`` ends in optimizer_params or scheduler_params.

    Raises
    ------
    DataError
        It does not exist.
    """
    if value is None:
        ledger.unused(f"{key}.load_state", "no state is given")
        return
    ours = "load_optimizer_state" if key.endswith("optimizer_params") else "load_scheduler_state"
    path = find_path(value, folder, f"{key}.load_state").resolve()
    ledger.ours(f"{key}.load_state", **{ours: str(path)})
    ledger.note(
        f"{key}.load_state: moments and numbers of steps go on; learning rates and constants are those of this file"
    )


def _options(name: str, configs: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    key = "model_params.optimizer_params.configs"
    known = {field.name for field in OPTIMIZER_OPTIONS.fields}
    options: dict[str, Any] = {}
    for option, value in configs.items():
        if option in _PLAIN_OPTIONS:
            ledger.unused(
                f"{key}.{option}",
                "learning rates are those of update_params; PyTorch's implementation options have no effect",
            )
        elif option in known:
            options[option] = value
        elif option == "eps2" or (option == "maximize" and value) or option not in ("maximize",):
            ledger.without(f"{key}.{option}", f"{value!r}: not an option of {name} here")
    if name == "adafactor" and isinstance(options.get("eps"), (list, tuple)):
        ledger.without(f"{key}.eps", "a pair is not translated; PyTorch's defaults are used")
        del options["eps"]
    return options


def _lbfgs(configs: dict[str, Any], ledger: Ledger) -> None:
    key = "model_params.optimizer_params.configs"
    history = configs.pop("history_size", 100)
    ledger.ours(key, hist_length=int(history))
    for option, value in configs.items():
        ledger.without(
            f"{key}.{option}",
            f"{value!r}: an epoch here is one L-BFGS step over all patterns with a strong Wolfe line search, scaled by "
            "the illumination",
        )
    ledger.note(
        "LBFGS: an epoch is one step over all patterns here, and up to max_iter (20) steps for every group of batches "
        "in PtyRAD; learning rates and the scheduler have no effect"
    )


def _updates(
    updates: Group, optimizer: str, window: int, n_slices: int, ledger: Ledger
) -> dict[str, dict[str, Any]]:
    """``learning_rates``, and the update_* switches among the parameters."""
    rates: dict[str, dict[str, Any]] = {}
    moving = {}
    for theirs, ours, text in _BLOCKS:
        entry, key = updates[theirs], f"model_params.update_params.{theirs}"
        rate = _rate(entry, key, ledger)
        if n_slices == 1 and theirs in ("obj_tilts", "slice_thickness") and rate["lr"]:
            ledger.unused(key, "it acts on the propagation between slices, and there is one slice")
            rate["lr"] = 0.0
            moving[theirs] = False
            continue
        moving[theirs] = rate["lr"] > 0
        if theirs == "probe":
            rate["lr"] /= window  # the unit of the probe here
            text = f"the probe here is PtyRAD's divided by N = {window}"
            if optimizer == "lbfgs":
                rate["lr"] = 0.0
        if moving[theirs] or theirs in ("obja", "objp"):
            rates[ours] = rate
            ledger.ours(key, f"learning_rates.{ours} = {rate}" + (f" ({text})" if text else ""))
        else:
            ledger.unused(key, "it is not refined")
    if not any(moving.values()):
        raise ParameterError(
            f"{ledger.source}: model_params.update_params: nothing is refined; give a start_iter and lr"
        )
    switches: dict[str, bool | str] = {switch: moving[theirs] for theirs, switch in _SWITCHES.items()}
    switches["update_obj"] = moving["obja"] or moving["objp"]
    if optimizer == "lbfgs":
        # First epochs and ends are entries of learning_rates, which L-BFGS does not use.
        switches = {
            name: value if not value else _starts(rates, updates, name) for name, value in switches.items()
        }
        if moving["objp"] and not moving["obja"]:
            ledger.params.update(phase_only_obj=True)
    ledger.params.update(switches)
    return rates


def _rate(entry: Group, key: str, ledger: Ledger) -> dict[str, Any]:
    lr, start, end = entry["lr"], entry["start_iter"], entry["end_iter"]
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not lr >= 0:
        raise ParameterError(f"{ledger.source}: {key}.lr is {lr!r}, expected a number >= 0")
    if start is None:
        if lr:
            ledger.note(f"{key}: start_iter is null: it is not refined, as in PtyRAD, although lr is {lr:g}")
        return {"lr": 0.0, "start": 0, "end": None}
    if not lr:
        raise ParameterError(
            f"{ledger.source}: {key} has start_iter {start} but lr 0; give an lr > 0, or set start_iter to null"
        )
    return {
        "lr": float(lr),
        "start": first_epoch(start, f"{key}.start_iter", ledger.source),
        "end": None if end is None else first_epoch(end, f"{key}.end_iter", ledger.source),
    }


def _starts(rates: Mapping[str, Mapping[str, Any]], updates: Group, switch: str) -> bool | str:
    """The switch, as an expression of the epoch unless it is on all the time (L-BFGS has no learning rates)."""
    theirs = next((name for name, ours in _SWITCHES.items() if ours == switch), "objp")
    ours = next(block for name, block, _ in _BLOCKS if name == theirs)
    rate = rates.get(ours) or {"start": 0, "end": None}
    start, end = rate["start"], rate["end"]
    if not start and end is None:
        return True
    begins = f"epoch >= {start}"
    return begins if end is None else f"{begins} and epoch < {end}"
