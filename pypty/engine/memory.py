"""How much memory a reconstruction takes, written down, and the batch size that follows."""

from __future__ import annotations

from dataclasses import dataclass, field

from pypty.backend.array import Backend, available_cores, select
from pypty.backend.memory import free_bytes
from pypty.errors import ResourceError
from pypty.model.forward import TILT_MODES
from pypty.model.stages import INTEGRATORS
from pypty.params.effects import has_tilts
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

_GIB = 2**30
CPU_BATCH_BYTES = 6 * 2**20
"""On the CPU a batch is kept about as small as the caches: larger ones are slower (benchmarks/README.md)."""
GPU_BATCH_LIMIT = 1024
_TEMPORARY_VECTORS = 6
"""Copies of the refined blocks in one iteration: point, trial, gradient, trial gradient, direction, scratch."""


@dataclass(frozen=True)
class Steps:
    """Waves that are kept for the way back, besides those of plain multislice.

    Attributes
    ----------
    probe : of the shape of the probe (P), from effects before the specimen
    exit : of the shape of an exit wave (P O), from effects after the specimen
    exit_per_slice : the same for every slice, from fractional steps
    """

    probe: int = 0
    exit: int = 0
    exit_per_slice: int = 0


def extra_steps(settings: Settings) -> Steps:
    """What the effects that the parameters ask for keep."""
    before, within, after = TILT_MODES[settings["tilt_mode"]] if has_tilts(settings) else (False,) * 3
    probe = 2 * before + 2 * (settings["aberration_marker"] is not None)
    probe += 2 * (settings["phase_plate_in_h5"] is not None) + (settings["probe_marker"] is not None)
    near = settings["recon_type"] == "near_field"
    fractional = max(
        sum(len(steps) + 1 for _, steps in INTEGRATORS[name]) if name in INTEGRATORS else 0
        for name in _ever_chosen(settings)
    )
    return Steps(probe, 2 * after + 2 * near + within, fractional)


def shared_bytes(settings: Settings, window: tuple[int, int]) -> int:
    """What effects keep for all batches together: the transfer function of every group of aberrations with its phases
    and basis, virtual detectors (twice: as they came, and on the device), and the matrices of the detector blur."""
    pixels = window[0] * window[1]
    total = 0
    if settings["aberration_marker"] is not None:
        groups, terms = settings["aberrations_array"].shape
        total += pixels * (8 * 3 * terms + (16 + 16 + 16) * groups)
    if settings["masks"] is not None:
        total += 2 * settings["masks"].nbytes
    if settings["detector_blur_std"] > 0:
        total += 8 * 4 * (window[0] ** 2 + window[1] ** 2)
    return int(total)


def _ever_chosen(settings: Settings) -> tuple[str, ...]:
    """Values of ``propmethod`` that some epoch may have."""
    schedule = settings.schedules["propmethod"]
    return (schedule.value,) if isinstance(schedule, Constant) else ("multislice", *INTEGRATORS)


@dataclass(frozen=True)
class Sizes:
    """Everything the estimate depends on."""

    n_patterns: int
    window: tuple[int, int]
    probe_modes: int
    object_modes: int
    slices: int
    object_shape: tuple[int, int]
    data_bytes: int
    subscans: int = 1
    shared_bytes: int = 0
    steps: Steps = Steps()


@dataclass(frozen=True)
class MemoryPlan:
    """The estimate. Printing it gives a table.

    Attributes
    ----------
    batch : patterns computed together by one thread
    n_threads : batches at the same time
    resident : patterns are kept in memory
    items : bytes by purpose
    free : bytes that can be allocated now
    limit : bytes that may be used: free x memory_saturation
    """

    device: str
    batch: int
    n_threads: int
    resident: bool
    free: int
    limit: int
    sizes: Sizes
    items: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.items.values())

    def __str__(self) -> str:
        s = self.sizes
        lines = [
            f"Memory plan for {self.device}: {s.n_patterns} patterns, window {s.window[0]} x {s.window[1]}, "
            f"object {s.object_shape[0]} x {s.object_shape[1]} x {s.slices} slices, "
            f"{s.probe_modes} probe x {s.object_modes} object modes"
        ]
        lines += [f"  {name:<42}{_size_text(size):>12}" for name, size in self.items.items() if size]
        lines.append(f"  {'total':<42}{_size_text(self.total):>12}")
        lines.append(f"  {'free now':<42}{_size_text(self.free):>12}")
        threads = f" on each of {self.n_threads} threads" if self.n_threads > 1 else ""
        lines.append(
            f"  batch: {self.batch} patterns{threads}; data "
            + ("kept in memory" if self.resident else "read when needed")
        )
        return "\n".join(lines)

    __repr__ = __str__


