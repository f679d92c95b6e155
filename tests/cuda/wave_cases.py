"""Problems for the split kernels, and how they and the stages that they replace are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cpu_module import OPTIMISED, CpuModule

from pypty.backend.array import Backend, select
from pypty.backend.cuda.module import Compiler
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.model import stages
from pypty.model.blocks import Variables
from pypty.model.split import SplitWaves
from pypty.model.stages import Stage
from pypty.optics.grid import Grid
from pypty.optics.propagators import fresnel_phase_rate
from pypty.optics.wavelength import wavelength_A

SINGLE = select("cpu", "single")
DOUBLE = select("cpu", "double")
BLOCKS = ("obj", "probe", "positions")
MARGIN = 9
"""Pixels of the object beyond a window."""


def cpu(flags: Sequence[str] = OPTIMISED, order: int = 0) -> Compiler:
    """A compiler for the CPU, in the place of CuPy's."""
    return lambda source, options: CpuModule(source, options, flags, order)


@dataclass(frozen=True)
class Case:
    """A reconstruction problem, and a batch of its patterns."""

    n: int
    modes: int = 2
    slices: int = 2
    patterns: int = 3
    cutoff: float = 2 / 3
    subpixel: bool = True
    distances: int = 2
    positions: int = 5
    tilted: bool = False
    tilt_rows: int = 1
    objects: int = 1
    weighted: bool = False
    keep_every: int = 1
    refined: bool = False

    def __str__(self) -> str:
        changed = {key: value for key, value in vars(self).items() if value != getattr(Case, key, None)}
        return " ".join(f"{key}={value:.3g}" for key, value in changed.items())

    @property
    def grid(self) -> Grid:
        return Grid((self.n, self.n), (0.2, 0.2), wavelength_A(80))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The unknowns that are refined."""
        gaps = ("slice_distances", *(("tilts",) if self.tilted else ())) if self.refined else ()
        return (*BLOCKS, *gaps)

    @property
    def weights(self) -> np.ndarray | None:
        """Of the object modes."""
        return np.linspace(0.4, 1.1, self.objects) if self.weighted else None

    @property
    def mask(self) -> np.ndarray:
        return self.grid.band_mask(self.cutoff)

    @property
    def crop_origins(self) -> np.ndarray:
        crop_origins = np.random.default_rng(3).integers(0, MARGIN, (5, 2))
        return crop_origins if self.positions > 1 else np.repeat(crop_origins[:1], 5, axis=0)

    def batch(self) -> Batch:
        """Not the first patterns: a gradient that is added to the wrong row is found."""
        index = np.arange(5)[-self.patterns :]
        return Batch(index=index, crop_origins=self.crop_origins[index], workspace=Workspace(np))

    def variables(self) -> Variables:
        """Single precision, so that both executors begin with the same numbers."""
        rng = np.random.default_rng(4)
        shape = (self.objects, self.slices, self.n + MARGIN, self.n + MARGIN - 2)
        amplitude, phase = rng.uniform(0.8, 1.2, shape), rng.normal(0, 0.3, shape)
        shifts = rng.uniform(-0.5, 0.5, (self.positions, 2))
        return Variables(
            obj=(amplitude * np.exp(1j * phase)).astype(np.complex64),
            probe=random_waves(rng, (self.modes, self.n, self.n)),
            positions=self.crop_origins[: self.positions] + shifts,
            slice_distances=rng.uniform(15, 40, self.distances),
            tilts=rng.uniform(-0.01, 0.01, (self.tilt_rows, 6)),
        )

    def propagation(self, backend: Backend) -> stages.Propagation:
        return stages.Propagation(self.grid, self.mask, backend, fresnel_phase_rate(self.grid), self.tilted)

    def plain(self, backend: Backend = DOUBLE) -> list[Stage]:
        """The definition: one stage after the other."""
        spectrum = [
            stages.ToReciprocal(),
            stages.SubpixelShift(self.grid, self.mask, backend),
            stages.ToReal(),
        ]
        windows = stages.ObjectWindows(self.grid, self.mask, backend, filtered=False)
        return [
            stages.Illumination(),
            *(spectrum if self.subpixel else []),
            stages.Multislice(windows, self.propagation(backend)),
            stages.FarField(self.mask, backend),
            stages.Intensity(self.weights),
        ]

    def split(self, compiler: Compiler | None = None, deterministic: bool = False) -> SplitWaves:
        return SplitWaves(
            self.grid,
            self.mask,
            SINGLE,
            propagation=self.propagation(SINGLE),
            subpixel=self.subpixel,
            keep_every=self.keep_every,
            deterministic=deterministic,
            mode_weights=self.weights,
            compiler=compiler or cpu(),
        )


def random_waves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """complex64"""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def as_double(variables: Variables) -> Variables:
    return replace(
        variables, obj=variables.obj.astype(np.complex128), probe=variables.probe.astype(np.complex128)
    )


@dataclass(frozen=True)
class Result:
    """Intensities and gradients of a random slope."""

    intensity: np.ndarray
    gradients: dict[str, np.ndarray]


def evaluate(
    case: Case,
    chosen: Sequence[Stage],
    variables: Variables,
    blocks: Sequence[str] = BLOCKS,
    batch: Batch | None = None,
) -> Result:
    """Forward and adjoint through ``chosen`` stages, for the slope dL/dI = 1 - d/I of Poisson-like data."""
    batch = batch or case.batch()
    points = [stage.prepare(variables) for stage in chosen]
    tapes: list[dict[str, Any]] = [{} for _ in chosen]
    wave: Any = None
    for stage, point, tape in zip(chosen, points, tapes, strict=True):
        wave = stage.forward(wave, point, batch, tape)
    intensity = wave.copy()
    slope = 1 - np.random.default_rng(5).poisson(3, intensity.shape) / 3
    gradients = variables.zeros(blocks)
    grad: Any = slope.astype(intensity.dtype)
    for stage, point, tape in zip(reversed(chosen), reversed(points), reversed(tapes), strict=True):
        grad = stage.adjoint(grad, point, batch, tape, gradients)
    for stage in chosen:
        if isinstance(stage, SplitWaves):
            stage.finish(gradients)
    return Result(intensity, gradients)


def plain_result(case: Case, blocks: Sequence[str] | None = None) -> Result:
    """What the stages compute in double precision."""
    chosen = case.blocks if blocks is None else blocks
    return evaluate(case, case.plain(), as_double(case.variables()), chosen)


def split_result(case: Case, stage: SplitWaves | None = None, blocks: Sequence[str] | None = None) -> Result:
    chosen = case.blocks if blocks is None else blocks
    return evaluate(case, [stage or case.split()], case.variables(), chosen)


def relative(value: np.ndarray, expected: np.ndarray) -> float:
    """Relative error in the Euclidean norm."""
    size = np.linalg.norm(expected)
    return float(np.linalg.norm(value - expected) / (size if size else 1))
