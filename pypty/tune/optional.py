"""Import Optuna, or raise an error that says how to install it."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

from pypty.errors import ParameterError


def load_optuna() -> Any:
    """The package Optuna.

    Raises
    ------
    ParameterError
        Optuna is not installed.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ParameterError(
            f"tuning needs Optuna, which cannot be imported ({error}); pip install 'pypty[tune]'"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log and its warnings about experimental features; :class:`TuneLog` reports the trials."""
    optuna = load_optuna()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", module=r"optuna\.")
            yield
    finally:
        optuna.logging.set_verbosity(before)
