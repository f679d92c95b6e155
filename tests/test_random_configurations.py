"""Random combinations of all effects: gradients, adjoints of the stages as they are chained, parametrisations."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from configurations import (
    ALGORITHMS,
    COMPRESSED,
    N_BYTES,
    PROPAGATIONS,
    WEIGHTS,
    Configuration,
    aberration_units,
    configuration_of,
    configurations,
    describe,
    effects,
    parameters,
)
from helpers import assert_adjoint, directional_derivative, inner, random_like
from hypothesis import given, note, seed, settings

import pypty
from pypty.data.batch import Batch
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.model.blocks import BLOCKS, Variables, from_public, to_public
from pypty.model.stages import SourceEnvelope, Stage
from pypty.optimize.vector import BlockVector

GRADIENTS, ADJOINTS, FORMS = 1, 2, 3
"""Seeds of the configurations of each test."""
TOLERANCE = 1e-6
ROUNDING = 5
"""Rounding of a loss, in units of its eps. It is most of the tolerance in one check of a hundred."""
MAIN_EFFECTS = (
    "several slices",
    "fourth order",
    "2 object modes",
    "3 probe modes",
    "tilts",
    "near field",
    "local aberrations",
    "probe scenarios",
    "phase plates",
    "beam current",
    "static background",
    "detector blur",
    "detector gains",
    "upsampled",
    "cropped",
    "virtual detectors",
    "lazy_clean",
    "regularised",
    "some patterns",
)
"""Any two of them must meet."""
EFFECTS = (
    *MAIN_EFFECTS,
    *(f"{n} probe modes" for n in (1, 2, 3)),
    *(f"{n} object modes" for n in (1, 2)),
    *(f"{n} slices" for n in (1, 2, 3, 4)),
    *(f"{name}, {slices}" for name in PROPAGATIONS for slices in ("one slice", "slices")),
    *(f"positions {kind}" for kind in ("free", "on pixels", "fixed", "fixed on pixels", "rounded", "common")),
    *(f"tilt_mode {mode}{rows}" for mode in range(5) for rows in ("", ", common", ", own")),
    *(f"near field, {rows} defocus" for rows in ("common", "own")),
    *(f"beam current {start}" for start in ("one", "given")),
    *(f"upsample_pattern {u}" for u in (1, 2, 3)),
    *(f"detector mask {kind}" for kind in ("common", "own", "nan")),
    *(f"object {form}" for form in ("complex", "phase", "amplitude_phase", "not refined")),
    *(f"probe {form}" for form in ("complex", "fourier_phase", "fourier_amplitude", "not refined")),
    *(f"batch {size}, threads {n}" for size in ("auto", 1, 2) for n in (1, 2)),
    *(f"gradient of {block}" for block in BLOCKS),
    *ALGORITHMS,
    *COMPRESSED,
    *WEIGHTS,
    "one probe for all patterns",
    "odd window",
    "rectangular window",
    "one distance",
    "several distances",
    "tilts from zero",
    "far field",
    "Cs",
    "alpha_near_field",
    "padded",
    "read-out noise",
    "affine positions",
    "soft edge",
    "projected aperture",
)
DRAWN = 200
"""Configurations of each test with -m nightly."""
COVERING = 48
"""Configurations of each test in every run (:func:`covering`); about 45 are needed."""
AT_LEAST = 4
"""Configurations of each test in which each effect occurs: the rarest are expected in twelve of those drawn."""
STEP = 4e-4
"""Of finite differences, in units of a change that is not small (:func:`unit_changes`)."""
SHORT_STEP = 1e-4
"""For object and probe: single pixels may pass near a kink."""


@cache
def covering(number: int) -> tuple[Configuration, ...]:
    """COVERING random configurations in which each effect occurs AT_LEAST times, and any two of the main ones together.

    From a pool that is four times as large as what hypothesis draws, that which adds most comes first.
    """
    rng = np.random.default_rng(number)
    pool = [configuration_of(rng.bytes(N_BYTES)) for _ in range(4 * DRAWN)]
    named = [effects(one) for one in pool]
    pairs = [{pair for pair in combinations(MAIN_EFFECTS, 2) if names.issuperset(pair)} for names in named]
    missing, apart = dict.fromkeys(EFFECTS, AT_LEAST), set(combinations(MAIN_EFFECTS, 2))
    chosen: list[int] = []

    def added(n: int) -> float:
        return sum(missing.get(name, 0) > 0 for name in named[n]) + 0.5 * len(pairs[n] & apart)

    while len(chosen) < COVERING:
        best = max((n for n in range(len(pool)) if n not in chosen), key=added)
        chosen.append(best)
        apart -= pairs[best]
        for name in named[best] & set(missing):
            missing[name] -= 1
    return tuple(pool[n] for n in chosen)


def drawn(number: int, check: Callable[[Configuration], object]) -> None:
    """Call ``check`` with DRAWN configurations of hypothesis, the same ones for the same number."""

    @seed(number)
    @settings(max_examples=DRAWN, derandomize=True, deadline=None, print_blob=True)
    @given(configuration=configurations())
    def each(configuration: Configuration) -> None:
        note(f"the simplest configuration with {describe(configuration)}")
        check(configuration)

    each()


@contextmanager
def prepared(configuration: Configuration, **changes: Any) -> Iterator[tuple[dict[str, Any], Problem]]:
    """Parameters, and the problem of the first epoch as a run would pose it."""
    with tempfile.TemporaryDirectory() as folder:
        params = {**parameters(configuration, Path(folder)), **changes}
        setup = prepare(params)
        try:
            reconstruction = Reconstruction(setup, State(variables=setup.variables(), epoch=0))
            yield params, reconstruction.problem(setup.settings.first())
        finally:
            setup.close()


def assert_slope(
    function: Callable[[float], float], gradient: np.ndarray, change: np.ndarray, step: float
) -> None:
    """d/dt function(t) = <gradient, change>.

    The error may be TOLERANCE of the inner product, or of what it is with random signs where its terms cancel; or that
    of a difference of two rounded losses.
    """
    expected = inner(gradient, change)
    parts = np.stack([gradient.real * change.real, gradient.imag * change.imag])
    scale = max(abs(expected), float(np.linalg.norm(parts)))
    rounding = ROUNDING * np.finfo(float).eps * abs(function(0.0)) / step
    found = directional_derivative(function, step)
    assert abs(found - expected) <= TOLERANCE * scale + rounding, (found, expected, scale, rounding)


def unit_changes(configuration: Configuration, block: str, value: np.ndarray) -> np.ndarray | float:
    """Changes of a block that change the waves by about their own size."""
    if block == "aberrations_array":
        return aberration_units(configuration)
    units = {"obj": 1.0, "positions": 0.3, "tilts": 1e-3, "slice_distances": 5.0, "beam_current": 0.5}
    return units.get(block, float(np.sqrt(np.mean(np.abs(value) ** 2))))


def step_of(block: str) -> float:
    return SHORT_STEP if block in ("obj", "probe") else STEP


def loss_of_block(problem: Problem, block: str, value: np.ndarray) -> float:
    """The data term and the penalties on this block, of a value in the public layout."""
    objective = problem.objective
    variables = problem.variables.replace({block: from_public(block, value, objective.backend)})
    penalties = [penalty for penalty in problem.regularizers if penalty.block == block]
    return objective.evaluate(variables, (), problem.indices, problem.weight, penalties).loss


def given_as(block: str, value: np.ndarray) -> np.ndarray | float:
    """A block as the parameter of its name."""
    return float(value[0]) if block == "detector_blur_std" else value


def check_gradients(configuration: Configuration) -> None:
    """Every block's gradient of pypty.evaluate; then all blocks change together, as parameters."""
    with prepared(configuration) as (params, problem):
        found = pypty.evaluate(params)
        assert set(found.gradients) == configuration.refined
        assert set(found.regularizers) == configuration.active_regularizers
        rng = np.random.default_rng(configuration.seed)
        values, changes = {}, {}
        for block, gradient in found.gradients.items():
            value = to_public(block, problem.variables.block(block))
            change = random_like(rng, value) * unit_changes(configuration, block, value)
            assert gradient.shape == value.shape
            assert_slope(
                lambda t, b=block, v=value, c=change: loss_of_block(problem, b, v + t * c),
                gradient,
                change,
                step_of(block),
            )
            values[block], changes[block] = value, change
        if "wedge_mu" in found.regularizers:  # it takes the starting distance as a constant
            changes.pop("slice_distances", None)

        def loss(t: float) -> float:
            moved = {block: given_as(block, values[block] + t * changes[block]) for block in changes}
            return pypty.evaluate({**params, **moved}).loss

        assert_slope(
            loss,
            np.concatenate([found.gradients[block].ravel() for block in changes]),
            np.concatenate([changes[block].ravel() for block in changes]),
            SHORT_STEP,
        )


