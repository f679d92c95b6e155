"""Loads the emulated device, and gives tests its settings, counters and journal."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any

from emulator.build import build

COUNTERS = (
    "launches",
    "graph_launches",
    "captured",
    "copies",
    "waits",
    "allocations",
    "frees",
    "plans",
    "transforms",
    "products",
    "bytes",
    "most_bytes",
    "notes",
)
"""In the order of src/emulator.h, where they are explained."""

SETTINGS = (
    "devices",
    "late",
    "order",
    "memory",
    "fail_malloc",
    "fail_pinned",
    "fail_plan",
    "fail_launch",
    "fail_times",
    "journal",
    "trace",
)
"""In the order of src/emulator.h, where they are explained; EMULATOR_TRACE=2, ... in the environment set their first
values."""


class _Device:
    """The emulated libraries, loaded."""

    def __init__(self) -> None:
        if "cupy" in sys.modules or "cupy_backends" in sys.modules:
            raise RuntimeError(
                "CuPy was imported before the emulated device was loaded: import it inside the tests that use it"
            )
        built = build()
        os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # compiled kernels are kept in the folder of the build
        os.environ["CUPY_ACCELERATORS"] = ""  # CUB is compiled for real devices
        mode = os.RTLD_NOW | os.RTLD_GLOBAL
        libraries = {name: ctypes.CDLL(str(path), mode=mode) for name, path in built.libraries.items()}
        libraries["nvrtc"].emulator_compile_with(built.command.encode(), str(built.kernels).encode())
        self.library = libraries["driver"]
        self.library.emulator_journal.restype = ctypes.c_char_p
        self.library.emulator_overruns.restype = ctypes.c_long
        self.counters = (ctypes.c_long * len(COUNTERS)).in_dll(self.library, "emulator_counters")
        self.settings = (ctypes.c_long * len(SETTINGS)).in_dll(self.library, "emulator_settings")
        self.journals: list[Journal] = []
        self._redirect(built.functions)

    def _redirect(self, functions: dict[str, int]) -> None:
        """Let the CUDA runtime inside CuPy jump to the emulated one."""
        import cupy_backends.cuda.api.runtime as runtime

        redirect = self.library.emulator_redirect
        redirect.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p)
        for name, offset in functions.items():
            target = ctypes.cast(self.library[f"emulated_{name}"], ctypes.c_void_p)
            if not redirect(runtime.__file__.encode(), offset, target):
                raise RuntimeError(f"cannot redirect {name} in {runtime.__file__}")


@cache
def _device() -> _Device:
    return _Device()


def load() -> None:
    """Build what is missing, and load it; there is no device until ``settings(devices=1)``."""
    if is_loaded():
        return
    device = _device()
    for number, name in enumerate(SETTINGS):
        value = os.environ.get(f"EMULATOR_{name.upper()}")
        if value is not None:
            device.settings[number] = int(value)
    from emulator.on_host import replace

    replace()


def is_loaded() -> bool:
    return _device.cache_info().currsize > 0


def counters() -> SimpleNamespace:
    """What has happened so far."""
    return SimpleNamespace(**dict(zip(COUNTERS, _device().counters, strict=True)))


@contextmanager
def counted() -> Iterator[SimpleNamespace]:
    """What happens inside; complete at the end."""
    before, found = counters(), SimpleNamespace()
    yield found
    after = counters()
    for name in COUNTERS:
        setattr(found, name, getattr(after, name) - getattr(before, name))


@contextmanager
def settings(**values: int) -> Iterator[None]:
    """Change settings for a while."""
    present = _device().settings
    before = list(present)
    for name, value in values.items():
        present[SETTINGS.index(name)] = int(value)
    _forget_devices()
    try:
        yield
    finally:
        present[:] = before
        _forget_devices()


def _forget_devices() -> None:
    """Let CuPy look again whether there is one, which it does only once."""
    import cupy

    cupy.cuda._available = None


class Journal(list[str]):
    """Entries; brings itself up to now whenever somebody looks."""

    def __len__(self) -> int:
        self.read()
        return super().__len__()

    def __iter__(self) -> Iterator[str]:
        self.read()
        return super().__iter__()

    def __getitem__(self, key: Any) -> Any:
        self.read()
        return super().__getitem__(key)

    def __contains__(self, entry: object) -> bool:
        self.read()
        return super().__contains__(entry)

    def count(self, entry: str) -> int:
        self.read()
        return super().count(entry)

    @staticmethod
    def read() -> None:
        """Give what has happened since the last time to the journals that are open."""
        entries = _device().library.emulator_journal().decode().splitlines()
        for open_journal in _device().journals:
            open_journal.extend(entries)


@contextmanager
def journal() -> Iterator[list[str]]:
    """What happens inside, in its order.

    "copy": to the device, on a stream that has had no kernels; "upload": on any other; "host reads"; "host waits for
    an event" or "for a stream"; "capture"; "launch" (of a graph); "record N"; "wait N" (a stream for the N-th event).
    """
    entries = Journal()
    with settings(journal=1):
        Journal.read()
        _device().journals.append(entries)
        try:
            yield entries
        finally:
            Journal.read()
            _device().journals.pop()


def overruns() -> int:
    """How many allocations something wrote beyond (those of CuPy's pool are multiples of 512 bytes)."""
    return int(_device().library.emulator_overruns())


def forget_kept_memory() -> None:
    """Empty CuPy's pools: the next allocations are those of the device, full of NaN."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
