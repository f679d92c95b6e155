"""The steps of first_contact.py: each computes one thing on the device, and writes what it found as JSON.

    python benchmarks/first_contact_steps.py STEP [ARGUMENT] [--result FILE]

With PYPTY_FIRST_CONTACT=emulated it runs on the emulated device of the tests, with tiny sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

EMULATED = os.environ.get("PYPTY_FIRST_CONTACT") == "emulated"
TESTS = Path(__file__).parents[1] / "tests"
LEFT_BYTES = 2**26
"""Memory that out_of_memory leaves: the waves of its batch, with data and slopes, take 84 MB."""
Found = tuple[bool, str, dict[str, Any]]
"""Whether all is well, a line for the report, and numbers."""


def environment() -> Found:
    """Card, driver, versions, power and clocks."""
    import cupy

    from pypty.backend.array import gpu_status

    status = gpu_status()
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    free, total = cupy.cuda.runtime.memGetInfo()
    numbers: dict[str, Any] = {
        "card": status.device,
        "usable": status.usable,
        "reason": status.reason,
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "GiB": round(total / 2**30, 1),
        "GiB free": round(free / 2**30, 1),
        "cupy": cupy.__version__,
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
        "nvidia-smi": _nvidia_smi(),
    }
    state = numbers["nvidia-smi"] or "no nvidia-smi"
    text = f"{numbers['card']}, {numbers['GiB']} GiB, CuPy {numbers['cupy']}, {state}"
    return status.usable, text, numbers


def _nvidia_smi() -> str:
    """Power, clocks, temperature, and what slows the card down."""
    asked = "power.draw,power.limit,clocks.sm,clocks.mem,temperature.gpu,clocks_throttle_reasons.active"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    return ""


def compile_kernels() -> Found:
    """Time of a cold compilation, registers, and memory of threads of every kernel."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.environ["CUPY_CACHE_DIR"] = folder  # nothing is found there
        from pypty.backend.cuda.module import KernelModule
        from pypty.backend.cuda.plans import plan_of
        from pypty.backend.cuda.waves import FILES

        rows, times = [], {}
        for window in (64,) if EMULATED else (64, 128, 250, 256, 500, 512):
            module = KernelModule(FILES, plan_of(window).parameters)
            start = time.perf_counter()
            for name in module.signatures:
                kernel = module._function(name)
                rows.append({"window": window, "kernel": name, **_attributes(kernel)})
            times[str(window)] = round(time.perf_counter() - start, 2)
    spilled = [row for row in rows if row.get("local_size_bytes") and not EMULATED]
    text = f"{len(rows)} kernels, {max(times.values()):.1f} s at most for a window, {len(spilled)} spill"
    return True, text, {"seconds": times, "kernels": rows}


def _attributes(kernel: Any) -> dict[str, int]:
    wanted = ("num_regs", "shared_size_bytes", "local_size_bytes", "max_threads_per_block")
    try:
        return {name: int(kernel.attributes[name]) for name in wanted}
    except Exception:  # noqa: BLE001 - the emulated device has none
        return {}


def agreement() -> Found:
    """Every executor against the stages in double precision on the CPU."""
    import gpu
    from gpu_workloads import CHECKS, EXECUTORS

    from pypty.backend.array import select

    usual = tuple(work for work in CHECKS if work.window in ((64,) if EMULATED else (64, 128, 256, 512)))
    return _errors(gpu.check(EXECUTORS, select("gpu", "single"), usual))


def windows() -> Found:
    """The split kernels of unusual windows."""
    import gpu
    from gpu_workloads import Workload

    from pypty.backend.array import select

    sizes = (45, 80) if EMULATED else (45, 75, 80, 96, 125, 200, 240, 250, 300, 320, 375, 500)
    works = tuple(Workload(f"check {n}", 2, n, 2, 2) for n in sizes)
    return _errors(gpu.check(("split",), select("gpu", "single"), works))


def _errors(rows: list[dict[str, Any]]) -> Found:
    worst = max(
        rows,
        key=lambda row: max(value for key, value in row.items() if key not in ("window", "good", "executor")),
    )
    numbers = {key: value for key, value in worst.items() if isinstance(value, float)}
    bad = [f"{row['executor']} {row['window']}" for row in rows if not row["good"]]
    where = f"{worst['executor']} {worst['window']}"
    text = f"{len(rows)} cases, largest relative error {max(numbers.values()):.1e} ({where})"
    return not bad, text + (f"; WRONG: {', '.join(bad)}" if bad else ""), {"errors": rows}


