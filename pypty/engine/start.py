"""The starting values of all unknowns, from the parameters and the mean pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pypty.backend.array import Backend
from pypty.data.scan import Scan
from pypty.errors import ParameterError
from pypty.model.variables import Variables, from_public
from pypty.optics import probes
from pypty.optics.grid import Grid
from pypty.params.settings import Settings


@dataclass(frozen=True)
class Counts:
    """Patterns for the start, all (ny, nx) in the padded window, centred.

    Attributes
    ----------
    mean : mean measured counts
    weights : mean detector weights, or None (all 1)
    pattern : counts from which a probe is made: ``mean_pattern`` if given, else the mean
    """

    mean: np.ndarray
    weights: np.ndarray | None
    pattern: np.ndarray


def start_variables(
    settings: Settings,
    scan: Scan,
    grid: Grid,
    counts: Counts | None,
    backend: Backend,
) -> Variables:
    """All unknowns at the start; ``counts`` is None without data."""
    obj = start_object(settings, scan)
    probe = start_probe(settings, grid, counts)
    return Variables(
        obj=from_public("obj", obj, backend),
        probe=backend.asarray(probe, backend.complex),
        positions=from_public("positions", scan.positions, backend),
        slice_distances=from_public("slice_distances", start_distances(settings, obj.shape[2]), backend),
    )


def start_distances(settings: Settings, n_slices: int) -> np.ndarray:
    """Slice distances, with a thicker first gap where ``edge_slice_thickness`` asks for one."""
    distances = np.atleast_1d(settings["slice_distances"]).astype(float)
    edge = settings["edge_slice_thickness"]
    if edge is not None and n_slices > 1 and edge > distances[0]:
        return np.array([edge, *[distances[0]] * (n_slices - 2)])
    return distances[: max(n_slices - 1, 1)]


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


def start_probe(settings: Settings, grid: Grid, counts: Counts | None) -> np.ndarray:
    """(mode, y, x): given, from the aperture, or from a pattern; then aberrated.

    It is scaled so that its vacuum pattern has the counts of the mean pattern. A given probe is not, with
    ``skip_preprocessing`` or when an earlier run is continued.
    """
    given = settings["probe"]
    if given is None:
        if counts is None:
            raise ParameterError("probe: without data it cannot be made from their mean; give it as an array")
        probe = probes.probe_from_pattern(counts.pattern)
    elif isinstance(given, str):
        probe = probes.probe_from_spectrum(aperture(settings["aperture_mask"], grid.shape).astype(complex))[
            None
        ]
    else:
        modes = given if given.ndim == 3 else given[..., None]
        probe = modes.transpose(2, 0, 1)
        if probe.shape[-2:] != grid.shape:
            probe = probes.resize_spectrum(probe, grid.shape)
    array_given = isinstance(given, np.ndarray)
    if array_given and settings["epoch_prev"] > 0:
        return probe  # of an earlier run: whatever made the start is in it
    if counts is not None and not (array_given and settings["skip_preprocessing"]):
        probe = probe * _count_scale(probe, counts)
    if settings["extra_probe_defocus"]:
        probe = probes.defocus(probe, grid, settings["extra_probe_defocus"])
    if settings["aberrations"] is not None:
        probe = probes.aberrate(probe, grid, settings["aberrations"])
    return probe


def aperture(mask: np.ndarray | float, shape: tuple[int, int]) -> np.ndarray:
    """(ky, kx) centred aperture: the given mask, or a disk whose radius is a fraction of Nyquist."""
    if isinstance(mask, np.ndarray):
        return mask
    fy = np.fft.fftshift(np.fft.fftfreq(shape[0]))[:, None]
    fx = np.fft.fftshift(np.fft.fftfreq(shape[1]))[None, :]
    return (np.hypot(fy, fx) <= 0.5 * mask).astype(float)


def _count_scale(probe: np.ndarray, counts: Counts) -> float:
    """Square root of measured over modelled counts, where the detector sees them."""
    modelled = (np.abs(probes.spectrum_of_probe(probe)) ** 2).sum(axis=0)
    seen = np.ones_like(counts.mean) if counts.weights is None else counts.weights
    power = float((modelled * seen).sum())
    return float(np.sqrt((counts.mean * seen).sum() / power)) if power > 0 else 1.0
