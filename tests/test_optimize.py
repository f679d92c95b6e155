"""L-BFGS and its line search on functions whose minimum is known. The evaluation limits are about 1.5 times what is
needed today: a change that makes the optimiser slower is noticed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pypty.optimize.lbfgs import Lbfgs, Pair, Precondition, Step, ValueAndGradient
from pypty.optimize.line_search import LineSearch, Point, WolfeOptions, strong_wolfe
from pypty.optimize.vector import BlockVector

Blocks = dict[str, np.ndarray]
Objective = Callable[[BlockVector], tuple[float, Blocks]]
OPTIONS = WolfeOptions()


def identity(gradient: BlockVector) -> BlockVector:
    return gradient.copy()


@dataclass
class Run:
    """What a minimisation did."""

    x: BlockVector
    sample: ValueAndGradient
    evaluations: int
    steps: list[Step] = field(default_factory=list)


def minimise(
    objective: Objective,
    start: Blocks,
    done: Callable[[ValueAndGradient], bool],
    limit: int,
    *,
    hist_length: float = 10,
    precondition: Precondition = identity,
    options: WolfeOptions = OPTIONS,
) -> Run:
    """Step as the engine does (a rejected step resets the history, two in a row end it) until ``done``."""
    count = 0

    def function(x: BlockVector, limit: float = math.inf) -> ValueAndGradient:
        nonlocal count
        count += 1
        value, gradient = objective(x)
        return ValueAndGradient(value, BlockVector(gradient))

    x = BlockVector(start)
    run = Run(x, function(x), 0)
    optimizer, rejected = Lbfgs(), 0
    while not done(run.sample) and count < limit and rejected < 2:
        step = optimizer.step(run.x, run.sample, function, precondition, hist_length, 1.0, options)
        run.x, run.sample = step.x, step.sample
        run.steps.append(step)
        if step.accepted:
            rejected = 0
        else:
            optimizer.reset()
            rejected += 1
    run.evaluations = count
    return run


def small_gradient(tolerance: float) -> Callable[[ValueAndGradient], bool]:
    return lambda sample: sample.gradient.norm() <= tolerance


def rosenbrock(x: BlockVector) -> tuple[float, Blocks]:
    a = x["x"]
    valley = a[1:] - a[:-1] ** 2
    gradient = np.zeros_like(a)
    gradient[:-1] = -400 * a[:-1] * valley - 2 * (1 - a[:-1])
    gradient[1:] += 200 * valley
    return float((100 * valley**2 + (1 - a[:-1]) ** 2).sum()), {"x": gradient}


@dataclass
class Quadratic:
    """0.5 sum lambda (Q^T (x - 1))^2: minimum 0 at x = 1, computed without cancellation."""

    n: int
    condition: float
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.axes, _ = np.linalg.qr(rng.standard_normal((self.n, self.n)))
        self.eigenvalues = np.logspace(0, math.log10(self.condition), self.n)
        self.start = {"x": rng.standard_normal(self.n)}

    def __call__(self, x: BlockVector) -> tuple[float, Blocks]:
        r = self.axes.T @ (x["x"] - 1)
        return float(0.5 * (self.eigenvalues * r**2).sum()), {"x": self.axes @ (self.eigenvalues * r)}

    def newton(self, gradient: BlockVector) -> BlockVector:
        """The inverse Hessian times the gradient."""
        return gradient.map(lambda g: self.axes @ ((self.axes.T @ g) / self.eigenvalues))


# ---------------------------------------------------------------------------------------------------- convergence


@pytest.mark.parametrize(
    ("hist_length", "n", "limit"),
    [
        (0, 2, 850),
        (0, 20, 8000),
        (1, 2, 150),
        (1, 20, 480),
        (5, 2, 80),
        (5, 20, 270),
        (10, 2, 80),
        (10, 20, 240),
        (math.inf, 2, 75),
        (math.inf, 20, 200),
    ],
)
def test_rosenbrock(hist_length: float, n: int, limit: int):
    start = {"x": np.tile([-1.2, 1.0], n // 2)}
    run = minimise(rosenbrock, start, small_gradient(1e-8), limit, hist_length=hist_length)
    assert run.sample.gradient.norm() <= 1e-8
    np.testing.assert_allclose(run.x["x"], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("hist_length", "limit"),
    [(5, 6000), pytest.param(10, 3600, marks=pytest.mark.nightly), (20, 1500), (math.inf, 180)],
)
def test_ill_conditioned_quadratic(hist_length: float, limit: int):
    """Condition number 1e6 in 20 dimensions, to 1e-12 of the starting value."""
    quadratic = Quadratic(20, 1e6)
    start_value = quadratic(BlockVector(quadratic.start))[0]
    run = minimise(
        quadratic,
        quadratic.start,
        lambda sample: sample.value <= 1e-12 * start_value,
        limit,
        hist_length=hist_length,
    )
    assert run.sample.value <= 1e-12 * start_value


def test_exact_preconditioner_needs_one_step():
    """With the inverse Hessian the first trial is the minimum."""
    quadratic = Quadratic(30, 1e6)
    run = minimise(quadratic, quadratic.start, small_gradient(1e-6), 5, precondition=quadratic.newton)
    assert len(run.steps) <= 2
    assert run.evaluations <= 3
    np.testing.assert_allclose(run.x["x"], 1, atol=1e-8)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_wrong_length_of_the_preconditioner_is_found(factor: float):
    """A preconditioner that is right up to a number: gamma (eq. 7.20) takes the number out after one step."""
    quadratic = Quadratic(30, 1e6)
    run = minimise(
        quadratic,
        quadratic.start,
        small_gradient(1e-6),
        40,
        precondition=lambda g: quadratic.newton(g).scaled(factor),
    )
    assert run.sample.gradient.norm() <= 1e-6
    assert len(run.steps) <= 3


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 8),
    condition=st.floats(1, 1e4),
    seed=st.integers(0, 1000),
    hist_length=st.sampled_from([1, 3, 10, math.inf]),
)
def test_any_quadratic(n: int, condition: float, seed: int, hist_length: float):
    quadratic = Quadratic(n, condition, seed)
    run = minimise(quadratic, quadratic.start, small_gradient(1e-7), 4000, hist_length=hist_length)
    np.testing.assert_allclose(run.x["x"], 1, atol=1e-6)


def test_complex_blocks():
    """For a complex block the gradient is dL/dRe + i dL/dIm, the inner product the real one."""
    rng = np.random.default_rng(3)
    matrix = rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))
    target = rng.standard_normal(6) + 1j * rng.standard_normal(6)

    def objective(x: BlockVector) -> tuple[float, Blocks]:
        residual = matrix @ x["z"] - target
        return float(0.5 * (np.abs(residual) ** 2).sum()), {"z": matrix.conj().T @ residual}

    run = minimise(objective, {"z": np.zeros(4, complex)}, small_gradient(1e-9), 60)
    np.testing.assert_allclose(run.x["z"], np.linalg.lstsq(matrix, target, rcond=None)[0], atol=1e-8)


# --------------------------------------------------------------------------------------------------------- blocks


@dataclass
class TwoScales:
    """Two quadratic blocks with the same eigenvalues, the second one's times ``ratio``; both minima are at 1."""

    ratio: float
    weights: np.ndarray = field(default_factory=lambda: np.linspace(1, 5, 6))

    def __call__(self, x: BlockVector) -> tuple[float, Blocks]:
        a, b = x["a"] - 1, x["b"] - 1
        value = 0.5 * (self.weights * (a**2 + self.ratio * b**2)).sum()
        return float(value), {"a": self.weights * a, "b": self.ratio * self.weights * b}

    def both_solved(self, sample: ValueAndGradient) -> bool:
        """Every block's own gradient is small in its own unit."""
        a, b = sample.gradient["a"], sample.gradient["b"]
        return bool(np.abs(a).max() < 1e-7 and np.abs(b).max() < 1e-7 * self.ratio)

    def minimise(self, limit: int, precondition: Precondition = identity) -> Run:
        start = {"a": np.zeros(6), "b": np.full(6, 3.0)}
        return minimise(self, start, self.both_solved, limit, precondition=precondition)


