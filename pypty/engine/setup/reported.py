"""At the user's edge: no MemoryError, and no error of CUDA's libraries, leaves as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pypty.backend.device_errors import device_errors
from pypty.errors import PyptyError, ResourceError


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Context, or decorator, of what a user calls.

    Raises
    ------
    ResourceError
        In place of a MemoryError.
    BackendError
        In place of any other error of CUDA's libraries.
    """
    try:
        with device_errors():
            yield
    except MemoryError as error:
        if isinstance(error, PyptyError):
            raise
        raise ResourceError(
            f"out of memory outside the batches ({error}); lower hist_length, or use default_dtype='single'"
        ) from error
