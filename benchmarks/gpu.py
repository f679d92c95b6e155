"""Speed on a CUDA device: memory, transforms, every kernel, and whole passes of standard workloads.

    python benchmarks/gpu.py                         # everything, less than 8 minutes
    python benchmarks/gpu.py --json gpu.json --device-time-limit 240 --only split,fused

First every executor is compared with NumPy in double precision; nothing is timed if that fails. One pass = loss and
gradient of object, probe and positions over all patterns, which are in the memory of the device, as 16-bit integers. A
pass that would take more than its share of the time limit is measured on as many batches as fit, and scaled. "floor" is
the time in which the device copies as many bytes as the split kernels must read and write. "streamed" reads the data
from the host. Small batches are launched kernel by kernel, and replayed as graphs.

--peer ptyrad, --peer ptyrad-compiled and --peer pypty run another package on the same arrays (gpu_peers.py), in the
interpreter that --peer-python names; --peer NAME=COMMAND runs a shell command that finds the files in the folder
WORKLOAD and prints the seconds of a pass as the last word of its output.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gpu_peers import PEER_SIDE, peer_rows

from pypty.backend.array import Backend, gpu_status, select, to_host
from pypty.backend.cuda.waves import Layout, WaveKernels
from pypty.backend.workspace import Workspace
from pypty.data.feed import Feed
from pypty.data.sources import ArraySource
from pypty.model.blocks import Variables, to_public
from pypty.model.forward import build_model
from pypty.model.options import ModelOptions
from pypty.model.split import half_band
from pypty.objective.noise import LsqSqrt
from pypty.objective.objective import Objective
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

BLOCKS = ("obj", "probe", "positions")
EXECUTORS = ("split", "streamed", "deterministic", "fused", "stages")
SMALL_BATCHES = (16, 64)
CUTOFF = 2 / 3
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Workload:
    """A scan of ``side`` x ``side`` patterns of ``window`` x ``window`` pixels, ``step`` pixels apart."""

    name: str
    side: int
    window: int
    slices: int
    modes: int
    step: float = 2.9
    pixel_A: float = 0.15
    voltage_kV: float = 80.0

    @property
    def patterns(self) -> int:
        return self.side**2

    @property
    def wave_pixels(self) -> int:
        return self.patterns * self.modes * self.window**2

    @property
    def grid(self) -> Grid:
        return Grid((self.window, self.window), (self.pixel_A, self.pixel_A), wavelength_A(self.voltage_kV))

    @property
    def bytes_per_pixel(self) -> float:
        """What the split kernels read and write, per pixel of a wave: of its columns a part k lies inside the band
        limit, and what all modes share counts a mode's part."""
        k = 2 * half_band(self.grid.band_mask(CUTOFF)) / self.window
        slices, shared = self.slices, 1 / self.modes
        rows = (16 * k + 8 + 8 * shared) + (16 * k + 8 + 24 * shared)
        return rows * slices + 32 * k * (slices - 1) + 24 * k + 16 * shared + 16 * k


WORKLOADS = (
    Workload("WSe2, 6 slices, 6 modes", 128, 128, 6, 6),
    Workload("WSe2, 6 slices, 12 modes", 128, 128, 6, 12),
    Workload("WSe2, 6 slices, 1 mode", 128, 128, 6, 1),
    Workload("WSe2, 1 slice, 12 modes", 128, 128, 1, 12),
    Workload("PrScO3, 21 slices, 4 modes", 64, 256, 21, 4, 4.0),
)
CHECKS = tuple(Workload(f"check {n}", 2, n, 2, 2) for n in (64, 96, 128, 192, 256, 384, 512))


