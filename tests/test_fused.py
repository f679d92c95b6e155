"""The fused executor against the stages that define it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import random_complex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pypty.backend.array import Backend, select
from pypty.backend.fft import Transforms
from pypty.backend.workspace import Workspace
from pypty.data.batch import Batch
from pypty.model.blocks import Variables
from pypty.model.forward import Model, build_model, not_fused_because
from pypty.model.fused import FusedWaves
from pypty.model.fused_steps import HostWindows
from pypty.model.options import ModelOptions, NearFieldOptions
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

DOUBLE = Backend("cpu", np, np.dtype(np.float64), np.dtype(np.complex128))
SINGLE = Backend("cpu", np, np.dtype(np.float32), np.dtype(np.complex64))
GRID = Grid((10, 12), (0.3, 0.25), wavelength_A(200.0))
N_PATTERNS = 5


def make_variables(
    slices: int,
    probes: int,
    objects: int,
    backend: Backend = DOUBLE,
    distances: int = 1,
    rows: int = N_PATTERNS,
) -> Variables:
    """A thick object of many modes, patterns off the pixel grid, a tilted specimen."""
    rng = np.random.default_rng(slices + 10 * probes + 100 * objects)
    return Variables(
        obj=(1 + 0.5 * random_complex(rng, (objects, slices, 18, 21))).astype(backend.complex),
        probe=random_complex(rng, (probes, *GRID.shape)).astype(backend.complex),
        positions=rng.uniform(0, 8, (rows, 2)),
        slice_distances=rng.uniform(5, 20, distances),
        tilts=5e-3 * rng.standard_normal((rows, 6)),
    )


def batch_of(variables: Variables, index: list[int], workspace: Workspace) -> Batch:
    crop_origins = np.broadcast_to(np.floor(variables.positions), (N_PATTERNS, 2)).astype(int)
    return Batch(index=np.array(index), crop_origins=crop_origins[index], workspace=workspace)


def intensities_and_gradients(
    model: Model,
    variables: Variables,
    batches: list[Batch],
    blocks: tuple[str, ...],
    backend: Backend = DOUBLE,
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Of several batches; the slope of each is random, but the same for every model."""
    points, gradients, patterns = model.prepare(variables), variables.zeros(blocks), []
    for batch in batches:
        tapes: list[Any] = []
        intensity = model.forward(points, batch, tapes)
        patterns.append(intensity.copy())
        slope = np.random.default_rng(batch.index.tolist()).standard_normal(intensity.shape)
        slope = backend.asarray(slope.astype(intensity.dtype))
        model.adjoint(slope, points, batch, tapes, gradients)
    model.finish(gradients)
    return patterns, gradients


def assert_same(
    options: ModelOptions, variables: Variables, blocks: tuple[str, ...], backend: Backend = DOUBLE
) -> None:
    """Both executors, over two batches of which the second is smaller and uses the buffers of the first."""
    fused = build_model(options, backend)
    assert fused.executor == "fused" and isinstance(fused.stages[0], FusedWaves)
    plain = build_model(ModelOptions(**{**vars(options), "executor": "stages"}), backend)
    work = Workspace(np)
    batches = [batch_of(variables, index, work) for index in ([0, 1, 3], [4])]
    expected = intensities_and_gradients(plain, variables, batches, blocks)
    found = intensities_and_gradients(fused, variables, batches, blocks)
    tolerance = 1e-11 if backend is DOUBLE else 2e-5
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * other.max())
    assert set(found[1]) == set(blocks)
    for name, gradient in expected[1].items():
        assert gradient.any(), name
        np.testing.assert_allclose(
            found[1][name], gradient, rtol=tolerance, atol=tolerance * np.abs(gradient).max(), err_msg=name
        )


WEIGHTS = np.array([0.7, 0.0, 1.3])
ALL = ("obj", "probe", "positions", "tilts", "slice_distances")


