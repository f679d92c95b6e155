"""The starting probe: from a vacuum pattern, conjugated, aligned with the measured disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.window import Window
from pypty.errors import ParameterError
from pypty.experiment import Experiment
from pypty.initialize.common import checked, model_shape, pattern_shape
from pypty.optics import probes
from pypty.params.settings import Settings


def conjugate_beam(pypty_params: Mapping[str, Any]) -> dict[str, Any]:
    """Change the sign of all aberrations of the beam, i.e. of the phases of its spectrum.

    aberrations, aberrations_array, extra_probe_defocus, defocus_spread_modes, beam_ctf and the recorded defocus are
    negated; the spectrum of a probe array is replaced by its complex conjugate.

    Returns
    -------
    new dict
    """
    settings = checked(pypty_params)
    out = dict(pypty_params)
    for name in ("aberrations", "aberrations_array", "defocus_spread_modes", "beam_ctf"):
        if out.get(name) is not None:
            out[name] = -np.array(settings.value(name), float)
    for name in ("extra_probe_defocus", "defocus"):
        if out.get(name) is not None:
            out[name] = -float(out[name]) if float(out[name]) else 0.0  # not -0.0
    if isinstance(settings["probe"], np.ndarray):
        out["probe"] = _on_planes(
            settings["probe"],
            lambda planes: probes.probe_from_spectrum(probes.spectrum_of_probe(planes).conj()),
        )
    return out


def _on_planes(probe: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply ``change``, a function of arrays (…, y, x), to a probe (y, x[, modes[, subscans]])."""
    return np.moveaxis(change(np.moveaxis(np.asarray(probe), (0, 1), (-2, -1))), (-2, -1), (0, 1))


def get_focussed_probe_from_vacscan(
    pypty_params: Mapping[str, Any], mean_pattern: np.ndarray
) -> dict[str, Any]:
    """The probe in focus, from a pattern measured without a specimen.

    Parameters
    ----------
    mean_pattern : (ky, kx) counts as measured, zero frequency at n//2; flip_ky, data_shift_vector and data_bin of the
        parameters are applied to it, as to the data

    Returns
    -------
    new dict with probe (y, x, 1) complex, in the window of the waves. aberrations and extra_probe_defocus are kept, and
    are applied to it when a reconstruction starts.

    Raises
    ------
    ParameterError
        The pattern does not fit the data, or has no counts.
    """
    settings = checked(pypty_params)
    pattern = _prepared(settings, mean_pattern) * float(settings["data_multiplier"])
    pattern = Window.of(settings, pattern.shape).counts_on_model(pattern)
    return {**pypty_params, "probe": probes.probe_from_pattern(pattern)[0][..., None]}


def append_aperture_to_params(pypty_params: Mapping[str, Any], mean_pattern: np.ndarray) -> dict[str, Any]:
    """The aperture from a pattern measured without a specimen.

    Parameters
    ----------
    mean_pattern : (ky, kx) as for :func:`get_focussed_probe_from_vacscan`; pixels above bright_threshold (0.1) times
        its maximum are inside

    Returns
    -------
    new dict with aperture_mask (ky, kx) bool in the padded window
    """
    settings = checked(pypty_params)
    pattern = _prepared(settings, mean_pattern)
    threshold = settings["bright_threshold"]
    inside = pattern > (0.1 if threshold is None else float(threshold)) * pattern.max()
    mask = Window.of(settings, inside.shape).mask_on_model(inside)
    return {**pypty_params, "aperture_mask": mask}


def _prepared(settings: Settings, pattern: Any) -> np.ndarray:
    """A pattern as measured, after flip, shift and binning; negative counts are 0."""
    counts = np.asarray(pattern)
    if (
        counts.ndim != 2
        or counts.dtype.kind not in "biuf"
        or not np.isfinite(counts).all()
        or not counts.max() > 0
    ):
        raise ParameterError(
            f"mean_pattern has shape {counts.shape} and dtype {counts.dtype}; expected finite "
            "counts (ky, kx), not all 0"
        )
    steps = Preprocess.from_settings(settings).unpadded
    out = np.maximum(steps.patterns(counts.astype(float)), 0)
    has_data = settings["dataset"] is not None or settings["masks"] is not None or settings["data_path"]
    expected = pattern_shape(settings) if has_data else None
    if expected is not None and out.shape != expected:
        raise ParameterError(
            f"mean_pattern has shape {counts.shape}, but patterns of the data are {expected} after binning"
        )
    return out


