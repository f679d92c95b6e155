"""The same code on a device: every array is moved explicitly, and the numbers are those of the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_device
import numpy as np
import pytest
import scipy.fft
from problems import small_params

import pypty
from pypty.backend import array, fft
from pypty.backend.array import Backend, gpu_status
from pypty.errors import BackendError


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let backend="gpu" give the stand-in."""
    real_library = fft._library
    on_device = fake_device._Fft(scipy.fft)
    monkeypatch.setattr(
        fft, "_library", lambda a: real_library(a) if isinstance(a, np.ndarray) else on_device
    )
    monkeypatch.setitem(sys.modules, "cupyx", fake_device.cupyx)

    def select(name: str = "auto", precision: str = "double") -> Backend:
        real, complex_ = array.PRECISIONS[precision]
        if name == "cpu":
            return Backend("cpu", np, real, complex_)
        return Backend("gpu", fake_device, real, complex_)

    monkeypatch.setattr("pypty.engine.prepare.select", select)


def problem(**changes):
    """Two slices with their own distance, a mask, sub-pixel positions, everything refined."""
    params = small_params(update_probe_pos=True, update_slice_distances=True, slice_distances=[30.0])
    mask = np.ones(params["dataset"].shape[1:])
    mask[3, 4] = 0
    obj = np.ones((1, 1, 2, 1), complex)
    return {**params, "obj": obj, "detector_mask": mask, **changes}


@pytest.mark.parametrize(
    "changes", [{}, {"lazy_clean": True}, {"data_pad": 2, "use_padded_intensity": False}, {"algorithm": "ml"}]
)
def test_evaluate_agrees_with_the_cpu(device: None, changes: dict) -> None:
    on_cpu = pypty.evaluate(problem(backend="cpu", **changes))
    on_device = pypty.evaluate(problem(backend="gpu", **changes))
    assert on_device.loss == pytest.approx(on_cpu.loss, rel=1e-13)
    for name, gradient in on_cpu.gradients.items():
        assert isinstance(on_device.gradients[name], np.ndarray)
        np.testing.assert_allclose(
            on_device.gradients[name], gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max()
        )


def test_run_and_resume_on_the_device(device: None, tmp_path: Path) -> None:
    whole = pypty.run(problem(backend="gpu", epoch_max=4))
    on_cpu = pypty.run(problem(backend="cpu", epoch_max=4))
    np.testing.assert_allclose(whole.loss, on_cpu.loss, rtol=1e-8)
    folder = {"output_folder": str(tmp_path / "out"), "backend": "gpu"}
    pypty.run(problem(epoch_max=2, **folder))
    resumed = pypty.run(problem(epoch_max=4, resume=True, **folder))
    np.testing.assert_array_equal(resumed.obj, whole.obj)


def test_the_device_is_really_used(device: None) -> None:
    assert pypty.plan(problem(backend="gpu"), show=False).device == "the GPU"


def test_simulate_on_the_device(device: None) -> None:
    np.testing.assert_allclose(
        pypty.simulate(problem(backend="gpu")), pypty.simulate(problem(backend="cpu")), rtol=1e-10, atol=1e-10
    )


def test_the_stand_in_refuses_to_mix() -> None:
    on_device = fake_device.asarray(np.ones(3))
    for mixed in (
        lambda: on_device + np.ones(3),
        lambda: np.ones(3) * on_device,
        lambda: on_device[np.array([0])],
    ):
        with pytest.raises(TypeError):
            mixed()


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (None, "not installed"),
        (
            type("Cupy", (), {"__version__": "14", "is_available": staticmethod(lambda: False)}),
            "no CUDA device",
        ),
    ],
)
def test_why_there_is_no_gpu(cupy: object, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array, "cupy_module", lambda: cupy)
    assert reason in gpu_status().reason
    assert array.select("auto").name == "cpu"
    with pytest.raises(BackendError, match=reason):
        array.select("gpu")


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu() -> None:
    status = gpu_status()
    if not status.usable:
        pytest.skip(f"no GPU: {status.reason}")
    on_cpu, on_gpu = (pypty.run(problem(backend=name, epoch_max=4)) for name in ("cpu", "gpu"))
    np.testing.assert_allclose(on_gpu.loss, on_cpu.loss, rtol=1e-8)
