"""First-order methods and learning-rate schedules against PyTorch's numbers (golden/make_first_order.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pypty.backend.array import array_module
from pypty.errors import CheckpointError, ParameterError
from pypty.optimize import first_order, update_rules
from pypty.optimize.first_order import FirstOrder, unused_options
from pypty.optimize.methods import METHODS
from pypty.optimize.rates import RateSchedule
from pypty.params.schema.batches import OPTIMIZER_OPTIONS, OPTIMIZERS, SCHEDULER, SCHEDULERS

GOLDEN = np.load(Path(__file__).parent / "golden" / "first_order.npz", allow_pickle=False)
CASES = json.loads(str(GOLDEN["cases"]))
SCHEDULES = json.loads(str(GOLDEN["schedules"]))
RATES = json.loads(str(GOLDEN["rates"]))
BLOCKS = ("matrix", "probe", "vector")
STEPS = 8
NAMES = [name for name in OPTIMIZERS if name not in ("lbfgs", "preconditioned")]


def start(dtype: str = "d") -> dict[str, np.ndarray]:
    return {
        block: GOLDEN[f"in_{block}"].astype(
            dtype if block != "probe" else np.result_type(np.dtype(dtype), np.complex64)
        )
        for block in BLOCKS
    }


def gradient(step: int, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {block: GOLDEN[f"in_gradient_{block}"][step].astype(like[block].dtype) for block in BLOCKS}


def real(array: np.ndarray) -> np.ndarray:
    return np.stack([array.real, array.imag], axis=-1) if np.iscomplexobj(array) else array


def test_every_method_of_the_schema_is_there() -> None:
    assert set(NAMES) == set(METHODS) == {name for name, _ in CASES}
    options = {field.name for field in OPTIMIZER_OPTIONS.fields}
    assert options == {option for method in METHODS.values() for option in method.defaults}


def test_every_option_has_a_golden_case() -> None:
    for name, method in METHODS.items():
        seen = {key for other, options in CASES if other == name for key in options}
        assert set(method.defaults) == seen


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
def test_trajectories_are_pytorchs(index: int) -> None:
    name, options = CASES[index]
    method, point = FirstOrder(name, OPTIMIZER_OPTIONS.convert(options)), start()
    for step in range(STEPS):
        point = method.step(point, gradient(step, point), RATES)
        for block in BLOCKS:
            np.testing.assert_allclose(
                real(point[block]), GOLDEN[f"out{index}_{block}"][step], rtol=1e-12, atol=1e-12
            )
    if name == "asgd":
        for block in BLOCKS:
            np.testing.assert_allclose(
                method.state[block]["average"], GOLDEN[f"out{index}_{block}_average"], rtol=1e-12
            )


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
def test_rows_that_are_always_there_are_dense(index: int) -> None:
    name, options = CASES[index]
    dense, lazy = FirstOrder(name, options), FirstOrder(name, options)
    point, other = start(), start()
    for step in range(STEPS):
        point = dense.step(point, gradient(step, point), RATES)
        rows = {"matrix": np.array([2, 0, 3, 1]), "vector": np.arange(5)}
        other = lazy.step(other, gradient(step, other), RATES, rows=rows)
    for block in BLOCKS:
        np.testing.assert_allclose(other[block], point[block], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adafactor"])
def test_a_row_moves_as_if_it_were_alone(name: str) -> None:
    """Its moments and its bias correction count its own visits only."""
    rng = np.random.default_rng(3)
    point, rate = {"positions": rng.normal(size=(6, 2))}, {"positions": np.array([[0.1, 0.2]])}
    visits = [np.array([0, 1]), np.array([3, 1]), np.array([0, 5, 1]), np.array([1]), np.array([], int)]
    slopes = [rng.normal(size=(6, 2)) for _ in visits]
    method, alone, single = FirstOrder(name, {}), FirstOrder(name, {}), {"positions": point["positions"][[0]]}
    for rows, slope in zip(visits, slopes, strict=True):
        before = point["positions"]
        point = method.step(point, {"positions": slope}, rate, rows={"positions": rows})
        rest = np.setdiff1d(np.arange(6), rows)
        np.testing.assert_array_equal(point["positions"][rest], before[rest])
        if 0 in rows:
            single = alone.step(single, {"positions": slope[[0]]}, rate)
    np.testing.assert_allclose(point["positions"][[0]], single["positions"], rtol=1e-13)
    assert method.state["positions"]["count"].tolist() == [2, 4, 0, 1, 0, 1]


def test_lazy_rows_of_a_factored_moment() -> None:
    """Rows have their own row moments, and share the column's."""
    method = FirstOrder("adafactor", {})
    point = start()
    for step in range(4):
        before = point["matrix"]
        rows = np.array([step, (step + 1) % 4])
        point = method.step(point, {"matrix": gradient(step, point)["matrix"]}, RATES, rows={"matrix": rows})
        rest = np.setdiff1d(np.arange(4), rows)
        np.testing.assert_array_equal(point["matrix"][rest], before[rest])
        assert (point["matrix"][rows] != before[rows]).all()
    assert method.state["matrix"]["count"].tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda i: f"{i}-{CASES[i][0]}")
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_saved_state_continues_with_the_same_bits(index: int, dtype: str) -> None:
    name, options = CASES[index]
    method, point = FirstOrder(name, options), start(dtype)
    rows = {"vector": np.array([0, 3])}
    for step in range(3):
        point = method.step(point, gradient(step, point), RATES, rows=rows)
    saved = {
        block: {key: array.copy() for key, array in arrays.items()} for block, arrays in method.state.items()
    }
    frozen = {block: {key: array.copy() for key, array in arrays.items()} for block, arrays in saved.items()}
    other, copy = FirstOrder(name, options, saved), dict(point)
    np.testing.assert_equal(other.state, saved)
    for step in range(3, 6):
        point = method.step(point, gradient(step, point), RATES, rows=rows)
        copy = other.step(copy, gradient(step, copy), RATES, rows=rows)
    for block in BLOCKS:
        np.testing.assert_array_equal(copy[block], point[block])
    np.testing.assert_equal(saved, frozen)


