"""Flip, shift, bin and pad of patterns and detector weights; their way into the model; scan positions."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.backend.array import select
from pypty.data.feed import Feed
from pypty.data.preprocess import Preprocess, to_centre, to_corner
from pypty.data.sources import ArraySource
from pypty.engine.setup.prepare import prepare

DATA = np.arange(1, 2 * 5 * 6 + 1).reshape(2, 5, 6)
"""No value twice and none zero: a misplaced pixel shows."""


def rolled_by_loop(pattern: np.ndarray, shift: tuple[int, int], fill: float) -> np.ndarray:
    """Pixel (y, x) goes to (y + sy, x + sx); what would wrap around is ``fill``."""
    out = np.full_like(pattern, fill)
    ny, nx = pattern.shape
    for y, x in np.ndindex(ny, nx):
        if 0 <= y + shift[0] < ny and 0 <= x + shift[1] < nx:
            out[y + shift[0], x + shift[1]] = pattern[y, x]
    return out


def binned_by_loop(pattern: np.ndarray, size: int, reduce) -> np.ndarray:
    ny, nx = (n // size for n in pattern.shape)
    blocks = [
        [reduce(pattern[y * size : (y + 1) * size, x * size : (x + 1) * size]) for x in range(nx)]
        for y in range(ny)
    ]
    return np.array(blocks)


# ----------------------------------------------------------------------------------------------------- the pieces


def test_nothing_asked_nothing_done():
    assert Preprocess().patterns(DATA) is DATA
    assert Preprocess().weights(DATA) is DATA


def test_flip():
    """ky is the first axis of a pattern; patterns and weights go together."""
    flip = Preprocess(flip_ky=True)
    np.testing.assert_array_equal(flip.patterns(DATA), DATA[:, ::-1, :])
    np.testing.assert_array_equal(flip.weights(DATA[0]), DATA[0, ::-1, :])


@pytest.mark.parametrize("shift", [(2, 0), (-2, 0), (0, 3), (0, -3), (1, -2), (-4, 5)])
def test_shift(shift: tuple[int, int]):
    """Positive moves to larger indices. What wraps around was not measured: 0 counts, weight 1."""
    preprocess = Preprocess(shift=shift)
    for found, pattern in zip(preprocess.patterns(DATA), DATA, strict=True):
        np.testing.assert_array_equal(found, rolled_by_loop(pattern, shift, 0))
    weights = np.linspace(0.1, 0.9, 30).reshape(5, 6)
    np.testing.assert_array_equal(preprocess.weights(weights), rolled_by_loop(weights, shift, 1))


@pytest.mark.parametrize(
    ("shift", "blank"),
    [((2, 0), np.s_[:2]), ((-2, 0), np.s_[-2:]), ((0, 3), np.s_[:, :3]), ((0, -3), np.s_[:, -3:])],
)
def test_the_edge_that_wraps_in_is_blanked(shift: tuple[int, int], blank: tuple):
    """For +s the first s rows, for -s the last ones; PyPty 2.2 blanks the opposite edge. Nothing else is lost."""
    found = Preprocess(shift=shift).patterns(DATA)[0]
    zero = np.zeros((5, 6), bool)
    zero[blank] = True
    np.testing.assert_array_equal(found == 0, zero)


def test_the_data_are_not_changed():
    before = DATA.copy()
    Preprocess(flip_ky=True, shift=(1, -2), bin=2, pad=1).patterns(DATA)
    Preprocess(flip_ky=True, shift=(1, -2), bin=2, pad=1).weights(DATA[0])
    np.testing.assert_array_equal(DATA, before)


@pytest.mark.parametrize("size", [2, 3])
def test_bin(size: int):
    """Counts add; incomplete blocks at the far edges are left out. A block is as good as its worst pixel."""
    preprocess = Preprocess(bin=size)
    for found, pattern in zip(preprocess.patterns(DATA), DATA, strict=True):
        np.testing.assert_array_equal(found, binned_by_loop(pattern, size, np.sum))
    weights = np.random.default_rng(0).uniform(0, 1, (5, 6))
    np.testing.assert_array_equal(preprocess.weights(weights), binned_by_loop(weights, size, np.min))


def test_pad():
    """Zeros around the counts; they are compared with the model, so their weight is 1."""
    found = Preprocess(pad=2).patterns(DATA)
    assert found.shape == (2, 9, 10)
    np.testing.assert_array_equal(found[:, 2:-2, 2:-2], DATA)
    assert found.sum() == DATA.sum()
    weights = Preprocess(pad=2).weights(np.full((5, 6), 0.5))
    np.testing.assert_array_equal(weights[2:-2, 2:-2], 0.5)
    assert weights.sum() == 0.5 * 30 + (90 - 30)


@given(
    shape=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    flip=st.booleans(),
    shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)),
    size=st.integers(1, 4),
    pad=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_order(shape: tuple[int, int], flip: bool, shift: tuple[int, int], size: int, pad: int):
    """Flip, then shift, bin, pad; the shape is the one that is promised. Weights take the same way."""
    preprocess = Preprocess(flip_ky=flip, shift=shift, bin=size, pad=pad)
    rng = np.random.default_rng(1)
    pattern = rng.integers(1, 100, shape)
    weights = rng.uniform(0, 1, shape)

    def by_loop(array: np.ndarray, fill: float, reduce) -> np.ndarray:
        array = rolled_by_loop(array[::-1] if flip else array, shift, fill)
        return np.pad(binned_by_loop(array, size, reduce), pad, constant_values=fill)

    found = preprocess.patterns(pattern[None])
    assert found.shape == (1, *preprocess.pattern_shape(shape))
    np.testing.assert_array_equal(found[0], by_loop(pattern, 0, np.sum))
    np.testing.assert_array_equal(preprocess.weights(weights), by_loop(weights, 1, np.min))


# ---------------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("dtype", "size", "expected"),
    [
        (np.uint8, 2, np.uint16),
        (np.uint8, 17, np.uint32),
        (np.uint16, 2, np.uint32),
        (np.uint32, 2, np.uint64),
        (np.uint64, 2, np.uint64),
        (np.int8, 2, np.int32),
        (np.int16, 2, np.int32),
        (np.int32, 2, np.int64),
        (np.bool_, 3, np.uint32),
        (np.float32, 2, np.float32),
        (np.float64, 2, np.float64),
    ],
)
def test_binned_sums_do_not_overflow(dtype: type, size: int, expected: type):
    """The smallest common type that holds a block of saturated pixels; floats stay what they are."""
    largest = True if dtype is np.bool_ else (np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else 7)
    if dtype is np.uint64:
        largest = 2**60  # nothing larger holds four times the very largest
    data = np.full((1, size, 2 * size), largest, dtype)
    found = Preprocess(bin=size).patterns(data)
    assert found.dtype == expected
    assert found.tolist() == [[[int(largest) * size**2] * 2]]


def test_binned_half_precision_does_not_overflow():
    """float16 ends at 65504, which the sum of a few bright pixels exceeds."""
    data = np.full((1, 4, 4), 40_000, np.float16)
    found = Preprocess(bin=2).patterns(data)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.astype(float), 160_000, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_flip_shift_and_pad_keep_the_type(dtype: type):
    """The detector's type is kept until the loss: four times less memory."""
    assert Preprocess(flip_ky=True, shift=(1, -1), bin=1, pad=2).patterns(DATA.astype(dtype)).dtype == dtype