def check_adjoint_of_every_stage(configuration: Configuration) -> None:
    """<J v, y> = <v, J* y> at the wave that enters the stage, for some of the patterns."""
    with prepared(configuration, executor="stages") as (_, problem):
        variables, model = problem.variables, problem.objective.model
        rng = np.random.default_rng(configuration.seed)
        chosen = np.sort(
            rng.permutation(configuration.n_patterns)[: rng.integers(1, configuration.n_patterns)]
        )
        batch = problem.objective.feed.batch(chosen)
        first, *others = model.stages
        wave = assert_first_adjoint(first, variables, batch, rng)
        for stage, point in zip(others, model.prepare(variables)[1:], strict=True):
            wave = assert_stage_adjoint(stage, point, wave, variables, batch, rng)
        assert wave.shape == batch.data.shape


def assert_first_adjoint(
    stage: Stage, variables: Variables, batch: Batch, rng: np.random.Generator
) -> np.ndarray:
    """What the probe becomes; linear in the probe, whose gradient is the end of the way back."""

    def apply(probe: np.ndarray) -> np.ndarray:
        return stage.forward(None, stage.prepare(variables.replace({"probe": probe})), batch, {})

    def adjoint(grad: np.ndarray) -> np.ndarray:
        gradients = variables.zeros(("probe",))
        stage.adjoint(grad, stage.prepare(variables), batch, {}, gradients)
        return gradients["probe"]

    out = apply(variables.probe)
    assert_adjoint(apply, adjoint, random_like(rng, variables.probe), random_like(rng, out), 1e-12)
    return out