@pytest.mark.parametrize("name", NAMES)
def test_precision_arguments_and_resting_blocks(name: str) -> None:
    method, point = FirstOrder(name, {}), start("f")
    slope = gradient(0, point)
    kept = {block: (point[block].copy(), slope[block].copy()) for block in BLOCKS}
    rates = {**RATES, "probe": np.array([0.1, 0.2])[:, None, None]}
    moved = method.step(point, slope, rates)
    for block in BLOCKS:
        np.testing.assert_array_equal(point[block], kept[block][0])
        np.testing.assert_array_equal(slope[block], kept[block][1])
        assert moved[block].dtype == point[block].dtype
        assert not np.shares_memory(moved[block], point[block])
        for key, array in method.state[block].items():
            assert key in ("count", "product") or array.dtype == np.float32
    before = {key: array.copy() for key, array in method.state["matrix"].items()}
    again = method.step(moved, {"probe": slope["probe"]}, rates)
    assert again["matrix"] is moved["matrix"]
    np.testing.assert_equal(method.state["matrix"], before)
    assert method.state["probe"]["count"] == 2


def test_rates_of_parts_of_a_block() -> None:
    """The object is a stack of amplitude and phase with a rate each; rows may have a rate each, too."""
    point = {"object": np.zeros((2, 3, 4)), "positions": np.zeros((4, 2))}
    slope = {"object": np.ones((2, 3, 4)), "positions": np.ones((4, 2))}
    rates: dict[str, Any] = {
        "object": np.array([0.0, 0.5])[:, None, None],
        "positions": np.arange(4.0)[:, None],
    }
    moved = FirstOrder("sgd", {}).step(point, slope, rates, rows={"positions": np.array([3, 1])})
    assert (moved["object"][0] == 0).all() and (moved["object"][1] == -0.5).all()
    assert moved["positions"][:, 0].tolist() == [0, -1, 0, -3]


@pytest.mark.parametrize("name", NAMES)
def test_pieces_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are stepped in pieces of the cache's size: the bits stay the same."""
    rates = {**RATES, "probe": np.array([0.1, 0.2])[:, None, None]}
    ends = []
    for piece in (1 << 15, 5):
        monkeypatch.setattr(first_order, "_PIECE", piece)
        method, point = FirstOrder(name, {}), start("f")
        for step in range(STEPS):
            point = method.step(point, gradient(step, point), rates)
        ends.append((point, method.state))
    np.testing.assert_equal(ends[1], ends[0])