# -------------------------------------------------------------------------------------------------- corner, centre


@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4, 5), (5, 4), (1, 6), (7, 2)])
def test_corner_and_centre(shape: tuple[int, int]):
    """The zero frequency is at n//2 outside, at 0 inside, for odd and even sizes."""
    centred = np.zeros((3, *shape))
    centred[:, shape[0] // 2, shape[1] // 2] = 1
    corner = to_corner(centred)
    assert (corner[:, 0, 0] == 1).all()
    assert corner.sum() == 3
    values = np.random.default_rng(2).uniform(size=(3, *shape))
    np.testing.assert_array_equal(to_centre(to_corner(values)), values)
    np.testing.assert_array_equal(to_corner(to_centre(values)), values)
    for j in range(shape[1]):  # frequencies in order
        assert to_corner(np.broadcast_to(np.arange(shape[1]) - shape[1] // 2, shape))[0, j] == round(
            np.fft.fftfreq(shape[1])[j] * shape[1]
        )


# ------------------------------------------------------------------------------------------------ into the batches


@pytest.mark.parametrize("resident", [False, True])
def test_feed(resident: bool):
    """A batch is prepared data, zero frequency first, in the precision of the waves, times the multiplier."""
    backend = select("cpu", "single")
    preprocess = Preprocess(flip_ky=True, shift=(1, 0), bin=2, pad=1)
    data = np.arange(1, 4 * 6 * 8 + 1).reshape(4, 6, 8).astype(np.uint8)
    mask = np.random.default_rng(3).uniform(0.1, 1, (6, 8))
    mask[2, 3] = 0
    feed = Feed(
        backend,
        ArraySource(data),
        crop_origins=np.zeros((4, 2), int),
        preprocess=preprocess,
        weights=mask,
        multiplier=1.5,
    )
    if resident:
        feed.make_resident()
    indices = np.array([0, 2, 3])
    batch = feed.batch(indices)
    live = np.where(mask > 0, data[indices], 0)
    np.testing.assert_allclose(batch.data, 1.5 * to_corner(preprocess.patterns(live)), rtol=1e-6)
    np.testing.assert_allclose(batch.weights, to_corner(preprocess.weights(mask)), rtol=1e-6)
    assert batch.data.dtype == batch.weights.dtype == np.float32
    assert feed.patterns(indices).dtype == np.uint16


def test_feed_weights_per_pattern():
    """Each pattern keeps its own weights, whatever the batch."""
    backend = select("cpu", "double")
    rng = np.random.default_rng(4)
    data, mask = rng.integers(0, 9, (4, 5, 6)), rng.uniform(0.1, 1, (4, 5, 6))
    feed = Feed(backend, ArraySource(data), crop_origins=np.zeros((4, 2), int), weights=mask)
    batch = feed.batch(np.array([1, 3]))
    np.testing.assert_array_equal(batch.weights, to_corner(mask[[1, 3]]))
    assert feed.batch(np.array([2])).weights.shape == (1, 5, 6)


def test_feed_ignores_nan():
    """detector_mask='nan': such a pixel has no weight and no value; the others are untouched."""
    backend = select("cpu", "double")
    data = np.random.default_rng(5).uniform(1, 9, (3, 5, 6))
    data[1, 2, 3] = np.nan
    batch = Feed(backend, ArraySource(data), crop_origins=np.zeros((3, 2), int), weights="nan").batch(
        np.arange(3)
    )
    expected = np.ones((3, 5, 6))
    expected[1, 2, 3] = 0
    np.testing.assert_array_equal(to_centre(batch.weights), expected)
    np.testing.assert_array_equal(to_centre(batch.data), np.nan_to_num(data))


@pytest.mark.parametrize(
    ("changes", "prepared"),
    [
        ({"flip_ky": True}, lambda d: d[:, ::-1]),
        ({"data_multiplier": 2.5}, lambda d: 2.5 * d),
        ({"data_bin": 2}, lambda d: d.reshape(6, 16, 2, 20, 2).sum(axis=(2, 4))),
        ({"data_pad": 3}, lambda d: np.pad(d, ((0, 0), (3, 3), (3, 3)))),
        (
            {"data_shift_vector": (2, -1)},
            lambda d: np.pad(d, ((0, 0), (2, 0), (0, 1)))[:, : d.shape[1], 1:],
        ),
    ],
    ids=["flip", "multiplier", "bin", "pad", "shift"],
)
def test_parameters_mean_what_preparing_by_hand_means(changes: dict, prepared):
    """evaluate() with a parameter equals evaluate() of data that were changed beforehand."""
    params = small_problem(51, **changes)
    found = pypty.evaluate(params)
    by_hand = {key: value for key, value in params.items() if key not in changes}
    by_hand["dataset"] = prepared(params["dataset"].astype(float))
    expected = pypty.evaluate(by_hand)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert relative(found.gradients["probe"], expected.gradients["probe"]) < 1e-12


def test_four_dimensional_data():
    """(sy, sx, ky, kx) is (N, ky, kx), row by row."""
    params = small_problem(52)
    expected = pypty.evaluate(params)
    found = pypty.evaluate({**params, "dataset": params["dataset"].reshape(2, 3, 16, 20)})
    assert found.loss == expected.loss


# ---------------------------------------------------------------------------------------------------------- scan


def test_positions_start_at_the_rim():
    """The smallest is moved to extra_space_on_side_px; distances between windows are kept, and all fit."""
    params = small_problem(53, skip_preprocessing=False, extra_space_on_side_px=3, obj=None, num_slices=1)
    params["slice_distances"] = [10.0]
    params["positions"] = params["positions"] - 40.7
    scan = prepare(params).scan
    np.testing.assert_allclose(scan.positions.min(axis=0), 3)
    np.testing.assert_allclose(scan.positions - params["positions"], np.broadcast_to(scan.moved, (6, 2)))
    assert (np.abs(scan.positions - scan.crop_origins) <= 0.5).all()
    ends = scan.crop_origins.max(axis=0) + (16, 20) + 3
    assert scan.object_shape == tuple(ends)


def test_positions_are_kept_when_preprocessing_is_skipped():
    params = small_problem(54)
    scan = prepare(params).scan
    np.testing.assert_array_equal(scan.positions, params["positions"])
    np.testing.assert_array_equal(scan.crop_origins, np.round(params["positions"]))


def test_corrections_add_to_the_positions():
    """Whole positions and a correction are the same as their sum, where no correction exceeds half a pixel."""
    params = small_problem(55)
    whole = np.round(params["positions"])
    split = {**params, "positions": whole, "positions_correction": params["positions"] - whole}
    expected, found = pypty.evaluate(params), pypty.evaluate(split)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert relative(found.gradients["positions"], expected.gradients["positions"]) < 1e-12


def test_corrections_move_along_with_the_positions():
    """When positions are moved to the rim, the whole parts (the user's choice) move with them, by whole pixels: the
    distances between windows stay, and the probe still moves by less than a pixel."""
    params = small_problem(58, skip_preprocessing=False, obj=None, num_slices=1, slice_distances=[10.0])
    whole = np.round(params["positions"])
    correction = params["positions"] - whole
    params.update(positions=whole + 31, positions_correction=correction, extra_space_on_side_px=2)
    scan = prepare(params).scan
    np.testing.assert_allclose(scan.positions - scan.moved, whole + 31 + correction)
    np.testing.assert_array_equal(scan.crop_origins - scan.crop_origins[0], whole - whole[0])
    assert (np.abs(scan.positions - scan.crop_origins) < 1).all()
    assert (np.abs(scan.positions.min(axis=0) - 2) < 1).all()


@pytest.mark.parametrize("skip", [True, False])
def test_large_corrections_of_a_saved_run_are_taken(skip: bool):
    """Refined corrections (PyPty's cg.npy) may exceed half a pixel; the windows still lie on the object."""
    params = small_problem(56, skip_preprocessing=skip, obj=None, num_slices=1)
    whole = np.array([[5, 5], [5, 9], [9, 5], [9, 9], [7, 7], [6, 8]], float)
    correction = np.full((6, 2), 0.8)
    correction[4] = -0.7
    params.update(positions=whole, positions_correction=correction, slice_distances=[10.0])
    scan = prepare(params).scan
    assert (scan.crop_origins >= 0).all()
    relative_positions = scan.positions - scan.positions[0]
    np.testing.assert_allclose(relative_positions, whole + correction - whole[0] - correction[0], atol=1e-12)


def test_whole_pixels_only():
    """allow_subPixel_shift=False rounds the positions."""
    params = small_problem(57, allow_subPixel_shift=False)
    scan = prepare(params).scan
    np.testing.assert_array_equal(scan.positions, scan.crop_origins)
    np.testing.assert_array_equal(scan.positions, np.round(params["positions"]))
