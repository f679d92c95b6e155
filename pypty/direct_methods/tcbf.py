"""Tilt-corrected bright field: aberrations from the shifts of bright-field images, and their corrected sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.direct_methods.numerics.bright_field import (
    BrightField,
    Detectors,
    binned_detectors,
    image_shifts_A,
    in_groups,
    subscan_chunks,
    virtual_detectors,
)
from pypty.direct_methods.numerics.bright_field_align import (
    BrightFieldScan,
    ShiftRound,
    better_start,
    fit_scan,
    refine_by_shifts,
    sharpest_defocus,
    turned,
)
from pypty.direct_methods.numerics.bright_field_drift import SteadyPatterns
from pypty.direct_methods.numerics.bright_field_fit import FitResult
from pypty.direct_methods.numerics.bright_field_shifts import CorrelationOptions, LeastSquares
from pypty.direct_methods.numerics.bright_field_sum import ShiftedSum, contrast_transfer, flip_contrast
from pypty.errors import ParameterError
from pypty.experiment import CALIBRATED, Experiment
from pypty.output.files import make_folder, write_array
from pypty.plots.bright_field import plot_tcbf

_IMAGE_BYTES = 256 * 2**20


def upsampled_tcbf(
    pypty_params: Mapping[str, Any],
    upsample: int = 5,
    pad: int = 10,
    compensate_lowfreq_drift: float | bool = False,
    ctf_sign_flip: bool = False,
    default_float: int = 64,
    round_shifts: bool = False,
    save: bool = False,
    max_parallel_fft: int | None = None,
    bin_fac: int = 1,
) -> tuple[np.ndarray, float]:
    """Sum of the bright-field images, each shifted according to the aberrations, on a finer grid.

    Parameters
    ----------
    pypty_params : needs scan, reciprocal pixel, aperture, PLRotation_deg, and aberrations or extra_probe_defocus
    upsample : pixels of the result per scan point, a whole number
    pad : scan points added on each side; 0 with upsample 1 gives an image on the scan grid, as
        ``get_ptycho_obj_from_scan`` takes it
    compensate_lowfreq_drift : False, or the threshold (0 to 1) of the bright disk whose drift is corrected
    ctf_sign_flip : the image is 1 + 2 sin(chi) phase of a weak object; flip the sign of the spatial frequencies at
        which sin(chi(q)) is negative (exact for C10 and C12), so that it can seed the phase of the object
    default_float : 64 or 32 bits
    round_shifts : shift by whole pixels of the result
    save : True writes image and figure into output_folder/tcbf
    max_parallel_fft : detectors transformed at a time; None = as many as 256 MiB hold. The data are read once for each
        group
    bin_fac : side of the squares of detector pixels that make one image

    Returns
    -------
    image (sy * upsample + 2 pad upsample, sx * upsample + 2 pad upsample), counts per detector, and its pixel in Å.
    Scan point (0, 0) is pixel (pad * upsample, pad * upsample)

    Raises
    ------
    ParameterError, DataError
        Parameters are wrong or incomplete, or the data cannot be read.
    """
    if default_float not in (32, 64):
        raise ParameterError(f"default_float is {default_float!r}, expected 32 or 64")
    with _opened(pypty_params) as experiment:
        total = ShiftedSum(
            experiment.scan_size, upsample, pad, np.float64 if default_float == 64 else np.float32
        )
        detectors = _detectors(experiment, bin_fac, None)
        pixel = experiment.step_A / upsample
        data = SteadyPatterns(experiment.chunks, experiment.n_patterns, compensate_lowfreq_drift)
        per_image = 4 * experiment.n_patterns
        largest = _IMAGE_BYTES if max_parallel_fft is None else max(1, int(max_parallel_fft)) * per_image
        for group in in_groups(data, detectors, experiment.scan_size, largest):
            shifts = image_shifts_A(
                experiment.aberrations_A, group.detectors.k_1A, experiment.wavelength, experiment.rotation_deg
            )
            shifts = shifts / pixel
            total.add(group.images, np.round(shifts) if round_shifts else shifts)
    image = total.image()
    if ctf_sign_flip:
        image = flip_contrast(image, _transfer(experiment, image, pixel))
    if save:
        folder = _folder(pypty_params)
        write_array(folder / "tcbf_upsampled.npy", image)
        plot_tcbf(image, pixel).savefig(folder / "tcbf_upsampled.png")
    return image, pixel


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Options of :func:`run_tcbf_alignment`, by its names."""

    binning_for_fit: tuple[int, ...] = (8,)
    save: bool = True
    optimize_angle: bool = True
    aberrations: np.ndarray | None = None
    n_aberrations_to_fit: int = 12
    reference_type: str = "bf"
    ctf_sign_flip: bool = False
    refine_box_dim: int = 2
    upsample: int = 3
    cross_corr_type: str = "phase"
    cancel_large_shifts: float | None = None
    pattern_blur_width: float | None = None
    scan_pad: int | None = None
    aperture: np.ndarray | None = None
    subscan_region: Sequence[int] | None = None
    compensate_lowfreq_drift: float | bool = False
    append_lowfreq_shifts_to_params: bool = True
    interpolate_scan_factor: int = 1
    binning_cross_corr: int = 1
    phase_cross_corr_formula: bool = False
    f_scale_lsq: float = 1
    x_scale_lsq: float | str = 1
    loss_lsq: str = "linear"
    tol_ctf: float = 1e-8
    method: str = "weak_phase"


