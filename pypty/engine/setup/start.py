"""The starting values of all unknowns, from the parameters and the mean pattern."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Backend
from pypty.data.scan import Scan
from pypty.data.window import Window
from pypty.engine.setup.start_probe import Counts, start_probe
from pypty.model.stages import INTEGRATORS
from pypty.model.variables import Variables, from_public
from pypty.optics.grid import Grid
from pypty.params.checks.effects import has_background, has_current, has_tilts
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

_BACKGROUND = 2
"""Which of the streams of ``seed`` draws the background."""


def start_variables(
    settings: Settings,
    scan: Scan,
    grid: Grid,
    n_patterns: int,
    window: Window,
    counts: Counts | None,
    backend: Backend,
) -> Variables:
    """All unknowns at the start; ``counts`` is None without data."""
    obj = start_object(settings, scan)
    blur = settings["detector_blur_std"]
    marker = settings["aberration_marker"]
    optional = {
        "tilts": start_tilts(settings),
        "aberrations_array": None if marker is None else settings["aberrations_array"],
        "static_background": start_background(settings, window),
        "beam_current": start_current(settings, n_patterns),
        "detector_blur_std": np.array([blur]) if blur > 0 else None,
    }
    return Variables(
        obj=from_public("obj", obj, backend),
        probe=backend.asarray(start_probe(settings, grid, window, counts), backend.complex),
        positions=from_public("positions", scan.positions, backend),
        slice_distances=from_public("slice_distances", start_distances(settings, obj.shape[2]), backend),
        **{
            name: None if value is None else from_public(name, value, backend)
            for name, value in optional.items()
        },
    )


def start_distances(settings: Settings, n_slices: int) -> np.ndarray:
    """Slice distances, with a thicker first gap where ``edge_slice_thickness`` asks for one."""
    distances = np.atleast_1d(settings["slice_distances"]).astype(float)
    edge = settings["edge_slice_thickness"]
    n_gaps = max(n_slices - 1, 1) if not propagates_after_last(settings) else n_slices
    if edge is not None and n_slices > 1 and edge > distances[0]:
        return np.array([edge, *[distances[0]] * (n_gaps - 1)])
    return distances[:n_gaps]


def propagates_after_last(settings: Settings) -> bool:
    """Whether a wave is ever propagated after the last slice, as the fourth-order integrators do."""
    schedule = settings.schedules["propmethod"]
    return not isinstance(schedule, Constant) or schedule.value in INTEGRATORS


def start_object(settings: Settings, scan: Scan) -> np.ndarray:
    """(Y, X, z, modes): the given object, surrounded by vacuum so that it covers the scan.

    Unless ``skip_preprocessing``, ``extra_space_on_side_px`` is added at its top and left, where positions were
    moved to make room for it.
    """
    given = settings["obj"]
    if given is None:
        given = np.ones((1, 1, settings["num_slices"], 1), complex)
    skip = settings["skip_preprocessing"] or settings["epoch_prev"] > 0
    before = 0 if skip or given.shape[:2] == (1, 1) else settings["extra_space_on_side_px"]
    shape = np.maximum(scan.object_shape, np.array(given.shape[:2]) + before)
    obj = np.ones((*shape, *given.shape[2:]), complex)
    obj[before : before + given.shape[0], before : before + given.shape[1]] = given
    return obj


def start_background(settings: Settings, window: Window) -> np.ndarray | None:
    """(ky, kx) square root of the background, as patterns are compared; None without one.

    An array is padded with zeros where the patterns are. A number is the sum of a random start, between 0.1 and 1 times
    its largest value, on the measured pixels.
    """
    given = settings["static_background"]
    if not has_background(settings):
        return None
    if not isinstance(given, np.ndarray):
        rng = np.random.default_rng([settings["seed"], _BACKGROUND])
        random = rng.uniform(0.1, 1.0, window.pattern)
        given = random * (given / random.sum())
    rim = [((n - have) // 2,) * 2 for n, have in zip(window.compared, given.shape, strict=True)]
    return np.pad(given, rim)


def start_tilts(settings: Settings) -> np.ndarray | None:
    """(1, 6) or (N, 6): given, or zero where they are refined; None where there are none."""
    if not has_tilts(settings):
        return None
    return np.zeros((1, 6)) if settings["tilts"] is None else settings["tilts"]


def start_current(settings: Settings, n_patterns: int) -> np.ndarray | None:
    """(N,): given, or 1 where it is refined; None where there is none."""
    if not has_current(settings):
        return None
    return np.ones(n_patterns) if settings["beam_current"] is None else settings["beam_current"]
