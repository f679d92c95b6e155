"""Memory: what ``pypty plan`` says beside what a run takes, and data that are larger than the memory.

    python benchmarks/memory.py                          # plan and measured peak of five reconstructions
    python benchmarks/memory.py --patterns 4096 262144   # one evaluation of sparse files of 256 x 256 uint16 patterns

Every case runs in a process of its own. "traced" is the largest sum of all NumPy arrays (tracemalloc), "RSS" the
largest resident memory of the process above that after the imports. A sparse file has holes instead of zeros: 262144
patterns are 34 GB that take no disk. They may use 2 % of the free memory, so that they are read when they are needed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import threading
import time
import tracemalloc
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import pypty
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare

WINDOW = 256
CASES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "wide object": {"n": 64, "side": 30, "step": 40.0, "slices": 1, "modes": 1},
    "six slices": {"n": 64, "side": 30, "step": 10.0, "slices": 6, "modes": 1, "epoch_max": 14},
    "large batch": {"n": 128, "side": 12, "slices": 6, "modes": 4, "compute_batch": 20},
    "large window": {"n": 256, "side": 8, "slices": 10, "modes": 4},
    "large window, recomputed": {"n": 256, "side": 8, "slices": 10, "modes": 4, "recompute_slices": True},
})  # fmt: skip


def resident_bytes() -> int:
    """Resident memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Watch:
    """The largest resident memory while it is on."""

    def __enter__(self) -> Watch:
        self.before = self.peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self.peak - self.before


def parameters(
    n: int, side: int, slices: int, modes: int, step: float = 4.0, **changes: Any
) -> dict[str, Any]:
    """A scan of side x side patterns n x n of noise: only their size matters."""
    rng = np.random.default_rng(0)
    positions = np.stack(np.divmod(np.arange(side * side), side), 1) * step
    positions += rng.uniform(-0.4, 0.4, positions.shape)
    return {
        "dataset": rng.poisson(3.0, (side * side, n, n)).astype(np.uint16), "positions": positions - positions.min(0),
        "probe": gaussian_modes(n, modes), "num_slices": slices, "slice_distances": [5.0], "acc_voltage": 200,
        "pixel_size_x_A": 0.2, "pixel_size_y_A": 0.2, "default_dtype": "single", "backend": "cpu", "hist_length": 10,
        "epoch_max": 6, "print_flag": 0, "warmup_epochs": 1, **changes,
    }  # fmt: skip


def gaussian_modes(n: int, modes: int) -> np.ndarray:
    y = np.arange(n) - n // 2
    r2 = y[:, None] ** 2 + y**2
    return np.stack([np.exp(-r2 / (n / 8) ** 2) * np.exp(1j * mode * y / n) for mode in range(modes)], -1)


def run_case(name: str, pipe: Any) -> None:
    """Plan, and peak of a run."""
    warnings.simplefilter("ignore", RuntimeWarning)  # noise has no object
    pypty.run(parameters(16, 3, 1, 1, epoch_max=2))
    params = parameters(**CASES[name])
    tracemalloc.start()
    with Watch() as watch:
        setup = prepare(params)
        for _ in Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs():
            pass
    traced = tracemalloc.get_traced_memory()[1]
    pipe.send({"case": name, "plan MB": setup.plan.total / 1e6, "traced MB": traced / 1e6, "RSS MB": watch.grown / 1e6,
               "plan/traced": setup.plan.total / traced, "batch": setup.plan.batch})  # fmt: skip


def sparse_file(path: Path, n_patterns: int) -> None:
    """Noise in the first 1024 patterns, holes in the rest."""
    shape = (n_patterns, WINDOW, WINDOW)
    data = np.lib.format.open_memmap(path, "w+", np.uint16, shape)
    data[:1024] = np.random.default_rng(0).poisson(3.0, (min(1024, n_patterns), WINDOW, WINDOW))
    data.flush()


def run_large(n_patterns: int, folder: str, pipe: Any) -> None:
    """One loss and gradient over data that are read when they are needed."""
    side = round(n_patterns**0.5)
    params = parameters(WINDOW, 2, 1, 1)
    positions = np.stack(np.divmod(np.arange(n_patterns), side), 1) * 2.0
    path = Path(folder) / f"{n_patterns}.npy"
    sparse_file(path, n_patterns)
    del params["dataset"]
    params |= {
        "data_path": str(path),
        "positions": positions + 0.25,
        "memory_saturation": 0.02,
        "hist_length": 2,
    }
    with Watch() as watch:
        started = time.perf_counter()
        setup = prepare(params)
        surveyed = time.perf_counter()
        run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
        problem = run.problem(setup.settings.first())
        problem(problem.point())
        ended = time.perf_counter()
    path.unlink()
    row = {"patterns": n_patterns, "data GB": n_patterns * WINDOW**2 * 2 / 1e9}
    row |= {"kept in memory": setup.plan.resident, "peak RSS GB": watch.peak / 1e9}
    row |= {"plan GB": setup.plan.total / 1e9}
    row |= {"survey s": surveyed - started, "evaluation s": ended - surveyed}
    pipe.send(row)


def in_own_process(target: Any, *arguments: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*arguments, there))
    process.start()
    there.close()
    try:
        row: dict[str, Any] = here.recv()
    finally:
        process.join()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--patterns", type=int, nargs="+", help="sizes of sparse data sets instead of the cases"
    )
    parser.add_argument(
        "--folder", type=Path, help="where sparse files are made; default: a temporary folder"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        jobs = (
            [(run_large, n, folder) for n in options.patterns]
            if options.patterns
            else [(run_case, c) for c in CASES]
        )
        for job in jobs:
            rows.append(in_own_process(*job))
            if len(rows) == 1:
                print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
            cells = (f"{v:.3g}" if isinstance(v, float) else str(v) for v in rows[-1].values())
            print("| " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
