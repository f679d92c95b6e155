"""Translate recon_params of PtyRAD: number of epochs, batches, results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.output.settings_file import yaml_value
from pypty.params.schema.results import AFFIXES, SAVED

_KEY = "recon_params."
_LARGEST = 64
"""Numbers of an array that are written into a copy of the parameters."""


def translate_recon(recon: Group, scan_size: tuple[int, int], ledger: Ledger) -> None:
    """Translate all keys of recon_params; ``scan_size`` (slow, fast) is that after cropping."""
    ledger.ours(_KEY + "NITER", epoch_prev=0, epoch_max=int(recon["NITER"]))
    _indices(recon["INDICES_MODE"], scan_size, ledger)
    _batches(recon, ledger)
    _results(recon, ledger)
    _names(recon, ledger)
    _monitor(recon["convergence_monitor"], recon["SAVE_ITERS"], int(recon["NITER"]), ledger)
    ledger.unused(_KEY + "compiler_configs", "gradients are analytical; nothing is compiled")
    ledger.unused(_KEY + "if_quiet", "PtyRAD ignores it; see print_flag")


def _indices(entry: Group, scan_size: tuple[int, int], ledger: Ledger) -> None:
    mode = entry["mode"]
    if mode == "full":
        ledger.ours(_KEY + "INDICES_MODE", indices_mode="full")
        return
    sides = (entry["subscan_slow"], entry["subscan_fast"])
    # null = half of the side
    shape = [max(n // 2, 1) if side is None else int(side) for side, n in zip(sides, scan_size, strict=True)]
    ledger.ours(_KEY + "INDICES_MODE", indices_mode=mode, indices_shape=shape)


def _batches(recon: Group, ledger: Ledger) -> None:
    size = recon["BATCH_SIZE"]
    ledger.ours(
        _KEY + "BATCH_SIZE", batch_size=int(size["size"]), grad_accumulation=int(size["grad_accumulation"])
    )
    ledger.ours(
        _KEY + "GROUP_MODE",
        "the order of batches is the same in all epochs, as in PtyRAD",
        group_mode=recon["GROUP_MODE"],
        shuffle_batches=False,
    )


def _results(recon: Group, ledger: Ledger) -> None:
    every = recon["SAVE_ITERS"]
    if every is None:
        ledger.ours(_KEY + "SAVE_ITERS", "no output folder", save_iters=0, output_folder="")
        ledger.unused(_KEY + "output_dir", "SAVE_ITERS is null: no files are written")
    else:
        saved = int(every) if every <= recon["NITER"] else 0
        ledger.ours(_KEY + "SAVE_ITERS", save_iters=saved, save_inter_checkpoints=int(every))
        ledger.ours(_KEY + "output_dir", output_folder=str(recon["output_dir"]))
        if not saved:
            ledger.note(
                f"SAVE_ITERS = {every} is more than NITER = {recon['NITER']}: the folder has no results and figures of "
                "PtyRAD's, as in PtyRAD (co.npy and the other files of PyPty are written)"
            )
    wanted = list(recon["save_result"] or [])
    ledger.ours(_KEY + "save_result", save_result=[name for name in wanted if name in SAVED])
    for name in wanted:
        if name not in SAVED:
            ledger.without(f"{_KEY}save_result.{name}", "not a result of PyPty")
    modes = recon["result_modes"]
    ledger.ours(
        _KEY + "result_modes",
        result_modes={
            "obj_dim": [int(n) for n in modes["obj_dim"]],
            "FOV": list(modes["FOV"]),
            "bit": [str(depth) for depth in modes["bit"]],
        },
    )
    ledger.ours(_KEY + "selected_figs", selected_figs=list(recon["selected_figs"] or []))


def _names(recon: Group, ledger: Ledger) -> None:
    affixes = list(recon["recon_dir_affixes"] or [])
    ledger.ours(
        _KEY + "recon_dir_affixes", recon_dir_affixes=[affix for affix in affixes if affix in AFFIXES]
    )
    for affix in affixes:
        if affix == "Ls":
            ledger.unused(f"{_KEY}recon_dir_affixes.Ls", "for X-ray experiments only")
        elif affix not in AFFIXES:
            ledger.without(f"{_KEY}recon_dir_affixes.{affix}", "not a part of folder names in PyPty")
    prefix_time = recon["prefix_time"]
    ledger.ours(_KEY + "prefix_time", prefix_time=False if prefix_time is None else prefix_time)
    for name in ("prefix", "postfix"):
        ledger.ours(_KEY + name, **{name: str(recon[name] or "")})


def keep_file(copy: bool, content: Group, file: Path | None, ledger: Ledger) -> None:
    """``copy_params``: the parameter file, or its content where there is none.

    Parameters
    ----------
    copy : the value of copy_params
    content : the groups as they were given
    """
    if not copy or not ledger.params["output_folder"]:
        ledger.unused(_KEY + "copy_params", "no copy is written; params.yaml contains all settings")
    elif file is None:
        ledger.ours(_KEY + "copy_params", "params_dumped, written as params_dumped.yaml")
        ledger.params["params_dumped"] = yaml_value(_without_arrays(content))
    else:
        ledger.ours(_KEY + "copy_params", copy_params=str(file.resolve()))


def _without_arrays(value: Any) -> Any:
    """Arrays are named by their shape: a text file is no place for patterns."""
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.size > _LARGEST:
        return f"array {value.shape} {value.dtype}"
    return value


def _monitor(entry: Group | None, save_iters: Any, n_iterations: int, ledger: Ledger) -> None:
    key = _KEY + "convergence_monitor"
    every = None if entry is None else entry["every_n_iters"]
    if entry is None or (every is None and save_iters is None):
        ledger.ours(key, convergence_monitor=None)
        return
    if every is None and save_iters > n_iterations:
        every = save_iters  # our save_iters is 0, which stands for another interval
    ledger.ours(
        key,
        convergence_monitor={
            "tensors": list(entry["tensors"]),
            "every": None if every is None else int(every),
            "percentile_range": [float(percentile) for percentile in entry["percentile_range"]],
        },
    )
