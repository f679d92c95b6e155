"""The starting values of all unknowns, from the parameters and the mean pattern."""

from __future__ import annotations

import numpy as np

from pypty.backend.array import Backend
from pypty.data.scan import Scan
from pypty.data.window import Window
from pypty.engine.setup.start_probe import Counts, start_probe
from pypty.model.blocks import BLOCKS, Variables, from_public
from pypty.model.stages import INTEGRATORS
from pypty.optics.grid import Grid
from pypty.params.checks.effects import has_background, has_block
from pypty.params.schedule import Constant
from pypty.params.settings import Settings

_BACKGROUND = 2
"""Number of the random stream of ``seed`` for the background."""


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
    optional = {name: start_optional(name, settings, n_patterns, window) for name in present_blocks(settings)}
    return Variables(
        obj=from_public("obj", obj, backend),
        probe=backend.asarray(start_probe(settings, grid, window, counts), backend.complex),
        positions=from_public("positions", scan.positions, backend),
        slice_distances=from_public("slice_distances", start_distances(settings, obj.shape[2]), backend),
        **{name: from_public(name, value, backend) for name, value in optional.items()},
    )


def start_distances(settings: Settings, n_slices: int) -> np.ndarray:
    """Slice distances; ``edge_slice_thickness`` makes the first gap thicker."""
    distances = np.atleast_1d(settings["slice_distances"]).astype(float)
    edge = settings["edge_slice_thickness"]
    # a propagation after the last slice needs one more distance
    n_gaps = max(n_slices - 1, 1) if not propagates_after_last(settings) else n_slices
    if edge is not None and n_slices > 1 and edge > distances[0]:
        return np.array([edge, *[distances[0]] * (n_gaps - 1)])
    return distances[:n_gaps]


def propagates_after_last(settings: Settings) -> bool:
    """Whether a wave is ever propagated after the last slice, as the fourth-order integrators do."""
    schedule = settings.schedules["propmethod"]
    return not isinstance(schedule, Constant) or schedule.value in INTEGRATORS


def start_object(settings: Settings, scan: Scan) -> np.ndarray:
    """(Y, X, z, modes): the parameter ``obj``, surrounded by vacuum so that it covers the scan.

    Unless ``skip_preprocessing``, ``extra_space_on_side_px`` is added at its top and left, where positions were
    moved to make room for it.
    """
    start = settings["obj"]
    if start is None:
        start = np.ones((1, 1, settings["num_slices"], 1), complex)
    skip = settings["skip_preprocessing"] or settings["epoch_prev"] > 0
    # (1, 1) stands for vacuum of any size; positions were not moved by extra space if preprocessing is skipped
    before = 0 if skip or start.shape[:2] == (1, 1) else settings["extra_space_on_side_px"]
    # (Y, X): large enough for the scan and for the given object
    shape = np.maximum(scan.object_shape, np.array(start.shape[:2]) + before)
    obj = np.ones((*shape, *start.shape[2:]), complex)
    obj[before : before + start.shape[0], before : before + start.shape[1]] = start
    return obj


def start_background(settings: Settings, window: Window) -> np.ndarray | None:
    """(ky, kx) square root of the background, as patterns are compared; None without one.

    An array is padded with zeros, as the patterns are. A number is the sum of a random start on the measured pixels,
    with values between 0.1 and 1 times the largest.
    """
    background = settings["static_background"]
    if not has_background(settings):
        return None
    if not isinstance(background, np.ndarray):
        rng = np.random.default_rng([settings["seed"], _BACKGROUND])
        random = rng.uniform(0.1, 1.0, window.pattern)
        background = random * (background / random.sum())
    # the same number of zeros on both sides, as data_pad adds to the patterns
    rim = [((n - have) // 2,) * 2 for n, have in zip(window.compared, background.shape, strict=True)]
    return np.pad(background, rim)


def present_blocks(settings: Settings) -> frozenset[str]:
    """Names of the optional blocks that the model has."""
    there = {
        "aberrations_array": settings["aberration_marker"] is not None,
        "static_background": has_background(settings),
        "detector_blur_std": settings["detector_blur_std"] > 0,
    }
    for name, row in BLOCKS.items():
        if row.start is not None:
            there[name] = has_block(settings, name, row.switch)
    return frozenset(name for name, is_there in there.items() if is_there)


def start_optional(name: str, settings: Settings, n_patterns: int, window: Window) -> np.ndarray:
    """The starting value of a block of :func:`present_blocks`: its parameter, else the default of its row."""
    if name == "static_background":
        background = start_background(settings, window)
        assert background is not None  # a present block
        return background
    value, start = settings.value(name), BLOCKS[name].start
    if value is None and start is not None:
        return start(n_patterns)
    return np.atleast_1d(value)
