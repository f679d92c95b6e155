"""The state of a reconstruction for result files and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pypty.results.history import History


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a run after some epochs, on the host, in the layout of docs/conventions.md.

    Attributes
    ----------
    epochs_done : number of finished epochs, including those of earlier runs
    arrays : the unknowns by name ("obj", "probe", "positions", ...)
    start_positions, start_probe : starting values of this run
    history : history of this run
    settings : all parameters (:meth:`pypty.params.settings.Settings.record`)
    pixel_size_A : (2,) [y, x]
    wavelength_A : Å
    used : indices of the patterns that are fitted
    provenance : version, data, origin of the starting arrays, as plain values
    optimizer_state, scheduler_state : arrays by path; empty unless they are to be saved
    """

    epochs_done: int
    arrays: Mapping[str, np.ndarray]
    start_positions: np.ndarray
    start_probe: np.ndarray
    history: History
    settings: Mapping[str, Any]
    pixel_size_A: np.ndarray
    wavelength_A: float
    used: np.ndarray
    provenance: Mapping[str, Any] = field(default_factory=dict)
    optimizer_state: Mapping[str, np.ndarray] = field(default_factory=dict)
    scheduler_state: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def obj(self) -> np.ndarray:
        return self.arrays["obj"]

    @property
    def probe(self) -> np.ndarray:
        return self.arrays["probe"]

    @property
    def mode_weights(self) -> np.ndarray:
        """(modes,) relative weights of the object modes; their sum is 1."""
        mode_weights = self.settings.get("obj_mode_weights")
        weights = np.ones(self.obj.shape[3]) if mode_weights is None else np.asarray(mode_weights, float)
        return weights / weights.sum()

    def name(self, stem: str, suffix: str) -> str:
        """File name of a result after these epochs."""
        return f"{stem}_iter{self.epochs_done:04d}{suffix}"
