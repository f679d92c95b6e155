"""The number and size of patterns, the size of the window, and checks that arrays of the parameters fit them."""

from __future__ import annotations

import numpy as np

from pypty.data.plates import PhasePlateSource
from pypty.data.preprocess import Preprocess
from pypty.data.scan import missing_problem
from pypty.data.sources import PatternSource
from pypty.data.window import Window
from pypty.model.blocks import BLOCKS, OPTIONAL
from pypty.params.report import Report
from pypty.params.settings import Settings

_SMALLEST_WINDOW = 4
_LARGEST_WINDOW_PIXELS = 2**28
_ONE_FOR_ALL = ("defocus_array", *(name for name in OPTIONAL if BLOCKS[name].one_for_all))
"""Keys with one row for each pattern, or one for all of them."""
PER_PATTERN = (
    *(name for name in OPTIONAL if BLOCKS[name].per_pattern),
    "aberration_marker",
    "probe_marker",
    "defocus_array",
)
"""Keys with one row for each pattern."""


def find_window(settings: Settings, source: PatternSource | None, report: Report) -> Window | None:
    """The window, or None with the reason in the report. Without data it follows from the probe or the masks."""
    pattern = _pattern_shape(settings, source, report)
    if pattern is None:
        return None
    window = Window.of(settings, pattern)
    if settings["simu_Npix"] is not None:
        _check_side(settings, pattern, report)
    ny, nx = window.model
    if min(ny, nx) < _SMALLEST_WINDOW or min(pattern) < 1:
        report.add(
            "dataset", f"the window would be {ny} x {nx} pixels; at least {_SMALLEST_WINDOW} are needed"
        )
        return None
    if ny * nx > _LARGEST_WINDOW_PIXELS:
        key = "data_pad" if window.pad else ("upsample_pattern" if window.match is None else "simu_Npix")
        report.add(key, f"the padded window would be {ny} x {nx} pixels; lower {key} ({settings.value(key)})")
        return None
    return window


def _check_side(settings: Settings, detector: tuple[int, int], report: Report) -> None:
    """Check ``simu_Npix`` against the size of measured patterns."""
    side, (ky, kx) = settings["simu_Npix"], detector
    if ky != kx:
        report.add(
            "simu_Npix",
            f"patterns are {ky} x {kx} pixels, but only square ones can be simulated at another size; use data_pad or "
            "upsample_pattern",
        )
    elif settings["simu_match_mode"] == "crop" and side is not None and side < ky:
        report.add(
            "simu_Npix",
            f"{side} pixels cannot be cropped to the {ky} of a pattern; give more, or simu_match_mode='resample'",
        )


def count_patterns(settings: Settings, source: PatternSource | None, plates: PhasePlateSource | None) -> int:
    """The number of measurements; without data, the length of the longest array with one row for each pattern."""
    if source is not None:
        return int(source.shape[0])
    lengths = [len(settings.value(name)) for name in PER_PATTERN if settings.value(name) is not None]
    return max(len(settings["positions"]), 0 if plates is None else plates.shape[0], *lengths)


def _pattern_shape(
    settings: Settings, source: PatternSource | None, report: Report
) -> tuple[int, int] | None:
    """(ky, kx) of a pattern after binning, without padding."""
    masks = settings["masks"]
    if masks is not None:
        return (masks.shape[1], masks.shape[2])
    if source is None:
        return _pattern_of_probe(settings, report)
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
    ky, kx = Preprocess.from_settings(settings).unpadded.pattern_shape(measured)
    return (ky, kx)


