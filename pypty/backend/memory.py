"""How much memory is free on the device that computes, and what limits it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pypty.backend.array import Backend

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
_SLURM = "ask for more memory (sbatch --mem or --mem-per-cpu)"


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


def _slurm_limits() -> Iterator[FreeMemory]:
    """What Slurm leaves of the memory that the job asked for, in MiB; 0 asks for all of the node's."""
    per_node, per_cpu = _whole("SLURM_MEM_PER_NODE"), _whole("SLURM_MEM_PER_CPU")
    cores = _whole("SLURM_CPUS_ON_NODE") or _whole("SLURM_CPUS_PER_TASK") or 1
    used = _status().get("VmRSS", 0)
    if per_node:
        yield FreeMemory(max(0, per_node * 2**20 - used), f"SLURM_MEM_PER_NODE = {per_node} MiB", _SLURM)
    if per_cpu:
        name = f"SLURM_MEM_PER_CPU = {per_cpu} MiB on {cores} cores"
        yield FreeMemory(max(0, per_cpu * cores * 2**20 - used), name, _SLURM)


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


def _cgroup_limit() -> int | None:
    """Bytes still allowed by the control groups of this process (containers, batch systems); None without a limit.

    Reads versions 1 and 2 of control groups, for the group of the process and all groups above it.
    """
    left = [_left_in_group(folder) for folder in _cgroup_folders()]
    return min((size for size in left if size is not None), default=None)


def _cgroup_folders() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        # "hierarchy:controllers:path"; version 2 names no controllers
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        here = root / path.lstrip("/")
        folders += [folder for folder in (here, *here.parents) if folder == root or root in folder.parents]
    return folders


def _left_in_group(folder: Path) -> int | None:
    for limit_name, used_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_name).read_text().strip()
            used = int((folder / used_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max" and int(limit) < 2**60:  # version 1 writes a huge number for "no limit"
            # Cached file pages count as used, but the kernel frees them when memory is needed.
            return max(0, int(limit) - used + int(stat.get(cache_name, 0)))
    return None


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


def free_bytes(backend: Backend) -> int:
    """Bytes that can still be allocated on the device of ``backend``."""
    return free_memory(backend).size


def free_memory(backend: Backend) -> FreeMemory:
    """What can still be allocated on the device of ``backend``, and what limits it.

    On the CPU the smallest of: free memory of the machine, the control groups of this process, its own limits (ulimit,
    SGE), and what Slurm was asked for.
    """
    if backend.on_gpu:
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        # The driver counts the blocks that CuPy's pool holds in reserve as used.
        return FreeMemory(
            int(free) + int(backend.xp.get_default_memory_pool().free_bytes()), "the memory of the GPU"
        )
    candidates = [FreeMemory(_host_free(), "the memory of this machine")]
    group = _cgroup_limit()
    if group is not None:
        name = "the control group of this process (container or batch system)"
        candidates.append(FreeMemory(group, name, "start it with more memory"))
    candidates += [*_process_limits(), *_slurm_limits()]
    return min(candidates, key=lambda free: free.size)


def total_bytes(backend: Backend) -> int:
    """Size of the GPU's memory; 0 on the CPU, as in PyPty's loss log."""
    return int(backend.xp.cuda.runtime.memGetInfo()[1]) if backend.on_gpu else 0


def release_unused(backend: Backend) -> None:
    """Return cached blocks to the driver (after an out-of-memory only: it is slow)."""
    if backend.on_gpu:
        backend.xp.fft.config.get_plan_cache().clear()
        backend.xp.get_default_memory_pool().free_all_blocks()
        backend.xp.get_default_pinned_memory_pool().free_all_blocks()
