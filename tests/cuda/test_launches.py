"""How often the device is asked for something, as benchmarks/launches.py counts it, and what is not asked for twice."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulator
import numpy as np
import pytest

from pypty.backend import fixed
from pypty.backend.array import Backend, select, to_host
from pypty.backend.fixed import FixedPlaces
from pypty.backend.workspace import Workspace
from pypty.engine.epochs import first_order, warmup
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.errors import ReconstructionError
from pypty.model.stages import Propagation
from pypty.objective.share import read
from pypty.optics.grid import Grid

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import launches

ALL = np.arange(launches.SIDE**2)


@pytest.fixture
def meter(device: None) -> launches.Meter:
    if not emulator.is_loaded():
        pytest.skip("a card has no counters")
    return launches.Meter(emulator)


def check(found: launches.Numbers, most: int, copies: int, waits: int, graphs: int = 1) -> None:
    assert found["graph_launches"] == graphs
    assert 5 < found["launches"] + graphs <= most
    assert found["copies"] <= copies
    assert found["waits"] <= waits


@pytest.mark.parametrize("form", ["complex", "amplitude_phase"])
def test_a_step_of_adam(meter: launches.Meter, form: str) -> None:
    """A graph, a kernel for each array, and what is around them; the host does not wait for a loss."""
    check(launches.first_order(meter, optimizer="adam", obj_parametrization=form), 15, 2, 0)


def test_regularisers_do_not_wait(meter: launches.Meter) -> None:
    found = launches.first_order(
        meter, optimizer="adam", phase_norm_weight=0.1, window_weight=0.1, window=[0.5, 0.9]
    )
    assert found["waits"] == 0


def test_a_step_of_the_warm_up(meter: launches.Meter) -> None:
    check(launches.warm_up(meter), 25, 2, 0)


def test_an_iteration_of_lbfgs(meter: launches.Meter) -> None:
    """Eight rounds of inner products, each read once: a copy and two waits."""
    check(launches.iteration(meter), 60, 20, 16, graphs=0)


def reconstruction(**changes: Any) -> Reconstruction:
    setup = prepare(launches.workload(**changes))
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0))


TERMS = {
    "single": {"single": {"dp_pow": 0.7}},
    "all": {"single": {"dp_pow": 0.4}, "poissn": {"dp_pow": 0.7, "eps": 0.1}, "pacbed": True},
}


@pytest.mark.parametrize("scale", ["additive", "ratio"])
@pytest.mark.parametrize("name", TERMS)
def test_loss_terms_are_in_the_graphs(meter: launches.Meter, name: str, scale: str) -> None:
    """A graph for each batch, in one or two passes; loss and gradient at three points are those of the host."""
    given = {"loss_terms": TERMS[name], "loss_scale": scale, "free_pixels": 0.2, "epoch_max": 0}
    one = reconstruction(**given, compute_batch=4)
    other = reconstruction(**given, backend="cpu", default_dtype="double")
    seen: list[tuple[int, int]] = []
    held: list[Any] = []
    for strength in (1.0, 0.7, 0.5):
        both = []
        for made in (one, other):
            unknowns = made.state.variables
            moved = unknowns.replace({"probe": strength * unknowns.probe})
            with emulator.counted() as found:
                both.append(made.objective.evaluate(moved, ("obj", "probe"), ALL))
            if made is one:
                seen.append((found.graph_launches, found.launches))
                # the next evaluation has arrays at other addresses
                held += [made.setup.backend.xp.empty(n, np.float32) for n in 20 * [4, launches.WINDOW**2]]
        here, there = both
        assert here.loss == pytest.approx(there.loss, rel=1e-4)
        assert here.loss_terms == pytest.approx(there.loss_terms, rel=1e-4)
        assert here.free.deviance == pytest.approx(there.free.deviance, rel=1e-4)
        for block, gradient in there.gradients.items():
            difference = to_host(here.gradients[block]) - gradient
            assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(gradient)
    # the first time kernels are compiled, and graphs captured
    graphs, others = seen[-1]
    assert graphs == (4 if name == "single" else 8) and others <= 20


def test_losses_that_are_read_later_are_those_read_at_once(device: None) -> None:
    """In any number of batches, with a weight and a penalty."""
    made = reconstruction(compute_batch=3, free_pixels=0.2, atv_weight=1e-3, phase_norm_weight=0.1)
    terms = made.problem(made.settings.at(0)).regularizers
    assert len(terms) == 2
    variables, evaluate = made.state.variables, made.objective.evaluate
    parts = [ALL[:5], ALL[5:6], ALL[6:]]
    at_once = [evaluate(variables, ("obj",), part, 0.5, terms) for part in parts]
    later = [evaluate(variables, ("obj",), part, 0.5, terms, wait=False) for part in parts]
    assert all(np.isnan(result.loss) for result in later)
    read(later)
    for one, other in zip(at_once, later, strict=True):
        assert one.unread is None and other.unread is None
        assert (one.loss, one.sse, one.free, one.terms) == (other.loss, other.sse, other.free, other.terms)
        assert all(value > 0 for value in one.terms.values())
        np.testing.assert_array_equal(one.parts, other.parts)
        np.testing.assert_allclose(
            to_host(one.gradients["obj"]), to_host(other.gradients["obj"]), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("after", [2, 200])
def test_a_loss_that_is_not_finite_ends_the_epoch(
    device: None, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After a few steps, or at the end; the state is that before the epoch."""
    monkeypatch.setattr(first_order, "_READ_AFTER", after)
    steps: list[int] = []
    move = first_order._Walk.move

    def spoiled(walk: Any, gradient: Any, chosen: np.ndarray) -> None:
        steps.append(walk.epoch)
        move(
            walk,
            {name: array * np.nan for name, array in gradient.items()} if walk.epoch else gradient,
            chosen,
        )

    monkeypatch.setattr(first_order._Walk, "move", spoiled)
    made, seen = reconstruction(optimizer="adam", epoch_max=3), []
    with pytest.raises(
        ReconstructionError, match="epoch 1: the loss of a batch is nan; lower learning_rates"
    ):
        for _ in made.epochs():
            seen.append(made.state.variables)
    assert made.state.epoch == 1 and made.state.variables is seen[0]
    assert steps.count(1) == (2 if after == 2 else 4)
    assert np.isfinite(to_host(made.state.variables.obj)).all()