def _pattern_of_probe(settings: Settings, report: Report) -> tuple[int, int] | None:
    """(ky, kx) from the window of the probe, which is that of the waves when there are no data."""
    probe = settings["probe"]
    if not isinstance(probe, np.ndarray):
        report.add(
            "probe", "without data the window is taken from the probe; give it as an array (y, x, modes)"
        )
        return None
    if settings["simu_Npix"] is not None:
        report.add(
            "simu_Npix",
            "given without data, which decide the final number of pixels of a simulated pattern; give dataset (or omit "
            "simu_Npix: all pixels of the window are simulated)",
        )
        return None
    u, pad = settings["upsample_pattern"], settings["data_pad"]
    # window pixels without the padding, then u x u of them for each detector pixel
    sizes = [size - 2 * pad for size in probe.shape[:2]]
    if min(sizes) < 1 or any(size % u for size in sizes):
        report.add(
            "probe",
            f"window {probe.shape[:2]} without data_pad = {pad} px on each side is not a whole number of detector "
            f"pixels of {u} x {u} (upsample_pattern)",
        )
        return None
    return (sizes[0] // u, sizes[1] // u)


def check_arrays(
    settings: Settings,
    source: PatternSource | None,
    plates: PhasePlateSource | None,
    window: Window,
    report: Report,
) -> None:
    """Check arrays against the patterns and the window."""
    n_patterns = count_patterns(settings, source, plates)
    _check_positions(settings, n_patterns, report)
    _check_rows(settings, n_patterns, report)
    _check_markers(settings, report)
    _check_patterns(settings, source, window, report)
    _check_plates(plates, (n_patterns, *window.model), report)
    _check_probe(settings, source, window, report)


def _check_positions(settings: Settings, n: int, report: Report) -> None:
    rows = len(settings["positions"])
    # a focal series: every pattern was taken at the same place
    shared = rows == 1 and "positions" in settings.set_by_user
    if rows != n and not shared and not report.has("positions"):
        report.add(
            "positions",
            f"{rows} rows, but there are {n} patterns; one row [y, x] per pattern is needed (or one for all of a focal "
            "series)",
        )
    scan_size = settings["scan_size"]
    if scan_size is None or report.has("positions"):
        return
    size = (int(scan_size[0]), int(scan_size[1]))
    problem = missing_problem(settings["missing_patterns"], size, rows, "positions")
    if problem:
        report.add("scan_size", problem)


def _check_rows(settings: Settings, n: int, report: Report) -> None:
    for name in PER_PATTERN:
        array = settings.value(name)
        one_for_all = name in _ONE_FOR_ALL and array is not None and len(array) == 1
        if array is not None and len(array) != n and not one_for_all and not report.has(name):
            more = " (or one row for all)" if name in _ONE_FOR_ALL else ""
            report.add(
                name, f"{len(array)} rows, but there are {n} patterns; one row per pattern is needed{more}"
            )


def _check_markers(settings: Settings, report: Report) -> None:
    """Check that markers point to existing rows."""
    marker = settings["aberration_marker"]
    if marker is not None and not (marker.min() >= 0 and marker.max() < len(settings["aberrations_array"])):
        report.add(
            "aberration_marker",
            f"values from {marker.min()} to {marker.max()}, but aberrations_array has "
            f"{len(settings['aberrations_array'])} rows, counted from 0",
        )
    marker, probe = settings["probe_marker"], settings["probe"]
    if marker is None:
        return
    n_subscans = int(max(marker.max(), 0)) + 1
    if isinstance(probe, np.ndarray) and probe.ndim == 4:
        n_subscans = probe.shape[3]
    # an array of probes fixes their number; otherwise every marker gets a probe
    if marker.min() < 0 or marker.max() >= n_subscans:
        report.add(
            "probe_marker",
            f"values from {marker.min()} to {marker.max()}, but the probe has {n_subscans} subscans, counted from 0",
        )


def _check_patterns(settings: Settings, source: PatternSource | None, window: Window, report: Report) -> None:
    """Check arrays that have the shape of a pattern or of the window."""
    mean, masks = settings["mean_pattern"], settings["masks"]
    if mean is not None and source is not None and masks is None and mean.shape != source.shape[1:]:
        report.add("mean_pattern", f"shape {mean.shape}, but a measured pattern is {source.shape[1:]}")
    if mean is not None and masks is not None and mean.shape != window.pattern:
        report.add("mean_pattern", f"shape {mean.shape}, but a mask is {window.pattern}")
    background = settings["static_background"]
    fitting = (window.compared, window.pattern)
    if isinstance(background, np.ndarray) and background.shape not in fitting:
        report.add(
            "static_background",
            f"shape {background.shape}, but a pattern is {window.pattern}"
            + (f", padded {window.compared}" if fitting[0] != fitting[1] else ""),
        )
    for name in ("aperture_mask", "probe_constraint_mask"):
        mask = settings.value(name)
        if isinstance(mask, np.ndarray) and mask.shape != window.model:
            report.add(name, f"shape {mask.shape}, but the padded pattern is {window.model}")
    if not report.has("window"):
        penalty = settings.schedules["window"].at(settings.first_epoch)
        if penalty is not None and penalty.ndim == 2 and penalty.shape != window.model:
            report.add("window", f"shape {penalty.shape}, but the probe array is {window.model}")
    ctf = settings["beam_ctf"]
    # a transfer function may also come without the padding, which is added then
    unpadded = (window.model[0] - 2 * window.pad, window.model[1] - 2 * window.pad)
    if ctf is not None and ctf.shape not in (window.model, unpadded):
        report.add(
            "beam_ctf", f"shape {ctf.shape}, but the window is {window.model}, without padding {unpadded}"
        )


def _check_plates(plates: PhasePlateSource | None, expected: tuple[int, int, int], report: Report) -> None:
    if plates is not None and plates.shape != expected:
        report.add(
            "phase_plate_in_h5",
            f"plates of shape {plates.shape}, expected one for each pattern and window, {expected}",
        )


def _check_probe(settings: Settings, source: PatternSource | None, window: Window, report: Report) -> None:
    probe = settings["probe"]
    if not isinstance(probe, np.ndarray):
        return
    if not probe.any():
        report.add("probe", "all values are zero; a probe must carry electrons")
    have = probe.shape[:2]
    if settings["upsample_pattern"] > 1 or settings["simu_match_mode"] == "resample":
        if have not in (window.model, window.pattern):
            report.add(
                "probe",
                f"window {have}; with upsample_pattern = {settings['upsample_pattern']} or simu_Npix give it in the "
                f"window of the waves, {window.model}, or in that of a pattern, {window.pattern}",
            )
    elif (
        source is not None
        and settings["simu_Npix"] is None
        and any((a - b) % 2 for a, b in zip(have, window.model, strict=True))
    ):
        report.add(
            "probe",
            f"window {have}, but the padded pattern is {window.model}; sizes must differ by an "
            "even number of pixels to be padded or cropped",
        )
