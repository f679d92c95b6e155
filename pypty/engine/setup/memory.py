"""Estimates the memory of a reconstruction, and chooses the batch size."""

from __future__ import annotations

import math

from pypty.backend.array import Backend, available_cores, select
from pypty.backend.fft import work_bytes
from pypty.backend.memory import free_bytes, free_memory
from pypty.engine.setup.memory_plan import KeptWaves, MemoryPlan, Sizes, size_text
from pypty.engine.setup.start import present_blocks
from pypty.errors import ResourceError
from pypty.model.blocks import BLOCKS
from pypty.model.options import TILT_MODES
from pypty.model.stages import INTEGRATORS
from pypty.optimize.methods import METHODS
from pypty.params.checks.combinations import optimizers
from pypty.params.checks.effects import has_tilts
from pypty.params.checks.model import mode_weights
from pypty.params.schedule import Constant
from pypty.params.schema.batches import NOT_FIRST_ORDER
from pypty.params.settings import Settings

CPU_BATCH_BYTES = 6 * 2**20
"""On the CPU a batch should about fit into the caches; larger ones are slower (benchmarks/README.md)."""
GPU_BATCH_LIMIT = 1024
GPU_ENOUGH = 32
"""Number of patterns that keep a GPU busy; waves are recomputed only if fewer fit."""
_VECTORS = 5
"""Copies of object and probe that exist at the same time: point, gradient, direction, trial, and the projected gradient
of the trial."""


def kept_waves(settings: Settings) -> KeptWaves:
    """Waves kept by the effects that the parameters switch on; tests/test_memory.py measures them."""
    before, _, after = TILT_MODES[settings["tilt_mode"]] if has_tilts(settings) else (False,) * 3
    plates, groups = settings["phase_plate_in_h5"] is not None, settings["aberration_marker"] is not None
    near = settings["recon_type"] == "near_field"
    fractional = max(_waves_of(name) for name in ever_chosen(settings))
    return KeptWaves(
        probe=2 * (before + groups + plates) + (settings["probe_marker"] is not None),
        exit=after + 3 * near,
        single=6 * (fractional > 0),
        exit_per_slice=fractional,
        real=sum(BLOCKS[name].kept for name in present_blocks(settings))
        + (settings["simu_Npix"] is not None)
        + 2 * (mode_weights(settings) is not None),
        windows=int(settings["obj_preblur_std"] > 0),
    )


def _waves_of(propmethod: str) -> int:
    """Waves that an integrator keeps for each slice, besides that of plain multislice: one for each transmission step,
    and one less if there is a single branch."""
    branches = INTEGRATORS.get(propmethod, ())
    steps = sum(kind == "T" for _, branch in branches for kind, _ in branch)
    return steps - 1 if len(branches) == 1 else steps


def shared_bytes(settings: Settings, window: tuple[int, int]) -> int:
    """Bytes that effects keep for all batches together: the transfer function of every group of aberrations with its
    phases and basis, virtual detectors (twice: on the host and on the device), and the matrices of the detector
    blur."""
    pixels = window[0] * window[1]
    total = 0
    if settings["aberration_marker"] is not None:
        groups, terms = settings["aberrations_array"].shape
        total += pixels * (8 * 3 * terms + (16 + 16 + 16) * groups)
    if settings["masks"] is not None:
        total += 2 * settings["masks"].nbytes
    if settings["detector_blur_std"] > 0 or settings["simu_Npix"] is not None:
        total += 8 * 4 * (window[0] ** 2 + window[1] ** 2)
    return int(total)


def ever_chosen(settings: Settings) -> tuple[str, ...]:
    """All values of ``propmethod`` that an epoch may use."""
    schedule = settings.schedules["propmethod"]
    return (schedule.value,) if isinstance(schedule, Constant) else ("multislice", *INTEGRATORS)


def wave_bytes_per_pattern(sizes: Sizes, backend: Backend, keep_every: int = 1) -> int:
    """Bytes that one pattern needs in a batch, forward and adjoint, besides its measured values."""
    if sizes.executor == "stages":
        count = _staged_count(sizes)
    elif backend.on_gpu:
        count = _device_count(sizes, keep_every)
    else:
        count = _fused_count(sizes, keep_every)
    pixels = sizes.window[0] * sizes.window[1]
    real = (2 + sizes.kept.real) * pixels + 4 * sizes.compared  # intensities; data, errors, loss, slope
    return (
        count * backend.complex.itemsize * pixels + real * backend.real.itemsize + _work_areas(sizes, backend)
    )