@settings(max_examples=150, deadline=None)
@given(
    slices=st.integers(1, 6),
    probes=st.integers(1, 3),
    objects=st.integers(1, 3),
    distances=st.integers(1, 3),
    rows=st.sampled_from([1, N_PATTERNS]),
    cutoff=st.sampled_from([0.5, 2 / 3, 1.0, 2.0]),
    subpixel=st.booleans(),
    tilted=st.booleans(),
    exact=st.booleans(),
    keep_every=st.integers(1, 4),
    weighted=st.booleans(),
    blocks=st.sets(st.sampled_from(ALL), min_size=1),
)
def test_it_is_what_the_stages_are(
    slices: int,
    probes: int,
    objects: int,
    distances: int,
    rows: int,
    cutoff: float,
    subpixel: bool,
    tilted: bool,
    exact: bool,
    keep_every: int,
    weighted: bool,
    blocks: set[str],
) -> None:
    """Intensities and every gradient, in any combination."""
    options = ModelOptions(
        grid=GRID,
        cutoff=cutoff,
        subpixel=subpixel,
        propagation="angular_spectrum" if exact else "multislice",
        tilt_mode=0 if tilted else None,
        keep_every=keep_every,
        mode_weights=WEIGHTS[:objects] if weighted else None,
    )
    absent = set() if subpixel else {"positions"}
    absent |= set() if tilted and slices > 1 else {"tilts"}
    absent |= set() if slices > 1 else {"slice_distances"}
    variables = make_variables(slices, probes, objects, distances=distances, rows=rows)
    chosen = tuple(name for name in ALL if name in blocks - absent)
    assert_same(options, variables, chosen)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    slices=st.integers(1, 4),
    probes=st.integers(1, 3),
    objects=st.integers(1, 2),
    distances=st.integers(1, 2),
    rows=st.sampled_from([1, N_PATTERNS]),
    cutoff=st.sampled_from([2 / 3, 2.0]),
    subpixel=st.booleans(),
    tilted=st.booleans(),
    keep_every=st.integers(1, 3),
    deterministic=st.booleans(),
    weighted=st.booleans(),
)
def test_on_a_device(
    device: None,
    slices: int,
    probes: int,
    objects: int,
    distances: int,
    rows: int,
    cutoff: float,
    subpixel: bool,
    tilted: bool,
    keep_every: int,
    deterministic: bool,
    weighted: bool,
) -> None:
    """One kernel for each operation: the same numbers, whatever is refined."""
    options = ModelOptions(
        grid=GRID,
        cutoff=cutoff,
        subpixel=subpixel,
        tilt_mode=0 if tilted else None,
        keep_every=keep_every,
        deterministic=deterministic,
        mode_weights=WEIGHTS[:objects] if weighted else None,
    )
    gpu = select("gpu", "double")
    model = build_model(options, gpu)
    assert model.executor.startswith("fused") and isinstance(model.stages[0], FusedWaves)
    here = make_variables(slices, probes, objects, distances=distances, rows=rows)
    there = here.replace({name: gpu.asarray(here.block(name)) for name in here.present})
    absent = set() if subpixel else {"positions"}
    absent |= set() if tilted and slices > 1 else {"tilts"}
    absent |= set() if slices > 1 else {"slice_distances"}
    blocks = tuple(name for name in ALL if name not in absent)
    work, own = Workspace(np), Workspace(gpu.xp)
    plain = build_model(ModelOptions(**{**vars(options), "executor": "stages"}), DOUBLE)
    expected = intensities_and_gradients(
        plain, here, [batch_of(here, index, work) for index in ([0, 1, 3], [4])], blocks
    )
    found = intensities_and_gradients(
        model, there, [batch_of(here, index, own) for index in ([0, 1, 3], [4])], blocks, gpu
    )
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one.get(), other, rtol=1e-11, atol=1e-11 * other.max())
    for name, gradient in expected[1].items():
        scale = 1e-11 * np.abs(gradient).max()
        np.testing.assert_allclose(found[1][name].get(), gradient, rtol=1e-11, atol=scale, err_msg=name)


