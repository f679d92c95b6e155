"""Every stage of the model: its adjoint, the gradients of its own variables, its physics, and the whole chain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import (
    assert_adjoint,
    directional_derivative,
    inner,
    random_complex,
    random_like,
    relative,
    small_problem,
)
from scipy.linalg import expm

import pypty
from pypty.backend.array import Backend, select
from pypty.data.batch import Batch
from pypty.data.plates import PhasePlateSource
from pypty.errors import DataError
from pypty.model import stages
from pypty.model.blocks import Variables
from pypty.model.forward import build_model
from pypty.model.options import ModelOptions, NearFieldOptions
from pypty.optics import probes
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate, fresnel_phase_rate
from pypty.optics.wavelength import wavelength_A

BACKEND = select("cpu", "double")
SINGLE = select("cpu", "single")
GRIDS = (
    Grid((12, 15), (0.31, 0.24), wavelength_A(80)),
    Grid((15, 12), (0.26, 0.33), wavelength_A(80)),
)
"""Even and odd sizes along both axes, unequal pixels."""
GRID = GRIDS[0]
CUTOFF = 0.8
PATTERNS, PROBE_MODES, OBJECT_MODES, SLICES = 3, 2, 2, 3
CORNERS = np.array([[0, 1], [2, 0], [1, 3], [5, 4]])
INDEX = np.array([0, 1, 3])
BATCH = Batch(index=INDEX, crop_origins=CORNERS[INDEX])
"""Three of four patterns: a gradient added to the wrong row is found. The windows overlap."""
ONE = Batch(index=INDEX[2:], crop_origins=CORNERS[INDEX[2:]])
"""A batch of one pattern is not a wave that all patterns share."""
MARKER = np.array([2, 0, 1, 2])
"""Group of aberrations, or subscan, of each pattern: two of the batch share one, and one group is not in it."""
DEFOCI = np.array([70.0, -40.0, 110.0, 55.0])
NOT_STAGES = {"INTEGRATORS", "propagation_fractions", "ObjectWindows", "Propagation", "Stage", "Tape"}
STEP = {"tilts": 3e-6, "positions": 1e-4}
"""Finite-difference steps where 1e-3 is too long: a milliradian turns phases by more than 1 rad."""


def make_variables(grid: Grid, **changes: np.ndarray) -> Variables:
    rng = np.random.default_rng(1)
    ny, nx = grid.shape
    shape = (OBJECT_MODES, SLICES, ny + 6, nx + 5)
    blocks = {
        "obj": np.exp(0.2 * rng.standard_normal(shape) + 0.5j * rng.standard_normal(shape)),
        "probe": random_complex(rng, (PROBE_MODES, ny, nx)),
        "positions": CORNERS + rng.uniform(-0.4, 0.4, CORNERS.shape),
        "slice_distances": rng.uniform(20, 40, SLICES - 1),
        "tilts": rng.uniform(-0.01, 0.01, (len(CORNERS), 6)),
        "aberrations_array": rng.uniform(-5, 5, (MARKER.max() + 1, 6)),
        "static_background": rng.standard_normal(grid.shape),
        "beam_current": np.array([0.8, -1.3, 1.1, 0.6]),
        "detector_blur_std": np.array([0.8]),
        "detector_gains": np.array([[1.1, -0.8], [0.9, 1.3]]),
    }
    return Variables(**{**blocks, **changes})


class Plates:
    """Phase plates in memory."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.values = random_complex(np.random.default_rng(6), (len(CORNERS), *shape))

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]


@dataclass(frozen=True)
class Case:
    """A stage, and what enters it.

    Attributes
    ----------
    make : the stage for a device and a precision
    shape : of the wave or the intensities that enter; None: the probe itself enters
    owns : blocks that the stage depends on
    linear : else the adjoint is that of the derivative
    real : intensities enter
    mean : of these intensities
    step : of finite differences of what enters
    changes : variables that are not those of :func:`make_variables`
    """

    name: str
    grid: Grid
    make: Callable[[Backend], stages.Stage]
    shape: tuple[int, ...] | None
    owns: tuple[str, ...] = ()
    linear: bool = True
    real: bool = False
    mean: float = 0.0
    step: float = 1e-3
    batch: Batch = BATCH
    changes: dict[str, np.ndarray] = field(default_factory=dict)
    backend: Backend = BACKEND

    def __str__(self) -> str:
        return f"{self.grid.shape[0]}x{self.grid.shape[1]} {self.name}"

    @property
    def stage(self) -> stages.Stage:
        return self.make(self.backend)

    @property
    def variables(self) -> Variables:
        return make_variables(self.grid, **self.changes)

    def forward(self, wave: np.ndarray | None, variables: Variables, tape: stages.Tape) -> np.ndarray:
        """What leaves the stage. It gets a copy, which it may overwrite; and so may the next stage with the result."""
        stage = self.stage
        entering = None if self.shape is None else wave.copy()
        out = stage.forward(entering, stage.prepare(variables), self.batch, tape)
        kept = out.copy()
        if not np.may_share_memory(out, variables.probe):
            out[...] = np.nan
        return kept

    def adjoint(
        self, grad: np.ndarray, variables: Variables, tape: stages.Tape, gradients: dict[str, np.ndarray]
    ) -> np.ndarray:
        stage = self.stage
        return stage.adjoint(grad.copy(), stage.prepare(variables), self.batch, tape, gradients)

    def random(self, rng: np.random.Generator, mean: float = 0.0) -> np.ndarray | None:
        """Something that may enter."""
        if self.shape is None:
            return None
        return mean + rng.standard_normal(self.shape) if self.real else random_complex(rng, self.shape)


def illumination_cases(grid: Grid) -> list[Case]:
    mask = grid.band_mask(CUTOFF)
    subscans = random_complex(np.random.default_rng(7), (MARKER.max() + 1, PROBE_MODES, *grid.shape))
    shared, own = (1, PROBE_MODES, 1, *grid.shape), (PATTERNS, PROBE_MODES, 1, *grid.shape)
    first_tilts = make_variables(grid).tilts[:1]

    def shift(backend: Backend) -> stages.Stage:
        return stages.SubpixelShift(grid, mask, backend)

    def tilt(backend: Backend) -> stages.Stage:
        return stages.TiltRamp(grid, backend, column=0)

    found = [
        Case("probe", grid, lambda backend: stages.Illumination(), None, ("probe",)),
        Case(
            "probe scenarios",
            grid,
            lambda backend: stages.ProbeScenarios(MARKER),
            None,
            ("probe",),
            changes={"probe": subscans},
        ),
        Case("shift of one pattern", grid, shift, (1, *own[1:]), ("positions",), batch=ONE),
        Case(
            "shift, one position",
            grid,
            shift,
            shared,
            ("positions",),
            changes={"positions": np.array([[0.3, -0.2]])},
        ),
        Case("tilt before, one pattern", grid, tilt, (1, *own[1:]), ("tilts",), batch=ONE),
    ]
    for wave, shape in (("shared", shared), ("own", own)):
        found += [
            Case(f"to reciprocal, {wave}", grid, lambda backend: stages.ToReciprocal(), shape),
            Case(f"to real, {wave}", grid, lambda backend: stages.ToReal(), shape),
            Case(
                f"plates, {wave}",
                grid,
                lambda backend: stages.PhasePlates(Plates(grid.shape), backend),
                shape,
            ),
            Case(
                f"aberrations, {wave}",
                grid,
                lambda backend: stages.LocalAberrations(grid, mask, backend, MARKER, 6),
                shape,
                ("aberrations_array",),
            ),
            Case(f"shift, {wave}", grid, shift, shape, ("positions",)),
            Case(f"tilt before, {wave}", grid, tilt, shape, ("tilts",)),
            Case(f"one tilt before, {wave}", grid, tilt, shape, ("tilts",), changes={"tilts": first_tilts}),
        ]
    return found


CHANGED = ("multislice, filtered", "multislice, blurred", "multislice, blurred and filtered")
"""What happens to windows of the object before the waves meet them."""


def specimen_cases(grid: Grid) -> list[Case]:
    """Integrators with all kinds of tilts, waves and distances; on the second grid only the most general."""
    kinds = [
        *itertools.product(("no", "one", "own"), ("shared", "own"), (1, SLICES - 1, SLICES)),
        ("own", "one of", 1),
    ]
    return [
        specimen_case(grid, method, tilts, wave, n_distances)
        for method in ("multislice", "angular_spectrum", *CHANGED, *stages.INTEGRATORS)
        for tilts, wave, n_distances in (kinds if grid is GRID else [("own", "own", SLICES - 1)])
        if n_distances < SLICES or method in stages.INTEGRATORS
    ]


