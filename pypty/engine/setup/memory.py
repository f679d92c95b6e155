"""Estimates the memory of a reconstruction, and chooses the batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pypty.backend.array import Backend, available_cores, select
from pypty.backend.memory import free_bytes, free_memory
from pypty.data.preprocess import Preprocess
from pypty.data.sources import PatternSource
from pypty.data.window import Window
from pypty.engine.setup.division import Division
from pypty.engine.setup.memory_items import PATTERNS, WAVES, Role, fixed_items, wave_bytes_per_pattern
from pypty.engine.setup.memory_needs import lbfgs_pairs, needs_of
from pypty.engine.setup.memory_plan import ALONE, KeptWaves, MemoryPlan, Ranks, Sizes, size_text
from pypty.engine.setup.start import present_blocks
from pypty.engine.setup.start_probe import n_subscans, probe_modes
from pypty.errors import ResourceError
from pypty.model.blocks import BLOCKS
from pypty.model.options import TILT_MODES
from pypty.model.stages import INTEGRATORS
from pypty.params.checks.effects import has_tilts
from pypty.params.checks.model import mode_weights
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

CPU_BATCH_BYTES = 6 * 2**20
"""On the CPU a batch should about fit into the caches; larger ones are slower (benchmarks/README.md)."""
GPU_BATCH_LIMIT = 1024
GPU_ENOUGH = 32
"""Number of patterns that keep a GPU busy; waves are recomputed only if fewer fit."""


def sizes_of(
    settings: Settings,
    source: PatternSource | None,
    n_patterns: int,
    window: Window,
    object_shape: tuple[int, int],
) -> Sizes:
    """The sizes on which the estimate depends, without the executor, which follows from the model."""
    obj = settings["obj"]
    # (Y, X, z, modes): vacuum has one mode
    slices, object_modes = (settings["num_slices"], 1) if obj is None else obj.shape[2:]
    data_bytes, preprocess = 0, Preprocess.from_settings(settings)
    if source is not None:
        ky, kx = preprocess.pattern_shape((source.shape[1], source.shape[2]))
        data_bytes = source.shape[0] * ky * kx * preprocess.stored_dtype(source.dtype).itemsize
    return Sizes(
        n_patterns=n_patterns,
        window=window.model,
        probe_modes=probe_modes(settings),
        object_modes=object_modes,
        slices=slices,
        object_shape=object_shape,
        data_bytes=data_bytes,
        compared=math.prod(window.compared) if settings["masks"] is None else len(settings["masks"]),
        subscans=n_subscans(settings),
        shared_bytes=shared_bytes(settings, window.model),
        kept=kept_waves(settings),
        filtered=settings["lazy_clean"],
        deterministic=settings["deterministic"],
        spectra=settings.may_be_on("update_slice_distances") or settings.may_be_on("update_tilts"),
        row_values=_row_values(settings),
    )


def _row_values(settings: Settings) -> int:
    """Numbers that every pattern has of its own: its position, and the rows of further unknowns."""
    values = 2
    for name in present_blocks(settings):
        row, given = BLOCKS[name], settings.value(name)
        if row.per_pattern and isinstance(given, np.ndarray):
            values += given[:1].size
        elif row.per_pattern and row.start is not None:
            values += row.start(1).size
    return values


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


def make_plan(
    settings: Settings,
    backend: Backend,
    sizes: Sizes,
    earlier: MemoryPlan | None = None,
    ranks: Ranks = ALONE,
    division: Division | None = None,
) -> MemoryPlan:
    """Estimate the memory, and choose the batch.

    Parameters
    ----------
    earlier : the plan by which patterns are in memory already: the new plan need not find room for them
    ranks : processes that share the reconstruction; the plan is that of rank 0, and all compute batches of its size
    division : of the patterns among several ranks; None for one

    Raises
    ------
    ResourceError
        Not even one pattern at a time fits.
    """
    own = sizes if division is None else division.share(sizes)
    host_data, device_data = _resident_bytes(earlier)
    free = free_bytes(backend, ranks.on_node) + (device_data if backend.on_gpu else host_data)
    limit = int(free * settings["memory_saturation"])
    n_threads = 1 if backend.on_gpu else min(settings["n_threads"] or _cores(ranks), own.n_patterns)
    # the slowest choice needs the least memory
    per_pattern = wave_bytes_per_pattern(sizes, backend, _kept_slices(settings, sizes)[-1])
    few = min(GPU_ENOUGH if backend.on_gpu else n_threads, own.n_patterns)
    role = _role(settings, backend, sizes, n_threads, division, limit - few * per_pattern)
    items = _fixed(settings, backend, sizes, n_threads, role)
    fixed = sum(items.values())
    if fixed + per_pattern > limit:
        who = "the reconstruction" if role is None else "rank 0"
        raise ResourceError(
            f"{who} needs at least {size_text(fixed + per_pattern)} ({_size_words(settings, sizes)}), but only "
            f"{size_text(limit)} may be used ({size_text(free)} free x memory_saturation). "
            f"{_limit_text(backend, ranks)}{_advice(settings, backend, earlier)}"
        )
    n_threads = max(1, min(n_threads, (limit - fixed) // per_pattern))
    # prepared patterns are kept on the host; without a GPU they share that memory with everything else
    host_left = limit - fixed - n_threads * per_pattern
    if backend.on_gpu:
        host_free = free_bytes(select("cpu"), ranks.on_node) + host_data
        host_left = int(host_free * settings["memory_saturation"])
    resident = _keep_data(settings, own, host_left, ranks)
    if resident and not backend.on_gpu:
        items[PATTERNS] = own.data_bytes
    batch, keep_every = _batch_size(settings, backend, own, (limit - sum(items.values())) // n_threads)
    items[WAVES] = n_threads * batch * wave_bytes_per_pattern(sizes, backend, keep_every)
    on_device = backend.on_gpu and 0 < own.data_bytes <= limit - sum(items.values())
    if on_device:
        items[PATTERNS] = own.data_bytes
    elif not resident or backend.on_gpu:  # two batches of each thread are being read
        pattern = -(-own.data_bytes // max(own.n_patterns, 1))
        items["patterns read ahead"] = 2 * n_threads * batch * pattern
    others, in_pieces = _shared(settings, backend, sizes, n_threads, role, items)
    return MemoryPlan(
        device="the GPU" if backend.on_gpu else "the CPU",
        precision=backend.precision,
        batch=batch,
        n_threads=n_threads,
        resident=resident,
        free=free,
        limit=limit,
        sizes=sizes,
        keep_every=keep_every,
        spread_history=role is not None and role.spread,
        resident_on_device=on_device,
        limited_by=free_memory(backend, ranks.on_node).limited_by,
        ranks=ranks,
        data_bytes=own.data_bytes,
        in_pieces=in_pieces,
        items=items,
        others=others,
    )


def _shared(
    settings: Settings,
    backend: Backend,
    sizes: Sizes,
    n_threads: int,
    role: Role | None,
    items: Mapping[str, int],
) -> tuple[dict[str, int], int]:
    """The items of another rank, whose batches and patterns are those of rank 0, and the sum of rank 0 with a history
    in pieces; nothing for one process."""
    if role is None:
        return {}, 0
    fewer = _fixed(settings, backend, sizes, n_threads, replace(role, leads=False))
    cut = _fixed(settings, backend, sizes, n_threads, replace(role, spread=True))
    others, pieces = ({name: kind.get(name, size) for name, size in items.items()} for kind in (fewer, cut))
    return others, sum(pieces.values())


def _cores(ranks: Ranks) -> int:
    """Cores for each of the processes that share them."""
    return max(1, available_cores() // ranks.on_cores)


def _fixed(
    settings: Settings, backend: Backend, sizes: Sizes, n_threads: int, role: Role | None
) -> dict[str, int]:
    """Bytes that do not depend on the batch."""
    return fixed_items(sizes, backend, needs_of(settings, backend, sizes), n_threads, role)


def _role(
    settings: Settings,
    backend: Backend,
    sizes: Sizes,
    n_threads: int,
    division: Division | None,
    limit: int,
) -> Role | None:
    """What rank 0 does; it shares the L-BFGS history with the others where that leaves no room for waves, since it is
    sent back and forth then."""
    if division is None:
        return None
    whole = Role(ranks=division.ranks, window=division.largest)
    fits = sum(_fixed(settings, backend, sizes, n_threads, whole).values()) <= limit
    return whole if fits or not lbfgs_pairs(settings) else replace(whole, spread=True)


def _size_words(settings: Settings, sizes: Sizes) -> str:
    """What the memory is needed for."""
    return (
        f"object {sizes.object_shape[0]} x {sizes.object_shape[1]} x {sizes.slices} slices x {sizes.object_modes} "
        f"modes, {lbfgs_pairs(settings)} L-BFGS pairs"
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
    on_device = plan.data_bytes if plan.resident_on_device else 0
    return plan.data_bytes if plan.resident and not on_device else 0, on_device


def _advice(settings: Settings, backend: Backend, earlier: MemoryPlan | None) -> str:
    """What to do where the memory is too small."""
    if earlier is not None:  # the run has begun, so its positions are right
        return "Lower hist_length, or use fewer slices"
    rim = settings["extra_space_on_side_px"]
    with_rim = f"The object has a rim of extra_space_on_side_px = {rim}. " if rim else ""
    single = "" if backend.precision == "single" else "use default_dtype='single', "
    return f"{with_rim}Are positions in pixels? Else lower hist_length, {single}or use fewer slices"


def _limit_text(backend: Backend, ranks: Ranks) -> str:
    """What limits the memory, and how to get more."""
    free = free_memory(backend, ranks.on_node)
    return f"It is limited by {free.limited_by}{'; ' * bool(free.advice)}{free.advice}. "


def _keep_data(settings: Settings, sizes: Sizes, available: int, ranks: Ranks) -> bool:
    must = settings["preload_to_cpu"] or not settings["load_one_by_one"]
    if must and sizes.data_bytes > available:
        key, other = ("preload_to_cpu", False) if settings["preload_to_cpu"] else ("load_one_by_one", True)
        raise ResourceError(
            f"{key}={not other} asks for all patterns in memory ({size_text(sizes.data_bytes)}), but only "
            f"{size_text(max(available, 0))} are left for them. {_limit_text(select('cpu'), ranks)}Or set it to "
            f"{other}: patterns are then read when they are needed"
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
