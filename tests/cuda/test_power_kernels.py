"""The kernels of loss_terms against the array expressions that define them, and as graphs on the device."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from typing import Any

import numpy as np
import pytest
from cpu_module import CpuModule, why_not
from wave_cases import cpu

from pypty.backend.array import select, to_host
from pypty.backend.cuda.powers import PowerKernels
from pypty.backend.cuda.score import DATA_TYPES, Values
from pypty.backend.fixed import FixedPlaces
from pypty.backend.streams import GraphCache, make_streams
from pypty.backend.workspace import Workspace
from pypty.objective import noise
from pypty.objective.combined import Sums, make_loss_terms
from pypty.objective.deviance import CountModel
from pypty.objective.free_pixels import FreePixels
from pypty.objective.powers import FREE, N_SUMS, PATTERN_SUMS, PowerDifference, PowerPoisson, PowerSum

if why_not() and os.environ.get("CI", "").lower() == "true":
    pytest.fail(why_not(), pytrace=False)
needs_compiler = pytest.mark.skipif(bool(why_not()), reason=why_not())

TOLERANCE = {"float": 2e-5, "double": 1e-12}
REAL = {"float": np.float32, "double": np.float64}
POWERS = (0.5, 1.0, 0.7)


class Problem:
    """Intensities, some with only rounding, and data of which some rows are used."""

    def __init__(
        self, real: str = "double", data_type: str = "uint16", shape: tuple[int, ...] = (3, 9, 14)
    ) -> None:
        rng = np.random.default_rng(9)
        self.dtype = np.dtype(REAL[real])
        self.intensity = rng.exponential(2.0, shape).astype(self.dtype)
        self.intensity[:, 0, :3] = 0
        self.data = rng.poisson(2.0, (6, *shape[1:])).astype(data_type)
        self.rows = np.resize(np.array([4, 0, 5], np.int32), shape[0])
        self.weights = {
            "no": None,
            "shared": rng.uniform(size=shape[1:]).astype(self.dtype),
            "own": rng.uniform(size=shape).astype(self.dtype),
        }
        self.slope = rng.standard_normal(shape[1:]).astype(self.dtype)
        self.index = np.resize(np.array([4, 0, 2**31 - 1], np.int32), shape[0])
        usable = (rng.uniform(size=shape[1:]) < 0.7).astype(self.dtype)
        self.free = FreePixels(0.3, seed=5, counts=CountModel(2.0, 1.5), usable=usable)
        self.kernels = PowerKernels(real, data_type, CpuModule)

    def values(self, weights: str = "no", free: bool = False, multiplier: float = 1.5) -> Values:
        hidden = self.free.hidden(self.index) if free else None
        given = {"rows": self.rows, "weights": self.weights[weights], "multiplier": multiplier}
        return Values(intensity=self.intensity, data=self.data, hidden=hidden, **given)

    def by_kernel(self, model: PowerSum, values: Values) -> tuple[Any, ...]:
        """Slope, totals and sums over patterns of two batches, from memory that holds anything."""
        slope, totals = np.full_like(self.intensity, np.nan), np.full(N_SUMS, np.nan)
        parts = np.full((values.n_parts, N_SUMS), np.nan)
        patterns = model.pattern_sums(Workspace(np), self.intensity.shape[1:])
        for _ in range(2):
            self.kernels.score(model.for_kernels(), values, slope, parts, totals)
            if patterns is not None:
                self.kernels.add_patterns(values, model.floor, patterns)
        return slope, totals, patterns

    def by_definition(self, model: PowerSum, values: Values) -> tuple[Any, ...]:
        data = (self.data[self.rows].astype(self.dtype) * values.multiplier).astype(self.dtype)
        totals, work = np.zeros(N_SUMS), Workspace(np)
        patterns = model.pattern_sums(Workspace(np), self.intensity.shape[1:])
        free = None if values.hidden is None else self.free
        for _ in range(2):
            arguments = (self.intensity, data, values.weights, work, None, 1.0, totals, patterns)
            slope = model.score(*arguments, free, self.index).copy()
        return slope, totals, patterns

    def check(self, model: PowerSum, values: Values, rtol: float) -> None:
        found, expected = self.by_kernel(model, values), self.by_definition(model, values)
        for array, other in zip(found, expected, strict=True):
            if other is None:
                assert array is None
                continue
            np.testing.assert_allclose(array, other, rtol=rtol, atol=rtol * np.abs(other).max())
        assert model.pacbed_power is None or (found[2] > 0).any()
        if values.hidden is not None:
            assert found[1][FREE + 1] > 0
            assert not found[0][self.free.mask(self.index, self.intensity.shape[1:])].any()


def model_of(
    single: float | None, poissn: float | None, pacbed: float | None = None, **changes: Any
) -> PowerSum:
    """From the exponents of the terms."""
    return PowerSum(
        single=None if single is None else PowerDifference(0.8, single),
        poissn=None if poissn is None else PowerPoisson(0.3, poissn, 1e-3),
        pacbed_power=pacbed,
        **{"dark": 0.02, **changes},
    )


EXPONENTS = [pair for pair in itertools.product((None, *POWERS), repeat=2) if pair != (None, None)]


@needs_compiler
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize(("single", "poissn"), EXPONENTS, ids=str)
def test_terms(single: float | None, poissn: float | None, real: str) -> None:
    """All combinations with weights, free pixels, the slope of the mean pattern, and that of amplitudes."""
    one = Problem(real)
    changes = [{}, {"bounded": True}, {"shared": one.slope, "factors": np.array([0.6, 7.0])}, {"dark": 0.0}]
    for weights, free, change in itertools.product(one.weights, (False, True), changes):
        one.check(model_of(single, poissn, **change), one.values(weights, free), TOLERANCE[real])


@needs_compiler
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("pacbed", [*POWERS, 0.2])
def test_sums_over_patterns(pacbed: float, real: str) -> None:
    """Alone, and beside the other terms."""
    one = Problem(real)
    for weights, free, terms in itertools.product(one.weights, (False, True), ((None, None), (0.4, 0.7))):
        one.check(model_of(*terms, pacbed), one.values(weights, free), TOLERANCE[real])


@needs_compiler
@pytest.mark.parametrize("data_type", DATA_TYPES)
def test_types_of_data(data_type: str) -> None:
    """From several blocks for each pattern."""
    one = Problem("float", data_type, (2, 40, 35))
    assert one.values().n_parts == 4
    one.check(model_of(0.7, 1.0, 0.3), one.values("shared"), 2e-5)


@needs_compiler
def test_virtual_detectors() -> None:
    """(patterns, 1, detectors)."""
    one = Problem(shape=(3, 1, 7))
    for weights in one.weights:
        one.check(model_of(0.5, 0.7, 1.0), one.values(weights), 1e-12)


@needs_compiler
def test_the_order_is_fixed() -> None:
    """The same bits for any order of blocks and threads, and in a repetition."""
    one, found = Problem("float", shape=(5, 40, 35)), set()
    model = model_of(0.7, 0.5, 0.2)
    for order in (0, 1, 2, 2):
        one.kernels = PowerKernels("float", "uint16", cpu(order=order))
        found.add(b"".join(array.tobytes() for array in one.by_kernel(model, one.values("own", True))))
    assert len(found) == 1


@needs_compiler
def test_an_intensity_that_is_not_a_number_is_seen() -> None:
    one = Problem()
    one.intensity[1, 4, 5] = np.nan
    slope, totals, _ = one.by_kernel(model_of(0.7, 0.5), one.values())
    assert np.isnan(totals[0]) and np.isnan(slope[1, 4, 5]) and np.isnan(slope).sum() == 1


def test_all_models_of_kernels_can_be_captured() -> None:
    models = [*noise.NOISE_MODELS.values(), noise.bounded(noise.Poisson()), model_of(0.5, 1.0, 0.2)]
    assert all(model.capturable for model in models)
    without_kernel = noise.bounded(model_of(0.5, 1.0))
    assert without_kernel.formula() is None and not without_kernel.capturable


@pytest.mark.parametrize("precision", ["single", "double"])
def test_on_the_device(device: None, precision: str) -> None:
    """In a graph that is replayed with other intensities, factors and a slope of the mean pattern: what NumPy
    computes, from nothing that is allocated or waited for."""
    backend, one = select("gpu", precision), Problem("float" if precision == "single" else "double")
    streams, places, work, xp = make_streams(backend), FixedPlaces(), Workspace(backend.xp), backend.xp
    graphs, data, index = GraphCache(streams), backend.asarray(one.data), backend.asarray(one.index)
    free = dataclasses.replace(one.free, usable=backend.asarray(one.free.usable))
    weights, rows = backend.asarray(one.weights["shared"]), backend.asarray(one.rows)
    totals, intensity = xp.empty(N_SUMS), xp.empty(one.intensity.shape, backend.real)
    for number in range(4):
        one.intensity = (1 + number) * np.abs(one.intensity)
        given = {"shared": one.slope * number, "factors": np.array([1.0 + number, 0.5])}
        on_host = model_of(0.7, 0.5, 0.2, **given)
        model = on_host.on(backend)
        with streams.computing():
            intensity.set(one.intensity)
            fixed = dataclasses.replace(model, **places.put(model.arrays(), work))
            patterns = fixed.pattern_sums(work, one.intensity.shape[1:])
            arguments = (intensity, data, weights, work, rows, 1.5, totals, patterns, free, index)
            for _ in range(2):
                graphs.run(0, functools.partial(fixed.score, *arguments))
            slope = work.array("slope", intensity.shape, backend.real)
            found = [to_host(array) for array in (slope, totals, patterns)]
        expected = one.by_definition(on_host, one.values("shared", True))
        for array, other in zip(found, expected, strict=True):
            rtol = 2e-5 if precision == "single" else 1e-12
            np.testing.assert_allclose(array, other, rtol=rtol, atol=rtol * np.abs(other).max())


def test_launches_of_a_batch(emulated: Any) -> None:
    """Two kernels, and a third for the sums over patterns; no copies, no waits."""
    backend, one = select("gpu", "single"), Problem("float")
    work, totals = Workspace(backend.xp), backend.xp.empty(N_SUMS)
    given = [backend.asarray(array) for array in (one.intensity, one.data, one.weights["own"], one.rows)]
    for pacbed, launches in ((None, 2), (0.2, 3)):
        model = model_of(0.7, 0.5, pacbed)
        patterns = model.pattern_sums(work, one.intensity.shape[1:])
        for _ in range(2):
            with emulated.counted() as found:
                model.score(*given[:3], work, given[3], 1.5, totals, patterns)
        assert (found.launches, found.copies, found.waits) == (launches, 0, 0)


def test_sums_over_patterns_lead_to_a_loss() -> None:
    """Those that the definition computes are those of :class:`Sums`."""
    one = Problem()
    entry = {"weight": 0.5, "dp_pow": 0.2}
    terms = make_loss_terms({"pacbed": entry}, scale="additive", dark=0.0, window=(9, 14))
    _, totals, patterns = one.by_definition(terms.noise, one.values())
    found = terms.values(Sums(totals, dict(zip(PATTERN_SUMS, patterns, strict=True))))["pacbed"]
    mean = patterns / (2 * len(one.intensity))
    expected = (mean[0] ** 0.2 - mean[1] ** 0.2) ** 2
    assert found == pytest.approx(0.5 * 2 * len(one.intensity) * expected.sum())
