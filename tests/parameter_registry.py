"""One registry of what every parameter does, and of a value that it refuses.

``test_parameters*.py`` fill it and run their own part; ``test_parameters.py`` asks whether it is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import aperture_probe, small_params, smooth_object

import pypty
from pypty.engine.setup import memory
from pypty.errors import ParameterError
from pypty.output.loss_log import LOSS_LOG, read_loss_log


@dataclass
class Desk:
    """What a test of an effect may need."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    screen: pytest.CaptureFixture[str]


Effect = Callable[[Desk], None]


@dataclass(frozen=True)
class Entry:
    """The test of one parameter.

    Attributes
    ----------
    test : shows its effect
    bad : a value that is refused
    beside : other keys that the bad value needs to be bad
    message : what the refusal says; the name of the parameter if empty
    """

    test: Effect
    bad: Any
    beside: dict[str, Any]
    message: str


EFFECTS: dict[str, Entry] = {}


def effect(
    name: str, bad: Any, beside: dict[str, Any] | None = None, message: str = ""
) -> Callable[[Effect], Effect]:
    """Register the test of a parameter, with a bad value."""

    def register(function: Effect) -> Effect:
        assert name not in EFFECTS
        EFFECTS[name] = Entry(function, bad, beside or {}, message)
        return function

    return register


def names_in(module: str) -> list[str]:
    """Parameters whose test is in a module."""
    return [name for name, entry in EFFECTS.items() if entry.test.__module__ == module]


def assert_refused(name: str) -> None:
    """The bad value of a parameter is refused by name, by the check and by the run."""
    entry = EFFECTS[name]
    params = small_params(**{**entry.beside, name: entry.bad})
    with pytest.raises(ParameterError, match=entry.message or f"(^|\n|- ){name}: "):
        pypty.run(params)
    assert not pypty.check(params)


def loss(**changes: Any) -> float:
    return pypty.evaluate(small_params(**changes)).loss


def loss_as_given(**changes: Any) -> float:
    """Without scaling the probe and moving the positions."""
    return loss(skip_preprocessing=True, **changes)


def rows(folder: Path, **changes: Any) -> list[dict[str, str]]:
    """loss.csv of a run."""
    pypty.run(small_params(**{"output_folder": str(folder), "overwrite": True, **changes}))
    return read_loss_log(folder / LOSS_LOG)


def start(**changes: Any) -> pypty.Result:
    """The starting state."""
    return pypty.run(small_params(**{**changes, "epoch_max": 0}))


def plan(**changes: Any) -> memory.MemoryPlan:
    return pypty.plan(small_params(**changes), show=False)


def simulated(**changes: Any) -> np.ndarray:
    """Patterns of the smooth object, without any band limit."""
    known = {"dataset": ..., "obj": smooth_object(), "probe": aperture_probe(1.0)}
    known |= {"skip_preprocessing": True, "damping_cutoff_multislice": 2.0}
    return pypty.simulate(small_params(**{**known, **changes}))


def spectrum(array: np.ndarray) -> np.ndarray:
    """Intensity of the Fourier transform over the first two axes, zero frequency first."""
    return np.abs(np.fft.fft2(array, axes=(0, 1))) ** 2


def frequency(shape: tuple[int, ...]) -> np.ndarray:
    """|f| in cycles per pixel, zero frequency first."""
    return np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :])
