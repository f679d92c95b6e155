"""Imports in the middle of a computation."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType


def imported(name: str) -> ModuleType:
    """A module, imported in a thread of its own if it is not there yet.

    Packages keep errors of imports of their own that have failed (dask does, which pyFFTW imports), and an error keeps
    the frames of all its callers: a dozen arrays of the size of the object would never be freed.

    Raises
    ------
    ImportError
        There is no such module.
    """
    if name in sys.modules:
        return sys.modules[name]
    errors: list[ImportError] = []

    def load() -> None:
        try:
            importlib.import_module(name)
        except ImportError as error:
            errors.append(error)

    thread = threading.Thread(target=load, name=f"import {name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return importlib.import_module(name)
