"""Errors of CUDA's libraries, as CuPy raises them, in the words of this package.

CuPy has a class of errors for each library, and importing one may fail where that library is missing. They are told by
the names of their classes and messages, so that nothing is imported while an error is on its way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pypty.errors import BackendError, PyptyError

_NO_MEMORY = (
    "CUFFT_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
)
"""What messages of errors that are no MemoryError begin with: a plan, pinned memory, a module, or a graph that does not
fit."""

_CUFFT = (
    "cuFFT failed ({error}). Update the NVIDIA driver or CuPy (pypty doctor shows versions); another window size "
    "(dataset padding, or a crop), or backend='cpu', avoids the failing transform"
)
_DEVICE = (
    "the GPU failed ({error}). After such an error this process cannot use the GPU any more: start again (a run with "
    "output_folder continues with resume=True). If it fails again, executor='stages' uses other kernels, and "
    "backend='cpu' uses none; pypty doctor shows versions to report"
)
_COMPILER = (
    "CuPy could not compile a kernel of its own ({error}). Its parts may be of different versions: install it anew, "
    "pip install -U 'pypty[gpu]' (CUDA 12) or 'pypty[gpu13]' (CUDA 13), or use backend='cpu'"
)
_MISSING = (
    "a library of CUDA is missing ({error}); pip install -U 'pypty[gpu]' (CUDA 12) or 'pypty[gpu13]' (CUDA 13) brings "
    "it, or use backend='cpu'"
)
_NOT_FOUND = ("CuPy failed to load", "Failure finding")
"""What plain errors begin with where CuPy does not find a library."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that something does not fit, on the CPU or on the GPU."""
    return isinstance(error, MemoryError) or (
        _is_of_cupy(error) and str(error).strip().startswith(_NO_MEMORY)
    )


def _is_of_cupy(error: BaseException) -> bool:
    """Whether a class of the error is defined by CuPy ("cupy.cuda.cufft", "cupy_backends.cuda.api.driver", ...)."""
    return any(kind.__module__.split(".")[0] in ("cupy", "cupy_backends") for kind in type(error).__mro__)


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Context in which what does not fit into memory raises a MemoryError, whatever library says so.

    Raises
    ------
    BackendError
        In place of any other error of CUDA's libraries.
    """
    try:
        yield
    except Exception as error:
        text = "" if isinstance(error, (PyptyError, MemoryError)) else _text_for(error)
        if not text:
            raise
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise BackendError(text.format(error=str(error).strip() or type(error).__name__)) from error


def _text_for(error: Exception) -> str:
    """What to say about an error of CUDA's libraries; "" for any other."""
    if isinstance(error, (ImportError, RuntimeError)) and str(error).startswith(_NOT_FOUND):
        return _MISSING
    if not _is_of_cupy(error):
        return ""
    if "CUFFT_" in str(error):
        return _CUFFT
    return _COMPILER if "Compile" in type(error).__name__ or "NVRTC" in str(error) else _DEVICE
