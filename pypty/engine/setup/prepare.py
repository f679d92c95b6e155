"""From parameters to everything that a reconstruction needs. All problems are reported before anything starts."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pypty.backend.array import Backend, to_host
from pypty.data.plates import PhasePlateSource
from pypty.data.preprocess import Preprocess
from pypty.data.reading import reads_file
from pypty.data.rim import rim_counts
from pypty.data.scan import make_scan, sort_sequence
from pypty.data.sources import PatternSource, open_source
from pypty.data.survey import Look, Survey, survey
from pypty.data.window import Window
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.geometry import check_arrays, count_patterns, find_window
from pypty.engine.setup.memory import sizes_of
from pypty.engine.setup.memory_plan import ALONE, MemoryPlan, Ranks
from pypty.engine.setup.methods import check_methods, idle_keys
from pypty.engine.setup.mistakes import likely_mistakes
from pypty.engine.setup.noise import choose_noise_model
from pypty.engine.setup.precision import cost_of_double, planned, select_backend
from pypty.engine.setup.sequences import check_sequences, used_at_any_epoch
from pypty.errors import PyptyError, RankError
from pypty.optics.grid import Grid
from pypty.output.checkpoints import RESUME_FILE
from pypty.params.checks.combinations import epochs_to_check
from pypty.params.checks.effects import simulates_only
from pypty.params.presets import load_preset
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.settings import Settings
from pypty.ranks.devices import places

Params = Mapping[str, Any] | str | Path
T = TypeVar("T")
LookOf = Callable[[Settings, Backend], Look | None]
RanksOf = Callable[[Settings, Backend], Ranks]
_SMALLEST_SHARE = 1e-6
"""Smallest fraction of a probe's power that must lie inside the band limit."""


def read(params: Params) -> Mapping[str, Any]:
    """The parameters as a mapping; those in a file are read."""
    return load_preset(params) if isinstance(params, (str, Path)) else params


def prepare(
    params: Params,
    needs_data: bool = True,
    read_data: bool = True,
    may_simulate: bool = False,
    *,
    auto: str = "single",
    ranks: RanksOf = lambda settings, backend: ALONE,
    look: LookOf = lambda settings, backend: None,
) -> Setup:
    """Check all parameters, and prepare a reconstruction.

    Parameters
    ----------
    auto : the precision that ``default_dtype`` "auto" stands for: "single", in which runs begin, or "double"
    ranks : the processes that will share the reconstruction, for which memory is planned
    look : by which they share the survey of a file, too

    Raises
    ------
    ParameterError
        Lists every problem.
    RankError
        A process that shares the survey has died, hangs, or has failed.
    """
    report, setup = inspect(params, needs_data, read_data, may_simulate, auto=auto, ranks=ranks, look=look)
    if setup is None or not report:
        if setup is not None:
            setup.close()
        report.raise_if_any()
    assert setup is not None
    return setup


def inspect(
    params: Params,
    needs_data: bool = True,
    read_data: bool = True,
    may_simulate: bool = False,
    *,
    auto: str = "single",
    ranks: RanksOf = lambda settings, backend: ALONE,
    look: LookOf = lambda settings, backend: None,
) -> tuple[Report, Setup | None]:
    """Find every problem, without writing anything.

    Parameters
    ----------
    needs_data : patterns must be given
    read_data : check every pattern (NaN, negative counts, mean), not only shape and type
    may_simulate : with ``data_simulation_flag`` True no data are opened
    auto : the precision that ``default_dtype`` "auto" stands for, unless the parameters only simulate
    ranks, look : as for :func:`prepare`

    Returns
    -------
    the report, and the setup if there is no problem
    """
    report = Report()
    settings = _try(report, lambda: read_parameters(read(params), report))
    if settings is None:
        return report, None
    without = may_simulate and not report.has("data_simulation_flag") and simulates_only(settings)
    needs, auto = needs_data and not without, "double" if without else auto
    with contextlib.ExitStack() as files:
        setup = _inspect_settings(
            settings, report, needs, read_data, ranks, files, look=look, open_data=not without, auto=auto
        )
        if setup is not None:  # they stay open only in a setup that is returned
            files.pop_all()
    return report, setup


