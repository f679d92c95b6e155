"""recon_params of PtyRAD: length, batches, results."""

from __future__ import annotations

from typing import Any

from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.params.schema.results import AFFIXES, SAVED

_KEY = "recon_params."


def translate_recon(recon: Group, scan_size: tuple[int, int], ledger: Ledger) -> None:
    """Everything of recon_params; ``scan_size`` is that of the patterns that are left after cropping."""
    ledger.ours(_KEY + "NITER", epoch_prev=0, epoch_max=int(recon["NITER"]))
    _indices(recon["INDICES_MODE"], scan_size, ledger)
    _batches(recon, ledger)
    _results(recon, ledger)
    _names(recon, ledger)
    _monitor(recon["convergence_monitor"], recon["SAVE_ITERS"], ledger)
    ledger.unused(_KEY + "copy_params", "params.yaml in output_folder always holds all settings")
    ledger.unused(_KEY + "compiler_configs", "gradients are written by hand; nothing is compiled")
    ledger.unused(_KEY + "if_quiet", "PtyRAD has dropped it; see print_flag")


def _indices(given: Group, scan_size: tuple[int, int], ledger: Ledger) -> None:
    mode = given["mode"]
    if mode == "full":
        ledger.ours(_KEY + "INDICES_MODE", indices_mode="full")
        return
    sides = (given["subscan_slow"], given["subscan_fast"])
    shape = [max(n // 2, 1) if side is None else int(side) for side, n in zip(sides, scan_size, strict=True)]
    ledger.ours(_KEY + "INDICES_MODE", indices_mode=mode, indices_shape=shape)


def _batches(recon: Group, ledger: Ledger) -> None:
    size = recon["BATCH_SIZE"]
    ledger.ours(
        _KEY + "BATCH_SIZE", batch_size=int(size["size"]), grad_accumulation=int(size["grad_accumulation"])
    )
    ledger.ours(
        _KEY + "GROUP_MODE",
        "the order of batches stays the same in all epochs, as in PtyRAD",
        group_mode=recon["GROUP_MODE"],
        shuffle_batches=False,
    )


def _results(recon: Group, ledger: Ledger) -> None:
    every = recon["SAVE_ITERS"]
    if every is None:
        ledger.ours(_KEY + "SAVE_ITERS", "no output folder at all", save_iters=0, output_folder="")
        ledger.unused(_KEY + "output_dir", "SAVE_ITERS is null: nothing is written")
    else:
        ledger.ours(_KEY + "SAVE_ITERS", save_iters=int(every), save_inter_checkpoints=int(every))
        ledger.ours(_KEY + "output_dir", output_folder=str(recon["output_dir"]))
    wanted = list(recon["save_result"] or [])
    ledger.ours(_KEY + "save_result", save_result=[one for one in wanted if one in SAVED])
    if "scheduler_state" in wanted:
        ledger.unused(_KEY + "save_result.scheduler_state", "resume.h5 holds it")
    for one in wanted:
        if one not in (*SAVED, "scheduler_state"):
            ledger.without(f"{_KEY}save_result.{one}", "there is no such result")
    modes = recon["result_modes"]
    ledger.ours(
        _KEY + "result_modes",
        result_modes={
            "obj_dim": [int(one) for one in modes["obj_dim"]],
            "FOV": list(modes["FOV"]),
            "bit": [str(one) for one in modes["bit"]],
        },
    )
    ledger.ours(_KEY + "selected_figs", selected_figs=list(recon["selected_figs"] or []))


def _names(recon: Group, ledger: Ledger) -> None:
    affixes = list(recon["recon_dir_affixes"] or [])
    ledger.ours(_KEY + "recon_dir_affixes", recon_dir_affixes=[one for one in affixes if one in AFFIXES])
    for one in affixes:
        if one not in AFFIXES:
            ledger.without(f"{_KEY}recon_dir_affixes.{one}", "there is no such part of a folder's name")
    prefix_time = recon["prefix_time"]
    ledger.ours(_KEY + "prefix_time", prefix_time=False if prefix_time is None else prefix_time)
    for name in ("prefix", "postfix"):
        ledger.ours(_KEY + name, **{name: str(recon[name] or "")})


def _monitor(given: Group | None, save_iters: Any, ledger: Ledger) -> None:
    key = _KEY + "convergence_monitor"
    every = None if given is None else given["every_n_iters"]
    if given is None or (every is None and save_iters is None):
        ledger.ours(key, convergence_monitor=None)
        return
    ledger.ours(
        key,
        convergence_monitor={
            "tensors": list(given["tensors"]),
            "every": None if every is None else int(every),
            "percentile_range": [float(one) for one in given["percentile_range"]],
        },
    )