def _work_areas(sizes: Sizes, backend: Backend) -> int:
    """Bytes of cuFFT's work areas for one pattern; none on the CPU, nor for split kernels.

    There is a plan with a work area for each shape: that of the exit wave (P O) and that of the probe (P), if they
    differ, with the patches (S O) if they are filtered. They are counted twice: for a full batch, and for the last one,
    which may be almost as large.
    """
    if not backend.on_gpu or sizes.executor == "split":
        return 0
    windows = sizes.probe_modes * sizes.object_modes
    windows += sizes.probe_modes if sizes.object_modes > 1 else 0
    windows += sizes.slices * sizes.object_modes if sizes.filtered else 0
    return 2 * windows * work_bytes(backend.xp, sizes.window, backend.complex)


def _fused_count(sizes: Sizes, keep_every: int) -> int:
    """Complex numbers per window pixel: the buffers of model/fused.py.

    Patches and their gradients (2 S O); ramp and slope (2); the shifted probe (P), the kept waves and those of
    one block between them (P O each); exit wave (P O), its squared parts summed over modes (1), a product (O), sums
    over object modes (P), spectra (P O).
    """
    modes, slices = sizes.probe_modes * sizes.object_modes, sizes.slices
    # waves at the start of each block (but the first is the shifted probe), and those inside one block
    kept = -(-slices // keep_every) - 1 + min(keep_every, slices) - 1
    count = 2 * slices * sizes.object_modes + 2 + sizes.probe_modes + kept * modes + modes + 1
    count += sizes.object_modes if sizes.probe_modes > 1 else 0
    count += sizes.probe_modes if sizes.object_modes > 1 else 0
    return count + (modes if sizes.spectra and slices > 1 else 0)


def _device_count(sizes: Sizes, keep_every: int) -> int:
    """The same on a GPU, where neither patches nor their gradients are stored (backend/cuda).

    The shifted probe (P), the kept waves and those of one block between them (P O each) and the exit wave (P O). With
    split kernels sums of the probe gradient (P/8); fused, spectra (P O) and sums over object modes (P). Sums in fixed
    point take a patch for each object mode (O).
    """
    modes = sizes.probe_modes * sizes.object_modes
    fixed_point = sizes.object_modes if sizes.deterministic else 0
    # waves at the start of each block but the first, and those inside one block
    kept = -(-sizes.slices // keep_every) - 1 + min(keep_every, sizes.slices) - 1
    count = sizes.probe_modes + (kept + 1) * modes + fixed_point
    if sizes.executor == "split":
        return count + -(-sizes.probe_modes // 8)
    count += sizes.probe_modes if sizes.object_modes > 1 else 0
    return count + (modes if sizes.spectra and sizes.slices > 1 else 0)


def _staged_count(sizes: Sizes) -> int:
    """Complex numbers per window pixel of the executor "stages".

    Shifted probe (P) and its ramp (1); patches and their gradients (2 S O); the wave entering every slice
    (S P O); wave and gradient (2 P O); waves that further effects keep.
    """
    modes, kept = sizes.probe_modes * sizes.object_modes, sizes.kept
    count = sizes.probe_modes + 1 + 2 * sizes.slices * sizes.object_modes + sizes.slices * modes + 2 * modes
    count += (
        kept.single + kept.probe * sizes.probe_modes + kept.windows * (sizes.slices + 4) * sizes.object_modes
    )
    return count + (kept.exit + sizes.slices * kept.exit_per_slice) * modes


def make_plan(
    settings: Settings, backend: Backend, sizes: Sizes, earlier: MemoryPlan | None = None
) -> MemoryPlan:
    """Estimate the memory, and choose the batch.

    Parameters
    ----------
    earlier : the plan by which patterns are in memory already: the new plan need not find room for them

    Raises
    ------
    ResourceError
        Not even one pattern at a time fits.
    """
    host_data, device_data = _resident_bytes(earlier)
    free = free_bytes(backend) + (device_data if backend.on_gpu else host_data)
    limit = int(free * settings["memory_saturation"])
    n_threads = 1 if backend.on_gpu else min(settings["n_threads"] or available_cores(), sizes.n_patterns)
    epochs = settings["epoch_max"] - settings["epoch_prev"]
    epochs -= 0 if settings["warmup_epochs"] == "auto" else int(settings["warmup_epochs"])
    # L-BFGS cannot have more pairs than epochs
    history = int(min(float(settings.first()["hist_length"]), float(max(epochs, 1)), 1000.0))
    used = optimizers(settings)
    items = _fixed_items(
        sizes, backend, history if "lbfgs" in used else 0, n_threads, _moments(settings, used)
    )
    # the slowest choice needs the least memory
    least = _kept_slices(settings, sizes)[-1]
    per_pattern = wave_bytes_per_pattern(sizes, backend, least)
    fixed = sum(items.values())
    if fixed + per_pattern > limit:
        what = (
            f"the reconstruction needs at least {size_text(fixed + per_pattern)} (object {sizes.object_shape[0]} x "
            f"{sizes.object_shape[1]} x {sizes.slices} slices x {sizes.object_modes} modes, {history} L-BFGS pairs)"
        )
        raise ResourceError(
            f"{what}, but only {size_text(limit)} may be used ({size_text(free)} free x memory_saturation). "
            f"{_limit_text(backend)}{_advice(settings, backend, earlier)}"
        )
    n_threads = max(1, min(n_threads, (limit - fixed) // per_pattern))
    # prepared patterns are kept on the host; without a GPU they share that memory with everything else
    host_left = limit - fixed - n_threads * per_pattern
    if backend.on_gpu:
        host_left = int((free_bytes(select("cpu")) + host_data) * settings["memory_saturation"])
    resident = _keep_data(settings, sizes, host_left)
    if resident and not backend.on_gpu:
        items["measured patterns"] = sizes.data_bytes
    batch, keep_every = _batch_size(settings, backend, sizes, (limit - sum(items.values())) // n_threads)
    waves = n_threads * batch * wave_bytes_per_pattern(sizes, backend, keep_every)
    items["waves and FFT workspace of the batches"] = waves
    on_device = backend.on_gpu and 0 < sizes.data_bytes <= limit - sum(items.values())
    if on_device:
        items["measured patterns"] = sizes.data_bytes
    elif not resident or backend.on_gpu:  # two batches of each thread are being read
        pattern = -(-sizes.data_bytes // max(sizes.n_patterns, 1))
        items["patterns read ahead"] = 2 * n_threads * batch * pattern
    name = "the GPU" if backend.on_gpu else "the CPU"
    return MemoryPlan(
        device=name,
        precision=backend.precision,
        batch=batch,
        n_threads=n_threads,
        resident=resident,
        free=free,
        limit=limit,
        sizes=sizes,
        keep_every=keep_every,
        resident_on_device=on_device,
        limited_by=free_memory(backend).limited_by,
        items=items,
    )


def _kept_slices(settings: Settings, sizes: Sizes) -> tuple[int, ...]:
    """Values of ``keep_every`` to choose from, fastest first: 1, or sqrt(S), which keeps the fewest waves."""
    root = math.ceil(math.sqrt(sizes.slices))
    if sizes.executor == "stages" or root < 2 or settings["recompute_slices"] is False:
        return (1,)
    return (root,) if settings["recompute_slices"] is True else (1, root)


def _resident_bytes(plan: MemoryPlan | None) -> tuple[int, int]:
    """Bytes of the patterns that are kept by a plan: on the host, and on the GPU."""
    if plan is None:
        return 0, 0
    on_device = plan.sizes.data_bytes if plan.resident_on_device else 0
    return plan.sizes.data_bytes if plan.resident and not on_device else 0, on_device


def _advice(settings: Settings, backend: Backend, earlier: MemoryPlan | None) -> str:
    """What to do where the memory is too small."""
    if earlier is not None:  # the run has begun, so its positions are right
        return "Lower hist_length, or use fewer slices"
    rim = settings["extra_space_on_side_px"]
    with_rim = f"The object has a rim of extra_space_on_side_px = {rim}. " if rim else ""
    single = "" if backend.precision == "single" else "use default_dtype='single', "
    return f"{with_rim}Are positions in pixels? Else lower hist_length, {single}or use fewer slices"


def _moments(settings: Settings, used: frozenset[str]) -> int:
    """Arrays of the size of the unknowns that first-order methods keep: each twice until an epoch is over, and three
    more if amplitudes and phases are moved."""
    names = used - set(NOT_FIRST_ORDER)
    if not names:
        return 0
    now = settings.first()
    options = {key: value for key, value in now["optimizer_options"].items() if value is not None}
    counts = [len(METHODS[name].moments({**METHODS[name].defaults, **options}, 4)) for name in names]
    real = now["phase_only_obj"] or now["obj_parametrization"] != "complex"
    return 2 * max(counts) + (3 if real else 0)


def _fixed_items(
    sizes: Sizes, backend: Backend, history: int, n_threads: int, moments: int
) -> dict[str, int]:
    # bytes of a complex number
    c = backend.complex.itemsize
    pixels = sizes.object_shape[0] * sizes.object_shape[1] * sizes.slices * sizes.object_modes
    window = sizes.window[0] * sizes.window[1]
    obj, probe = c * pixels, c * window * sizes.probe_modes * sizes.subscans
    copies = _VECTORS + n_threads + (2 if backend.on_gpu else 0)  # on a GPU also the fixed buffers of graphs
    sums = 16 * pixels if sizes.deterministic and backend.on_gpu else 0
    # cuFFT's work area for an array is about as large as the array; not asked, as a plan of that size would be made
    transforms = obj + probe if backend.on_gpu else 0
    return {
        "object, its gradients and directions": obj * copies + sums,
        "probe, its gradients and directions": probe * copies,
        "work areas of transforms of object and probe": transforms,
        "propagators": c * window * max(sizes.slices - 1, 0),
        "aberrations, virtual detectors, blur": sizes.shared_bytes,
        "L-BFGS history": 2 * history * (obj + probe),
        "moments of first-order methods": moments * (obj + probe),
    }


def _limit_text(backend: Backend) -> str:
    """What limits the memory, and how to get more."""
    free = free_memory(backend)
    return f"It is limited by {free.limited_by}{'; ' * bool(free.advice)}{free.advice}. "


def _keep_data(settings: Settings, sizes: Sizes, available: int) -> bool:
    must = settings["preload_to_cpu"] or not settings["load_one_by_one"]
    if must and sizes.data_bytes > available:
        key, other = ("preload_to_cpu", False) if settings["preload_to_cpu"] else ("load_one_by_one", True)
        raise ResourceError(
            f"{key}={not other} asks for all patterns in memory ({size_text(sizes.data_bytes)}), but only "
            f"{size_text(max(available, 0))} are left for them. {_limit_text(select('cpu'))}Or set it to {other}: "
            "patterns are then read when they are needed"
        )
    # by default data take at most half of what is left, so that batches can be large
    return bool(must or sizes.data_bytes <= available // 2)


def _batch_size(settings: Settings, backend: Backend, sizes: Sizes, available: int) -> tuple[int, int]:
    """Patterns in a batch, and ``keep_every``. Waves are recomputed only if memory (not the size of the caches) would
    otherwise make batches too small. A number given by the user is used unchanged."""
    batch, chosen = 0, 1
    for keep_every in _kept_slices(settings, sizes):
        per_pattern = wave_bytes_per_pattern(sizes, backend, keep_every)
        wanted, fits = _wanted_batch(settings, backend, sizes, per_pattern), available // per_pattern
        if min(wanted, fits) > batch:
            batch, chosen = min(wanted, fits), keep_every
        if fits >= (min(wanted, GPU_ENOUGH) if backend.on_gpu else wanted):
            break
    compute_batch = settings["compute_batch"]
    size = max(1, batch) if compute_batch == "auto" else min(int(compute_batch), sizes.n_patterns)
    return size, chosen


def _wanted_batch(settings: Settings, backend: Backend, sizes: Sizes, per_pattern: int) -> int:
    if settings["compute_batch"] != "auto":
        return min(int(settings["compute_batch"]), sizes.n_patterns)
    cap = GPU_BATCH_LIMIT if backend.on_gpu else max(1, CPU_BATCH_BYTES // per_pattern)
    return min(sizes.n_patterns, cap)
