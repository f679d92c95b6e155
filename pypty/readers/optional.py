"""Import libraries of the extra ``io`` when a file needs them."""

from __future__ import annotations

import importlib
from typing import Any

from pypty.errors import DataError


def optional_library(module: str, library: str, purpose: str) -> Any:
    """Import ``module``.

    Raises
    ------
    DataError
        ``library`` is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{purpose} needs {library}, which is not installed completely ({error}): pip install 'pypty[io]'"
        ) from error
