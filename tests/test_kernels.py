"""Gather and scatter against plain loops, and the device bodies against the NumPy bodies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import BLOCKS, assert_adjoint, random_complex, relative, small_problem
from hypothesis import given, settings
from hypothesis import strategies as st

import pypty
from pypty.backend import kernels

SHAPE = (4, 5)
CORNERS = np.array([[0, 0], [1, 2], [1, 2], [5, 4], [0, 4]])
"""Overlapping windows, one twice, and windows at the edges of a 9 x 9 object."""
OBJECT = (2, 3, 9, 9)
PATCHES = (3, len(CORNERS), 2, *SHAPE)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = random_complex(rng, shape)
    return array.astype(dtype) if np.dtype(dtype).kind == "c" else array.real.astype(dtype)


def gather_by_loop(obj: np.ndarray, crop_origins: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    out = np.empty((obj.shape[1], len(crop_origins), obj.shape[0], *shape), obj.dtype)
    for b, (y, x) in enumerate(crop_origins):
        for mode in range(obj.shape[0]):
            for z in range(obj.shape[1]):
                out[z, b, mode] = obj[mode, z, y : y + shape[0], x : x + shape[1]]
    return out


def scatter_by_loop(obj: np.ndarray, crop_origins: np.ndarray, patches: np.ndarray) -> np.ndarray:
    out = obj.copy()
    for z, b, mode, i, j in np.ndindex(patches.shape):
        out[mode, z, crop_origins[b, 0] + i, crop_origins[b, 1] + j] += patches[z, b, mode, i, j]
    return out


@pytest.fixture(params=["numpy", "device"])
def body(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which body of the kernels runs.

    The device bodies are written for CuPy, but use only what NumPy has too. Hiding ``np.ndarray`` from the kernels'
    dispatch sends NumPy arrays through them; ``array_module`` still says NumPy.
    """
    if request.param == "device":
        nothing = type("NoArray", (), {})
        monkeypatch.setattr(kernels, "np", SimpleNamespace(ndarray=nothing))
    return request.param


def test_fixture_reaches_the_device_body(body: str, monkeypatch: pytest.MonkeyPatch):
    """The comparisons below would be empty if the dispatch had changed and both ran the NumPy body."""
    calls = []
    original = kernels._window_indices  # only the device bodies use it
    monkeypatch.setattr(kernels, "_window_indices", lambda *args: calls.append(args) or original(*args))
    obj = np.zeros(OBJECT)
    kernels.scatter_add_patches(obj, CORNERS, kernels.gather_patches(obj, CORNERS, SHAPE))
    assert len(calls) == (2 if body == "device" else 0)


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, np.float64, np.float32])
def test_gather(body: str, dtype: type):
    obj = random_array(np.random.default_rng(0), OBJECT, dtype)
    patches = kernels.gather_patches(obj, CORNERS, SHAPE)
    np.testing.assert_array_equal(patches, gather_by_loop(obj, CORNERS, SHAPE))
    assert patches.dtype == dtype
    assert patches.flags.c_contiguous


def test_gather_copies(body: str):
    """The model filters patches in place; the object must not change."""
    obj = np.ones(OBJECT, complex)
    kernels.gather_patches(obj, CORNERS, SHAPE)[...] = 0
    assert (obj == 1).all()


@pytest.mark.parametrize("dtype", [np.complex128, np.complex64, np.float64, np.float32])
def test_scatter(body: str, dtype: type):
    """It adds to what is there, and windows that overlap or coincide add up."""
    rng = np.random.default_rng(1)
    obj, patches = random_array(rng, OBJECT, dtype), random_array(rng, PATCHES, dtype)
    expected = scatter_by_loop(obj, CORNERS, patches)
    kernels.scatter_add_patches(obj, CORNERS, patches)
    assert obj.dtype == dtype
    assert relative(obj, expected) < (1e-6 if np.finfo(dtype).bits == 32 else 1e-14)


