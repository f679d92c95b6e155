"""The CUDA kernels, compiled for the CPU: each against its NumPy twin, and together against the stages they replace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cpu_module import COMPILER, CpuModule, why_not
from wave_cases import (
    BLOCKS,
    SINGLE,
    Case,
    as_double,
    cpu,
    evaluate,
    plain_result,
    random_waves,
    relative,
    split_result,
)

from pypty.backend.cuda import twins
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.module import read_source
from pypty.backend.cuda.score import DATA_TYPES, N_TOTALS, Hidden, ScoreKernels, stored_type
from pypty.backend.cuda.waves import FILES, PLANS, Layout, WaveKernels
from pypty.backend.workspace import Workspace
from pypty.errors import BackendError
from pypty.model.options import ModelOptions
from pypty.model.split import half_band, split_reason
from pypty.model.stages.base import FORWARD_ONLY
from pypty.objective import noise
from pypty.objective.deviance import CountModel
from pypty.objective.free_pixels import FreePixels
from pypty.optics.grid import Grid

if why_not() and os.environ.get("CI", "").lower() == "true":
    pytest.fail(why_not(), pytrace=False)
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

FAST = (64, 96, 128, 192, 256)
SLOW_SIZES = (384, 512)
TOLERANCE = 2e-5
HERE = Path(__file__).parent


# ---- every kernel against its twin


class Bench:
    """Random arguments for the kernels of one window."""

    def __init__(self, n: int, patterns: int = 3, modes: int = 2) -> None:
        self.n = n
        self.kernels = WaveKernels(n, SINGLE, cpu())
        half = n // 4
        self.layout = Layout(patterns, modes, half, half)
        rng = self.rng = np.random.default_rng(n)
        self.shape = (n + 7, n + 5)
        self.obj = random_waves(rng, self.shape)
        self.crop_origins = rng.integers(0, 6, (patterns, 2)).astype(np.int32)
        self.ramps = twins.shift_ramps(n, rng.uniform(-0.5, 0.5, (patterns, 2))).astype(np.complex64)
        self.spectrum = random_waves(rng, (modes, n, n))
        self.mask = (rng.uniform(size=(n, n)) < 0.7).astype(np.float32)
        self.mask[:, half : n - half] = 0

    def wave(self) -> np.ndarray:
        """Rubbish in the columns that are not in use: nobody may look at it."""
        wave = random_waves(self.rng, (self.layout.patterns, self.layout.modes, self.n, self.n))
        wave[..., self.layout.half : self.n - self.layout.half] = np.nan
        return wave

    def used(self, wave: np.ndarray) -> np.ndarray:
        return wave[..., twins.column_indices(self.n, 2 * self.layout.half)]

    def double(self, wave: np.ndarray) -> np.ndarray:
        """What a twin gets."""
        return self.used(wave).astype(np.complex128)

    def check(self, wave: np.ndarray, expected: np.ndarray) -> None:
        assert relative(self.used(wave), expected) < TOLERANCE
        assert np.isnan(wave[..., self.layout.half : self.n - self.layout.half]).all(), "unused columns"


@pytest.fixture(params=FAST)
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


@pytest.mark.parametrize("shifted", [True, False])
def test_probe_forward(bench: Bench, shifted: bool) -> None:
    ramps = bench.ramps if shifted else None
    wave = bench.wave()
    bench.kernels.probe_forward(wave, bench.spectrum, ramps, bench.layout)
    expected = twins.probe_forward(bench.spectrum.astype(complex), ramps, 2 * bench.layout.half)
    bench.check(wave, np.broadcast_to(expected, (3, *expected.shape[1:])))


@pytest.mark.parametrize("keep", [True, False])
def test_row_forward(bench: Bench, keep: bool) -> None:
    wave = bench.wave()
    incoming = np.empty_like(wave) if keep else None
    expected = twins.row_forward(bench.double(wave), bench.obj, bench.crop_origins, 2 * bench.layout.half)
    bench.kernels.row_forward(wave, incoming, bench.obj, bench.crop_origins, bench.layout, first=False)
    bench.check(wave, expected[0])
    if keep:
        assert relative(incoming, expected[1]) < TOLERANCE


def test_first_row_has_columns_of_its_own(bench: Bench) -> None:
    """The wave that enters is not band-limited where there is no sub-pixel shift."""
    layout = replace(bench.layout, entry=bench.n // 2)
    wave = random_waves(bench.rng, (3, 2, bench.n, bench.n))
    expected, _ = twins.row_forward(wave.astype(complex), bench.obj, bench.crop_origins, 2 * layout.half)
    bench.kernels.row_forward(wave, None, bench.obj, bench.crop_origins, layout, first=True)
    assert relative(bench.used(wave), expected) < TOLERANCE


@pytest.mark.parametrize("conjugate", [True, False])
def test_propagate(bench: Bench, conjugate: bool) -> None:
    wave = bench.wave()
    factor = random_waves(bench.rng, (bench.n, bench.n))
    expected = twins.propagate(bench.double(wave), factor, conjugate)
    bench.kernels.propagate(wave, factor, bench.layout, conjugate)
    bench.check(wave, expected)


@pytest.mark.parametrize("masked", [True, False])
def test_detector_forward(bench: Bench, masked: bool) -> None:
    mask = bench.mask if masked else None
    wave = bench.wave()
    intensity = np.full((3, bench.n, bench.n), np.nan, np.float32)
    bench.kernels.detector_forward(wave, intensity, mask, bench.layout)
    assert relative(intensity, twins.detector_forward(bench.double(wave), mask)) < TOLERANCE
    assert not intensity[:, :, bench.n // 2].any()


@pytest.mark.parametrize("masked", [True, False])
def test_detector_adjoint(bench: Bench, masked: bool) -> None:
    mask = bench.mask if masked else None
    wave = bench.wave()
    slope = bench.rng.standard_normal((3, bench.n, bench.n)).astype(np.float32)
    expected = twins.detector_adjoint(bench.double(wave), slope, mask)
    bench.kernels.detector_adjoint(wave, slope, mask, bench.layout)
    bench.check(wave, expected)


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("form", ["no gradient", "atomics", "windows"])
def test_row_adjoint(bench: Bench, leaves: bool, form: str) -> None:
    wave = bench.wave()
    incoming = random_waves(bench.rng, wave.shape)
    before = bench.double(wave)
    after, parts = twins.row_adjoint(before, incoming, bench.obj, bench.crop_origins, 2 * bench.layout.half)
    gradient = random_waves(bench.rng, bench.shape) if form == "atomics" else None
    expected = (
        None if gradient is None else gradient + twins.fixed_scatter(parts, bench.crop_origins, bench.shape)
    )
    windows = np.empty((3, bench.n, bench.n), np.complex64) if form == "windows" else None
    largest = np.zeros(1, np.uint32)
    arguments = (wave, incoming, bench.obj, bench.crop_origins, bench.layout, gradient, windows, largest)
    bench.kernels.row_adjoint(*arguments, leaves=leaves)
    bench.check(wave, after if leaves else before)
    if gradient is not None:
        assert relative(gradient, expected) < TOLERANCE
    if windows is not None:
        assert relative(windows, parts) < TOLERANCE
        assert largest.view(np.float32)[0] == np.abs(windows.view(np.float32)).max()


@pytest.mark.parametrize("patterns", [3, 19])
@pytest.mark.parametrize("shifted", [True, False])
def test_probe_adjoint(shifted: bool, patterns: int) -> None:
    """19 patterns are more than one block sums, and no multiple of it."""
    bench = Bench(64, patterns)
    layout, n, wave = bench.layout, bench.n, bench.wave()
    ramps = bench.ramps if shifted else None
    spectrum_parts = np.empty((bench.kernels.groups(patterns), 2, n, 2 * layout.half), np.complex64)
    shift_parts = np.empty((patterns, 2, bench.kernels.column_blocks(layout.half)), np.complex64)
    arguments = (wave, bench.spectrum, ramps, layout)
    bench.kernels.probe_adjoint(*arguments, spectrum_parts, shift_parts)
    expected = twins.probe_adjoint(bench.double(wave), bench.spectrum.astype(complex), ramps)
    assert relative(spectrum_parts.sum(axis=0), expected[0]) < TOLERANCE
    total = shift_parts.sum(axis=(1, 2))
    assert relative(np.stack([total.imag, total.real], axis=1), expected[1]) < TOLERANCE


def test_probe_adjoint_of_every_window(bench: Bench) -> None:
    layout, wave = bench.layout, bench.wave()
    parts = np.empty((1, 2, bench.n, 2 * layout.half), np.complex64)
    bench.kernels.probe_adjoint(wave, bench.spectrum, bench.ramps, layout, parts)
    expected = twins.probe_adjoint(bench.double(wave), bench.spectrum, bench.ramps)
    assert relative(parts[0], expected[0]) < TOLERANCE


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_fixed_point_sums(scale: float) -> None:
    """As good as single precision can be, whatever the size of the numbers; parts of very different size too."""
    bench = Bench(64)
    parts = (random_waves(bench.rng, (3, 64, 64)) * np.float32(scale)).astype(np.complex64)
    parts *= np.exp(bench.rng.uniform(-20, 0, parts.shape)).astype(np.float32)
    largest = np.array([np.abs(parts.view(np.float32)).max()]).view(np.uint32)
    fixed = np.zeros((*bench.shape, 2), np.int64)
    gradient = random_waves(bench.rng, bench.shape) * np.float32(scale)
    total = twins.fixed_scatter(parts.astype(complex), bench.crop_origins, bench.shape)
    expected = twins.fixed_add(total, gradient.astype(complex))
    allowed = 2e-7 * (np.abs(gradient) + np.abs(total)) + 1e-44
    bench.kernels.fixed_scatter(parts, bench.crop_origins, largest, fixed, bench.shape[1])
    bench.kernels.fixed_add(fixed, largest, gradient, 3)
    assert (np.abs(gradient - expected) < allowed).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_fixed_point_sums_show_what_is_not_finite(bad: float) -> None:
    bench = Bench(64)
    parts = random_waves(bench.rng, (3, 64, 64))
    parts[1, 2, 3] = bad
    largest = np.array([abs(bad)], np.float32).view(np.uint32)
    fixed, gradient = np.zeros((*bench.shape, 2), np.int64), np.zeros(bench.shape, np.complex64)
    bench.kernels.fixed_scatter(parts, bench.crop_origins, largest, fixed, bench.shape[1])
    bench.kernels.fixed_add(fixed, largest, gradient, 3)
    assert np.isnan(gradient).all()


# ---- the stage against the stages that it replaces

CASES = [
    *(Case(n) for n in FAST),
    *(Case(n, patterns=1, modes=1, slices=1) for n in FAST),
    *(Case(n, subpixel=False, slices=3, distances=1, modes=1) for n in FAST),
    *(Case(n, cutoff=2.0, modes=4, patterns=1) for n in FAST),
    Case(64, slices=1, modes=4, subpixel=False),
    Case(64, slices=1, cutoff=2.0, subpixel=False),
    Case(64, slices=4, distances=3, tilted=True, modes=1),
    Case(64, positions=1, modes=1),
    Case(64, cutoff=0.05),
    *(Case(n, patterns=1, slices=2, modes=2) for n in SLOW_SIZES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stage(case: Case) -> None:
    value, expected = split_result(case), plain_result(case)
    assert relative(value.intensity, expected.intensity) < TOLERANCE
    for block in BLOCKS:
        assert relative(value.gradients[block], expected.gradients[block]) < TOLERANCE, block


@pytest.mark.parametrize("blocks", [(), ("obj",), ("probe",), ("positions",), ("obj", "positions")])
@pytest.mark.parametrize("subpixel", [True, False])
def test_only_the_gradients_that_are_asked_for(blocks: tuple[str, ...], subpixel: bool) -> None:
    case = Case(64, subpixel=subpixel)
    value, expected = split_result(case, blocks=blocks), plain_result(case, blocks)
    assert set(value.gradients) == set(blocks)
    for block in blocks:
        assert relative(value.gradients[block], expected.gradients[block]) < TOLERANCE


def test_gradients_add_up() -> None:
    """Two batches, into the same accumulators and the same workspace."""
    case = Case(64)
    stage, variables, batch = case.split(), case.variables(), case.batch()
    point, gradients = stage.prepare(variables), variables.zeros(BLOCKS)
    for _ in range(2):
        tape: dict = {}
        intensity = stage.forward(None, point, batch, tape)
        stage.adjoint(np.ones_like(intensity), point, batch, tape, gradients)
        size = batch.workspace.nbytes
    once = variables.zeros(BLOCKS)
    tape = {}
    intensity = stage.forward(None, point, batch, tape)
    assert stage.adjoint(np.ones_like(intensity), point, batch, tape, once) is None
    assert batch.workspace.nbytes == size
    for block in BLOCKS:
        assert relative(gradients[block], 2 * once[block]) < 1e-6


def test_forward_only_keeps_no_waves() -> None:
    case = Case(64, slices=4)
    batch, stage = case.batch(), case.split()
    intensity = stage.forward(None, stage.prepare(case.variables()), batch, {FORWARD_ONLY: True})
    assert relative(intensity, plain_result(case).intensity) < TOLERANCE
    assert batch.workspace.nbytes < 1.5 * 3 * 2 * 64 * 64 * 8  # one wave, and intensities


@pytest.mark.parametrize("n", [64, 96])
def test_adjoint_identity(n: int) -> None:
    """Re<G, dz> is the change of sum(slope I) when object, probe or position changes by dz (central differences of the
    stages in double precision)."""
    case = Case(n)
    variables = as_double(case.variables())
    slope = 1 - np.random.default_rng(5).poisson(3, (3, n, n)) / 3
    gradients = split_result(case).gradients
    rng = np.random.default_rng(9)
    for block in BLOCKS:
        value = variables.block(block)
        step = rng.standard_normal(value.shape)
        if np.iscomplexobj(value):
            step = step + 1j * rng.standard_normal(value.shape)
        h = 1e-5
        ends = [
            evaluate(case, case.plain(), variables.replace({block: value + t * step}), ()).intensity
            for t in (h, -h)
        ]
        expected = (slope * (ends[0] - ends[1])).sum() / (2 * h)
        found = (gradients[block].conj() * step).real.sum()
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(np.linalg.norm(gradients[block])))


# ---- determinism


def bits(case: Case, order: int) -> dict[str, bytes]:
    result = split_result(case, case.split(cpu(order=order), deterministic=True))
    return {name: array.tobytes() for name, array in result.gradients.items()}


@pytest.mark.parametrize("case", [Case(64, patterns=5), Case(128), Case(96, subpixel=False)], ids=str)
def test_deterministic_mode(case: Case) -> None:
    """The order in which blocks run changes no bit; and the numbers are right."""
    first = bits(case, 0)
    assert all(bits(case, order) == first for order in (1, 2, 3))
    value, expected = split_result(case, case.split(deterministic=True)), plain_result(case)
    for block in BLOCKS:
        assert relative(value.gradients[block], expected.gradients[block]) < TOLERANCE


def test_atomic_sums_depend_on_the_order() -> None:
    """Else the test above would show nothing."""
    case = Case(64, patterns=5)
    gradients = [split_result(case, case.split(cpu(order=order))).gradients["obj"] for order in (0, 1)]
    assert gradients[0].tobytes() != gradients[1].tobytes()
    assert relative(gradients[0], gradients[1]) < 1e-6


# ---- operations between two-dimensional transforms


class Elements:
    """Random arguments, in two equal sets: for the kernel and for the twin. 2 probe and 2 object modes, 3 slices."""

    def __init__(self, real: str) -> None:
        self.kernels = ElementKernels(real, CpuModule)
        self.dtype = np.dtype(np.complex64 if real == "float" else np.complex128)
        self.rtol = 1e-5 if real == "float" else 1e-13
        self.rng = np.random.default_rng(6)
        self.obj = self.waves(2, 3, 30, 33)
        self.crop_origins = np.array([[0, 0], [3, 5], [15, 13]], np.int32)

    def waves(self, *shape: int) -> np.ndarray:
        return (self.rng.standard_normal(shape) + 1j * self.rng.standard_normal(shape)).astype(self.dtype)

    def wave(self, patterns: int = 3, objects: int = 2) -> np.ndarray:
        return self.waves(patterns, 2, objects, 15, 20)

    def reals(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(self.waves(1).real.dtype)

    def both(self, name: str, *arguments: object, changed: tuple[int, ...] = (0,)) -> None:
        """Call the kernel and its twin, and compare the arguments that they change."""
        sets = [[a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in range(2)]
        getattr(self.kernels, name)(*sets[0])
        getattr(twins, name)(*sets[1])
        for i in changed:
            self.same(sets[0][i], sets[1][i])

    def same(self, value: np.ndarray, expected: np.ndarray) -> None:
        assert value.dtype == expected.dtype
        assert relative(value, expected) < self.rtol


@pytest.fixture(params=["float", "double"])
def elements(request: pytest.FixtureRequest) -> Elements:
    return Elements(request.param)


BEFORE = [(3, 2), (1, 1), (3, 1), (1, 2)]
"""Patterns and object modes of the wave before a slice: of its own, or shared."""


@pytest.mark.parametrize("before", BEFORE, ids=str)
def test_transmit(elements: Elements, before: tuple[int, int]) -> None:
    arguments = (
        elements.wave(*before),
        elements.obj,
        1,
        elements.crop_origins,
        np.zeros_like(elements.wave()),
    )
    elements.both("transmit", *arguments, changed=(4,))


@pytest.mark.parametrize("form", ["no gradient", "atomics", "parts"])
@pytest.mark.parametrize("before", BEFORE, ids=str)
def test_transmit_back(elements: Elements, before: tuple[int, int], form: str) -> None:
    gradient = elements.waves(*elements.obj.shape) if form == "atomics" else None
    parts = elements.waves(3, 2, 15, 20) if form == "parts" else None
    arguments = (
        elements.wave(),
        elements.wave(*before),
        elements.obj,
        2,
        elements.crop_origins,
        gradient,
        parts,
    )
    changed = {"no gradient": (0,), "atomics": (0, 5), "parts": (0, 6)}[form]
    elements.both("transmit_back", *arguments, changed=changed)


@pytest.mark.parametrize("tilted", [True, False])
@pytest.mark.parametrize("factor", [True, False])
def test_multiply_spectrum(elements: Elements, factor: bool, tilted: bool) -> None:
    ramps = elements.waves(3, 35) if tilted else None
    elements.both("multiply_spectrum", elements.wave(), elements.waves(15, 20) if factor else None, ramps)


def test_shift_probe(elements: Elements) -> None:
    out = elements.waves(3, 2, 1, 15, 20)
    elements.both("shift_probe", elements.waves(2, 15, 20), elements.waves(3, 35), out, changed=(2,))


@pytest.mark.parametrize(("masked", "weighted"), [(True, False), (False, False), (True, True), (False, True)])
def test_sum_abs2(elements: Elements, masked: bool, weighted: bool) -> None:
    mask, wave = elements.reals(15, 20) if masked else None, elements.wave()
    weights = elements.reals(wave.shape[2]) if weighted else None
    elements.both("sum_abs2", wave, mask, elements.reals(3, 15, 20), weights, changed=(2,))


@pytest.mark.parametrize(("masked", "weighted"), [(True, False), (False, False), (True, True), (False, True)])
def test_conjugate_times(elements: Elements, masked: bool, weighted: bool) -> None:
    mask, wave = elements.reals(15, 20) if masked else None, elements.wave()
    weights = elements.reals(wave.shape[2]) if weighted else None
    elements.both("conjugate_times", wave, elements.reals(3, 15, 20), mask, weights)


def test_imaginary_sum(elements: Elements) -> None:
    elements.both("imaginary_sum", elements.wave(), elements.wave(), elements.reals(3, 15, 20), changed=(2,))


@pytest.mark.parametrize("rows", [1, 7])
def test_shift_ramps(elements: Elements, rows: int) -> None:
    """In double precision, whatever that of the waves: far windows have large numbers."""
    index, crop_origins = np.array([6, 0, 2], np.int32), elements.crop_origins + np.int32(5000)
    positions = 5000 + 10 * elements.rng.standard_normal((rows, 2))
    frequencies = np.concatenate([np.fft.fftfreq(15), np.fft.fftfreq(20)])
    ramps = elements.waves(3, 35)
    elements.kernels.shift_ramps(positions, index, crop_origins, frequencies, 15, ramps)
    expected = twins.position_ramps(positions, index, crop_origins, frequencies, 15)
    assert relative(ramps, expected) < (1e-7 if elements.dtype == np.complex64 else 1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_add_fixed(elements: Elements, scale: float) -> None:
    """Sums as integers are as good as the precision, relative to the largest part."""
    parts = (elements.waves(3, 2, 15, 20) * scale).astype(elements.dtype)
    start = (elements.waves(*elements.obj.shape) * scale).astype(elements.dtype)
    gradient, expected = start.copy(), start.copy()
    for o in range(2):
        twins.scatter(expected[o, 1], elements.crop_origins, parts[:, o])
    scratch = np.empty(1, np.uint64), np.empty((2, 30, 33, 2), np.int64)
    elements.kernels.add_fixed(parts, elements.crop_origins, *scratch, gradient, 1)
    unit = elements.dtype.type(scale)
    elements.same(gradient / unit, expected / unit)


def test_add_fixed_of_nothing(elements: Elements) -> None:
    gradient, parts = np.zeros_like(elements.obj), np.zeros((3, 2, 15, 20), elements.dtype)
    scratch = np.empty(1, np.uint64), np.empty((2, 30, 33, 2), np.int64)
    elements.kernels.add_fixed(parts, elements.crop_origins, *scratch, gradient, 0)
    assert not gradient.any()


def test_add_fixed_beside_a_negative_zero(elements: Elements) -> None:
    """Its bits are those of no large number."""
    gradient, parts = np.zeros_like(elements.obj), np.ones((3, 2, 15, 20), elements.dtype)
    parts[:, 1] = complex(-0.0, -0.0)
    scratch = np.empty(1, np.uint64), np.empty((2, 30, 33, 2), np.int64)
    elements.kernels.add_fixed(parts, elements.crop_origins, *scratch, gradient, 0)
    assert gradient[0, 0].sum() == 3 * 15 * 20 and not gradient[1].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_add_fixed_shows_what_is_not_finite(elements: Elements, bad: float) -> None:
    gradient, parts = np.zeros_like(elements.obj), np.zeros((3, 2, 15, 20), elements.dtype)
    parts[1, 0, 2, 3] = bad
    scratch = np.empty(1, np.uint64), np.empty((2, 30, 33, 2), np.int64)
    elements.kernels.add_fixed(parts, elements.crop_origins, *scratch, gradient, 0)
    assert np.isnan(gradient[:, 0]).all() and not gradient[:, 1:].any()


@pytest.mark.parametrize("n", [64, 96])
@pytest.mark.parametrize("half", [16, 32])
def test_sums_of_parts(n: int, half: int) -> None:
    """Of the gradients of the probe and of the positions."""
    rng, kernels = np.random.default_rng(8), WaveKernels(n, SINGLE, cpu())
    parts, gradient = random_waves(rng, (3, 2, n, 2 * half)), random_waves(rng, (2, n, n))
    expected = twins.add_spectra(parts, gradient)
    kernels.add_spectra(parts, gradient)
    assert relative(gradient, expected) < 1e-6
    shifts, index, rows = (
        random_waves(rng, (5, 17)),
        np.array([7, 0, 3, 4, 9], np.int32),
        rng.uniform(size=(10, 2)),
    )
    expected = twins.add_shifts(shifts.astype(complex), index, rows, n)
    kernels.add_shifts(shifts, index, rows)
    assert relative(rows, expected) < 1e-14


# ---- loss, slope and squared errors

NOISE: dict[str, noise.NoiseModel] = {
    "lsq_sqrt": noise.LsqSqrt(),
    "lsq_sqrt, dark": noise.LsqSqrt(0.3),
    "ml": noise.Poisson(),
    "ml, dark": noise.Poisson(0.3),
    "ml, dark, reachable": noise.Poisson(0.3, np.random.default_rng(2).uniform(size=(40, 35)) < 0.8),
    "lsq": noise.Lsq(),
    "lsq_sqrt_2": noise.LsqSqrt2(),
    "poisson_gaussian": noise.PoissonGaussian(2.0, 1.5),
    "poisson_gaussian, no readout": noise.PoissonGaussian(2.0, 0.0, 0.3),
    "bounded": noise.bounded(noise.Poisson(0.3)),
    "bounded, with readout": noise.bounded(noise.PoissonGaussian(2.0, 1.5, 0.2)),
}


def scored(
    model: noise.NoiseModel, real: str, data: np.ndarray, intensity: np.ndarray, **changes: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Totals and slope by the kernel."""
    formula = model.formula()
    assert formula is not None
    own = ScoreKernels(real, data.dtype.name, CpuModule)
    parts, totals = np.empty((own.n_parts(intensity), N_TOTALS)), np.empty(N_TOTALS)
    slope = np.empty_like(intensity)
    own.score(formula, intensity, data, slope, parts, totals, **changes)
    return totals, slope


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("name", NOISE)
def test_score(name: str, real: str) -> None:
    """1400 pixels are more than one block has; weights of each pattern, a multiplier, some rows of the data."""
    rng, model = np.random.default_rng(9), NOISE[name]
    dtype = np.dtype(np.float32 if real == "float" else np.float64)
    intensity = rng.exponential(2.0, (3, 40, 35)).astype(dtype)
    intensity[:, 0, :5] = 0
    data, rows = rng.poisson(2.0, (6, 40, 35)).astype(np.uint16), np.array([4, 0, 5], np.int32)
    tolerance = 1e-5 if real == "float" else 1e-12
    for weights in (None, rng.uniform(size=(40, 35)), rng.uniform(size=(3, 40, 35))):
        own = None if weights is None else weights.astype(dtype)
        totals, slope = scored(model, real, data, intensity, rows=rows, weights=own, multiplier=1.5)
        expected = noise.score(model, intensity, (1.5 * data[rows]).astype(dtype), own, Workspace(np))
        np.testing.assert_allclose(totals, [*expected[:2], 0, 0], rtol=tolerance)
        np.testing.assert_allclose(slope, expected[2], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("shape", [(40, 35), (7, 300)])
def test_score_leaves_out_free_pixels(shape: tuple[int, int], real: str) -> None:
    """The same blocks as the definition, in shapes that two do not divide; pattern numbers that an int32 holds."""
    rng = np.random.default_rng(12)
    dtype = np.dtype(np.float32 if real == "float" else np.float64)
    intensity = rng.exponential(2.0, (3, *shape)).astype(dtype)
    data, index = rng.poisson(2.0, (3, *shape)).astype(np.uint16), np.array([4, 0, 2**31 - 1], np.int32)
    weights = rng.uniform(size=shape).astype(dtype)
    usable = (rng.uniform(size=shape) < 0.7).astype(dtype)
    free = FreePixels(0.2, seed=5, counts=CountModel(2.0, 1.5), usable=usable)
    hidden = Hidden(
        below=free.below, start=free.start, gain=2.0, shift=free.counts.shift, index=index, usable=usable
    )
    totals, slope = scored(noise.Poisson(), real, data, intensity, weights=weights, hidden=hidden)
    expected = np.empty(N_TOTALS)
    arguments = (intensity, data.astype(dtype), weights, Workspace(np))
    expected_slope = noise.score(noise.Poisson(), *arguments, totals=expected, free=free, index=index)[2]
    tolerance = 1e-5 if real == "float" else 1e-12
    np.testing.assert_allclose(totals, expected, rtol=tolerance)
    np.testing.assert_allclose(slope, expected_slope, rtol=tolerance, atol=tolerance)
    assert (slope[free.mask(index, shape)] == 0).all() and totals[3] > 0


@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_score_of_every_type(data_type: str) -> None:
    rng = np.random.default_rng(10)
    intensity = rng.exponential(2.0, (2, 9, 8)).astype(np.float32)
    data = rng.poisson(3.0, (2, 9, 8)).astype(data_type)
    totals, slope = scored(noise.LsqSqrt(), "float", data, intensity)
    expected = noise.score(noise.LsqSqrt(), intensity, data.astype(np.float32), None, Workspace(np))
    np.testing.assert_allclose(totals, [*expected[:2], 0, 0], rtol=1e-6)
    np.testing.assert_allclose(slope, expected[2], rtol=1e-5, atol=1e-5)


def test_score_has_a_fixed_order() -> None:
    rng = np.random.default_rng(11)
    intensity, data = rng.exponential(2.0, (5, 40, 35)), rng.poisson(3.0, (5, 40, 35)).astype(np.uint8)
    formula, found = noise.Poisson(0.1).formula(), set()
    for order in range(4):
        own = ScoreKernels("double", "uint8", cpu(order=order))
        parts, totals = np.empty((own.n_parts(intensity), N_TOTALS)), np.empty(N_TOTALS)
        own.score(formula, intensity, data, np.empty_like(intensity), parts, totals)
        found.add(totals.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("uint8", "uint8"),
        (">u2", "uint16"),
        ("bool", "uint8"),
        ("int64", "float64"),
        ("float16", "float32"),
        ("<f4", "float32"),
    ],
)
def test_stored_type(given: str, stored: str) -> None:
    assert stored_type(np.dtype(given)) == np.dtype(stored)


