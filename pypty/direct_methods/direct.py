"""Direct methods: a complex object on the scan grid in one step, by Wigner deconvolution or single sidebands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.direct_methods.numerics.scan_transform import scan_frequencies_px
from pypty.direct_methods.numerics.sideband import sideband_spectrum
from pypty.direct_methods.numerics.wigner import Deconvolution, object_spectrum
from pypty.errors import ParameterError
from pypty.experiment import CALIBRATED, Experiment
from pypty.optics.aberrations import aberration_phase
from pypty.optics.grid import Grid
from pypty.optics.probes import resize
from pypty.optics.scan_grid import rotation_yx
from pypty.output.files import make_folder, write_array


def wdd(
    pypty_params: Mapping[str, Any],
    eps_wiener: float = 1e-3,
    thresh: float | None = None,
    save: int | bool = 0,
    *,
    absolute_eps: bool = False,
    largest_GiB: float = 1.0,
    precision: str = "single",
) -> np.ndarray:
    """The object by Wigner distribution deconvolution (Rodenburg and Bates, Phil. Trans. R. Soc. A 339 (1992) 521).

    The probe is ``probe`` (its first mode), or made from the mean pattern, with ``extra_probe_defocus`` and
    ``aberrations``. Object frequencies reach the Nyquist frequency of the scan, or twice the aperture.

    Parameters
    ----------
    pypty_params : with the patterns, ``acc_voltage``, ``scan_size``, ``scan_step_A``, ``PLRotation_deg`` and the size
        of a detector pixel
    eps_wiener : of the Wiener filter H W*/(eps + |W|^2), as a fraction of the largest |W|^2 at Q = 0: the result does
        not depend on the dose, or on the unit of the data. Larger: less noise, high frequencies damped
    thresh : if given, H/W where |W| is at least ``thresh`` times max |A|^2 / pixels and 0 elsewhere, instead of the
        Wiener filter
    save : also write ``wdd/object.npy`` in ``output_folder``
    absolute_eps : take ``eps_wiener`` itself, in (counts / pixels)^2, as PyPty 2.2 does
    largest_GiB : of the patterns transformed over the scan. If they take more, the data are read several times
    precision : "single" (as PyPty's; rounding is far below the noise of counts) or "double"

    Returns
    -------
    (slow, fast) complex64 or complex128: the transmission function at the points of the scan, its mean 1. (PyPty 2.2
    leaves a factor that depends on the number of pixels and points.)

    Raises
    ------
    ParameterError, DataError
        A parameter is wrong or missing; the data cannot be read.
    """
    _check_positive(eps_wiener=eps_wiener, largest_GiB=largest_GiB)
    if thresh is not None:
        _check_positive(thresh=thresh)

    def spectrum(experiment: Experiment) -> np.ndarray:
        wave = _probe_spectrum(experiment)
        power = np.abs(wave) ** 2
        unit = 1.0 if absolute_eps else float(power.mean() ** 2)  # |W| is largest at Q = 0, r = 0
        smallest = None if thresh is None else thresh * float(power.max()) / power.size
        return object_spectrum(
            experiment.chunks,
            experiment.scan_size,
            frequencies_px=_frequencies_px(experiment),
            spectrum=wave.astype(_complex_type(precision)),
            deconvolution=Deconvolution(eps_wiener * unit, smallest),
            largest_bytes=int(largest_GiB * 2**30),
            n_threads=experiment.settings["n_threads"],
        )

    return _object(pypty_params, spectrum, "wdd" if save else "")


def ssb(
    pypty_params: Mapping[str, Any],
    eps: float = 1e-3,
    save: int | bool = 0,
    *,
    largest_GiB: float = 1.0,
    precision: str = "single",
) -> np.ndarray:
    """The object from single sidebands (Pennycook et al., Ultramicroscopy 151 (2015) 160), for weak objects.

    For each object frequency the pixels are used in which the direct disk overlaps only one scattered disk. Pixels
    outside of the disk are not used. Aberrations (``extra_probe_defocus``, ``aberrations``, or the phase of ``probe``)
    are corrected. ``np.angle`` of the result is the phase, quantitative as long as it is small against 1 rad.

    Parameters
    ----------
    pypty_params : as for :func:`wdd`; the disk is ``aperture_mask``, else that of ``conv_semiangle_mrad``, else the
        bright pixels of the mean pattern
    eps : frequencies whose overlap is a smaller fraction of the disk are damped
    save : also write ``ssb/object.npy`` in ``output_folder``
    largest_GiB : as for :func:`wdd`; here only the disk counts
    precision : "single" or "double"

    Returns
    -------
    (slow, fast) complex64 or complex128: the transmission function at the points of the scan, its mean 1

    Raises
    ------
    ParameterError, DataError
        A parameter is wrong or missing; the data cannot be read.
    """
    _check_positive(eps=eps, largest_GiB=largest_GiB)

    def spectrum(experiment: Experiment) -> np.ndarray:
        return sideband_spectrum(
            experiment.chunks,
            experiment.scan_size,
            frequencies_px=_frequencies_px(experiment),
            spectrum=_disk(experiment).astype(_complex_type(precision)),
            eps=eps,
            largest_bytes=int(largest_GiB * 2**30),
            n_threads=experiment.settings["n_threads"],
        )

    return _object(pypty_params, spectrum, "ssb" if save else "")


def _object(
    params: Mapping[str, Any], spectrum: Callable[[Experiment], np.ndarray], folder_to_save: str
) -> np.ndarray:
    """Transform the spectrum of the object back, with mean 1."""
    experiment = Experiment.from_params(params, needs=CALIBRATED)
    try:
        settings = experiment.settings
        if settings["masks"] is not None:
            raise ParameterError("direct methods need whole patterns, and masks are given; remove them")
        if settings["recon_type"] != "far_field":
            raise ParameterError(
                f"recon_type is {settings['recon_type']!r}; direct methods need patterns of the far field"
            )
        if folder_to_save and not settings["output_folder"]:
            raise ParameterError("save is set, but output_folder is not; name a folder")
        object_spectrum = spectrum(experiment)
    finally:
        experiment.source.close()
    if abs(object_spectrum[0, 0]) == 0:
        raise ParameterError(
            "the mean of the object is 0: there are no counts in the probe's disk, or thresh is too large"
        )
    # the factor makes the mean of the image 1: O(0) of an unnormalised transform is mean x points
    image = np.fft.ifft2(object_spectrum * (object_spectrum.size / object_spectrum[0, 0])).astype(
        object_spectrum.dtype
    )
    if folder_to_save:
        write_array(make_folder(Path(settings["output_folder"]) / folder_to_save) / "object.npy", image)
    return image


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (isinstance(value, (int, float, np.number)) and np.isfinite(value) and value > 0):
            raise ParameterError(f"{name} is {value!r}, expected a number above 0")


def _complex_type(precision: str) -> Any:
    if precision not in ("single", "double"):
        raise ParameterError(f"precision is {precision!r}, expected 'single' or 'double'")
    return np.complex64 if precision == "single" else np.complex128


def _frequencies_px(experiment: Experiment) -> np.ndarray:
    rotation = rotation_yx(experiment.rotation_deg)
    return scan_frequencies_px(experiment.scan_size, experiment.step_A, rotation, experiment.pixel_1A)


def _aberration_factor(experiment: Experiment) -> np.ndarray:
    """(ky, kx) exp(-i chi), zero frequency at n//2."""
    shape, pixel = experiment.pattern_shape, experiment.pixel_1A
    grid = Grid(shape, (1 / (shape[0] * pixel[0]), 1 / (shape[1] * pixel[1])), experiment.wavelength)
    return np.fft.fftshift(np.exp(-1j * aberration_phase(grid, experiment.aberrations_A)))


def _probe_spectrum(experiment: Experiment) -> np.ndarray:
    """(ky, kx) complex128 A(k) on the pixels of a pattern, with the counts of the mean pattern."""
    settings = experiment.settings
    pattern = settings["mean_pattern"]
    if pattern is None:
        pattern = experiment.mean_pattern
    else:
        recorded = experiment.preprocess.patterns(np.asarray(pattern, float))
        pattern = experiment.factor * _resized(recorded, experiment.pattern_shape)
    pattern = np.maximum(pattern, 0.0)
    if not pattern.any():
        raise ParameterError(
            "the mean pattern is 0 everywhere; check data_path, data_multiplier and mean_pattern"
        )
    wave = _given_spectrum(experiment)
    if wave is None:
        return np.sqrt(pattern) * _aberration_factor(experiment)
    # the counts of the data: |W|^2, and with it eps_wiener, are in these units
    return wave * np.sqrt(pattern.sum() / (np.abs(wave) ** 2).sum())


def _given_spectrum(experiment: Experiment) -> np.ndarray | None:
    """The spectrum of ``probe`` (first mode and subscan) on the pixels of a pattern, or None.

    ``probe`` is in the window of the reconstruction, or in that of a pattern, as for a reconstruction.
    """
    settings = experiment.settings
    probe = settings["probe"]
    if probe is None:
        return None
    if isinstance(probe, str):
        return experiment.aperture * _aberration_factor(experiment)
    window = experiment.window
    # (y, x[, mode[, subscan]]) -> (y, x): the first mode of the first subscan
    mode = probe.reshape(*probe.shape[:2], -1)[:, :, 0]
    wave = window.spectrum_on_pattern(window.probe_on_model(mode[None]))[0]
    if not wave.any():
        raise ParameterError("probe is 0 on the detector; check its window, data_pad and upsample_pattern")
    # an earlier run's probe contains its aberrations already
    return wave if settings["epoch_prev"] > 0 else wave * _aberration_factor(experiment)


def _resized(pattern: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return resize(np.asarray(pattern, float)[None], shape)[0]


def _disk(experiment: Experiment) -> np.ndarray:
    """(ky, kx) complex128: constant modulus in the aperture, the phase of the probe, 0 outside."""
    inside = experiment.aperture
    if not inside.any():
        raise ParameterError("no pixel is inside the aperture; correct conv_semiangle_mrad or aperture_mask")
    wave = _given_spectrum(experiment)
    factor = _aberration_factor(experiment) if wave is None else np.exp(1j * np.angle(wave))
    # |A|^2 in the disk is the mean count, so that the fit needs no scale
    level = float(experiment.mean_pattern[inside].mean())
    if level <= 0:
        raise ParameterError(
            "there are no counts inside the aperture; correct its centre or data_shift_vector"
        )
    return np.sqrt(level) * inside * factor
