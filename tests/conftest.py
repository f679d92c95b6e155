"""The stand-in for a CUDA device (fake_device.py), for every test that asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import fake_device
import hypothesis
import numpy as np
import pytest
import scipy.fft

from pypty.backend import array, fft
from pypty.backend.array import Backend
from pypty.backend.cuda import module
from pypty.backend.cuda.elementwise import element_kernels
from pypty.backend.cuda.score import score_kernels

# the same examples in every run: a green suite stays green; HYPOTHESIS_PROFILE=default looks for new ones
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked nightly, unless -m names it."""
    if "nightly" in (config.option.markexpr or ""):
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if item not in set(nightly)]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let backend="gpu" give the stand-in."""
    if fake_device.NOT_USABLE:
        pytest.skip(fake_device.NOT_USABLE)
    caches = (module._compile_for_device, element_kernels, score_kernels)
    real_library = fft._library
    on_device = fake_device.Library(scipy.fft)
    monkeypatch.setattr(
        fft, "_library", lambda a: real_library(a) if isinstance(a, np.ndarray) else on_device
    )
    for name, stand_in in fake_device.MODULES.items():
        monkeypatch.setitem(sys.modules, name, stand_in)

    def select(name: str = "auto", precision: str = "double", fft_library: str = "auto") -> Backend:
        real, complex_ = array.PRECISIONS[precision]
        if name == "cpu":
            return Backend("cpu", np, real, complex_)
        return Backend("gpu", fake_device, real, complex_)

    monkeypatch.setattr("pypty.engine.setup.precision.select", select)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
