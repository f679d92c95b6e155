"""Other packages on the workloads of gpu.py, each in an interpreter of its own.

    python benchmarks/gpu_peers.py ptyrad FOLDER          # run by gpu.py, in the interpreter of the other package

The workload is written as files that each driver reads: scan.h5 (data (N, n, n), attributes of the microscope) and
arrays.npz (object (y, x, z), probe (y, x, modes), positions (N, 2) in pixels). A driver prints one line of JSON,
{"s": seconds of an epoch, "version": …}; it has no other way to say what it found.

ptyrad : one epoch of PtyRAD 1.0 (forward, gradient and step of object, probe and positions), eager and compiled
pypty : one call of PyPty 2.2's loss_and_direction (loss and gradient of object, probe and positions), as its run()
    makes it; the median of several
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DRIVERS = ("ptyrad", "ptyrad-compiled", "pypty")
PEER_SIDE = 48
"""Patterns of a peer's scan along each axis, at most; its time is scaled to all of them."""
PEER_BATCH = 256
"""Patterns in a batch of PtyRAD: the throughput of its GPU runs is within a tenth of its best from there on."""


def write_workload(work: Any, variables: dict[str, np.ndarray], data: np.ndarray, folder: Path) -> None:
    """The files that a driver reads.

    Parameters
    ----------
    work : name, side, window, slices, modes, step (pixels), pixel_A, voltage_kV
    variables : obj (y, x, z), probe (y, x, modes), positions (N, 2)
    data : (N, n, n)
    """
    import h5py

    with h5py.File(folder / "scan.h5", "w") as file:
        file["data"] = data
        attributes = {
            "voltage_kV": work.voltage_kV, "semiangle_mrad": 25.0, "C10_A": 0.0,
            "scan_shape": (work.side, work.side), "scan_step_A": work.step * work.pixel_A,
            "pixel_size_A": work.pixel_A,
        }  # fmt: skip
        file.attrs.update(attributes)
    np.savez(folder / "arrays.npz", **variables)
    described = {"patterns": len(data), "modes": work.modes, "slices": work.slices, "thickness": 2.0}
    (folder / "workload.json").write_text(json.dumps(described))


def ask(name: str, python: str, folder: Path, left: float) -> dict[str, Any]:
    """What a driver answers, or why it does not."""
    command = [python, __file__, name, str(folder)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=left, env=environment, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return {"failed": "no time left"}
    except OSError as error:
        return {"failed": str(error)}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        return {"failed": f"not importable: {reason}" if "ModuleNotFoundError" in reason else reason}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def peer_rows(
    peers: Sequence[str],
    python: str,
    works: Sequence[Any],
    make: Callable[[Any], tuple[Any, dict[str, np.ndarray], np.ndarray]],
    deadline: float,
) -> list[dict[str, Any]]:
    """Seconds of a pass of every peer for every workload, scaled to its patterns.

    Parameters
    ----------
    peers : names of :data:`DRIVERS`, or NAME=COMMAND: a shell command that finds the folder with the files in the
        environment variable WORKLOAD, and prints the seconds of a pass as its last word
    make : the workload that peers get, its arrays and its data
    """
    rows: list[dict[str, Any]] = []
    for work in works:
        if time.perf_counter() >= deadline:
            break
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            smaller, variables, data = make(work)
            write_workload(smaller, variables, data, folder)
            for peer in peers:
                left = max(1.0, deadline - time.perf_counter())
                found = _foreign(peer, folder, left) if "=" in peer else ask(peer, python, folder, left)
                row = {"workload": work.name, "executor": peer.partition("=")[0]}
                if "s" in found:
                    row["s/pass"] = found.pop("s") * work.patterns / smaller.patterns
                    row["patterns timed"] = smaller.patterns
                rows.append({**row, **found})
    return rows


def _foreign(peer: str, folder: Path, left: float) -> dict[str, Any]:
    environment = {**os.environ, "WORKLOAD": str(folder)}
    try:
        done = subprocess.run(
            peer.partition("=")[2], shell=True, env=environment, capture_output=True, text=True, timeout=left
        )
        return {"s": float(done.stdout.split()[-1])}
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}