@pytest.mark.parametrize("ratio", [1e-3, 1e3])
def test_blocks_of_different_scale(ratio: float):
    """Each block has a gamma of its own, so that a ratio costs next to nothing (24 evaluations without one)."""
    problem = TwoScales(ratio)
    run = problem.minimise(100)
    assert problem.both_solved(run.sample)


@pytest.mark.parametrize("ratio", [1e-8, 1e-6, 1e6, 1e8])
def test_blocks_of_wildly_different_scale(ratio: float):
    """The same for positions in pixels beside an object: nobody tells the optimiser the ratio."""
    problem = TwoScales(ratio)
    run = problem.minimise(200)
    assert problem.both_solved(run.sample)


@pytest.mark.parametrize("ratio", [1e-12, 1e12])
def test_preconditioner_removes_the_scale(ratio: float):
    """One number per block is enough."""
    problem = TwoScales(ratio)
    run = problem.minimise(60, precondition=lambda g: g.scaled({"a": 1.0, "b": 1 / ratio}))
    assert problem.both_solved(run.sample)


def with_idle_block(gradient_of_idle: Callable[[BlockVector], np.ndarray]) -> Objective:
    """A quadratic in "x", and a block "idle" that the value does not depend on."""
    quadratic = Quadratic(8, 100.0)

    def objective(x: BlockVector) -> tuple[float, Blocks]:
        value, gradient = quadratic(x)
        return value, {**gradient, "idle": gradient_of_idle(x)}

    return objective