# ---- launches are checked


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((np.zeros(4, np.complex64),), "takes 7 arguments"),
        ((np.zeros(4, np.complex128), None, None, *[np.int32(1)] * 4), "complex64"),
        ((np.zeros((4, 8), np.complex64)[:, ::2], None, None, *[np.int32(1)] * 4), "contiguous"),
        ((np.zeros(4, np.complex64), None, None, 1, *[np.int32(1)] * 3), "NumPy number"),
        ((np.zeros(4, np.complex64), None, None, np.int64(1), *[np.int32(1)] * 3), "int32"),
        ((np.complex64(1), None, None, *[np.int32(1)] * 4), "an array"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple, complaint: str) -> None:
    with pytest.raises(BackendError, match=complaint):
        ElementKernels("float", CpuModule).module.launch("multiply_spectrum", 1, 256, *arguments)


def test_absent_array_is_a_null_pointer() -> None:
    """CuPy would pass a null pointer to the argument for None."""
    seen = []
    module = SimpleNamespace(get_function=lambda name: lambda grid, block, args: seen.append(args))
    kernels = ElementKernels("float", lambda *_: module)
    kernels.conjugate_times(np.zeros((1, 1, 1, 2, 2), np.complex64), np.zeros((1, 2, 2), np.float32), None)
    assert seen[0][2] == 0 and type(seen[0][2]) is np.uint64


