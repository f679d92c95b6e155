"""The list of stages that computes diffraction patterns, and its adjoint for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend
from pypty.backend.cuda.plans import WINDOWS
from pypty.data.batch import Batch
from pypty.model import stages
from pypty.model.blocks import Variables
from pypty.model.executor_words import with_remedy
from pypty.model.fused import FusedWaves
from pypty.model.options import ModelOptions, NearFieldOptions
from pypty.model.split import SplitWaves, split_reason
from pypty.model.stages import Stage, Tape
from pypty.model.stages.base import FORWARD_ONLY, CountStage, Gradients
from pypty.optics.propagators import angular_spectrum_phase_rate, fresnel_phase_rate


class Model:
    """Stages in the order of the beam.

    Parameters
    ----------
    reachable : (ky, kx) bool, compared pixels that can have counts; None = all
    executor : how the waves are computed, and why, for the log

    One stage may replace several: see :mod:`pypty.model.fused`.
    """

    def __init__(self, stages: list[Stage], reachable: Array = None, executor: str = "stages") -> None:
        self.stages = stages
        self.reachable = reachable
        self.executor = executor

    def prepare(self, variables: Variables) -> list[Any]:
        """Compute what all batches of an evaluation share."""
        return [stage.prepare(variables) for stage in self.stages]

    @property
    def split(self) -> SplitWaves | None:
        """The stage of row and column kernels, if it computes the waves."""
        first = self.stages[0]
        return first if isinstance(first, SplitWaves) else None

    @property
    def in_graphs(self) -> bool:
        """Whether CUDA graphs can hold a batch: the split kernels, and what happens to intensities behind them."""
        return self.split is not None and all(getattr(stage, "in_graphs", False) for stage in self.stages[1:])

    def forward(self, points: list[Any], batch: Batch, tapes: list[Tape], keep: bool = True) -> Array:
        """Intensities (batch, ky, kx), in the far field zero frequency first, or sums of virtual detectors
        (batch, 1, D). ``tapes`` is filled, one per stage; without ``keep`` no adjoint may follow."""
        # the first stage brings its own wave: (1, probe mode, 1, y, x)
        wave: Array = None
        for stage, point in zip(self.stages, points, strict=True):
            tape: Tape = {} if keep else {FORWARD_ONLY: True}
            wave = stage.forward(wave, point, batch, tape)
            tapes.append(tape)
        return wave

    def adjoint(
        self, grad: Array, points: list[Any], batch: Batch, tapes: list[Tape], gradients: Gradients
    ) -> None:
        """Propagate dL/dI back through all stages; adds to ``gradients`` and empties ``tapes``."""
        for stage, point in zip(reversed(self.stages), reversed(points), strict=True):
            grad = stage.adjoint(grad, point, batch, tapes.pop(), gradients)

    def finish(self, gradients: dict[str, Array]) -> None:
        """Call once all batches have added to ``gradients``: some stages sum another form of them, and convert it
        here."""
        for stage in self.stages:
            if isinstance(stage, (FusedWaves, SplitWaves)):
                stage.finish(gradients)


def build_model(options: ModelOptions, backend: Backend) -> Model:
    """Choose the stages. An effect that is absent is not in the list and costs nothing.

    Up to the intensities one stage may replace the others: SplitWaves on a GPU; FusedWaves elsewhere, and for models
    that SplitWaves does not cover. With ``options.executor`` "stages" nothing is replaced; "fused" excludes SplitWaves.
    """
    mask = options.grid.band_mask(options.cutoff)
    waves, executor = _executor(options, mask, backend)
    changes = _made(stages.ON_WAVE_PIXELS, options, backend)
    pixels = _made(stages.TO_COMPARED_PIXELS, options, backend)
    # pixels beyond the band limit are dark only in the far field, and if no stage brings counts there
    dark = not options.centred and not any(stage.lights_dark for stage in (*changes, *pixels))
    return Model([*waves, *changes, *pixels], _reachable(mask, pixels, backend) if dark else None, executor)


def _executor(options: ModelOptions, mask: np.ndarray, backend: Backend) -> tuple[list[Stage], str]:
    """The stages up to the intensities, and a description for the log."""
    reason = not_fused_because(options)
    if reason:
        remedied = ", ".join(with_remedy(part, WINDOWS) for part in reason.split(", "))
        return _waves(options, mask, backend), f"stages ({remedied})"
    propagation = _propagation(options, mask, backend)
    name, common = "fused", (options.grid, mask, backend)
    if backend.on_gpu:
        if options.executor == "fused":
            name = "fused (requested)"
        else:
            uncovered = split_reason(options, backend.complex)
            if not uncovered:
                return [
                    SplitWaves(
                        *common,
                        propagation=propagation,
                        subpixel=options.subpixel,
                        keep_every=options.keep_every,
                        deterministic=options.deterministic,
                        mode_weights=options.mode_weights,
                    )
                ], "split"
            name = f"fused (split kernels do not cover: {uncovered})"
    fused = FusedWaves(
        *common,
        propagation=propagation,
        subpixel=options.subpixel,
        keep_every=options.keep_every,
        deterministic=options.deterministic,
        mode_weights=options.mode_weights,
    )
    return [fused], name


def executor_name(options: ModelOptions, backend: Backend) -> str:
    """Which executor :func:`build_model` takes: "stages", "fused" or "split"."""
    if not_fused_because(options):
        return "stages"
    split = backend.on_gpu and options.executor != "fused" and not split_reason(options, backend.complex)
    return "split" if split else "fused"


def not_fused_because(options: ModelOptions) -> str:
    """Why the fused executor does not cover a model; "" if it does."""
    before, _, after = options.tilts
    reasons = {
        "requested": options.executor == "stages",
        "near field": options.near_field is not None,
        "several probes": options.probe_marker is not None,
        "local aberrations": options.aberration_marker is not None,
        "phase plates": options.plates is not None,
        "tilts before or after the specimen": before or after,
        "patches are filtered (lazy_clean)": options.filter_patches,
        "patches are blurred (obj_preblur_std)": options.preblur_std > 0,
        f"propmethod {options.propagation}": options.propagation in stages.INTEGRATORS,
    }
    return ", ".join(reason for reason, applies in reasons.items() if applies)


def build_exit_wave_model(options: ModelOptions, backend: Backend) -> Model:
    """The stages up to the exit waves (batch, probe mode, object mode, y, x), in real space; always one stage for each
    effect, as the other executors do not keep these waves."""
    return Model(_exit_wave(options, options.grid.band_mask(options.cutoff), backend))


def _exit_wave(options: ModelOptions, mask: np.ndarray, backend: Backend) -> list[Stage]:
    """The stages from the probe to the wave behind the specimen (and behind the tilt after it), one for each effect."""
    before, _, after = options.tilts
    chosen = _illumination(options, mask, backend, before)
    chosen.append(_specimen(options, mask, backend))
    if after:
        chosen.append(stages.TiltRamp(options.grid, backend, column=4))
    return chosen


def _waves(options: ModelOptions, mask: np.ndarray, backend: Backend) -> list[Stage]:
    """The stages from the probe to the intensities, one for each effect."""
    chosen = _exit_wave(options, mask, backend)
    if options.near_field is None:
        chosen.append(stages.FarField(mask, backend))
    else:
        chosen.append(_near_field(options, options.near_field, mask, backend))
    weights = options.mode_weights
    chosen.append(stages.Intensity(None if weights is None else backend.asarray(weights, backend.real)))
    return chosen


def _illumination(options: ModelOptions, mask: np.ndarray, backend: Backend, tilted: bool) -> list[Stage]:
    """The stages up to the wave that meets the specimen. Effects on the spectrum share one pair of transforms."""
    grid, marker = options.grid, options.probe_marker
    chosen: list[Stage] = [stages.Illumination() if marker is None else stages.ProbeScenarios(marker)]
    on_spectrum: list[Stage] = []
    if options.plates is not None:
        on_spectrum.append(stages.PhasePlates(options.plates, backend))
    if options.aberration_marker is not None:
        on_spectrum.append(
            stages.LocalAberrations(grid, mask, backend, options.aberration_marker, options.n_aberrations)
        )
    if tilted:
        # the tilt acts in real space, after plates and aberrations and before the shift
        if on_spectrum:
            chosen += [stages.ToReciprocal(), *on_spectrum, stages.ToReal()]
            on_spectrum = []
        chosen.append(stages.TiltRamp(grid, backend, column=0))
    if options.subpixel:
        on_spectrum.append(stages.SubpixelShift(grid, mask, backend))
    if on_spectrum:
        chosen += [stages.ToReciprocal(), *on_spectrum, stages.ToReal()]
    return chosen


def _specimen(options: ModelOptions, mask: np.ndarray, backend: Backend) -> Stage:
    windows = stages.ObjectWindows(
        options.grid, mask, backend, options.filter_patches, options.deterministic, options.preblur_std
    )
    propagation = _propagation(options, mask, backend)
    branches = stages.INTEGRATORS.get(options.propagation)
    if branches is None:
        return stages.Multislice(windows, propagation)
    return stages.FractionalSteps(windows, propagation, branches)


def _propagation(options: ModelOptions, mask: np.ndarray, backend: Backend) -> stages.Propagation:
    grid = options.grid
    exact = options.propagation == "angular_spectrum"
    # (y, x) rad/Å
    rate = angular_spectrum_phase_rate(grid) if exact else fresnel_phase_rate(grid)
    branches = stages.INTEGRATORS.get(options.propagation)
    # integrators propagate by parts of a slice distance: a propagator for each
    fractions = (1.0,) if branches is None else stages.propagation_fractions(branches)
    return stages.Propagation(grid, mask, backend, rate, options.tilts[1], fractions)


def _near_field(options: ModelOptions, near: NearFieldOptions, mask: np.ndarray, backend: Backend) -> Stage:
    return stages.NearField(options.grid, mask, backend, near.defocus, near.Cs, options.tilts[1])


def _made(kinds: Sequence[type[CountStage]], options: ModelOptions, backend: Backend) -> list[CountStage]:
    """The stages of these kinds that the model has, in their order."""
    wanted = (kind.for_model(options, backend) for kind in kinds)
    return [stage for stage in wanted if stage is not None]


def _reachable(mask: np.ndarray, pixels: list[CountStage], backend: Backend) -> Array:
    """(ky, kx) bool: which compared pixels lie, at least partly, inside the band limit."""
    # (y, x) -> (1, ky, kx): a pattern that fills the band limit, taken to the compared pixels
    pattern = backend.asarray(mask[None], backend.real)
    for stage in pixels:
        pattern = stage.forward(pattern, None, Batch.empty(), {})
    return pattern[0] > 0
