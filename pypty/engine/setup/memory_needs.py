"""How many arrays of the size of the object (and of the probe) a run has at a time, as its parameters ask for it.

The numbers are those of the code: benchmarks/memory.py and tests/test_memory_needs.py hold them to what is measured.
What edits and constraints need while they compute is measured, in objects of the precision of the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from pypty.backend.array import Backend
from pypty.engine.setup.memory_plan import Sizes
from pypty.model.step_filters import STEP_FILTERS
from pypty.optimize.methods import METHODS
from pypty.params.checks.combinations import optimizers
from pypty.params.checks.model import mode_weights
from pypty.params.schedule import Constant
from pypty.params.schema.batches import NOT_FIRST_ORDER
from pypty.params.settings import Settings

_EVALUATION: Mapping[str, float] = MappingProxyType({"complex": 3, "phase": 3.5, "amplitude_phase": 5})
"""Arrays of L-BFGS at the end of an evaluation, besides the pairs and the sums of the threads, by the numbers that are
moved: point, its gradient, direction, trial point and gradient of the best trial so far, of which two take the room of
a pair that is not there yet."""
_STEP: Mapping[str, float] = MappingProxyType({"complex": 5, "phase": 7, "amplitude_phase": 11})
"""At the end of a step: both points and gradients, and the direction or the change. Phases are converted to the object,
and back."""
_CONVERTED_ON_DEVICE = 1
"""More than that on a GPU where phases are converted."""
_BATCH: Mapping[str, float] = MappingProxyType({"complex": 2, "phase": 2.5, "amplitude_phase": 3})
"""Arrays of a first-order method while it computes a gradient, besides the moments and the sums of the threads: the
point, and that at the start of the epoch."""
_MOVE: Mapping[str, float] = MappingProxyType({"complex": 4, "phase": 6, "amplitude_phase": 8.5})
"""While it moves: also the gradient, and the new point."""
_START = 5
"""While the start is made, in double precision, and rounded."""
_WHOLE_ARRAYS = 2
"""More than that where a method takes means over whole arrays (adafactor)."""
_FACTORED: Mapping[str, float] = MappingProxyType({"row": 0.5, "column": 0})
"""Sizes of moments that are not as large as the object; complex numbers are pairs."""

_OF_A_SLICE: Mapping[str, float] = MappingProxyType(
    {"phase_norm_weight": 4, "abs_norm_weight": 5.5, "atv_weight": 8.5}
)
"""Arrays of a slice of one mode that penalties of the object take while they are computed, besides their gradient."""
_VARIANCE = 19
"""The same of a slice of all modes, for the variance of modes."""
_WEDGE, _WEDGE_ON_DEVICE = (9.6, 5.6), 4.6
"""What the missing wedge takes while it is computed, on the host in single and in double precision."""
_TERMS: Mapping[str, float] = MappingProxyType({"sparse": 5, "simlar": 7})
"""What the terms of the object in ``loss_terms`` take."""

_FILTERS = ("apply_gaussian_filter", "apply_gaussian_filter_amplitude")
_FILTERED: Mapping[tuple[str, ...], tuple[float, float]] = MappingProxyType(
    {_FILTERS[:1]: (7, 4), _FILTERS[1:]: (8, 4), _FILTERS: (9, 5)}
)
"""What filters of the object take, in single and in double precision; they compute in double precision."""
_FILTERED_SLICE = 3
"""What they take of a slice of one mode beyond that."""
_FLIP = (8, 7)
"""The same of charge flipping."""
_ON_DEVICE = 2
"""What edits that compute on the host take on a GPU: the object as it comes back, and how it differs."""
_POINTWISE = ("complex_ratio", "mirrored_amp", "obja_thresh", "objp_postiv")
_CONSTRAINTS: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(_POINTWISE, 3.75)
    | dict.fromkeys(("kr_thresh", "obj_z_recenter", "obj_rblur", "obj_zblur", "kr_filter", "kz_filter"), 4.75)
)
"""What constraints of the object take between epochs, besides the points and gradients before and after it; a GPU
takes ``_ON_DEVICE`` more where they transform it."""
_FILTERED_STEP: Mapping[str, float] = MappingProxyType(
    {"obj_rblur": 8, "obj_zblur": 7, "kr_filter": 7, "kz_filter": 7}
)
"""Arrays at the end of a step of L-BFGS that is filtered."""
_LOOK = 2.25
"""What the convergence monitor takes, besides its two snapshots of amplitude or phase (half an object each)."""
_IMAGES = 7
"""Arrays while images of the object are written (``save_iters``)."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Arrays that the method of a run has at the same time, as many of the object as of the probe.

    Attributes
    ----------
    pairs : of L-BFGS, with the one that an epoch adds: the oldest is there until the epoch is over, since an epoch that
        is interrupted leaves no trace
    vector : size of an array that the optimiser moves over that of the object: 0.5 for phases alone
    moments : of first-order methods, the old and the new ones
    evaluation : arrays of the object at the end of an evaluation, without pairs, moments and the sums of threads
    elsewhere : the same at any other time
    planes : real arrays (Y, X): band limits and curvature
    """

    pairs: int = 0
    vector: float = 1.0
    moments: float = 0.0
    evaluation: float = _BATCH["complex"]
    elsewhere: float = _START
    planes: float = 0.0

    @classmethod
    def of_lbfgs(cls, pairs: int, planes: float = 2.0) -> Needs:
        """L-BFGS with so many pairs and one that is new, on complex numbers, without further effects."""
        return cls(
            pairs=pairs + 1, evaluation=_EVALUATION["complex"], elsewhere=_STEP["complex"], planes=planes
        )


def needs_of(settings: Settings, backend: Backend, sizes: Sizes) -> Needs:
    """What a run needs by its parameters; of what changes with the epoch the most."""
    used = optimizers(settings)
    first_order, searches = used - set(NOT_FIRST_ORDER), "lbfgs" in used
    form, moments = _form(settings), _moments(settings, first_order)
    evaluation = max([_EVALUATION[form]] * searches + [_BATCH[form]] * (not searches))
    converted = _CONVERTED_ON_DEVICE if backend.on_gpu and form != "complex" else 0
    elsewhere = (
        _STEP[form] + converted if searches else max(_MOVE[form] if first_order else _START, _START - moments)
    )
    if "adafactor" in first_order:
        elsewhere = max(elsewhere, _MOVE[form] + _WHOLE_ARRAYS)
    between = _between(settings, backend, sizes, searches, moments)
    snapshot = _snapshot(settings)
    look = snapshot and (4 if searches else 2) + 2 * snapshot + _LOOK
    return Needs(
        pairs=held_pairs(settings),
        vector=0.5 if form == "phase" else 1.0,
        moments=moments,
        evaluation=evaluation + snapshot + _of_penalties(settings, backend, sizes),
        elsewhere=max(elsewhere + snapshot, between + snapshot, look),
        planes=_planes(settings, sizes, bool(used & set(NOT_FIRST_ORDER))),
    )


def lbfgs_pairs(settings: Settings) -> int:
    """The most pairs that L-BFGS will keep; there cannot be more than epochs."""
    if "lbfgs" not in optimizers(settings):
        return 0
    return int(min(float(settings.first()["hist_length"]), float(max(_epochs(settings), 1)), 1000.0))


def held_pairs(settings: Settings) -> int:
    """The most pairs that are in memory, before the oldest is dropped. One is kept whatever ``hist_length`` is; an edit
    that changes the object after every update leaves none, and one before every update only the last."""
    if "lbfgs" not in optimizers(settings):
        return 0
    kept = 1 if _always_on(settings, "do_charge_flip") else max(lbfgs_pairs(settings), 1)
    kept = 0 if any(_always_on(settings, name) for name in _FILTERS) else kept
    return min(kept + 1, max(_epochs(settings), 1))


def moment_arrays(settings: Settings, used: frozenset[str]) -> int:
    """The most moments that one of these methods keeps."""
    return max((len(names) for names in _moment_names(settings, used)), default=0)


def _epochs(settings: Settings) -> int:
    epochs = settings["epoch_max"] - settings["epoch_prev"]
    return int(epochs - (0 if settings["warmup_epochs"] == "auto" else int(settings["warmup_epochs"])))


def _form(settings: Settings) -> str:
    """The numbers of the object that are moved; of several the one that needs the most."""
    if _always_on(settings, "phase_only_obj"):
        return "phase"
    schedule = settings.schedules["obj_parametrization"]
    complex_only = isinstance(schedule, Constant) and schedule.value == "complex"
    return "complex" if complex_only and not settings.may_be_on("phase_only_obj") else "amplitude_phase"


def _always_on(settings: Settings, name: str) -> bool:
    schedule = settings.schedules[name]
    return isinstance(schedule, Constant) and bool(np.any(schedule.value))


def _may_be_on(settings: Settings, name: str) -> bool:
    schedule = settings.schedules[name]
    return not isinstance(schedule, Constant) or bool(np.any(schedule.value))


def _moment_names(settings: Settings, used: frozenset[str]) -> list[tuple[str, ...]]:
    given = settings.first()["optimizer_options"]
    options = {key: value for key, value in given.items() if value is not None}
    names = used - set(NOT_FIRST_ORDER)
    return [METHODS[name].moments({**METHODS[name].defaults, **options}, 4) for name in sorted(names)]


def _moments(settings: Settings, used: frozenset[str]) -> float:
    """Arrays of moments, each twice until an epoch is over."""
    sizes = [sum(_FACTORED.get(name, 1) for name in names) for names in _moment_names(settings, used)]
    return 2 * max(sizes, default=0.0)


def _of_penalties(settings: Settings, backend: Backend, sizes: Sizes) -> float:
    """Gradients of the penalties and terms of the object, which are made first, and what the largest of them takes
    until then beyond a gradient, the sum of a thread."""
    layers = sizes.slices * sizes.object_modes
    takes = {name: 1 + size / layers for name, size in _OF_A_SLICE.items()}
    if sizes.object_modes > 1:
        takes["mixed_variance_weight"] = 1 + _VARIANCE / sizes.slices
    if sizes.slices > 1:
        takes["wedge_mu"] = _WEDGE_ON_DEVICE if backend.on_gpu else _WEDGE[backend.complex.itemsize == 16]
    found = [size for name, size in takes.items() if _may_be_on(settings, name)]
    terms = settings["loss_terms"] or {}
    on_terms = [size for name, size in _TERMS.items() if name in terms and terms[name]["weight"] > 0]
    found += [max(on_terms)] if on_terms else []
    return len(found) + max(max(found, default=0.0) - 2, 0.0)


def _between(settings: Settings, backend: Backend, sizes: Sizes, searches: bool, moments: float) -> float:
    """Arrays while edits and constraints act, steps are filtered, and images are written."""
    which = int(backend.complex.itemsize == 16)
    # points and gradients before and after an update, which may have to be taken back
    there = 4 if searches else 2
    filters, found = tuple(name for name in _FILTERS if _may_be_on(settings, name)), [0.0]
    if filters:
        takes = _FILTERED[filters][which] + _FILTERED_SLICE / (sizes.slices * sizes.object_modes)
        found.append(there + (_ON_DEVICE if backend.on_gpu else takes))
    if _may_be_on(settings, "do_charge_flip"):  # before the update: there is no new point, and no new pair
        found.append(there - (4 if searches else 1) + (_ON_DEVICE if backend.on_gpu else _FLIP[which]))
    for name in _constraints(settings):
        if searches and name in STEP_FILTERS:
            found.append(_FILTERED_STEP.get(name, 0.0))
        elif name in _CONSTRAINTS:
            more = _ON_DEVICE if backend.on_gpu and name not in _POINTWISE else 0
            found.append(there + _CONSTRAINTS[name] + more)
    if settings["save_iters"] and not backend.on_gpu:  # the moments are there once then
        found.append(_IMAGES - moments / 2)
    return max(found)


def _constraints(settings: Settings) -> tuple[str, ...]:
    """Names of the constraints that may act; all where they depend on the epoch."""
    schedule = settings.schedules["constraints"]
    return tuple(schedule.value) if isinstance(schedule, Constant) else tuple(_CONSTRAINTS)


def _snapshot(settings: Settings) -> float:
    """Objects that the convergence monitor keeps: amplitude and phase, half an object each."""
    asked = settings["convergence_monitor"]
    return 0.0 if asked is None else 0.5 * sum(name in asked["tensors"] for name in ("obja", "objp"))


def _planes(settings: Settings, sizes: Sizes, preconditioned: bool) -> float:
    masks = 0 if settings["lazy_clean"] else 1 + (settings["smooth_rolloff"] > 0)
    weighted = sizes.object_modes if mode_weights(settings) is not None else 1
    return masks + (weighted if preconditioned else 0)
