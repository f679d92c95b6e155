"""Checks of physical effects and constraints that need several parameters, at every epoch of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pypty.params.checks.model import without_effect_in_model
from pypty.params.report import Report
from pypty.params.schedule import Constant
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings

COMPRESSED = ("lsq_compressed", "gauss_compressed", "poisson_compressed")
"""Values of ``algorithm`` for virtual detectors."""
NARROWEST_BLUR = 0.2
"""Narrowest point spread that can be refined, in detector pixels: below, neighbours receive less than 1e-5 of the
counts, and the gradient vanishes."""
_SCAN_WEIGHTS = tuple(
    f"{kind}_reg_weight_{block}"
    for kind in ("fast_axis", "slow_axis", "deformation")
    for block in ("positions", "tilts")
)


_NOT_PLAIN = (
    "which needs every pattern of the raster stored row by row, but scan_order or missing_patterns say otherwise; "
    "leave it off, or store the patterns row by row"
)


def check_effects(settings: Settings, report: Report, epochs: range) -> None:
    """Check parameters against each other, at every epoch of the run."""
    for check in (
        _check_switches,
        _check_weights,
        _check_probe_start,
        _check_virtual_detectors,
        _check_loss_terms,
        _check_numbers,
        _check_constraints,
        _check_simulation,
    ):
        check(settings, report, epochs)


def _ever(settings: Settings, report: Report, epochs: range, name: str) -> Any:
    """The first value in these epochs that is not zero, False or None; None if there is no such value."""
    schedule = settings.schedules[name]
    if report.has(name):
        return None
    for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
        value = schedule.at(epoch)
        if isinstance(value, np.ndarray) or value:
            return value
    return None


def _check_switches(settings: Settings, report: Report, epochs: range) -> None:
    """Check that every refined quantity has a starting value."""
    needs: tuple[tuple[str, Callable[[], bool], str], ...] = (
        (
            "update_aberrations_array",
            lambda: settings["aberration_marker"] is not None,
            "aberration_marker: the group of each pattern (all zeros for a single group)",
        ),
        (
            "update_static_background",
            lambda: has_background(settings),
            "static_background: an array, or a positive number for a random start",
        ),
        (
            "update_detector_blur_std",
            lambda: settings["detector_blur_std"] >= NARROWEST_BLUR,
            f"detector_blur_std: at least {NARROWEST_BLUR:g} pixels (the gradient vanishes for smaller widths)",
        ),
    )
    for name, there, what in needs:
        if _ever(settings, report, epochs, name) and not there():
            report.add(name, f"on, but nothing to refine is given; give {what}")
    phase, amplitude = (settings.schedules[f"tune_only_probe_{name}"] for name in ("phase", "abs"))
    if report.has("tune_only_probe_phase") or report.has("tune_only_probe_abs"):
        return
    for epoch in epochs:
        if phase.at(epoch) and amplitude.at(epoch):
            report.add(
                "tune_only_probe_abs",
                f"on together with tune_only_probe_phase at epoch {epoch}; switch on only one of them, or neither to "
                "refine phase and amplitude",
            )
            return


def has_background(settings: Settings) -> bool:
    """Whether a static background is given: an array, or a positive number."""
    background = settings["static_background"]
    return isinstance(background, np.ndarray) or bool(background)


def has_block(settings: Settings, name: str, switch: str) -> bool:
    """Whether parameter ``name`` is given, or ``switch`` (its update flag) may be on at some epoch."""
    return settings.value(name) is not None or settings.may_be_on(switch)


def has_tilts(settings: Settings) -> bool:
    """Whether tilts are given, or refined at some epoch."""
    return has_block(settings, "tilts", "update_tilts")


def _is_plain(settings: Settings) -> bool:
    """Whether the patterns are stored row by row, and none is missing."""
    missing = settings["missing_patterns"]
    return settings["scan_order"] == "rows" and (missing is None or not len(missing))


def _check_weights(settings: Settings, report: Report, epochs: range) -> None:
    """Check that every regulariser with a weight has the parameters it needs."""
    size = settings["scan_size"]
    for name in (*_SCAN_WEIGHTS, "puzzle_positions"):
        is_on = bool(_ever(settings, report, epochs, name))
        if is_on and size is None:
            report.add(name, "on, but scan_size is not given; give the scan's points (slow, fast)")
        elif is_on and not _is_plain(settings):
            report.add(name, f"on, {_NOT_PLAIN}")
        elif is_on and size is not None and name.endswith("_tilts"):
            tilts, points = settings["tilts"], int(np.prod(size))
            # A single row for all patterns is smooth by definition.
            if tilts is not None and len(tilts) not in (1, points):
                report.add(
                    name, f"on, but there are {len(tilts)} rows of tilts for {points} points of scan_size"
                )
    if settings["indices_mode"] != "full" and not _is_plain(settings):
        report.add("indices_mode", f"{settings['indices_mode']!r} given, {_NOT_PLAIN}")
    if not report.has("window") and not report.has("window_weight"):
        _check_window(settings, report, epochs)
    aperture = settings["probe_constraint_mask"]
    if aperture is None:
        aperture = settings["aperture_mask"]
    if aperture is None and _ever(settings, report, epochs, "probe_reg_constraint_weight"):
        report.add(
            "probe_reg_constraint_weight",
            "on, but no aperture is given; give probe_constraint_mask: an array, or the radius as a fraction of "
            "Nyquist",
        )


def _check_window(settings: Settings, report: Report, epochs: range) -> None:
    """Check that ``window`` is given at every epoch with a window_weight, with its radii in order."""
    weight, window = settings.schedules["window_weight"], settings.schedules["window"]
    constant = isinstance(weight, Constant) and isinstance(window, Constant)
    for epoch in epochs[:1] if constant else epochs:
        radii = window.at(epoch)
        if radii is None and weight.at(epoch):
            report.add(
                "window_weight",
                f"on at epoch {epoch}, but window is not given; give its two radii, for example [0.6, 0.8]",
            )
            return
        if radii is not None and radii.ndim == 2 and (radii < 0).any():
            report.add(
                "window", f"given an array whose smallest value is {radii.min():g}, expected weights >= 0"
            )
            return
        if radii is not None and radii.ndim == 1 and not 0 <= radii[0] <= radii[1]:
            report.add(
                "window",
                f"given {radii.tolist()}, expected two radii 0 <= inner <= outer (fractions of half a window)",
            )
            return


def _check_constraints(settings: Settings, report: Report, epochs: range) -> None:
    """Check that constraints have the parameters they need, and that lower limits are below upper ones."""
    if report.has("constraints"):
        return
    schedule = settings.schedules["constraints"]
    for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
        table = schedule.at(epoch)
        if "tilt_smooth" in table and settings["scan_size"] is None:
            report.add(
                "constraints",
                "'tilt_smooth' is on, but scan_size is not given; give the scan's points (slow, fast)",
            )
            return
        if "tilt_smooth" in table and not _is_plain(settings):
            report.add("constraints", f"'tilt_smooth' is on, {_NOT_PLAIN}")
            return
        low, high = table["obja_thresh"]["thresh"] if "obja_thresh" in table else (0.0, 0.0)
        if low > high:
            report.add(
                "constraints",
                f"'obja_thresh': 'thresh' given as {low:g}, {high:g}, expected the lower limit first",
            )
            return


def _check_probe_start(settings: Settings, report: Report, epochs: range) -> None:
    probe = settings["probe"]
    if isinstance(probe, np.ndarray) and probe.ndim == 4 and settings["probe_marker"] is None:
        report.add(
            "probe",
            f"shape {probe.shape} has subscans, but probe_marker is not given; give the subscan of each pattern",
        )
    modes = [
        name for name in ("n_hermite_probe_modes", "defocus_spread_modes") if settings.value(name) is not None
    ]
    if settings["mc_n_modes"] is not None and modes:
        report.add("mc_n_modes", f"given together with {modes[0]}; probe modes can be made in one way only")
    if settings["mc_n_modes"] is not None:
        spreads = ("focal_spread", "spatial_coh_x_A", "spatial_coh_y_A")
        if not any(settings.value(name) for name in spreads):
            report.add(
                "mc_n_modes", f"given, but no spread to sample is given; give one of {', '.join(spreads)}"
            )
        if settings["mc_n_modes"] > settings["n_mc_samples"]:
            report.add(
                "mc_n_modes",
                f"{settings['mc_n_modes']} modes cannot be made of n_mc_samples = {settings['n_mc_samples']} samples",
            )
        size_x, size_y = source_size_A(settings)
        # The covariance matrix must be positive semi-definite.
        if abs(settings["spatial_coh_xy"]) > size_x * size_y * (1 + 1e-12):
            report.add(
                "spatial_coh_xy",
                f"given {settings['spatial_coh_xy']:g} Å^2; a covariance is at most spatial_coh_x_A x spatial_coh_y_A "
                f"= {size_x * size_y:g} Å^2",
            )
    hermite = settings["n_hermite_probe_modes"]
    if hermite is not None and (hermite.min() < 0 or hermite.max() > 100):
        report.add("n_hermite_probe_modes", f"given {hermite.tolist()}, expected two orders from 0 to 100")


def source_size_A(settings: Settings) -> tuple[float, float]:
    """Standard deviations of the source along x and y; if only one is set, it is used for both."""
    x, y = settings["spatial_coh_x_A"], settings["spatial_coh_y_A"]
    return (x if x is not None else y or 0.0, y if y is not None else x or 0.0)


def _check_virtual_detectors(settings: Settings, report: Report, epochs: range) -> None:
    masks, algorithm = settings["masks"], settings["algorithm"]
    if report.has("masks") or report.has("algorithm"):
        return
    if masks is None:
        if algorithm in COMPRESSED:
            report.add("algorithm", f"{algorithm!r} is for virtual detectors, but masks is not given")
        return
    if algorithm not in ("auto", *COMPRESSED) and settings["loss_terms"] is None:
        report.add(
            "algorithm",
            f"given {algorithm!r}, but masks need one of {', '.join(repr(c) for c in COMPRESSED)}",
        )
    if masks.min() < 0 or not masks.any(axis=(1, 2)).all():
        report.add(
            "masks",
            f"values from {masks.min():g}; a virtual detector must not be negative, nor zero everywhere",
        )
    changed = {
        "detector_mask": settings["detector_mask"] is not None,
        "data_bin": settings["data_bin"] != 1,
        "flip_ky": settings["flip_ky"],
    }
    for name in (name for name, is_set in changed.items() if is_set):
        report.add(name, "cannot change virtual detectors; leave it out, and change masks instead")
    if np.any(settings["data_shift_vector"]):
        report.add("data_shift_vector", "cannot move virtual detectors; leave it out, and move masks instead")


def _check_loss_terms(settings: Settings, report: Report, epochs: range) -> None:
    terms, data = settings["loss_terms"], ("single", "poissn", "pacbed")
    if terms is not None and not any(terms[name]["weight"] > 0 for name in data if name in terms):
        report.add(
            "loss_terms",
            f"given {', '.join(terms) or 'no term'}; at least one of {', '.join(data)} is needed with a weight above "
            "0: only these compare the model with the data",
        )


def _check_numbers(settings: Settings, report: Report, epochs: range) -> None:
    current, aperture = settings["beam_current"], settings["probe_constraint_mask"]
    if current is not None and not current.any():
        report.add("beam_current", "all values are zero; no electrons would reach the specimen")
    if isinstance(aperture, np.ndarray) and (aperture.min() < 0 or not aperture.any()):
        report.add(
            "probe_constraint_mask",
            f"values from {aperture.min():g} to {aperture.max():g}; an aperture must not be negative, nor zero "
            "everywhere",
        )
    if settings["slice_distances"][0] == 0 and _ever(settings, report, epochs, "wedge_mu"):
        report.add("wedge_mu", "on, but slice_distances begins with 0 Å; a wedge needs a depth")
    if settings["data_pad"] % settings["upsample_pattern"]:
        report.add(
            "data_pad",
            f"{settings['data_pad']} model pixels, expected a multiple of upsample_pattern = "
            f"{settings['upsample_pattern']} (whole detector pixels)",
        )
    edge = (
        settings["damping_cutoff_multislice"] - settings["update_extra_cut"]
    )  # band limit of object and probe
    if settings["smooth_rolloff"] > 0 and settings["smooth_rolloff"] >= edge > 0:
        report.add(
            "smooth_rolloff",
            f"given {settings['smooth_rolloff']:g}, expected less than the band limit {edge:g}",
        )


def simulates_only(settings: Settings) -> bool:
    """Whether a run computes patterns and fits none: ``data_simulation_flag`` is True, whatever the epoch."""
    schedule = settings.schedules["data_simulation_flag"]
    return isinstance(schedule, Constant) and schedule.value is True


def _check_simulation(settings: Settings, report: Report, epochs: range) -> None:
    if report.has("data_simulation_flag"):
        return
    if simulates_only(settings) and settings["resume"]:
        report.add(
            "data_simulation_flag",
            "True simulates the start and fits nothing, which cannot be resumed; leave resume out, or give the path of "
            "a .npy file",
        )
    if settings["output_folder"]:
        return
    schedule = settings.schedules["data_simulation_flag"]
    for epoch in epochs[:1] if isinstance(schedule, Constant) else epochs:
        if schedule.at(epoch) is True:
            report.add(
                "data_simulation_flag",
                f"True at epoch {epoch}, but output_folder is not given; give it, or the path of a .npy file (or call "
                "pypty.simulate(params), which returns the patterns)",
            )
            return


def without_effect(settings: Settings) -> list[str]:
    """Warnings about keys that are set but have no effect with the other parameters."""
    near, algorithm = settings["recon_type"] == "near_field", settings["algorithm"]
    phase_only = settings.schedules["phase_only_obj"]
    terms = settings["loss_terms"]
    several = terms is not None
    automatic = algorithm == "auto" and settings["masks"] is None
    gauss = (algorithm == "poisson_gaussian" or automatic) and not several
    idle = {
        "algorithm": (several, "loss_terms is given"),
        "loss_scale": (not several, "loss_terms is not given"),
        "defocus_array": (not near, "recon_type is far_field; use extra_probe_defocus or aberrations"),
        "Cs": (not near, "recon_type is far_field; use aberrations"),
        "alpha_near_field": (not near, "recon_type is far_field"),
        "aberrations_array": (settings["aberration_marker"] is None, "aberration_marker is not given"),
        "detector_gain": (not gauss, "algorithm is not poisson_gaussian"),
        "readout_noise": (not gauss, "algorithm is not poisson_gaussian"),
        "beta_wedge": (not settings.may_be_on("wedge_mu"), "wedge_mu, its weight, is 0"),
        "data_simulation_exitwave": (
            not settings.may_be_on("data_simulation_flag"),
            "data_simulation_flag is off",
        ),
        "indices_shape": (settings["indices_mode"] == "full", "indices_mode is full"),
        "stop_tolerance": (settings["stop_patience"] == 0, "stop_patience is 0"),
        "mean_pattern": (settings["probe"] is not None, "probe is given"),
        "obj_parametrization": (
            isinstance(phase_only, Constant) and bool(phase_only.value),
            "phase_only_obj is on",
        ),
        **without_effect_in_model(settings),
    }
    obj = settings["obj"]
    alone = terms is not None and "simlar" in terms and (obj is None or obj.shape[3] == 1)
    return ["loss_terms: simlar has no effect: the object has one mode"] * alone + [
        f"{name} has no effect: {reason}"
        for name, (is_idle, reason) in idle.items()
        if is_idle and name in settings.set_by_user and not _is_default(settings, name)
    ]


def _is_default(settings: Settings, name: str) -> bool:
    parameter = SCHEMA[name]
    value = (
        settings.value(name) if name in settings.fixed else getattr(settings.schedules[name], "value", None)
    )
    return parameter.is_neutral(value)
