"""Which devices, or processes, the parameter ``devices`` names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pypty.backend.array import Backend, cupy_module
from pypty.errors import ParameterError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Places:
    """Where the ranks of a run compute: rank 0 first.

    Attributes
    ----------
    names : numbers or UUIDs of GPUs, or "" for processes on the CPU
    """

    names: tuple[int | str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def environments(self) -> list[dict[str, str]]:
        """What the environment of each worker process must have, so that it sees its device only."""
        return [{} if name == "" else {_VISIBLE: _visible(name)} for name in self.names[1:]]

    @contextlib.contextmanager
    def first(self, backend: Backend) -> Iterator[None]:
        """While the block runs, this process computes on the first device."""
        name = self.names[0]
        if not backend.on_gpu or name in ("", os.environ.get(_VISIBLE, "").split(",")[0]):
            yield
            return
        if isinstance(name, str):
            raise ParameterError(
                f"devices: {name!r} comes first, but rank 0 computes in this process, which began on another GPU; "
                f"name it by its number, or set {_VISIBLE}={name} before Python is started"
            )
        with backend.xp.cuda.Device(name):
            yield


@contextlib.contextmanager
def own_device(local_rank: int) -> Iterator[None]:
    """While the block runs, a rank computes on the GPU of its number on its machine, if it sees several.

    Where a launcher gives every rank a GPU (``srun --gpus-per-task``) it sees only that one.
    """
    cupy = cupy_module()
    there = 0 if cupy is None or not cupy.is_available() else int(cupy.cuda.runtime.getDeviceCount())
    with cupy.cuda.Device(local_rank % there) if there > 1 else contextlib.nullcontext():
        yield


def places(devices: str | int | Sequence[int | str], backend: Backend) -> Places:
    """The devices that a run uses.

    Parameters
    ----------
    devices : "auto" (the one of this process), "all", a number of GPUs or (on the CPU) of processes, or a list of
        numbers or UUIDs of GPUs

    Raises
    ------
    ParameterError
        There are not so many devices, or a list is given for the CPU.
    """
    if devices == "auto":
        return Places(("",))
    if not backend.on_gpu:
        return Places(("",) * _processes(devices))
    there = _number_of_gpus(backend)
    if isinstance(devices, (str, int)):
        number = there if devices == "all" else int(devices)
        _check_number(number, there)
        return Places(tuple(range(number)))
    for name in devices:
        if isinstance(name, int):
            _check_number(name + 1, there)
    if len(set(devices)) < len(devices):
        raise ParameterError(f"devices = {list(devices)} names a GPU twice; each rank needs its own")
    return Places(tuple(devices))


def _processes(devices: str | int | Sequence[int | str]) -> int:
    if devices == "all":
        return 1  # threads use all cores already
    if not isinstance(devices, int):
        raise ParameterError(
            f"devices = {devices!r} names GPUs, but the run computes on the CPU; give a number of processes, or 'auto'"
        )
    return devices


def _number_of_gpus(backend: Backend) -> int:
    return int(backend.xp.cuda.runtime.getDeviceCount())


def _check_number(number: int, there: int) -> None:
    if number > there:
        raise ParameterError(
            f"devices: {number} GPUs are asked for, but this process sees {there} (nvidia-smi -L lists them, "
            f"{_VISIBLE} may hide some)"
        )


def _visible(name: int | str) -> str:
    """The name of a GPU for a new process, if this one sees only some of them."""
    seen = [part for part in os.environ.get(_VISIBLE, "").split(",") if part]
    return seen[name] if seen and isinstance(name, int) else str(name)
