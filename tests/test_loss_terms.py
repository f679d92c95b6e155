"""Sums of losses: PtyRAD's numbers, gradients by finite differences, and what does not depend on how it is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_adjoint, directional_derivative, inner, random_like, relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import small_params, smooth_object
from ptyrad_cases import CASES, NAMES, gradients_of, loss_terms_of, params_of, read_case

import pypty
from pypty.backend.workspace import Workspace
from pypty.engine.epochs.loop import Reconstruction
from pypty.engine.epochs.problem import Problem
from pypty.engine.epochs.state import State
from pypty.engine.record.resume import read_resume
from pypty.engine.setup.prepare import prepare, read
from pypty.objective import object_terms
from pypty.objective.combined import LossTerms, Sums, make_loss_terms
from pypty.objective.noise import LsqSqrt, Poisson, bounded
from pypty.objective.powers import FLOOR, N_SUMS, PATTERN_SUMS, PowerDifference, PowerPoisson
from pypty.objective.share import Limit, Share
from pypty.params.schema import SCHEMA

RNG = np.random.default_rng

SINGLE = {"single": True}
DATA = {"single": {"dp_pow": 0.4, "weight": 0.8}, "poissn": {"weight": 0.3, "dp_pow": 0.7}, "pacbed": True}
OBJECT = {"sparse": {"ln_order": 2, "weight": 0.3}, "simlar": {"scale_factor": [1, 0.5, 0.5], "weight": 0.7}}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "single": SINGLE,
    "poissn": {"poissn": True},
    "both": {"single": 2.0, "poissn": 0.5},
    "pacbed": {"pacbed": {"weight": 1.0, "dp_pow": 0.3}},
    "data": DATA,
    "sparse": {**SINGLE, "sparse": {"ln_order": 3}},
    "simlar": {"poissn": 0.1, "simlar": {"blur_std": 0, "obj_type": "phase", "scale_factor": [0.5, 1, 1]}},
    "all": {**DATA, **OBJECT},
}
SCALES = ("additive", "ratio")
ROUNDING = {"simlar": 2e-7}
"""PtyRAD sums simlar in single precision."""


def terms_of(given: dict[str, Any], scale: str = "ratio", **changes: Any) -> LossTerms:
    complete = SCHEMA["loss_terms"].kind.convert(given)
    return make_loss_terms(complete, scale=scale, **{"dark": 0.0, "window": (16, 16), **changes})


def problem_of(**changes: Any) -> Problem:
    setup = prepare(small_problem(**changes))
    setup.close()
    return Reconstruction(setup, State(variables=setup.variables(), epoch=0)).problem(setup.settings.first())


# ------------------------------------------------------------------------------------------------ PtyRAD's numbers


@pytest.mark.parametrize("name", sorted(CASES))
def test_data_terms_of_ptyrad(name: str) -> None:
    """Weighted losses and their slope with respect to the patterns."""
    case = read_case(name)
    terms = terms_of(loss_terms_of(case))
    measured = case["in_meas"][case["in_batch"]]
    intensity = case["out_dp"] - FLOOR
    totals, patterns = np.zeros(N_SUMS), terms.noise.pattern_sums(Workspace(np), measured.shape[1:])
    args = (intensity, measured, None, Workspace(np), None, 1.0)
    slope = terms.noise.score(*args, totals, patterns)
    sums = Sums(totals, {} if patterns is None else dict(zip(PATTERN_SUMS, patterns, strict=True)))
    if terms.two_passes:
        slope = terms.with_slopes(sums).score(*args, np.zeros(N_SUMS), None)
    else:
        slope *= terms.factor(sums)
    assert relative(slope, case["out_dLoss_dDP"]) < 1e-9
    stored = dict(zip(NAMES, case["out_loss_terms"], strict=True))
    for key, value in terms.values(sums).items():
        assert value == pytest.approx(stored[key], rel=1e-9), key


@pytest.mark.parametrize("name", ["C", "D", "H"])
def test_object_terms_of_ptyrad(name: str) -> None:
    """Values; and their gradients are what is missing from that of the data terms."""
    case = read_case(name)
    weights, given = case["in_omode_occu"], loss_terms_of(case)
    obj = case["in_obja"] * np.exp(1j * case["in_objp"])
    terms = terms_of(given, mode_weights=weights)
    values, own = terms.of_object(obj, case["in_crop_pos"][case["in_batch"]], 3, wanted=True)
    stored = dict(zip(NAMES, case["out_loss_terms"], strict=True))
    assert set(values) == {"sparse", "simlar"} & set(given)
    for key, value in values.items():
        assert value == pytest.approx(stored[key], rel=ROUNDING.get(key, 1e-9)), key
    # The weight of a mode is a factor on its amplitude in one slice.
    root = np.ones(obj.shape[:2])[..., None, None]
    root[:, 0] = np.sqrt(weights)[:, None, None]
    data = {key: entry for key, entry in given.items() if key not in values}
    plain = {"obj": (root * obj).transpose(2, 3, 1, 0), "obj_mode_weights": None, "loss_terms": data}
    found = pypty.evaluate(params_of(case, **plain)).gradients
    found["obj"] = (found["obj"].transpose(3, 2, 0, 1) * root + own).transpose(2, 3, 1, 0)
    for key, gradient in gradients_of(found, case).items():
        assert relative(gradient, case[f"out_grad_{key}"]) < 1e-8, key


@pytest.mark.parametrize("name", sorted(CASES))
def test_whole_evaluation_of_ptyrad(name: str) -> None:
    """Loss and gradients of all variables."""
    case = read_case(name)
    found = pypty.evaluate(params_of(case))
    assert found.loss == pytest.approx(case["out_loss_total"], rel=1e-9)
    stored = dict(zip(NAMES, case["out_loss_terms"], strict=True))
    assert set(found.loss_terms) == set(loss_terms_of(case))
    for key, value in found.loss_terms.items():
        assert value == pytest.approx(stored[key], rel=ROUNDING.get(key, 1e-9)), key
    compared = gradients_of(found.gradients, case)
    assert {"obja", "objp", "probe", "probe_pos_shifts"} <= set(compared)
    for key, gradient in compared.items():
        assert relative(gradient, case[f"out_grad_{key}"]) < 1e-8, key


# ------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", sorted(COMBINATIONS))
def test_gradient_is_that_of_the_loss(name: str, scale: str) -> None:
    """Along a random direction of all blocks, with a mask of the detector."""
    rng = RNG(5)
    given = {"loss_terms": COMBINATIONS[name], "loss_scale": scale, "detector_mask": rng.random((16, 20))}
    one = problem_of(**given, loss_weight=0.7, compute_batch=4)
    variables, blocks = one.variables, one.blocks
    found = one.objective.evaluate(variables, blocks, one.indices, one.weight)
    sizes = {"obj": 0.02, "probe": 0.02, "positions": 0.05, "slice_distances": 0.5}
    step = {key: sizes[key] * random_like(rng, variables.block(key)) for key in blocks}
    step["probe"] *= np.abs(variables.probe).max()

    def along(t: float) -> float:
        moved = variables.replace({key: variables.block(key) + t * step[key] for key in blocks})
        return one.objective.evaluate(moved, (), one.indices, one.weight).loss

    expected = directional_derivative(along, 1e-5)  # the spread of two modes has a kink where they agree
    slope = sum(inner(found.gradients[key], step[key]) for key in blocks)
    assert slope == pytest.approx(expected, rel=1e-6)
    assert sum(found.loss_terms.values()) == pytest.approx(found.loss, rel=1e-13)
    assert set(found.loss_terms) == set(COMBINATIONS[name])


@pytest.mark.parametrize("scale", SCALES)
def test_gradient_with_weights_of_every_pattern(scale: str) -> None:
    """Pixels that some patterns lack; those that all lack do not count."""
    rng = RNG(6)
    mask = (rng.random((6, 16, 20)) > 0.3).astype(float)
    mask[:, 3, 4] = 0
    changes = {"loss_terms": DATA, "loss_scale": scale, "detector_mask": mask}
    one = problem_of(**changes)
    found = one.objective.evaluate(one.variables, ("obj",), one.indices)
    step = random_like(rng, one.variables.obj)

    def along(t: float) -> float:
        moved = one.variables.replace({"obj": one.variables.obj + t * step})
        return one.objective.evaluate(moved, (), one.indices).loss

    assert inner(found.gradients["obj"], step) == pytest.approx(directional_derivative(along, 1e-4), rel=2e-7)
    dead = small_problem()["dataset"].copy()
    dead[:, 3, 4] = 60000
    assert problem_of(**changes, dataset=dead).objective.evaluate(
        one.variables, (), one.indices
    ).loss == pytest.approx(found.loss, rel=1e-13)


@pytest.mark.parametrize("std", [0.4, 1.0, 3.0])
def test_blur_of_the_object_has_its_adjoint(std: float) -> None:
    rng = RNG(0)
    shape = (2, 3, 2, 7, 5)
    x, y = rng.standard_normal(shape), rng.standard_normal(shape)
    assert_adjoint(
        lambda v: object_terms._blur(v, std), lambda v: object_terms._blur_adjoint(v, std), x, y, 1e-14
    )
    np.testing.assert_allclose(object_terms._blur(np.ones(shape), std), 1, rtol=1e-14)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), factor=st.floats(0.05, 2.5))
def test_averages_keep_a_constant(n: int, factor: float) -> None:
    matrix = object_terms._averages(n, factor)
    if factor != 1:
        assert matrix.shape == (max(1, int(n * factor)), n)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        assert (matrix.sum(axis=0) > 0).all()


# ------------------------------------------------------------------------------------------------- what does not matter


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["single", "data", "all"])
def test_batches_and_threads_of_the_computation_do_not_matter(name: str, scale: str) -> None:
    given = {"loss_terms": COMBINATIONS[name], "loss_scale": scale}
    found = [
        pypty.evaluate(small_problem(**given, compute_batch=batch, n_threads=threads))
        for batch, threads in ((6, 1), (1, 1), (2, 2))
    ]
    for other in found[1:]:
        assert other.loss == pytest.approx(found[0].loss, rel=1e-12)
        assert other.loss_terms == pytest.approx(found[0].loss_terms, rel=1e-11)
        for key, gradient in found[0].gradients.items():
            assert relative(other.gradients[key], gradient) < 1e-10


@pytest.mark.parametrize("name", ["single", "both"])
def test_an_additive_loss_is_the_sum_of_its_parts(name: str) -> None:
    one = problem_of(loss_terms={**COMBINATIONS[name], "sparse": 0.4})
    whole = one.objective.evaluate(one.variables, one.blocks, one.indices)
    parts = [
        one.objective.evaluate(one.variables, one.blocks, part) for part in np.array_split(one.indices, 3)
    ]
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss, rel=1e-12)
    for key, gradient in whole.gradients.items():
        assert relative(sum(part.gradients[key] for part in parts), gradient) < 1e-11


def test_object_terms_grow_with_the_patterns() -> None:
    """Half of the windows twice: what they see counts twice in the sum, and as before in the ratio."""
    obj, crop_origins = smooth_object(2, seed=1).transpose(3, 2, 0, 1), np.array([[0, 0], [3, 1], [5, 5]])
    obj = np.concatenate([obj, obj**2])
    for scale, factor in (("additive", 2), ("ratio", 1)):
        terms = terms_of({"single": True, **OBJECT}, scale)
        once, slope = terms.of_object(obj, crop_origins, 2, wanted=True)
        twice, steeper = terms.of_object(obj, np.repeat(crop_origins, 2, axis=0), 2, wanted=True)
        assert twice == pytest.approx({key: factor * value for key, value in once.items()}, rel=1e-12)
        assert relative(steeper, factor * slope) < 1e-12
        assert not slope[..., 24:, :].any(), "nothing sees it, beyond the reach of blur and averages"


def test_both_scales_agree_for_one_window() -> None:
    """Where the whole object is one window, the additive terms are the ratio's times its pixels."""
    obj = np.stack([smooth_object(2, seed=seed)[..., 0].transpose(2, 0, 1) for seed in (1, 2)])
    given = {"single": True, **OBJECT}
    corner = np.zeros((1, 2), int)
    ratio, slope = terms_of(given, "ratio", window=(28, 28)).of_object(obj, corner, 1, wanted=True)
    additive, steeper = terms_of(given, "additive", window=(28, 28)).of_object(obj, corner, 1, wanted=True)
    assert additive == pytest.approx({key: 784 * value for key, value in ratio.items()}, rel=1e-12)
    assert relative(steeper, 784 * slope) < 1e-12