def test_without_a_way_back_no_waves_are_kept() -> None:
    """The same intensities, in the memory of one wave besides the shifted probe."""
    variables, works = make_variables(5, 2, 2), [Workspace(np), Workspace(np)]
    model = build_model(ModelOptions(grid=GRID, cutoff=2 / 3), DOUBLE)
    patterns = [
        model.forward(model.prepare(variables), batch_of(variables, [0, 3], work), [], keep=keep).copy()
        for work, keep in zip(works, (True, False), strict=True)
    ]
    np.testing.assert_array_equal(*patterns)
    waves = [name for name in works[1].sizes if name.startswith(("incoming", "between", "exit"))]
    assert sorted(waves) == ["exit", "incoming 0"]


@pytest.mark.parametrize("keep_every", [1, 2, 3])
def test_in_single_precision(keep_every: int) -> None:
    for weights in (None, WEIGHTS):
        options = ModelOptions(grid=GRID, cutoff=2 / 3, keep_every=keep_every, mode_weights=weights)
        variables = make_variables(4, 2, 1 if weights is None else 3, SINGLE)
        assert_same(options, variables, ("obj", "probe", "positions"), SINGLE)


def test_counts_come_after_it() -> None:
    """What happens to intensities is the same list of stages for both."""
    options = ModelOptions(grid=GRID, cutoff=2 / 3, crop=1, across=(2, 2))
    assert [type(stage).__name__ for stage in build_model(options, DOUBLE).stages] == [
        "FusedWaves",
        "CropPadding",
        "SumPixels",
    ]
    assert_same(options, make_variables(2, 2, 1), ("obj", "probe"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"executor": "stages"}, "requested"),
        ({"near_field": NearFieldOptions(np.array([100.0]))}, "near field"),
        ({"probe_marker": np.zeros(N_PATTERNS, int)}, "several probes"),
        ({"aberration_marker": np.zeros(N_PATTERNS, int), "n_aberrations": 2}, "local aberrations"),
        ({"tilt_mode": 2}, "tilts before or after the specimen"),
        ({"tilt_mode": 4}, "tilts before or after the specimen"),
        ({"filter_patches": True}, "patches are filtered (lazy_clean)"),
        ({"preblur_std": 0.5}, "patches are blurred (obj_preblur_std)"),
        ({"propagation": "yoshida"}, "propmethod yoshida"),
        (
            {"propagation": "yoshida", "filter_patches": True},
            "patches are filtered (lazy_clean), propmethod yoshida",
        ),
    ],
)
def test_what_it_does_not_cover_falls_back_and_says_why(changes: dict[str, Any], reason: str) -> None:
    options = ModelOptions(grid=GRID, cutoff=2 / 3, **changes)
    assert not_fused_because(options) == reason
    model = build_model(options, DOUBLE)
    assert model.executor.startswith("stages (")
    assert all(part in model.executor for part in reason.split(", "))
    assert not any(isinstance(stage, FusedWaves) for stage in model.stages)


def test_buffers_are_used_again() -> None:
    """Nothing wave-sized is allocated from the second batch on."""
    variables, work = make_variables(3, 2, 1), Workspace(np)
    model = build_model(ModelOptions(grid=GRID, cutoff=2 / 3), DOUBLE)
    batches = [batch_of(variables, index, work) for index in ([0, 1, 3], [2, 4])]
    intensities_and_gradients(model, variables, batches[:1], ("obj", "probe"))
    size, address = work.nbytes, work.array("exit", (1,), np.complex128).ctypes.data
    intensities_and_gradients(model, variables, batches, ("obj", "probe"))
    assert (work.nbytes, work.array("exit", (1,), np.complex128).ctypes.data) == (size, address)
    work.clear()
    assert work.nbytes == 0


