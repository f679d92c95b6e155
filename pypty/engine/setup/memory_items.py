"""Bytes of the arrays of a reconstruction, by purpose: on a single process, or on one rank of several."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pypty.backend.array import Backend
from pypty.backend.fft import work_bytes
from pypty.engine.setup.memory_needs import Needs
from pypty.engine.setup.memory_plan import Sizes
from pypty.optimize.vector import PIECE

WAVES, PATTERNS, HISTORY = (
    "waves and FFT workspace of the batches",
    "measured patterns",
    "L-BFGS history",
)
"""Names of items that others refer to."""
BAND_LIMITS = "band limits and curvature of the object"
_OF_A_NEW_PAIR = 2
"""Arrays of a pair that rank 0 has as a whole before the history takes its pieces."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a rank does for a reconstruction on several ranks.

    Rank 0 leads: it has the whole object with its gradients and directions, and computes a part of the patterns as the
    others do. These only have the window of the object that their patterns see.

    Attributes
    ----------
    ranks : number of all
    window : (Y, X) of the largest window of a rank, px
    leads : it is rank 0
    spread : each rank keeps an equal part of the L-BFGS history of the object; else rank 0 keeps it
    """

    ranks: int
    window: tuple[int, int]
    leads: bool = True
    spread: bool = False


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


def fixed_items(
    sizes: Sizes, backend: Backend, needs: Needs, n_threads: int, role: Role | None = None
) -> dict[str, int]:
    """Bytes that do not depend on the size of a batch, by purpose.

    The method of the run has E arrays of the object and of the probe at the end of an evaluation, and R at any other
    time (:class:`Needs`). With T threads, G = 2 on a GPU (the fixed buffers of graphs, else 0), the object has O bytes,
    the largest window of it W, and the probe P:

    * one process: the larger one of (E + T + G) and R + G times (O + P): each thread adds up gradients of its own;
    * rank 0 of several: (E + 1) O for the sum over ranks too, and W (T + G + 2) for its own part, with the window that
      it sees, and one in a message; (E + T + G + 2) P; at least R (O + P) + G W;
    * another rank: W (T + G + 1) and (T + G + 1) P, with what rank 0 has sent.

    The L-BFGS history has 2 (O + P) for each pair, and a new one is there before the oldest is dropped. K ranks that
    share it have O/K instead of O, and three pieces more while they multiply and add; rank 0 has the new pair whole.

    Parameters
    ----------
    role : of a rank of several; None = one process
    """
    # bytes of a complex number
    c = backend.complex.itemsize
    layers, window = sizes.slices * sizes.object_modes, sizes.window[0] * sizes.window[1]
    plane = sizes.object_shape[0] * sizes.object_shape[1]
    obj, probe = c * plane * layers, c * window * sizes.probe_modes * sizes.subscans
    seen = plane * layers if role is None else role.window[0] * role.window[1] * layers
    buffers = 2 if backend.on_gpu else 0
    own = n_threads + buffers
    leads = role is None or role.leads
    if role is None:
        arrays = max(needs.evaluation + own, needs.elsewhere + buffers)
        objects, probes = obj * arrays, probe * arrays
    elif role.leads:
        extra = _OF_A_NEW_PAIR if role.spread and needs.pairs else 0
        objects = max(
            obj * (needs.evaluation + extra + 1) + c * seen * (own + 2),
            obj * (needs.elsewhere + extra) + c * seen * buffers,
        )
        probes = probe * max(needs.evaluation + own + 2, needs.elsewhere)
    else:
        objects, probes = c * seen * (own + 1), probe * (own + 1)
    # on the CPU vectors are added and moved in pieces
    small = 2 * c * min(plane * layers, PIECE) if leads and not backend.on_gpu else 0
    sums = 16 * seen if sizes.deterministic and backend.on_gpu else 0
    # cuFFT's work area for an array is about as large as the array; not asked, as a plan of that size would be made
    transforms = obj + probe if backend.on_gpu and leads else 0
    return {
        "object, its gradients and directions": math.ceil(objects) + small + sums,
        "probe, its gradients and directions": math.ceil(probes),
        "work areas of transforms of object and probe": transforms,
        "propagators": c * window * max(sizes.slices - 1, 0),
        "aberrations, virtual detectors, blur": sizes.shared_bytes,
        BAND_LIMITS: math.ceil(backend.real.itemsize * plane * needs.planes) if leads else 0,
        HISTORY: _history_bytes(needs, obj, probe, role),
        "moments of first-order methods": math.ceil(needs.vector * needs.moments * (obj + probe))
        if leads
        else 0,
    }


def _history_bytes(needs: Needs, obj: int, probe: int, role: Role | None) -> int:
    kept, vector = 2 * needs.pairs, math.ceil(needs.vector * obj)
    leads = role is None or role.leads
    if role is not None and role.spread and needs.pairs:
        return (kept + 3) * -(-vector // role.ranks) + (kept * probe if leads else 0)
    return kept * (vector + probe) if leads else 0