# ---- in the interpreter of the other package


def drive_ptyrad(folder: Path, device: str, compiled: bool = False) -> dict[str, Any]:
    """The third epoch: the first ones warm up, and compile."""
    import ptyrad
    import ptyrad.solver.reconstruction as reconstruction
    import torch
    import yaml
    from ptyrad.params import load_params
    from ptyrad.solver import PtyRADSolver

    sys.path.append(str(Path(__file__).parent / "peers"))
    from ptyrad_driver import parameters

    work = json.loads((folder / "workload.json").read_text())
    batch = min(PEER_BATCH, work.pop("patterns"))
    rates = {"object_rate": 1e-3, "probe_rate": 1e-4, "batch": batch, "compile": compiled}
    params = parameters(argparse.Namespace(data=str(folder / "scan.h5"), **work, **rates), folder)
    params["model_params"]["update_params"]["probe_pos_shifts"] = {"start_iter": 1, "lr": 1e-4}
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    times: list[float] = []
    original = reconstruction.recon_step

    def step(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        out = original(*arguments, **named)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        if len(times) == 3:
            raise _Enough
        return out

    reconstruction.recon_step = step
    solver = PtyRADSolver(load_params(str(path)), device=device, seed=0)
    with contextlib.suppress(_Enough):
        solver.reconstruct()
    return {"s": times[-1], "version": f"ptyrad {ptyrad.__version__}, torch {torch.__version__}"}


class _Enough(Exception):
    """No more epochs are needed."""


def drive_pypty(folder: Path, device: str) -> dict[str, Any]:
    """Calls of loss_and_direction in a run of three epochs; the first one is left out."""
    import pypty
    from pypty import iterative

    arrays = np.load(folder / "arrays.npz")
    work = json.loads((folder / "workload.json").read_text())
    import h5py

    with h5py.File(folder / "scan.h5") as file:
        pixel, voltage = float(file.attrs["pixel_size_A"]), float(file.attrs["voltage_kV"])
        data = file["data"][()].astype(np.float32)
    if not hasattr(iterative, "loss_and_direction"):
        return {"failed": f"{pypty.__file__} is not PyPty 2.2 (--peer-python names another interpreter)"}
    times: list[float] = []
    original = iterative.loss_and_direction

    def timed(*arguments: Any, **named: Any) -> Any:
        _synchronize(device)
        started = time.perf_counter()
        out = original(*arguments, **named)
        _synchronize(device)
        times.append(time.perf_counter() - started)
        return out

    iterative.loss_and_direction = timed
    iterative.run({
        "dataset": data, "obj": arrays["obj"][..., None], "probe": arrays["probe"],
        "positions": arrays["positions"], "slice_distances": [work["thickness"]], "num_slices": work["slices"],
        "acc_voltage": voltage, "pixel_size_x_A": pixel, "pixel_size_y_A": pixel, "epoch_max": 3,
        "update_obj": True, "update_probe": True, "update_probe_pos": True, "skip_preprocessing": True,
        "load_one_by_one": False, "default_dtype": "single", "output_folder": f"{folder}/out/", "print_flag": 0,
        "backend": "gpu" if device == "cuda" else "cpu",
    })  # fmt: skip
    return {
        "s": statistics.median(times[1:] or times),
        "version": f"pypty {getattr(pypty, '__version__', '')}",
    }


def _synchronize(device: str) -> None:
    if device == "cuda":
        import cupy

        cupy.cuda.Device().synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=DRIVERS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
    with contextlib.redirect_stdout(sys.stderr):
        if options.name == "pypty":
            found = drive_pypty(options.folder, options.device)
        else:
            compiled = options.name.endswith("compiled")
            found = drive_ptyrad(options.folder, options.device, compiled)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
