"""The standard workloads of a CUDA device, their arrays, and how they are timed (gpu.py, first_contact.py)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.backend.array import Backend, gpu_status, select, to_host
from pypty.backend.cuda.waves import wave_bytes
from pypty.data.feed import Feed
from pypty.data.sources import ArraySource
from pypty.model.blocks import Variables
from pypty.model.forward import build_model
from pypty.model.options import ModelOptions
from pypty.model.split import columns_in_use
from pypty.objective.noise import LsqSqrt
from pypty.objective.objective import Objective
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

BLOCKS = ("obj", "probe", "positions")
EXECUTORS = ("split", "streamed", "deterministic", "fused", "stages")
CUTOFF = 2 / 3


@dataclass(frozen=True)
class Workload:
    """A scan of ``side`` x ``side`` patterns of ``window`` x ``window`` pixels, ``step`` pixels apart.

    ``count`` leaves out patterns at the end of the scan; 0 = there are side^2.
    """

    name: str
    side: int
    window: int
    slices: int
    modes: int
    step: float = 2.9
    pixel_A: float = 0.15
    voltage_kV: float = 80.0
    count: int = 0

    @property
    def patterns(self) -> int:
        return self.count or self.side**2

    @property
    def wave_pixels(self) -> int:
        return self.patterns * self.modes * self.window**2

    @property
    def grid(self) -> Grid:
        return Grid((self.window, self.window), (self.pixel_A, self.pixel_A), wavelength_A(self.voltage_kV))

    @property
    def columns(self) -> int:
        """Columns of a wave that the split kernels store."""
        return columns_in_use(self.grid.band_mask(CUTOFF))

    @property
    def bytes_per_pixel(self) -> float:
        """What the split kernels read and write, per pixel of a wave: of its columns a part k lies inside the band
        limit, and what all modes share counts a mode's part."""
        counts = {
            "row_forward": self.slices,
            "row_adjoint": self.slices,
            "propagate": 2 * (self.slices - 1),
            **dict.fromkeys(("probe_forward", "detector_forward", "detector_adjoint", "probe_adjoint"), 1),
        }
        used = self.columns / self.window
        kernels = sum(count * wave_bytes(name, used, self.modes) for name, count in counts.items())
        return kernels + 10 / self.modes  # the score: intensity, slope, and a measured value


WORKLOADS = (
    Workload("WSe2, 6 slices, 6 modes", 128, 128, 6, 6),
    Workload("WSe2, 6 slices, 12 modes", 128, 128, 6, 12),
    Workload("WSe2, 6 slices, 1 mode", 128, 128, 6, 1),
    Workload("WSe2, 1 slice, 12 modes", 128, 128, 1, 12),
    Workload("PrScO3, 21 slices, 4 modes", 64, 256, 21, 4, 4.0),
    # the size for which PtyLab publishes its times; 375 pixels are the next window of the split kernels
    Workload("102 patterns of 364, 1 slice, 4 modes", 11, 364, 1, 4, count=102),
    Workload("102 patterns of 364, 4 slices, 4 modes", 11, 364, 4, 4, count=102),
    Workload("102 patterns of 375, 1 slice, 4 modes", 11, 375, 1, 4, count=102),
)
CHECKS = tuple(
    Workload(f"check {n}", 2, n, 2, 2) for n in (64, 96, 100, 125, 128, 192, 240, 256, 320, 384, 500, 512)
)


class Device:
    """The device, and how it is timed."""

    def __init__(self) -> None:
        self.backend = select("gpu", "single")
        self.cupy = self.backend.xp
        self.name = gpu_status().device

    def synchronize(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def seconds(self, task: Callable[[], Any], repeats: int = 7) -> float:
        """Median time of a call, after one that is not counted."""
        task()
        times = []
        for _ in range(repeats):
            self.synchronize()
            start = time.perf_counter()
            task()
            self.synchronize()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def free_bytes(self) -> int:
        self.cupy.get_default_memory_pool().free_all_blocks()
        return int(self.cupy.cuda.runtime.memGetInfo()[0])


def make_variables(work: Workload, backend: Backend) -> tuple[Variables, np.ndarray]:
    """Unknowns on the device, and (N, 2) the crop origins on the host."""
    rng = np.random.default_rng(0)
    along = 4 + work.step * np.arange(work.side)
    positions = np.stack(np.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2)
    positions = positions[: work.patterns] + rng.uniform(-0.4, 0.4, (work.patterns, 2))
    crop_origins = np.round(positions).astype(np.int64)
    size = int(crop_origins.max()) + work.window + 4
    obj = np.exp(0.1j * rng.standard_normal((1, work.slices, size, size)))
    shape = (work.modes, work.window, work.window)
    q2 = work.grid.fx**2 + work.grid.fy**2
    spectrum = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * (q2 < 0.2**2)
    probe = np.fft.ifft2(spectrum)
    variables = Variables(
        obj=backend.asarray(obj.astype(backend.complex)),
        probe=backend.asarray(probe.astype(backend.complex)),
        positions=backend.asarray(positions),
        slice_distances=backend.asarray(np.array([2.0])),
    )
    return variables, crop_origins


def make_data(work: Workload) -> np.ndarray:
    """(N, n, n) uint16 counts: 64 patterns, again and again."""
    some = np.random.default_rng(1).poisson(4, (min(64, work.patterns), work.window, work.window))
    return np.resize(some.astype(np.uint16), (work.patterns, work.window, work.window))


def make_objective(
    executor: str, work: Workload, backend: Backend, crop_origins: np.ndarray, data: np.ndarray, batch: int
) -> Objective:
    """The loss as a reconstruction computes it."""
    asked = executor if executor in ("fused", "stages") else "auto"
    options = ModelOptions(
        grid=work.grid, cutoff=CUTOFF, executor=asked, deterministic=executor == "deterministic"
    )
    model = build_model(options, backend)
    resident = executor != "streamed"
    feed = Feed(
        backend,
        ArraySource(data),
        crop_origins=crop_origins,
        reorder=lambda a: a,
        resident_on_device=resident,
    )
    if resident:
        feed.make_resident()
    return Objective(backend, model, feed, LsqSqrt(), batch)


def evaluate(executor: str, work: Workload, backend: Backend, data: np.ndarray) -> dict[str, np.ndarray]:
    """Loss and gradients of all patterns, on the host."""
    variables, crop_origins = make_variables(work, backend)
    objective = make_objective(executor, work, backend, crop_origins, data, 3)
    found = objective.evaluate(variables, BLOCKS, np.arange(work.patterns))
    return {
        "loss": np.array(found.loss),
        **{name: to_host(array) for name, array in found.gradients.items()},
    }
