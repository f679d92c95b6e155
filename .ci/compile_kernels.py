#!/usr/bin/env python3
"""Compile every CUDA kernel for every window and architecture, without a GPU or a driver.

    python .ci/compile_kernels.py 75,80,86,89,90,100,120

Prints registers, spilled bytes and shared memory of every kernel. Fails if one does not compile, spills, or needs more
registers than its budget. Needs CuPy and NVRTC (their wheels suffice), with the options that production passes.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

PACKAGE = Path(__file__).parents[1] / "pypty"

MAX_REGISTERS = {
    "probe_forward": (64, 120, 168),
    "row_forward": (80, 168, 255),
    "propagate": (64, 128, 168),
    "detector_forward": (64, 112, 168),
    "detector_adjoint": (80, 128, 184),
    "row_adjoint": (112, 168, 216),
    "probe_adjoint": (88, 168, 255),
}
"""By kernel, for 8, 16 and 24 points of a line per thread; what is not listed has DEFAULT_REGISTERS."""

DEFAULT_REGISTERS = 64


class Job(NamedTuple):
    """One program: source files with one set of parameters, for one architecture."""

    label: str
    files: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    architecture: str


class Row(NamedTuple):
    """What the assembler says about a kernel."""

    kernel: str
    registers: int
    spilled: int
    shared: int


def budget(job: Job, kernel: str) -> int:
    """Registers that a kernel may use."""
    points = int(dict(job.parameters).get("PER_THREAD", "8"))
    return MAX_REGISTERS[kernel][points // 8 - 1] if kernel in MAX_REGISTERS else DEFAULT_REGISTERS


def say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def import_kernel_modules() -> None:
    """Make pypty.backend importable without the package's other requirements (SciPy, h5py, ...)."""
    for name in ("pypty", "pypty.backend"):
        module = types.ModuleType(name)
        module.__path__ = [str(PACKAGE.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


def jobs(architectures: list[str]) -> list[Job]:
    import_kernel_modules()
    waves = importlib.import_module("pypty.backend.cuda.waves")
    elementwise = importlib.import_module("pypty.backend.cuda.elementwise")
    score = importlib.import_module("pypty.backend.cuda.score")
    found = []
    for architecture in architectures:
        for window, plan in waves.PLANS.items():
            found.append(Job(f"waves {window}", waves.FILES, plan.parameters, architecture))
        for real in ("float", "double"):
            parameters = elementwise.parameters(real)
            found.append(Job(f"elementwise {real}", elementwise.FILES, parameters, architecture))
            for data in score.DATA_TYPES:
                found.append(
                    Job(f"score {real} {data}", score.FILES, score.parameters(real, data), architecture)
                )
    return found


def compile_one(job: Job) -> tuple[Job, list[Row], str]:
    """The kernels of a job, or what the compiler complains about."""
    import_kernel_modules()
    module = importlib.import_module("pypty.backend.cuda.module")
    nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
    core = importlib.import_module("cupy._core.core")
    kernels = module.KernelModule(job.files, job.parameters)
    # What cupy.RawModule adds to the options for NVRTC, besides the report of the assembler.
    options = core.assemble_cupy_compiler_options(kernels.options)
    options += (f"-arch=sm_{job.architecture}", "--device-as-default-execution-space", "--ptxas-options=-v")
    program = nvrtc.createProgram(kernels.source, job.label, (), ())
    error = ""
    try:
        nvrtc.compileProgram(program, options)
    except Exception as problem:  # noqa: BLE001 - the library has no public class of errors
        error = str(problem)
    log = nvrtc.getProgramLog(program)
    rows = [] if error else read_log(log)
    missing = set(kernels.signatures) - {row.kernel for row in rows}
    if not error and missing:
        error = f"nothing is reported about {', '.join(sorted(missing))}"
    return job, rows, f"{error}\n{log}" if error else ""


def read_log(log: str) -> list[Row]:
    rows = []
    for entry in log.split("Compiling entry function '")[1:]:
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        assert registers is not None
        rows.append(
            Row(
                entry.split("'")[0],
                int(registers.group(1)),
                sum(int(spill) for spill in spills),
                int(shared.group(1)) if shared else 0,
            )
        )
    return sorted(rows)


def main() -> int:
    if len(sys.argv) != 2:
        say(__doc__)
        return 2
    start, failures = time.time(), []
    say(f"{'sm':>4} {'source':20} {'kernel':18} {'registers':>9} {'spilled':>8} {'shared':>7}")
    with ProcessPoolExecutor(2) as pool:
        for job, rows, error in pool.map(compile_one, jobs(sys.argv[1].split(","))):
            if error:
                failures.append(f"sm_{job.architecture} {job.label}: {error}")
            for row in rows:
                line = f"{job.architecture:>4} {job.label:20} {row.kernel:18}"
                say(f"{line} {row.registers:9d} {row.spilled:8d} {row.shared:7d}")
                if row.spilled:
                    failures.append(f"{line}: spills {row.spilled} bytes")
                if row.registers > budget(job, row.kernel):
                    failures.append(f"{line}: {row.registers} registers, budget {budget(job, row.kernel)}")
    say(f"{len(failures)} failures, {time.time() - start:.0f} s")
    for failure in failures:
        say(f"FAILED {failure}", sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
