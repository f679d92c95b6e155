"""From a parameter dict to everything a reconstruction needs. All problems are reported before anything starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pypty.backend.array import Backend, select
from pypty.data.preprocess import Preprocess, to_centre
from pypty.data.scan import Scan, make_scan, sort_sequence
from pypty.data.sources import PatternSource, open_source
from pypty.data.survey import Survey, survey
from pypty.engine.memory import Sizes, make_plan
from pypty.engine.resume import NAME as RESUME_FILE
from pypty.engine.sequences import check_sequences, used_at_any_epoch
from pypty.engine.setup import Setup
from pypty.errors import PyptyError
from pypty.optics.grid import Grid
from pypty.optics.probes import resize_spectrum
from pypty.optics.wavelength import wavelength_A
from pypty.params.check import read_parameters
from pypty.params.presets import load_preset
from pypty.params.report import Report
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings

Params = Mapping[str, Any] | str | Path
T = TypeVar("T")
_SMALLEST_WINDOW = 4
_SMALLEST_SHARE = 1e-6
"""Least part of a probe's power inside the band limit."""
_LOST_SHARE = 0.02
"""Part of the counts beyond the band limit from which on a warning is given."""
_PIXEL_TOLERANCE = 0.02
_LARGEST_WINDOW_PIXELS = 2**28


def read(params: Params) -> Mapping[str, Any]:
    """The parameters as a mapping: a dict as it is, a path read from its file."""
    return load_preset(params) if isinstance(params, (str, Path)) else params


def prepare(params: Params, needs_data: bool = True, read_data: bool = True) -> Setup:
    """Check everything and get ready.

    Raises
    ------
    ParameterError
        With every problem that was found.
    """
    report, setup = inspect(params, needs_data, read_data)
    if setup is None or not report:
        if setup is not None:
            setup.close()
        report.raise_if_any()
    assert setup is not None
    return setup


def inspect(params: Params, needs_data: bool = True, read_data: bool = True) -> tuple[Report, Setup | None]:
    """Find every problem. Writes nothing.

    Parameters
    ----------
    needs_data : patterns must be given
    read_data : look at every pattern (NaN, negative counts, mean), not only at their shape and type

    Returns
    -------
    the report, and the setup if there is no problem
    """
    report = Report()
    settings = _try(report, lambda: read_parameters(read(params), report))
    if settings is None:
        return report, None
    setup = _inspect_settings(settings, report, needs_data, read_data)
    return report, setup


def _inspect_settings(settings: Settings, report: Report, needs_data: bool, read_data: bool) -> Setup | None:
    """Everything that the parameters lead to: device, data, output folder, geometry, memory, counts."""
    backend = _try(report, lambda: select(settings["backend"], settings["default_dtype"]))
    source = _try(report, lambda: open_source(settings))
    _check_output(settings, report)
    nothing_given = settings["dataset"] is None and not settings["data_path"]
    if needs_data and nothing_given and not (report.has("dataset") or report.has("data_path")):
        report.add(
            "dataset", "no patterns were given; set dataset to an array (N, ky, kx), or data_path to a file"
        )
    found = _survey(settings, report, source) if read_data else None
    setup = _inspect_geometry(settings, report, backend, source, needs_data)
    if setup is not None:
        _warn(setup, found, report)
        setup = dataclasses.replace(setup, survey=found, settings=settings.with_notes(tuple(report.warnings)))
    if report.problems:
        setup = None
    if setup is None and source is not None:
        source.close()
    return setup


def _try(report: Report, action: Callable[[], T]) -> T | None:
    """The result, or None with the error noted."""
    try:
        return action()
    except PyptyError as error:
        report.note_error(error)
        return None


def _inspect_geometry(
    settings: Settings,
    report: Report,
    backend: Backend | None,
    source: PatternSource | None,
    needs_data: bool,
) -> Setup | None:
    preprocess = Preprocess.from_settings(settings)
    window = _window(settings, source, report)
    if window is None or (source is None and needs_data):
        return None
    n_patterns = len(settings["positions"]) if source is None else source.shape[0]
    _check_shapes(settings, source, window, report)
    used = _try(report, lambda: sort_sequence(settings.first()["sequence"], n_patterns))
    fits = len(settings["positions"]) == n_patterns and not report.has("positions_correction")
    if used is None or not fits:
        return None
    scan = _try(report, lambda: make_scan(settings, window, used))
    if scan is None:
        return None
    check_sequences(settings, scan, window, report)
    if backend is None:
        return None
    grid = Grid(
        window,
        (settings["pixel_size_y_A"], settings["pixel_size_x_A"]),
        wavelength_A(settings["acc_voltage"]),
    )
    _check_probe_band(settings, grid, report)
    sizes = _sizes(settings, source, preprocess, window, scan)
    plan = _try(report, lambda: make_plan(settings, backend, sizes))
    if plan is None or report.problems:
        return None
    return Setup(settings, backend, source, grid, scan, plan, preprocess, None)


