"""Checks of the specimen model: slice thickness, total thickness, expected phase."""

from __future__ import annotations

import math

import numpy as np

from pypty.backend.array import to_host
from pypty.engine.setup.detector import given_number
from pypty.preflight.facts import Facts
from pypty.preflight.item import Item, number, worse_above, worse_below

_PHASE = math.pi / 2
_SPREAD = 6.0
"""Range of a phase image in units of its standard deviation."""
_TOO_THIN = 0.1  # fraction of the thickness that one slice can describe
_THICKNESS_OFF = 1.25  # ratio of the sum of the slices to total_thickness, or its inverse


def specimen_items(facts: Facts) -> tuple[list[Item], list[str]]:
    """Checks of slices and phase, and the items that could not be checked."""
    items, missing = [], []
    if facts.thin_A is None:
        missing.append("slices: the convergence angle is unknown")
    else:
        if facts.n_slices > 1:
            items.append(_slice_item(facts, facts.thin_A))
        thickness = given_number(facts.setup, "total_thickness")
        if thickness is None or thickness <= 0:
            missing.append(
                "specimen thickness: total_thickness is not given; one slice is sufficient up to about "
                f"{number(facts.thin_A)} Å"
            )
        else:
            items.append(_thickness_item(facts, thickness, facts.thin_A))
    phase = _given_phase(facts)
    estimated = _estimated_phase(facts) if phase is None else None
    if phase is not None:
        items.append(
            _phase_item(
                phase, "Largest range of the phase in a slice of the given obj (percentiles 0.1 to 99.9)."
            )
        )
    elif estimated is not None:
        items.append(
            _phase_item(
                estimated,
                "Estimated from the scattered electrons: six times the rms phase of a weak object, divided among all "
                "slices. It is larger for a thick specimen.",
            )
        )
    else:
        missing.append("phase range: far-field patterns are needed")
    return items, missing


def _slice_item(facts: Facts, thin: float) -> Item:
    gap = facts.gap_A
    status = worse_above(gap, thin, 4 * thin)
    if gap < _TOO_THIN * thin:
        status = worse_below(gap, _TOO_THIN * thin)
    focus = facts.wavelength / (facts.alpha or 1) ** 2
    return Item(
        name="slice thickness",
        status=status,
        value=gap,
        unit="Å",
        limit=f"warn above {number(thin)} or below {number(_TOO_THIN * thin)} Å, fail above {number(4 * thin)} Å",
        meaning=f"Largest slice distance of {facts.n_slices} slices, compared with the thickness that one slice can "
        f"describe, 5.2 (0.61 lambda/2 alpha)^2/lambda. The depth of focus, lambda/alpha^2, is {number(focus)} Å.",
        what_to_do=(
            "Use more slices if they are thicker: they neglect propagation. Use fewer if they are much thinner, or a "
            "regulariser along the beam (wedge_mu): they cannot be distinguished."
        ),
    )


def _thickness_item(facts: Facts, thickness: float, thin: float) -> Item:
    if facts.n_slices == 1:
        return Item(
            name="specimen thickness",
            status=worse_above(thickness, thin, 4 * thin),
            value=thickness,
            unit="Å",
            limit=f"warn above {number(thin)} Å, fail above {number(4 * thin)} Å",
            meaning="total_thickness, compared with the thickness that one slice can describe, "
            "5.2 (0.61 lambda/2 alpha)^2/lambda.",
            what_to_do=f"Use num_slices={math.ceil(thickness / thin)} with slice_distances of about "
            f"{number(thickness / math.ceil(thickness / thin))} Å.",
        )
    distances = to_host(facts.variables.slice_distances).astype(float)
    gaps = np.resize(distances, facts.n_slices - 1)
    modelled = float(gaps.sum() + gaps[-1])
    away = max(modelled / thickness, thickness / modelled) if modelled > 0 else math.inf
    return Item(
        name="specimen thickness",
        status=worse_above(away, _THICKNESS_OFF, 2),
        value=modelled,
        unit="Å",
        limit=(
            f"warn when more than {100 * (_THICKNESS_OFF - 1):g} % from total_thickness = {thickness:g} Å, "
            "fail above twice or below half of it"
        ),
        meaning=f"Total thickness of {facts.n_slices} slices with their distances, compared with the recorded one.",
        what_to_do=f"Use slice_distances of about {number(thickness / facts.n_slices)} Å, or another num_slices.",
    )


def _given_phase(facts: Facts) -> float | None:
    """Range of the phase of the given object between percentiles 0.1 and 99.9; the largest of its slices."""
    obj = facts.setup.settings["obj"]
    if obj is None or obj.shape[:2] == (1, 1):
        return None
    ranges = []
    for z in range(obj.shape[2]):
        phase = np.angle(obj[:, :, z])
        low, high = np.percentile(phase, (0.1, 99.9))
        ranges.append(high - low)
    phase_range = float(max(ranges))
    return phase_range if phase_range > 0 else None


def _estimated_phase(facts: Facts) -> float | None:
    """Phase range per slice, rad: six standard deviations of the phase.

    A weak phase object of variance v scatters the fraction v of the incident wave. Electrons scattered out of the disk
    are counted outside it; those that stay inside change its brightness from scan point to scan point with a variance
    of 2 v, since the transfer 4 sin² chi of a defocused probe is 2 on average. Shot noise is subtracted.
    """
    disk, sample = facts.disk, facts.sample
    if disk is None or facts.probe is None or facts.setup.settings["masks"] is not None or sample.n < 2:
        return None
    good = disk.inside & ~sample.bad & (sample.mean > 0)
    if not good.any():
        return None
    mean = sample.mean[good]
    gain = facts.setup.multiplier if sample.whole else 0.0
    excess = (sample.variance[good] - gain * mean) / mean**2
    variance = disk.dark + max(0.0, float(excess.mean())) / 2
    return _SPREAD * math.sqrt(variance) / facts.n_slices


def _phase_item(phase_range: float, meaning: str) -> Item:
    return Item(
        name="phase range per slice",
        status=worse_above(phase_range, _PHASE),
        value=phase_range,
        unit="rad",
        limit=f"warn above {number(_PHASE)} rad (pi/2)",
        meaning=meaning,
        what_to_do=(
            "Use more slices (num_slices): slices with a strong phase are far from vacuum, from which the "
            "reconstruction starts."
        ),
    )