def test_arrays_of_any_layout() -> None:
    point = start()
    strided = {block: np.asfortranarray(array) for block, array in point.items()}
    slopes = [gradient(step, point) for step in range(3)]
    a, b = FirstOrder("adam", {}), FirstOrder("adam", {})
    for slope in slopes:
        point = a.step(point, slope, RATES)
        strided = b.step(strided, {k: np.asfortranarray(v) for k, v in slope.items()}, RATES)
    for block in BLOCKS:
        np.testing.assert_array_equal(strided[block], point[block])


@pytest.mark.parametrize("name", ["adam", "nadam", "sgd", "rmsprop"])
def test_momentum_of_a_step(name: str) -> None:
    """Instead of the first beta or the momentum."""
    key = "momentum" if name in ("sgd", "rmsprop") else "betas"
    other = FirstOrder(name, {key: 0.6 if key == "momentum" else (0.6, 0.999)})
    method, point = FirstOrder(name, {}), start()
    copy = dict(point)
    for step in range(3):
        point = method.step(point, gradient(step, point), RATES, momentum=0.6)
        copy = other.step(copy, gradient(step, copy), RATES)
    for block in BLOCKS:
        np.testing.assert_array_equal(copy[block], point[block])


@pytest.mark.parametrize("name", NAMES)
def test_on_a_device(name: str, device: None) -> None:
    import cupy as xp

    method, on_device = FirstOrder(name, {}), FirstOrder(name, {})
    point = start()
    moved = {block: xp.asarray(array) for block, array in point.items()}
    rows = {"matrix": np.array([0, 2])}
    for step in range(4):
        slope = gradient(step, point)
        point = method.step(point, slope, {**RATES, "probe": np.array([0.1, 0.2])[:, None, None]}, rows=rows)
        moved = on_device.step(
            moved,
            {block: xp.asarray(array) for block, array in slope.items()},
            {**RATES, "probe": xp.asarray(np.array([0.1, 0.2])[:, None, None])},
            rows=rows,
        )
        state = {
            block: {key: getattr(array, "get", lambda a=array: a)() for key, array in arrays.items()}
            for block, arrays in on_device.state.items()
        }
        on_device = FirstOrder(name, {}, state)  # from the host, as from a file
    for block in BLOCKS:
        assert array_module(moved[block]) is xp
        np.testing.assert_allclose(moved[block].get(), point[block], rtol=1e-12)


def test_bad_options_and_states() -> None:
    for name, options in (
        ("adam", {"betas": (0.9, 1.0)}),
        ("sgd", {"nesterov": True}),
        ("momentum", {"nesterov": True, "dampening": 0.1}),
        ("rprop", {"etas": (1.2, 0.5)}),
        ("adam", {"eps": (1.0, 2.0)}),
        ("lbfgs", {}),
    ):
        with pytest.raises(ParameterError):
            FirstOrder(name, options)
    method, point = FirstOrder("adam", {}), start()
    method.step(point, gradient(0, point), RATES)
    with pytest.raises(CheckpointError, match="another method"):
        FirstOrder("sgd", {}, method.state).step(point, gradient(0, point), RATES)
    larger = {**point, "vector": np.zeros(7)}
    with pytest.raises(CheckpointError, match="vector"):
        FirstOrder("adam", {}, method.state).step(larger, {"vector": np.zeros(7)}, RATES)
    assert unused_options("sgd", {"betas": (0.9, 0.9), "momentum": 0.5, "rho": None}) == ["betas"]


@pytest.mark.parametrize("index", range(len(SCHEDULES)), ids=lambda i: f"{i}-{SCHEDULES[i][0]}")
@pytest.mark.parametrize("unit", ["epoch", "batch"])
def test_schedules_are_pytorchs(index: int, unit: str) -> None:
    name, options = SCHEDULES[index]
    config = SCHEDULER.convert({"name": name, "step_unit": unit, **options})
    factors, momenta = GOLDEN[f"schedule{index}_factor"], GOLDEN[f"schedule{index}_momentum"]
    schedule = RateSchedule(config, total_epochs=24, batches_per_epoch=3)
    assert schedule.unit == ("epoch" if name == "plateau" else unit)
    for step, (factor, momentum) in enumerate(zip(factors, momenta, strict=True)):
        if step >= options.get("total_steps", 24):
            break
        assert schedule.factor(step) == pytest.approx(factor, rel=1e-12, abs=1e-15)
        assert (schedule.momentum(step) or 0.9) == pytest.approx(momentum, rel=1e-12)
        schedule.observe(GOLDEN["in_losses"][step])
        schedule = RateSchedule(config, 24, 3, json.loads(json.dumps(schedule.state)) or None)