def noise(size: float) -> Callable[[BlockVector], np.ndarray]:
    """Rounding noise: a gradient that changes wildly from point to point and means nothing."""

    def gradient(x: BlockVector) -> np.ndarray:
        seed = np.frombuffer(np.ascontiguousarray(x["x"]).tobytes(), np.uint32)
        return size * np.random.default_rng(seed).standard_normal(3)

    return gradient


@pytest.mark.parametrize(
    ("gradient", "moves"),
    [
        (lambda x: np.zeros(3), 0.0),
        (lambda x: np.full(3, 1e-30), 1e-20),
        (lambda x: np.full(3, -1e-12), 1e-6),
        (noise(1e-14), 1e-8),
        (noise(1e-12), 1e-6),
    ],
    ids=["zero", "1e-30", "1e-12", "noise 1e-14", "noise 1e-12"],
)
@pytest.mark.parametrize("hist_length", [0, 1, 10])
def test_idle_block_does_not_poison_the_rest(
    gradient: Callable[[BlockVector], np.ndarray], moves: float, hist_length: int
):
    """A block without a gradient (positions while the object is vacuum) stays put, makes no NaN, and the others
    need no more evaluations than alone. PyPty 2.2 divides by the norm of its gradient."""
    quadratic = Quadratic(8, 100.0)

    def done(sample: ValueAndGradient) -> bool:
        return bool(np.linalg.norm(sample.gradient["x"]) <= 1e-7)

    alone = minimise(quadratic, quadratic.start, done, 3000, hist_length=hist_length)
    assert done(alone.sample)
    idle = np.array([0.5, -2.0, 7.0])
    run = minimise(
        with_idle_block(gradient),
        {**quadratic.start, "idle": idle.copy()},
        done,
        int(1.2 * alone.evaluations) + 5,
        hist_length=hist_length,
    )
    assert done(run.sample)
    assert run.x.is_finite()
    assert np.abs(run.x["idle"] - idle).max() <= moves


def test_all_zero_gradient():
    """Nothing to do: the step says so, evaluates nothing and stays."""
    x = BlockVector({"x": np.ones(3)})
    sample = ValueAndGradient(1.0, BlockVector({"x": np.zeros(3)}))

    def never(x: BlockVector, limit: float = math.inf) -> ValueAndGradient:
        raise AssertionError("nothing should be evaluated")

    step = Lbfgs().step(x, sample, never, identity, 5, 1.0, OPTIONS)
    assert not step.accepted
    assert step.search.trials == []
    assert "zero" in step.search.reason
    assert step.x is x


# -------------------------------------------------------------------------------------------------------- history