def specimen_case(grid: Grid, method: str, tilts: str, wave: str, n_distances: int) -> Case:
    mask = grid.band_mask(CUTOFF)
    rate = angular_spectrum_phase_rate(grid) if method == "angular_spectrum" else fresnel_phase_rate(grid)
    changes = {"slice_distances": np.random.default_rng(8).uniform(20, 40, n_distances)}
    if tilts == "one":
        changes["tilts"] = make_variables(grid).tilts[:1]

    def make(backend: Backend) -> stages.Stage:
        preblur = 0.7 if "blurred" in method else 0.0
        windows = stages.ObjectWindows(grid, mask, backend, method.endswith("filtered"), preblur_std=preblur)
        if method not in stages.INTEGRATORS:
            return stages.Multislice(windows, stages.Propagation(grid, mask, backend, rate, tilts != "no"))
        branches = stages.INTEGRATORS[method]
        fractions = stages.propagation_fractions(branches)
        propagation = stages.Propagation(grid, mask, backend, rate, tilts != "no", fractions)
        return stages.FractionalSteps(windows, propagation, branches)

    return Case(
        f"{method}, {tilts} tilts, {wave} wave, {n_distances} distances",
        grid,
        make,
        (PATTERNS if wave == "own" else 1, PROBE_MODES, 1, *grid.shape),
        ("obj", "slice_distances") if tilts == "no" else ("obj", "slice_distances", "tilts"),
        batch=ONE if wave == "one of" else BATCH,
        changes=changes,
    )


def exit_cases(grid: Grid) -> list[Case]:
    """From the exit wave to intensities."""
    mask, shape = grid.band_mask(CUTOFF), (PATTERNS, PROBE_MODES, OBJECT_MODES, *grid.shape)
    one = {"tilts": make_variables(grid).tilts[:1]}

    def tilt(backend: Backend) -> stages.Stage:
        return stages.TiltRamp(grid, backend, column=4)

    found = [
        Case("tilt after", grid, tilt, shape, ("tilts",)),
        Case("one tilt after", grid, tilt, shape, ("tilts",), changes=one),
        Case("far field", grid, lambda backend: stages.FarField(mask, backend), shape),
        Case(
            "far field, no limit",
            grid,
            lambda backend: stages.FarField(np.ones(grid.shape, bool), backend),
            shape,
        ),
        Case("intensity", grid, lambda backend: stages.Intensity(), shape, linear=False),
    ]
    for n_defoci, tilts in itertools.product((1, len(DEFOCI)), ("no", "one", "own")):
        found.append(
            Case(
                f"near field, {n_defoci} defoci, {tilts} tilts",
                grid,
                lambda backend, n=n_defoci, tilted=tilts != "no": stages.NearField(
                    grid, mask, backend, DEFOCI[:n], 3e6, tilted
                ),
                shape,
                () if tilts == "no" else ("tilts",),
                changes=one if tilts == "one" else {},
            )
        )
    return found


def count_cases(grid: Grid) -> list[Case]:
    """What happens to intensities. Kinks of the envelope (no negative counts) must not lie within a step."""
    shape = (PATTERNS, *grid.shape)

    def case(name: str, make: Callable[[Backend], stages.Stage], *owns: str, **options: Any) -> Case:
        return Case(name, grid, make, **{"shape": shape, "owns": owns, "real": True, **options})

    found = [
        case("beam current", lambda backend: stages.BeamCurrent(), "beam_current"),
        case(
            "one beam current",
            lambda backend: stages.BeamCurrent(),
            "beam_current",
            changes={"beam_current": np.array([-0.7])},
        ),
        case(
            "virtual detectors", lambda backend: stages.VirtualDetectors(virtual_masks(grid.shape), backend)
        ),
    ]
    for defoci, (counts, mean, step) in itertools.product(
        (DEFOCI[:1], DEFOCI), (("positive", 10.0, 1e-3), ("clipped", 0.0, 1e-6))
    ):
        found.append(
            case(
                f"envelope, {len(defoci)} defoci, {counts}",
                lambda backend, defoci=defoci: stages.SourceEnvelope(grid, backend, 5e-3, defoci),
                linear=False,
                mean=mean,
                step=step,
            )
        )
    for width, upsample in ((0.8, 1), (-0.5, 3), (0.0, 1)):
        found.append(
            case(
                f"blur {width:g} x {upsample}",
                lambda backend, u=upsample: stages.DetectorBlur(grid.shape, backend, u),
                *(("detector_blur_std",) if width else ()),
                changes={"detector_blur_std": np.array([width])},
            )
        )
    for centred in (False, True):
        order = "centred" if centred else "corner"
        found += [
            case(
                f"crop, {order}",
                lambda backend, c=centred: stages.CropPadding(grid.shape, 3, backend, c),
            ),
            case(f"sum 3 x 3, {order}", lambda backend, c=centred: stages.SumPixels(3, c)),
            case(
                f"sum 2 x 2, {order}",
                lambda backend, c=centred: stages.SumPixels(2, c),
                shape=(PATTERNS, 6, 10),
            ),
            case(
                f"background, {order}",
                lambda backend, c=centred: stages.Background(c),
                "static_background",
                linear=False,
            ),
            case(
                f"gains, {order}",
                lambda backend, c=centred: stages.DetectorGains(grid.shape, backend, c),
                "detector_gains",
            ),
        ]
    return found


def matching_cases(grid: Grid) -> list[Case]:
    """Simulated to measured pixels, and a blur that is reflected at the rim."""
    shape = (PATTERNS, *grid.shape)
    found = []
    for centred in (False, True):
        order = "centred" if centred else "corner"
        makers: list[tuple[str, Callable[[Backend], stages.Stage]]] = [
            (
                f"crop to {size}",
                lambda backend, c=centred, s=size: stages.MatchCrop(grid.shape, s, backend, c),
            )
            for size in ((7, 8), (12, 12))
        ]
        makers += [
            (
                f"resample to {s}",
                lambda backend, c=centred, s=s: stages.MatchResample(grid.shape, s, backend, c),
            )
            for s in ((6, 5), (7, 11), (20, 16))
        ]
        found += [Case(f"{name}, {order}", grid, make, shape, real=True) for name, make in makers]
        for width in (0.7, -1.4, 6.0, 0.0):
            found.append(
                Case(
                    f"reflected blur {width:g}, {order}",
                    grid,
                    lambda backend, c=centred: stages.ReflectedBlur(grid.shape, backend, c),
                    shape,
                    ("detector_blur_std",) if width else (),
                    real=True,
                    changes={"detector_blur_std": np.array([width])},
                )
            )
    weights = np.array([0.7, 0.2])
    exit_waves = (PATTERNS, PROBE_MODES, OBJECT_MODES, *grid.shape)
    found.append(
        Case(
            "intensity, weighted",
            grid,
            lambda backend: stages.Intensity(backend.asarray(weights, backend.real)),
            exit_waves,
            linear=False,
        )
    )
    return found


def virtual_masks(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(9).uniform(0, 1, (4, *shape))


CASES = [
    case
    for grid in GRIDS
    for cases in (illumination_cases, specimen_cases, exit_cases, count_cases, matching_cases)
    for case in cases(grid)
]
OWNED = [(case, block) for case in CASES for block in case.owns]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def test_every_stage_is_tested():
    exported = {getattr(stages, name) for name in set(stages.__all__) - NOT_STAGES}
    assert {type(case.stage) for case in CASES} == exported


@every_case
def test_adjoint(case: Case):
    """<J v, y> = <v, J* y>: exact for linear stages, by a finite difference for the others."""
    rng = np.random.default_rng(2)
    variables = case.variables
    at = case.random(rng, case.mean)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(at, variables, tape))
    v = random_like(rng, variables.probe) if case.shape is None else case.random(rng)

    def apply(v: np.ndarray) -> np.ndarray:
        if case.shape is None:  # linear in its own variable, the probe
            return case.forward(None, variables.replace({"probe": v}), {})
        if case.linear:
            return case.forward(v, variables, {})
        return directional_derivative(lambda t: case.forward(at + t * v, variables, {}), case.step)

    def adjoint(y: np.ndarray) -> np.ndarray:
        gradients = variables.zeros(("probe",)) if case.shape is None else {}
        back = case.adjoint(y, variables, tape, gradients)
        return gradients["probe"] if case.shape is None else back

    assert_adjoint(apply, adjoint, v, y, 1e-10 if case.linear else 1e-6)


@pytest.mark.parametrize(("case", "block"), OWNED, ids=[f"{case}: {block}" for case, block in OWNED])
def test_gradient_of_own_variables(case: Case, block: str):
    """The derivative of Re<y, output> along a random change of the variable is <gradient, change>."""
    rng = np.random.default_rng(3)
    variables = case.variables
    wave = case.random(rng, case.mean)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(wave, variables, tape))
    gradients = variables.zeros((block,))
    case.adjoint(y, variables, tape, gradients)
    value = variables.block(block)
    change = random_like(rng, value)

    def function(t: float) -> float:
        return inner(case.forward(wave, variables.replace({block: value + t * change}), {}), y)

    expected = directional_derivative(function, STEP.get(block, 1e-3))
    assert inner(gradients[block], change) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.owns], ids=str)
