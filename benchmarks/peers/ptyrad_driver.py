"""PtyRAD 1.0, one pass at a time: run by its own interpreter, told what to do on standard input (peers/__init__.py).

Python 3.12 or later;  pip install torch torchvision ptyrad accelerate
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import yaml


def parameters(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Its six groups: amplitude loss, complex object, incoherent modes, no constraint but those that it needs."""
    with h5py.File(options.data) as file:
        a, n = dict(file.attrs), file["data"].shape[1]
        with h5py.File(folder / "in.h5", "w") as copy:
            copy["data"] = file["data"][()].astype(np.float32)
    every = {"start_iter": 1, "step": 1, "end_iter": None}
    off = {"start_iter": None}
    return {
        "init_params": {
            "probe_kv": float(a["voltage_kV"]), "probe_conv_angle": float(a["semiangle_mrad"]),
            "probe_aberrations": {"C10": float(a["C10_A"])}, "meas_Npix": n,
            "pos_N_scan_slow": int(a["scan_shape"][0]), "pos_N_scan_fast": int(a["scan_shape"][1]),
            "pos_scan_step_size": float(a["scan_step_A"]),
            "meas_calibration": {"mode": "dk", "value": 1 / (n * float(a["pixel_size_A"]))},
            "probe_pmode_max": options.modes, "obj_Nlayer": options.slices, "obj_slice_thickness": options.thickness,
            "meas_permute": None, "meas_reshape": None, "meas_flipT": None, "pos_scan_affine": None,
            "meas_params": {"path": str(folder / "in.h5"), "key": "data"},
        },
        "model_params": {
            "update_params": {
                "obja": {"start_iter": 1, "lr": options.object_rate},
                "objp": {"start_iter": 1, "lr": options.object_rate},
                "probe": {"start_iter": 1, "lr": options.probe_rate}, "probe_pos_shifts": {**off, "lr": 0.0},
            },
            "optimizer_params": {"name": "Adam", "configs": {}, "load_state": None},
        },
        "loss_params": {
            "loss_single": {"state": options.loss == "single", "weight": 1.0, "dp_pow": 0.5},
            "loss_poissn": {"state": options.loss == "poissn", "weight": 1.0, "dp_pow": 1.0, "eps": 1e-6},
        },
        "constraint_params": {
            "ortho_pmode": {**every, "start_iter": 1 if options.modes > 1 else None}, "fix_probe_int": every,
            "obj_rblur": off, "obj_zblur": off, "objp_postiv": off,
            "obja_thresh": {**every, "relax": 0, "thresh": [0.96, 1.04]},
        },
        "recon_params": {
            "NITER": 100000, "BATCH_SIZE": {"size": options.batch, "grad_accumulation": 1}, "SAVE_ITERS": None,
            "output_dir": str(folder / "out"), "recon_dir_affixes": ["minimal"], "GROUP_MODE": "random",
            "compiler_configs": {"enable": options.compile},
        },
    }  # fmt: skip


class Stop(Exception):
    """No more passes are asked for."""


def stepwise(module: Any, answer: Any) -> None:
    """Let every epoch of PtyRAD wait for a line, and report its time and, when asked, its object."""
    original = module.recon_step

    def step(batches: Any, accumulation: Any, model: Any, *rest: Any, **named: Any) -> Any:
        line = sys.stdin.readline().strip()
        if not line or line == "stop":
            raise Stop
        started = time.perf_counter()
        out = original(batches, accumulation, model, *rest, **named)
        seconds = time.perf_counter() - started
        inner = getattr(model, "module", model)
        if line != "pass":
            crop = inner.crop_pos.detach().cpu().numpy()
            half = inner.opt_probe.shape[-2] // 2
            phase = inner.opt_objp.detach()[0].cpu().numpy().astype(np.float32)
            np.savez(line, phase=phase, centre_px=(crop.max(0) + crop.min(0)) / 2 + half)
        answer({"s": seconds})
        return out

    module.recon_step = step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    for name, kind, default in (
        ("modes", int, 1), ("slices", int, 1), ("thickness", float, 2.0), ("batch", int, 32), ("threads", int, 2),
        ("object-rate", float, 1e-2), ("probe-rate", float, 2e-3),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--loss", choices=("single", "poissn"), default="single")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.disable(logging.CRITICAL)
    out, sys.stdout = sys.stdout, sys.stderr

    def answer(what: dict[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    import ptyrad
    import ptyrad.solver.reconstruction as reconstruction
    from ptyrad.params import load_params
    from ptyrad.solver import PtyRADSolver

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(yaml.safe_dump(parameters(options, Path(folder))))
        solver = PtyRADSolver(load_params(str(path)), device="cpu", seed=0)
        stepwise(reconstruction, answer)
        answer({"version": f"ptyrad {ptyrad.__version__}, torch {torch.__version__}"})
        with contextlib.suppress(Stop):
            solver.reconstruct()


if __name__ == "__main__":
    main()
