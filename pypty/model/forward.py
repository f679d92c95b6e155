"""The list of stages that makes a diffraction pattern, and the way back for its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pypty.backend.array import Array, Backend
from pypty.data.feed import Batch
from pypty.model.stages import (
    CropPadding,
    FarField,
    Illumination,
    Intensity,
    Multislice,
    Stage,
    SubpixelShift,
    Tape,
)
from pypty.model.stages.base import Gradients
from pypty.model.variables import Variables
from pypty.optics.grid import Grid


@dataclass(frozen=True)
class ModelOptions:
    """Which effects are present.

    Attributes
    ----------
    grid : sampling of a window
    cutoff : band limit (``damping_cutoff_multislice``)
    subpixel : windows are off the pixel grid, or may move there
    filter_patches : band-limit each window of the object (``lazy_clean``)
    crop : pixels of the model's rim that were not measured (``use_padded_intensity=False``)
    """

    grid: Grid
    cutoff: float
    subpixel: bool = True
    filter_patches: bool = False
    crop: int = 0


class Model:
    """Stages in the order of the beam.

    Parameters
    ----------
    reachable : (ky, kx) bool, zero frequency first, where there can be counts at all; None = everywhere
    """

    def __init__(self, stages: list[Stage], reachable: Array = None) -> None:
        self.stages = stages
        self.reachable = reachable

    def prepare(self, variables: Variables) -> list[Any]:
        """What every batch of one evaluation shares."""
        return [stage.prepare(variables) for stage in self.stages]

    def forward(self, points: list[Any], batch: Batch, tapes: list[Tape]) -> Array:
        """Intensities (batch, ky, kx), zero frequency first; ``tapes`` is filled, one per stage."""
        wave: Array = None
        for stage, point in zip(self.stages, points, strict=True):
            tape: Tape = {}
            wave = stage.forward(wave, point, batch, tape)
            tapes.append(tape)
        return wave

    def adjoint(
        self, grad: Array, points: list[Any], batch: Batch, tapes: list[Tape], gradients: Gradients
    ) -> None:
        """Carry dL/dI back to the beginning; adds to ``gradients`` and empties ``tapes``."""
        for stage, point in zip(reversed(self.stages), reversed(points), strict=True):
            grad = stage.adjoint(grad, point, batch, tapes.pop(), gradients)


def build_model(options: ModelOptions, backend: Backend) -> Model:
    """Choose the stages. An effect that is absent is not in the list and costs nothing."""
    grid = options.grid
    mask = grid.band_mask(options.cutoff)
    stages: list[Stage] = [Illumination()]
    if options.subpixel:
        stages.append(SubpixelShift(grid, mask, backend))
    stages += [Multislice(grid, mask, backend, options.filter_patches), FarField(mask, backend), Intensity()]
    reachable = mask[None]
    if options.crop:
        crop = CropPadding(grid.shape, options.crop, backend)
        stages.append(crop)
        return Model(stages, crop.forward(backend.asarray(reachable), None, Batch.empty(), {})[0])
    return Model(stages, backend.asarray(mask))
