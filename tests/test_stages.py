"""Every stage of the model: its adjoint, the gradients of its own variables, and the whole chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from helpers import (
    assert_adjoint,
    directional_derivative,
    inner,
    random_complex,
    random_like,
    small_problem,
)

import pypty
from pypty.backend.array import select
from pypty.data.feed import Batch
from pypty.model import stages
from pypty.model.variables import Variables
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

BACKEND = select("cpu", "double")
GRID = Grid((12, 15), (0.31, 0.24), wavelength_A(80))
MASK = GRID.band_mask(0.8)
PATTERNS, PROBE_MODES, OBJECT_MODES, SLICES = 3, 2, 2, 3
CORNERS = np.array([[0, 1], [2, 0], [1, 3], [5, 4]])
INDEX = np.array([0, 1, 3])
BATCH = Batch(INDEX, CORNERS[INDEX])
"""Three of four patterns: a gradient added to the wrong row is found. The windows overlap."""


def make_variables(n_distances: int = SLICES - 1) -> Variables:
    rng = np.random.default_rng(1)
    return Variables(
        obj=random_complex(rng, (OBJECT_MODES, SLICES, 18, 20)),
        probe=random_complex(rng, (PROBE_MODES, *GRID.shape)),
        positions=CORNERS + rng.uniform(-0.4, 0.4, CORNERS.shape),
        slice_distances=rng.uniform(20, 40, n_distances),
    )


@dataclass(frozen=True)
class Case:
    """A stage, the shape of the wave that enters it (None: the probe itself enters), and its own variables."""

    name: str
    stage: stages.Stage
    shape: tuple[int, ...] | None
    owns: tuple[str, ...] = ()
    linear: bool = True
    real: bool = False
    variables: Variables = field(default_factory=make_variables)

    def forward(self, wave: np.ndarray | None, variables: Variables, tape: stages.Tape) -> np.ndarray:
        entering = None if self.shape is None else wave.copy()  # the stage may overwrite it
        return self.stage.forward(entering, self.stage.prepare(variables), BATCH, tape).copy()

    def adjoint(
        self, grad: np.ndarray, variables: Variables, tape: stages.Tape, gradients: dict
    ) -> np.ndarray:
        return self.stage.adjoint(grad.copy(), self.stage.prepare(variables), BATCH, tape, gradients)

    def random_wave(self, rng: np.random.Generator) -> np.ndarray | None:
        if self.shape is None:
            return None
        return rng.standard_normal(self.shape) if self.real else random_complex(rng, self.shape)


def multislice(filter_patches: bool) -> stages.Multislice:
    return stages.Multislice(GRID, MASK, BACKEND, filter_patches)


_SHARED = (1, PROBE_MODES, 1, *GRID.shape)
_SHIFTED = (PATTERNS, PROBE_MODES, 1, *GRID.shape)
_EXIT = (PATTERNS, PROBE_MODES, OBJECT_MODES, *GRID.shape)
_MULTISLICE_OWNS = ("obj", "slice_distances")

CASES = [
    Case("illumination", stages.Illumination(), None, ("probe",)),
    Case("shift", stages.SubpixelShift(GRID, MASK, BACKEND), _SHARED, ("positions",)),
    Case("multislice", multislice(False), _SHIFTED, _MULTISLICE_OWNS),
    Case("multislice filtered", multislice(True), _SHIFTED, _MULTISLICE_OWNS),
    Case("multislice shared probe", multislice(False), _SHARED, _MULTISLICE_OWNS),
    Case(
        "multislice one distance", multislice(False), _SHIFTED, _MULTISLICE_OWNS, variables=make_variables(1)
    ),
    Case(
        "multislice one distance filtered",
        multislice(True),
        _SHARED,
        _MULTISLICE_OWNS,
        variables=make_variables(1),
    ),
    Case("far field", stages.FarField(MASK, BACKEND), _EXIT),
    Case("far field unlimited", stages.FarField(np.ones(GRID.shape, bool), BACKEND), _EXIT),
    Case("intensity", stages.Intensity(), _EXIT, linear=False),
    Case("crop", stages.CropPadding(GRID.shape, 3, BACKEND), (PATTERNS, *GRID.shape), real=True),
]
OWNED = [(case, block) for case in CASES for block in case.owns]


def test_every_stage_is_tested():
    exported = {getattr(stages, name) for name in stages.__all__} - {stages.Stage, stages.Tape}
    assert {type(case.stage) for case in CASES} == exported


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_adjoint(case: Case):
    """<J v, y> = <v, J* y>: exact for linear stages, by a finite difference for the others."""
    rng = np.random.default_rng(2)
    at = case.random_wave(rng)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(at, case.variables, tape))
    if case.shape is None:  # linear in its own variable, the probe
        v = random_like(rng, case.variables.probe)
    else:
        v = case.random_wave(rng)

    def apply(v: np.ndarray) -> np.ndarray:
        if case.shape is None:
            return case.forward(None, case.variables.replace({"probe": v}), {})
        if case.linear:
            return case.forward(v, case.variables, {})
        return directional_derivative(lambda t: case.forward(at + t * v, case.variables, {}), 1e-3)

    def adjoint(y: np.ndarray) -> np.ndarray:
        if case.shape is None:
            gradients = case.variables.zeros(("probe",))
            case.adjoint(y, case.variables, tape, gradients)
            return gradients["probe"]
        return case.adjoint(y, case.variables, tape, {})

    assert_adjoint(apply, adjoint, v, y, 1e-10 if case.linear else 1e-6)


@pytest.mark.parametrize(("case", "block"), OWNED, ids=[f"{case.name}: {block}" for case, block in OWNED])
def test_gradient_of_own_variables(case: Case, block: str):
    """The derivative of Re<y, output> along a random change of the variable is <gradient, change>."""
    rng = np.random.default_rng(3)
    wave = case.random_wave(rng)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(wave, case.variables, tape))
    gradients = case.variables.zeros((block,))
    case.adjoint(y, case.variables, tape, gradients)
    value = case.variables.block(block)
    change = random_like(rng, value)

    def function(t: float) -> float:
        return inner(case.forward(wave, case.variables.replace({block: value + t * change}), {}), y)

    expected = directional_derivative(function, 1e-3)
    assert inner(gradients[block], change) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case.owns], ids=lambda case: case.name)
def test_gradients_are_added(case: Case):
    """Batches share accumulators: what is there stays. What flows on does not depend on what is refined."""
    rng = np.random.default_rng(4)
    wave = case.random_wave(rng)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(wave, case.variables, tape))
    fresh = case.variables.zeros(case.owns)
    back = case.adjoint(y, case.variables, tape, fresh)
    before = {name: random_like(rng, array) for name, array in fresh.items()}
    used = {name: array.copy() for name, array in before.items()}
    case.adjoint(y, case.variables, tape, used)
    for name in case.owns:
        np.testing.assert_allclose(used[name] - before[name], fresh[name], rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(case.adjoint(y, case.variables, tape, {}), back)


def test_patterns_outside_the_batch_get_no_gradient():
    case = next(case for case in CASES if case.name == "shift")
    rng = np.random.default_rng(5)
    tape: stages.Tape = {}
    y = random_like(rng, case.forward(case.random_wave(rng), case.variables, tape))
    gradients = case.variables.zeros(("positions",))
    case.adjoint(y, case.variables, tape, gradients)
    assert np.flatnonzero(gradients["positions"].any(axis=1)).tolist() == INDEX.tolist()


def test_whole_pixel_shift_moves_the_probe_to_larger_indices():
    """The sign of the Fourier shift, and that it is exact: all frequencies pass here."""
    stage = stages.SubpixelShift(GRID, np.ones(GRID.shape, bool), BACKEND)
    variables = make_variables().replace({"positions": CORNERS + np.array([2.0, -3.0])})
    wave = variables.probe[None, :, None]
    shifted = stage.forward(wave.copy(), stage.prepare(variables), BATCH, {})
    for moved in shifted:
        np.testing.assert_allclose(moved, np.roll(wave[0], (2, -3), axis=(-2, -1)), atol=1e-12)


def test_crop_keeps_the_centre():
    """Odd and even sizes: cropping corner-centred patterns is cutting the rim of centred ones."""
    for shape, pad in (((12, 15), 3), ((9, 8), 2)):
        stage = stages.CropPadding(shape, pad, BACKEND)
        centred = np.arange(2 * shape[0] * shape[1], dtype=float).reshape(2, *shape)
        kept = stage.forward(np.fft.ifftshift(centred, axes=(1, 2)), None, BATCH, {})
        np.testing.assert_array_equal(
            np.fft.fftshift(kept, axes=(1, 2)), centred[:, pad : shape[0] - pad, pad : shape[1] - pad]
        )


def centred(transform: Callable, array: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(transform(np.fft.ifftshift(array)))


@pytest.mark.parametrize("lazy_clean", [False, True])
@pytest.mark.parametrize("window", [(16, 20), (13, 18)])
def test_simulate_is_plain_multislice(window: tuple[int, int], lazy_clean: bool):
    """The patterns against loops over positions, modes and slices that share no code with the package."""
    cutoff = 0.7  # no lattice point lies on the rim of the band limit, where rounding would decide
    params = small_problem(5, window=window, lazy_clean=lazy_clean, damping_cutoff_multislice=cutoff)
    ny, nx = window
    qy = (np.arange(ny) - ny // 2)[:, None] / (ny * params["pixel_size_y_A"])
    qx = (np.arange(nx) - nx // 2)[None, :] / (nx * params["pixel_size_x_A"])
    q2 = qy**2 + qx**2
    mask = q2 <= (cutoff * min(qy.max(), qx.max())) ** 2
    wavelength = 12.398419843 / np.sqrt((2 * 510.99895 + 80) * 80)
    expected = np.zeros((len(params["positions"]), ny, nx))
    for n, position in enumerate(params["positions"]):
        corner = np.round(position).astype(int)
        dy, dx = position - corner
        ramp = mask * np.exp(
            -2j * np.pi * (qy * dy * params["pixel_size_y_A"] + qx * dx * params["pixel_size_x_A"])
        )
        for probe in params["probe"].transpose(2, 0, 1):
            start = centred(np.fft.ifft2, ramp * centred(np.fft.fft2, probe))
            for obj in params["obj"].transpose(3, 2, 0, 1):
                wave = start
                for s, plane in enumerate(obj):
                    patch = plane[corner[0] : corner[0] + ny, corner[1] : corner[1] + nx]
                    if lazy_clean:
                        patch = centred(np.fft.ifft2, mask * centred(np.fft.fft2, patch))
                    wave = wave * patch
                    if s < len(obj) - 1:
                        z = params["slice_distances"][s]
                        step = mask * np.exp(-1j * np.pi * wavelength * z * q2)
                        wave = centred(np.fft.ifft2, step * centred(np.fft.fft2, wave))
                expected[n] += np.abs(mask * centred(np.fft.fft2, wave)) ** 2
    np.testing.assert_allclose(pypty.simulate(params), expected, rtol=1e-9, atol=1e-9 * expected.max())