def _size_text(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"


def wave_bytes_per_pattern(sizes: Sizes, backend: Backend) -> int:
    """Peak bytes that one pattern needs in a batch, forward and adjoint.

    Complex, per window pixel: shifted probe (P) and its ramp (1); object windows and their gradients (2 S O);
    the wave entering every slice (S P O); wave, gradient, product and FFT workspace (4 P O). Real: model, data,
    loss, slope, errors and scratch (6). What further effects keep is in ``sizes.steps``.
    """
    modes = sizes.probe_modes * sizes.object_modes
    complex_count = (
        sizes.probe_modes + 1 + 2 * sizes.slices * sizes.object_modes + sizes.slices * modes + 4 * modes
    )
    steps = sizes.steps
    complex_count += (
        steps.probe * sizes.probe_modes + (steps.exit + sizes.slices * steps.exit_per_slice) * modes
    )
    per_pixel = complex_count * backend.complex.itemsize + 6 * backend.real.itemsize
    return per_pixel * sizes.window[0] * sizes.window[1]


def make_plan(settings: Settings, backend: Backend, sizes: Sizes) -> MemoryPlan:
    """Estimate, and choose the batch.

    Raises
    ------
    ResourceError
        Not even one pattern at a time fits.
    """
    free = free_bytes(backend)
    limit = int(free * settings["memory_saturation"])
    n_threads = 1 if backend.on_gpu else min(settings["n_threads"] or available_cores(), sizes.n_patterns)
    history = min(float(settings.first()["hist_length"]), float(settings["epoch_max"]), 1000.0)
    items = _fixed_items(sizes, backend, int(history), n_threads)
    per_pattern = wave_bytes_per_pattern(sizes, backend)
    fixed = sum(items.values())
    if fixed + per_pattern > limit:
        raise ResourceError(
            f"the reconstruction needs at least {_size_text(fixed + per_pattern)} (object {sizes.object_shape[0]} x "
            f"{sizes.object_shape[1]} x {sizes.slices} slices x {sizes.object_modes} modes, {int(history)} L-BFGS "
            f"pairs), but only {_size_text(limit)} may be used ({_size_text(free)} free x memory_saturation). "
            f"{_rim_text(settings)}Are positions in pixels? Else lower hist_length, use default_dtype='single', or "
            "fewer slices"
        )
    n_threads = max(1, min(n_threads, (limit - fixed) // per_pattern))
    # Prepared patterns are kept on the host; on the CPU that is the memory that everything else needs, too.
    host_left = limit - fixed - n_threads * per_pattern
    if backend.on_gpu:
        host_left = int(free_bytes(select("cpu")) * settings["memory_saturation"])
    resident = _keep_data(settings, sizes, host_left)
    if resident and not backend.on_gpu:
        items["measured patterns"] = sizes.data_bytes
    batch = _batch_size(settings, backend, sizes, (limit - sum(items.values())) // n_threads)
    items["waves and FFT workspace of the batches"] = n_threads * batch * per_pattern
    name = "the GPU" if backend.on_gpu else "the CPU"
    return MemoryPlan(name, batch, n_threads, resident, free, limit, sizes, items)


def _rim_text(settings: Settings) -> str:
    rim = settings["extra_space_on_side_px"]
    return f"The object has a rim of extra_space_on_side_px = {rim}. " if rim else ""


def _fixed_items(sizes: Sizes, backend: Backend, history: int, n_threads: int) -> dict[str, int]:
    c = backend.complex.itemsize
    pixels = sizes.object_shape[0] * sizes.object_shape[1] * sizes.slices * sizes.object_modes
    window = sizes.window[0] * sizes.window[1]
    obj, probe = c * pixels, c * window * sizes.probe_modes * sizes.subscans
    return {
        "object, its gradients and directions": obj * (_TEMPORARY_VECTORS + n_threads),
        "probe, its gradients and directions": probe * (_TEMPORARY_VECTORS + n_threads),
        "propagators": c * window * max(sizes.slices - 1, 0),
        "aberrations, virtual detectors, blur": sizes.shared_bytes,
        "L-BFGS history": 2 * history * (obj + probe),
    }


def _keep_data(settings: Settings, sizes: Sizes, available: int) -> bool:
    must = settings["preload_to_cpu"] or not settings["load_one_by_one"]
    if must and sizes.data_bytes > available:
        raise ResourceError(
            f"load_one_by_one=False asks for all patterns in memory ({_size_text(sizes.data_bytes)}), "
            f"but only {_size_text(max(available, 0))} are left for them; set it to True"
        )
    return bool(must or sizes.data_bytes <= available // 2)


def _batch_size(settings: Settings, backend: Backend, sizes: Sizes, available: int) -> int:
    if settings["compute_batch"] != "auto":
        return min(int(settings["compute_batch"]), sizes.n_patterns)
    per_pattern = wave_bytes_per_pattern(sizes, backend)
    cap = GPU_BATCH_LIMIT if backend.on_gpu else max(1, CPU_BATCH_BYTES // per_pattern)
    return max(1, min(sizes.n_patterns, cap, available // per_pattern))