def test_overlapping_windows_count_visits(body: str):
    """Windows of ones give the number of windows over each pixel; zero where there is none."""
    visits = np.zeros((1, 1, 9, 9))
    kernels.scatter_add_patches(visits, CORNERS, np.ones((1, len(CORNERS), 1, *SHAPE)))
    assert visits.sum() == len(CORNERS) * SHAPE[0] * SHAPE[1]
    assert visits[0, 0, 1, 2] == 3  # the first window and both at [1, 2]
    assert visits[0, 0, 1, 4] == 4
    assert visits[0, 0, 4, 0] == 0


def test_gather_and_scatter_are_adjoint(body: str):
    rng = np.random.default_rng(2)

    def scatter(patches: np.ndarray) -> np.ndarray:
        out = np.zeros(OBJECT, complex)
        kernels.scatter_add_patches(out, CORNERS, patches)
        return out

    assert_adjoint(
        lambda obj: kernels.gather_patches(obj, CORNERS, SHAPE),
        scatter,
        random_complex(rng, OBJECT),
        random_complex(rng, PATCHES),
        1e-12,
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data(), modes=st.integers(1, 3), slices=st.integers(1, 3), batch=st.integers(1, 6))
def test_any_windows(data: st.DataObject, modes: int, slices: int, batch: int):
    """Any object, window and corners that fit, up to the window that is the whole object."""
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    shape = tuple(data.draw(st.integers(1, n)) for n in size)
    crop_origins = np.array(
        [[data.draw(st.integers(0, n - w)) for n, w in zip(size, shape, strict=True)] for _ in range(batch)]
    )
    rng = np.random.default_rng(3)
    obj = random_complex(rng, (modes, slices, *size))
    patches = kernels.gather_patches(obj, crop_origins, shape)
    np.testing.assert_array_equal(patches, gather_by_loop(obj, crop_origins, shape))
    added = random_complex(rng, patches.shape)
    expected = scatter_by_loop(obj, crop_origins, added)
    kernels.scatter_add_patches(obj, crop_origins, added)
    assert relative(obj, expected) < 1e-14


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_sums_of_squares(dtype: type):
    wave = random_array(np.random.default_rng(4), (3, 2, 4, 5), dtype)
    tolerance = 1e-5 if dtype == np.complex64 else 1e-13
    assert relative(kernels.abs2(wave), np.abs(wave) ** 2) < tolerance
    assert relative(kernels.sum_abs2(wave, axes=(1, 2)), (np.abs(wave) ** 2).sum(axis=(1, 2))) < tolerance
    assert kernels.abs2(wave).dtype == np.zeros(0, dtype).real.dtype


def test_total_accumulates_in_double():
    """The float32 sum of many values is wrong in the seventh digit, this one is not."""
    values = np.random.default_rng(5).exponential(1.0, 100_001).astype(np.float32)
    assert kernels.total(values) == pytest.approx(values.astype(np.float64).sum(), rel=1e-13)


@pytest.mark.parametrize("algorithm", ["lsq_sqrt", "ml", "lsq", "lsq_sqrt_2"])
@pytest.mark.parametrize("lazy_clean", [False, True])
def test_gpu_agrees_with_cpu(device: None, algorithm: str, lazy_clean: bool):
    """The whole chain in double precision: loss, every gradient, and patterns."""
    mask = np.random.default_rng(6).uniform(0, 1, (12, 16))
    params = small_problem(
        21,
        algorithm=algorithm,
        lazy_clean=lazy_clean,
        data_pad=2,
        use_padded_intensity=False,
        detector_mask=mask,
    )
    cpu = pypty.evaluate(params)
    gpu = pypty.evaluate({**params, "backend": "gpu"})
    assert gpu.loss == pytest.approx(cpu.loss, rel=1e-9)
    assert gpu.sse == pytest.approx(cpu.sse, rel=1e-9)
    for block in BLOCKS:
        assert relative(gpu.gradients[block], cpu.gradients[block]) < 1e-9
    assert relative(pypty.simulate({**params, "backend": "gpu"}), pypty.simulate(params)) < 1e-9