def run_tcbf_alignment(
    params: Mapping[str, Any], binning_for_fit: Sequence[int] = (8,), **options: Any
) -> dict[str, Any]:
    """Aberrations and rotation of the scan from bright-field images.

    ``method="weak_phase"`` (default): both signs of defocus are tried, and aberrations and rotation are fitted so that
    a weak phase object explains most of the images (``bright_field_fit``), including side bands outside the disk.
    Orders are added as long as they explain more. Keywords of the cross-correlation have no effect then.

    ``method="shifts"``: as PyPty 2.2, for each entry of ``binning_for_fit`` the shifts of the images of squares of
    detector pixels are measured by cross-correlation and fitted by least squares.

    Parameters
    ----------
    params : needs scan, reciprocal pixel, aperture and PLRotation_deg, right within 90 degrees
    binning_for_fit : detector pixels per side of a square, one round for each entry
    optimize_angle : fit the rotation, too
    aberrations : start in Å; None = those of params or a scan of defocus, whichever explains more
    n_aberrations_to_fit : largest number of coefficients
    reference_type, refine_box_dim, upsample, cross_corr_type, scan_pad, binning_cross_corr, phase_cross_corr_formula :
        see ``CorrelationOptions``; cross_corr_type "phase" or "plain". interpolate_scan_factor multiplies upsample
    cancel_large_shifts : quantile (0 to 1) above which shifts that deviate from the model are left out
    pattern_blur_width : sigma in detector pixels by which each square is widened
    aperture : (ky, kx) bool, instead of that of params
    subscan_region : (top, left, bottom, right) scan points; only these are used
    compensate_lowfreq_drift : as for :func:`upsampled_tcbf`
    ctf_sign_flip, tol_ctf : of the image that is saved, and the smallest transfer that is flipped. (Images and their
        sum have the same transfer, which drops out of their correlation.)
    append_lowfreq_shifts_to_params : the shifts of the disk go into the result (aperture_shifts_y, aperture_shifts_x)
    f_scale_lsq, x_scale_lsq, loss_lsq : of scipy.optimize.least_squares
    save : True writes image and figure into output_folder/tcbf if there is an output_folder

    Returns
    -------
    dict
        New parameters: aberrations, extra_probe_defocus 0, PLRotation_deg, positions turned with it, probe None

    Raises
    ------
    ParameterError, DataError
        Parameters are wrong or incomplete, or the data cannot be read.
    """
    chosen = _read_options({"binning_for_fit": tuple(np.atleast_1d(binning_for_fit).tolist()), **options})
    with _opened(params) as experiment:
        if experiment.settings["masks"] is not None:
            raise ParameterError(
                "the data are sums over virtual detectors; use run_tcbf_compressed_alignment"
            )
        patterns = SteadyPatterns(experiment.chunks, experiment.n_patterns, chosen.compensate_lowfreq_drift)
        aperture = experiment.aperture if chosen.aperture is None else np.asarray(chosen.aperture) > 0.5
        if aperture.shape != experiment.pattern_shape:
            raise ParameterError(
                f"aperture has shape {aperture.shape}, patterns have {experiment.pattern_shape}"
            )
        data, size = subscan_chunks(patterns, experiment.scan_size, chosen.subscan_region)
        scan = BrightFieldScan(
            open_chunks=data,
            scan_size=size,
            step_A=experiment.step_A,
            wavelength=experiment.wavelength,
            pixel_1A=experiment.pixel_1A,
            aperture=aperture,
        )
        fit = _start(scan, experiment, chosen)
        if chosen.method == "weak_phase":
            fit = fit_scan(scan, fit, chosen.n_aberrations_to_fit, chosen.optimize_angle)
        else:
            fit = _padded_fit(fit, chosen.n_aberrations_to_fit)
            for binning in chosen.binning_for_fit:
                squares = binned_detectors(aperture, scan.pixel_1A, int(binning))
                if chosen.pattern_blur_width:
                    squares = squares.blurred(aperture.shape, float(chosen.pattern_blur_width))
                fit = _one_round(scan.images(squares), experiment, fit, chosen)
        drift = patterns.drift
    result = _result(params, fit, chosen.n_aberrations_to_fit)
    if drift is not None and chosen.append_lowfreq_shifts_to_params:
        result["aperture_shifts_y"], result["aperture_shifts_x"] = drift.T.copy()
    _save_alignment(result, chosen)
    return result


