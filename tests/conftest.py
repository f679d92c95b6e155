"""The CUDA device, for every test that asks for it: an emulated one (cuda/emulator), or a real card.

The variable PYPTY_TEST_DEVICE chooses: "real" for a card, "emulated" for the emulated one, which is then required;
without it, tests on the device are skipped where the emulated one cannot be built.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

sys.path.append(str(Path(__file__).parent / "cuda"))
import emulator

WANTED = os.environ.get("PYPTY_TEST_DEVICE", "")

# the same examples in every run: a green suite stays green; HYPOTHESIS_PROFILE=default looks for new ones
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what takes the device (-m device), and leave out what is marked nightly, unless -m names it."""
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker("device")
    if "nightly" in (config.option.markexpr or ""):
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in set(nightly)]


def _do_not_wait(descriptor: int) -> None:
    """In the place of os.fsync: what is left after a loss of power no test can see; subprocesses do wait."""
    os.fstat(descriptor)  # raises OSError where there is no such file, too


def pytest_configure() -> None:
    """Load the emulated device before any test, or any library, imports CuPy; let no test wait for the disk."""
    os.fsync = _do_not_wait
    if WANTED != "real" and not emulator.why_not() and "cupy" not in sys.modules:
        emulator.load()


@pytest.fixture
def device() -> Iterator[None]:
    """Let backend="gpu" and "auto" find a CUDA device; other tests find CuPy without one."""
    from pypty.backend.array import gpu_status

    if WANTED == "real":
        assert gpu_status().usable, gpu_status().reason
        yield
        return
    if emulator.why_not():
        if WANTED:
            pytest.fail(emulator.why_not(), pytrace=False)
        pytest.skip(emulator.why_not())
    if not emulator.is_loaded():
        pytest.fail(
            "a plugin of pytest imports CuPy before the emulated device is there; leave it out with -p no:..."
        )
    overruns = emulator.overruns()
    with emulator.settings(devices=1):
        assert gpu_status().usable, gpu_status().reason
        yield
        assert emulator.overruns() == overruns, "a kernel wrote beyond the end of an array"


@pytest.fixture
def emulated(device: None) -> ModuleType:
    """The controls of the emulated device: settings, counters, journal."""
    if WANTED == "real":
        pytest.skip("needs counters or settings of the emulated device, not of a card")
    return emulator
