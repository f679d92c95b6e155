"""One loss and gradient on the CPU beside what it could be compared with, in turns, as medians and ratios.

    python benchmarks/cpu.py
    python benchmarks/cpu.py --ptyrad-python PATH --json cpu.json

Beside our evaluation of object, probe and position gradients in single precision run, on the same arrays and threads:
"FFTs", the bare Fourier transforms that it needs, in place, in pieces of the same size, by the same library;
"PyPty's way", the formulas of PyPty 2.2 as its CPU path computes them: the whole batch at once, modes on the last
axis, double precision, and for the MoS2 data patterns padded to 96; "stages", our definition, one effect after the
other; and, where its interpreter is named, a pass of PtyRAD 1.0 with the same modes and slices. All take turns, so that
a busy machine is busy for all; in each turn the quick ones run four times, of which the first only wakes threads and
caches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mos2
import numpy as np
import scipy.fft
from memory import gaussian_modes
from peers import Peer

from pypty.backend.workspace import Workspace
from pypty.demo import demo_data
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import prepare

CASES: Mapping[str, dict[str, Any]] = MappingProxyType({
    "128², 6 slices, 4 modes": {"n": 128, "slices": 6, "modes": 4, "patterns": 32},
    "256², 6 slices, 4 modes": {"n": 256, "slices": 6, "modes": 4, "patterns": 8},
    "96², 6 slices, 4 modes": {"n": 96, "slices": 6, "modes": 4, "patterns": 64},
    "mos2 ss_m1": {"case": "ss_m1"},
    "mos2 ss_m4": {"case": "ss_m4"},
    "mos2 ms6_m1": {"case": "ms6_m1"},
    "mos2 ms6_m4": {"case": "ms6_m4"},
})  # fmt: skip


def parameters(case: Mapping[str, Any], data: Path) -> dict[str, Any]:
    if "case" in case:
        return mos2.parameters(data, mos2.CASES[case["case"]], 1)
    n, count, rng = case["n"], case["patterns"], np.random.default_rng(0)
    return {
        "dataset": rng.poisson(3.0, (count, n, n)).astype(np.uint16), "positions": rng.uniform(0, 60, (count, 2)),
        "probe": gaussian_modes(n, case["modes"]), "num_slices": case["slices"], "slice_distances": [5.0],
        "acc_voltage": 200, "pixel_size_x_A": 0.2, "pixel_size_y_A": 0.2, "print_flag": 0,
        "default_dtype": "single",
    }  # fmt: skip


def problem_of(params: dict[str, Any], **changes: Any) -> tuple[Setup, Problem]:
    setup = prepare({**params, "backend": "cpu", "update_probe_pos": True, **changes})
    run = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
    return setup, run.problem(setup.settings.first())


def evaluation(problem: Problem) -> Callable[[], object]:
    """Loss and gradients of the arrays themselves."""
    return lambda: problem.objective.evaluate(problem.variables, problem.blocks, problem.indices)


def transforms(setup: Setup) -> Callable[[], object]:
    """4 S transforms of every wave: the shift of the probe, twice every propagation, the far field, and all of it on
    the way back."""
    sizes, plan = setup.plan.sizes, setup.plan
    modes, pairs = sizes.probe_modes * sizes.object_modes, 2 * sizes.slices
    share = -(-sizes.n_patterns // plan.n_threads)
    works = [Workspace(np, setup.backend.fft_library) for _ in range(plan.n_threads)]
    pool = ThreadPoolExecutor(plan.n_threads)

    def transform(work: Workspace) -> None:
        for start in range(0, share, plan.batch):
            shape = (min(plan.batch, share - start), modes, *sizes.window)
            waves = work.array("waves", shape, setup.backend.complex)
            waves[...] = 0
            for _ in range(pairs):
                work.fft.forward(waves)
                work.fft.backward(waves)

    return lambda: list(pool.map(transform, works))


def pypty_way(problem: Problem, setup: Setup) -> Callable[[], object]:
    """The steps of PyPty 2.2: (pattern, y, x, slice, mode) in double precision, everything at once, one pass of the
    memory for each operation, transforms over axes that are not the last."""
    v, grid = problem.variables, setup.grid
    obj = v.obj[0].transpose(1, 2, 0).astype(np.complex128)
    probe = v.probe.transpose(1, 2, 0).astype(np.complex128)
    crop_origins, data = (
        setup.scan.crop_origins,
        problem.objective.feed.patterns(np.arange(len(setup.scan.crop_origins))),
    )
    offset = (np.broadcast_to(v.positions, crop_origins.shape) - crop_origins)[..., None, None, None]
    mask = grid.band_mask(setup.settings["damping_cutoff_multislice"])[None, :, :, None]
    rate = -np.pi * grid.wavelength * grid.q2
    step = (np.exp(1j * rate * float(v.slice_distances[0])))[None, :, :, None] * mask
    ny, nx = grid.shape
    cut = [(slice(y, y + ny), slice(x, x + nx)) for y, x in crop_origins]

    def forward(a: np.ndarray) -> np.ndarray:
        return scipy.fft.fft2(a, axes=(1, 2))

    def backward(a: np.ndarray) -> np.ndarray:
        return scipy.fft.ifft2(a, axes=(1, 2))

    def run(part: slice) -> None:
        ramps = np.exp(
            -2j * np.pi * (grid.fy[..., None] * offset[part, 0] + grid.fx[..., None] * offset[part, 1])
        )
        windows = np.stack([obj[place] for place in cut[part]])[..., None]
        wave = backward(forward(probe[None]) * ramps * mask)
        waves = np.empty((*wave.shape[:3], obj.shape[2], wave.shape[3]), complex)
        for s in range(obj.shape[2]):
            waves[..., s, :] = wave
            wave = wave * windows[..., s, :]
            if s + 1 < obj.shape[2]:
                wave = backward(forward(wave) * step)
        far = forward(wave) * mask
        amplitude = np.sqrt((np.abs(far) ** 2).sum(axis=3))
        slope = 1 - np.sqrt(data[part]) / np.maximum(amplitude, 1e-20)
        grad = backward(far * slope[..., None]) * (ny * nx)
        total, gradient = np.zeros_like(probe), np.zeros_like(obj)
        for s in reversed(range(obj.shape[2])):
            patches = (np.conj(waves[..., s, :]) * grad).sum(axis=3)
            for place, patch in zip(cut[part], patches, strict=True):
                gradient[(*place, s)] += patch
            grad = grad * np.conj(windows[..., s, :])
            if s:
                grad = backward(forward(grad) * np.conj(step))
        spectrum = forward(grad) * np.conj(ramps)
        total += spectrum.sum(axis=0)
        np.imag(np.conj(spectrum) * forward(probe[None])).sum(axis=(1, 2, 3))

    def whole() -> None:
        for start in range(0, len(crop_origins), 128):
            run(slice(start, start + 128))

    return whole


def contestants(name: str, data: Path, python: str | None) -> dict[str, Callable[[], object]]:
    case = CASES[name]
    params = parameters(case, data)
    setup, problem = problem_of(params)
    assert problem.objective.model.executor == "fused"
    found = {"ours": evaluation(problem), "FFTs": transforms(setup)}
    found["stages"] = evaluation(problem_of(params, executor="stages")[1])
    if setup.backend.fft_library == "fftw":
        found["ours, SciPy"] = evaluation(problem_of(params, fft_library="scipy")[1])
    double = {"default_dtype": "double"}
    padded = {"data_pad": 16, "damping_cutoff_multislice": 2 / 3} if "case" in case else {}
    slow_setup, slow = problem_of(params, **double, **padded, load_one_by_one=False)
    found["PyPty's way"] = pypty_way(slow, slow_setup)
    if python and "case" in case:
        slices, modes = (1 if "ss" in case["case"] else 6), int(case["case"][-1])
        peer = Peer("ptyrad", python, data, slices=slices, modes=modes, thickness=12 / slices)
        peer.run_pass()
        found["PtyRAD"] = peer.run_pass
    return found


def measure(found: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, run in found.items():
            if name == "PyPty's way" and number > max(2, rounds // 3):
                continue
            slow = name in ("PyPty's way", "PtyRAD")
            for turn in range(1 if slow else 4):
                started = time.perf_counter()
                inside = run()
                seconds = inside if isinstance(inside, float) else time.perf_counter() - started
                if number and (turn or slow):  # the first round plans transforms
                    times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--data", type=Path, default=demo_data(), help="the MoS2 data")
    parser.add_argument("--ptyrad-python", help="an interpreter that can import ptyrad")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    columns = ("ours", "FFTs", "ours, SciPy", "stages", "PyPty's way", "PtyRAD")
    print(
        "| case | "
        + " | ".join(f"{c}, ms" for c in columns)
        + " | ours / FFTs | PyPty's way / ours | PtyRAD / ours |"
    )
    print("|---" * (len(columns) + 4) + "|")
    rows = []
    for name in options.case or CASES:
        found = measure(contestants(name, options.data, options.ptyrad_python), options.rounds)
        rows.append({"case": name, **found})
        cells = [f"{1e3 * found[c]:.1f}" if c in found else "–" for c in columns]
        cells.append(f"{found['ours'] / found['FFTs']:.2f}")
        cells += [f"{found[c] / found['ours']:.1f}" if c in found else "–" for c in ("PyPty's way", "PtyRAD")]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