# ------------------------------------------------------------------------------------------------------ special cases


def test_usual_exponents_are_the_usual_noise_models() -> None:
    rng = RNG(2)
    data, intensity = rng.poisson(3, (4, 6, 6)).astype(float), rng.uniform(0.1, 9, (4, 6, 6))
    for term, model in (
        (PowerDifference(), LsqSqrt()),
        (PowerPoisson(eps=1e-14), Poisson()),
    ):
        for found, expected in zip(
            term.loss_and_slope(intensity, data, Workspace(np)),
            model.loss_and_slope(intensity, data, Workspace(np)),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
        mean = data.mean(axis=0)
        assert term.curvature(mean) == pytest.approx(model.curvature(mean))
    assert pypty.evaluate(small_params(loss_terms=SINGLE)).loss == pytest.approx(
        pypty.evaluate(small_params()).loss, rel=2e-5
    )


@pytest.mark.parametrize("name", ["single", "poissn", "both"])
def test_curvature_is_that_of_the_loss(name: str) -> None:
    """Half the mean second derivative with respect to the amplitude, where model and data agree."""
    noise = terms_of(COMBINATIONS[name], "additive").noise
    mean = RNG(3).uniform(1, 20, (5, 5))
    h = 1e-3
    losses = [noise.loss_and_slope((np.sqrt(mean) + t) ** 2, mean, Workspace(np))[0] for t in (-h, 0, h)]
    second = (losses[0] - 2 * losses[1] + losses[2]) / h**2
    assert noise.curvature(mean) == pytest.approx((second / 2 * mean).sum() / mean.sum(), rel=1e-4)


def test_rounding_has_no_slope() -> None:
    noise = terms_of(DATA, dark=1e-6).noise
    slope = noise.loss_and_slope(np.array([[[0.0, 1e-7, 1e-5]]]), np.ones((1, 1, 3)), Workspace(np))[1]
    assert (slope != 0).tolist() == [[[False, False, True]]]
    assert (
        bounded(noise).loss_and_slope(np.ones((1, 1, 2)), np.ones((1, 1, 2)), Workspace(np))[1] == 0
    ).all()


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_undefined_where_terms_vanish(scale: str) -> None:
    """One mode, equal modes, no phase, a perfect fit: no slope, and no NaN."""
    flat = np.ones((2, 1, 24, 24), complex)
    terms = terms_of({"single": True, "sparse": True, "simlar": True}, scale)
    for obj in (flat, flat[:1], 0 * flat):
        values, slope = terms.of_object(obj, np.array([[0, 0], [4, 4]]), 2, wanted=True)
        assert values == {"sparse": 0.0, "simlar": 0.0}
        assert not slope.any()
    exact = {"obj": smooth_object(), "skip_preprocessing": True, "loss_scale": scale, "probe": ...}
    truth = small_params(obj=smooth_object(), skip_preprocessing=True, damping_cutoff_multislice=2.0)
    data = pypty.simulate({**truth, "dataset": None}) + FLOOR
    exact = {**truth, "dataset": data, "loss_terms": {"single": True, "pacbed": True}, "loss_scale": scale}
    found = pypty.evaluate(exact)
    assert 0 <= found.loss < 1e-9
    assert np.isfinite(found.gradients["obj"]).all()


def test_one_mode_has_nothing_to_be_like() -> None:
    both = {**SINGLE, "simlar": True}
    assert pypty.evaluate(small_params(loss_terms=both)).loss_terms["simlar"] == 0
    assert any("simlar has no effect" in text for text in pypty.check(small_params(loss_terms=both)).warnings)


# ------------------------------------------------------------------------------------------------------ in the engine


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["single", "poissn", "all"])
def test_reconstruction(name: str, scale: str) -> None:
    """Mini-batches, then L-BFGS: the loss falls, with few evaluations for each step."""
    obj = np.concatenate([np.ones((28, 28, 1, 1)), np.exp(0.05j * np.angle(smooth_object(seed=3)))], axis=3)
    changes = {"obj": obj, "warmup_epochs": 2, "epoch_max": 8, "dataset": 2 * small_params()["dataset"]}
    changes |= {"loss_terms": COMBINATIONS[name], "loss_scale": scale}
    setup = prepare(small_params(**changes))
    records = list(Reconstruction(setup, State(variables=setup.variables(), epoch=0)).epochs())
    setup.close()
    losses = np.array([record.loss for record in records])
    assert [bool(record.warm_up) for record in records] == [True] * 2 + [False] * 6
    start = pypty.evaluate(small_params(**changes)).loss
    assert losses[0] < start
    if name != "poissn":  # whose loss is not 0 for a perfect model
        assert losses[-1] < 0.7 * start
    assert (np.diff(losses[1:]) < 0).all()
    assert all(record.step > 0 and record.evaluations <= 4 for record in records[2:])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["single", "data", "all"])