def test_a_kernel_that_does_not_compile() -> None:
    def compiler(*_: object) -> object:
        raise RuntimeError("no such architecture")

    kernels = ElementKernels("float", compiler)
    with pytest.raises(BackendError, match="could not be compiled .no such architecture.*executor='stages'"):
        kernels.sum_abs2(np.zeros((1, 1, 1, 2, 2), np.complex64), None, np.zeros((1, 2, 2), np.float32))


def test_plans() -> None:
    for n, plan in PLANS.items():
        assert plan.window == n
        assert all(plan.per_thread % radix == 0 for radix in plan.radices)
        assert n % plan.rows == n % plan.columns == n % plan.per_thread == 0
        assert (plan.column_threads & (plan.column_threads - 1)) == 0, "sums over a block halve it"


# ---- which models, and which columns


def options(**changes: object) -> ModelOptions:
    chosen = {"grid": Grid((64, 64), (0.2, 0.2), 0.04), "cutoff": 2 / 3, "tilt_mode": None, **changes}
    return ModelOptions(**chosen)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        (
            {
                "tilt_mode": 0,
                "propagation": "angular_spectrum",
                "unknowns": frozenset({"beam_current"}),
                "crop": 3,
            },
            "",
        ),
        ({"grid": Grid((64, 96), (0.2, 0.2), 0.04)}, "window 64 x 96"),
        ({"grid": Grid((50, 50), (0.2, 0.2), 0.04)}, "window 50 x 50"),
        ({"object_modes": 2}, "object modes"),
        ({"tilt_mode": 0, "tilt_rows": 5}, "tilts of each pattern"),
        ({"refines_propagation": True}, "refined distances or tilts"),
        ({"keep_every": 2}, "keep_every = 2"),
        ({"tilt_mode": 1}, "after the specimen"),
        ({"tilt_mode": 2}, "before"),
        ({"filter_patches": True}, "lazy_clean"),
        ({"propagation": "yoshida"}, "propmethod yoshida"),
        ({"probe_marker": np.zeros(3, int)}, "several probes"),
        ({"aberration_marker": np.zeros(3, int)}, "aberrations"),
        ({"plates": object()}, "plates"),
        ({"near_field": object()}, "near field"),
    ],
)
def test_reason(changes: dict, reason: str) -> None:
    found = split_reason(options(**changes), np.complex64)
    assert reason in found
    assert bool(found) == bool(reason)


