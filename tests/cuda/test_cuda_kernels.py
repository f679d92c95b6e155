"""The CUDA kernels but the split ones (test_wave_kernels.py), compiled for the CPU: each against its NumPy twin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cpu_module import COMPILER, CpuModule, why_not
from wave_cases import cpu, relative

from pypty.backend.cuda import twins
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.score import DATA_TYPES, N_TOTALS, ScoreKernels, Values, stored_type
from pypty.backend.workspace import Workspace
from pypty.errors import BackendError
from pypty.objective import noise
from pypty.objective.deviance import CountModel
from pypty.objective.free_pixels import FreePixels

if why_not() and os.environ.get("CI", "").lower() == "true":
    pytest.fail(why_not(), pytrace=False)
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

HERE = Path(__file__).parent


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


@pytest.mark.parametrize("name", ["matrix_along_y", "matrix_along_x"])
def test_matrix_along(elements: Elements, name: str) -> None:
    """From 15 x 20 pixels to 18 along y, or 9 along x."""
    matrix, out = ((18, 15), (3, 18, 20)) if name.endswith("y") else ((20, 9), (3, 15, 9))
    arguments = elements.reals(*matrix), elements.reals(3, 15, 20), elements.reals(*out)
    elements.both(name, *arguments, changed=(2,))


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("distances", [1, 2])
def test_tilt_ramps(elements: Elements, rows: int, distances: int) -> None:
    """Of two gaps; a single distance holds for both."""
    index, ny = np.array([6, 0, 2], np.int32), 15
    tilts, z = elements.rng.uniform(-0.02, 0.02, (rows, 6)), elements.rng.uniform(20, 300, distances)
    frequencies = np.concatenate([np.fft.fftfreq(15), np.fft.fftfreq(20)]) / 0.1
    ramps = elements.waves(2, 3, 35)
    elements.kernels.tilt_ramps(tilts, index, z, frequencies, ny, ramps)
    expected = twins.tilt_ramps(tilts, index, z, frequencies, ny, gaps=2)
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
    own, values = (
        ScoreKernels(real, data.dtype.name, CpuModule),
        Values(intensity=intensity, data=data, **changes),
    )
    parts, totals = np.empty((values.n_parts, N_TOTALS)), np.empty(N_TOTALS)
    slope = np.empty_like(intensity)
    own.score(formula, values, slope, parts, totals)
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
    changes = {"weights": weights, "hidden": free.hidden(index)}
    totals, slope = scored(noise.Poisson(), real, data, intensity, **changes)
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
        own, values = (
            ScoreKernels("double", "uint8", cpu(order=order)),
            Values(intensity=intensity, data=data),
        )
        parts, totals = np.empty((values.n_parts, N_TOTALS)), np.empty(N_TOTALS)
        own.score(formula, values, np.empty_like(intensity), parts, totals)
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


# ---- memory errors and barriers


def run_in_subprocess(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)


SANITISED_RUN = """
import numpy as np
from cpu_module import SANITISED
from pypty.backend.cuda.elementwise import ElementKernels
from pypty.backend.cuda.powers import PowerFormula, PowerKernels
from pypty.backend.cuda.score import Formula, Hidden, ScoreKernels, Values
from wave_cases import MARGIN, Case, cpu, evaluate
from dataclasses import replace
for n in {sizes}:
    for deterministic in (False, True):
        case = Case(n, patterns=1, modes=2, objects=2, tilted=True, tilt_rows=5, refined=True)
        batch = case.batch()
        if {bad_corner}:
            batch = replace(batch, crop_origins=batch.crop_origins + MARGIN)
        evaluate(case, [case.split(cpu(SANITISED), deterministic)], case.variables(), case.blocks, batch=batch)
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
own.tilt_ramps(np.ones((5, 6)), index, np.ones(2), np.ones(35), 15, np.ones((3, 2, 35), "c8"))
own.add_fixed(parts, crop_origins, np.ones(1, "u8"), np.ones((2, 17, 21, 2), "i8"), obj, 1)
formula = Formula(kind="poisson", dark=1, reachable=np.ones((15, 20), bool))
hidden = Hidden(below=2**31, start=7, gain=2.0, shift=1.0, index=index, usable=real[0].copy())
values = Values(intensity=real, data=np.ones((5, 15, 20), "u1"), rows=index, weights=real[0].copy(), hidden=hidden)
score = ScoreKernels("float", "uint8", cpu(SANITISED))
score.score(formula, values, real.copy(), np.ones((values.n_parts, 4)), np.ones(4))
powers, none = PowerKernels("float", "uint8", cpu(SANITISED)), dict(floor=0.0, dark=0.1, bounded=False)
formula = PowerFormula(single=(1.0, 0.7), poissn=(1.0, 0.4, 1e-6), pacbed_power=0.2, shared=real[0].copy(),
                       factors=np.ones(2), **none)
powers.score(formula, values, real.copy(), np.ones((values.n_parts, 10)), np.ones(10))
powers.add_patterns(values, 0.0, np.ones((3, 15, 20)))
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
        # odd numbers of points, third stages; building takes half a minute for each size
        pytest.param((45, 80, 125, 128, 192, 256, 320, 512), marks=pytest.mark.nightly),
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
