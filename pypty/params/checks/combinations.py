"""Checks of combinations of parameters, and of per-epoch values at every epoch of the run."""

from __future__ import annotations

import numpy as np

from pypty.errors import ParameterError
from pypty.params.checks.effects import check_effects, without_effect
from pypty.params.checks.model import check_model
from pypty.params.checks.results import check_results
from pypty.params.kinds import brief
from pypty.params.report import Report
from pypty.params.schedule import Constant, Schedule
from pypty.params.settings import Settings

_EPOCHS_CHECKED = 10_000

_ACT_ON_THE_PROBE = (
    "extra_probe_defocus",
    "aberrations",
    "beam_ctf",
    "n_hermite_probe_modes",
    "defocus_spread_modes",
    "mc_n_modes",
)


def epochs_to_check(settings: Settings, first: int | None = None) -> range:
    """The epochs of the run, from ``first`` on; at most ten thousand."""
    begin = settings.first_epoch if first is None else first
    return range(begin, min(max(settings["epoch_max"], begin + 1), begin + _EPOCHS_CHECKED))


def optimizers(settings: Settings) -> frozenset[str]:
    """The values of ``optimizer`` at any epoch of the run."""
    schedule, epochs = settings.schedules["optimizer"], epochs_to_check(settings)
    return frozenset(
        schedule.at(epoch) for epoch in (epochs[:1] if isinstance(schedule, Constant) else epochs)
    )


def check_epochs(settings: Settings, report: Report, first: int | None = None) -> None:
    """Evaluate every schedule at every epoch of the run, so that an error at epoch 37 is reported before the start."""
    epochs = epochs_to_check(settings, first)
    for name, schedule in settings.schedules.items():
        if report.has(name):
            continue
        to_check = epochs[:1] if isinstance(schedule, Constant) else epochs
        problem = next(
            (text for text in (_problem_at(name, schedule, epoch) for epoch in to_check) if text), None
        )
        if problem:
            report.add(name, problem)
    _check_wolfe(settings, report, epochs)
    check_effects(settings, report, epochs)


def _problem_at(name: str, schedule: Schedule, epoch: int) -> str | None:
    """The problem of a schedule's value at an epoch, or None."""
    try:
        schedule.at(epoch)
    except ParameterError as error:
        return str(error).removeprefix(f"{name}: ")
    return None


def _check_wolfe(settings: Settings, report: Report, epochs: range) -> None:
    names = ("wolfe_c1_constant", "wolfe_c2_constant")
    if any(report.has(name) for name in names):
        return
    first, second = (settings.schedules[name] for name in names)
    varies = not (isinstance(first, Constant) and isinstance(second, Constant))
    for epoch in epochs if varies else epochs[:1]:
        c1, c2 = first.at(epoch), second.at(epoch)
        if c1 >= c2:
            report.add(
                names[0],
                f"{c1:g} is not smaller than wolfe_c2_constant = {c2:g} at epoch {epoch}; the line search needs "
                "0 < c1 < c2 < 1",
            )
            return


def check_combinations(settings: Settings, report: Report) -> None:
    """Fixed parameters against each other."""
    if settings["data_path"] and settings["dataset"] is not None:
        report.warnings.append("both dataset and data_path are given: the dataset in memory is used")
    _warn_of_a_probe_that_is_changed(settings, report)
    report.warnings += without_effect(settings)
    if settings["positions_correction"] is not None and (
        settings["positions_correction"].shape != settings["positions"].shape
    ):
        report.add(
            "positions_correction",
            f"shape {settings['positions_correction'].shape}, but positions have shape "
            f"{settings['positions'].shape}; one row per position is needed",
        )
    if settings["resume"] and not settings["output_folder"]:
        report.add(
            "resume",
            f"{settings['resume']}, but output_folder is empty; give the folder that holds resume.h5",
        )
    if isinstance(settings["probe"], str) and settings["aperture_mask"] is None:
        report.add(
            "probe", "'aperture' needs aperture_mask: an array, or the radius as a fraction of Nyquist"
        )
    if settings["update_extra_cut"] >= settings["damping_cutoff_multislice"]:
        report.add(
            "update_extra_cut",
            f"{settings['update_extra_cut']:g} must be smaller than damping_cutoff_multislice = "
            f"{settings['damping_cutoff_multislice']:g}; no frequencies would be left",
        )
    # Refined distances of an earlier run may be negative.
    if settings["slice_distances"].min() < 0 and settings["epoch_prev"] == 0:
        report.add(
            "slice_distances",
            f"given {settings['slice_distances'].min():g} Å; distances must not be negative",
        )
    _check_slices(settings, report)
    _check_images(settings, report)
    check_model(settings, report)
    check_results(settings, report)