def problem(small: bool = EMULATED, **changes: Any) -> dict[str, Any]:
    """A reconstruction of simulated data: a scan over a thin phase object."""
    import pypty

    n, side = (16, 3) if small else (64, 24)
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(np.arange(side) * 2.0, np.arange(side) * 2.0, indexing="ij")
    positions = np.stack([y.ravel(), x.ravel()], axis=1) + 2
    size = int(positions.max()) + n + 4
    phase = rng.normal(0, 0.2, (size, size))
    q = np.fft.fftfreq(n)
    aperture = (q[:, None] ** 2 + q[None] ** 2) < 0.2**2
    probe = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(60j * (q[:, None] ** 2 + q[None] ** 2))))
    probe *= np.sqrt(1e4) / np.linalg.norm(probe)
    common = {
        "acc_voltage": 80,
        "pixel_size_x_A": 0.2,
        "pixel_size_y_A": 0.2,
        "probe": probe[:, :, None],
        "positions": positions,
        "num_slices": 2,
        "slice_distances": np.array([10.0]),
        "backend": "gpu",
        "algorithm": "lsq_sqrt",
        "default_dtype": "single",
        "verdict": "none",
    }
    truth = {**common, "obj": np.exp(1j * phase)[:, :, None, None] * np.ones((1, 1, 2, 1)), "backend": "cpu"}
    data = pypty.simulate(truth)
    return {**common, "obj": np.ones((size, size, 2, 1), complex), "dataset": data, **changes}


