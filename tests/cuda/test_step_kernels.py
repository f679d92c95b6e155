"""The kernels of steps.cu, compiled for the CPU, against the NumPy code that defines them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpu_module import why_not
from wave_cases import cpu, random_waves

from pypty.backend.cuda import steps
from pypty.backend.cuda.steps import MOMENTS, StepKernels
from pypty.model.blocks import Variables
from pypty.model.parametrization import BandLimits, Parametrization, polar
from pypty.optimize import fused_steps
from pypty.optimize.methods import METHODS
from pypty.optimize.update_rules import Part
from pypty.optimize.vector import BlockVector

if why_not() and os.environ.get("CI", "").lower() == "true":
    pytest.fail(why_not(), pytrace=False)
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "first_order.npz", allow_pickle=False)
CASES = [case for case in json.loads(str(GOLDEN["cases"])) if METHODS[case[0]].elementwise]
STEPS = 8
SIZE = 300
"""More than a block of threads, and not a multiple of one."""


def kernels(dtype: Any = np.float32, **options: Any) -> StepKernels:
    real = "float" if np.dtype(dtype) in (np.float32, np.complex64) else "double"
    return StepKernels(real, cpu(**options))


def options_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {**METHODS[name].defaults, **{key: value for key, value in given.items() if value is not None}}


class Moved:
    """A point that a method moves, by its rule or by its kernel."""

    def __init__(self, name: str, options: dict[str, Any], dtype: str) -> None:
        self.method, self.options = METHODS[name], options
        rng = np.random.default_rng(5)
        self.point = rng.normal(size=SIZE).astype(dtype)
        names = self.method.moments(options, 1)
        self.moments = {key: np.zeros(SIZE, dtype) for key in names}
        if "step" in names:
            self.moments["step"] += np.asarray(0.03, dtype)
        if "sum" in names:
            self.moments["sum"] += options["initial_accumulator_value"]
        self.counters: dict[str, Any] = dict(self.method.counters)

    def part(self, gradient: np.ndarray, count: int) -> Part:
        return Part(
            xp=np,
            point=self.point,
            gradient=gradient,
            rate=0.03,
            count=np.array(count) * 1.0,
            moments=self.moments,
            counters=self.counters,
        )


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_step_is_that_of_its_rule(index: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All moments too, with every option of the golden cases, from -O2 code without fused multiply-add."""
    name, given = CASES[index]
    monkeypatch.setattr(fused_steps, "step_kernels", kernels)
    options = options_of(name, given)
    clear, fused = (Moved(name, options, dtype) for _ in range(2))
    rng = np.random.default_rng(6)
    for step in range(1, STEPS + 1):
        gradient = rng.normal(size=SIZE).astype(dtype)
        clear.method.rule(clear.part(gradient.copy(), step), options)
        moved = np.full(SIZE, np.nan, dtype)
        fused_steps.fused_step(fused.method.rule, fused.part(gradient, step), options, moved)
        fused.point = moved
    near = {"rtol": 20 * np.finfo(dtype).eps, "atol": 4 * np.finfo(dtype).eps}
    np.testing.assert_allclose(fused.point, clear.point, **near)
    for key, moment in clear.moments.items():
        np.testing.assert_allclose(fused.moments[key], moment, **near, err_msg=key)
    assert fused.counters == clear.counters


def test_every_elementwise_method_has_a_kernel() -> None:
    covered = {name for name, method in METHODS.items() if method.rule in fused_steps._KERNELS}
    assert covered == {name for name, method in METHODS.items() if method.elementwise}
    assert {kernel for kernel, _ in fused_steps._KERNELS.values()} == set(MOMENTS)