def test_a_limit_changes_no_number(name: str, scale: str) -> None:
    one = problem_of(loss_terms=COMBINATIONS[name], loss_scale=scale, compute_batch=1, loss_weight=0.3)
    start = one(one.point())
    again = one(one.point(), Limit(start.value + 1e-9 * abs(start.value), start.info.parts))
    assert again.value == start.value
    assert relative(again.gradient["obj"], start.gradient["obj"]) == 0
    rejected = one(one.point(), Limit(start.value - 0.1 * abs(start.value), 0.5 * start.info.parts))
    assert rejected.value == pytest.approx(start.value, rel=1e-13)
    if one.objective.terms is not None and one.objective.terms.two_passes:
        assert not list(rejected.gradient), "its second pass is left out"


def test_it_is_part_of_what_makes_two_problems_the_same() -> None:
    first = problem_of(loss_terms=SINGLE).signature
    assert first == problem_of(loss_terms={"single": 1.0}).signature
    for other in ({}, {"loss_terms": {"single": 2.0}}, {"loss_terms": SINGLE, "loss_scale": "ratio"}):
        assert "noise model" in first.difference(problem_of(**other).signature)


@pytest.mark.parametrize("scale", SCALES)
def test_virtual_detectors(scale: str) -> None:
    """Their sums are counts like others."""
    masks = RNG(0).random((5, 16, 16))
    sums = np.einsum("nyx,dyx->nd", small_params()["dataset"], masks)
    params = small_params(
        dataset=sums, masks=masks, loss_terms={"single": True, "pacbed": True}, loss_scale=scale
    )
    assert pypty.check(params)
    assert pypty.run(params).loss[-1] < 0.9 * pypty.evaluate(params).loss


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["single", "all"])
def test_on_a_device(device: None, name: str, scale: str) -> None:
    given = {"loss_terms": COMBINATIONS[name], "loss_scale": scale, "compute_batch": 4, "deterministic": True}
    host, there = (pypty.evaluate(small_problem(**{**given, "backend": where})) for where in ("cpu", "gpu"))
    assert there.loss == pytest.approx(host.loss, rel=1e-12)
    for key, gradient in host.gradients.items():
        assert relative(there.gradients[key], gradient) < 1e-9