def _survey(settings: Settings, report: Report, source: PatternSource | None) -> Survey | None:
    """Look at the patterns, whatever else is wrong."""
    if source is None:
        return None
    before = len(report.problems)
    _check_mask_shape(settings["detector_mask"], source.shape, report)
    used = _try(report, lambda: used_at_any_epoch(settings, source.shape[0]))
    if used is None or len(report.problems) > before or min(source.shape[1:]) < settings["data_bin"]:
        return None
    preprocess = Preprocess.from_settings(settings)
    multiplier = settings["data_multiplier"]
    return _try(report, lambda: survey(source, used, settings["detector_mask"], preprocess, multiplier))


def _warn(setup: Setup, found: Survey | None, report: Report) -> None:
    """What is probably a mistake, but cannot be known to be one."""
    settings = setup.settings
    for key in ("acc_voltage", "pixel_size_x_A", "pixel_size_y_A"):
        if key not in settings.given:
            report.warnings.append(f"{key} is not given: {settings[key]:g} {SCHEMA[key].unit} is assumed")
    rez = settings["rez_pixel_size_A"]
    if isinstance(rez, (int, float)) and rez > 0 and settings["data_bin"] == 1:
        expected = 1 / (rez * setup.grid.shape[1])
        if abs(settings["pixel_size_x_A"] / expected - 1) > _PIXEL_TOLERANCE:
            report.warnings.append(
                f"pixel_size_x_A = {settings['pixel_size_x_A']:g} Å, but rez_pixel_size_A = {rez:g} 1/Å and "
                f"{setup.grid.shape[1]} pixels (padding included) give {expected:.4g} Å"
            )
    if found is not None:
        mean = np.pad(found.mean, settings["data_pad"])
        lost = (
            1
            - mean[to_centre(setup.grid.band_mask(settings["damping_cutoff_multislice"]))].sum() / mean.sum()
        )
        if lost > _LOST_SHARE:
            report.warnings.append(
                f"{100 * lost:.1f} % of the counts lie beyond the band limit and cannot be modelled; raise data_pad "
                f"(now {settings['data_pad']} px) or damping_cutoff_multislice (now "
                f"{settings['damping_cutoff_multislice']:g})"
            )


