"""Which devices ``devices`` names, and what the processes on them see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pypty.backend.array import Backend
from pypty.backend.memory import free_bytes
from pypty.engine.ranks.opening import Crew
from pypty.errors import ParameterError
from pypty.ranks.devices import places


def gpus(number: int) -> Backend:
    runtime = SimpleNamespace(getDeviceCount=lambda: number)
    xp: Any = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    return Backend("gpu", xp, np.dtype(np.float32), np.dtype(np.complex64))


CPU = Backend("cpu", np, np.dtype(np.float32), np.dtype(np.complex64))


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        ("auto", ("",)),
        ("all", (0, 1, 2, 3)),
        (2, (0, 1)),
        ((3, 1), (3, 1)),
        (("GPU-a", "MIG-b"), ("GPU-a", "MIG-b")),
    ],
)
def test_names_on_a_machine_with_four_gpus(devices: Any, names: tuple) -> None:
    assert places(devices, gpus(4)).names == names


def test_a_worker_sees_its_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert places(3, gpus(4)).environments() == [{"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "2"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7,GPU-x")
    assert places("all", gpus(3)).environments() == [
        {"CUDA_VISIBLE_DEVICES": "7"},
        {"CUDA_VISIBLE_DEVICES": "GPU-x"},
    ]
    assert places(("GPU-a", "MIG-b"), gpus(3)).environments() == [{"CUDA_VISIBLE_DEVICES": "MIG-b"}]
    assert places(3, CPU).environments() == [{}, {}]


@pytest.mark.parametrize(
    ("devices", "backend", "message"),
    [
        (3, gpus(2), "3 GPUs are asked for, but this process sees 2"),
        ((0, 4), gpus(2), "5 GPUs are asked for"),
        ((0, 1), CPU, "names GPUs, but the run computes on the CPU"),
    ],
)
def test_devices_that_are_not_there(devices: Any, backend: Backend, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        places(devices, backend)


def test_rank_0_computes_on_the_first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is alone; a UUID must be that of this process already."""
    used: list[int] = []
    backend = gpus(4)
    backend.xp.cuda.Device = lambda number: contextlib.nullcontext(used.append(number))
    for devices in ((3,), (2, 1)):
        with places(devices, backend).first(backend):
            pass
    assert used == [3, 2]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,MIG-b")
    with places(("GPU-a", "MIG-b"), backend).first(backend):
        pass
    with (
        pytest.raises(ParameterError, match="'MIG-b' comes first"),
        places(("MIG-b",), backend).first(backend),
    ):
        pass
    assert used == [3, 2]


def test_memory_is_planned_for_the_device_of_rank_0() -> None:
    """devices=[3]: its free memory, not that of the GPU on which the process began."""
    backend, current = gpus(4), [0]

    @contextlib.contextmanager
    def computing_on(number: int) -> Iterator[None]:
        current.append(number)
        yield
        current.pop()

    backend.xp.cuda.Device = computing_on
    backend.xp.cuda.runtime.memGetInfo = lambda: (1000 + current[-1], 2000)
    backend.xp.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0)
    settings: Any = {"devices": (3,), "rank_timeout_s": 1.0}
    with contextlib.closing(Crew()) as crew:
        assert crew.ranks(settings, backend).size == 1 and free_bytes(backend) == 1003
        assert crew.link(settings, backend) is None and current == [0, 3]
    assert free_bytes(backend) == 1000
