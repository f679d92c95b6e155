"""Translate recon_params of PtyRAD: number of epochs, batches, results."""

from __future__ import annotations

from typing import Any

from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.params.schema.results import AFFIXES, SAVED

_KEY = "recon_params."


def translate_recon(recon: Group, scan_size: tuple[int, int], ledger: Ledger) -> None:
    """Translate all keys of recon_params; ``scan_size`` (slow, fast) is that after cropping."""
    ledger.ours(_KEY + "NITER", epoch_prev=0, epoch_max=int(recon["NITER"]))
    _indices(recon["INDICES_MODE"], scan_size, ledger)
    _batches(recon, ledger)
    _results(recon, ledger)
    _names(recon, ledger)
    _monitor(recon["convergence_monitor"], recon["SAVE_ITERS"], ledger)
    ledger.unused(_KEY + "copy_params", "params.yaml in output_folder always contains all settings")
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
        ledger.ours(_KEY + "SAVE_ITERS", save_iters=int(every), save_inter_checkpoints=int(every))
        ledger.ours(_KEY + "output_dir", output_folder=str(recon["output_dir"]))
    wanted = list(recon["save_result"] or [])
    ledger.ours(_KEY + "save_result", save_result=[name for name in wanted if name in SAVED])
    if "scheduler_state" in wanted:
        ledger.unused(_KEY + "save_result.scheduler_state", "contained in resume.h5")
    for name in wanted:
        if name not in (*SAVED, "scheduler_state"):
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
        if affix not in AFFIXES:
            ledger.without(f"{_KEY}recon_dir_affixes.{affix}", "not a part of folder names in PyPty")
    prefix_time = recon["prefix_time"]
    ledger.ours(_KEY + "prefix_time", prefix_time=False if prefix_time is None else prefix_time)
    for name in ("prefix", "postfix"):
        ledger.ours(_KEY + name, **{name: str(recon[name] or "")})


def _monitor(entry: Group | None, save_iters: Any, ledger: Ledger) -> None:
    key = _KEY + "convergence_monitor"
    every = None if entry is None else entry["every_n_iters"]
    if entry is None or (every is None and save_iters is None):
        ledger.ours(key, convergence_monitor=None)
        return
    ledger.ours(
        key,
        convergence_monitor={
            "tensors": list(entry["tensors"]),
            "every": None if every is None else int(every),
            "percentile_range": [float(percentile) for percentile in entry["percentile_range"]],
        },
    )