def test_gradients_are_added(case: Case):
    """Batches share accumulators: what is there stays. What flows on does not depend on what is refined."""
    rng = np.random.default_rng(4)
    variables = case.variables
    wave = case.random(rng, case.mean)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(wave, variables, tape))
    fresh = variables.zeros(case.owns)
    back = case.adjoint(y, variables, tape, fresh)
    before = {name: random_like(rng, array) for name, array in fresh.items()}
    used = {name: array.copy() for name, array in before.items()}
    case.adjoint(y, variables, tape, used)
    for name in case.owns:
        assert np.any(fresh[name])
        np.testing.assert_allclose(used[name] - before[name], fresh[name], rtol=1e-10, atol=1e-9)
    np.testing.assert_array_equal(case.adjoint(y, variables, tape, {}), back)


@every_case
def test_single_precision(case: Case):
    """Waves and counts keep their precision; gradients have that of their variables. The values agree."""
    rng = np.random.default_rng(5)
    variables = case.variables
    wave = case.random(rng, case.mean)
    tape: stages.Tape = {}
    out = case.forward(wave, variables, tape)
    y = random_like(rng, out)
    gradients = variables.zeros(case.owns)
    back = case.adjoint(y, variables, tape, gradients)

    def short(array: np.ndarray) -> np.ndarray:
        return array.astype(SINGLE.complex if array.dtype.kind == "c" else SINGLE.real)

    light = replace(case, backend=SINGLE)
    few = variables.replace({"obj": short(variables.obj), "probe": short(variables.probe)})
    light_tape: stages.Tape = {}
    light_out = light.forward(None if wave is None else short(wave), few, light_tape)
    light_gradients = few.zeros(case.owns)
    light_back = light.adjoint(short(y), few, light_tape, light_gradients)
    assert light_out.dtype == (SINGLE.complex if out.dtype.kind == "c" else SINGLE.real)
    assert light_back.dtype == (SINGLE.complex if back.dtype.kind == "c" else SINGLE.real)
    assert relative(light_out, out) < 1e-5
    assert relative(light_back, back) < 1e-5
    for name in case.owns:
        assert light_gradients[name].dtype == few.block(name).dtype
        assert relative(light_gradients[name], gradients[name]) < 1e-4


@pytest.mark.parametrize("case", [case for case in CASES if case.grid is GRID], ids=str)
def test_on_a_device(device: None, case: Case):
    """No array of the host meets one of the device, and the values are those of the CPU."""
    gpu = select("gpu", "double")
    rng = np.random.default_rng(40)
    variables = case.variables
    wave = case.random(rng, case.mean)
    tape: stages.Tape = {}
    out = case.forward(wave, variables, tape)
    y = random_like(rng, out)
    gradients = variables.zeros(case.owns)
    back = case.adjoint(y, variables, tape, gradients)

    stage = case.make(gpu)
    there = variables.replace({name: gpu.asarray(variables.block(name)) for name in variables.present})
    point = stage.prepare(there)
    tape = {}
    found = stage.forward(None if wave is None else gpu.asarray(wave), point, case.batch, tape)
    np.testing.assert_allclose(found.get(), out, rtol=1e-10, atol=1e-10)
    added = {name: gpu.zeros(gradient.shape, gradient.dtype) for name, gradient in gradients.items()}
    found = stage.adjoint(gpu.asarray(y), point, case.batch, tape, added)
    np.testing.assert_allclose(found.get(), back, rtol=1e-10, atol=1e-10)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(added[name].get(), gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())


PER_PATTERN = [
    (case, block)
    for case, block in OWNED
    if block in ("positions", "tilts", "beam_current") and len(case.variables.block(block)) == len(CORNERS)
]


@pytest.mark.parametrize(("case", "block"), PER_PATTERN, ids=[f"{c}: {b}" for c, b in PER_PATTERN])
def test_patterns_outside_the_batch_get_no_gradient(case: Case, block: str):
    gradient = gradients_of(case, block)
    assert np.flatnonzero(gradient.any(axis=1) if gradient.ndim > 1 else gradient).tolist() == (
        case.batch.index.tolist()
    )


@pytest.mark.parametrize(
    ("name", "block"), [("probe scenarios", "probe"), ("aberrations, shared", "aberrations_array")]
)
def test_groups_outside_the_batch_get_no_gradient(name: str, block: str):
    """Group 1 has only the pattern that is left out."""
    gradient = gradients_of(next(case for case in CASES if case.name == name), block)
    assert np.flatnonzero(gradient.reshape(len(gradient), -1).any(axis=1)).tolist() == [0, 2]


def gradients_of(case: Case, block: str) -> np.ndarray:
    rng = np.random.default_rng(6)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(case.random(rng, case.mean), case.variables, tape))
    gradients = case.variables.zeros((block,))
    case.adjoint(y, case.variables, tape, gradients)
    return gradients[block]


@pytest.mark.parametrize("column", [0, 4])
def test_only_its_own_columns_of_tilts_act_and_have_gradients(column: int):
    stage = stages.TiltRamp(GRID, BACKEND, column)
    rng = np.random.default_rng(10)
    variables = make_variables(GRID)
    wave = random_complex(rng, (PATTERNS, 1, 1, *GRID.shape))
    own = np.zeros(6, bool)
    own[column : column + 2] = True
    others = np.where(own, variables.tilts, 0.5)
    tape: stages.Tape = {}
    out = stage.forward(wave, variables.tilts, BATCH, tape)
    np.testing.assert_array_equal(stage.forward(wave, others, BATCH, {}), out)
    gradients = variables.zeros(("tilts",))
    stage.adjoint(random_like(rng, out), variables.tilts, BATCH, tape, gradients)
    assert gradients["tilts"].any(axis=0).tolist() == own.tolist()


# What each stage does to a wave, against formulas that share no code with it.


def everything(grid: Grid) -> np.ndarray:
    """The band limit that limits nothing."""
    return np.ones(grid.shape, bool)


def through(stage: stages.Stage, wave: np.ndarray, variables: Variables, batch: Batch = BATCH) -> np.ndarray:
    return stage.forward(wave.copy(), stage.prepare(variables), batch, {})


def propagated(wave: np.ndarray, grid: Grid, distance: float) -> np.ndarray:
    """Fresnel propagation without a band limit."""
    qy = np.fft.fftfreq(grid.shape[0], grid.pixel_size_A[0])[:, None]
    qx = np.fft.fftfreq(grid.shape[1], grid.pixel_size_A[1])
    transfer = np.exp(-1j * np.pi * grid.wavelength * distance * (qy**2 + qx**2))
    return np.fft.ifft2(transfer * np.fft.fft2(wave))


def vacuum_gap(
    grid: Grid, distance: float, tilts: np.ndarray | None = None
) -> tuple[stages.Multislice, Variables]:
    """Two slices of vacuum, and what is between them."""
    obj = np.ones((1, 2, grid.shape[0] + 6, grid.shape[1] + 5), complex)
    changes = {"obj": obj, "slice_distances": np.array([distance])}
    if tilts is not None:
        changes["tilts"] = tilts
    mask = everything(grid)
    propagation = stages.Propagation(grid, mask, BACKEND, fresnel_phase_rate(grid), tilts is not None)
    windows = stages.ObjectWindows(grid, mask, BACKEND, False)
    return stages.Multislice(windows, propagation), make_variables(grid, **changes)


def test_whole_pixel_shift_moves_the_probe_to_larger_indices():
    """The sign of the Fourier shift, and that it is exact: all frequencies pass here."""
    variables = make_variables(GRID, positions=CORNERS + np.array([2.0, -3.0]))
    probe = variables.probe[None, :, None]
    spectrum = through(stages.ToReciprocal(), probe, variables)
    spectrum = through(stages.SubpixelShift(GRID, everything(GRID), BACKEND), spectrum, variables)
    for moved in through(stages.ToReal(), spectrum, variables):
        np.testing.assert_allclose(moved, np.roll(probe[0], (2, -3), axis=(-2, -1)), atol=1e-12)


