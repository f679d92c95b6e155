"""Time and quality on the MoS2 data: seconds per pass, time to a correlation of 0.95 and 0.97, best correlation.

    python benchmarks/mos2.py                      # the data set that comes with PyPty, all cases
    python benchmarks/mos2.py --case ss_m1 --data mos2_1e6.h5 --json out.json

One pass = all patterns once, loss and gradient; the median of several is given. Times of a reconstruction are those of
the epochs alone (imports, reading and scoring excluded). ss = one slice, ms6 = six slices over 12 Å; m1, m4 = one or
four probe modes. "positions" refines them from epoch 5 on; the start is positions_ideal_A where the file has it
(rotation and affine distortion calibrated, jitter unknown). "sparse" uses every ninth pattern.
--plain starts L-BFGS from one number per block instead of the inverse illumination.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pypty.demo import agreement_with_truth, demo_data
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import prepare
from pypty.optics.probes import defocus, probe_from_pattern
from pypty.results.of_run import result_of

CASES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "ss_m1": {},
    "ss_m4": {"modes": 4},
    "ms6_m1": {"num_slices": 6, "slice_distances": [2.4]},
    "ms6_m4": {"num_slices": 6, "slice_distances": [2.4], "modes": 4},
    "ss_m1 positions": {"update_probe_pos": "lambda x: x >= 5"},
    "ss_m1 padded": {"data_pad": 16, "damping_cutoff_multislice": 2 / 3},
    "ss_m1 double": {"default_dtype": "double"},
    "ss_m1 sparse": {"sequence": [i for i in range(1024) if i // 32 % 3 == 0 and i % 3 == 0]},
})  # fmt: skip


def parameters(path: Path, case: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """The settings that the peers had: true geometry, nominal defocus, vacuum object, probe from the mean pattern."""
    options = dict(case)
    modes = options.pop("modes", 1)
    with h5py.File(path, "r") as file:
        attributes, data, positions = dict(file.attrs), file["data"][()], file[start_positions(file)][()]
    n = data.shape[1]
    pixel = attributes["pixel_size_A"] * n / (n + 2 * options.get("data_pad", 0))
    params = {
        "dataset": data, "positions": positions / pixel, "acc_voltage": attributes["voltage_kV"],
        "pixel_size_x_A": pixel, "pixel_size_y_A": pixel, "extra_probe_defocus": attributes["C10_A"],
        "default_dtype": "single", "damping_cutoff_multislice": 1.0, "print_flag": 0, "epoch_max": epochs,
    }  # fmt: skip
    params.update(options)
    if modes > 1:
        params["probe"] = probe_modes(prepare(params), modes)
        params["extra_probe_defocus"] = 0.0
    return params


def start_positions(file: h5py.File) -> str:
    """Where the positions start that an experimenter has after calibration."""
    return "positions_ideal_A" if "positions_ideal_A" in file else "positions_A"


def position_error_A(positions_A: np.ndarray, path: Path) -> float:
    """Root mean square distance from the truth, without the common shift."""
    with h5py.File(path, "r") as file:
        error = positions_A - file["positions_true_A"][()]
    return float(np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=1).mean()))


def probe_modes(setup: Setup, modes: int) -> np.ndarray:
    """(y, x, modes): the mean-pattern probe and its products with x, y and xy, with 70 % of the power in the first."""
    mean = setup.mean_pattern()
    assert mean is not None
    probe = defocus(probe_from_pattern(mean), setup.grid, setup.settings["extra_probe_defocus"])[0]
    y, x = (np.linspace(-1, 1, size) for size in probe.shape)
    factors = [np.ones(probe.shape), y[:, None] + 0 * x, x + 0 * y[:, None], y[:, None] * x]
    stack = np.stack([probe * factor for factor in factors[:modes]], axis=-1)
    power = (np.abs(stack) ** 2).sum(axis=(0, 1))
    share = np.array([0.7, *[0.3 / (modes - 1)] * (modes - 1)])
    return stack * np.sqrt(share * power[0] / power)


def seconds_per_pass(setup: Setup, repeats: int = 7) -> float:
    """Median time of one loss and gradient over all patterns."""
    state = State(variables=setup.variables(), epoch=0)
    problem = Reconstruction(setup, state).problem(setup.settings.first())
    point = problem.point()
    problem(point)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        problem(point)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def benchmark(name: str, path: Path, epochs: int, **changes: Any) -> dict[str, Any]:
    """One row of the table."""
    setup = prepare(parameters(path, {**CASES[name], **changes}, epochs))
    row: dict[str, Any] = {"case": name, "s/pass": seconds_per_pass(setup)}
    state = State(variables=setup.variables(), epoch=0)
    reconstruction = Reconstruction(setup, state)
    spent, evaluations, best = 0.0, 0, 0.0
    reached: dict[float, tuple[float, int]] = {}
    started = time.perf_counter()
    for record in reconstruction.epochs():
        spent += time.perf_counter() - started
        evaluations += record.evaluations
        correlation = agreement_with_truth(result_of(reconstruction), path).correlation
        best = max(best, correlation)
        for level in (0.95, 0.97):
            if correlation >= level:
                reached.setdefault(level, (spent, evaluations))
        started = time.perf_counter()
    for level in (0.95, 0.97):
        row[f"s to {level}"], row[f"passes to {level}"] = reached.get(level, (None, None))
    found = result_of(reconstruction)
    row |= {
        "error Å before": position_error_A(found.start_positions * found.pixel_size_A, path),
        "error Å after": position_error_A(found.positions * found.pixel_size_A, path),
    }  # fmt: skip
    row |= {"loss": state.sample.value if state.sample else None, "best": best, "s": spent, "passes": evaluations,
            "peak RSS MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=demo_data())
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", action="store_true", help="without the illumination preconditioner")
    parser.add_argument("--warmup", type=lambda text: text if text == "auto" else int(text), default="auto")
    options = parser.parse_args()
    rows = []
    columns = (
        "s/pass",
        "s to 0.95",
        "passes to 0.95",
        "s to 0.97",
        "passes to 0.97",
        "loss",
        "best",
        "s",
        "passes",
        "error Å before",
        "error Å after",
        "peak RSS MB",
    )
    print("| case | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for name in options.case or CASES:
        changes = {"preconditioner": not options.plain, "warmup_epochs": options.warmup}
        rows.append(benchmark(name, options.data, options.epochs, **changes))
        cells = ("–" if rows[-1][key] is None else f"{rows[-1][key]:.4g}" for key in columns)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
