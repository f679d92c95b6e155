"""The noise model of a run: the choice for ``algorithm`` "auto", and the bias of amplitude losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.data.disk import disk_facts
from pypty.data.noise import DetectorNoise, frequencies_without_signal, noise_problem, photon_transfer
from pypty.data.scan import fit_raster, missing_problem, stored_patterns
from pypty.data.survey import Survey
from pypty.data.weights import DetectorWeights
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.detector import measured_disk, scattering, semiangle_rad
from pypty.objective.bias import BIASED, expected_factor
from pypty.params.settings import Settings

_BYTES, _MOST_BYTES = 128 * 2**20, 2**30
"""Of patterns that are read to measure the noise: more than the first to have a block of 32 x 32 points, more than the
second to have one of 12 x 12."""
_SIDES = (12, 32, 64)
"""Scan points of the block of the raster along each axis: at least, enough, at most."""
_READ_BYTES = 64 * 2**20
"""Of patterns that are read at once."""
_MOST_PIXELS = 4096
_STRAIGHT = 0.1
"""Largest rms distance of the positions from an affine raster, in steps."""
_FLAT = 1e-6
"""Smallest area of a cell of the raster, relative to the squares of its steps, and of a pixel of the object."""
_BELOW_ZERO = "are whole numbers, but some are negative"
BIAS = 0.02
"""Bias of the phase from which on a loss is warned of."""


def choose_noise_model(setup: Setup) -> Settings:
    """The settings with ``algorithm`` "auto" replaced by what suits the patterns, and the reason among the choices.

    Nothing is chosen if ``loss_terms`` is given, nor before the patterns were surveyed.
    """
    settings, surveyed = setup.settings, setup.survey
    if settings["algorithm"] != "auto" or settings["loss_terms"] is not None:
        return settings
    virtual = settings["masks"] is not None
    if setup.source is None:  # patterns are simulated, and compared with nothing
        return settings.with_choice({"algorithm": "poisson_compressed" if virtual else "ml"})
    if surveyed is None:
        return settings
    if virtual:
        values, why = _for_virtual_detectors(surveyed)
    else:
        values, why = _for_patterns(setup, surveyed)
    given = " and ".join(f"{key} = {value:g}" for key, value in values.items() if key != "algorithm")
    text = f"algorithm = {values['algorithm']!r}{' with ' * bool(given)}{given} (auto): {why}"
    return settings.with_choice(values, text)


def _for_virtual_detectors(surveyed: Survey) -> tuple[Mapping[str, Any], str]:
    if surveyed.electron is not None:
        return {"algorithm": "poisson_compressed"}, "the virtual detectors hold whole counts"
    if surveyed.whole:
        return {"algorithm": "lsq_compressed"}, f"the sums of the virtual detectors {_BELOW_ZERO}"
    return {"algorithm": "lsq_compressed"}, (
        "the sums of the virtual detectors are not whole counts; for sums of electrons set algorithm = "
        "'poisson_compressed'"
    )


def _for_patterns(setup: Setup, surveyed: Survey) -> tuple[Mapping[str, Any], str]:
    settings, electron = setup.settings, surveyed.electron
    gain, readout = settings["detector_gain"], settings["readout_noise"]
    if gain != 1 or readout != 0:
        return {"algorithm": "poisson_gaussian"}, (
            f"detector_gain = {gain:g} and readout_noise = {readout:g} are given"
        )
    if electron == 1:
        return {"algorithm": "ml"}, "the patterns hold whole counts"
    if electron is not None and settings["data_normalization"] is not None:
        return _gaussian(electron, 0.0), "the patterns hold whole counts times a factor (data_normalization)"
    noise = measured_noise(setup)
    values = f"the values {_BELOW_ZERO if surveyed.whole and electron is None else 'are not whole counts'}"
    if isinstance(noise, DetectorNoise):
        return _gaussian(noise.gain, noise.readout), (
            f"{values}; their noise at scan frequencies without signal has the variance "
            f"{noise.gain:g} x mean + {noise.readout:g}²"
        )
    if electron is not None:  # nothing but the user's multiplier is between the values and whole numbers
        return {"algorithm": "ml"}, (
            f"the patterns hold whole numbers, which data_multiplier = {electron:g} is taken to make electrons; their "
            f"noise could not be measured: {noise}"
        )
    return {"algorithm": "lsq_sqrt"}, (
        f"{values}, and their noise could not be measured: {noise}. If they are electrons times "
        "a gain, or have read-out noise, set detector_gain and readout_noise; phases are too small otherwise. "
        "Noise-free simulations need nothing"
    )


def _gaussian(gain: float, readout: float) -> Mapping[str, Any]:
    return {"algorithm": "poisson_gaussian", "detector_gain": gain, "readout_noise": readout}


def measured_noise(setup: Setup) -> DetectorNoise | str:
    """Gain and read-out noise from a block of the raster, at most 64 x 64 points; or why there are none."""
    settings, size = setup.settings, setup.settings["scan_size"]
    assert setup.source is not None
    if setup.near_field:
        return "images of the near field have signal at every scan frequency"
    if size is None:
        return "scan_size, the raster, is not given"
    scan_size = (int(size[0]), int(size[1]))
    if missing_problem(settings["missing_patterns"], scan_size, setup.source.shape[0]):
        return "the raster has not as many points as there are patterns"
    numbers = _block(
        setup, stored_patterns(settings["scan_order"], scan_size, settings["missing_patterns"]), scan_size
    )
    if min(numbers.shape) < _SIDES[0]:
        return f"the raster is smaller than {_SIDES[0]} x {_SIDES[0]} points"
    if (numbers < 0).any():
        return "patterns are missing"
    alpha = semiangle_rad(setup, measured_disk(setup))
    if alpha is None:
        return "the patterns have no disk"
    rows, columns = (axis.ravel() for axis in np.indices(numbers.shape))
    positions = setup.scan.positions
    if len(positions) == 1:
        return "all patterns have the same position"
    pixel = np.array(setup.grid.pixel_size_A)
    fit, misfit = fit_raster(positions[numbers.ravel()] * pixel, rows, columns)
    cell = abs(np.linalg.det(fit[1:]))  # Å²
    if cell <= _FLAT * max(float((fit[1:] ** 2).sum()), float(pixel.prod())):
        return "all positions lie on a point or a line"
    if misfit > _STRAIGHT * math.sqrt(cell):
        return "the positions are no regular raster"
    free = frequencies_without_signal(numbers.shape, fit[1:], 2 * alpha / setup.grid.wavelength)
    return noise_problem(free) or photon_transfer(_series(setup, numbers), free)


def _block(setup: Setup, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(ny, nx) numbers of the patterns in the middle of the raster, -1 where there is none."""
    side = _side(_pattern_bytes(setup))
    raster = points.reshape(size)
    y, x = (max(0, (n - side) // 2) for n in size)
    return np.asarray(raster[y : y + side, x : x + side])


def _pattern_bytes(setup: Setup) -> int:
    assert setup.source is not None
    return 4 * math.prod(setup.source.shape[1:])


def _side(pattern_bytes: int) -> int:
    """Scan points along each side of the block that is read: of large patterns few, but enough for the noise."""
    smallest, enough, largest = _SIDES
    within, at_most = (math.isqrt(limit // pattern_bytes) for limit in (_BYTES, _MOST_BYTES))
    return min(largest, max(within, min(enough, at_most), smallest))


def _series(setup: Setup, numbers: np.ndarray) -> np.ndarray:
    """(ny, nx, pixels) float32 values of some good pixels, as they are compared with the model."""
    assert setup.source is not None
    weights, preprocess = DetectorWeights(setup.settings["detector_mask"]), setup.preprocess.unpadded
    seen = None if setup.survey is None else setup.survey.weights
    shape = preprocess.pattern_shape((setup.source.shape[1], setup.source.shape[2]))
    good = np.flatnonzero(np.ones(shape, bool) if seen is None else seen >= 1)
    pixels = good[np.linspace(0, len(good) - 1, min(len(good), _MOST_PIXELS)).astype(int)]
    order = np.sort(numbers.ravel())
    out = np.empty((len(order), len(pixels)), np.float32)
    step = max(1, min(numbers.shape[1], _READ_BYTES // _pattern_bytes(setup)))
    for start in range(0, len(order), step):
        chosen = order[start : start + step]
        data = preprocess.patterns(weights.blank(setup.source.read(chosen), chosen))
        out[start : start + step] = data.reshape(len(chosen), -1)[:, pixels] * setup.multiplier
    return out[np.searchsorted(order, numbers)]  # (ny, nx, pixels)


def phase_bias(setup: Setup) -> float:
    """The fraction by which phases are expected to be too small with the loss of the last epochs at this dose; 0 if it
    has no bias or if that cannot be told: the values are no counts, or the dark field is not seen."""
    settings, surveyed = setup.settings, setup.survey
    algorithm = _last_loss(settings)
    if algorithm not in BIASED or surveyed is None:
        return 0.0
    electron = surveyed.electron
    if electron is None or setup.near_field:
        return 0.0
    if settings["data_normalization"] is None:
        electron = 1.0  # data_multiplier makes electrons of the values
    if settings["masks"] is not None:
        dark = _dark_sums(setup)
        return 0.0 if dark is None else 1 - expected_factor(algorithm, dark / electron, 0.0, speckle=False)
    scattered = scattering(setup, electron)
    if scattered is None:
        return 0.0
    return 1 - expected_factor(algorithm, scattered.dark / electron, scattered.bright / electron)


def _dark_sums(setup: Setup) -> np.ndarray | None:
    """Mean sums of the virtual detectors that lie outside the disk; None if none does."""
    masks, mean = setup.settings["masks"], setup.mean_pattern()
    disk = None if mean is None else disk_facts(mean, setup.window.model_pixel_1A)
    if masks is None or disk is None or setup.survey is None:
        return None
    outside = np.array(
        [setup.window.counts_on_model(mask)[disk.outside].sum() > 0.5 * mask.sum() for mask in masks]
    )
    sums = setup.survey.mean.ravel()[outside]
    return sums if sums.any() else None


def bias_warning(setup: Setup) -> str | None:
    """What to say about the bias of the loss; None below 2 %."""
    bias = phase_bias(setup)
    if bias < BIAS:
        return None
    small = f"phases are expected to be about {100 * bias:.2g} % too small at this dose"
    steps = _last_steps(setup.settings)
    if steps:
        return (
            f"{steps}: preconditioned steps use the slope of amplitudes, whatever the algorithm, which is biased for "
            f"few counts: {small}; {bias_advice(setup)}"
        )
    return (
        f"algorithm = {setup.settings['algorithm']!r} is biased for few counts: {small}; {bias_advice(setup)}"
    )


def bias_advice(setup: Setup) -> str:
    """What makes the phases right where the loss of the last epochs is biased."""
    settings = setup.settings
    unbiased = "poisson_compressed" if settings["masks"] is not None else "ml"
    steps = _last_steps(settings)
    if not steps:
        return f"use algorithm = {unbiased!r} (or leave it out: auto)"
    asked = settings["algorithm"] in BIASED and settings["loss_terms"] is None
    loss = f", and use algorithm = {unbiased!r}" if asked else ""
    if steps.startswith("warmup_epochs"):
        return f"make epoch_max larger than warmup_epochs, so that L-BFGS ends the run{loss}"
    last = settings["epoch_max"]
    return f"end with L-BFGS: optimizer = \"lambda x: 'preconditioned' if x < N else 'lbfgs'\", N below {last}{loss}"


def _last_loss(settings: Settings) -> str:
    """The loss whose slope the last epochs use, a value of ``algorithm``; "" with ``loss_terms``."""
    if _last_steps(settings):  # objective/noise.py: bounded
        return "gauss_compressed" if settings["masks"] is not None else "lsq_sqrt"
    return "" if settings["loss_terms"] is not None else str(settings["algorithm"])


def _last_steps(settings: Settings) -> str:
    """Which key makes the last epoch one of preconditioned steps, with its value; "" if none does."""
    first, end = settings.first_epoch, int(settings["epoch_max"])
    last = max(first, end - 1)
    if settings.schedules["optimizer"].at(last) == "preconditioned":
        return "optimizer = 'preconditioned' in the last epoch"
    warm = settings["warmup_epochs"]
    if warm != "auto" and int(warm) >= end - first > 0 and settings.schedules["update_obj"].at(last):
        return f"warmup_epochs = {warm} are all epochs"
    return ""