@pytest.mark.parametrize("hist_length", [0, 1, 5, math.inf])
def test_history_length(hist_length: float):
    """The number of pairs kept: at least one, which only gives the length of a step."""
    quadratic = Quadratic(12, 1e3)

    def function(x: BlockVector, limit: float = math.inf) -> ValueAndGradient:
        value, gradient = quadratic(x)
        return ValueAndGradient(value, BlockVector(gradient))

    optimizer, x = Lbfgs(), BlockVector(quadratic.start)
    sample = function(x)
    for n in range(1, 12):
        step = optimizer.step(x, sample, function, identity, hist_length, 1.0, OPTIONS)
        x, sample = step.x, step.sample
        assert step.accepted
        assert len(optimizer.pairs) == min(n, max(hist_length, 1))
        newest = optimizer.pairs[-1]
        assert newest.s.dot(newest.y) > 0
    direction = optimizer.direction(sample.gradient, identity, hist_length)
    cosine = -direction.dot(sample.gradient) / direction.norm() / sample.gradient.norm()
    if hist_length == 0:
        assert cosine == pytest.approx(1, abs=1e-12)  # steepest descent
    else:
        assert 0 < cosine < 0.999
    optimizer.reset()
    assert optimizer.pairs == []


def test_secant_equation():
    """H y = s for the newest pair: what makes it a quasi-Newton method, preconditioned or not."""
    quadratic = Quadratic(6, 50.0)
    run = minimise(quadratic, quadratic.start, small_gradient(1e-3), 30)
    pairs = []
    for before, after in zip(run.steps[:-1], run.steps[1:], strict=True):
        s = after.x.plus(-1.0, before.x)
        pairs.append((s, after.sample.gradient.plus(-1.0, before.sample.gradient)))
    optimizer = Lbfgs([Pair(s, y) for s, y in pairs])
    s, y = pairs[-1]
    for precondition in (identity, quadratic.newton, lambda g: g.scaled(17.0)):
        for hist_length in (1, 3, math.inf):
            h_y = optimizer.direction(y, precondition, hist_length).scaled(-1.0)
            np.testing.assert_allclose(h_y["x"], s["x"], rtol=1e-9, atol=1e-12)


def test_every_block_has_a_positive_scale():
    """gamma = <s, y>/<y, M y> of each block; where that is not positive, the one of all blocks together."""
    s = BlockVector({"a": np.array([1.0, 2.0]), "b": np.array([1.0, 0.0]), "c": np.array([0.5])})
    y = BlockVector({"a": np.array([2.0, 4.0]), "b": np.array([-1.0, 0.0]), "c": np.array([0.0])})
    gradient = BlockVector({"a": np.array([1.0, -1.0]), "b": np.array([3.0, 2.0]), "c": np.array([7.0])})
    weights = {"a": 0.5, "b": 3.0, "c": 2.0}

    def precondition(g: BlockVector) -> BlockVector:
        return g.scaled(weights)

    direction = Lbfgs([Pair(s, y)]).direction(gradient, precondition, 0)
    common = (10 - 1) / (0.5 * 20 + 3.0 * 1)
    for block, gamma in (("a", 10 / (0.5 * 20)), ("b", common), ("c", common)):
        np.testing.assert_allclose(direction[block], -gamma * weights[block] * gradient[block], rtol=1e-12)


def test_negative_curvature_is_not_remembered():
    """A pair with <s, y> <= 0 would make the inverse Hessian indefinite."""
    x = BlockVector({"x": np.array([1.0, 2.0])})

    def function(
        x: BlockVector, limit: float = math.inf
    ) -> ValueAndGradient:  # concave until far out: the gradient grows along the step
        a = x["x"]
        return ValueAndGradient(float(-(a**2).sum() / 2), BlockVector({"x": -a}))

    optimizer = Lbfgs()
    step = optimizer.step(x, function(x), function, identity, 5, 1.0, WolfeOptions(max_evaluations=3))
    assert step.accepted  # the best of three, with a reason
    assert step.search.reason
    assert optimizer.pairs == []


def test_determinism():
    """The same start gives the same bits; nothing random is left."""
    runs = [minimise(rosenbrock, {"x": np.tile([-1.2, 1.0], 5)}, small_gradient(1e-8), 500) for _ in range(2)]
    trials = [[point.step for step in run.steps for point in step.search.trials] for run in runs]
    assert trials[0] == trials[1]
    assert runs[0].x["x"].tobytes() == runs[1].x["x"].tobytes()