def test_one_position_shifts_every_window_by_its_own_remainder():
    """positions of shape (1, 2): the same place for all patterns, and corners that differ."""
    variables = make_variables(GRID, positions=np.array([[4.0, 3.0]]))
    probe = variables.probe[None, :, None]
    spectrum = through(stages.ToReciprocal(), probe, variables)
    spectrum = through(stages.SubpixelShift(GRID, everything(GRID), BACKEND), spectrum, variables)
    for moved, corner in zip(through(stages.ToReal(), spectrum, variables), BATCH.crop_origins, strict=True):
        np.testing.assert_allclose(moved, np.roll(probe[0], (4, 3) - corner, axis=(-2, -1)), atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
@pytest.mark.parametrize("column", [0, 4])
def test_tilt_before_or_after_moves_the_pattern(grid: Grid, column: int):
    """By +t/lambda: a tilt of a whole number of pixels rolls the pattern. The centre of the window keeps its phase."""
    pixels = np.array([[2, 0], [0, -3], [7, 7], [-1, 4]])
    reciprocal = 1 / (np.array(grid.shape) * np.array(grid.pixel_size_A))
    tilts = np.full((len(CORNERS), 6), 0.3)
    tilts[:, column : column + 2] = pixels * reciprocal * grid.wavelength
    variables = make_variables(grid, tilts=tilts)
    wave = variables.probe[None, :, None]
    tilted = through(stages.TiltRamp(grid, BACKEND, column), wave, variables)
    ny, nx = grid.shape
    np.testing.assert_allclose(
        tilted[..., ny // 2, nx // 2], wave[..., ny // 2, nx // 2].repeat(3, axis=0), rtol=1e-12
    )
    far = stages.FarField(everything(grid), BACKEND)
    pattern = through(stages.Intensity(), through(far, wave, variables), variables)[0]
    patterns = through(stages.Intensity(), through(far, tilted, variables), variables)
    for found, shift in zip(patterns, pixels[INDEX], strict=True):
        np.testing.assert_allclose(found, np.roll(pattern, shift, axis=(0, 1)), atol=1e-9 * pattern.max())


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
@pytest.mark.parametrize("one_for_all", [False, True])
def test_tilt_inside_moves_the_wave_sideways(grid: Grid, one_for_all: bool):
    """By +z t, in the specimen and on the way to a near-field detector."""
    distance = 35.0
    pixels = np.array([[2, 0], [0, -3], [7, 7], [-1, 4]])
    tilts = np.full((len(CORNERS), 6), 0.3)
    tilts[:, 2:4] = pixels * np.array(grid.pixel_size_A) / distance
    if one_for_all:
        tilts, pixels = tilts[3:], pixels[[3] * 4]
    specimen, variables = vacuum_gap(grid, distance, tilts)
    wave = random_complex(np.random.default_rng(11), (PATTERNS, 1, 1, *grid.shape))
    straight = propagated(wave, grid, distance)
    near = stages.NearField(grid, everything(grid), BACKEND, np.array([distance]), tilted=True)
    for found in (through(specimen, wave, variables), through(near, wave, variables)):
        for moved, before, shift in zip(found, straight, pixels[INDEX], strict=True):
            np.testing.assert_allclose(moved, np.roll(before, shift, axis=(-2, -1)), atol=1e-11)


def test_near_field_is_a_propagation_over_its_defocus():
    """Of all patterns or of each; the band limit is kept."""
    wave = random_complex(np.random.default_rng(12), (PATTERNS, PROBE_MODES, OBJECT_MODES, *GRID.shape))
    variables = make_variables(GRID)
    mask = GRID.band_mask(CUTOFF)
    limited = np.fft.ifft2(mask * np.fft.fft2(wave))
    for defoci in (DEFOCI[:1], DEFOCI):
        found = through(stages.NearField(GRID, mask, BACKEND, defoci), wave, variables)
        own = defoci[INDEX] if len(defoci) > 1 else defoci.repeat(PATTERNS)
        for image, before, distance in zip(found, limited, own, strict=True):
            np.testing.assert_allclose(image, propagated(before, GRID, distance), atol=1e-11)
    specimen, variables = vacuum_gap(GRID, DEFOCI[0])
    near = stages.NearField(GRID, everything(GRID), BACKEND, DEFOCI[:1])
    wave = wave[:, :, :1]
    np.testing.assert_allclose(through(near, wave, variables), through(specimen, wave, variables), atol=1e-11)


def test_spherical_aberration_bends_like_a_longer_propagation():
    """A narrow beam of angle k = lambda q goes sideways by df k + Cs k^3, and Cs is C30 of a probe."""
    grid = Grid((4, 256), (0.4, 0.2), wavelength_A(80))
    q, defocus, Cs = 20 / (256 * 0.2), 150.0, 3e5
    x = (np.arange(256) - 128) * 0.2
    wave = np.tile(np.exp(2j * np.pi * q * x - (x / 5) ** 2), (4, 1))[None, None, None]
    variables = make_variables(GRID)

    def place(defocus: float, Cs: float) -> float:
        near = stages.NearField(grid, everything(grid), BACKEND, np.array([defocus]), Cs)
        counts = (np.abs(through(near, wave, variables)) ** 2).sum(axis=(0, 1, 2, 3))
        return float((counts * x).sum() / counts.sum())

    k = grid.wavelength * q
    assert place(defocus, 0) == pytest.approx(defocus * k, rel=1e-6)
    # <q^3> of the beam is a little more than q^3: its intensity has a variance 1/(2 pi 5 A)^2 of q
    spread = 1 + 3 / (2 * np.pi * 5 * q) ** 2
    assert place(0, Cs) == pytest.approx(Cs * k**3 * spread, rel=1e-6)
    assert min(place(defocus, 0), place(0, Cs)) > 0.5
    near = stages.NearField(grid, everything(grid), BACKEND, np.array([defocus]), Cs)
    aberrated = probes.aberrate(wave[0, 0], grid, np.array([defocus, 0, 0, 0, 0, 0, 0, Cs]))
    np.testing.assert_allclose(through(near, wave, variables)[0, 0], aberrated, atol=1e-11)


def test_angular_spectrum_is_exact():
    """A plane wave of angle theta gains the phase k z (cos theta - 1); the Fresnel propagator -k z sin^2 theta/2."""
    qy, qx, distance = 3 / (12 * 0.31), -4 / (15 * 0.24), 2000.0
    y, x = np.arange(12)[:, None] * 0.31, np.arange(15) * 0.24
    wave = np.exp(2j * np.pi * (qy * y + qx * x))[None, None, None]
    sin2 = GRID.wavelength**2 * (qy**2 + qx**2)
    k = 2 * np.pi / GRID.wavelength
    _, variables = vacuum_gap(GRID, distance)
    windows = stages.ObjectWindows(GRID, everything(GRID), BACKEND, False)
    phases = []
    for rate, expected in (
        (angular_spectrum_phase_rate(GRID), k * distance * (np.sqrt(1 - sin2) - 1)),
        (fresnel_phase_rate(GRID), -k * distance * sin2 / 2),
    ):
        stage = stages.Multislice(windows, stages.Propagation(GRID, everything(GRID), BACKEND, rate))
        found = through(stage, wave, variables, ONE)
        np.testing.assert_allclose(found, wave * np.exp(1j * expected), atol=1e-8)
        phases.append(expected)
    assert abs(phases[0] - phases[1]) > 0.01


@pytest.mark.parametrize(
    ("method", "order"), [("multislice", 1), ("better_multislice", 4), ("yoshida", 4)], ids=str
)
def test_order_in_the_slice_thickness(method: str, order: int):
    """A thick phase object without structure along the beam, against the exponential of the whole operator."""
    grid, depth = Grid((6, 7), (0.31, 0.24), wavelength_A(80)), 12.0
    rng = np.random.default_rng(13)
    potential = rng.uniform(0, 0.15, grid.shape)
    wave = random_complex(rng, (1, 1, 1, *grid.shape))
    size = potential.size
    transform = np.fft.fft2(np.eye(size).reshape(size, *grid.shape)).reshape(size, size)
    kinetic = np.linalg.inv(transform) @ np.diag(fresnel_phase_rate(grid).ravel()) @ transform
    exact = (expm(1j * depth * (kinetic + np.diag(potential.ravel()))) @ wave.ravel()).reshape(grid.shape)

    def error(n_slices: int) -> float:
        n_vacuum = int(method == "multislice")  # propagates after the last slice as the others do
        planes = [np.exp(1j * potential * depth / n_slices)] * n_slices + [np.ones(grid.shape)] * n_vacuum
        variables = make_variables(
            GRID, obj=np.array(planes)[None], slice_distances=np.array([depth / n_slices])
        )
        stage = specimen(grid, method)
        found = through(stage, wave, variables, Batch(index=np.array([0]), crop_origins=np.array([[0, 0]])))
        return relative(found[0, 0, 0], exact)

    assert np.log2(error(16) / error(32)) == pytest.approx(order, abs=0.25)


def specimen(grid: Grid, method: str) -> stages.Stage:
    """Without band limit and tilts."""
    if method in stages.INTEGRATORS:
        return fractional_steps(grid, stages.INTEGRATORS[method])
    mask, rate = everything(grid), fresnel_phase_rate(grid)
    windows = stages.ObjectWindows(grid, mask, BACKEND, False)
    return stages.Multislice(windows, stages.Propagation(grid, mask, BACKEND, rate))


def fractional_steps(grid: Grid, branches: tuple) -> stages.FractionalSteps:
    mask, fractions = everything(grid), stages.propagation_fractions(branches)
    windows = stages.ObjectWindows(grid, mask, BACKEND, False)
    propagation = stages.Propagation(grid, mask, BACKEND, fresnel_phase_rate(grid), False, fractions)
    return stages.FractionalSteps(windows, propagation, branches)


@pytest.mark.parametrize("method", list(stages.INTEGRATORS))
def test_opaque_pixels(method: str):
    """A transmission of zero has no logarithm, but a wave and a gradient: that of whole steps. For fractional powers
    it was raised to a constant, and a small change of it changes nothing."""
    opaque = (..., slice(4, 8), slice(5, 9))
    variables = make_variables(GRID)
    variables = variables.replace({"obj": variables.obj[:, :1].copy()})
    variables.obj[opaque] = 0
    rng = np.random.default_rng(14)
    wave = random_complex(rng, (1, 1, 1, *GRID.shape))
    branches = stages.INTEGRATORS[method]
    stage, tape = fractional_steps(GRID, branches), {}
    out = stage.forward(wave, stage.prepare(variables), BATCH, tape)
    y = random_like(rng, out)
    gradients = variables.zeros(("obj", "slice_distances"))
    back = stage.adjoint(y.copy(), stage.prepare(variables), BATCH, tape, gradients)
    for array in (out, back, *gradients.values()):
        assert np.isfinite(array).all()
    change = np.zeros_like(variables.obj)
    change[opaque] = random_like(rng, change[opaque])
    moved = variables.replace({"obj": variables.obj + change})
    whole = fractional_steps(GRID, tuple((w * (("T", 1.0) in steps), steps) for w, steps in branches))
    difference = through(whole, wave, moved) - through(whole, wave, variables)
    assert inner(gradients["obj"], change) == pytest.approx(inner(difference, y), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
def test_aberrations_are_those_of_a_probe(grid: Grid):
    """Each pattern has the aberrations of its group; C10 is a propagation by +C10; the band limit is kept."""
    rng = np.random.default_rng(15)
    coefficients = rng.uniform(-1, 1, (3, 14)) * np.array([50] * 3 + [2e3] * 4 + [5e4] * 5 + [1e6] * 2)
    coefficients[1] = 0
    variables = make_variables(grid, aberrations_array=coefficients)
    probe = variables.probe[None, :, None]
    marker = np.array([2, 0, 2, 1])
    mask = grid.band_mask(CUTOFF)
    spectrum = through(stages.ToReciprocal(), probe, variables)
    stage = stages.LocalAberrations(grid, mask, BACKEND, marker, 14)
    found = through(stages.ToReal(), through(stage, spectrum, variables), variables)
    limited = np.fft.ifft2(mask * np.fft.fft2(variables.probe))
    for wave, group in zip(found, marker[INDEX], strict=True):
        expected = probes.aberrate(limited, grid, coefficients[group])
        np.testing.assert_allclose(wave[:, 0], expected, atol=1e-11)
    variables = make_variables(grid, aberrations_array=np.array([[70.0]]))
    stage = stages.LocalAberrations(grid, mask, BACKEND, np.zeros(4, int), 1)
    for wave in through(stages.ToReal(), through(stage, spectrum, variables), variables):
        np.testing.assert_allclose(wave[:, 0], propagated(limited, grid, 70.0), atol=1e-11)


def test_each_pattern_meets_the_probe_of_its_subscan():
    subscans = random_complex(np.random.default_rng(16), (3, PROBE_MODES, *GRID.shape))
    found = through(stages.ProbeScenarios(MARKER), np.empty(0), make_variables(GRID, probe=subscans))
    np.testing.assert_array_equal(found, subscans[MARKER[INDEX]][:, :, None])


def test_beam_current_is_a_factor_on_the_amplitude():
    counts = np.random.default_rng(17).uniform(0, 9, (PATTERNS, *GRID.shape))
    variables = make_variables(GRID)
    expected = [pattern * variables.beam_current[n] ** 2 for n, pattern in zip(INDEX, counts, strict=True)]
    np.testing.assert_allclose(through(stages.BeamCurrent(), counts, variables), expected, rtol=1e-14)


def test_source_envelope_is_a_gaussian_blur():
    """Of standard deviation alpha |df|/sqrt(2) in Å, the same in all directions; no count is lost."""
    grid, alpha = Grid((48, 55), (0.3, 0.25), wavelength_A(80)), 4e-3
    defoci = np.array([300.0, -450.0, 0.0, 380.0])
    point = np.zeros((PATTERNS, *grid.shape))
    point[:, 24, 27] = 7
    found = through(stages.SourceEnvelope(grid, BACKEND, alpha, defoci), point, make_variables(GRID))
    y, x = (np.arange(48)[:, None] - 24) * 0.3, (np.arange(55) - 27) * 0.25
    for image, defocus in zip(found, defoci[INDEX], strict=True):
        std = alpha * abs(defocus) / np.sqrt(2)
        gaussian = 7 * 0.3 * 0.25 * np.exp(-(y**2 + x**2) / (2 * std**2)) / (2 * np.pi * std**2)
        np.testing.assert_allclose(image, gaussian, atol=1e-6 * gaussian.max())
        assert image.sum() == pytest.approx(7, rel=1e-6)
    image = point[:1] + 1
    np.testing.assert_allclose(
        through(stages.SourceEnvelope(grid, BACKEND, alpha, np.zeros(1)), image, make_variables(GRID)), image
    )


def test_source_envelope_of_smooth_counts_keeps_their_sum():
    counts = np.random.default_rng(18).uniform(5, 6, (PATTERNS, *GRID.shape))
    blurred = through(stages.SourceEnvelope(GRID, BACKEND, 6e-3, DEFOCI), counts, make_variables(GRID))
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), counts.sum(axis=(1, 2)), rtol=1e-12)
    assert (blurred.std(axis=(1, 2)) < counts.std(axis=(1, 2))).all()


def test_source_envelope_gives_no_negative_counts():
    """A Gaussian narrower than a pixel has side lobes."""
    point = np.zeros((PATTERNS, *GRID.shape))
    point[:, 3, 4] = 1
    found = through(
        stages.SourceEnvelope(GRID, BACKEND, 1e-3, np.array([150.0])), point, make_variables(GRID)
    )
    assert found.min() == 0
    assert found[:, 3, 5].min() > 0


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: str(grid.shape))
@pytest.mark.parametrize(("width", "upsample"), [(0.7, 1), (-0.7, 1), (0.6, 3), (5.0, 1), (0.0, 2)])
def test_detector_blur_is_a_periodic_convolution(grid: Grid, width: float, upsample: int):
    """With a Gaussian that sums to 1, in model pixels: the sum over all shifts of the pattern."""
    counts = np.random.default_rng(19).uniform(0, 9, (PATTERNS, *grid.shape))
    std = max(abs(width) * upsample, 1e-9)
    weights = []
    for n in grid.shape:
        steps = np.arange(n)
        profile = np.exp(-(np.minimum(steps, n - steps) ** 2) / (2 * std**2))
        weights.append(profile / profile.sum())
    expected = sum(
        weights[0][dy] * weights[1][dx] * np.roll(counts, (dy, dx), axis=(1, 2))
        for dy, dx in np.ndindex(grid.shape)
    )
    stage = stages.DetectorBlur(grid.shape, BACKEND, upsample)
    found = through(stage, counts, make_variables(grid, detector_blur_std=np.array([width])))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), counts.sum(axis=(1, 2)), rtol=1e-13)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("shape", "pad"), [((12, 15), 3), ((9, 8), 2), ((9, 8), 1)])