def run_tcbf_compressed_alignment(
    params: Mapping[str, Any], num_iterations: int = 5, **options: Any
) -> dict[str, Any]:
    """As :func:`run_tcbf_alignment` with ``method="shifts"``, for data summed over virtual detectors (``masks``).

    A detector counts at the centre of gravity of its mask; those that lie mostly outside the bright-field disk are left
    out if the disk is known (aperture_mask, conv_semiangle_mrad or ``aperture``).

    Parameters
    ----------
    num_iterations : rounds of measuring and fitting
    """
    if num_iterations < 1:
        raise ParameterError(f"num_iterations is {num_iterations!r}, expected at least 1")
    chosen = _read_options({"n_aberrations_to_fit": 3, **options, "method": "shifts"})
    with _opened(params) as experiment:
        if experiment.settings["masks"] is None:
            raise ParameterError("masks are not given; for whole patterns use run_tcbf_alignment")
        data, size = subscan_chunks(experiment.chunks, experiment.scan_size, chosen.subscan_region)
        detectors = _detectors(experiment, 1, chosen.aperture)
        (images,) = in_groups(data, detectors, size, 4 * size[0] * size[1] * len(detectors))
        start = _given_start(experiment, chosen)
        if not start.any():
            start = np.array(
                [sharpest_defocus(images, experiment.step_A, experiment.wavelength, experiment.rotation_deg)]
            )
        fit = _padded_fit(FitResult(start, experiment.rotation_deg, 0.0), chosen.n_aberrations_to_fit)
        for _ in range(num_iterations):
            fit = _one_round(images, experiment, fit, chosen)
    result = _result(params, fit, chosen.n_aberrations_to_fit)
    _save_alignment(result, chosen)
    return result


