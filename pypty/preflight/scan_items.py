"""Checks of the scan: geometry, positions, overlap, areal oversampling, dose."""

from __future__ import annotations

import math

import numpy as np

from pypty.engine.setup.detector import given_number
from pypty.params.checks.positions import CLOSE_PX, likely_unit, unit_of_step
from pypty.preflight.facts import Facts, ScanFacts
from pypty.preflight.item import FAIL, PASS, WARN, Item, number, worse_above, worse_below

_ROTATION_DEG = 1.0  # warn from this difference on
_STEP_OFF = 0.05  # relative difference of the step: warn
_MISFIT = 0.5  # rms distance from a raster in steps: warn
_OVERLAP = (0.6, 0.4)  # warn, fail
_OVERSAMPLING = (5.0, 2.2)  # one slice: warn, fail
_OVERSAMPLING_SLICES = (20.0, 5.0)  # several slices: warn, fail
_NOISE_RAD = (0.05, 0.25)  # standard deviation of the phase by shot noise: warn, fail


def scan_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Checks of the scan, and the items that could not be checked."""
    scan = facts.scan
    too_close = _unit_item(facts)
    if scan is None or too_close is not None:
        items = [_object_item(facts)] if too_close is None else [too_close, _object_item(facts)]
        return items, ["scan, overlap and dose: all patterns have the same position"]
    items, missing = [_field_item(facts, scan), _object_item(facts)], []
    for item in (_raster_item(facts, scan), _rotation_item(facts, scan), _step_item(facts, scan)):
        items += [] if item is None else [item]
    if scan.misfit is None:
        missing.append("scan raster and rotation: scan_size is not given")
    if facts.probe is None:
        missing.append("overlap and oversampling: the beam is not focused to a probe (near field)")
    else:
        items.append(_overlap_item(facts, scan))
        if scan.area_A2 > 0:
            items.append(_oversampling_item(facts, scan))
    return items, missing


def _unit_item(facts: Facts) -> Item | None:
    """Many rows of positions that are all the same to a thousandth of a pixel: another unit, most likely."""
    positions = facts.setup.settings["positions"]
    extent = float(np.ptp(positions, axis=0).max())
    if len(positions) < 2 or extent >= CLOSE_PX:
        return None
    return Item(
        name="unit of positions",
        status=FAIL,
        value=extent,
        unit="px",
        limit=f"fail below {CLOSE_PX:g} px between the outermost of {len(positions)} positions",
        meaning="Positions are in reconstruction pixels."
        + (f" These could be in {likely_unit(positions)}." if extent > 0 else ""),
        what_to_do="Give position in Å / pixel_size_x_A; for patterns that were all taken at one place give one row.",
    )


def _field_item(facts: Facts, scan: ScanFacts) -> Item:
    smallest = 0.0 if facts.probe is None else facts.probe.diameter_A
    n = facts.setup.n_patterns
    size = facts.setup.settings["scan_size"]
    points = f"{n} points" if size is None else f"{size[0]} x {size[1]} points"
    height, width = (number(length) for length in scan.extent_A)
    return Item(
        name="field of view",
        status=worse_below(max(scan.extent_A), smallest),
        value=f"{height} x {width}",
        unit="Å",
        limit=f"warn below the probe's diameter, {number(smallest)} Å" if smallest else "none",
        meaning=f"{points} between the outermost positions, {number(scan.step_A)} Å apart.",
        what_to_do="Scan a larger area, or check that positions are in pixels (position in Å / pixel_size_x_A).",
    )


def _object_item(facts: Facts) -> Item:
    scan, settings = facts.setup.scan, facts.setup.settings
    shape = facts.variables.obj.shape[-2:]
    ends = scan.crop_origins + np.array(facts.setup.grid.shape)
    free = int(min(scan.crop_origins.min(), (np.array(shape) - ends).min()))
    moving = settings.may_be_on("update_probe_pos") and not settings.may_be_on("dynamically_resize_yx_object")
    return Item(
        name="positions inside the object",
        status=worse_below(free, 2 if moving else 0, 0),
        value=free,
        unit="px",
        limit="fail below 0" + ("; warn below 2, as positions are refined" if moving else ""),
        meaning=f"Free rim around the patches on the object of {shape[0]} x {shape[1]} px.",
        what_to_do=(
            "Set extra_space_on_side_px to a few pixels (or dynamically_resize_yx_object), so that refined positions "
            "stay on the object."
        ),
    )


def _raster_item(facts: Facts, scan: ScanFacts) -> Item | None:
    size = facts.setup.settings["scan_size"]
    if scan.misfit is None or size is None:
        return None
    return Item(
        name="scan raster",
        status=worse_above(scan.misfit, _MISFIT),
        value=round(scan.misfit, 6),
        unit="steps",
        limit=f"warn above {_MISFIT:g}",
        meaning=f"Rms distance of the positions from the best affine raster of scan_size {size[0]} x {size[1]}.",
        what_to_do=(
            "scan_size is (slow, fast): swap its numbers if positions run the other way; regularisers of positions "
            "rely on it."
        ),
    )


def _rotation_item(facts: Facts, scan: ScanFacts) -> Item | None:
    rotation_deg = given_number(facts.setup, "PLRotation_deg")
    if scan.rotation_deg is None or (scan.misfit or 0) > _MISFIT:
        return None
    away = 0.0 if rotation_deg is None else abs((scan.rotation_deg - rotation_deg + 180) % 360 - 180)
    return Item(
        name="scan rotation",
        status=worse_above(away, _ROTATION_DEG),
        value=round(scan.rotation_deg, 3) + 0.0,
        unit="deg",
        limit=f"warn when more than {_ROTATION_DEG:g} deg from PLRotation_deg"
        + (" (not given)" if rotation_deg is None else f" = {rotation_deg:g}"),
        meaning="Direction of the fast scan axis in the frame of the detector, from the positions.",
        what_to_do="Compute positions again with PLRotation_deg, or correct that value; pypty.calibrate measures the "
        "angle.",
    )


def _step_item(facts: Facts, scan: ScanFacts) -> Item | None:
    settings = facts.setup.settings
    if "scan_step_A" not in settings.set_by_user or scan.area_A2 == 0:
        return None
    step_A = float(settings["scan_step_A"])
    away = abs(scan.step_A / step_A - 1)
    return Item(
        name="scan step",
        status=worse_above(away, _STEP_OFF, 0.5),
        value=scan.step_A,
        unit="Å",
        limit=f"warn when more than {100 * _STEP_OFF:g} % from scan_step_A = {step_A:g} Å, fail when more than 50 %",
        meaning="Square root of the specimen area per scan point, from positions and pixel size.",
        what_to_do=(
            "Positions are in reconstruction pixels, with data_pad: position in Å / pixel_size_x_A. Correct the pixel "
            "size, the positions or scan_step_A."
        )
        + (
            f" Positions could be in {unit}." if (unit := unit_of_step(scan.step_A, step_A, settings)) else ""
        ),
    )


def _overlap_item(facts: Facts, scan: ScanFacts) -> Item:
    assert facts.probe is not None
    diameter = facts.probe.diameter_A
    overlap = 1 - scan.step_A / diameter if diameter else 0.0
    return Item(
        name="overlap",
        status=worse_below(overlap, *_OVERLAP),
        value=100 * overlap,
        unit="%",
        limit=f"warn below {100 * _OVERLAP[0]:g} %, fail below {100 * _OVERLAP[1]:g} %",
        meaning=f"1 - step / probe diameter, {number(scan.step_A)} and {number(diameter)} Å: the fraction of the "
        "probe's diameter that neighbouring points share.",
        what_to_do=f"Use a smaller step, at most {number((1 - _OVERLAP[0]) * diameter)} Å, or more defocus.",
    )


def _oversampling_item(facts: Facts, scan: ScanFacts) -> Item:
    assert facts.probe is not None
    warn, fail = _OVERSAMPLING if facts.n_slices == 1 else _OVERSAMPLING_SLICES
    area = math.pi / 4 * facts.probe.diameter_A**2
    return Item(
        name="areal oversampling",
        status=worse_below(area / scan.area_A2, warn, fail),
        value=area / scan.area_A2,
        unit="",
        limit=f"warn below {warn:g}, fail below {fail:g} ({'one slice' if facts.n_slices == 1 else 'several slices'})",
        meaning=(
            "Probe area divided by the area per scan point (arXiv 2311.15181): the number of patterns that illuminate "
            "a point of the specimen."
        ),
        what_to_do=f"Use a smaller step, at most {number(math.sqrt(area / warn))} Å, or more defocus.",
    )


def dose_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Electrons per pattern, and the phase error that they allow."""
    setup, settings = facts.setup, facts.setup.settings
    if settings["masks"] is not None or setup.survey is None:
        return [], ["electrons and dose: virtual detectors may count an electron twice"]
    gain = settings["detector_gain"] if settings["algorithm"] == "poisson_gaussian" else 1.0
    electrons = float(setup.survey.mean.sum()) / gain
    fraction = electrons <= 2
    item = Item(
        name="electrons per pattern",
        status=WARN if fraction else worse_below(electrons, 100),
        value=electrons,
        unit="e",
        limit="warn below 100; values up to 2 are taken to be fractions of the beam",
        meaning="Mean sum of a pattern, as used in the loss (the electrons that reach the detector).",
        what_to_do="Set data_multiplier to the number of electrons per pattern: the noise model needs counts."
        if fraction
        else "Use a larger current or dwell time, a regulariser, and algorithm='ml'.",
    )
    if fraction:
        return [item], ["dose: the data are not counts"]
    if facts.scan is None or facts.scan.area_A2 == 0:
        return [item], ["dose: the area per scan point is not defined"]
    dose = electrons / facts.scan.area_A2
    if facts.alpha is None:
        return [item, _plain_dose_item(dose)], []
    return [item, _dose_item(facts, dose)], []