class Device:
    """The device, and how it is timed."""

    def __init__(self) -> None:
        self.backend = select("gpu", "single")
        self.cupy = self.backend.xp
        self.name = gpu_status().device

    def synchronize(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def seconds(self, task: Callable[[], Any], repeats: int = 7) -> float:
        """Median time of a call, after one that is not counted."""
        task()
        times = []
        for _ in range(repeats):
            self.synchronize()
            start = time.perf_counter()
            task()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def free_bytes(self) -> int:
        self.cupy.get_default_memory_pool().free_all_blocks()
        return int(self.cupy.cuda.runtime.memGetInfo()[0])


def make_variables(work: Workload, backend: Backend) -> tuple[Variables, np.ndarray]:
    """Unknowns on the device, and (N, 2) the crop origins on the host."""
    rng = np.random.default_rng(0)
    along = 4 + work.step * np.arange(work.side)
    positions = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    positions += rng.uniform(-0.4, 0.4, positions.shape)
    crop_origins = np.round(positions).astype(np.int64)
    size = int(crop_origins.max()) + work.window + 4
    obj = np.exp(0.1j * rng.standard_normal((1, work.slices, size, size)))
    shape = (work.modes, work.window, work.window)
    q2 = work.grid.fx**2 + work.grid.fy**2
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * (q2 < 0.2**2)
    probe = np.fft.ifft2(spectrum)
    variables = Variables(
        obj=backend.asarray(obj.astype(backend.complex)),
        probe=backend.asarray(probe.astype(backend.complex)),
        positions=backend.asarray(positions),
        slice_distances=backend.asarray(np.array([2.0])),
    )
    return variables, crop_origins


def make_data(work: Workload) -> np.ndarray:
    """(N, n, n) uint16 counts: 64 patterns, again and again."""
    some = np.random.default_rng(1).poisson(4, (min(64, work.patterns), work.window, work.window))
    return np.resize(some.astype(np.uint16), (work.patterns, work.window, work.window))


def make_objective(
    executor: str, work: Workload, backend: Backend, crop_origins: np.ndarray, data: np.ndarray, batch: int
) -> Objective:
    """The loss as a reconstruction computes it."""
    asked = executor if executor in ("fused", "stages") else "auto"
    options = ModelOptions(
        grid=work.grid, cutoff=CUTOFF, executor=asked, deterministic=executor == "deterministic"
    )
    model = build_model(options, backend)
    if backend.on_gpu and executor in ("split", "streamed", "deterministic"):
        assert model.executor == "split", model.executor
    resident = executor != "streamed"
    feed = Feed(
        backend,
        ArraySource(data),
        crop_origins=crop_origins,
        reorder=lambda a: a,
        resident_on_device=resident,
    )
    if resident:
        feed.make_resident()
    return Objective(backend, model, feed, LsqSqrt(), batch)


def evaluate(executor: str, work: Workload, backend: Backend, data: np.ndarray) -> dict[str, np.ndarray]:
    """Loss and gradients of all patterns, on the host."""
    variables, crop_origins = make_variables(work, backend)
    objective = make_objective(executor, work, backend, crop_origins, data, 3)
    found = objective.evaluate(variables, BLOCKS, np.arange(work.patterns))
    return {
        "loss": np.array(found.loss),
        **{name: to_host(array) for name, array in found.gradients.items()},
    }


def check(executors: Sequence[str], backend: Backend) -> list[dict[str, Any]]:
    """Relative errors of every executor against the stages in double precision on the CPU."""
    rows = []
    for work in CHECKS:
        data = make_data(work)
        expected = evaluate("stages", work, select("cpu", "double"), data)
        for executor in executors:
            found = evaluate(executor, work, backend, data)
            row: dict[str, Any] = {"window": work.window, "executor": executor}
            for name, value in expected.items():
                row[name] = float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
            row["good"] = max(row[name] for name in expected) < TOLERANCE
            rows.append(row)
    return rows


def copy_bandwidth(device: Device) -> float:
    """Bytes read and written per second by a large copy."""
    source = device.cupy.zeros(2**28, np.float32)
    target = device.cupy.empty_like(source)
    return 2 * source.nbytes / device.seconds(lambda: device.cupy.copyto(target, source))


def transforms(device: Device, bandwidth: float) -> list[dict[str, Any]]:
    """The library's transforms, forward and back in place; a transform is taken to read and write twice."""
    rows = []
    for n in (128, 256):
        workspace = Workspace(device.backend.xp)
        wave = workspace.array("wave", (2**26 // n**2, 1, 1, n, n), np.complex64)
        wave.fill(0)
        seconds = device.seconds(lambda wave=wave, own=workspace: own.fft.forward(wave))
        rows.append(throughput(f"cuFFT {n} x {n}", 32 * wave.size, seconds, bandwidth))
    return rows


def throughput(name: str, n_bytes: float, seconds: float, bandwidth: float) -> dict[str, Any]:
    rate = n_bytes / seconds
    return {"what": name, "ms": 1e3 * seconds, "GB/s": rate / 1e9, "% of copy": 100 * rate / bandwidth}


def kernel_rates(device: Device, bandwidth: float, work: Workload, patterns: int) -> list[dict[str, Any]]:
    """Every split kernel alone, on a batch."""
    backend, n, modes = device.backend, work.window, work.modes
    variables, crop_origins = make_variables(work, backend)
    half = half_band(work.grid.band_mask(CUTOFF))
    layout, kernels = Layout(patterns, modes, half, half), WaveKernels(n, backend)
    zeros = device.cupy.zeros
    wave, incoming = (zeros((patterns, modes, n, n), np.complex64) for _ in range(2))
    reals, factor = zeros((patterns, n, n), np.float32), zeros((n, n), np.complex64)
    obj, gradient = variables.obj[0, 0], device.cupy.zeros_like(variables.obj[0, 0])
    where = backend.asarray(crop_origins[:patterns].astype(np.int32))
    ramps = zeros((patterns, 2, n), np.complex64)
    parts = zeros((kernels.groups(patterns), modes, n, 2 * half), np.complex64)
    slopes = zeros((patterns, modes, kernels.column_blocks(half)), np.complex64)
    probe = variables.probe
    pixels, k, shared = wave.size, 2 * half / n, 1 / modes
    timed: list[tuple[str, float, Callable[[], None]]] = [
        ("probe_forward", 8 * k, lambda: kernels.probe_forward(wave, probe, ramps, layout)),
        ("row_forward", 16 * k + 8 + 8 * shared,
         lambda: kernels.row_forward(wave, incoming, obj, where, layout, first=False)),
        ("propagate", 16 * k, lambda: kernels.propagate(wave, factor, layout, conjugate=False)),
        ("detector_forward", 8 * k + 4 * shared, lambda: kernels.detector_forward(wave, reals, None, layout)),
        ("detector_adjoint", 16 * k + 4 * k * shared,
         lambda: kernels.detector_adjoint(wave, reals, None, layout)),
        ("row_adjoint", 16 * k + 8 + 24 * shared,
         lambda: kernels.row_adjoint(wave, incoming, obj, where, layout, gradient)),
        ("probe_adjoint", 8 * k + k,
         lambda: kernels.probe_adjoint(wave, probe, ramps, layout, parts, slopes)),
    ]  # fmt: skip
    return [
        throughput(f"{name} {n}, {modes} modes", n_bytes * pixels, device.seconds(task), bandwidth)
        for name, n_bytes, task in timed
    ]


def batch_size(work: Workload, free: int) -> int:
    """Patterns whose waves take at most a third of the free memory; 512 at most."""
    waves = 8 * (work.slices + 6) * work.modes * work.window**2
    return int(max(1, min(512, work.patterns, free / 3 // waves)))


def pass_time(
    executor: str, work: Workload, device: Device, limit: float, batch: int = 0, graphs: bool = True
) -> dict[str, Any]:
    """Seconds of a pass, scaled from the batches that fit into the limit."""
    variables, crop_origins = make_variables(work, device.backend)
    size = batch or batch_size(work, device.free_bytes())
    objective = make_objective(executor, work, device.backend, crop_origins, make_data(work), size)
    if not graphs:
        objective._replay = None
    small = min(work.patterns, 4 * size)

    def run(patterns: int) -> float:
        device.synchronize()
        start = time.perf_counter()
        objective.evaluate(variables, BLOCKS, np.arange(patterns))
        device.synchronize()
        return time.perf_counter() - start

    run(small)
    seconds = run(small)
    patterns = int(min(work.patterns, max(small, small * limit / (2 * seconds)) // size * size or small))
    seconds = statistics.median(run(patterns) for _ in range(1 if seconds * patterns / small > 1 else 3))
    return {
        "workload": work.name,
        "executor": executor,
        "s/pass": seconds * work.patterns / patterns,
        "patterns timed": patterns,
        "batch": size,
    }


def small_batches(device: Device, limit: float) -> list[dict[str, Any]]:
    """Launched kernel by kernel, and replayed."""
    rows = []
    for size in SMALL_BATCHES:
        for graphs in (False, True):
            row = pass_time("split", WORKLOADS[0], device, limit, size, graphs)
            rows.append({**row, "executor": "split, replayed" if graphs else "split, launched"})
    return rows


def peer_workload(work: Workload) -> tuple[Workload, dict[str, np.ndarray], np.ndarray]:
    """What peers get: a part of the scan, its arrays in the public layout, and its data."""
    smaller = replace(work, side=min(work.side, PEER_SIDE))
    variables, _ = make_variables(smaller, select("cpu", "single"))
    arrays = {name: to_public(name, variables.block(name)) for name in BLOCKS}
    return smaller, {**arrays, "obj": arrays["obj"][..., 0]}, make_data(smaller)


def passes(
    device: Device, executors: Sequence[str], bandwidth: float, deadline: float
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    left = len(WORKLOADS) * len(executors)
    for work in WORKLOADS:
        floor = work.bytes_per_pixel * work.wave_pixels / bandwidth
        for executor in executors:
            share = (deadline - time.perf_counter()) / (2 * left)  # half of it for the preparation
            left -= 1
            if share <= 0:
                continue
            row = pass_time(executor, work, device, share)
            rows.append({**row, "floor s": floor, "% of floor": 100 * floor / row["s/pass"]})
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table."""
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    print(f"\n{title}")
    for line in (columns, *cells):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="file for all numbers")
    parser.add_argument("--device-time-limit", type=float, default=420.0, help="seconds for everything")
    parser.add_argument("--only", default=",".join(EXECUTORS), help="executors, with commas between them")
    parser.add_argument(
        "--peer", action="append", default=[], help="ptyrad, ptyrad-compiled, pypty, NAME=COMMAND"
    )
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    status = gpu_status()
    if not status.usable:
        print(f"no GPU to measure: {status.reason}", file=sys.stderr)
        return 2
    deadline = time.perf_counter() + options.device_time_limit
    executors, device = options.only.split(","), Device()
    report: dict[str, Any] = {"device": device.name, "cupy": status.cupy_version}
    print(f"{device.name}, CuPy {status.cupy_version}")
    report["errors"] = check(executors, device.backend)
    show("relative errors against NumPy in double precision", report["errors"])
    good = all(row["good"] for row in report["errors"])
    if good:
        bandwidth = report["copy GB/s"] = copy_bandwidth(device)
        report["copy GB/s"] /= 1e9
        report["rates"] = transforms(device, bandwidth)
        for work, patterns in ((WORKLOADS[0], 512), (WORKLOADS[2], 512), (WORKLOADS[-1], 128)):
            report["rates"] += kernel_rates(device, bandwidth, work, patterns)
        show(f"rates; a copy: {bandwidth / 1e9:.0f} GB/s", report["rates"])
        ours = deadline - (options.device_time_limit / 2 if options.peer else 0)
        report["passes"] = small_batches(device, 5.0) + passes(device, executors, bandwidth, ours)
        if options.peer:
            chosen = (options.peer, options.peer_python, WORKLOADS, peer_workload, deadline)
            report["passes"] += peer_rows(*chosen)
        show("passes: loss and gradient of object, probe and positions", report["passes"])
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