def tiltbeamtodata(pypty_params: Mapping[str, Any], align_type: str = "com") -> dict[str, Any]:
    """Tilt the probe so that its pattern is aligned with the mean measured pattern.

    Parameters
    ----------
    pypty_params : with probe as an array, and data
    align_type : "com": align the centres of mass; "cross_corr": maximise the cross-correlation of the amplitudes of
        both patterns, with sub-pixel precision by a parabola

    Returns
    -------
    new dict with probe; all modes are multiplied by the same plane wave

    Raises
    ------
    ParameterError
        No probe array is given, it does not fit the data, or ``align_type`` is unknown.
    """
    settings = checked(pypty_params)
    probe = settings["probe"]
    if not isinstance(probe, np.ndarray):
        raise ParameterError(
            "tiltbeamtodata needs probe as an array (y, x, modes); see get_focussed_probe_from_vacscan"
        )
    if align_type not in ("com", "cross_corr"):
        raise ParameterError(f"align_type is {align_type!r}, expected 'com' or 'cross_corr'")
    measured = _mean_in_window(pypty_params, settings)
    spectrum = probes.spectrum_of_probe(np.moveaxis(probe, (0, 1), (-2, -1)))
    # Incoherent sum over modes and subscans: (..., y, x) -> (y, x)
    simulated = (np.abs(spectrum) ** 2).reshape(-1, *probe.shape[:2]).sum(axis=0)
    if simulated.shape != measured.shape:
        raise ParameterError(
            f"the probe has {simulated.shape} pixels, but the data have {measured.shape}; resize the probe"
        )
    shift = (
        _centre(measured) - _centre(simulated)
        if align_type == "com"
        else _correlation_shift(simulated, measured)
    )
    ny, nx = simulated.shape
    y, x = (np.arange(ny) - ny // 2)[:, None], (np.arange(nx) - nx // 2)[None, :]
    # A plane wave in real space shifts the spectrum by ``shift`` pixels.
    wave = np.exp(2j * np.pi * (shift[0] * y / ny + shift[1] * x / nx))
    return {**pypty_params, "probe": probe * wave.reshape(ny, nx, *(1,) * (probe.ndim - 2))}


def _mean_in_window(params: Mapping[str, Any], settings: Settings) -> np.ndarray:
    if settings["mean_pattern"] is not None:
        mean = _prepared(settings, settings["mean_pattern"])
    else:
        # The probe is not needed for the mean, and might not fit the data.
        experiment = Experiment.from_params({**params, "probe": None})
        try:
            mean = experiment.mean_pattern
        finally:
            experiment.source.close()
    window = model_shape(settings)
    out = Window.of(settings, mean.shape).counts_on_model(mean)
    if out.shape != window:
        raise ParameterError(
            f"the probe has {window} pixels, but the padded mean pattern has {out.shape}; resize the probe"
        )
    return out


def _centre(pattern: np.ndarray) -> np.ndarray:
    """Centre of mass [y, x], px."""
    total = pattern.sum()
    if not total > 0:
        raise ParameterError("a pattern without counts has no centre")
    y, x = (np.arange(n) for n in pattern.shape)
    return np.array([pattern.sum(axis=1) @ y, pattern.sum(axis=0) @ x]) / total


def _correlation_shift(simulated: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """[y, x] px that moves the pattern ``simulated`` onto ``measured``."""
    a, b = np.fft.fft2(np.sqrt(simulated)), np.fft.fft2(np.sqrt(measured))
    correlation = np.fft.ifft2(b * a.conj()).real
    peak = np.array(np.unravel_index(int(correlation.argmax()), correlation.shape))
    shift = []
    for axis, n in enumerate(correlation.shape):
        line = np.take(correlation, peak[1 - axis], axis=1 - axis)  # profile through the peak along this axis
        before, here, after = (line[(peak[axis] + step) % n] for step in (-1, 0, 1))
        bend = before - 2 * here + after
        fraction = (
            0.5 * (before - after) / bend if bend < 0 else 0.0
        )  # vertex of the parabola through three points
        shift.append((peak[axis] + fraction + n / 2) % n - n / 2)  # into [-n/2, n/2)
    return np.array(shift)