def _plain_dose_item(dose: float) -> Item:
    meaning = "Electrons per pattern divided by the specimen area per scan point."
    return Item(
        name="dose",
        status=PASS,
        value=dose,
        unit="e/Å^2",
        limit="none in the near field",
        meaning=meaning,
        what_to_do="",
    )


def _dose_item(facts: Facts, dose: float) -> Item:
    assert facts.alpha is not None
    size = facts.wavelength / (2 * facts.alpha)
    unknowns = facts.n_slices * facts.variables.obj.shape[0]
    noise = math.sqrt(unknowns / (4 * dose * size**2))
    warn, fail = _NOISE_RAD
    needed = unknowns / (4 * warn**2 * size**2)
    shared = f", shared by {unknowns} slices and modes" if unknowns > 1 else ""
    return Item(
        name="dose",
        status=worse_above(noise, warn, fail),
        value=dose,
        unit="e/Å^2",
        limit=f"warn below {number(needed)}, fail below {number(needed * (warn / fail) ** 2)} e/Å^2",
        meaning=f"Shot noise limits the precision of the phase in an area of ({number(size)} Å)^2 to {number(noise)} "
        f"rad, 1/(2 sqrt(electrons in it)){shared}; the limit is {warn:g} rad.",
        what_to_do="Use fewer slices or modes, a regulariser (atv_weight), algorithm='ml', or more dose.",
    )