def test_double_precision_is_a_reason() -> None:
    assert split_reason(options(), np.complex128) == "double precision"


@pytest.mark.parametrize("block", ["tilts", "slice_distances"])
def test_gradients_that_there_are_not(block: str) -> None:
    """A run whose settings were edited on the way must not go on with gradients of zero."""
    case = Case(64, tilted=True)
    with pytest.raises(BackendError, match="executor='fused'"):
        split_result(case, blocks=("obj", block))


@pytest.mark.parametrize("n", PLANS)
@pytest.mark.parametrize("cutoff", [0.01, 0.3, 2 / 3, 0.97, 1.0, 2.0])
def test_columns_in_use(n: int, cutoff: float) -> None:
    """Whole memory sectors, no column lost, and not many too many."""
    mask = Grid((n, n), (0.2, 0.2), 0.04).band_mask(cutoff)
    half = half_band(mask)
    assert half % 4 == 0 and 0 < half <= n // 2
    assert not mask[:, half : n - half].any()
    assert half <= mask.any(axis=0)[: n // 2].sum() + 3


# ---- memory errors and barriers


def run_in_subprocess(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)


SANITISED_RUN = """
import numpy as np
from cpu_module import SANITISED
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.score import Formula, Hidden, ScoreKernels
from wave_cases import MARGIN, Case, cpu, evaluate
from dataclasses import replace
for n in {sizes}:
    for deterministic in (False, True):
        case = Case(n, patterns=1, modes=2)
        batch = case.batch()
        if {bad_corner}:
            batch = replace(batch, crop_origins=batch.crop_origins + MARGIN)
        evaluate(case, [case.split(cpu(SANITISED), deterministic)], case.variables(), batch=batch)
own = ElementKernels("float", cpu(SANITISED))
wave, obj, real = np.ones((2, 3, 2, 15, 20), "c8"), np.ones((2, 2, 17, 21), "c8"), np.ones((2, 15, 20), "f4")
crop_origins, ramps, index = np.array([[0, 0], [2, 1]], "i4"), np.ones((2, 35), "c8"), np.array([4, 1], "i4")
parts = np.ones((2, 2, 15, 20), "c8")
for before in (wave.copy(), wave[:1].copy(), wave[:, :, :1].copy(), wave[:1, :, :1].copy()):
    own.transmit(before, obj, 1, crop_origins, wave)
    own.transmit_back(wave, before, obj, 1, crop_origins, obj.copy())
    own.transmit_back(wave, before, obj, 1, crop_origins, parts=parts)
own.multiply_spectrum(wave, wave[0, 0, 0].copy(), ramps)
own.shift_probe(wave[0, :, 0].copy(), ramps, wave[:, :, :1].copy())
own.sum_abs2(wave, real[0].copy(), real, np.ones(wave.shape[2], "f4"))
own.conjugate_times(wave, real, real[0].copy(), np.ones(wave.shape[2], "f4"))
own.imaginary_sum(wave, wave.copy(), real)
own.shift_ramps(np.ones((5, 2)), index, crop_origins, np.ones(35), 15, ramps)
own.add_fixed(parts, crop_origins, np.ones(1, "u8"), np.ones((2, 17, 21, 2), "i8"), obj, 1)
score = ScoreKernels("float", "uint8", cpu(SANITISED))
arrays = np.ones((5, 15, 20), "u1"), real.copy(), np.ones((score.n_parts(real), 4)), np.ones(4)
formula = Formula(kind="poisson", dark=1, reachable=np.ones((15, 20), bool))
hidden = Hidden(below=2**31, start=7, gain=2.0, shift=1.0, index=index)
score.score(formula, real, *arrays, index, real[0].copy(), hidden=hidden)
print("finished")
"""


def sanitizer_library() -> str:
    found = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True
    ).stdout.strip()
    return found if os.path.isabs(found) else ""


