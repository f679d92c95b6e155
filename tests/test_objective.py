"""The sum over batches and threads, and what a rejected trial saves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from problems import small_params

from pypty.backend.workspace import Workspace
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.setup.prepare import prepare
from pypty.model.forward import Model
from pypty.objective.powers import N_SUMS
from pypty.objective.share import Limit, Share, sums_of
from pypty.optimize.vector import BlockVector


def problem(**changes: Any) -> Problem:
    setup = prepare(small_params(compute_batch=2, **changes))
    setup.close()
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0)).problem(setup.settings.first())


@pytest.fixture
def adjoints(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of patterns of which a gradient was computed."""
    counted: list[int] = []
    adjoint = Model.adjoint

    def counting(self: Model, grad: Any, points: Any, batch: Any, *args: Any) -> None:
        counted.append(len(batch.index))
        adjoint(self, grad, points, batch, *args)

    monkeypatch.setattr(Model, "adjoint", counting)
    return counted


def worse(one: Problem) -> BlockVector:
    """A point with a larger loss in every batch."""
    point = one.point()
    return BlockVector({"obj": point["obj"], "probe": 3 * point["probe"]})


def test_the_loss_of_every_batch_is_kept() -> None:
    """In the order of the batches, however many threads there are."""
    one, two = problem(n_threads=1), problem(n_threads=2)
    parts = one(one.point()).info.parts
    assert len(parts) == 13
    assert parts.sum() == pytest.approx(one(one.point()).value, rel=1e-13)
    np.testing.assert_allclose(two(two.point()).info.parts, parts, rtol=1e-12)
    first = one.objective.evaluate(one.variables, (), np.array([0, 1]))
    assert parts[0] == pytest.approx(first.loss, rel=1e-13)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_a_rejected_trial_needs_only_the_loss(adjoints: list[int], n_threads: int, weight: float) -> None:
    """After a quarter of its batches a thread sees that the loss grows, and computes no more gradients."""
    one = problem(n_threads=n_threads, loss_weight=weight)
    start = one(one.point())
    bad = worse(one)
    whole = one(bad)
    adjoints.clear()
    found = one(bad, Limit(start.value, start.info.parts))
    assert found.value == pytest.approx(whole.value, rel=1e-13)
    assert found.info.sse == pytest.approx(whole.info.sse, rel=1e-13)
    assert len(found.gradient) == 0
    assert sum(adjoints) <= 8


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_wrong_guess_is_made_good(adjoints: list[int], n_threads: int) -> None:
    """The loss had grown in every batch, but is below the limit after all: the gradient is complete."""
    one = problem(n_threads=n_threads)
    start = one(one.point())
    bad = worse(one)
    whole = one(bad)
    adjoints.clear()
    found = one(bad, Limit(2 * whole.value, start.info.parts))
    assert sum(adjoints) == 25
    assert found.value == pytest.approx(whole.value, rel=1e-13)
    for name, gradient in whole.gradient.items():
        np.testing.assert_allclose(
            found.gradient[name], gradient, rtol=1e-10, atol=1e-10 * np.abs(gradient).max()
        )


@pytest.mark.parametrize(
    "limit", [Limit(), Limit(-math.inf), Limit(0.0, np.zeros(3))], ids=["none", "below", "other"]
)
def test_without_a_start_to_compare_with_no_batch_is_left_out(adjoints: list[int], limit: Limit) -> None:
    """But the gradient of a rejected trial is given to nobody: steps must not depend on the number of batches."""
    one = problem()
    found = one(worse(one), limit)
    assert sum(adjoints) == 25
    assert set(found.gradient) == ({"obj", "probe"} if limit.value == math.inf else set())


def test_a_good_trial_is_computed_once(adjoints: list[int]) -> None:
    one = problem()
    start = one(one.point())
    adjoints.clear()
    found = one(one.point(), Limit(start.value, start.info.parts))
    assert sum(adjoints) == 25
    for name, gradient in start.gradient.items():
        np.testing.assert_array_equal(found.gradient[name], gradient)


def test_penalties_count_too() -> None:
    """The limit is on the whole objective, the batches are compared by their data term."""
    one = problem(phase_norm_weight=5.0, obj=np.exp(1j * np.full((24, 24, 1, 1), 0.5)))
    start = one(one.point())
    assert start.info.terms["phase_norm_weight"] > 0
    found = one(worse(one), Limit(start.value, start.info.parts))
    assert len(found.gradient) == 0
    assert found.value == pytest.approx(one(worse(one)).value, rel=1e-13)


def test_many_inner_products_are_those_of_each() -> None:
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.complex64, 1e-6), (np.complex128, 1e-13), (np.float32, 1e-6)):
        vectors = [
            BlockVector({"a": rng.standard_normal((3, 1025)).astype(dtype), "b": rng.standard_normal((7,))})
            for _ in range(4)
        ]
        if np.dtype(dtype).kind == "c":
            vectors = [BlockVector({**v, "a": v["a"] * np.exp(1j).astype(dtype)}) for v in vectors]
        expected = [
            sum(float(np.vdot(vectors[0][n].astype(complex), v[n].astype(complex)).real) for n in "ab")
            for v in vectors
        ]
        scale = vectors[0].dot(vectors[0])
        np.testing.assert_allclose(vectors[0].dots(vectors), expected, rtol=tolerance, atol=tolerance * scale)
        assert vectors[0].dot(vectors[1]) == vectors[0].dots(vectors)[1]
        combined = vectors[0].combined([2.0, -0.5], vectors[1:3])
        for name in "ab":
            by_hand = vectors[0][name] + 2 * vectors[1][name] - 0.5 * vectors[2][name]
            np.testing.assert_allclose(
                combined[name], by_hand, rtol=1e-5 if name == "a" else 1e-13, atol=1e-6
            )
            assert combined[name].dtype == vectors[0][name].dtype
    assert vectors[0].dots([]) == []


def share(totals: list[float], before: list[float] | None, wanted: bool = True) -> Share:
    """Batches of one pattern each with these losses."""
    table = np.stack([np.array(totals), np.zeros(len(totals))], axis=1)
    noise: Any = None
    return Share(
        batches=[np.array([k]) for k in range(len(totals))],
        before=None if before is None else np.array(before),
        gradients={"obj": np.zeros(1)} if wanted else {},
        workspace=Workspace(np),
        totals=table,
        noise=noise,
    )


def test_a_trial_is_expected_to_be_rejected_after_a_quarter_of_its_batches() -> None:
    grown = share([2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0] * 8)
    assert not grown.expects_rejection(0), "one of eight batches is too early"
    assert grown.expects_rejection(1) and not grown.expects_rejection(3), "4 is not above 1 + 1 + 1 + 1"
    assert share([np.nan] * 4, [1.0] * 4).expects_rejection(0)
    assert not share([9.0] * 4, None).expects_rejection(3)
    assert not share([9.0] * 4, [1.0] * 4, wanted=False).expects_rejection(3)


def test_sums_of_threads_are_added() -> None:
    first, second = share([1.0, 2.0], None), share([3.0], None)
    assert first.losses.tolist() == [1, 2] and sums_of([first, second]) is None and sums_of([]) is None
    for one in (first, second):
        one.totals = np.ones((len(one.batches), N_SUMS))
        one.__dict__.pop("scores", None)
        one.patterns = np.full((3, 2, 3), len(one.batches))
    found = sums_of([first, second])
    assert found is not None and found.totals.tolist() == [3.0] * N_SUMS
    np.testing.assert_array_equal(found.patterns["measured"], np.full((2, 3), 3))