def test_a_warm_up_that_diverges_is_repeated(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether errors are looked at after every batch or at the end: the same passes, with the same result."""
    monkeypatch.setattr(warmup, "STEPS", {"obj": 40.0, "probe": 0.5})
    done = []
    for after in (1, 100):
        monkeypatch.setattr(warmup, "_READ_AFTER", after)
        done.append(next(iter(reconstruction(warmup_epochs=1, epoch_max=1).epochs())))
    one, other = done
    assert one.evaluations == other.evaluations > 1
    assert one.step == other.step
    assert other.loss == pytest.approx(one.loss, rel=1e-3)


GRID = Grid((16, 16), (0.2, 0.2), 0.04)


def propagation(backend: Backend, tilted: bool = False) -> Propagation:
    return Propagation(GRID, np.ones(GRID.shape), backend, np.ones(GRID.shape), tilted)


def variables(backend: Backend) -> Any:
    made = reconstruction(backend="cpu", epoch_max=0).state.variables
    arrays = {"slice_distances": np.array([10.0, 12.0]), "tilts": np.zeros((1, 6))}
    return made.replace({name: backend.asarray(array) for name, array in arrays.items()})


def same(before: Any, after: Any) -> bool:
    return all(after.factors[key] is factor for key, factor in before.factors.items())


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_propagators_are_kept(name: str, device: None) -> None:
    backend = select(name, "single")
    stage, given = propagation(backend, tilted=True), variables(backend)
    first = stage.prepare(given, 2)
    assert same(first, stage.prepare(given.replace({"obj": given.obj.copy()}), 2))
    for block in ("slice_distances", "tilts"):
        moved = given.replace({block: given.block(block) + 0.01})
        other = stage.prepare(moved, 2)
        fresh = propagation(backend, tilted=True).prepare(moved, 2)
        for key, factor in fresh.factors.items():
            np.testing.assert_array_equal(to_host(other.factors[key]), to_host(factor))
            assert (to_host(factor) != to_host(first.factors[key])).any()
    assert set(stage.prepare(given, 1).factors) == {(0, 1.0)}


def test_propagators_follow_arrays_that_are_written_into() -> None:
    """On the host, where arrays are compared by value."""
    backend = select("cpu", "single")
    stage, given = propagation(backend), variables(backend)
    first = stage.prepare(given, 2)
    given.slice_distances[1] += 3
    assert not same(first, stage.prepare(given, 2))
    assert first.distances[1] == 12


def test_kept_propagators_need_no_wait(meter: launches.Meter) -> None:
    backend = select("gpu", "single")
    stage, given = propagation(backend, tilted=True), variables(backend)
    stage.prepare(given, 2)
    with emulator.counted() as found:
        stage.prepare(given, 2)
    assert (found.launches, found.copies, found.waits) == (0, 0, 0)


def test_a_failed_propagator_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = select("cpu", "single")
    stage, given = propagation(backend), variables(backend)
    first = stage.prepare(given, 2)
    moved = given.replace({"slice_distances": np.array([1.0, 2.0])})
    with monkeypatch.context() as broken:
        broken.setattr(Propagation, "_propagators", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stage.prepare(moved, 2)
    assert not same(first, stage.prepare(moved, 2))


def places(
    count: Callable[[list], None], monkeypatch: pytest.MonkeyPatch
) -> tuple[FixedPlaces, Workspace, Any]:
    xp = select("gpu", "single").xp
    plain = fixed.copy_all
    monkeypatch.setattr(fixed, "copy_all", lambda pairs: (count(pairs), plain(pairs)))
    return FixedPlaces(), Workspace(xp), xp


def test_fixed_places_copy_what_has_changed(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    own, work, xp = places(lambda pairs: copied.append(len(pairs)), monkeypatch)
    arrays = {
        str(n): xp.arange(n).astype(dtype)
        for n, dtype in enumerate((np.complex64, np.float64, np.int32, np.complex64, np.float64, np.int32), 5)
    }
    found = own.put(arrays, work)
    for name, array in arrays.items():
        np.testing.assert_array_equal(to_host(found[name]), to_host(array))
    again = own.put(arrays, work, changing=("7",))
    assert all(again[name] is place for name, place in found.items())
    own.put({**arrays, "5": arrays["5"] + 1}, work)
    assert copied == [6, 1, 1]
    assert to_host(found["5"]).tolist() == [1, 2, 3, 4, 5]
    work.clear()
    found = own.put(arrays, work)
    np.testing.assert_array_equal(to_host(found["6"]), np.arange(6))


def test_patterns_are_placed_once(device: None) -> None:
    """As long as numbers and crop origins stay the same."""
    feed = reconstruction(epoch_max=0).feed
    first = feed.placed(ALL[2:5])
    assert first is not None
    assert feed.placed(ALL[2:5]).index.data.ptr == first.index.data.ptr
    feed.crop_origins = feed.crop_origins + 1
    moved = feed.placed(ALL[2:5])
    np.testing.assert_array_equal(to_host(moved.index), ALL[2:5])
    np.testing.assert_array_equal(to_host(moved.crop_origins), feed.crop_origins[2:5])


@pytest.mark.parametrize("weights", [None, np.array([0.7, 0.3])])
def test_the_curvature_of_few_patterns_is_that_of_many(device: None, weights: np.ndarray | None) -> None:
    """By kernels, and by Fourier transforms."""
    made = reconstruction(epoch_max=0)
    problem = made.problem(made.settings.at(0))
    unknowns, chosen = made.state.variables, ALL[3:9]
    if weights is not None:
        obj = unknowns.obj * (1 + 0.1j * made.setup.backend.xp.arange(2)[:, None, None, None])
        unknowns = unknowns.replace({"obj": obj.astype(np.complex64)})
    problem.curvature = dataclasses.replace(problem.curvature, mode_weights=weights, scale=0.3)
    few = problem.diagonal(unknowns, ("obj", "probe"), chosen)
    many = problem.curvature.of_patterns(chosen).diagonal(unknowns, ("obj", "probe"))
    for name, expected in many.items():
        assert few[name].dtype == expected.dtype and few[name].shape == expected.shape
        np.testing.assert_allclose(to_host(few[name]), to_host(expected), rtol=2e-5)
