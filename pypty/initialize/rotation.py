"""PLRotation_deg="auto": measure the rotation between scan and detector from the data."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from pypty.direct_methods.numerics.bright_field import BrightField, binned_detectors, collect, image_shifts_A
from pypty.direct_methods.numerics.com import centres_of_mass
from pypty.direct_methods.numerics.rotation import attraction, rotation_from_com
from pypty.errors import DataError
from pypty.experiment import Experiment

_log = logging.getLogger(__name__)
_ACROSS = 6
"""Number of groups of bright-field pixels across the disk."""
_LEAST_SHIFT = 0.5
"""Smallest shift of the outermost images, in scan steps, that distinguishes the two angles."""
_UNSURE = 0.2
"""Skewness of the divergence, or relative gain of power, below which the two angles are not distinguished."""


@dataclass(frozen=True)
class MeasuredRotation:
    """A measured rotation.

    Attributes
    ----------
    angle_deg : PLRotation_deg
    centres : (N, 2) [y, x] centres of mass, px
    sure : whether the data decide between the angle and half a turn from it
    """

    angle_deg: float
    centres: np.ndarray
    sure: bool


def measure_rotation(experiment: Experiment) -> MeasuredRotation:
    """The angle that minimises the curl of the centres of mass, and the choice between it and the angle + 180 degrees.

    If the defocus is known and shifts bright-field images by more than half a scan step, these images decide: at the
    right angle they add up in register (tcBF). Otherwise atoms are assumed to attract the beam
    (:func:`pypty.direct_methods.numerics.rotation.rotation_from_com`), which holds for a probe that is not much larger
    than the distance between atoms.
    """
    centres = _centres(experiment)
    maps = centres.reshape(*experiment.scan_size, 2)
    angle = rotation_from_com(maps[..., 0], maps[..., 1])
    gain = None if experiment.settings["masks"] is not None else _alignment_gain(experiment, angle)
    if gain is None:
        how, strength = "atoms attract the beam", attraction(maps[..., 0], maps[..., 1], angle)
    else:
        how, strength = "bright-field images in register", abs(gain)
        if gain < 0:
            angle = float(180.0 - (-angle) % 360.0)
    sure = strength > _UNSURE
    _log.info(
        "PLRotation_deg measured: %.2f (chosen from it and its opposite by: %s, %.2f)", angle, how, strength
    )
    if not sure:
        _log.warning(
            "PLRotation_deg %.2f was measured, but the data hardly distinguish it from %.2f; compare both, or give it",
            angle,
            float(180.0 - (-angle) % 360.0),
        )
    return MeasuredRotation(angle, centres, sure)


def _centres(experiment: Experiment) -> np.ndarray:
    masks = experiment.settings["masks"]
    if masks is None:
        return centres_of_mass(experiment.chunks(), (experiment.n_patterns, *experiment.pattern_shape))
    y, x = (np.arange(n) - n // 2 for n in masks.shape[1:])
    weights = masks.sum(axis=(1, 2))
    # (D, 2): centre of mass of each virtual detector
    of_mask = np.stack([masks.sum(axis=2) @ y, masks.sum(axis=1) @ x], axis=1) / weights[:, None]
    sums = np.concatenate([patterns[:, 0] for _, patterns in experiment.chunks()]).astype(float)
    total = sums.sum(axis=1, keepdims=True)
    if not (total > 0).all():
        raise DataError("a position has no counts in any virtual detector; give PLRotation_deg as a number")
    return sums @ of_mask / total  # (N, D) @ (D, 2) -> (N, 2)


def _alignment_gain(experiment: Experiment, angle_deg: float) -> float | None:
    """(P+ - P-)/(P+ + P-), P the power of the sum of bright-field images shifted for the angle (+) or its opposite (-).

    None if the aberrations hardly shift the images. The test relies on C10: aberrations whose shifts do not change sign
    under a rotation by 180 degrees cannot distinguish the two angles.
    """
    aberrations = experiment.aberrations_A
    if not np.any(aberrations) or not experiment.aperture.any():
        return None
    radius = np.sqrt(experiment.aperture.sum() / np.pi)
    binning = max(1, round(2 * radius / _ACROSS))
    detectors = binned_detectors(experiment.aperture, experiment.pixel_1A, binning)
    shifts = [
        image_shifts_A(aberrations, detectors.k_1A, experiment.wavelength, turn) / experiment.step_A
        for turn in (angle_deg, angle_deg + 180)
    ]
    if np.linalg.norm(shifts[0] - shifts[1], axis=1).max() < 2 * _LEAST_SHIFT:
        return None
    field = collect(experiment.chunks(), detectors, experiment.scan_size)
    plus, minus = (_power_in_register(field, shift) for shift in shifts)
    return float((plus - minus) / max(plus + minus, np.finfo(float).tiny))


def _power_in_register(field: BrightField, shifts: np.ndarray) -> float:
    """Power, without the mean, of the sum of images shifted by ``shifts`` (D, 2), in scan points."""
    rows, columns = field.images.shape[1:]
    qy, qx = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None, :]
    total = np.zeros((rows, columns), complex)
    for image, (y, x) in zip(field.images, shifts, strict=True):
        total += np.fft.fft2(image / max(float(image.mean()), 1e-30)) * np.exp(
            -2j * np.pi * (qy * y + qx * x)
        )
    total[0, 0] = 0  # the mean carries no information on the alignment
    return float((np.abs(total) ** 2).sum())