@pytest.mark.parametrize("scale", SCALES)
def test_a_run_on_a_device_is_that_of_the_host(
    device: None, scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mini-batches and L-BFGS, with free pixels and weights; which gradients of a rejected trial are left out differs
    by design, so none is."""
    monkeypatch.setattr(Share, "expects_rejection", lambda share, number: False)
    given = {
        "loss_terms": COMBINATIONS["all"],
        "loss_scale": scale,
        "free_pixels": 0.2,
        "deterministic": True,
    }
    given |= {
        "warmup_epochs": 1,
        "epoch_max": 4,
        "detector_mask": RNG(5).random((16, 16)),
        "compute_batch": 4,
    }
    host, there = (pypty.run(small_params(**given, backend=where)) for where in ("cpu", "gpu"))
    np.testing.assert_allclose(there.loss, host.loss, rtol=1e-7)
    np.testing.assert_allclose(there.history.free_deviance, host.history.free_deviance, rtol=1e-6)
    for name, values in host.history.loss_terms.items():
        np.testing.assert_allclose(there.history.loss_terms[name], values, rtol=1e-5, atol=1e-7)
    assert relative(there.obj, host.obj) < 1e-6


@pytest.mark.parametrize("scale", SCALES)
def test_single_precision(scale: str) -> None:
    given = {"loss_terms": COMBINATIONS["all"], "loss_scale": scale}
    double, single = (
        pypty.evaluate(small_problem(**given, default_dtype=kind)) for kind in ("double", "single")
    )
    assert single.loss == pytest.approx(double.loss, rel=1e-4)
    assert relative(single.gradients["obj"], double.gradients["obj"]) < 1e-3


def test_a_run_is_resumed(tmp_path: Path) -> None:
    """The terms come back from params.yaml as they were."""
    terms = {
        "loss_terms": {**DATA, "simlar": True},
        "loss_scale": "ratio",
        "output_folder": str(tmp_path / "a"),
    }
    pypty.run(small_params(**terms, epoch_max=2))
    whole = pypty.run(small_params(**terms | {"output_folder": ""}, epoch_max=4))
    resumed = pypty.resume(tmp_path / "a", epoch_max=4, dataset=small_params()["dataset"])
    np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-12)
    assert read_loss_terms(tmp_path / "a") == {"single", "poissn", "pacbed", "simlar"}


def read_loss_terms(folder: Path) -> set[str]:
    """The terms of the last evaluation, in the state of a run."""
    setup = prepare({**small_params(), **read(folder), "dataset": small_params()["dataset"]})
    state = read_resume(folder, setup).state
    setup.close()
    assert state.sample is not None
    assert sum(state.sample.info.loss_terms.values()) == pytest.approx(state.sample.value, rel=1e-13)
    return set(state.sample.info.loss_terms)


@pytest.mark.parametrize("scale", SCALES)
def test_preconditioner_of_a_batch(scale: str) -> None:
    """Gradient and curvature of a batch of a ratio are those of a mean, in the sum they are its share."""
    one = problem_of(loss_terms=SINGLE, loss_scale=scale)
    whole, half = one.diagonal(one.variables, ("positions",), one.indices), one.indices[::2]
    batch = one.diagonal(one.variables, ("positions",), half)
    factor = len(one.indices) / len(half) if scale == "ratio" else 1
    np.testing.assert_allclose(batch["positions"], factor * whole["positions"])
    bounded_one = one.objective.with_bounded_slope()
    step = bounded_one.evaluate(one.variables, ("probe",), half)
    assert step.loss == pytest.approx(one.objective.evaluate(one.variables, (), half).loss, rel=1e-12)
    amplitudes = problem_of().objective.evaluate(one.variables, ("probe",), half)
    assert relative(step.gradients["probe"], amplitudes.gradients["probe"]) < 1e-12