def test_accepted_steps_satisfy_strong_wolfe():
    """Every accepted step without a reason, on a function that makes it work; and all of them descend."""
    run = minimise(rosenbrock, {"x": np.tile([-1.2, 1.0], 10)}, small_gradient(1e-6), 500)
    clean = 0
    value = rosenbrock(BlockVector({"x": np.tile([-1.2, 1.0], 10)}))[0]
    for step in run.steps:
        point = step.search.point
        assert point is not None
        assert point.value < value
        if not step.search.reason:
            assert point.value <= value + OPTIONS.c1 * point.step * step.slope
            assert abs(point.slope) <= -OPTIONS.c2 * step.slope
            clean += 1
        value = point.value
    assert clean >= len(run.steps) - 1


def test_step_that_changes_nothing_is_rejected():
    """At the limit of precision a step must be refused, or the engine never sees that it has converged: it would
    spend all evaluations of every further epoch on a step of zero length."""
    quadratic = Quadratic(12, 1e3)

    def objective(x: BlockVector) -> tuple[float, Blocks]:
        value, gradient = quadratic(x)
        return 1e6 + value, gradient  # the decrease drowns in the rounding of the value

    run = minimise(objective, quadratic.start, lambda sample: False, 2000)
    assert run.evaluations < 2000
    assert not run.steps[-1].accepted


# ---------------------------------------------------------------------------------------------------- line search

Phi = Callable[[float], tuple[float, float]]


def search(phi: Phi, first_step: float = 1.0, options: WolfeOptions = OPTIONS) -> LineSearch:
    value, slope = phi(0.0)
    return strong_wolfe(
        lambda a, _: Point(a, *phi(a), payload=("at", a)), Point(0.0, value, slope), first_step, options
    )


def assert_strong_wolfe(phi: Phi, found: LineSearch, options: WolfeOptions = OPTIONS) -> None:
    assert found.reason == ""
    point = found.point
    assert point is not None
    value, slope = phi(0.0)
    assert (point.value, point.slope) == phi(point.step)
    assert point.payload == ("at", point.step)
    assert point.value <= value + options.c1 * point.step * slope
    assert abs(point.slope) <= -options.c2 * slope


def parabola(minimum: float) -> Phi:
    return lambda a: ((a / minimum - 1) ** 2, 2 * (a / minimum - 1) / minimum)


def more_thuente_1(a: float) -> tuple[float, float]:
    """Moré and Thuente, ACM TOMS 20 (1994) 286, eq. 5.1 with beta = 2: concave far out."""
    return -a / (a**2 + 2), (a**2 - 2) / (a**2 + 2) ** 2


def more_thuente_2(a: float) -> tuple[float, float]:
    """Their eq. 5.2 with beta = 0.004: a quartic with a long flat start."""
    b = a + 0.004
    return b**5 - 2 * b**4, 5 * b**4 - 8 * b**3


def yanai(b1: float, b2: float) -> Phi:
    """Their eq. 5.4: two scales in one function."""

    def gamma(b: float) -> float:
        return math.sqrt(1 + b**2) - b

    def phi(a: float) -> tuple[float, float]:
        left, right = math.hypot(1 - a, b2), math.hypot(a, b1)
        return (
            gamma(b1) * left + gamma(b2) * right,
            -gamma(b1) * (1 - a) / left + gamma(b2) * a / right,
        )

    return phi


MORE_THUENTE = {
    "1": more_thuente_1,
    "2": more_thuente_2,
    "4": yanai(0.001, 0.001),
    "5": yanai(0.01, 0.001),
    "6": yanai(0.001, 0.01),
}