@pytest.mark.parametrize(
    "sizes",
    [
        (64,),
        # the smallest with a factor of three, and the largest; building takes half a minute for each size
        pytest.param((96, 512), marks=pytest.mark.slow),
        pytest.param((128, 192, 256, 384), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_no_memory_errors(sizes: tuple[int, ...]) -> None:
    if not sanitizer_library():
        pytest.skip("AddressSanitizer is not installed with g++")
    program = SANITISED_RUN.format(sizes=sizes, bad_corner=False)
    done = run_in_subprocess(program, LD_PRELOAD=sanitizer_library(), ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0 and "finished" in done.stdout, done.stderr[-3000:]


def test_a_memory_error_is_seen() -> None:
    """A window outside the object: the test above can find something."""
    if not sanitizer_library():
        pytest.skip("AddressSanitizer is not installed with g++")
    program = SANITISED_RUN.format(sizes=(64,), bad_corner=True)
    done = run_in_subprocess(program, LD_PRELOAD=sanitizer_library(), ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "row_forward" in done.stderr


BARRIERS = [match.start() for match in re.finditer(r"__sync(threads|warp)\(\);", read_source(FILES))]
WAITS = [match.start() for match in re.finditer(r"line\.wait\(\);", read_source(FILES))]


def without(position: int) -> str:
    """The source without the statement at a position."""
    source = read_source(FILES)
    end = source.index(";", position)
    return source[:position] + ";" + source[end + 1 :]


def agrees(source: str, case: Case) -> bool:
    """Whether a changed source still gives the right gradients."""

    original = read_source(FILES)

    def compiler(given: str, options: tuple[str, ...]) -> CpuModule:
        return CpuModule(source if given == original else given, options)

    value, expected = split_result(case, case.split(compiler)), plain_result(case)
    return all(relative(value.gradients[block], expected.gradients[block]) < TOLERANCE for block in BLOCKS)


@pytest.mark.parametrize("position", [*BARRIERS, *WAITS])
def test_every_barrier_is_needed(position: int) -> None:
    """Without it a result is wrong, for at least one window."""
    source = without(position)
    assert not all(agrees(source, Case(n, patterns=2)) for n in (64, 96, 512))


def test_another_machine() -> None:
    """The fibers of the stand-in without assembler, as on Arm."""
    case = Case(64)
    value = split_result(case, case.split(cpu(("-O2", "-DCPU_UCONTEXT"))))
    assert relative(value.gradients["obj"], plain_result(case).gradients["obj"]) < TOLERANCE
