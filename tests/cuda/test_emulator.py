"""The emulated device itself: its numbers agree with NumPy, and it finds what it is there to find."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import emulator
import numpy as np
import pytest
from emulator import build

from pypty.backend.array import gpu_status, select

RNG = np.random.default_rng(1)


@pytest.fixture
def cupy(emulated: ModuleType) -> ModuleType:
    """The real one, on the emulated device."""
    import cupy

    return cupy


# ---- where it is, and where it is not


def test_a_machine_without_a_device(emulated: ModuleType) -> None:
    """What tests without the fixture see: CuPy is there, and finds none."""
    assert select("auto").name == "gpu"
    with emulated.settings(devices=0):
        assert "no CUDA device" in gpu_status().reason
        assert select("auto").name == "cpu"
    assert gpu_status().device == "emulated H200"


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("COMPILER", "no-such-compiler", "needs no-such-compiler .*apt-get install g"),
        ("CUPY", "no-such-package", r"needs no-such-package 14.2.0 .*pip install 'pypty\[emulator\]'"),
        ("SUPPORTED", "1.0", "needs cupy-cuda12x 1.0, and .* is installed"),
    ],
)
def test_why_it_cannot_be_built(
    emulated: ModuleType, attribute: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert emulator.why_not() == ""
    monkeypatch.setattr(build, attribute, value)
    assert re.search(reason, emulator.why_not())


def test_cupy_must_not_be_imported_before(emulated: ModuleType) -> None:
    program = "import cupy, emulator; emulator.load()"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert "CuPy was imported before" in done.stderr


# ---- numbers


def complex_array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)


@pytest.mark.parametrize("shape", [(6, 10), (7, 9), (16, 16), (3, 11), (60, 100)])
def test_fourier_transforms(cupy: ModuleType, shape: tuple[int, int]) -> None:
    z = complex_array(3, *shape)
    x = z.real.copy()
    for function, given in (("fft2", z), ("ifft2", z), ("rfft2", x), ("fft", z), ("rfft", x)):
        expected = getattr(np.fft, function)(given)
        np.testing.assert_allclose(
            getattr(cupy.fft, function)(cupy.asarray(given)).get(), expected, atol=1e-9
        )
    back = cupy.fft.irfft2(cupy.fft.rfft2(cupy.asarray(x)), s=shape)
    np.testing.assert_allclose(back.get(), x, atol=1e-12)
    np.testing.assert_allclose(cupy.fft.fft(cupy.asarray(z), axis=1).get(), np.fft.fft(z, axis=1), atol=1e-9)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_products(cupy: ModuleType, dtype: str) -> None:
    a, b = complex_array(2, 3, 5), complex_array(5, 4)
    a, b = (v.astype(dtype) if dtype[0] == "c" else v.real.astype(dtype) for v in (a, b))
    for left, right in ((a, b), (a[0], b), (a[0].T, a[0])):
        got = (cupy.asarray(left) @ cupy.asarray(right)).get()
        np.testing.assert_allclose(got, left @ right, rtol=1e-4, atol=1e-5)


def test_reductions_sorts_and_indices(cupy: ModuleType) -> None:
    x = RNG.standard_normal((7, 30))
    there = cupy.asarray(x)
    for name in ("sum", "max", "min", "mean", "std", "argmax"):
        np.testing.assert_allclose(getattr(there, name)(axis=1).get(), getattr(x, name)(axis=1))
    np.testing.assert_array_equal(cupy.sort(there, axis=1).get(), np.sort(x, axis=1))
    np.testing.assert_array_equal(cupy.argsort(there, axis=1).get(), np.argsort(x, axis=1))
    np.testing.assert_allclose(cupy.percentile(there, [10, 50]).get(), np.percentile(x, [10, 50]))
    np.testing.assert_array_equal(
        cupy.partition(there, 4, axis=1)[:, 4].get(), np.partition(x, 4, axis=1)[:, 4]
    )
    index = np.array([3, 1, 3])
    cupy.add.at(there, cupy.asarray(index), cupy.ones((3, 30)))
    np.add.at(x, index, np.ones((3, 30)))
    np.testing.assert_allclose(there.get(), x)
    u, s, v = cupy.linalg.svd(there, full_matrices=False)
    np.testing.assert_allclose((u * s @ v).get(), x)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_shuffles_of_a_warp(cupy: ModuleType, order: int) -> None:
    x = RNG.standard_normal((40, 70))
    with emulator.settings(order=order):
        there = cupy.asarray(x)
        np.testing.assert_array_equal(
            there[there > 0.5].get(), x[x > 0.5]
        )  # CuPy counts with __shfl_xor_sync


def test_new_memory_is_nan(cupy: ModuleType) -> None:
    emulator.forget_kept_memory()
    assert cupy.isnan(cupy.empty(1000, np.float32)).all()
    assert cupy.isnan(cupy.empty(1000, np.complex128)).all()
    cupy.ones(1000)  # given back at once
    assert cupy.isnan(cupy.empty(1000)).all()


# ---- what it finds


MISSING_BARRIER = r"""
extern "C" __global__ void neighbour(const float* in, float* out, int barrier) {
  __shared__ float shared[64];
  const int i = threadIdx.x;
  shared[i] = in[i];
  if (barrier) __syncthreads();
  out[i] = shared[(i + STEP) % 64];
  __syncthreads();
}
"""


@pytest.mark.parametrize("step", [1, 63])
def test_a_missing_barrier_is_seen(cupy: ModuleType, step: int) -> None:
    """In one order or the other, whichever neighbour is read."""
    kernel = cupy.RawModule(code=MISSING_BARRIER, options=(f"-DSTEP={step}",)).get_function("neighbour")
    x = cupy.arange(64, dtype=np.float32)
    found = {}
    for barrier in (0, 1):
        for order in (0, 1, 2):
            with emulator.settings(order=order):
                out = cupy.zeros(64, np.float32)
                kernel((1,), (64,), (x, out, np.int32(barrier)))
                found[barrier, order] = bool((out == cupy.roll(x, -step)).all())
    assert all(found[1, order] for order in (0, 1, 2))
    assert not (found[0, 0] and found[0, 1])


def test_a_missing_wait_is_seen(cupy: ModuleType) -> None:
    import cupyx

    copying = cupy.cuda.Stream(non_blocking=True)
    pinned = cupyx.empty_pinned(1000, np.float64)
    pinned[...] = 7
    there = cupy.zeros(1000)
    cupy.cuda.Device().synchronize()
    there.set(pinned, stream=copying)
    assert float(there.sum()) == 0  # nobody has waited
    copying.synchronize()
    assert float(there.sum()) == 7000


def test_a_buffer_filled_again_too_early_is_seen(cupy: ModuleType) -> None:
    import cupyx

    copying = cupy.cuda.Stream(non_blocking=True)
    pinned = cupyx.empty_pinned(10, np.float64)
    pinned[...] = 1
    there = cupy.zeros(10)
    cupy.cuda.Device().synchronize()  # what the default stream does is not ordered with the copy
    there.set(pinned, stream=copying)
    pinned[...] = 2
    copying.synchronize()
    assert float(there[0]) == 2


def test_the_default_stream_and_blocking_ones_are_ordered(cupy: ModuleType) -> None:
    stream = cupy.cuda.Stream()
    with stream:
        a = cupy.arange(5)
    assert int((a + 1).sum()) == 15


# ---- graphs


def test_graphs(cupy: ModuleType) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    x = cupy.ones(4)
    cupy.cuda.Device().synchronize()
    with stream:
        x *= 1  # compiled
        stream.begin_capture()
        x *= 2
        graph = stream.end_capture()
        for _ in range(3):
            graph.launch(stream)
        assert float(x[0]) == 8


def test_what_a_capture_forbids(cupy: ModuleType) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    emulator.forget_kept_memory()
    with stream:
        stream.begin_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="Capture"):
            stream.synchronize()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


# ---- what tests ask for, and what they are told


def test_failures_that_are_asked_for(cupy: ModuleType) -> None:
    emulator.forget_kept_memory()
    with emulator.settings(fail_malloc=1), pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(10**6)
    cupy.fft.config.get_plan_cache().clear()
    with emulator.settings(fail_plan=1), pytest.raises(cupy.cuda.cufft.CuFFTError):
        cupy.fft.fft2(cupy.ones((14, 14), np.complex64))
    with emulator.settings(fail_malloc=1, fail_times=1):
        cupy.empty(10**6)  # CuPy tries again
    emulator.forget_kept_memory()
    with emulator.settings(memory=10**6), pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(10**6)
    x = cupy.ones(3)
    with emulator.settings(fail_launch=1), pytest.raises(cupy.cuda.driver.CUDADriverError):
        x += 1


def test_counters(cupy: ModuleType) -> None:
    x = cupy.ones(3)
    with emulator.counted() as found:
        x += 1
        x.get()
    assert (found.launches, found.copies) == (1, 1)
    assert found.waits >= 1


def test_writing_beyond_an_allocation_is_seen(cupy: ModuleType) -> None:
    code = 'extern "C" __global__ void beyond(float* out, int n) { out[n] = 1; }'
    kernel = cupy.RawModule(code=code).get_function("beyond")
    place = cupy.cuda.runtime.malloc(4000)
    assert emulator.overruns() == 0
    kernel((1,), (1,), (np.uint64(place), np.int32(1000)))
    assert emulator.overruns() == 1
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="IllegalAddress"):
        cupy.cuda.runtime.free(place)
    assert emulator.overruns() == 0


def test_the_journal(cupy: ModuleType) -> None:
    stream, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(3)
    with emulator.journal() as entries, stream:
        event = stream.record()
        event.synchronize()
        x.get()
    assert [entry.split(" ")[0] for entry in entries] == ["record", "host", "host", "host"]


SHARED = r"""
extern "C" __global__ void turned(const double* in, double* out, int n) {
  extern __shared__ double kept[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) kept[i] = in[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = kept[n - 1 - i];
}
"""


def test_shared_memory_of_a_launch(cupy: ModuleType) -> None:
    """More than 48 kB must be asked for, as on a card; more than there is cannot be had."""
    kernel = cupy.RawModule(code=SHARED).get_function("turned")
    n = 7000  # 56 kB
    x, out = cupy.arange(n, dtype=float), cupy.zeros(n)
    with pytest.raises(cupy.cuda.driver.CUDADriverError):
        kernel((1,), (32,), (x, out, np.int32(n)), shared_mem=8 * n)
    kernel.max_dynamic_shared_size_bytes = 8 * n
    kernel((1,), (32,), (x, out, np.int32(n)), shared_mem=8 * n)
    assert (out == x[::-1]).all()
    with pytest.raises(cupy.cuda.driver.CUDADriverError):
        kernel.max_dynamic_shared_size_bytes = 10**6


def test_what_is_not_emulated_says_so(cupy: ModuleType, capfd: pytest.CaptureFixture) -> None:
    before = emulator.counters().notes
    with pytest.raises(cupy.cuda.curand.CURANDError):
        cupy.random.rand(3)
    assert "curandCreateGenerator is not emulated" in capfd.readouterr().err
    assert emulator.counters().notes > before