def test_keeping_fewer_waves_takes_less_memory() -> None:
    sizes = []
    for keep_every in (1, 3):
        variables, work = make_variables(9, 2, 1), Workspace(np)
        model = build_model(ModelOptions(grid=GRID, cutoff=2 / 3, keep_every=keep_every), DOUBLE)
        intensities_and_gradients(model, variables, [batch_of(variables, [0, 1], work)], ("obj",))
        sizes.append(sum(n for name, n in work.sizes.items() if name.startswith(("incoming", "between"))))
    waves = 2 * 2 * GRID.shape[0] * GRID.shape[1] * 16
    assert sizes == [9 * waves, 5 * waves]


@pytest.mark.parametrize("library", ["scipy", "fftw"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("shape", [(8, 8), (3, 7, 5), (2, 2, 1, 6, 10), (1, 97, 3)])
def test_transforms_in_place(library: str, dtype: type, shape: tuple[int, ...]) -> None:
    """Unnormalised in both directions, of aligned and unaligned arrays, again and again with one plan."""
    if library == "fftw":
        pytest.importorskip("pyfftw", reason="pyFFTW is not installed (pip install 'pypty[fast]')")
    rng, transforms = np.random.default_rng(0), Transforms(library)
    rtol = 1e-12 if dtype is np.complex128 else 1e-5
    for offset in (0, 1, 0):
        raw = Workspace(np).array("raw", (int(np.prod(shape)) + 1,), dtype)
        array = raw[offset : offset + int(np.prod(shape))].reshape(shape)
        start = random_complex(rng, shape).astype(dtype)
        array[...] = start
        transforms.forward(array)
        expected = np.fft.fft2(start.astype(complex))
        np.testing.assert_allclose(array, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
        transforms.backward(array)
        np.testing.assert_allclose(array, shape[-1] * shape[-2] * start, atol=10 * rtol * np.prod(shape[-2:]))


def test_workspace_arrays() -> None:
    work = Workspace(np)
    first = work.array("a", (4, 4), np.complex64)
    assert first.ctypes.data % 64 == 0 and first.flags.c_contiguous
    assert work.array("a", (4, 4), np.complex64) is first
    smaller = work.array("a", (2, 3), np.float32)
    assert np.shares_memory(first, smaller) and smaller.shape == (2, 3)
    assert work.array("empty", (0, 3), np.complex64).shape == (0, 3)
    larger = work.array("a", (40, 4), np.complex64)
    assert not np.shares_memory(first, larger)
    assert not np.shares_memory(larger, work.array("b", (4,), np.float64))


def test_windows_of_the_host_multiply_and_give_their_gradients_back() -> None:
    rng = np.random.default_rng(0)
    obj, crop_origins = random_complex(rng, (2, 3, 12, 14)), np.array([[0, 1], [3, 2], [3, 5]])
    windows = HostWindows(obj, Batch(index=np.arange(3), crop_origins=crop_origins), (8, 9), Workspace(np))
    wave = random_complex(rng, (3, 2, 2, 8, 9))
    out = np.empty_like(wave)
    seen = np.stack([obj[:, :, y : y + 8, x : x + 9] for y, x in crop_origins])  # (batch, mode, slice, y, x)
    windows.transmit(1, wave, out)
    np.testing.assert_allclose(out, wave * seen[:, None, :, 1])
    gradient, incoming = np.zeros_like(obj), random_complex(rng, wave.shape)
    conjugate = wave.copy()
    for s in (2, 1, 0):
        windows.back(s, conjugate, incoming, gradient)
    windows.finish(gradient)
    expected, back = np.zeros_like(obj), wave.copy()
    for s in (2, 1, 0):
        for number, (y, x) in enumerate(crop_origins):
            products = (incoming[number] * back[number]).sum(axis=0)
            expected[:, s, y : y + 8, x : x + 9] += np.conj(products)
        back = back * seen[:, None, :, s]
    np.testing.assert_allclose(gradient, expected)
    np.testing.assert_allclose(conjugate, back)