def _window(settings: Settings, source: PatternSource | None, report: Report) -> tuple[int, int] | None:
    """(ny, nx) of the padded window; without data, the probe's."""
    if source is None:
        probe = settings["probe"]
        if isinstance(probe, np.ndarray):
            return (probe.shape[0], probe.shape[1])
        report.add(
            "probe", "without data the window is taken from the probe; give it as an array (y, x, modes)"
        )
        return None
    measured = (source.shape[1], source.shape[2])
    if min(measured) < settings["data_bin"]:
        report.add(
            "data_bin",
            f"{settings['data_bin']} given, but patterns are only {measured[0]} x {measured[1]} pixels",
        )
        return None
    shift = settings["data_shift_vector"]
    if any(abs(int(amount)) >= size for amount, size in zip(shift, measured, strict=True)):
        report.add(
            "data_shift_vector",
            f"given {np.asarray(shift).tolist()}, but patterns are only {measured[0]} x "
            f"{measured[1]} pixels; nothing would be left",
        )
        return None
    pad = settings["data_pad"]
    ny, nx = (size // settings["data_bin"] + 2 * pad for size in measured)
    if min(ny, nx) < _SMALLEST_WINDOW:
        report.add(
            "dataset", f"the window would be {ny} x {nx} pixels; at least {_SMALLEST_WINDOW} are needed"
        )
        return None
    if ny * nx > _LARGEST_WINDOW_PIXELS:
        report.add("data_pad", f"the padded window would be {ny} x {nx} pixels; lower data_pad ({pad} px)")
        return None
    return (ny, nx)


def _check_shapes(
    settings: Settings, source: PatternSource | None, window: tuple[int, int], report: Report
) -> None:
    """Arrays against the patterns and the window."""
    if source is not None:
        n, ky, kx = source.shape
        if len(settings["positions"]) != n and not report.has("positions"):
            report.add(
                "positions",
                f"{len(settings['positions'])} rows, but there are {n} patterns; one row [y, x] per "
                "pattern is needed",
            )
        mean = settings["mean_pattern"]
        if mean is not None and mean.shape != (ky, kx):
            report.add("mean_pattern", f"shape {mean.shape}, but a measured pattern is {(ky, kx)}")
    scan_size = settings["scan_size"]
    if (
        scan_size is not None
        and not report.has("positions")
        and int(np.prod(scan_size)) != len(settings["positions"])
    ):
        report.add(
            "scan_size",
            f"{scan_size[0]} x {scan_size[1]} = {int(np.prod(scan_size))} points, but there are "
            f"{len(settings['positions'])} positions",
        )
    mask = settings["aperture_mask"]
    if isinstance(mask, np.ndarray) and mask.shape != window:
        report.add("aperture_mask", f"shape {mask.shape}, but the padded pattern is {window}")
    probe = settings["probe"]
    if isinstance(probe, np.ndarray):
        if not probe.any():
            report.add("probe", "all values are zero; a probe must carry electrons")
        if source is not None and any(
            (have - want) % 2 for have, want in zip(probe.shape[:2], window, strict=True)
        ):
            report.add(
                "probe",
                f"window {probe.shape[:2]}, but the padded pattern is {window}; sizes must differ by an "
                "even number of pixels to be padded or cropped",
            )


def _check_probe_band(settings: Settings, grid: Grid, report: Report) -> None:
    """A given probe must have power inside the band limit: nothing else of it reaches the detector."""
    probe = settings["probe"]
    if not isinstance(probe, np.ndarray) or report.has("probe"):
        return
    modes = probe.reshape(*probe.shape[:2], -1).transpose(2, 0, 1)
    power = (np.abs(np.fft.fft2(resize_spectrum(modes, grid.shape))) ** 2).sum(axis=0)
    cutoff = settings["damping_cutoff_multislice"] - settings["update_extra_cut"]
    share = power[grid.band_mask(cutoff)].sum() / power.sum() if power.sum() > 0 else 0.0
    if share < _SMALLEST_SHARE:
        report.add(
            "probe",
            f"only {share:.2g} of its power lies inside the band limit (damping_cutoff_multislice = "
            f"{settings['damping_cutoff_multislice']:g}); check pixel_size_x_A, data_pad and the centring of the probe",
        )


def _check_mask_shape(mask: Any, data: tuple[int, int, int], report: Report) -> None:
    if isinstance(mask, np.ndarray) and mask.shape not in (data[1:], data):
        report.add(
            "detector_mask",
            f"shape {mask.shape}, but a measured pattern is {data[1:]}; give {data[1:]} for all "
            f"patterns, or {data}",
        )


def _sizes(
    settings: Settings,
    source: PatternSource | None,
    preprocess: Preprocess,
    window: tuple[int, int],
    scan: Scan,
) -> Sizes:
    obj, probe = settings["obj"], settings["probe"]
    slices, object_modes = (settings["num_slices"], 1) if obj is None else obj.shape[2:]
    probe_modes = probe.shape[2] if isinstance(probe, np.ndarray) and probe.ndim == 3 else 1
    data_bytes = 0
    if source is not None:
        ky, kx = preprocess.pattern_shape((source.shape[1], source.shape[2]))
        data_bytes = source.shape[0] * ky * kx * preprocess.stored_dtype(source.dtype).itemsize
    return Sizes(
        len(settings["positions"]), window, probe_modes, object_modes, slices, scan.object_shape, data_bytes
    )


def _check_output(settings: Settings, report: Report) -> None:
    """The folder must be writable, without touching it."""
    if not settings["output_folder"]:
        return
    folder = Path(settings["output_folder"]).expanduser()
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        report.add(
            "output_folder", f"{str(folder)!r} cannot be made: {str(existing)!r} is a file, not a folder"
        )
    elif not os.access(existing, os.W_OK | os.X_OK):
        report.add("output_folder", f"{str(folder)!r} cannot be written: no permission for {str(existing)!r}")
    if settings["resume"] and not (folder / RESUME_FILE).is_file():
        report.add("resume", f"True, but there is no resume.h5 in {str(folder)!r}; start with resume=False")