def test_kernels_of_a_precision_are_made_once() -> None:
    """Vectors have blocks of all four types, in turn."""
    made = [[steps.step_kernels(np.dtype(dtype)) for dtype in TYPES] for _ in range(2)]
    assert len({id(own) for own in made[0]}) == 2
    assert all(one is other for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("rule", ["adam", "adamax", "rprop"])
def test_what_is_not_a_number_stays_visible(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient that is not finite must not be hidden by a maximum."""
    monkeypatch.setattr(fused_steps, "step_kernels", kernels)
    options = options_of(rule, {"amsgrad": True} if rule == "adam" else {})
    fused, moved = Moved(rule, options, "float32"), np.zeros(SIZE, np.float32)
    gradient = np.ones(SIZE, np.float32)
    gradient[7] = np.nan
    fused_steps.fused_step(fused.method.rule, fused.part(gradient, 1), options, moved)
    assert np.flatnonzero(np.isnan(moved)).tolist() == [7]


def numbers(rng: np.random.Generator, size: int, dtype: Any) -> np.ndarray:
    return (
        random_waves(rng, (size,)).astype(dtype)
        if np.dtype(dtype).kind == "c"
        else rng.normal(size=size).astype(dtype)
    )


TYPES = (np.float32, np.complex64, np.float64, np.complex128)


def guarded(size: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Memory, and an array in the middle of it."""
    whole = np.full(size + 64, 7, dtype)
    return whole, whole[32:-32]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "step_kernels", kernels)


def test_inner_products_of_all_types_in_one_launch(on_cpu: None) -> None:
    """Of arrays shorter and longer than the pieces, in any precision."""
    rng = np.random.default_rng(8)
    pairs = [(numbers(rng, n, t), numbers(rng, n, t)) for t in TYPES for n in (1, 5, 129, 70_000)]
    for value, (a, b) in zip(steps.inner_products(pairs), pairs, strict=True):
        exact = (a.astype(complex) * b.astype(complex).conj()).real
        assert abs(value - exact.sum()) <= 1e-13 * abs(exact).sum()


def test_an_inner_product_has_the_same_bits_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of a pair depends neither on the other pairs nor on the order of blocks: resumed runs have the same."""
    rng = np.random.default_rng(9)
    pairs = [(numbers(rng, 9000, np.complex64), numbers(rng, 9000, np.complex64)) for _ in range(3)]
    monkeypatch.setattr(steps, "step_kernels", lambda dtype: kernels(order=2))
    together = steps.inner_products(pairs)
    monkeypatch.setattr(steps, "step_kernels", lambda dtype: kernels(order=1))
    assert together.tolist() == [steps.inner_products([pair])[0] for pair in pairs]


def test_combined_is_the_sum_of_the_twin(on_cpu: None) -> None:
    rng, factors = np.random.default_rng(10), [0.3, -1.7, 2.5]
    vectors = [BlockVector({str(t): numbers(rng, 300, t) for t in TYPES}) for _ in range(4)]
    base, others = vectors[0], vectors[1:]
    arrays = [[other[name] for other in others] for name in base]
    found = steps.combined(list(base.values()), factors, arrays)
    for out, expected in zip(found, base.combined(factors, others).values(), strict=True):
        assert out.dtype == expected.dtype
        np.testing.assert_allclose(out, expected, rtol=1e-6 if out.real.dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("dtype", TYPES)
def test_added_is_the_sum(on_cpu: None, dtype: Any) -> None:
    """Also of arrays that are not contiguous, and of a wider type."""
    rng = np.random.default_rng(14)
    array, other = (numbers(rng, 600, dtype).reshape(20, 30).T for _ in range(2))
    found = steps.added(array, 0.3, other)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array + 0.3 * other)
    wider = other.astype(np.complex128 if found.dtype.kind == "c" else np.float64)
    np.testing.assert_array_equal(steps.added(array, 0.3, wider), found)


def test_arrays_are_copied_whole(on_cpu: None) -> None:
    """More than fit into one launch, of all types, and one that is not contiguous."""
    rng, margin = np.random.default_rng(15), 32
    arrays = [numbers(rng, size, dtype) for size in (1, 300) for dtype in TYPES]
    arrays += [np.arange(6, dtype=np.int32), rng.normal(size=(7, 9)).T]
    memory = [guarded(array.size, array.dtype) for array in arrays]
    pairs = [(array, inside.reshape(array.shape)) for array, (_, inside) in zip(arrays, memory, strict=True)]
    steps.copy_all(pairs)
    for (array, place), (whole, _) in zip(pairs, memory, strict=True):
        np.testing.assert_array_equal(place, array)
        assert (whole[:margin] == 7).all() and (whole[-margin:] == 7).all()


@pytest.mark.parametrize("form", ["phase", "amplitude_phase"])
def test_amplitude_and_phase(form: str) -> None:
    """An amplitude of 0 has a gradient as well."""
    rng = np.random.default_rng(11)
    amplitude, phase = rng.uniform(0.5, 1, (1, 1, 9, 40)), rng.normal(size=(1, 1, 9, 40))
    amplitude[0, 0, 3, 5:9] = 0
    z, gradient = np.empty(amplitude.shape, complex), random_waves(rng, amplitude.shape).astype(complex)
    kernels(z.dtype).polar(amplitude, phase, z)
    np.testing.assert_allclose(z, polar(amplitude, phase, z.dtype), rtol=1e-14)
    along = np.full((2, *z.shape), np.nan)
    whole = form == "amplitude_phase"
    arrays = (amplitude, phase, along[0]) if whole else (None, phase, None)
    kernels(z.dtype).polar_gradient(gradient, z, *arrays, along[1])
    base = Variables(obj=z, probe=None, positions=None, slice_distances=None)
    vector = {"obj": np.stack([amplitude, phase]) if whole else phase}
    twin = Parametrization(limits=BandLimits(), obj=form).gradient_as_it_is(
        base, vector, {"obj": gradient}, base
    )
    np.testing.assert_allclose(along if whole else along[1], twin["obj"], rtol=1e-13, atol=1e-15)


def test_no_kernel_writes_beyond_its_arrays() -> None:
    """The last block has threads without a number."""
    own, rng = kernels(), np.random.default_rng(12)
    for rule, names in MOMENTS.items():
        point, gradient = (rng.normal(size=SIZE).astype(np.float32) for _ in range(2))
        kept = {name: guarded(SIZE, np.float32) for name in ("moved", *(f"of {name}" for name in names))}
        moments = {name: kept[f"of {name}"][1] for name in names}
        signature = own.module.signatures[rule]
        given = [argument for argument in signature if not argument.is_array and argument.name != "size"]
        taken = [True if argument.name == "nesterov" else 0.5 for argument in given]
        own.step(rule, point, gradient, kept["moved"][1], moments, taken)
        for name, (whole, _) in kept.items():
            assert (whole[:32] == 7).all() and (whole[-32:] == 7).all(), (rule, name)
        assert (kept["moved"][1] != 7).all(), rule


def test_a_missing_barrier_of_the_sums_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a block run in an order in which the test above can find something."""
    rng = np.random.default_rng(13)
    pairs = [(numbers(rng, 70_000, np.float64), numbers(rng, 70_000, np.float64))]

    def without(source: str, options: Any) -> Any:
        assert source.count("__syncthreads();") == 1
        return cpu()(source.replace("__syncthreads();", ""), options)

    found = []
    for compiler in (cpu(), without):
        monkeypatch.setattr(steps, "step_kernels", lambda dtype, own=compiler: StepKernels("float", own))
        found.append(steps.inner_products(pairs)[0])
    assert not abs(found[1] / found[0] - 1) < 1e-3  # also where it is not a number