@pytest.mark.parametrize("c2", [0.9, 0.2])
@pytest.mark.parametrize("first_step", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("name", MORE_THUENTE)
def test_more_thuente_functions(name: str, first_step: float, c2: float):
    options = WolfeOptions(c1=1e-3, c2=c2)
    assert_strong_wolfe(MORE_THUENTE[name], search(MORE_THUENTE[name], first_step, options), options)


@pytest.mark.parametrize("beyond", [math.inf, math.nan])
@pytest.mark.parametrize("edge", [0.5, 1e-3, 1e-8])
def test_not_finite_at_long_steps(beyond: float, edge: float):
    """Long steps overflow: the search comes back into the region where the function is a number."""

    def phi(a: float) -> tuple[float, float]:
        return parabola(edge / 2)(a) if a < edge else (beyond, beyond)

    assert_strong_wolfe(phi, search(phi))


@pytest.mark.parametrize("beyond", [1e20, 1e160, 1e300])
@pytest.mark.parametrize("edge", [0.5, 1e-3, 1e-8])
def test_huge_but_finite_at_long_steps(beyond: float, edge: float):
    """Interpolation must not overflow where the function does not, yet."""

    def phi(a: float) -> tuple[float, float]:
        return parabola(edge / 2)(a) if a < edge else (beyond, beyond)

    assert_strong_wolfe(phi, search(phi, options=WolfeOptions(max_evaluations=60)))


def test_not_finite_after_expansion():
    """The first trial is too short, the next ones fall off the edge."""

    def phi(a: float) -> tuple[float, float]:
        return parabola(3.0)(a) if a < 4.0 else (math.nan, math.nan)

    assert_strong_wolfe(phi, search(phi, first_step=1e-2))


def test_step_without_a_gradient_is_not_accepted():
    """A value that is a number is not enough: the next direction needs the gradient."""

    def phi(a: float) -> tuple[float, float]:
        return parabola(0.5)(a) if a < 0.9 else (-10.0, math.nan)

    found = search(phi)
    assert found.point is not None
    assert math.isfinite(found.point.slope)


@pytest.mark.parametrize("minimum", [1e4, 1e6])
def test_expansion(minimum: float):
    """The step grows at most by ``grow``, and the minimum is reached from far below."""
    found = search(parabola(minimum), options=WolfeOptions(c2=0.1))
    assert_strong_wolfe(parabola(minimum), found, WolfeOptions(c2=0.1))
    steps = [point.step for point in found.trials]
    assert all(b <= 3 * a * (1 + 1e-12) for a, b in zip(steps[:-1], steps[1:], strict=True))


@pytest.mark.parametrize("minimum", [1e-8, 1e-12])
def test_contraction(minimum: float):
    """The first trial is far too long: shrunk by at most ``shrink`` at a time."""
    found = search(parabola(minimum))
    assert_strong_wolfe(parabola(minimum), found)
    steps = [point.step for point in found.trials]
    assert all(b >= 0.1 * a * (1 - 1e-12) for a, b in zip(steps[:-1], steps[1:], strict=True))


def test_very_flat():
    """A decrease of 1e-9 of the value, and almost no curvature."""

    def phi(a: float) -> tuple[float, float]:
        t = a / 50 - 1
        return 1 + 1e-9 * t**2, 1e-9 * 2 * t / 50

    options = WolfeOptions(c2=0.5)
    assert_strong_wolfe(phi, search(phi, options=options), options)


def test_flat_to_rounding_is_not_accepted():
    """The slope promises a decrease that the value cannot show: Wolfe 1 holds only by rounding."""

    def phi(a: float) -> tuple[float, float]:
        return 1.0, -1e-20

    found = search(phi)
    assert len(found.trials) <= OPTIONS.max_evaluations
    assert found.point is None
    assert found.reason


def test_unbounded_function():
    """Decreasing for ever: the best point within the evaluations is taken, with a reason."""
    found = search(lambda a: (-a, -1.0))
    assert len(found.trials) == OPTIONS.max_evaluations
    assert found.point is not None
    assert found.point.value == min(point.value for point in found.trials)
    assert "evaluations" in found.reason


def test_wrong_slope_is_rejected():
    """A slope that points downhill where the function rises (a wrong gradient): nothing is accepted."""
    found = search(lambda a: (a, -1.0 if a == 0 else 1.0))
    assert found.point is None
    assert found.reason


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 20])
@pytest.mark.parametrize(
    "phi",
    [
        parabola(1e9),
        parabola(1e-30),
        lambda a: (a, -1.0 if a == 0 else 1.0),
        lambda a: (-a, -1.0),
        lambda a: (0.0, -1.0) if a == 0 else (math.nan, math.nan),
        yanai(0.001, 0.001),
    ],
    ids=["expansion", "contraction", "wrong slope", "unbounded", "nan", "yanai"],
)
def test_max_evaluations(phi: Phi, limit: int):
    calls = []

    def counted(a: float) -> tuple[float, float]:
        calls.append(a)
        return phi(a)

    found = search(counted, options=WolfeOptions(max_evaluations=limit, c2=0.01, c1=0.001))
    assert 1 <= len(found.trials) <= limit
    assert calls == [0.0] + [point.step for point in found.trials]
    if found.point is not None:
        assert found.point.step in [point.step for point in found.trials]
        assert found.point.value < phi(0.0)[0]