def _inspect_settings(
    settings: Settings,
    report: Report,
    needs_data: bool,
    read_data: bool,
    ranks: RanksOf,
    files: contextlib.ExitStack,
    *,
    look: LookOf,
    open_data: bool,
    auto: str,
) -> Setup | None:
    """Check device, data, output folder, geometry, memory and counts; ``files`` closes what was opened."""
    backend = _try(report, lambda: select_backend(settings, auto))
    if backend is not None:
        chosen = backend
        _try(report, lambda: places(settings["devices"], chosen))
    source = _try(report, lambda: open_source(settings)) if open_data else None
    if source is not None:
        files.callback(source.close)
    _check_output(settings, report)
    check_methods(settings, report)
    if not report.has("optimizer") and not report.has("learning_rates"):
        report.warnings += idle_keys(settings)
    nothing_given = settings["dataset"] is None and not settings["data_path"]
    if needs_data and nothing_given and not (report.has("dataset") or report.has("data_path")):
        report.add(
            "dataset", "no patterns were given; set dataset to an array (N, ky, kx), or data_path to a file"
        )
    shared = (
        None
        if backend is None or source is None or not _opened_by_all(settings, source)
        else look(settings, backend)
    )
    surveyed = _survey(settings, report, source, shared) if read_data else None
    path = settings["phase_plate_in_h5"]
    plates = (
        None
        if path is None
        else _try(report, lambda: PhasePlateSource(path, settings["trust_external_links"]))
    )
    if plates is not None:
        files.callback(plates.close)
    setup = _inspect_geometry(settings, report, backend, source, plates, needs_data, ranks)
    if setup is not None:
        setup = _with_survey(setup, surveyed, report)
        if read_data:
            _check_start(setup, report)
    elif (
        surveyed is not None and surveyed.negative
    ):  # the noise model that would allow them cannot be looked for
        report.problems.append(surveyed.negative)
    return None if report.problems else setup


def _try(report: Report, action: Callable[[], T]) -> T | None:
    """The result, or None with the error noted."""
    try:
        return action()
    except RankError:  # no problem of the parameters, and one that may pass
        raise
    except PyptyError as error:
        report.note_error(error)
        return None


def _inspect_geometry(
    settings: Settings,
    report: Report,
    backend: Backend | None,
    source: PatternSource | None,
    plates: PhasePlateSource | None,
    needs_data: bool,
    ranks: RanksOf,
) -> Setup | None:
    preprocess = Preprocess.from_settings(settings)
    window = find_window(settings, source, report)
    if window is None or (source is None and needs_data):
        return None
    check_arrays(settings, source, plates, window, report)
    n_patterns = count_patterns(settings, source, plates)
    # the object covers the patterns of the first epoch
    used = _try(report, lambda: sort_sequence(settings.first()["sequence"], n_patterns))
    fits = len(settings["positions"]) in (1, n_patterns) and not report.has("positions_correction")
    if used is None or not fits:
        return None
    scan = _try(report, lambda: make_scan(settings, window.model, used, n_patterns))
    if scan is None:
        return None
    check_sequences(settings, scan, window.model, report)
    if backend is None:
        return None
    grid = Grid(window.model, window.pixel_size_A, window.wavelength_A)
    if not window.near_field:
        _check_probe_band(settings, window, grid, report)
    sizes = sizes_of(settings, source, n_patterns, window, scan.object_shape)
    # the executor follows from the model, the model from a setup, and the plan from the executor
    unplanned = MemoryPlan(
        device=backend.name,
        precision=backend.precision,
        batch=1,
        n_threads=1,
        resident=False,
        free=0,
        limit=0,
        sizes=sizes,
    )
    setup = Setup(
        settings=settings,
        backend=backend,
        source=source,
        grid=grid,
        scan=scan,
        plan=unplanned,
        preprocess=preprocess,
        survey=None,
        n_patterns=n_patterns,
        window=window,
        plates=plates,
    )
    complete = _try(report, lambda: planned(setup, ranks(settings, backend)))
    if settings["default_dtype"] == "double" and complete is not None:
        report.warnings += cost_of_double(complete)
    return None if report.problems else complete


def _check_start(setup: Setup, report: Report) -> None:
    """Checks that need patterns and starting probe: usable phase plates, an aperture that transmits the probe."""
    settings = setup.settings
    if setup.plates is not None:
        _try(report, setup.plates.survey)
    weight = settings.schedules["probe_reg_constraint_weight"]
    confined = any(np.isinf(weight.at(epoch)) for epoch in epochs_to_check(settings))
    if report.problems or not (confined or settings["estimate_aperture_based_on_binary"] > 0):
        return
    variables = _try(report, setup.variables)
    mask = setup.probe_aperture_mask()
    if variables is None or not confined or mask is None:
        return
    # ([subscan,] mode, y, x) -> (ky, kx)
    power = (abs(np.fft.fft2(to_host(variables.probe))) ** 2).reshape(-1, *mask.shape).sum(axis=0)
    if (power * mask).sum() < _SMALLEST_SHARE * power.sum():
        report.add(
            "probe_constraint_mask",
            "nothing of the starting probe lies inside it; the zero frequency is at index n//2, the mask is 1 inside",
        )


