"""The split kernels (waves.cu), compiled for the CPU: each against its NumPy twin, and together against the stages they
replace."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import numpy as np
import pytest
from cpu_module import CpuModule, why_not
from wave_cases import (
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
from pypty.backend.cuda.module import read_source
from pypty.backend.cuda.plans import LARGEST, SMALLEST, WINDOWS, plan_of
from pypty.backend.cuda.waves import FILES, Layout, Slice, WaveKernels
from pypty.errors import BackendError
from pypty.model.kept_waves import EXIT, place_of, slices_to_repeat
from pypty.model.options import ModelOptions
from pypty.model.split import columns_in_use, split_reason
from pypty.model.stages.base import FORWARD_ONLY
from pypty.optics.grid import Grid

if why_not() and os.environ.get("CI", "").lower() == "true":
    pytest.fail(why_not(), pytrace=False)
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

USUAL = (64, 128)
"""Two stages."""
UNUSUAL = (45, 80, 125)
"""An odd number of points; threads without a small transform in the last round; three stages on 25 threads."""
LARGE = (500,)
TOLERANCE = 2e-5


# ---- plans


def test_every_length_with_small_factors_has_a_plan() -> None:
    smooth = {
        2**a * 3**b * 5**c
        for a in range(10)
        for b in range(6)
        for c in range(4)
        if SMALLEST <= 2**a * 3**b * 5**c <= LARGEST
    }
    assert set(WINDOWS) == smooth
    assert {64, 96, 128, 192, 200, 240, 250, 256, 320, 384, 500, 512} <= smooth


@pytest.mark.parametrize("n", WINDOWS)
def test_plan(n: int) -> None:
    plan = plan_of(n)
    assert plan.window == n
    assert plan.per_thread <= 16, "registers for two lines and a sum"
    assert n % plan.rows == 0
    assert plan.row_threads <= 256 and plan.column_threads <= 512
    outer = [radix for radix in plan.radices if radix > 1][:: 2 if plan.radices[2] > 1 else 1]
    padding = max(n // radix if radix % 2 == 0 else 0 for radix in outer)
    shared = (n + padding) * plan.columns * 8 + 3 * 4 * plan.column_threads
    assert shared <= 48 * 1024, "what every device gives a block without being asked"


def test_no_plan_for_other_lengths() -> None:
    with pytest.raises(BackendError, match="124 pixels; use one of .*125, 128"):
        plan_of(124)


# ---- every kernel against its twin


class Bench:
    """Random arguments for the kernels of one window, with 2 probe and 2 object modes."""

    def __init__(self, n: int, patterns: int = 3) -> None:
        self.n = n
        self.kernels = WaveKernels(n, SINGLE, cpu())
        self.layout = Layout(patterns, 2, n // 4 * 2, n // 4 * 2, objects=2)
        rng = self.rng = np.random.default_rng(n)
        self.shape = (2, 3, n + 7, n + 5)
        self.obj = random_waves(rng, self.shape)
        self.crop_origins = rng.integers(0, 6, (patterns, 2)).astype(np.int32)
        self.ramps = twins.shift_ramps(n, rng.uniform(-0.5, 0.5, (patterns, 2))).astype(np.complex64)
        self.spectrum = random_waves(rng, (2, n, n))
        self.weights = np.array([0.3, 1.2], np.float32)
        self.mask = (rng.uniform(size=(n, n)) < 0.7).astype(np.float32)
        self.mask[:, self.unused] = 0

    @property
    def unused(self) -> np.ndarray:
        used = twins.column_indices(self.n, self.layout.columns)
        return np.setdiff1d(np.arange(self.n), used)

    def slice(self, number: int) -> Slice:
        return Slice(self.obj, number, self.crop_origins)

    def wave(self, objects: int = 2) -> np.ndarray:
        """Rubbish in the columns that are not in use: nobody may look at it."""
        wave = random_waves(self.rng, (self.layout.patterns, 2, objects, self.n, self.n))
        wave[..., self.unused] = np.nan
        return wave

    def used(self, wave: np.ndarray) -> np.ndarray:
        return wave[..., twins.column_indices(self.n, self.layout.columns)]

    def double(self, wave: np.ndarray) -> np.ndarray:
        """What a twin gets."""
        return self.used(wave).astype(np.complex128)

    def check(self, wave: np.ndarray, expected: np.ndarray) -> None:
        assert relative(self.used(wave), np.broadcast_to(expected, self.used(wave).shape)) < TOLERANCE
        assert np.isnan(wave[..., self.unused]).all(), "unused columns"


@pytest.fixture(params=(*USUAL, *UNUSUAL))
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


@pytest.mark.parametrize("shifted", [True, False])
def test_probe_forward(bench: Bench, shifted: bool) -> None:
    ramps = bench.ramps if shifted else None
    wave = bench.wave(objects=1)
    bench.kernels.probe_forward(wave, bench.spectrum, ramps, bench.layout)
    bench.check(wave, twins.probe_forward(bench.spectrum.astype(complex), ramps, bench.layout.columns))


def test_row_forward(bench: Bench) -> None:
    """From one buffer to another, and in place."""
    before, after = bench.wave(), bench.wave()
    where = (bench.obj, 1, bench.crop_origins)
    expected = twins.row_forward(bench.double(before), *where, bench.layout.columns)
    bench.kernels.row_forward(before, after, bench.slice(1), bench.layout)
    bench.check(after, expected)
    bench.kernels.row_forward(before, before, bench.slice(1), bench.layout)
    bench.check(before, expected)


def test_first_row_has_columns_of_its_own(bench: Bench) -> None:
    """The wave that enters is not band-limited where there is no sub-pixel shift; object modes share it."""
    layout = replace(bench.layout, entry=bench.n)
    before, after = random_waves(bench.rng, (3, 2, 1, bench.n, bench.n)), bench.wave()
    mixed = before[..., twins.column_indices(bench.n, bench.n)].astype(complex)
    expected = twins.row_forward(mixed, bench.obj, 0, bench.crop_origins, layout.columns)
    bench.kernels.row_forward(before, after, bench.slice(0), layout)
    bench.check(after, expected)


@pytest.mark.parametrize("tilted", [True, False])
@pytest.mark.parametrize("conjugate", [True, False])
def test_propagate(bench: Bench, conjugate: bool, tilted: bool) -> None:
    wave, ramps = bench.wave(), bench.ramps if tilted else None
    factor = random_waves(bench.rng, (bench.n, bench.n))
    expected = twins.propagate(bench.double(wave), factor, conjugate, ramps)
    bench.kernels.propagate(wave, factor, bench.layout, ramps=ramps, conjugate=conjugate)
    bench.check(wave, expected)


@pytest.mark.parametrize("tilted", [True, False])
def test_propagate_adjoint(bench: Bench, tilted: bool) -> None:
    wave, after, ramps = bench.wave(), bench.wave(), bench.ramps if tilted else None
    factor, rate = random_waves(bench.rng, (bench.n, bench.n)), bench.rng.normal(size=(bench.n, bench.n))
    expected, slopes = twins.propagate_adjoint(bench.double(wave), bench.double(after), factor, rate, ramps)
    blocks = bench.kernels.column_blocks(bench.layout.columns)
    parts, sums = np.empty((1, 3, 4, blocks, 3), np.float32), np.empty((1, 3, 3))
    arrays = (wave, after, factor, rate.astype(np.float32), parts)
    bench.kernels.propagate_adjoint(*arrays, bench.layout, ramps=ramps)
    bench.kernels.sum_slopes(parts, sums)
    bench.check(wave, expected)
    for n in range(3):
        assert relative(sums[0, :, n], slopes[:, n]) < 5 * TOLERANCE


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_detector_forward(bench: Bench, masked: bool, weighted: bool) -> None:
    mask, weights = bench.mask if masked else None, bench.weights if weighted else None
    wave = bench.wave()
    intensity = np.full((3, bench.n, bench.n), np.nan, np.float32)
    bench.kernels.detector_forward(wave, intensity, mask, bench.layout, weights)
    assert relative(intensity, twins.detector_forward(bench.double(wave), mask, weights)) < TOLERANCE
    assert not intensity[:, :, bench.unused].any()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_detector_adjoint(bench: Bench, masked: bool, weighted: bool) -> None:
    mask, weights = bench.mask if masked else None, bench.weights if weighted else None
    wave = bench.wave()
    slope = bench.rng.standard_normal((3, bench.n, bench.n)).astype(np.float32)
    expected = twins.detector_adjoint(bench.double(wave), slope, mask, weights)
    bench.kernels.detector_adjoint(wave, slope, mask, bench.layout, weights)
    bench.check(wave, expected)


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("form", ["no gradient", "atomics", "parts"])
@pytest.mark.parametrize("first", [True, False])
def test_row_adjoint(bench: Bench, leaves: bool, form: str, first: bool) -> None:
    s = 0 if first else 2
    wave, before = bench.wave(), bench.wave(objects=1 if first else 2)
    unchanged, layout = bench.double(wave), bench.layout
    arrays = (unchanged, bench.double(before), bench.obj, s, bench.crop_origins, layout.columns)
    after, parts = twins.row_adjoint(*arrays)
    gradient = random_waves(bench.rng, bench.shape) if form == "atomics" else None
    expected = None if gradient is None else gradient.copy()
    found = np.empty((3, 2, bench.n, bench.n), np.complex64) if form == "parts" else None
    bench.kernels.row_adjoint(
        wave, before, bench.slice(s), layout, gradient=gradient, parts=found, leaves=leaves
    )
    bench.check(wave, after if leaves else unchanged)
    if gradient is not None:
        for o in range(2):
            twins.scatter(expected[o, s], bench.crop_origins, parts[:, o])
        assert relative(gradient, expected) < TOLERANCE
    if found is not None:
        assert relative(found, parts) < TOLERANCE


@pytest.mark.parametrize("patterns", [3, 19])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("n", [45, 64])
def test_probe_adjoint(n: int, shifted: bool, patterns: int) -> None:
    """19 patterns are more than one block sums, and no multiple of it."""
    bench = Bench(n, patterns)
    layout, wave = bench.layout, bench.wave()
    ramps = bench.ramps if shifted else None
    spectrum_parts = np.empty((bench.kernels.groups(patterns), 2, n, layout.columns), np.complex64)
    shift_parts = np.empty((patterns, 2, bench.kernels.column_blocks(layout.columns), 2), np.float32)
    arguments = (wave, bench.spectrum, ramps, layout)
    bench.kernels.probe_adjoint(*arguments, spectrum_parts, shift_parts)
    expected = twins.probe_adjoint(bench.double(wave), bench.spectrum.astype(complex), ramps)
    assert relative(spectrum_parts.sum(axis=0), expected[0]) < TOLERANCE
    assert relative(shift_parts.sum(axis=(1, 2)), expected[1]) < TOLERANCE


def test_probe_adjoint_of_every_window(bench: Bench) -> None:
    layout, wave = bench.layout, bench.wave()
    parts = np.empty((1, 2, bench.n, layout.columns), np.complex64)
    bench.kernels.probe_adjoint(wave, bench.spectrum, bench.ramps, layout, parts)
    expected = twins.probe_adjoint(bench.double(wave), bench.spectrum, bench.ramps)
    assert relative(parts[0], expected[0]) < TOLERANCE


@pytest.mark.parametrize(("n", "columns"), [(64, 32), (64, 64), (45, 24), (45, 45)])
def test_sums_of_parts(n: int, columns: int) -> None:
    """Of the gradients of the probe and of the positions."""
    rng, kernels = np.random.default_rng(8), WaveKernels(n, SINGLE, cpu())
    parts, gradient = random_waves(rng, (3, 2, n, columns)), random_waves(rng, (2, n, n))
    expected = twins.add_spectra(parts, gradient)
    kernels.add_spectra(parts, gradient)
    assert relative(gradient, expected) < 1e-6
    index, rows = np.array([7, 0, 3, 4, 9], np.int32), rng.uniform(size=(10, 2))
    shifts = rng.normal(size=(5, 17, 2)).astype(np.float32)
    expected = twins.add_shifts(shifts.astype(float), index, rows, n)
    kernels.add_shifts(shifts, index, rows)
    assert relative(rows, expected) < 1e-14


@pytest.mark.parametrize("tilt_rows", [1, 700])
@pytest.mark.parametrize("distances", [1, 3])
def test_add_slopes(tilt_rows: int, distances: int) -> None:
    """More patterns than threads; one tilt or one for each pattern; one distance or one for each gap."""
    rng, kernels = np.random.default_rng(8), WaveKernels(64, SINGLE, cpu())
    sums, tilts = rng.normal(size=(3, 600, 3)), rng.normal(size=(tilt_rows, 6))
    index, z, units = rng.permutation(700)[:600].astype(np.int32), rng.uniform(5, 9, distances), (0.3, 0.4)
    found = np.ones(distances), np.ones((tilt_rows, 6))
    kernels.add_slopes(sums, index, tilts, z, *found, units)
    for value, change in zip(found, twins.add_slopes(sums, index, tilts, z, units, 64), strict=True):
        assert relative(value - 1, change) < 1e-12
    alone = np.ones(distances)
    kernels.add_slopes(sums, index, None, z, alone, None, units)
    untilted, _ = twins.add_slopes(sums, index, np.zeros((1, 6)), z, units, 64)
    assert relative(alone - 1, untilted) < 1e-12


# ---- the stage against the stages that it replaces

CASES = [
    *(Case(n) for n in (*USUAL, *UNUSUAL)),
    *(Case(n, patterns=1, modes=1, slices=1) for n in UNUSUAL),
    *(Case(n, subpixel=False, slices=3, distances=1, modes=1) for n in UNUSUAL),
    *(Case(n, cutoff=2.0, modes=4, patterns=1) for n in UNUSUAL),
    Case(64, slices=1, modes=4, subpixel=False),
    Case(64, slices=1, cutoff=2.0, subpixel=False),
    Case(64, slices=4, distances=3, tilted=True, modes=1),
    Case(64, positions=1, modes=1),
    Case(64, cutoff=0.05),
    # what is refined between the slices
    Case(64, slices=4, distances=3, refined=True),
    Case(45, slices=4, distances=1, tilted=True, refined=True),
    Case(64, slices=3, tilted=True, tilt_rows=5, refined=True, modes=1),
    Case(64, slices=3, tilted=True, tilt_rows=5),
    Case(64, slices=1, tilted=True, tilt_rows=5, refined=True),
    # object modes
    Case(64, objects=3, slices=2),
    Case(45, objects=2, slices=1, weighted=True, subpixel=False),
    Case(64, objects=2, slices=4, tilted=True, tilt_rows=5, refined=True, weighted=True),
    # waves that are computed again
    *(Case(64, slices=slices, keep_every=k, modes=1) for slices, k in ((4, 2), (5, 3), (7, 3), (2, 4))),
    Case(64, slices=5, keep_every=2, objects=2, tilted=True, tilt_rows=5, refined=True),
    *(Case(n, patterns=1, slices=2, modes=2) for n in LARGE),
]


def same(case: Case, deterministic: bool = False) -> None:
    value, expected = split_result(case, case.split(deterministic=deterministic)), plain_result(case)
    assert relative(value.intensity, expected.intensity) < TOLERANCE
    for block in case.blocks:
        assert relative(value.gradients[block], expected.gradients[block]) < 2 * TOLERANCE, block


@pytest.mark.parametrize("case", CASES, ids=str)
def test_stage(case: Case) -> None:
    same(case)


@pytest.mark.nightly
@pytest.mark.parametrize("n", WINDOWS)
def test_every_window(n: int) -> None:
    case = Case(n, patterns=2, slices=2, refined=True)
    same(replace(case, refined=False))
    # gradients of distances are sums over patterns that may cancel: the error is one of their terms
    block = ("slice_distances",)
    terms = [plain_result(replace(case, patterns=1), block), plain_result(case, block)]
    scale = sum(float(np.abs(term.gradients[block[0]]).max()) for term in terms)
    error = split_result(case, blocks=block).gradients[block[0]] - terms[1].gradients[block[0]]
    assert np.abs(error).max() < 2 * TOLERANCE * scale


@pytest.mark.parametrize(
    "blocks", [(), ("obj",), ("probe",), ("positions",), ("obj", "positions"), ("tilts",)]
)
@pytest.mark.parametrize("subpixel", [True, False])
def test_only_the_gradients_that_are_asked_for(blocks: tuple[str, ...], subpixel: bool) -> None:
    case = Case(64, subpixel=subpixel, tilted=True)
    value, expected = split_result(case, blocks=blocks), plain_result(case, blocks)
    assert set(value.gradients) == set(blocks)
    for block in blocks:
        assert relative(value.gradients[block], expected.gradients[block]) < TOLERANCE


def test_gradients_add_up() -> None:
    """Two batches, into the same accumulators and the same workspace."""
    case = Case(64, tilted=True, tilt_rows=5, refined=True)
    stage, variables, batch = case.split(), case.variables(), case.batch()
    point, gradients = stage.prepare(variables), variables.zeros(case.blocks)
    for _ in range(2):
        tape: dict = {}
        intensity = stage.forward(None, point, batch, tape)
        stage.adjoint(np.ones_like(intensity), point, batch, tape, gradients)
        size = batch.workspace.nbytes
    once = variables.zeros(case.blocks)
    tape = {}
    intensity = stage.forward(None, point, batch, tape)
    assert stage.adjoint(np.ones_like(intensity), point, batch, tape, once) is None
    assert batch.workspace.nbytes == size
    for block in case.blocks:
        assert relative(gradients[block], 2 * once[block]) < 1e-6


def test_forward_only_keeps_no_waves() -> None:
    case = Case(64, slices=4)
    batch, stage = case.batch(), case.split()
    intensity = stage.forward(None, stage.prepare(case.variables()), batch, {FORWARD_ONLY: True})
    assert relative(intensity, plain_result(case).intensity) < TOLERANCE
    assert batch.workspace.nbytes < 2.5 * 3 * 2 * 64 * 64 * 8  # the first and the last wave, and intensities


def test_fewer_waves_are_kept() -> None:
    """3 + 3 - 1 of 9 waves, and the last one."""

    def kept(keep_every: int) -> float:
        case = Case(64, slices=9, keep_every=keep_every)
        batch = case.batch()
        evaluate(case, [case.split()], case.variables(), batch=batch)
        return sum(size for name, size in batch.workspace.sizes.items() if name.startswith("mixed")) / (
            3 * 2 * 64 * 64 * 8
        )

    assert kept(1) == pytest.approx(10) and kept(3) == pytest.approx(6)


@pytest.mark.parametrize("case", [Case(64), Case(45, tilted=True, tilt_rows=5, refined=True)], ids=str)
def test_adjoint_identity(case: Case) -> None:
    """Re<G, dz> is the change of sum(slope I) when an unknown changes by dz (central differences of the stages in
    double precision)."""
    variables = as_double(case.variables())
    slope = 1 - np.random.default_rng(5).poisson(3, (3, case.n, case.n)) / 3
    gradients = split_result(case).gradients
    rng = np.random.default_rng(9)
    for block in case.blocks:
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


@pytest.mark.parametrize(
    "case",
    [
        Case(64, patterns=5),
        Case(45, subpixel=False),
        Case(64, patterns=5, objects=2, tilted=True, tilt_rows=5, refined=True),
    ],
    ids=str,
)
def test_deterministic_mode(case: Case) -> None:
    """The order in which blocks run changes no bit; and the numbers are right."""
    first = bits(case, 0)
    assert all(bits(case, order) == first for order in (1, 2, 3))
    same(case, deterministic=True)


def test_atomic_sums_depend_on_the_order() -> None:
    """Else the test above would show nothing."""
    case = Case(64, patterns=5)
    gradients = [split_result(case, case.split(cpu(order=order))).gradients["obj"] for order in (0, 1)]
    assert gradients[0].tobytes() != gradients[1].tobytes()
    assert relative(gradients[0], gradients[1]) < 1e-6


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
        ({"object_modes": 2, "mode_weights": np.ones(2)}, ""),
        ({"tilt_mode": 0, "keep_every": 2}, ""),
        ({"grid": Grid((75, 75), (0.2, 0.2), 0.04)}, ""),
        ({"grid": Grid((64, 96), (0.2, 0.2), 0.04)}, "window 64 x 96"),
        ({"grid": Grid((62, 62), (0.2, 0.2), 0.04)}, "window 62"),
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
    assert split_reason(options(), np.complex128).startswith("double precision: ")


@pytest.mark.parametrize(("n_slices", "keep_every"), [(1, 1), (4, 1), (4, 2), (7, 3), (2, 4), (9, 3)])
def test_every_wave_is_there_when_it_is_needed(n_slices: int, keep_every: int) -> None:
    """Forward, then back with waves computed again: the buffer of slice s holds the wave entering slice s."""
    held = {place_of(0, n_slices, keep_every): 0}

    def through(s: int) -> None:
        assert held[place_of(s, n_slices, keep_every)] == s
        held[place_of(s + 1, n_slices, keep_every)] = s + 1

    for s in range(n_slices):
        through(s)
    assert place_of(n_slices, n_slices, keep_every) == EXIT
    for s in reversed(range(n_slices)):
        for earlier in slices_to_repeat(s, n_slices, keep_every):
            through(earlier)
        assert held[place_of(s, n_slices, keep_every)] == s


@pytest.mark.parametrize("n", (16, 25, 64, 75, 512))
@pytest.mark.parametrize("cutoff", [0.01, 0.3, 2 / 3, 0.97, 1.0, 2.0])
def test_columns_in_use(n: int, cutoff: float) -> None:
    """Whole memory sectors, no column lost, and not many too many."""
    mask = Grid((n, n), (0.2, 0.2), 0.04).band_mask(cutoff)
    columns = columns_in_use(mask)
    assert columns == n or columns % 8 == 0
    unused = np.setdiff1d(np.arange(n), twins.column_indices(n, columns))
    assert not mask[:, unused].any()
    assert columns <= mask.any(axis=0).sum() + 8


# ---- barriers

BARRIERS = [match.start() for match in re.finditer(r"__sync(threads|warp)\(\);", read_source(FILES))]
WAITS = [match.start() for match in re.finditer(r"line\.wait\(\);", read_source(FILES))]


CHECKED = (
    Case(64, patterns=2, slices=3, tilted=True, refined=True),
    # rows that do not fill warps, and a third stage
    Case(125, patterns=2),
)


def without(position: int) -> str:
    """The source without the statement at a position."""
    source = read_source(FILES)
    end = source.index(";", position)
    return source[:position] + ";" + source[end + 1 :]


def agrees(source: str, case: Case, order: int) -> bool:
    """Whether a changed source still gives the right gradients, with threads in an order of their own."""

    original = read_source(FILES)

    def compiler(given: str, options: tuple[str, ...]) -> CpuModule:
        return CpuModule(source if given == original else given, options, order=order)

    value, expected = split_result(case, case.split(compiler)), plain_result(case)
    return all(
        relative(value.gradients[block], expected.gradients[block]) < TOLERANCE for block in case.blocks
    )


@pytest.mark.parametrize("position", [*BARRIERS, *WAITS])
def test_every_barrier_is_needed(position: int) -> None:
    """Without it a result is wrong, for at least one window and order."""
    source = without(position)
    assert not all(agrees(source, case, order) for case in CHECKED for order in (0, 1))


def test_another_machine() -> None:
    """The fibers of the emulated threads without assembler, as on Arm."""
    case = Case(64)
    value = split_result(case, case.split(cpu(("-O2", "-DCPU_UCONTEXT"))))
    assert relative(value.gradients["obj"], plain_result(case).gradients["obj"]) < TOLERANCE
