"""Choice of the array library: NumPy, or CuPy on a CUDA device. No other module makes this choice."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from pypty.errors import BackendError

Array: TypeAlias = Any
"""A NumPy or CuPy array; the two have the same interface, but no common type."""

PRECISIONS: Mapping[str, tuple[np.dtype, np.dtype]] = MappingProxyType(
    {
        "single": (np.dtype(np.float32), np.dtype(np.complex64)),
        "double": (np.dtype(np.float64), np.dtype(np.complex128)),
    }
)


@dataclass(frozen=True)
class Backend:
    """An array library with the precision of the waves.

    Attributes
    ----------
    name : "cpu" or "gpu"
    xp : the array module (numpy or cupy)
    real, complex : dtypes of intensities and waves
    fft_library : "fftw" or "scipy" on the CPU (backend/fft.py)
    """

    name: str
    xp: Any
    real: np.dtype
    complex: np.dtype
    fft_library: str = "scipy"

    @property
    def on_gpu(self) -> bool:
        return self.name == "gpu"

    @property
    def precision(self) -> str:
        """Precision of the waves: "single" or "double"."""
        return next(name for name, (real, _) in PRECISIONS.items() if real == self.real)

    def in_precision(self, precision: str) -> Backend:
        """The same device and library with another precision of the waves."""
        real, complex_ = PRECISIONS[precision]
        return dataclasses.replace(self, real=real, complex=complex_)

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Copy ``array`` to the device of this backend; no copy if it is there already."""
        return self.xp.asarray(array, dtype=dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.zeros(shape, dtype=dtype)


@dataclass(frozen=True)
class GpuStatus:
    """Result of the search for a GPU; ``reason`` says why it is unusable and is empty otherwise."""

    usable: bool
    reason: str
    device: str = ""
    cupy_version: str = ""


def to_host(array: Array) -> np.ndarray:
    """The array as a NumPy array; copied only if it is on a device."""
    get = getattr(array, "get", None)
    return np.asarray(get() if callable(get) else array)


def array_module(array: Array) -> Any:
    """The module (numpy or cupy) whose functions take ``array``."""
    if isinstance(array, np.ndarray) or np.isscalar(array):
        return np
    # "cupy._core.core" -> "cupy"; importing by name keeps CuPy optional
    return importlib.import_module(type(array).__module__.split(".")[0])


def cupy_module() -> Any:
    """CuPy, or None where it is not installed."""
    try:
        return importlib.import_module("cupy")
    except Exception:  # noqa: BLE001 - not installed, or installed so badly that its import fails in its own way
        return None


def gpu_status() -> GpuStatus:
    """Look for a usable CUDA device, and report why there is none.

    ``import cupy`` succeeds on machines without a driver, so the import alone proves nothing.
    """
    cupy = cupy_module()
    if cupy is None:
        return GpuStatus(
            False,
            "CuPy is not installed; install it with  pip install 'pypty[gpu]'  "
            "(CUDA 12) or  pip install 'pypty[gpu13]'  (CUDA 13)",
        )
    version = str(cupy.__version__)
    if version.startswith("14.0."):
        return GpuStatus(
            False,
            f"CuPy {version} computes wrong numbers, or crashes, on real parts of arrays above 2 GiB; install another "
            "one:  pip install -U 'pypty[gpu]'  (CUDA 12) or  'pypty[gpu13]'  (CUDA 13) brings it",
            cupy_version=version,
        )
    if not cupy.is_available():
        return GpuStatus(
            False,
            "CuPy is installed, but finds no CUDA device (no driver, or no visible GPU)",
            cupy_version=version,
        )
    try:
        probe = cupy.ones((4, 4), dtype=cupy.complex64)
        # The sum of 16 ones. A transform, because CUDA's FFT library may be missing where kernels already work.
        working = complex(cupy.fft.fft2(probe)[0, 0].get()) == 16
        name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    except Exception as error:  # noqa: BLE001 - a broken CUDA installation raises many kinds of errors
        return GpuStatus(
            False,
            f"CuPy finds a device, but a first Fourier transform on it fails: {error}",
            cupy_version=version,
        )
    reason = "" if working else "the device returned a wrong Fourier transform"
    return GpuStatus(working, reason, device=name, cupy_version=version)


def single_to_double(backend: Backend) -> int:
    """How many operations in single precision the GPU does in the time of one in double; 0 where it does not say."""
    attributes = backend.xp.cuda.Device().attributes
    return int(attributes.get("SingleToDoublePrecisionPerfRatio", 0))


def _fft_library(name: str) -> str:
    has_pyfftw = importlib.util.find_spec("pyfftw") is not None
    if name == "fftw" and not has_pyfftw:
        raise BackendError(
            "fft_library='fftw' is set, but pyFFTW is not installed; install it with  "
            "pip install 'pypty[fast]'  or use fft_library='auto' or 'scipy'"
        )
    return "fftw" if has_pyfftw and name != "scipy" else "scipy"


def select(name: str = "auto", precision: str = "double", fft_library: str = "auto") -> Backend:
    """Choose the device, and on the CPU the library of Fourier transforms.

    Parameters
    ----------
    name : "auto" (a GPU where one works, else the CPU), "cpu" or "gpu"
    precision : "single" or "double"
    fft_library : "auto" (FFTW where pyFFTW is installed, else SciPy), "fftw" or "scipy"

    Raises
    ------
    BackendError
        ``name="gpu"`` and no GPU can be used, or ``fft_library="fftw"`` and pyFFTW is not installed.
    """
    real, complex_ = PRECISIONS[precision]
    library = _fft_library(fft_library)
    if name == "cpu":
        return Backend("cpu", np, real, complex_, library)
    status = gpu_status()
    if status.usable:
        return Backend("gpu", cupy_module(), real, complex_)
    if name == "gpu":
        raise BackendError(
            f"backend='gpu' cannot be used: {status.reason}. "
            "Use backend='cpu' or 'auto', or see  pypty doctor."
        )
    return Backend("cpu", np, real, complex_, library)


def available_cores() -> int:
    """Number of cores this process may use (its affinity, not the machine's size)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
