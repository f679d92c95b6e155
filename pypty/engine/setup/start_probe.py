"""The starting probe: given, or made from the aperture or a pattern; then scaled, aberrated, and split into modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pypty.data.window import Window
from pypty.errors import ParameterError
from pypty.optics import modes, probes
from pypty.optics.grid import Grid
from pypty.params.checks.effects import source_size_A
from pypty.params.settings import Settings

_MONTE_CARLO = 1
"""Number of the random stream of ``seed`` for the source."""


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


def probe_modes(settings: Settings) -> int:
    """How many modes the starting probe has."""
    probe = settings["probe"]
    if isinstance(probe, np.ndarray) and settings["epoch_prev"] > 0:
        return probe.shape[2] if probe.ndim > 2 else 1
    if settings["mc_n_modes"] is not None:
        return int(settings["mc_n_modes"])
    n = probe.shape[2] if isinstance(probe, np.ndarray) and probe.ndim > 2 else 1
    if settings["defocus_spread_modes"] is not None:
        n = len(settings["defocus_spread_modes"])
    if settings["n_hermite_probe_modes"] is not None:
        # of every defocus; otherwise of the first mode alone, as in PyPty 2.2
        n = (n if settings["defocus_spread_modes"] is not None else 1) * int(
            np.prod(settings["n_hermite_probe_modes"] + 1)
        )
    return n


def n_subscans(settings: Settings) -> int:
    """How many probes there are (``probe_marker``)."""
    marker, probe = settings["probe_marker"], settings["probe"]
    if marker is None:
        return 1
    n_given = probe.shape[3] if isinstance(probe, np.ndarray) and probe.ndim == 4 else 0
    return max(n_given, int(marker.max()) + 1)


def start_probe(settings: Settings, grid: Grid, window: Window, counts: Counts | None) -> np.ndarray:
    """(mode, y, x), or (subscan, mode, y, x) with ``probe_marker``.

    It is scaled so that its vacuum pattern, summed over the modes of the object, has the counts of the mean pattern.
    A given probe is not scaled with ``skip_preprocessing``, or when an earlier run is continued. Then, in this order:
    ``extra_probe_defocus``, ``aberrations``, ``beam_ctf``, and modes by ``mc_n_modes`` or ``defocus_spread_modes`` and
    ``n_hermite_probe_modes``.
    """
    given_probe = settings["probe"]
    near = window.near_field
    if given_probe is None:
        if counts is None:
            raise ParameterError("probe: without data it cannot be made from their mean; give it as an array")
        subscans = [_from_pattern(settings, counts.pattern, near)]
    elif isinstance(given_probe, str):
        mask = settings["aperture_mask"]
        assert mask is not None
        subscans = [probes.probe_from_spectrum(aperture(mask, grid.shape).astype(complex))[None]]
    else:
        subscans = [window.probe_on_model(modes_) for modes_ in _given_modes(given_probe)]
    array_given = isinstance(given_probe, np.ndarray)
    if not (array_given and settings["epoch_prev"] > 0):  # an earlier run's probe holds what made its start
        scaled = counts is not None and not (array_given and settings["skip_preprocessing"])
        scale = _scale(settings, subscans, counts, near) if scaled else 1.0
        subscans = [_modulated(scale * probe, settings, grid) for probe in subscans]
    if settings["probe_marker"] is None:
        return subscans[0]
    missing = n_subscans(settings) - len(subscans)
    # subscans without a probe of their own start with the first one: (subscan, mode, y, x)
    return np.stack([*subscans, *[subscans[0]] * missing])


def _scale(settings: Settings, subscans: Sequence[np.ndarray], counts: Counts | None, near: bool) -> float:
    """Factor of the amplitude; every object mode transmits the whole probe, so their weights add up."""
    weights = settings["obj_mode_weights"]
    object_modes = 1 if settings["obj"] is None else settings["obj"].shape[3]
    # without weights every object mode counts once
    total_weight = object_modes if weights is None else weights.sum()
    ratio = np.mean([_count_ratio(probe, counts, near) for probe in subscans])
    return float(np.sqrt(ratio / total_weight))


def _given_modes(probe: np.ndarray) -> list[np.ndarray]:
    """(mode, y, x) of every subscan of the parameter ``probe``."""
    modes_ = probe if probe.ndim > 2 else probe[..., None]
    if modes_.ndim == 3:
        return [modes_.transpose(2, 0, 1)]  # (y, x, mode) -> (mode, y, x)
    return list(modes_.transpose(3, 2, 0, 1))  # (y, x, mode, subscan) -> (subscan, mode, y, x)


def _from_pattern(settings: Settings, pattern: np.ndarray, near: bool) -> np.ndarray:
    threshold = settings["estimate_aperture_based_on_binary"]
    if threshold > 0:
        pattern = (pattern > threshold * pattern.mean()).astype(float)
        if not pattern.any():
            raise ParameterError(
                f"estimate_aperture_based_on_binary: no pixel of the mean pattern is above {threshold:g} times its "
                "mean; lower it"
            )
    return (
        np.sqrt(np.maximum(pattern, 0))[None].astype(complex) if near else probes.probe_from_pattern(pattern)
    )


def _modulated(probe: np.ndarray, settings: Settings, grid: Grid) -> np.ndarray:
    """Apply defocus, aberrations and transfer function, and split the probe into modes."""
    if settings["extra_probe_defocus"]:
        probe = probes.defocus(probe, grid, settings["extra_probe_defocus"])
    if settings["aberrations"] is not None:
        probe = probes.aberrate(probe, grid, settings["aberrations"])
    if settings["beam_ctf"] is not None:
        ctf = settings["beam_ctf"]
        # a transfer function without the padding is padded with zeros
        rim = [
            ((n - have) // 2, n - have - (n - have) // 2)
            for n, have in zip(grid.shape, ctf.shape, strict=True)
        ]
        # centred -> zero frequency first
        probe = probes.modulate(probe, np.fft.ifftshift(np.pad(ctf, rim)))
    if settings["mc_n_modes"] is not None:
        size_x, size_y = source_size_A(settings)
        return modes.monte_carlo_modes(
            probe,
            grid,
            n_modes=settings["mc_n_modes"],
            n_samples=settings["n_mc_samples"],
            focal_spread_A=settings["focal_spread"],
            source_size_y_A=size_y,
            source_size_x_A=size_x,
            source_covariance_A2=settings["spatial_coh_xy"],
            rng=np.random.default_rng([settings["seed"], _MONTE_CARLO]),
        )
    if settings["defocus_spread_modes"] is not None:
        probe = modes.defocus_spread_modes(probe, grid, settings["defocus_spread_modes"])
    if settings["n_hermite_probe_modes"] is not None:
        n_x, n_y = (int(n) for n in settings["n_hermite_probe_modes"])
        # the first mode alone, as in PyPty 2.2, or all products with the defoci: (defocus, b, a) -> (mode, y, x)
        parts = probe[:, None] if settings["defocus_spread_modes"] is not None else probe[None]
        probe = np.concatenate([modes.hermite_modes(part, n_x, n_y) for part in parts])
    return probe


def aperture(mask: np.ndarray | float, shape: tuple[int, int]) -> np.ndarray:
    """(ky, kx) centred aperture: the given mask, or a disk whose radius is a fraction of Nyquist."""
    if isinstance(mask, np.ndarray):
        return mask
    fy = np.fft.fftshift(np.fft.fftfreq(shape[0]))[:, None]
    fx = np.fft.fftshift(np.fft.fftfreq(shape[1]))[None, :]
    return (np.hypot(fy, fx) <= 0.5 * mask).astype(float)


def _count_ratio(probe: np.ndarray, counts: Counts | None, near: bool) -> float:
    """Measured over modelled counts, summed with the weights of the detector."""
    assert counts is not None
    wave = probe if near else probes.spectrum_of_probe(probe)
    # (mode, ny, nx) -> (ny, nx)
    modelled = (np.abs(wave) ** 2).sum(axis=0)
    seen = np.ones_like(counts.mean) if counts.weights is None else counts.weights
    power = float((modelled * seen).sum())
    return float((counts.mean * seen).sum() / power) if power > 0 else 1.0
