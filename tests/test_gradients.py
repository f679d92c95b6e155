"""The gradient of the whole objective, through the public API, against finite differences; and its invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import BLOCKS, directional_derivative, inner, random_like, relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.data.batch import Batch
from pypty.model.forward import Model

MASK_SEED = 11
STEP = {"obj": 2e-6, "probe": 2e-6, "positions": 1e-5, "slice_distances": 1e-3}
"""Finite-difference steps: so short that no amplitude passes zero, where the square root has a kink.

A probe pixel is about 0.1, a distance about 20 Å."""


def detector_mask(*shape: int) -> np.ndarray:
    """Weights between 0 and 1, one in five pixels dead."""
    rng = np.random.default_rng(MASK_SEED)
    return rng.uniform(0, 1, shape) * (rng.uniform(0, 1, shape) > 0.2)


CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "ml": {"algorithm": "ml"},
    "lsq": {"algorithm": "lsq"},
    "lsq_sqrt_2": {"algorithm": "lsq_sqrt_2"},
    "square pixels, odd window": {"window": (15, 15), "pixel_size_y_A": 0.26},
    "tall odd window": {"window": (19, 12)},
    "one mode, one slice": {"probe_modes": 1, "object_modes": 1, "slices": 1},
    "1 x 3 modes, two slices": {"probe_modes": 1, "object_modes": 3, "slices": 2},
    "3 x 1 modes": {"probe_modes": 3, "object_modes": 1},
    "one distance": {"slice_distances": np.array([21.0])},
    "filtered windows": {"lazy_clean": True},
    "integer positions": {"subpixel": False},
    "detector mask": {"detector_mask": detector_mask(16, 20)},
    "mask per pattern": {"detector_mask": detector_mask(6, 16, 20)},
    "mask, lsq": {"detector_mask": detector_mask(16, 20), "algorithm": "lsq"},
    "padded": {"data_pad": 2},
    "padded, mask": {"data_pad": 2, "detector_mask": detector_mask(12, 16)},
    "cropped": {"data_pad": 2, "use_padded_intensity": False},
    "cropped, mask, ml": {
        "data_pad": 3,
        "use_padded_intensity": False,
        "detector_mask": detector_mask(10, 14),
        "algorithm": "ml",
    },
    "binned": {"data_bin": 2},
    "binned, cropped, mask": {
        "data_bin": 2,
        "data_pad": 2,
        "use_padded_intensity": False,
        "detector_mask": detector_mask(24, 32),
    },
    "mean": {"loss_weight": "mean"},
    "mean_full, cropped": {"loss_weight": "mean_full", "data_pad": 2, "use_padded_intensity": False},
    "flipped, shifted, multiplied": {
        "flip_ky": True,
        "data_shift_vector": (2, -3),
        "data_multiplier": 1.7,
    },
    "some patterns": {"sequence": np.array([4, 0, 3])},
    "wide cutoff": {"damping_cutoff_multislice": 2.0},
}
CHECKS = [
    (name, block)
    for name, changes in CASES.items()
    for block in BLOCKS
    if not (block == "slice_distances" and changes.get("slices") == 1)
]


def assert_gradient(params: dict[str, Any], block: str, seed: int = 7) -> None:
    """dL along a random change of the block equals <gradient, change> to 1e-6."""
    gradient = pypty.evaluate(params).gradients[block]
    value = np.asarray(params[block])
    assert gradient.shape == value.shape
    change = random_like(np.random.default_rng(seed), value)

    def loss(t: float) -> float:
        return pypty.evaluate({**params, block: value + t * change}).loss

    assert inner(gradient, change) == pytest.approx(directional_derivative(loss, STEP[block]), rel=1e-6)


@pytest.mark.parametrize(("name", "block"), CHECKS, ids=[f"{name}: {block}" for name, block in CHECKS])
def test_gradient(name: str, block: str):
    assert_gradient(small_problem(3, **CASES[name]), block)


@pytest.mark.parametrize("block", ["obj", "probe", "slice_distances"])
def test_gradient_without_subpixel_shift(block: str):
    """Integer positions that are not refined: the model has no shift stage, the probe no band limit."""
    assert_gradient(small_problem(4, subpixel=False, update_probe_pos=False), block)


def test_gradient_of_a_thicker_first_gap():
    """edge_slice_thickness gives individual distances: the gradient has one value per gap."""
    distance, edge, step = 18.0, 27.0, 1e-2
    params = small_problem(5, slice_distances=np.array([distance]), edge_slice_thickness=edge)
    gradient = pypty.evaluate(params).gradients["slice_distances"]
    assert gradient.shape == (2,)
    first = directional_derivative(
        lambda t: pypty.evaluate({**params, "edge_slice_thickness": edge + t}).loss, step
    )
    second = directional_derivative(
        lambda t: pypty.evaluate({**params, "slice_distances": np.array([distance + t])}).loss, step
    )
    np.testing.assert_allclose(gradient, [first, second], rtol=1e-6)


def test_only_refined_blocks_have_gradients():
    found = pypty.evaluate(small_problem(update_probe=False, update_slice_distances=False))
    assert set(found.gradients) == {"obj", "positions"}


def test_patterns_that_are_not_used_do_not_count():
    """The loss is a sum over patterns; positions of the others have zero gradient."""
    params = small_problem(6)
    whole = pypty.evaluate(params)
    parts = [pypty.evaluate({**params, "sequence": np.array(s)}) for s in ([0, 2, 5], [1, 3, 4])]
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss, rel=1e-12)
    assert sum(part.sse for part in parts) == pytest.approx(whole.sse, rel=1e-12)
    for block in BLOCKS:
        assert relative(sum(part.gradients[block] for part in parts), whole.gradients[block]) < 1e-12
    assert np.flatnonzero(parts[0].gradients["positions"].any(axis=1)).tolist() == [0, 2, 5]


def test_loss_weights():
    """'mean' divides by the patterns, 'mean_full' by the values that are compared; SSE is never weighted."""
    params = small_problem(7, data_pad=2, use_padded_intensity=False)
    plain = pypty.evaluate(params)
    for weight, divisor in (("mean", 6), ("mean_full", 6 * 12 * 16), (0.37, 1 / 0.37)):
        weighted = pypty.evaluate({**params, "loss_weight": weight})
        assert weighted.loss == pytest.approx(plain.loss / divisor, rel=1e-12)
        assert weighted.sse == pytest.approx(plain.sse, rel=1e-12)
        for block in BLOCKS:
            assert relative(weighted.gradients[block] * divisor, plain.gradients[block]) < 1e-12


@pytest.mark.parametrize("cropped", [False, True])
def test_loss_is_that_of_simulated_and_prepared_patterns(cropped: bool):
    """Loss and SSE by hand: flip, shift, bin and pad the data, weigh, and compare with simulate()."""
    mask = detector_mask(24, 32)
    params = small_problem(
        8,
        data_bin=2,
        data_pad=2,
        use_padded_intensity=not cropped,
        detector_mask=mask,
        data_multiplier=1.3,
        flip_ky=True,
    )
    data = np.where(mask > 0, params["dataset"], 0)[:, ::-1].astype(float)
    data = 1.3 * data.reshape(6, 12, 2, 16, 2).sum(axis=(2, 4))
    weights = mask[::-1].reshape(12, 2, 16, 2).min(axis=(1, 3))
    if not cropped:
        data = np.pad(data, ((0, 0), (2, 2), (2, 2)))
        weights = np.pad(weights, 2, constant_values=1)
    model = pypty.simulate(params)
    assert model.shape == data.shape
    found = pypty.evaluate(params)
    assert found.loss == pytest.approx((weights * (np.sqrt(model) - np.sqrt(data)) ** 2).sum(), rel=1e-12)
    assert found.sse == pytest.approx((weights * (model - data) ** 2).sum(), rel=1e-12)


def test_weight_zero_pixels_do_not_matter():
    """A dead pixel may hold anything, even NaN."""
    mask = detector_mask(16, 20)
    params = small_problem(9, detector_mask=mask)
    params["dataset"] = params["dataset"].astype(float)
    expected = pypty.evaluate(params)
    spoiled = np.where(mask == 0, np.nan, params["dataset"])
    found = pypty.evaluate({**params, "dataset": spoiled})
    assert found.loss == expected.loss
    for block in BLOCKS:
        np.testing.assert_array_equal(found.gradients[block], expected.gradients[block])


@pytest.mark.parametrize("batch", [1, 2, 4, 6])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_and_threads_do_not_matter(batch: int, threads: int):
    params = small_problem(10)
    expected = pypty.evaluate({**params, "compute_batch": 6, "n_threads": 1})
    found = pypty.evaluate({**params, "compute_batch": batch, "n_threads": threads})
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.sse == pytest.approx(expected.sse, rel=1e-12)
    for block in BLOCKS:
        assert relative(found.gradients[block], expected.gradients[block]) < 1e-12


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_are_halved_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch, threads: int):
    """The evaluation starts again with smaller batches; nothing is counted twice."""
    params = small_problem(15, compute_batch=6, n_threads=threads)
    expected = pypty.evaluate(params)
    original, sizes = Model.forward, []

    def scarce(self: Model, points: list, batch: Batch, *rest: object) -> np.ndarray:
        sizes.append(len(batch.index))
        if len(batch.index) > 1:
            raise MemoryError("pretended")
        return original(self, points, batch, *rest)

    monkeypatch.setattr(Model, "forward", scarce)
    found = pypty.evaluate(params)
    assert max(sizes) == 6 // threads, "six patterns, shared out among the threads"
    assert {3, 1} <= set(sizes)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for block in BLOCKS:
        assert relative(found.gradients[block], expected.gradients[block]) < 1e-12


def test_one_pattern_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch):
    def full(*args: object) -> None:
        raise MemoryError("pretended")

    monkeypatch.setattr(Model, "forward", full)
    with pytest.raises(pypty.errors.ResourceError, match="one pattern at a time"):
        pypty.evaluate(small_problem(16))


@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "ml", "lsq", "lsq_sqrt_2"])
def test_single_precision_agrees(algorithm: str):
    params = small_problem(11, algorithm=algorithm)
    double = pypty.evaluate(params)
    single = pypty.evaluate({**params, "default_dtype": "single"})
    assert single.loss == pytest.approx(double.loss, rel=1e-4)
    assert single.gradients["obj"].dtype == np.complex64
    assert single.gradients["positions"].dtype == np.float64
    for block in BLOCKS:
        assert relative(single.gradients[block], double.gradients[block]) < 1e-4


def test_equal_probe_modes_share_the_counts():
    """Modes are summed: two identical modes of half the power are one mode."""
    params = small_problem(12, probe_modes=1)
    one = pypty.evaluate(params)
    halves = np.concatenate([params["probe"], params["probe"]], axis=2) / np.sqrt(2)
    two = pypty.evaluate({**params, "probe": halves})
    assert two.loss == pytest.approx(one.loss, rel=1e-12)
    for block in ("obj", "positions", "slice_distances"):
        assert relative(two.gradients[block], one.gradients[block]) < 1e-12
    for mode in range(2):
        assert (
            relative(two.gradients["probe"][..., mode] * np.sqrt(2), one.gradients["probe"][..., 0]) < 1e-12
        )


def test_equal_object_modes_double_the_counts():
    """Every object mode sees the whole probe, and counts add: two equal modes are a probe of twice the power."""
    params = small_problem(13, object_modes=1)
    double = np.concatenate([params["obj"], params["obj"]], axis=3)
    two = pypty.simulate({**params, "obj": double})
    one = pypty.simulate({**params, "probe": params["probe"] * np.sqrt(2)})
    np.testing.assert_allclose(two, one, rtol=1e-12, atol=1e-12 * one.max())


def test_modes_have_no_order():
    params = small_problem(14)
    found = pypty.evaluate(params)
    swapped = pypty.evaluate({**params, "probe": params["probe"][..., ::-1], "obj": params["obj"][..., ::-1]})
    assert swapped.loss == pytest.approx(found.loss, rel=1e-12)
    for block in ("obj", "probe"):
        assert relative(swapped.gradients[block][..., ::-1], found.gradients[block]) < 1e-12


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    window=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    probe_modes=st.integers(1, 3),
    object_modes=st.integers(1, 3),
    slices=st.integers(1, 4),
    n_positions=st.integers(1, 5),
    seed=st.integers(0, 1000),
    lazy_clean=st.booleans(),
)
def test_gradients_of_any_shape(
    window: tuple[int, int],
    probe_modes: int,
    object_modes: int,
    slices: int,
    n_positions: int,
    seed: int,
    lazy_clean: bool,
):
    """All blocks change together, for whatever shapes."""
    params = small_problem(
        seed,
        window=window,
        probe_modes=probe_modes,
        object_modes=object_modes,
        slices=slices,
        n_positions=n_positions,
        lazy_clean=lazy_clean,
        damping_cutoff_multislice=0.9,
    )
    found = pypty.evaluate(params)
    assert set(found.gradients) == {b for b in BLOCKS if b != "slice_distances" or slices > 1}
    rng = np.random.default_rng(seed)
    # Each block changes in proportion to its size; the step is short for the same reason as above.
    changes = {
        b: random_like(rng, params[b]) * np.sqrt(np.mean(np.abs(params[b]) ** 2)) for b in found.gradients
    }

    def loss(t: float) -> float:
        return pypty.evaluate({**params, **{b: params[b] + t * changes[b] for b in changes}}).loss

    slopes = {b: inner(found.gradients[b], changes[b]) for b in changes}
    error = abs(sum(slopes.values()) - directional_derivative(loss, 2e-6))
    assert error <= 1e-6 * max(abs(slope) for slope in slopes.values())


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 7),
    threads=st.integers(1, 4),
    n_positions=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_any_batch_gives_the_same(batch: int, threads: int, n_positions: int, seed: int):
    params = small_problem(seed, window=(8, 9), n_positions=n_positions, slices=2)
    expected = pypty.evaluate({**params, "compute_batch": n_positions, "n_threads": 1})
    found = pypty.evaluate({**params, "compute_batch": batch, "n_threads": threads})
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for block in BLOCKS:
        assert relative(found.gradients[block], expected.gradients[block]) < 1e-12
