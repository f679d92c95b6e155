"""How much memory is free on the device that computes."""

from __future__ import annotations

import importlib
from pathlib import Path

from pypty.backend.array import Backend, cupy_module


def _cgroup_limit() -> int | None:
    """Bytes still allowed by the control group (containers), or None where there is no limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)


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
        return 4 * 2**30


def free_bytes(backend: Backend) -> int:
    """Bytes that can still be allocated where ``backend`` computes."""
    if backend.on_gpu:
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        return int(free) + int(backend.xp.get_default_memory_pool().free_bytes())
    limit = _cgroup_limit()
    free = _host_free()
    return free if limit is None else min(free, limit)


def total_bytes(backend: Backend) -> int:
    """Size of the GPU's memory; 0 on the CPU, as in PyPty's loss log."""
    return int(backend.xp.cuda.runtime.memGetInfo()[1]) if backend.on_gpu else 0


def out_of_memory_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that mean "it does not fit" on the CPU and, where there is CuPy, on the GPU."""
    cupy = cupy_module()
    if cupy is None:
        return (MemoryError,)
    return (MemoryError, cupy.cuda.memory.OutOfMemoryError)


def release_unused(backend: Backend) -> None:
    """Return cached blocks to the driver (after an out-of-memory only: it is slow)."""
    if backend.on_gpu:
        backend.xp.get_default_memory_pool().free_all_blocks()