def test_crop_keeps_the_centre(shape: tuple[int, int], pad: int, centred: bool):
    """Odd and even sizes: cropping corner-centred patterns is cutting the rim of centred ones."""
    pattern = np.arange(2 * shape[0] * shape[1], dtype=float).reshape(2, *shape)
    entering = pattern if centred else np.fft.ifftshift(pattern, axes=(1, 2))
    kept = through(stages.CropPadding(shape, pad, BACKEND, centred), entering, make_variables(GRID))
    if not centred:
        kept = np.fft.fftshift(kept, axes=(1, 2))
    np.testing.assert_array_equal(kept, pattern[:, pad : shape[0] - pad, pad : shape[1] - pad])


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(
    ("shape", "u"), [((12, 15), 3), ((15, 12), 3), ((12, 8), 2), ((6, 10), 2), ((8, 12), 4)]
)
def test_pixels_are_summed_from_the_first_of_the_centred_pattern(
    shape: tuple[int, int], u: int, centred: bool
):
    pattern = np.random.default_rng(20).uniform(0, 9, (2, *shape))
    expected = np.array(
        [
            [
                [image[y * u : (y + 1) * u, x * u : (x + 1) * u].sum() for x in range(shape[1] // u)]
                for y in range(shape[0] // u)
            ]
            for image in pattern
        ]
    )
    entering = pattern if centred else np.fft.ifftshift(pattern, axes=(1, 2))
    found = through(stages.SumPixels(u, centred), entering, make_variables(GRID))
    if not centred:
        found = np.fft.fftshift(found, axes=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("centred", [False, True])
def test_background_is_the_square_of_its_root(centred: bool):
    pattern = np.random.default_rng(21).uniform(0, 9, (PATTERNS, *GRID.shape))
    variables = make_variables(GRID)
    entering = pattern if centred else np.fft.ifftshift(pattern, axes=(1, 2))
    found = through(stages.Background(centred), entering, variables)
    if not centred:
        found = np.fft.fftshift(found, axes=(1, 2))
    np.testing.assert_allclose(found, pattern + variables.static_background**2, rtol=1e-14)


@pytest.mark.parametrize("centred", [False, True])
def test_a_gain_belongs_to_its_quadrant(centred: bool):
    """The pixel at n//2, zero frequency, is the first of the second half of each axis, also where n is odd."""
    variables = make_variables(GRID)
    pattern = np.random.default_rng(21).uniform(1, 9, (PATTERNS, 7, 10))
    entering = pattern if centred else np.fft.ifftshift(pattern, axes=(1, 2))
    found = through(stages.DetectorGains((7, 10), BACKEND, centred), entering, variables)
    ratio = (found if centred else np.fft.fftshift(found, axes=(1, 2))) / pattern
    gains = abs(variables.detector_gains)
    for rows, first in ((slice(0, 3), 0), (slice(3, 7), 1)):
        np.testing.assert_allclose(ratio[:, rows, :5], gains[first, 0])
        np.testing.assert_allclose(ratio[:, rows, 5:], gains[first, 1])


def test_background_reaches_pixels_beyond_the_band_limit():
    params = small_problem(20)
    del params["dataset"]
    background = np.random.default_rng(22).uniform(0.1, 1, (16, 20))
    without = pypty.simulate(params)
    dark = without.max(axis=0) == 0
    assert 0.2 < dark.mean() < 0.9
    found = pypty.simulate({**params, "static_background": background})
    np.testing.assert_allclose(found, without + background**2, rtol=1e-13)
    np.testing.assert_allclose(found[:, dark], np.tile(background[dark] ** 2, (6, 1)), rtol=1e-14)


def test_virtual_detectors_are_sums():
    counts = np.random.default_rng(23).uniform(0, 9, (PATTERNS, *GRID.shape))
    masks = virtual_masks(GRID.shape)
    expected = [[(pattern * mask).sum() for mask in masks] for pattern in counts]
    found = through(stages.VirtualDetectors(masks, BACKEND), counts, make_variables(GRID))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-13)


@pytest.mark.parametrize("recon_type", ["far_field", "near_field"])
def test_virtual_detectors_see_the_patterns_as_they_are_simulated(recon_type: str):
    """Masks have the centre at n//2 like patterns; the padded rim is not seen."""
    params = small_problem(21, window=(15, 20), data_pad=2, recon_type=recon_type, defocus_array=[40.0])
    del params["dataset"]
    masks = virtual_masks((11, 16))
    patterns = pypty.simulate({**params, "use_padded_intensity": False})
    found = pypty.simulate({**params, "masks": masks, "algorithm": "lsq_compressed"})
    expected = [[(pattern * mask).sum() for mask in masks] for pattern in patterns]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# Phase plates, read from a file.


def write_plates(path: Path, plates: np.ndarray, **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("configs", data=plates, **options)
    return path


def test_only_the_plates_asked_for_are_read(tmp_path: Path):
    """A damaged plate does not matter to the other patterns."""
    plates = random_complex(np.random.default_rng(24), (4, *GRID.shape))
    path = write_plates(tmp_path / "plates.h5", plates, chunks=(1, *GRID.shape), fletcher32=True)
    with h5py.File(path) as file:
        damaged = file["configs"].id.get_chunk_info_by_coord((2, 0, 0)).byte_offset
    with path.open("r+b") as file:
        file.seek(damaged)
        file.write(b"\xff" * 64)
    source = PhasePlateSource(path)
    stage = stages.PhasePlates(source, BACKEND)
    variables = make_variables(GRID)
    wave = random_complex(np.random.default_rng(25), (1, PROBE_MODES, 1, *GRID.shape))
    found = through(stage, wave, variables)
    np.testing.assert_allclose(found, wave * plates[INDEX][:, None, None], rtol=1e-14)
    with pytest.raises(DataError, match=r"plates\.h5.*cannot be read"):
        through(stage, wave, variables, Batch(index=np.array([2]), crop_origins=CORNERS[2:3]))
    source.close()


def test_plates_multiply_the_spectrum_of_their_pattern(tmp_path: Path):
    """Zero frequency first. Every pattern is that of a probe with the plate in it."""
    params = small_problem(22, subpixel=False)
    del params["dataset"]
    plates = np.exp(1j * np.random.default_rng(26).uniform(-2, 2, (6, 16, 20)))
    path = write_plates(tmp_path / "plates.h5", plates)
    found = pypty.simulate({**params, "phase_plate_in_h5": str(path)})
    spectrum = np.fft.fft2(params["probe"], axes=(0, 1))
    for n, pattern in enumerate(found):
        probe = np.fft.ifft2(plates[n][..., None] * spectrum, axes=(0, 1))
        alone = {**params, "probe": probe, "positions": params["positions"][n : n + 1]}
        np.testing.assert_allclose(pattern, pypty.simulate(alone)[0], atol=1e-10 * pattern.max())


# The whole chain.


@pytest.mark.parametrize("others", [(), ("plates",), ("tilt",), ("plates", "tilt")], ids=str)
def test_aberrations_and_sub_pixel_shift_act_together(others: tuple[str, ...], tmp_path: Path):
    """Neither undoes the other, nor a plate or a tilt before the specimen: the patterns are those of a probe that
    was changed beforehand, and then shifted."""
    params = small_problem(23)
    del params["dataset"]
    grid = Grid((16, 20), (0.31, 0.26), wavelength_A(80))
    rng = np.random.default_rng(27)
    coefficients = rng.uniform(-1, 1, (2, 5)) * [60, 60, 60, 3e3, 3e3]
    marker = np.array([0, 1, 1, 0, 1, 0])
    changes: dict[str, Any] = {"aberrations_array": coefficients, "aberration_marker": marker}
    plates = np.ones((6, 16, 20), complex)
    tilt = np.zeros(2)
    if "plates" in others:
        plates = np.exp(1j * rng.uniform(-2, 2, plates.shape))
        changes["phase_plate_in_h5"] = str(write_plates(tmp_path / "plates.h5", plates))
    if "tilt" in others:
        tilt = np.array([4e-3, -7e-3])
        changes |= {"tilts": np.array([[*tilt, 0, 0, 0, 0]]), "tilt_mode": 2}
    found = pypty.simulate({**params, **changes})
    y = (np.arange(16) - 8)[:, None] * 0.31
    x = (np.arange(20) - 10) * 0.26
    ramp = np.exp(2j * np.pi * (y * tilt[0] + x * tilt[1]) / grid.wavelength)
    mask = grid.band_mask(2 / 3)
    for n, pattern in enumerate(found):
        spectrum = np.fft.fft2(params["probe"].transpose(2, 0, 1)) * plates[n] * mask
        probe = probes.aberrate(np.fft.ifft2(spectrum), grid, coefficients[marker[n]]) * ramp
        alone = {**params, "probe": probe.transpose(1, 2, 0), "positions": params["positions"][n : n + 1]}
        np.testing.assert_allclose(pattern, pypty.simulate(alone)[0], atol=1e-10 * pattern.max())
        unshifted = pypty.simulate({**alone, "allow_subPixel_shift": False})[0]
        assert relative(pattern, unshifted) > 0.01


def test_subscans_are_reconstructions_of_their_own():
    """Pattern j is that of the probe of its subscan alone."""
    params = small_problem(24)
    del params["dataset"]
    probe = random_complex(np.random.default_rng(28), (16, 20, 2, 3))
    marker = np.array([2, 0, 1, 1, 0, 2])
    found = pypty.simulate({**params, "probe": probe, "probe_marker": marker})
    for subscan in range(3):
        alone = pypty.simulate({**params, "probe": probe[..., subscan]})
        own = marker == subscan
        np.testing.assert_allclose(found[own], alone[own], rtol=1e-10, atol=1e-12 * alone.max())


FAR = ModelOptions(grid=GRID, cutoff=CUTOFF, subpixel=False)
NEAR = replace(FAR, near_field=NearFieldOptions(DEFOCI))
MODELS: dict[str, tuple[ModelOptions, str]] = {
    "least": (FAR, "Illumination Multislice FarField Intensity"),
    "shift": (
        replace(FAR, subpixel=True),
        "Illumination ToReciprocal SubpixelShift ToReal Multislice FarField Intensity",
    ),
    "integrator": (replace(FAR, propagation="yoshida"), "Illumination FractionalSteps FarField Intensity"),
    "subscans": (replace(FAR, probe_marker=MARKER), "ProbeScenarios Multislice FarField Intensity"),
    "one pair of transforms": (
        replace(FAR, subpixel=True, plates=Plates(GRID.shape), aberration_marker=MARKER, n_aberrations=6),
        "Illumination ToReciprocal PhasePlates LocalAberrations SubpixelShift ToReal Multislice FarField "
        "Intensity",
    ),
    "tilt between spectra": (
        replace(FAR, subpixel=True, aberration_marker=MARKER, n_aberrations=6, tilt_mode=4),
        "Illumination ToReciprocal LocalAberrations ToReal TiltRamp ToReciprocal SubpixelShift ToReal Multislice "
        "TiltRamp FarField Intensity",
    ),
    "tilt inside": (replace(FAR, tilt_mode=0), "Illumination Multislice FarField Intensity"),
    "tilt after": (replace(FAR, tilt_mode=1), "Illumination Multislice TiltRamp FarField Intensity"),
    "tilt before": (replace(FAR, tilt_mode=2), "Illumination TiltRamp Multislice FarField Intensity"),
    "tilt inside and after": (
        replace(FAR, tilt_mode=3, propagation="better_multislice"),
        "Illumination FractionalSteps TiltRamp FarField Intensity",
    ),
    "counts": (
        replace(
            FAR,
            crop=3,
            across=(3, 3),
            unknowns=frozenset({"beam_current", "static_background", "detector_blur_std"}),
        ),
        "Illumination Multislice FarField Intensity BeamCurrent DetectorBlur CropPadding SumPixels Background",
    ),
    "near field": (NEAR, "Illumination Multislice NearField Intensity"),
    "near field, everything": (
        replace(
            NEAR,
            near_field=NearFieldOptions(DEFOCI, 3e5, 5e-3),
            tilt_mode=4,
            crop=3,
            unknowns=frozenset({"beam_current", "detector_blur_std"}),
            masks=virtual_masks((6, 9)),
        ),
        "Illumination TiltRamp Multislice TiltRamp NearField Intensity BeamCurrent SourceEnvelope DetectorBlur "
        "CropPadding VirtualDetectors",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_effect_that_is_absent_is_not_in_the_model(name: str):
    """And those that are there have their order."""
    options, expected = MODELS[name]
    model = build_model(replace(options, executor="stages"), BACKEND)
    assert " ".join(type(stage).__name__ for stage in model.stages) == expected


@pytest.mark.parametrize(
    "changes", [{}, {"crop": 3}, {"across": (3, 3)}, {"crop": 3, "across": (3, 3), "tilt_mode": 4}], ids=str
)
def test_reachable_pixels_are_those_that_counts_reach(changes: dict[str, Any]):
    """As patterns are compared: cropped and summed."""
    model = build_model(replace(FAR, cutoff=0.6, executor="stages", **changes), BACKEND)
    pattern = model.forward(model.prepare(make_variables(GRID)), BATCH, [])
    np.testing.assert_array_equal(model.reachable, pattern.min(axis=0) > 0)
    assert pattern.min(axis=0).any()
    assert not pattern.max(axis=0).all() or "crop" in changes


@pytest.mark.parametrize(
    "changes",
    [
        {"near_field": NearFieldOptions(DEFOCI)},
        {"unknowns": frozenset({"static_background"})},
        {"unknowns": frozenset({"detector_blur_std"})},
        {"masks": virtual_masks(GRID.shape)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_counts_may_be_anywhere(changes: dict[str, Any]):
    assert build_model(replace(FAR, **changes), BACKEND).reachable is None


@pytest.mark.parametrize("batch", [BATCH, ONE], ids=["three", "one"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_changes_no_variable_and_has_the_gradient_of_its_intensities(name: str, batch: Batch):
    """Stages overwrite waves, but neither the probe that all patterns share nor what another stage needs later. All
    blocks change together."""
    options, _ = MODELS[name]
    compared = tuple((n - 2 * options.crop) // options.upsample for n in GRID.shape)
    changes = {"static_background": np.random.default_rng(29).standard_normal(compared)}
    if options.probe_marker is not None:
        changes["probe"] = random_complex(np.random.default_rng(30), (3, PROBE_MODES, *GRID.shape))
    variables, untouched = make_variables(GRID, **changes), make_variables(GRID, **changes)
    model = build_model(replace(options, executor="stages"), BACKEND)
    rng = np.random.default_rng(31)
    points = model.prepare(variables)
    tapes: list[stages.Tape] = []
    y = random_like(rng, model.forward(points, batch, tapes))
    gradients = variables.zeros(variables.present)
    model.adjoint(y.copy(), points, batch, tapes, gradients)
    for block in variables.present:
        np.testing.assert_array_equal(variables.block(block), untouched.block(block))
    scale = {"tilts": 1e-4, "positions": 1e-2, "slice_distances": 1e-1, "aberrations_array": 1e-1}
    steps = {b: scale.get(b, 1e-2) * random_like(rng, g) for b, g in gradients.items()}

    def function(t: float) -> float:
        moved = variables.replace({b: variables.block(b) + t * step for b, step in steps.items()})
        return inner(model.forward(model.prepare(moved), batch, []), y)

    slopes = [inner(gradients[b], step) for b, step in steps.items()]
    error = abs(sum(slopes) - directional_derivative(function, 1e-2))
    assert error <= 1e-6 * max(abs(slope) for slope in slopes)


# The whole chain against loops over positions, modes and slices that share no code with the package.

ALONE: dict[str, Any] = {
    "tilts": np.zeros((1, 6)),
    "tilt_mode": 0,
    "propmethod": "multislice",
    "lazy_clean": False,
    "recon_type": "far_field",
    "defocus_array": np.zeros(1),
    "Cs": 0.0,
    "alpha_near_field": 0.0,
    "detector_blur_std": 0.0,
    "upsample_pattern": 1,
    "data_pad": 0,
    "use_padded_intensity": True,
    "static_background": 0.0,
    "aberrations_array": np.zeros((1, 5)),
}
"""Values at which nothing happens."""


def centred(transform: Callable, array: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(transform(np.fft.ifftshift(array)))


def filtered(wave: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """Multiply the spectrum, zero frequency at n//2."""
    return centred(np.fft.ifft2, transfer * centred(np.fft.fft2, wave))


def row(array: np.ndarray, n: int) -> np.ndarray:
    return array[n if len(array) > 1 else 0]


class Plain:
    """A pattern, one step after the other."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.p = p = {**ALONE, **params}
        self.shape = ny, nx = p["probe"].shape[:2]
        self.pixel = np.array([p["pixel_size_y_A"], p["pixel_size_x_A"]])
        self.y = (np.arange(ny) - ny // 2)[:, None] * self.pixel[0]
        self.x = (np.arange(nx) - nx // 2)[None, :] * self.pixel[1]
        self.qy, self.qx = self.y / (ny * self.pixel[0] ** 2), self.x / (nx * self.pixel[1] ** 2)
        self.q2 = self.qy**2 + self.qx**2
        self.wavelength = 12.398419843 / np.sqrt((2 * 510.99895 + 80) * 80)
        edge = p["damping_cutoff_multislice"] * min(self.qy.max(), self.qx.max())
        self.mask = self.q2 <= edge**2
        before, inside, after = {0: "010", 1: "001", 2: "100", 3: "011", 4: "111"}[p["tilt_mode"]]
        self.acts = np.repeat([int(before), int(inside), int(after)], 2)

    def patterns(self) -> np.ndarray:
        return np.array([self.pattern(n) for n in range(len(self.p["positions"]))])

    def pattern(self, n: int) -> np.ndarray:
        tilts = self.acts * row(self.p["tilts"], n)
        corner = np.round(self.p["positions"][n]).astype(int)
        window = tuple(slice(start, start + size) for start, size in zip(corner, self.shape, strict=True))
        counts = np.zeros(self.shape)
        for probe in self.p["probe"].transpose(2, 0, 1):
            start = self.incoming(probe, n, tilts[:2], self.p["positions"][n] - corner)
            for obj in self.p["obj"].transpose(3, 2, 0, 1):
                wave = self.scattered(start, [plane[window] for plane in obj], tilts[2:4])
                counts += np.abs(self.at_detector(wave * self.ramp(tilts[4:]), n, tilts[2:4])) ** 2
        return self.detected(counts, n)

    def ramp(self, tilt: np.ndarray) -> np.ndarray:
        return np.exp(2j * np.pi / self.wavelength * (self.y * tilt[0] + self.x * tilt[1]))

    def incoming(self, probe: np.ndarray, n: int, tilt: np.ndarray, shift: np.ndarray) -> np.ndarray:
        if "plates" in self.p:
            probe = filtered(probe, np.fft.fftshift(self.p["plates"][n]))
        if "aberration_marker" in self.p:
            C10, C12a, C12b, C21a, C21b = self.p["aberrations_array"][self.p["aberration_marker"][n]]
            ky, kx = self.wavelength * self.qy, self.wavelength * self.qx
            chi = C10 * (kx**2 + ky**2) / 2 + C12a * (kx**2 - ky**2) / 2 + C12b * kx * ky
            chi = chi + (kx**2 + ky**2) * (C21a * kx + C21b * ky) / 3
            probe = filtered(probe, self.mask * np.exp(-2j * np.pi / self.wavelength * chi))
        dy, dx = shift * self.pixel
        return filtered(
            probe * self.ramp(tilt), self.mask * np.exp(-2j * np.pi * (self.qy * dy + self.qx * dx))
        )

    def scattered(self, wave: np.ndarray, planes: list[np.ndarray], tilt: np.ndarray) -> np.ndarray:
        distances, method = np.atleast_1d(self.p["slice_distances"]), self.p["propmethod"]
        for s, plane in enumerate(planes):
            z = distances[min(s, len(distances) - 1)]
            if self.p["lazy_clean"]:
                plane = filtered(plane, self.mask)

            def T(w: np.ndarray, power: float, plane: np.ndarray = plane) -> np.ndarray:
                return w * np.abs(plane) ** power * np.exp(1j * power * np.angle(plane))

            def P(w: np.ndarray, part: float, z: float = z) -> np.ndarray:
                return filtered(w, self.mask * self.free_space(part * z, tilt))

            if method == "yoshida":
                a = 1 / (2 - 2 ** (1 / 3))
                for power, part in ((a / 2, a), ((1 - a) / 2, 1 - 2 * a), ((1 - a) / 2, a)):
                    wave = P(T(wave, power), part)
                wave = T(wave, a / 2)
            elif method == "better_multislice":
                halves = P(T(P(T(wave, 0.5), 0.5), 0.5), 0.5) + T(P(T(P(wave, 0.5), 0.5), 0.5), 0.5)
                wave = 2 / 3 * halves - (P(T(wave, 1), 1) + T(P(wave, 1), 1)) / 6
            else:
                wave = T(wave, 1) if s == len(planes) - 1 else P(T(wave, 1), 1)
        return wave

    def free_space(self, z: float, tilt: np.ndarray) -> np.ndarray:
        """Every frequency goes sideways by z times its angle, and by z times the tilt."""
        k = 1 / self.wavelength
        exact = self.p["propmethod"] == "angular_spectrum"
        along = np.sqrt(k**2 - self.q2) - k if exact else -self.q2 / (2 * k)
        return np.exp(2j * np.pi * z * (along - self.qy * tilt[0] - self.qx * tilt[1]))

    def at_detector(self, wave: np.ndarray, n: int, tilt: np.ndarray) -> np.ndarray:
        if self.p["recon_type"] == "far_field":
            return self.mask * centred(np.fft.fft2, wave)
        df = row(self.p["defocus_array"], n)
        phase = -np.pi * self.wavelength * df * self.q2 - 2 * np.pi * df * (
            self.qy * tilt[0] + self.qx * tilt[1]
        )
        phase = phase - np.pi / 2 * self.p["Cs"] * self.wavelength**3 * self.q2**2
        return filtered(wave, self.mask * np.exp(1j * phase))

    def detected(self, counts: np.ndarray, n: int) -> np.ndarray:
        p, u = self.p, self.p["upsample_pattern"]
        if "beam_current" in p:
            counts = counts * p["beam_current"][n] ** 2
        if p["alpha_near_field"]:
            blur = np.exp(-self.q2 * (np.pi * p["alpha_near_field"] * row(p["defocus_array"], n)) ** 2)
            counts = np.maximum(filtered(counts, blur).real, 0)
        if p["detector_blur_std"]:
            counts = self.blurred(counts, u * p["detector_blur_std"])
        rim = 0 if p["use_padded_intensity"] else p["data_pad"]
        counts = counts[rim : len(counts) - rim, rim : counts.shape[1] - rim]
        blocks = counts.reshape(len(counts) // u, u, counts.shape[1] // u, u)
        return blocks.sum(axis=(1, 3)) + np.square(p["static_background"])

    def blurred(self, counts: np.ndarray, std: float) -> np.ndarray:
        for axis, size in enumerate(counts.shape):
            steps = np.arange(size) - size // 2
            weights = np.exp(-(steps**2) / (2 * std**2))
            moved = [w * np.roll(counts, d, axis) for w, d in zip(weights, steps, strict=True)]
            counts = sum(moved) / weights.sum()
        return counts


def assert_plain(params: dict[str, Any], **known: np.ndarray) -> None:
    """``known``: what the package reads from files."""
    expected = Plain({**params, **known}).patterns()
    np.testing.assert_allclose(pypty.simulate(params), expected, rtol=1e-9, atol=1e-9 * expected.max())


CHAIN_CUTOFF = 0.71
"""No lattice point lies on the rim of the band limit, where rounding would decide."""


@pytest.mark.parametrize("lazy_clean", [False, True])
@pytest.mark.parametrize("window", [(16, 20), (13, 18)])
def test_simulate_is_plain_multislice(window: tuple[int, int], lazy_clean: bool):
    assert_plain(
        small_problem(5, window=window, lazy_clean=lazy_clean, damping_cutoff_multislice=CHAIN_CUTOFF)
    )


def own_tilts(rows: int = 6) -> np.ndarray:
    return np.random.default_rng(32).uniform(-8e-3, 8e-3, (rows, 6))


GROUPS = {
    "aberration_marker": np.array([1, 0, 0, 1, 0, 1]),
    "aberrations_array": np.random.default_rng(33).uniform(-1, 1, (2, 5)) * [60, 60, 60, 3e3, 3e3],
}
CURRENT = np.random.default_rng(34).uniform(0.6, 1.3, 6)
IMAGES = {
    "recon_type": "near_field",
    "defocus_array": np.random.default_rng(35).uniform(-90, 90, 6),
    "Cs": 3e6,
}
CHAINS: dict[str, dict[str, Any]] = {
    **{f"tilt mode {mode}": {"tilts": own_tilts(), "tilt_mode": mode} for mode in range(5)},
    "one tilt": {"tilts": own_tilts(1), "tilt_mode": 4, "window": (13, 18)},
    "angular spectrum": {"propmethod": "angular_spectrum", "acc_voltage": 80.0},
    "better multislice": {"propmethod": "better_multislice", "tilts": own_tilts(), "window": (13, 18)},
    "yoshida": {"propmethod": "yoshida", "tilts": own_tilts(1), "slice_distances": np.array([21.0])},
    "one distance after the last slice": {
        "propmethod": "better_multislice",
        "slice_distances": np.array([21.0, 17.0, 25.0]),
    },
    "far field, everything": {
        **GROUPS,
        "tilts": own_tilts(),
        "tilt_mode": 4,
        "propmethod": "angular_spectrum",
        "lazy_clean": True,
        "beam_current": CURRENT,
        "detector_blur_std": 0.6,
        "data_pad": 4,
        "upsample_pattern": 2,
        "use_padded_intensity": False,
        "static_background": np.random.default_rng(36).uniform(0, 2, (4, 6)),
    },
    "far field, padded, three pixels in one": {
        **GROUPS,
        "window": (15, 18),
        "data_pad": 3,
        "upsample_pattern": 3,
        "detector_blur_std": 0.6,
        "static_background": np.random.default_rng(37).uniform(0, 2, (5, 6)),
    },
    "near field": IMAGES,
    "near field, one defocus, one tilt": {
        "recon_type": "near_field",
        "defocus_array": np.array([60.0]),
        "tilts": own_tilts(1),
        "alpha_near_field": 0.01,
        "window": (13, 18),
    },
    "near field, everything": {
        **IMAGES,
        **GROUPS,
        "window": (21, 24),
        "upsample_pattern": 3,
        "tilts": own_tilts(),
        "tilt_mode": 4,
        "propmethod": "yoshida",
        "alpha_near_field": 0.01,
        "beam_current": CURRENT,
        "detector_blur_std": 0.9,
        "data_pad": 3,
        "use_padded_intensity": False,
        "static_background": np.random.default_rng(38).uniform(0, 0.1, (5, 6)),
    },
    "near field, tilt that does not act": {**IMAGES, "tilts": own_tilts(), "tilt_mode": 1},
}


@pytest.mark.parametrize("name", CHAINS)
def test_simulate_is_the_plain_chain(name: str, tmp_path: Path):
    """With phase plates, where there is everything."""
    params = small_problem(6, **{"damping_cutoff_multislice": CHAIN_CUTOFF, **CHAINS[name]})
    for key in ("dataset", "window"):
        params.pop(key, None)
    known = {}
    if name.endswith("everything"):
        shape = params["probe"].shape[:2]
        plates = np.exp(1j * np.random.default_rng(39).uniform(-1, 1, (6, *shape)))
        params["phase_plate_in_h5"] = str(write_plates(tmp_path / "plates.h5", plates))
        known["plates"] = plates
    assert_plain(params, **known)
