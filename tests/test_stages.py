"""Every stage of the model: its adjoint, the gradients of its own variables, its physics, and the whole chain."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import (
    assert_adjoint,
    directional_derivative,
    inner,
    random_complex,
    random_like,
    relative,
    small_problem,
)
from scipy.linalg import expm

import pypty
from pypty.backend.array import Backend, select
from pypty.data.feed import Batch
from pypty.data.plates import PhasePlateSource
from pypty.errors import DataError
from pypty.model import forward, stages
from pypty.model.variables import Variables
from pypty.optics import probes
from pypty.optics.grid import Grid
from pypty.optics.propagators import angular_spectrum_phase_rate, fresnel_phase_rate
from pypty.optics.wavelength import wavelength_A

BACKEND = select("cpu", "double")
SINGLE = select("cpu", "single")
GRIDS = tuple(
    Grid(shape, pixels, wavelength_A(80))
    for shape, pixels in (((12, 15), (0.31, 0.24)), ((15, 12), (0.26, 0.33)))
)
"""Even and odd sizes along both axes, unequal pixels."""
GRID = GRIDS[0]
LARGEST = 4
"""A cutoff beyond every frequency: nothing is band-limited."""
PATTERNS, PROBE_MODES, OBJECT_MODES, SLICES, ABERRATIONS = 3, 2, 2, 3, 7
CORNERS = np.array([[0, 1], [2, 0], [1, 3], [5, 4]])
INDEX = np.array([0, 1, 3])
BATCH = Batch(INDEX, CORNERS[INDEX])
"""Three of four patterns: a gradient added to the wrong row is found. The windows overlap."""
ONE = Batch(INDEX[1:2], CORNERS[INDEX[1:2]])
"""A batch of one: nothing may take it for a wave that all patterns share."""
MARKER = np.array([2, 0, 1, 2])
"""Group (of aberrations) or subscan (of probes) of each pattern: two in the batch share one, one has none there."""
NOT_STAGES = {
    stages.INTEGRATORS,
    stages.propagation_fractions,
    stages.ObjectWindows,
    stages.Propagation,
    stages.Stage,
    stages.Tape,
} if False else None
