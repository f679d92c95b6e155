#!/usr/bin/env python3
"""Compile every CUDA kernel for every architecture, without a GPU or a driver.

    python .ci/compile_kernels.py 90,80,100,120           # some windows, for the first; each for one of the others, too
    python .ci/compile_kernels.py 75,90 all               # all windows that the split kernels support

Prints registers, spilled bytes and shared memory of every kernel, the part of a multiprocessor's threads that can be
resident ("busy"), and the bytes that it moves per pixel of a wave (6 modes, two thirds of the columns in use). Fails if
one does not compile, spills, or needs more registers than its budget. Needs CuPy and NVRTC (their wheels suffice), with
the options that production passes.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
import types
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

PACKAGE = Path(__file__).parents[1] / "pypty"

MAX_REGISTERS = {
    "probe_forward": (80, 128),
    "row_forward": (152, 192),
    "propagate": (88, 136),
    "propagate_adjoint": (128, 184),
    "detector_forward": (128, 152),
    "detector_adjoint": (152, 168),
    "row_adjoint": (200, 232),
    "probe_adjoint": (160, 192),
}
"""By kernel, for up to 10 and up to 16 points of a line per thread; others have OTHER_REGISTERS."""

OTHER_REGISTERS = {"score_powers": 72}
"""Powers in double precision on sm_75, where shared memory leaves room for three quarters of the threads anyway."""
DEFAULT_REGISTERS = 64

REPORT = "--ptxas-options=-v"
"""Lets the assembler say what a kernel uses; it does not change the code."""


WINDOWS = (64, 125, 128, 240, 250, 256, 512)
"""What is compiled unless all are asked for: those of most data, odd numbers of points, and 2 to 3 stages."""

LIMITS = {
    "70": (96, 2048, 32),
    "75": (64, 1024, 16),
    "80": (164, 2048, 32),
    "86": (100, 1536, 16),
    "89": (100, 1536, 24),
    "90": (228, 2048, 32),
    "100": (228, 2048, 32),
    "120": (100, 1536, 24),
}
"""Of a multiprocessor, by architecture: shared memory in KiB, threads, blocks (CUDA C++ programming guide)."""
REGISTERS, RESERVED = 65536, 1024
"""Registers of a multiprocessor, and bytes of shared memory that a block takes besides its own."""


class Job(NamedTuple):
    """One program: source files with one set of parameters, for one architecture."""

    label: str
    files: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    architecture: str
    row_threads: int = 256
    column_threads: int = 256

    def threads(self, kernel: str) -> int:
        """Of a block."""
        if kernel in ("row_forward", "row_adjoint"):
            return self.row_threads
        return self.column_threads if kernel in MAX_REGISTERS else 256


class Row(NamedTuple):
    """What the assembler says about a kernel."""

    kernel: str
    registers: int
    spilled: int
    shared: int


def budget(job: Job, kernel: str) -> int:
    """Registers that a kernel may use. Windows that are not compiled for every commit may use all that there are."""
    if kernel in MAX_REGISTERS and int(dict(job.parameters)["WINDOW"]) not in WINDOWS:
        return 255
    points = int(dict(job.parameters).get("PER_THREAD", "8"))
    if kernel in MAX_REGISTERS:
        return MAX_REGISTERS[kernel][points > 10]
    return OTHER_REGISTERS.get(kernel, DEFAULT_REGISTERS)


def busy(job: Job, row: Row) -> float:
    """Part of a multiprocessor's threads that blocks of this kernel can have at a time."""
    shared, threads, blocks = LIMITS[job.architecture]
    warps = -(-job.threads(row.kernel) // 32)
    per_warp = -(-row.registers * 32 // 256) * 256  # registers are given to warps in pieces of 256
    resident = min(
        blocks,
        REGISTERS // (per_warp * warps),
        threads // (32 * warps),
        shared * 1024 // (row.shared + RESERVED),
    )
    return resident * 32 * warps / threads


def say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def import_kernel_modules() -> None:
    """Make pypty.backend importable without the package's other requirements (SciPy, h5py, ...)."""
    for name in ("pypty", "pypty.backend"):
        module = types.ModuleType(name)
        module.__path__ = [str(PACKAGE.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module


def jobs(architectures: list[str], everything: bool) -> list[Job]:
    import_kernel_modules()
    plans = importlib.import_module("pypty.backend.cuda.plans")
    waves = importlib.import_module("pypty.backend.cuda.waves")
    elementwise = importlib.import_module("pypty.backend.cuda.elementwise")
    score = importlib.import_module("pypty.backend.cuda.score")
    powers = importlib.import_module("pypty.backend.cuda.powers")
    steps = importlib.import_module("pypty.backend.cuda.steps")
    found = []
    for number, architecture in enumerate(architectures):
        for place, window in enumerate(plans.WINDOWS if everything else WINDOWS):
            if not everything and number and place % (len(architectures) - 1) != number - 1:
                continue  # the first architecture has all; the others share them
            plan = plans.plan_of(window)
            threads = (plan.row_threads, plan.column_threads)
            found.append(Job(f"waves {window}", waves.FILES, plan.parameters, architecture, *threads))
        for real in ("float", "double"):
            parameters = elementwise.parameters(real)
            found.append(Job(f"elementwise {real}", elementwise.FILES, parameters, architecture))
            found.append(Job(f"steps {real}", steps.FILES, steps.parameters(real), architecture))
            # types of data differ by a conversion: all of them for one architecture
            for data in score.DATA_TYPES if everything or architecture == architectures[0] else ("uint16",):
                given = (score.parameters(real, data), architecture)
                found.append(Job(f"score {real} {data}", score.FILES, *given))
                found.append(Job(f"powers {real} {data}", powers.FILES, *given))
    return found


def compile_one(job: Job) -> tuple[Job, list[Row], str]:
    """The kernels of a job, or what the compiler complains about."""
    import_kernel_modules()
    module = importlib.import_module("pypty.backend.cuda.module")
    kernels = module.KernelModule(job.files, job.parameters)
    nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
    program = nvrtc.createProgram(kernels.source, job.label, (), ())
    error = ""
    try:
        nvrtc.compileProgram(program, (*cupy_options(kernels.options, job.architecture), REPORT))
    except Exception as problem:  # noqa: BLE001 - the library has no public class of errors
        error = str(problem)
    log = nvrtc.getProgramLog(program)
    rows = [] if error else read_log(log)
    missing = set(kernels.signatures) - {row.kernel for row in rows}
    if not error and missing:
        error = f"nothing is reported about {', '.join(sorted(missing))}"
    return job, rows, f"{error}\n{log}" if error else ""


def cupy_options(options: tuple[str, ...], architecture: str) -> tuple[str, ...]:
    """The options that reach NVRTC when cupy.RawModule compiles for an architecture; tests/test_device_faults.py
    compares."""
    core = importlib.import_module("cupy._core.core")
    # folders of headers; small numbers are flushed to zero; the architecture; and what CuPy's own headers need
    found = (*core.assemble_cupy_compiler_options(options), "-ftz=true", f"-arch=sm_{architecture}")
    return (*found, "--device-as-default-execution-space")


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
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["all"]):
        say(__doc__)
        return 2
    start, failures = time.time(), []
    import_kernel_modules()
    traffic = importlib.import_module("pypty.backend.cuda.waves").wave_bytes
    say(
        f"{'sm':>4} {'source':20} {'kernel':18} {'registers':>9} {'spilled':>8} {'shared':>7} {'busy':>5} {'bytes':>6}"
    )
    with ProcessPoolExecutor(2) as pool:
        for job, rows, error in pool.map(compile_one, jobs(sys.argv[1].split(","), len(sys.argv) == 3)):
            if error:
                failures.append(f"sm_{job.architecture} {job.label}: {error}")
            for row in rows:
                line = f"{job.architecture:>4} {job.label:20} {row.kernel:18}"
                moved = f"{traffic(row.kernel, 2 / 3, 6):6.1f}" if row.kernel in MAX_REGISTERS else ""
                numbers = f"{row.registers:9d} {row.spilled:8d} {row.shared:7d} {busy(job, row):5.0%}"
                say(f"{line} {numbers} {moved}".rstrip())
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