@pytest.mark.parametrize("min_step", [1e-2, 1e-6, 1e-12])
def test_min_step(min_step: float):
    """No shorter step is tried, and the search ends long before its evaluations do."""
    found = search(
        lambda a: (0.0, -1.0) if a == 0 else (math.inf, math.inf),
        options=WolfeOptions(min_step=min_step, max_evaluations=1000),
    )
    assert found.point is None
    assert "small" in found.reason
    assert len(found.trials) <= 1 + round(-math.log10(min_step))
    assert min(point.step for point in found.trials) >= min_step


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    exponent=st.floats(-6, 6),
    curvature=st.floats(-3, 3),
    ripple=st.floats(0, 0.3),
    first=st.floats(-3, 3),
)
def test_any_smooth_function(exponent: float, curvature: float, ripple: float, first: float):
    """A parabola with ripples, at any scale: strong Wolfe, or at least a decrease and an honest reason."""
    scale, height = 10.0**exponent, 10.0**curvature

    def phi(a: float) -> tuple[float, float]:
        t = a / scale
        value = (t - 1) ** 2 + ripple * math.sin(5 * t)
        slope = 2 * (t - 1) + 5 * ripple * math.cos(5 * t)
        return height * value, height * slope / scale

    value, slope = phi(0.0)
    assert slope < 0
    found = search(phi, first_step=10.0**first, options=WolfeOptions(max_evaluations=60))
    assert_strong_wolfe(phi, found)


# ---------------------------------------------------------------------------------------------------------- vector


def test_vector_arithmetic():
    """The inner product is real, block by block, and accumulates in float64; types are kept."""
    a = BlockVector({"z": np.array([1 + 2j, 3j], np.complex64), "r": np.array([1.0, 2.0], np.float32)})
    b = BlockVector({"z": np.array([2 - 1j, 1 + 1j], np.complex64), "r": np.array([3.0, -1.0], np.float32)})
    assert a.dot_blocks(b) == {"z": 3.0, "r": 1.0}
    assert a.dot(b) == 4.0
    assert a.norm() == pytest.approx(math.sqrt(14 + 5))
    total = a.plus(-2.0, b)
    np.testing.assert_array_equal(total["z"], [-3 + 4j, -2 + 1j])
    assert (total["z"].dtype, total["r"].dtype) == (np.complex64, np.float32)
    scaled = a.scaled({"z": 2.0, "r": 0.0})
    np.testing.assert_array_equal(scaled["z"], [2 + 4j, 6j])
    np.testing.assert_array_equal(scaled["r"], 0)
    copy = a.copy()
    copy.add(1.0, b)
    np.testing.assert_array_equal(copy["r"], [4.0, 1.0])
    np.testing.assert_array_equal(a["r"], [1.0, 2.0])
    assert a.is_finite()
    copy["z"][1] = np.nan
    assert not copy.is_finite()


def test_a_block_that_could_not_move_at_first_is_not_left_behind() -> None:
    """Over a vacuum the gradient of positions is rounding, 1e-17; so is their first step. It says nothing about how
    far the second one should go, when the object is there and the gradient is 10.
    """
    pair = Pair(
        BlockVector({"obj": np.array([1.0]), "positions": np.array([1e-18])}),
        BlockVector({"obj": np.array([1.0]), "positions": np.array([10.0])}),
    )
    gradient = BlockVector({"obj": np.array([0.0]), "positions": np.array([10.0])})
    direction = Lbfgs([pair]).direction(gradient, lambda vector: vector, 10)
    assert direction["positions"][0] < -1e-3
