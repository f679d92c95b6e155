"""Single, double and automatic precision (``default_dtype``): the same correlation with the truth, in less time?

    python benchmarks/precision.py
    python benchmarks/precision.py --case positions --turns 5 --epochs 100 --json out.json

The truth is the MoS2 phase that comes with PyPty, scanned by the model itself at 14 x 14 positions; Poisson noise of so
many electrons/Å^2, or none. Every turn runs the precisions one after the other, so that whatever else the machine does
meets all of them; medians are given. Times are those of the epochs. "changes at": the epoch from which "auto" computes
in double precision, "–" if it never does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

import pypty
from pypty.demo import demo_data
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.quality import phase_agreement
from pypty.results.of_run import result_of

PRECISIONS = ("auto", "single", "double")
WINDOW = 64
N_SIDE = 14
"""Scan points along each axis."""
CASES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "10⁴ e/Å²": {"dose": 1e4},
    "10⁶ e/Å²": {"dose": 1e6},
    "no noise": {"dose": np.inf},
    "2 slices": {"dose": 1e6, "slices": 2, "thickness_A": 10.0},
    "4 modes": {"dose": 1e6, "modes": 4},
    "positions": {"dose": 1e6, "jitter_A": 0.1},
    "thick": {"dose": 1e6, "slices": 6, "thickness_A": 120.0},
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A simulated scan: parameters of its reconstruction, and the truth.

    Attributes
    ----------
    truth : (Y, X) phase summed over slices, rad
    positions : (N, 2) true crop origins, px of the truth
    """

    params: dict[str, Any]
    truth: np.ndarray
    positions: np.ndarray
    pixel_A: float


def simulate(case: Mapping[str, Any], epochs: int) -> Scan:
    """Patterns of the true object, and what a reconstruction is told: the nominal positions, and the true probe."""
    with h5py.File(demo_data(), "r") as file:
        attributes, truth = dict(file.attrs), file["truth/phase_total"][()].astype(float)
        probe = file["truth/probe"][()].astype(complex)
        centres = file["positions_true_A"][()].reshape(*attributes["scan_shape"], 2)
    pixel, rng = float(attributes["pixel_size_A"]), np.random.default_rng(0)
    nominal = centres[:N_SIDE, :N_SIDE].reshape(-1, 2) / pixel - WINDOW // 2
    true = nominal + case.get("jitter_A", 0.0) / pixel * rng.standard_normal(nominal.shape)
    slices = case.get("slices", 1)
    noisy = np.isfinite(case["dose"])
    counts = (case["dose"] if noisy else 1e6) * float(attributes["scan_step_A"]) ** 2
    known = {
        "acc_voltage": float(attributes["voltage_kV"]), "pixel_size_x_A": pixel, "pixel_size_y_A": pixel,
        "slice_distances": [case.get("thickness_A", 1.0) / slices], "damping_cutoff_multislice": 1.0, "print_flag": 0,
        "probe": beam(probe, counts, case.get("modes", 1)),
    }  # fmt: skip
    obj = np.exp(1j * truth / slices)[..., None, None].repeat(slices, axis=2)
    data = pypty.simulate({**known, "obj": obj, "positions": true, "skip_preprocessing": True})
    params = {
        **known, "dataset": rng.poisson(data).astype(np.uint16) if noisy else data, "positions": nominal,
        "num_slices": slices, "algorithm": "ml" if noisy else "lsq_sqrt", "epoch_max": epochs,
        "update_probe_pos": "jitter_A" in case,
    }  # fmt: skip
    return Scan(params=params, truth=truth, positions=true, pixel_A=pixel)


def beam(probe: np.ndarray, counts: float, modes: int) -> np.ndarray:
    """(y, x, modes) with so many counts: the probe, with 70 % of the power, and its products with y, x and xy."""
    y, x = (np.linspace(-1, 1, size) for size in probe.shape)
    factors = [np.ones(probe.shape), y[:, None] + 0 * x, x + 0 * y[:, None], y[:, None] * x]
    stack = np.stack([probe * factor for factor in factors[:modes]], axis=-1)
    share = np.array([1.0] if modes == 1 else [0.7, *[0.3 / (modes - 1)] * (modes - 1)])
    # sum |F P|^2 = n^2 sum |P|^2
    return stack * np.sqrt(counts * share / (probe.size * (np.abs(stack) ** 2).sum(axis=(0, 1))))


def measure(scan: Scan, precision: str) -> dict[str, Any]:
    """One run."""
    setup = prepare({**scan.params, "default_dtype": precision})
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    started = time.perf_counter()
    for _ in run.epochs():
        pass
    seconds = time.perf_counter() - started
    result = result_of(run)
    changes = [text.split(":")[0].removeprefix("epoch ") for text in result.decisions if "in double" in text]
    origin = ((scan.positions - result.positions).mean(axis=0)) * scan.pixel_A
    area = np.stack([scan.positions.min(axis=0), scan.positions.max(axis=0)]) + WINDOW // 2
    agreement = phase_agreement(
        result.phase,
        scan.pixel_A,
        origin_A=origin,
        truth=scan.truth,
        truth_pixel_A=scan.pixel_A,
        area_A=area * scan.pixel_A,
    )
    return {"seconds": seconds, "correlation": agreement.correlation, "loss": float(result.loss[-1]),
            "changes at": changes[0] if changes else "–", "epochs": len(result.epochs)}  # fmt: skip


def benchmark(case: Mapping[str, Any], epochs: int, turns: int) -> dict[str, Any]:
    """One row of the table: medians over the turns."""
    scan = simulate(case, epochs)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PRECISIONS}
    for _ in range(turns):
        for name in PRECISIONS:
            runs[name].append(measure(scan, name))
    row: dict[str, Any] = {}
    for name, measured in runs.items():
        row |= {
            f"{name}, s": statistics.median(run["seconds"] for run in measured),
            f"{name}, correlation": measured[0]["correlation"],
            f"{name}, loss": measured[0]["loss"],
            f"{name}, epochs": measured[0]["epochs"],
        }
    turns_of = zip(runs["double"], runs["auto"], strict=True)
    row["double / auto"] = statistics.median(
        double["seconds"] / double["epochs"] / (auto["seconds"] / auto["epochs"]) for double, auto in turns_of
    )
    return {**row, "changes at": runs["auto"][0]["changes at"]}


COLUMNS: Mapping[str, str] = MappingProxyType({
    **{f"{name}, s": ".2f" for name in PRECISIONS}, "double / auto": ".2f",
    **{f"{name}, correlation": ".5f" for name in PRECISIONS}, "changes at": "",
})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("| case | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for name in options.case or CASES:
        row = benchmark(CASES[name], options.epochs, options.turns)
        rows.append({"case": name, **row})
        print(
            f"| {name} | " + " | ".join(format(row[key], form) for key, form in COLUMNS.items()) + " |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