def assert_stage_adjoint(
    stage: Stage,
    point: Any,
    wave: np.ndarray,
    variables: Variables,
    batch: Batch,
    rng: np.random.Generator,
) -> np.ndarray:
    """The wave that leaves. A central difference is exact: stages are linear, affine or quadratic.

    Where the source envelope cuts negative intensities off, the difference must not cross zero.
    """
    step = 1e-6 if isinstance(stage, SourceEnvelope) else 1.0
    tape: dict = {}
    out = stage.forward(wave.copy(), point, batch, tape).copy()

    def apply(v: np.ndarray) -> np.ndarray:
        after = stage.forward(wave + step * v, point, batch, {}).copy()
        return (after - stage.forward(wave - step * v, point, batch, {})) / (2 * step)

    def adjoint(y: np.ndarray) -> np.ndarray:
        return stage.adjoint(y, point, batch, tape, variables.zeros(variables.present))

    size = np.sqrt(np.mean(np.abs(wave) ** 2))
    assert_adjoint(apply, adjoint, size * random_like(rng, wave), random_like(rng, out), 1e-12 / step)
    return out


def check_parametrizations(configuration: Configuration) -> None:
    """The gradient of the vector that the optimiser moves, along changes inside the band limits."""
    with prepared(configuration) as (params, problem):
        assert (problem.form.obj, problem.form.probe) == (configuration.object_form, configuration.probe_form)
        assert (problem.form.scan_basis is not None) == configuration.affine
        point = problem.point()
        start = problem(point)
        assert start.value == pytest.approx(pypty.evaluate(params).loss, rel=1e-12)
        assert_same(
            problem.variables_at(point).blocks(problem.blocks), problem.variables.blocks(problem.blocks)
        )
        assert_same(problem.form.project(start.gradient), start.gradient)
        rng = np.random.default_rng(configuration.seed)
        for block in ("obj", "probe", "positions"):
            if block not in point:
                continue
            value = point[block]
            change = random_like(rng, value) * {"obj": 0.3, "positions": 0.3}.get(block, spread(value))
            change = problem.form.project({block: change})[block]

            def loss(t: float, block: str = block, change: np.ndarray = change) -> float:
                return problem(BlockVector({**point, block: point[block] + t * change})).value

            assert_slope(loss, start.gradient[block], change, step_of(block))


def spread(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.abs(value) ** 2)))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same blocks, up to rounding."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-10 * max(np.abs(array).max(), 1e-300))


CHECKS: Mapping[str, tuple[int, Callable[[Configuration], None]]] = MappingProxyType(
    {
        "gradients": (GRADIENTS, check_gradients),
        "adjoint of every stage": (ADJOINTS, check_adjoint_of_every_stage),
        "parametrizations": (FORMS, check_parametrizations),
    }
)


@pytest.mark.parametrize("place", range(COVERING))
@pytest.mark.parametrize("name", CHECKS)
def test_any_two_effects_together(name: str, place: int) -> None:
    number, check = CHECKS[name]
    configuration = covering(number)[place]
    print(f"the simplest configuration with {describe(configuration)}")
    check(configuration)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CHECKS)
def test_drawn_configurations(name: str) -> None:
    """As above, with more of them; what fails is made simple."""
    drawn(*CHECKS[name])


@pytest.mark.parametrize("number", [GRADIENTS, ADJOINTS, FORMS])
@pytest.mark.parametrize("choice", ["covering", "drawn"])
def test_everything_occurs(choice: str, number: int) -> None:
    """Each effect occurs several times, and any two of the main ones together."""
    named: list[set[str]] = []
    if choice == "drawn":
        drawn(number, lambda configuration: named.append(effects(configuration)))
        assert len(named) >= DRAWN
    else:
        named += [effects(configuration) for configuration in covering(number)]
        assert len(named) == COVERING
    times = Counter(name for names in named for name in names)
    assert {name: times[name] for name in EFFECTS if times[name] < AT_LEAST} == {}
    assert set(times) - set(EFFECTS) == set()
    pairs = Counter(
        pair for names in named for pair in combinations(MAIN_EFFECTS, 2) if names.issuperset(pair)
    )
    assert [pair for pair in combinations(MAIN_EFFECTS, 2) if not pairs[pair]] == []