def out_of_memory() -> Found:
    """Other arrays take nearly all memory: batches are halved, and the result stays the same."""
    import cupy

    import pypty

    params = problem(epoch_max=2, warmup_epochs=0, compute_batch=8 if EMULATED else 576)
    free_run = pypty.run(params)
    with contextlib.ExitStack() as stack:
        if EMULATED:
            stack.enter_context(_emulator().settings(fail_malloc=12, fail_times=3))
        else:
            # what the first run has left in CuPy's pool would be room for the second
            cupy.get_default_memory_pool().free_all_blocks()
            free, leave = cupy.cuda.runtime.memGetInfo()[0], LEFT_BYTES
            hold = [cupy.empty(max(0, free - leave) // 4 * share, np.uint8) for share in (1, 3)]
            stack.callback(hold.clear)
        lines = stack.enter_context(_warnings())
        tight = pypty.run(params)
    halved = sum("out of memory" in line for line in lines)
    change = float(np.linalg.norm(tight.obj - free_run.obj) / np.linalg.norm(free_run.obj))
    text = f"batches were halved {halved} times, the object changes by {change:.1e}"
    return change < 1e-3 and halved > 0, text, {"change": change, "halved": halved}


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What pypty warns of."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pypty").addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger("pypty").removeHandler(handler)


def large() -> Found:
    """More than 2^31 numbers in the waves of a batch: the first and the last pattern are right."""
    from gpu_workloads import Device, Workload, make_data, make_objective, make_variables

    device = Device()
    work = Workload("large", 2, 64, 2, 2) if EMULATED else Workload("large", 34, 512, 2, 8, step=0.5)
    needed = 3.3 * 8 * work.wave_pixels  # three waves, data, and the rest
    if device.free_bytes() < needed:
        return True, f"not tried: {needed / 2**30:.0f} GiB are needed", {}
    variables, crop_origins = make_variables(work, device.backend)
    data = make_data(work)
    batches = (work.patterns, max(1, work.patterns // 2))
    found = []
    for batch in batches:
        objective = make_objective("split", work, device.backend, crop_origins, data, batch)
        evaluated = objective.evaluate(variables, ("obj", "probe", "positions"), np.arange(work.patterns))
        found.append({name: array.get() for name, array in evaluated.gradients.items()})
        del objective, evaluated
        device.free_bytes()
    changes = {
        name: float(np.linalg.norm(found[0][name] - found[1][name]) / np.linalg.norm(found[1][name]))
        for name in found[0]
    }
    count = work.wave_pixels
    text = f"{count / 2**31:.2f} x 2^31 wave pixels in a batch, largest change {max(changes.values()):.1e}"
    return all(change < 1e-4 for change in changes.values()), text, {"changes": changes}


def sanitized() -> Found:
    """A short run under compute-sanitizer: every kernel of the split executor and of a first-order method."""
    import gpu
    from gpu_workloads import Workload

    import pypty
    from pypty.backend.array import select

    works = (Workload("check 64", 2, 64, 2, 2), Workload("check 125", 1, 125, 2, 1))
    pypty.run(problem(small=True, optimizer="adam", batch_size=4, epoch_max=1))
    return _errors(gpu.check(("split", "deterministic"), select("gpu", "single"), works))


def rates() -> Found:
    """benchmarks/gpu.py."""
    import gpu
    import gpu_workloads

    if EMULATED:
        tiny = gpu_workloads.Workload("tiny", 3, 64, 2, 2)
        gpu.WORKLOADS, gpu.CHECKS, gpu.SMALL_BATCHES = (tiny,) * 5, (gpu_workloads.CHECKS[0],), (2,)
        gpu.copy_bandwidth, gpu.transforms = lambda device: 1e9, lambda device, bandwidth: []
    with _temporary_json() as path:
        sys.argv = ["gpu.py", "--json", path, "--device-time-limit", "250" if EMULATED else "200"]
        code = gpu.main()
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    timed = {f"{row['workload']}, {row['executor']}": row.get("s/pass") for row in content.get("passes", [])}
    first = next(iter(timed.items()), ("no pass", float("nan")))
    return code == 0 and bool(timed), f"{len(timed)} passes; {first[0]}: {first[1]:.3g} s", content


@contextlib.contextmanager
def _temporary_json() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield str(Path(folder) / "gpu.json")


def mini_batches() -> Found:
    """An epoch of Adam in batches of 32 beside an evaluation of the same patterns in one batch."""
    import pypty

    times = {}
    for batch in (4, 9) if EMULATED else (32, 576):
        result = pypty.run(problem(optimizer="adam", batch_size=batch, epoch_max=12 if not EMULATED else 3))
        epochs = np.diff([0.0, *result.history.time_s])
        times[str(batch)] = float(np.median(epochs[2:]))
    small, whole = times.values()
    return (
        True,
        f"an epoch in batches of 32 takes {small / whole:.2f} times one in a single batch",
        {"s/epoch": times},
    )


@contextlib.contextmanager
def kernels_timed() -> Iterator[dict[str, list[float]]]:
    """Seconds of every launch of our kernels, each waited for; what is left of the run is CuPy's, and the host's."""
    import cupy

    from pypty.backend.cuda.module import KernelModule
    from pypty.objective.replay import Replay

    times: dict[str, list[float]] = defaultdict(list)
    launch, covers = KernelModule.launch, Replay.covers

    def timed(self: Any, name: str, *arguments: Any) -> None:
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        launch(self, name, *arguments)
        cupy.cuda.Device().synchronize()
        times[name].append(time.perf_counter() - start)

    KernelModule.launch = timed  # type: ignore[method-assign]
    Replay.covers = lambda *_: False  # type: ignore[method-assign, assignment]
    try:
        yield times
    finally:
        KernelModule.launch, Replay.covers = launch, covers  # type: ignore[method-assign]


def profile(method: str) -> Found:
    """Where the time of a run goes: each of our kernels, and the rest."""
    import pypty

    changes: dict[str, Any] = {"epoch_max": 3 if EMULATED else 8, "optimizer": method, "warmup_epochs": 0}
    if method == "adam":
        changes["batch_size"] = 4 if EMULATED else 32
    params = problem(**changes)
    pypty.run(params)  # compiles
    start = time.perf_counter()
    pypty.run(params)
    whole = time.perf_counter() - start
    with kernels_timed() as times:
        start = time.perf_counter()
        pypty.run(params)
        waited = time.perf_counter() - start
    rows = {name: {"launches": len(own), "s": sum(own)} for name, own in times.items()}
    ours = sum(row["s"] for row in rows.values())
    rows = dict(sorted(rows.items(), key=lambda item: -item[1]["s"]))
    for name, row in rows.items():
        print(f"{name:24} {row['launches']:7d} launches {1e3 * row['s']:10.2f} ms")
    slowest = next(iter(rows), "none")
    text = (
        f"{whole:.2f} s; kernels {ours:.2f} s of {waited:.2f} s where each is waited for; most in {slowest}"
    )
    return True, text, {"s": whole, "s waited": waited, "kernels": rows}


def _emulator() -> Any:
    sys.path.append(str(TESTS / "cuda"))
    import emulator

    return emulator


@contextlib.contextmanager
def _emulated_device() -> Iterator[None]:
    emulator = _emulator()
    emulator.load()
    with emulator.settings(devices=1):
        yield


TASKS: dict[str, Callable[..., Found]] = {
    "environment": environment,
    "compile": compile_kernels,
    "agreement": agreement,
    "windows": windows,
    "out_of_memory": out_of_memory,
    "large": large,
    "sanitized": sanitized,
    "rates": rates,
    "mini_batches": mini_batches,
    "profile": profile,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=TASKS)
    parser.add_argument("argument", nargs="?")
    parser.add_argument("--result", type=Path)
    options = parser.parse_args()
    with _emulated_device() if EMULATED else contextlib.nullcontext():
        good, summary, numbers = TASKS[options.step](*([options.argument] if options.argument else []))
    print(summary)
    if options.result:
        found = {"summary": summary, "numbers": numbers}
        options.result.write_text(json.dumps(found, default=str), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