def _opened_by_all(settings: Settings, source: PatternSource) -> bool:
    """Whether every rank can open the patterns itself: a file, not an array of this process."""
    return settings["dataset"] is None and reads_file(source)


def _survey(
    settings: Settings, report: Report, source: PatternSource | None, look: Look | None
) -> Survey | None:
    """Survey the patterns, even if other parameters have problems."""
    if source is None:
        return None
    before = len(report.problems)
    _check_mask_shape(settings["detector_mask"], source.shape, report)
    used = _try(report, lambda: used_at_any_epoch(settings, source.shape[0]))
    if used is None or len(report.problems) > before or min(source.shape[1:]) < settings["data_bin"]:
        return None
    preprocess = Preprocess.from_settings(settings)
    multiplier = settings["data_multiplier"]
    # only this noise model allows read-outs below zero; auto may choose it
    may_be = {"poisson_gaussian": True, "auto": None} if settings["loss_terms"] is None else {}
    negative = may_be.get(settings["algorithm"], False)
    mask, norm = settings["detector_mask"], settings["data_normalization"]
    return _try(
        report,
        lambda: survey(
            source,
            used,
            detector_mask=mask,
            preprocess=preprocess,
            multiplier=multiplier,
            negative=negative,
            normalization=norm,
            look=look,
        ),
    )


def _with_survey(setup: Setup, surveyed: Survey | None, report: Report) -> Setup:
    """The setup with what the survey found: the noise model, the rim of padded patterns; problems and warnings."""
    setup = dataclasses.replace(setup, survey=surveyed)
    chosen = _try(report, lambda: choose_noise_model(setup))
    settings = setup.settings if chosen is None else chosen
    setup = dataclasses.replace(setup, settings=settings)
    if surveyed is not None and surveyed.negative and settings["algorithm"] != "poisson_gaussian":
        report.problems.append("; ".join([surveyed.negative, *settings.choices]))
    report.warnings += _try(report, lambda: likely_mistakes(setup)) or []
    report.choices += settings.choices
    preprocess = _try(report, lambda: _with_rim(setup.preprocess, settings, surveyed)) or setup.preprocess
    noted = settings.with_notes(tuple(report.warnings))
    return dataclasses.replace(setup, preprocess=preprocess, settings=noted)


def _with_rim(preprocess: Preprocess, settings: Settings, surveyed: Survey | None) -> Preprocess:
    """The preprocessing with the fill of its padding, which follows from the mean pattern."""
    if not preprocess.filled or surveyed is None:
        return preprocess
    fill = (settings["data_pad_fill"], settings["data_pad_value"], settings["data_pad_threshold"])
    return dataclasses.replace(
        preprocess, rim=rim_counts(surveyed.mean, preprocess.pad, *fill) / surveyed.multiplier
    )


def _check_probe_band(settings: Settings, window: Window, grid: Grid, report: Report) -> None:
    """Check that a given probe has power inside the band limit: the rest never reaches the detector."""
    probe = settings["probe"]
    if not isinstance(probe, np.ndarray) or report.has("probe"):
        return
    # (y, x, mode[, subscan]) -> (modes, y, x)
    modes = window.probe_on_model(probe.reshape(*probe.shape[:2], -1).transpose(2, 0, 1))
    power = (np.abs(np.fft.fft2(modes)) ** 2).sum(axis=0)
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


def _check_output(settings: Settings, report: Report) -> None:
    """Check that folders can be written, without touching them."""
    # only this schedule: another one may have a problem
    schedule = settings.schedules["data_simulation_flag"]
    flag = False if report.has("data_simulation_flag") else schedule.at(settings.first_epoch)
    if isinstance(flag, str):
        _check_folder("data_simulation_flag", Path(flag).expanduser().parent, report)
    if not settings["output_folder"]:
        return
    folder = Path(settings["output_folder"]).expanduser()
    _check_folder("output_folder", folder, report)
    if settings["resume"] is True and not (folder / RESUME_FILE).is_file():
        report.add("resume", f"True, but there is no resume.h5 in {str(folder)!r}; start with resume=False")


def _check_folder(key: str, folder: Path, report: Report) -> None:
    # the nearest folder that exists decides, as the others are made below it
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        report.add(
            key, f"the folder {str(folder)!r} cannot be made: {str(existing)!r} is a file, not a folder"
        )
    elif not os.access(existing, os.W_OK | os.X_OK):
        report.add(key, f"{str(folder)!r} cannot be written: no permission for {str(existing)!r}")
