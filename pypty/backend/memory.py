"""How much memory is free on the device that computes."""

from __future__ import annotations

import importlib
from pathlib import Path

from pypty.backend.array import Backend, cupy_module


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
    if backend.on_gpu:
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        # The driver counts the blocks that CuPy's pool holds in reserve as used.
        return int(free) + int(backend.xp.get_default_memory_pool().free_bytes())
    limit = _cgroup_limit()
    free = _host_free()
    return free if limit is None else min(free, limit)


def total_bytes(backend: Backend) -> int:
    """Size of the GPU's memory; 0 on the CPU, as in PyPty's loss log."""
    return int(backend.xp.cuda.runtime.memGetInfo()[1]) if backend.on_gpu else 0


def out_of_memory_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that mean "it does not fit" on the CPU and, where there is CuPy, on the GPU.

    An FFT plan whose work area does not fit raises a separate error.
    """
    cupy = cupy_module()
    if cupy is None:
        return (MemoryError,)
    cufft = getattr(getattr(cupy.cuda, "cufft", None), "CuFFTError", MemoryError)
    return (MemoryError, cupy.cuda.memory.OutOfMemoryError, cufft)


def release_unused(backend: Backend) -> None:
    """Return cached blocks to the driver (after an out-of-memory only: it is slow)."""
    if backend.on_gpu:
        backend.xp.fft.config.get_plan_cache().clear()
        backend.xp.get_default_memory_pool().free_all_blocks()
