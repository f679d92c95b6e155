"""How much memory is free on the device that computes, and what limits it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from pypty.backend.array import Backend
from pypty.backend.control_groups import left_in_groups

_PROC = Path("/proc")
_LIMITS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "RLIMIT_AS": (
            "VmSize",
            "ulimit -v (h_vmem of SGE)",
            "raise it: ask for a larger h_vmem, or ulimit -v unlimited",
        ),
        "RLIMIT_DATA": (
            "VmData",
            "ulimit -d (h_data of SGE)",
            "raise it: ask for a larger h_data, or ulimit -d unlimited",
        ),
    }
)
"""For each limit of the process: its line in /proc/self/status, its name, and what to do."""
_SLURM = "ask for more memory (sbatch --mem, --mem-per-cpu or --mem-per-gpu)"
_PER_UNIT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "SLURM_MEM_PER_NODE": (),
        "SLURM_MEM_PER_CPU": ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK"),
        "SLURM_MEM_PER_GPU": ("SLURM_GPUS_ON_NODE",),
    }
)
"""What Slurm sets, of which only one at a time, and what it is multiplied with: the first that is given."""
_UNITS: Mapping[str, float] = MappingProxyType({"K": 2**-10, "M": 1, "G": 2**10, "T": 2**20})
"""Endings of sizes, in MiB: variables that were set by hand for sbatch may have them."""


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that can still be allocated.

    Attributes
    ----------
    limited_by : what allows no more, in words
    advice : how to get more of it; "" where that needs another machine
    """

    size: int
    limited_by: str
    advice: str = ""


def _process_limits() -> Iterator[FreeMemory]:
    """What limits of the process (ulimit, SGE) leave; addresses count, used or not."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # Windows
        return
    used = _status()
    for limit, (line, name, advice) in _LIMITS.items():
        soft, _ = resource.getrlimit(getattr(resource, limit))
        if soft != resource.RLIM_INFINITY:
            yield FreeMemory(max(0, soft - used.get(line, 0)), f"{name} = {soft} bytes", advice)


def _slurm_limits(sharers: int) -> Iterator[FreeMemory]:
    """What Slurm leaves of the memory that the job asked for on this node; 0 asks for all of the node's.

    It is the limit of all tasks of the job on the node, so that each of the ``sharers`` may use a part of it.
    """
    used = _status().get("VmRSS", 0)
    for variable, counts in _PER_UNIT.items():
        size_MiB = _slurm_MiB(variable)
        if not size_MiB:
            continue
        name = f"{variable} = {size_MiB:g} MiB"
        if counts:
            count = next((number for number in map(_whole, counts) if number), 1)
            name += f" on {count} {'GPUs' if 'GPU' in variable else 'cores'}"
            size_MiB *= count
        yield FreeMemory(max(0, int(size_MiB * 2**20) // sharers - used), name, _SLURM)


def _slurm_MiB(name: str) -> float:
    """A positive size of the environment in MiB, else 0."""
    text = os.environ.get(name, "").upper()
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS else (text, "M")
    return int(number) * _UNITS[unit] if number.isdecimal() else 0


def _whole(name: str) -> int:
    """A positive whole number of the environment, else 0."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0


def _status() -> dict[str, int]:
    """Sizes of this process in bytes, by their names in /proc/self/status."""
    try:
        lines = (_PROC / "self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return {}
    words = [line.split() for line in lines]
    return {word[0].rstrip(":"): int(word[1]) * 1024 for word in words if len(word) == 3 and word[2] == "kB"}


def _host_free() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # macOS and Windows
        return int(importlib.import_module("psutil").virtual_memory().available)
    except ImportError:
        return (
            4 * 2**30
        )  # a cautious guess: too small a value makes batches smaller, too large a one ends the run


def free_bytes(backend: Backend, sharers: int = 1) -> int:
    """Bytes that can still be allocated on the device of ``backend``; arguments of :func:`free_memory`."""
    return free_memory(backend, sharers).size


def free_memory(backend: Backend, sharers: int = 1) -> FreeMemory:
    """What can still be allocated on the device of ``backend``, and what limits it.

    On the CPU the smallest of: free memory of the machine, the control groups of this process, its own limits (ulimit,
    SGE), and what Slurm was asked for.

    Parameters
    ----------
    sharers : processes of the same run on this machine that use the host's memory alike, and all ask before they
        allocate; the result is the part of one. Memory of a GPU, and limits of a process, are not shared.
    """
    if backend.on_gpu:
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        # The driver counts the blocks that CuPy's pool holds in reserve as used.
        return FreeMemory(
            int(free) + int(backend.xp.get_default_memory_pool().free_bytes()), "the memory of the GPU"
        )
    candidates = [FreeMemory(_host_free() // sharers, "the memory of this machine")]
    group = left_in_groups()
    if group is not None:
        name = "the control group of this process (container or batch system)"
        candidates.append(FreeMemory(group // sharers, name, "start it with more memory"))
    candidates += _slurm_limits(sharers)
    if sharers > 1:
        candidates = [
            replace(free, limited_by=f"{free.limited_by}, shared by {sharers} processes")
            for free in candidates
        ]
    return min([*candidates, *_process_limits()], key=lambda free: free.size)


def total_bytes(backend: Backend) -> int:
    """Size of the GPU's memory; 0 on the CPU, as in PyPty's loss log."""
    return int(backend.xp.cuda.runtime.memGetInfo()[1]) if backend.on_gpu else 0


def release_unused(backend: Backend) -> None:
    """Return cached blocks to the driver (after an out-of-memory only: it is slow)."""
    if backend.on_gpu:
        backend.xp.fft.config.get_plan_cache().clear()
        backend.xp.get_default_memory_pool().free_all_blocks()
        backend.xp.get_default_pinned_memory_pool().free_all_blocks()