def _check_images(settings: Settings, report: Report) -> None:
    """Values of weights, patterns and sizes."""
    mask = settings["detector_mask"]
    if isinstance(mask, np.ndarray) and (mask.min() < 0 or mask.max() > 1 or not mask.any()):
        report.add(
            "detector_mask",
            f"values from {mask.min():g} to {mask.max():g}; weights must lie between 0 (ignored) and "
            "1, and must not all be zero",
        )
    mean = settings["mean_pattern"]
    if mean is not None and (mean.min() < 0 or not mean.any()):
        report.add(
            "mean_pattern",
            f"values from {mean.min():g} to {mean.max():g}; counts must not be negative, nor all zero",
        )
    aperture = settings["aperture_mask"]
    if isinstance(aperture, np.ndarray) and (aperture.min() < 0 or not aperture.any()):
        report.add(
            "aperture_mask",
            f"values from {aperture.min():g} to {aperture.max():g}; an aperture must not be negative, "
            "nor zero everywhere",
        )
    obj = settings["obj"]
    if obj is not None and not obj.any():
        report.add("obj", "all values are zero; such an object transmits no electrons (vacuum is 1)")
    size = settings["scan_size"]
    if size is not None and size.min() < 1:
        report.add("scan_size", f"given {size.tolist()}, expected two numbers of points >= 1")


def _check_slices(settings: Settings, report: Report) -> None:
    obj = settings["obj"]
    n_slices = settings["num_slices"] if obj is None else obj.shape[2]
    if obj is not None and "num_slices" in settings.set_by_user and settings["num_slices"] != n_slices:
        report.add(
            "num_slices", f"given {settings['num_slices']}, but obj has {n_slices} slices (its third axis)"
        )
    n_distances = len(settings["slice_distances"])
    if n_distances != 1 and n_distances < n_slices - 1:
        report.add(
            "slice_distances",
            f"{n_distances} values, but {n_slices} slices have {n_slices - 1} gaps; give a single "
            f"value for all gaps, or {n_slices - 1} values",
        )
    if settings["edge_slice_thickness"] is not None and n_distances > 1:
        report.add(
            "edge_slice_thickness",
            "given together with individual slice_distances; put it into slice_distances[0] instead",
        )


def _warn_of_a_probe_that_is_changed(settings: Settings, report: Report) -> None:
    """Warn that parameters of the beam act on a given probe, too; that of an earlier run contains them already."""
    if not isinstance(settings["probe"], np.ndarray):
        return
    changes = {name: settings.value(name) for name in _ACT_ON_THE_PROBE}
    active = [
        f"{name} = {brief(value.tolist() if isinstance(value, np.ndarray) and value.size < 9 else value)}"
        for name, value in changes.items()
        if value is not None and np.any(value)
    ]
    if active:
        report.warnings.append(
            f"the given probe is changed before the first epoch by {', '.join(active)}; if it is the result of a run, "
            "it contains this already: continue with Result.params(), pypty.load_checkpoint(folder) or "
            "pypty.resume(folder)"
        )
