"""Speed on a CUDA device: memory, transforms, every kernel, and whole passes of standard workloads.

    python benchmarks/gpu.py                         # everything, less than 8 minutes
    python benchmarks/gpu.py --json gpu.json --device-time-limit 240 --only split,fused

First every executor is compared with NumPy in double precision; nothing is timed if that fails. A section that fails
is reported, the others go on, and the JSON file is written after each. One pass = loss and
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
import functools
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gpu_peers import PEER_SIDE, peer_rows
from gpu_workloads import (
    BLOCKS,
    CHECKS,
    EXECUTORS,
    WORKLOADS,
    Device,
    Workload,
    evaluate,
    make_data,
    make_objective,
    make_variables,
)

from pypty.backend.array import Backend, gpu_status, select
from pypty.backend.cuda.waves import Layout, Slice, WaveKernels, wave_bytes
from pypty.backend.workspace import Workspace
from pypty.model.blocks import to_public
from pypty.model.forward import executor_name
from pypty.model.options import ModelOptions

SMALL_BATCHES = (16, 32, 64)
TOLERANCE = 1e-4


def check(
    executors: Sequence[str], backend: Backend, works: Sequence[Workload] = CHECKS
) -> list[dict[str, Any]]:
    """Relative errors of every executor against the stages in double precision on the CPU."""
    rows = []
    for work in works:
        data = make_data(work)
        expected = evaluate("stages", work, select("cpu", "double"), data)
        for executor in executors:
            found = evaluate(executor, work, backend, data)
            row: dict[str, Any] = {"window": work.window, "executor": executor}
            for name, value in expected.items():
                row[name] = float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
            # each of them: a maximum may hide what is not a number
            row["good"] = all(row[name] < TOLERANCE for name in expected)
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
    backend, n, modes, columns = device.backend, work.window, work.modes, work.columns
    variables, crop_origins = make_variables(work, backend)
    layout, kernels = Layout(patterns, modes, columns, columns), WaveKernels(n, backend)
    zeros = device.cupy.zeros
    wave, other = (zeros((patterns, modes, 1, n, n), np.complex64) for _ in range(2))
    reals, factor = zeros((patterns, n, n), np.float32), zeros((n, n), np.complex64)
    rate, gradient = zeros((n, n), np.float32), device.cupy.zeros_like(variables.obj)
    place = Slice(
        variables.obj, variables.n_slices - 1, backend.asarray(crop_origins[:patterns].astype(np.int32))
    )
    ramps = zeros((patterns, 2, n), np.complex64)
    parts = zeros((kernels.groups(patterns), modes, n, columns), np.complex64)
    blocks = kernels.column_blocks(columns)
    shifts, slopes = (zeros((patterns, modes, blocks, count), np.float32) for count in (2, 3))
    probe = variables.probe
    timed: dict[str, Callable[[], None]] = {
        "probe_forward": lambda: kernels.probe_forward(wave, probe, ramps, layout),
        "row_forward": lambda: kernels.row_forward(wave, other, place, layout),
        "propagate": lambda: kernels.propagate(wave, factor, layout),
        "propagate_adjoint": lambda: kernels.propagate_adjoint(wave, other, factor, rate, slopes, layout),
        "detector_forward": lambda: kernels.detector_forward(wave, reals, None, layout),
        "detector_adjoint": lambda: kernels.detector_adjoint(wave, reals, None, layout),
        "row_adjoint": lambda: kernels.row_adjoint(wave, other, place, layout, gradient=gradient),
        "probe_adjoint": lambda: kernels.probe_adjoint(wave, probe, ramps, layout, parts, shifts),
    }
    return [
        throughput(
            f"{name} {n}, {modes} modes",
            wave_bytes(name, columns / n, modes) * wave.size,
            device.seconds(task),
            bandwidth,
        )
        for name, task in timed.items()
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
        objective._memory.replay = None
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
        covered = executor_name(ModelOptions(grid=work.grid, cutoff=2 / 3), device.backend) == "split"
        for executor in executors:
            share = (deadline - time.perf_counter()) / (2 * left)  # half of it for the preparation
            left -= 1
            if share <= 0 or (executor in ("split", "deterministic") and not covered):
                continue
            try:
                row = pass_time(executor, work, device, share)
            except Exception as error:  # noqa: BLE001 - one workload does not end the others
                rows.append({"workload": work.name, "executor": executor, "failed": _last_line(error)})
                continue
            rows.append({**row, "floor s": floor, "% of floor": 100 * floor / row["s/pass"]})
    return rows


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()[:200]


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


class Report:
    """What was measured, written as it goes."""

    def __init__(self, path: str | None, **about: Any) -> None:
        self.path = path
        self.content: dict[str, Any] = dict(about)

    def section(
        self, name: str, title: str, task: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Rows of a section, shown and written; a section that fails has none, and is reported."""
        rows: list[dict[str, Any]] = []
        try:
            rows = task()
        except Exception as error:  # noqa: BLE001 - one section does not end the others
            self.content.setdefault("failed", {})[name] = traceback.format_exc()
            print(f"\n{title}: FAILED, {_last_line(error)}", flush=True)
        self.content[name] = rows
        show(title, rows)
        sys.stdout.flush()
        self.write()
        return rows

    def write(self) -> None:
        if self.path:
            with open(self.path, "w", encoding="utf-8") as file:
                json.dump(self.content, file, indent=1)


def arguments() -> argparse.Namespace:
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
    return parser.parse_args()


def main() -> int:
    options = arguments()
    status = gpu_status()
    if not status.usable:
        print(f"no GPU to measure: {status.reason}", file=sys.stderr)
        return 2
    deadline = time.perf_counter() + options.device_time_limit
    executors, device = options.only.split(","), Device()
    print(f"{device.name}, CuPy {status.cupy_version}", flush=True)
    report = Report(options.json, device=device.name, cupy=status.cupy_version)
    errors = report.section(
        "errors",
        "relative errors against NumPy in double precision",
        lambda: check(executors, device.backend),
    )
    if not errors or not all(row["good"] for row in errors):
        return 1
    bandwidth = copy_bandwidth(device)
    report.content["copy GB/s"] = bandwidth / 1e9
    title = f"rates; a copy: {bandwidth / 1e9:.0f} GB/s"
    report.section("transforms", title, lambda: transforms(device, bandwidth))
    for work, patterns in ((WORKLOADS[0], 512), (WORKLOADS[2], 512), (WORKLOADS[4], 128)):
        task = functools.partial(kernel_rates, device, bandwidth, work, min(patterns, work.patterns))
        report.section(f"rates {work.name}", f"kernels, {work.name}", task)
    ours = deadline - (options.device_time_limit / 2 if options.peer else 0)
    title = "passes: loss and gradient of object, probe and positions"
    report.section("small batches", "small batches", lambda: small_batches(device, 5.0))
    report.section("passes", title, lambda: passes(device, executors, bandwidth, ours))
    if options.peer:
        whole = tuple(work for work in WORKLOADS if not work.count)
        chosen = (options.peer, options.peer_python, whole, peer_workload, deadline)
        report.section("peers", "other packages", lambda: peer_rows(*chosen))
    return 1 if "failed" in report.content else 0


if __name__ == "__main__":
    sys.exit(main())
