"""Checks of probe and detector: window, Ronchigram magnification, disk, aperture, pixel, defocus."""

from __future__ import annotations

import math

from pypty.data.disk import DiskFacts
from pypty.engine.setup.band_limit import COST, SHARE, BandLimitCost, band_limit_advice, band_limit_cost
from pypty.engine.setup.detector import given_number
from pypty.preflight.facts import Facts, ProbeFacts
from pypty.preflight.item import PASS, WARN, Item, Status, number, worse_above, worse_below

_WINDOW = (0.5, 0.8)  # ratio of the probe's diameter to its window: warn, fail
_RIM = (0.01, 0.05)  # intensity at the rim of the window: warn, fail
_DISK = (0.67, 0.95)  # ratio of the disk's radius to the distance to the edge: warn, fail
_APERTURE_OFF = (0.05, 0.2)  # relative error of the semi-angle: warn, fail
_OFFSET = 1.0
_LOST = 0.3  # part of the phase beyond the band limit: fail


def probe_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Checks of the probe in its window and of the disk on the detector; and the items that could not be checked."""
    if facts.probe is None:
        return [], ["probe, disk and defocus: the detector is in the near field"]
    items, missing = [*_window_items(facts, facts.probe)], []
    if facts.alpha is not None:
        items += [_magnification_item(facts, facts.probe, facts.alpha), _pixel_item(facts, facts.alpha)]
    cost = band_limit_cost(facts.setup)
    if cost is not None:
        items.append(_band_limit_item(facts, cost))
    if facts.disk is None or facts.setup.settings["masks"] is not None:
        missing.append("bright-field disk: the patterns are not available (virtual detectors)")
    else:
        items += _disk_items(facts, facts.disk)
    return [*items, _defocus_item(facts)], missing


def _window_items(facts: Facts, probe: ProbeFacts) -> list[Item]:
    window = probe.diameter_A / probe.share if probe.share else 0.0
    advice = (
        "Bring the probe closer to focus, or use smaller detector pixels (a longer camera length, less binning); "
        "upsample_pattern=2 doubles the size of the simulation window."
    )
    return [
        Item(
            name="probe in its window",
            status=worse_above(probe.share, *_WINDOW),
            value=100 * probe.share,
            unit="%",
            limit=f"warn above {100 * _WINDOW[0]:g} %, fail above {100 * _WINDOW[1]:g} %",
            meaning=f"Diameter that contains 90 % of the starting probe, {number(probe.diameter_A)} Å, relative to the "
            f"window of {number(window)} Å.",
            what_to_do=advice,
        ),
        Item(
            name="probe at the rim",
            status=worse_above(probe.rim, *_RIM),
            value=100 * probe.rim,
            unit="%",
            limit=f"warn above {100 * _RIM[0]:g} %, fail above {100 * _RIM[1]:g} %",
            meaning="Fraction of the probe's intensity in the outermost sixteenth of the window, which wraps around.",
            what_to_do=advice,
        ),
    ]


def _magnification_item(facts: Facts, probe: ProbeFacts, alpha: float) -> Item:
    pixel = facts.wavelength * max(facts.pixel_1A)
    magnification = alpha / (pixel * max(probe.diameter_A / 2, 1e-12))
    per_period = 2 * alpha / facts.wavelength
    warn, fail = (per_period / share for share in _WINDOW)
    return Item(
        name="Ronchigram magnification",
        status=worse_below(magnification, warn, fail),
        value=magnification,
        unit="px/Å",
        limit=f"warn below {number(warn)}, fail below {number(fail)} px/Å",
        meaning=(
            "Radius of the disk in detector pixels divided by the radius of the probe in Å (arXiv 2311.15181): the "
            f"scale of the shadow image in the disk. A period of {number(1 / per_period)} Å needs two pixels."
        ),
        what_to_do="Bring the probe closer to focus, or use smaller detector pixels.",
    )


def _pixel_item(facts: Facts, alpha: float) -> Item:
    grid, settings = facts.setup.grid, facts.setup.settings
    edge = facts.setup.window.edge_1A  # 1/Å
    limit = grid.largest_frequency * settings["damping_cutoff_multislice"]
    needed = min(2 * alpha / facts.wavelength, edge)
    return Item(
        name="pixel size",
        status=worse_below(limit, 0.95 * needed, 0.95 * alpha / facts.wavelength),
        value=max(grid.pixel_size_A),
        unit="Å",
        limit=f"warn when the finest period, {number(1 / limit)} Å, is above {number(1.05 / needed)} Å, fail above "
        f"{number(1.05 * facts.wavelength / alpha)} Å",
        meaning=(
            "Finest period inside the band limit, compared with that of twice the aperture (or of the edge of the "
            "detector)."
        ),
        what_to_do="Raise data_pad, which makes pixels finer, or damping_cutoff_multislice.",
    )


def _band_limit_item(facts: Facts, cost: BandLimitCost) -> Item:
    seen = cost.phase is not None
    lost = cost.share if cost.phase is None else cost.phase
    status = worse_above(lost, COST, _LOST) if seen else worse_above(lost, SHARE)
    return Item(
        name="band limit",
        status=WARN if cost.matters and status == PASS else status,
        value=100 * lost,
        unit="%",
        limit=f"warn above {100 * (COST if seen else SHARE):g} %"
        + (f", fail above {100 * _LOST:g} %" if seen else ""),
        meaning=(
            "Scattered electrons beyond the band limit, which cannot be modelled: about the part of the phase that is "
            "missing."
            if seen
            else "Counts beyond the band limit, which cannot be modelled."
        )
        + " The bright-field disk itself is cut." * cost.through_disk,
        what_to_do=f"Then {band_limit_advice(facts.setup, cost)}." if cost.matters else "Raise data_pad.",
    )


def _disk_items(facts: Facts, disk: DiskFacts) -> list[Item]:
    disk_mrad = 1e3 * disk.radius_1A * facts.wavelength
    warn, fail = _DISK
    items = [
        Item(
            name="bright-field disk on the detector",
            status=worse_above(disk.edge_share, warn, fail),
            value=100 * disk.edge_share,
            unit="%",
            limit=f"warn above {100 * warn:g} %, fail above {100 * fail:g} %",
            meaning=f"Radius of the disk, {number(disk.radius_px)} px, relative to the distance from its centre to the "
            f"edge; {number(100 * disk.dark)} % of the counts lie outside the disk.",
            what_to_do=(
                "Use a shorter camera length, or more of the detector: resolution beyond the aperture needs "
                "dark field."
            ),
        ),
        Item(
            name="centre of the disk",
            status=worse_above(disk.offset_px, _OFFSET, 0.5 * disk.radius_px),
            value=disk.offset_px,
            unit="px",
            limit=f"warn above {_OFFSET:g} px, fail above half a radius",
            meaning=(
                f"Distance of the disk's centre [{disk.centre_px[0]:.1f}, {disk.centre_px[1]:.1f}] from "
                "the zero frequency at n//2."
            ),
            what_to_do="Shift the patterns with data_shift_vector (pixels before binning), or remove the descan.",
        ),
    ]
    semiangle = given_number(facts.setup, "conv_semiangle_mrad")
    if semiangle is not None and semiangle > 0:
        items.append(
            Item(
                name="aperture",
                status=worse_above(abs(disk_mrad / semiangle - 1), *_APERTURE_OFF),
                value=disk_mrad,
                unit="mrad",
                limit=f"warn when {100 * _APERTURE_OFF[0]:g} %, fail when {100 * _APERTURE_OFF[1]:g} % from "
                f"conv_semiangle_mrad = {semiangle:g}",
                meaning=(
                    "Semi-angle of the disk for this pixel size and voltage; it should agree with that of the "
                    "microscope."
                ),
                what_to_do=(
                    "If the given semi-angle is right, multiply pixel_size_x_A and pixel_size_y_A by "
                    f"{disk_mrad / semiangle:.4g} (and positions in pixels by its inverse); check acc_voltage."
                ),
            )
        )
    return items


def _defocus_item(facts: Facts) -> Item:
    settings = facts.setup.settings
    c10, recorded = start_defocus_A(facts), given_number(facts.setup, "defocus")
    has_probe = facts.setup.settings["probe"] is not None and not isinstance(settings["probe"], str)
    status, advice = _judge_defocus(c10, recorded, has_probe)
    at_aperture = 0.0 if facts.alpha is None else math.pi * c10 * facts.alpha**2 / facts.wavelength
    return Item(
        name="defocus of the starting probe",
        status=status,
        value="as in the given probe" if has_probe and c10 == 0 else c10,
        unit="" if has_probe and c10 == 0 else "Å",
        limit="warn when it is zero, or has the opposite sign of the recorded defocus",
        meaning=(
            "C10 = extra_probe_defocus + aberrations[0]; positive is overfocus (crossover before the specimen). "
            f"Phase at the rim of the aperture: {number(at_aperture)} rad."
        ),
        what_to_do=advice,
    )


def start_defocus_A(facts: Facts) -> float:
    """C10 applied to the starting probe, Å."""
    settings = facts.setup.settings
    aberrations = settings["aberrations"]
    first = 0.0 if aberrations is None or not len(aberrations) else float(aberrations[0])
    return float(settings["extra_probe_defocus"]) + first


def _judge_defocus(c10: float, recorded: float | None, has_probe: bool) -> tuple[Status, str]:
    if recorded and c10 and recorded * c10 < 0:
        return WARN, (
            f"The recorded defocus = {recorded:g} Å means C10 = {recorded:g} Å; change the sign of one of them. A "
            "start with the wrong sign is far from the solution."
        )
    if recorded and not c10 and not has_probe:
        return WARN, f"The recorded defocus is not used: set extra_probe_defocus={recorded:g}."
    if not c10 and not has_probe:
        return WARN, "The start is a focused probe; set extra_probe_defocus if the microscope was defocused."
    return PASS, "Set extra_probe_defocus (Å, positive = overfocus)."