def _read_options(options: dict[str, Any]) -> Alignment:
    known = {field.name for field in dataclasses.fields(Alignment)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ParameterError(
            f"tcBF alignment has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    chosen = Alignment(**options)
    for name, allowed in (
        ("method", ("weak_phase", "shifts")),
        ("cross_corr_type", ("phase", "plain", "abs")),
    ):
        if getattr(chosen, name) not in allowed:
            raise ParameterError(f"{name} is {getattr(chosen, name)!r}, expected one of {', '.join(allowed)}")
    for name in (
        "n_aberrations_to_fit",
        "refine_box_dim",
        "upsample",
        "interpolate_scan_factor",
        "binning_cross_corr",
    ):
        value = getattr(chosen, name)
        if not isinstance(value, (int, float, np.number)) or value < 1 or value != int(value):
            raise ParameterError(f"{name} is {value!r}, expected a whole number from 1")
    return chosen


@contextmanager
def _opened(params: Mapping[str, Any]) -> Iterator[Experiment]:
    experiment = Experiment.from_params(params, needs=CALIBRATED)
    try:
        yield experiment
    finally:
        experiment.source.close()


def _detectors(experiment: Experiment, binning: int, aperture: np.ndarray | None) -> Detectors:
    """Squares of the bright-field disk, or the virtual detectors in it."""
    masks = experiment.settings["masks"]
    if masks is None:
        return binned_detectors(experiment.aperture, experiment.pixel_1A, binning)
    disk = aperture if aperture is not None else experiment.settings["aperture_mask"]
    if isinstance(disk, np.ndarray) and disk.shape == masks.shape[1:]:
        return virtual_detectors(masks, experiment.pixel_1A, disk > 0.5)
    angle = float(experiment.settings["conv_semiangle_mrad"] or 0.0)
    if not angle > 0:
        return virtual_detectors(masks, experiment.pixel_1A)
    ny, nx = masks.shape[1:]
    ky = (np.arange(ny) - ny // 2)[:, None] * experiment.pixel_1A[0]
    kx = (np.arange(nx) - nx // 2)[None] * experiment.pixel_1A[1]
    return virtual_detectors(
        masks, experiment.pixel_1A, np.hypot(ky, kx) * experiment.wavelength <= 1e-3 * angle
    )


def _given_start(experiment: Experiment, chosen: Alignment) -> np.ndarray:
    if chosen.aberrations is None:
        return experiment.aberrations_A
    return np.atleast_1d(np.asarray(chosen.aberrations, float))


def _start(scan: BrightFieldScan, experiment: Experiment, chosen: Alignment) -> FitResult:
    """The aberrations of the call, or the better of those of the parameters and of a scan of defocus."""
    start = FitResult(_given_start(experiment, chosen), experiment.rotation_deg, 0.0)
    if chosen.aberrations is not None:
        return start
    return better_start(scan, start, chosen.optimize_angle)


def _padded_fit(fit: FitResult, n_terms: int) -> FitResult:
    coefficients = np.zeros(n_terms)
    n = min(n_terms, len(fit.aberrations_A))
    coefficients[:n] = fit.aberrations_A[:n]
    return dataclasses.replace(fit, aberrations_A=coefficients)


def _one_round(images: BrightField, experiment: Experiment, fit: FitResult, chosen: Alignment) -> FitResult:
    size = images.images.shape[1:]
    pad = chosen.scan_pad
    if pad is None:
        # The images must not meet around the edges while they are shifted.
        shifts = image_shifts_A(
            fit.aberrations_A, images.detectors.k_1A, experiment.wavelength, fit.rotation_deg
        )
        pad = min(
            max(size), 1 + int(np.ceil(np.abs(shifts).max() / experiment.step_A)) + chosen.refine_box_dim
        )
    correlation = CorrelationOptions(
        reference=chosen.reference_type,
        phase=chosen.cross_corr_type == "phase",
        box=chosen.refine_box_dim,
        upsample=chosen.upsample * chosen.interpolate_scan_factor,
        binning=chosen.binning_cross_corr,
        formula=chosen.phase_cross_corr_formula,
        pad=int(pad),
    )
    least_squares = LeastSquares(chosen.loss_lsq, chosen.f_scale_lsq, chosen.x_scale_lsq)
    options = ShiftRound(correlation, least_squares, chosen.optimize_angle, chosen.cancel_large_shifts)
    return refine_by_shifts(images, experiment.step_A, experiment.wavelength, fit, options)[0]


def _result(params: Mapping[str, Any], fit: FitResult, n_terms: int) -> dict[str, Any]:
    """New parameters with the fit; positions rotated by the change of the rotation."""
    result = {
        **params,
        "aberrations": _padded_fit(fit, n_terms).aberrations_A,
        "extra_probe_defocus": 0.0,
        "PLRotation_deg": fit.rotation_deg,
        "probe": None,
    }
    turn = fit.rotation_deg - float(params.get("PLRotation_deg") or 0.0)
    return {**result, **turned(params, turn)}


def _folder(params: Mapping[str, Any]) -> Path:
    if not params.get("output_folder"):
        raise ParameterError("save is set, but output_folder is empty; give a folder, or save=False")
    return make_folder(Path(params["output_folder"]) / "tcbf")


def _save_alignment(result: Mapping[str, Any], chosen: Alignment) -> None:
    """Aberrations and the corrected image; nothing without an output folder."""
    if not chosen.save or not result.get("output_folder"):
        return
    shown = {key: value for key, value in result.items() if not key.startswith("aperture_shifts_")}
    image, pixel = upsampled_tcbf(shown, upsample=1, pad=0)
    if chosen.ctf_sign_flip:
        with _opened(shown) as experiment:
            image = flip_contrast(image, _transfer(experiment, image, pixel), chosen.tol_ctf)
    folder = _folder(result)
    write_array(folder / "aberrations_A.npy", np.asarray(result["aberrations"]))
    write_array(folder / "tcbf.npy", image)
    plot_tcbf(image, pixel).savefig(folder / "tcbf.png")


def _transfer(experiment: Experiment, image: np.ndarray, pixel: float) -> np.ndarray:
    """Contrast transfer of the experiment at the frequencies of an image."""
    return contrast_transfer(
        experiment.aberrations_A,
        image.shape,
        pixel_size_A=pixel,
        wavelength=experiment.wavelength,
        rotation_deg=experiment.rotation_deg,
    )