def test_schedules_without_lengths_fill_the_run() -> None:
    for unit, steps in (("epoch", 12), ("batch", 60)):

        def factor(name: str, step: int, unit: str = unit) -> float:
            return RateSchedule(SCHEDULER.convert({"name": name, "step_unit": unit}), 12, 5).factor(step)

        assert factor("cosine", 0) == 1 and factor("cosine", steps) == pytest.approx(0, abs=1e-15)
        assert factor("exponential", steps) == pytest.approx(0.01)
        assert factor("one_cycle", 0) == pytest.approx(1 / 25)
        assert factor("one_cycle", steps - 1) == pytest.approx(1 / 25e4)
        assert factor("one_cycle", steps + 5) == pytest.approx(1 / 25e4)


def test_every_schedule_is_there_and_finite_in_short_runs() -> None:
    assert {name for name, _ in SCHEDULES} == set(SCHEDULERS)
    for name in SCHEDULERS:
        for epochs in (1, 2, 3, 4, 10):
            schedule = RateSchedule(SCHEDULER.convert(name), epochs, 1)
            factors = [schedule.factor(step) for step in range(epochs + 2)]
            assert all(0 <= factor <= 1 for factor in factors), (name, epochs, factors)


def test_plateau_with_losses_that_are_not_finite() -> None:
    schedule = RateSchedule(SCHEDULER.convert({"name": "plateau", "patience": 0}), 10, 1)
    for loss in (1.0, np.nan, np.inf):
        schedule.observe(loss)
    assert schedule.factor(3) == pytest.approx(0.01)
    with pytest.raises(CheckpointError):
        RateSchedule(SCHEDULER.convert("plateau"), 10, 1, {"best": 1.0})
    with pytest.raises(ParameterError):
        RateSchedule({"name": "sawtooth"}, 10, 1)


def test_counts_of_rows_come_back_from_any_device() -> None:
    """A resumed run has arrays on its device; counts belong on the host."""

    class OnDevice:
        """An array that, like CuPy's, NumPy may not take over silently."""

        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.ndim = array, array.shape, array.ndim

        def get(self) -> np.ndarray:
            return self.array

        def __array__(self, *given: Any, **named: Any) -> np.ndarray:
            raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    rows = np.arange(3)
    point, slope = {"positions": np.zeros((3, 2))}, {"positions": np.ones((3, 2))}
    first = FirstOrder("adam", {})
    first.step(point, slope, {"positions": 0.1}, {"positions": rows})
    saved = {block: dict(arrays) for block, arrays in first.state.items()}
    saved["positions"]["count"] = OnDevice(saved["positions"]["count"])
    again = FirstOrder("adam", {}, saved)
    again.step(point, slope, {"positions": 0.1}, {"positions": rows[:2]})
    assert again.state["positions"]["count"].tolist() == [2, 2, 1]


def test_one_step_of_descent_with_momentum_and_a_count_for_each_row() -> None:
    """velocity <- 0.5 velocity + 0.8 gradient (not dampened in the first step of a row); point <- point - rate x it."""
    part = update_rules.Part(
        xp=np,
        point=np.array([[1.0, 2.0], [3.0, 4.0]]),
        gradient=np.array([[1.0, -1.0], [2.0, 0.0]]),
        rate=0.1,
        count=np.array([1.0, 3.0]),
        moments={"velocity": np.ones((2, 2))},
    )
    update_rules.sgd(part, {"momentum": 0.5, "dampening": 0.2, "nesterov": False, "weight_decay": 0.0})
    velocity = np.array([[1.5, -0.5], [0.5 + 1.6, 0.5]])
    np.testing.assert_allclose(part.moments["velocity"], velocity)
    np.testing.assert_allclose(part.point, np.array([[1.0, 2.0], [3.0, 4.0]]) - 0.1 * velocity)
    assert part.lift(2) == 2.0 and part.lift(np.array([1.0, 2.0])).shape == (2, 1)
