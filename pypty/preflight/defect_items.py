"""Defects of the detector, by :func:`pypty.calibrate.defects`: they spoil all other numbers, and are asked first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.calibrate.defects import PIXELS, defects
from pypty.calibrate.suggestion import Suggestion
from pypty.errors import PyptyError
from pypty.preflight.item import FAIL, PASS, WARN, Item, Status, number, worse_above

MOST_PATTERNS = 4096  # evenly spaced
MOST_BYTES = 256 * 2**20  # of these patterns as float64
_BAD = 0.01  # share of the counts on bad pixels: fail
_SATURATED = 0.05  # share of the counts in saturated values: fail
_MASK = "Give them weight 0 with detector_mask; pypty.calibrate.defects(params) makes it (and leaves out bad patterns)."


def ask_defects(params: Mapping[str, Any]) -> tuple[Suggestion | None, list[str]]:
    """The defects, or None with the reason why there are none to be found."""
    try:
        return defects(params, most_patterns=MOST_PATTERNS, most_bytes=MOST_BYTES), []
    except PyptyError as error:
        return None, [f"defects of the detector: {error}"]


def defect_items(found: Suggestion) -> list[Item]:
    """Bad pixels, saturation, gain."""
    return [_pixel_item(found), _saturation_item(found), _gain_item(found)]


def _pixel_item(found: Suggestion) -> Item:
    values = found.values
    counts = {name: len(values[name]) for name in PIXELS if name != "saturated_pixels"}
    total = sum(counts.values())
    share = max(values["bad_share"] if total else 0.0, values["hot_share"])
    words = {
        "marked": "hold a marker (2^32 - 1, 2^16 - 1, -1, NaN) instead of counts",
        "own_mask": "are masked by the detector itself",
        "hot": "are hot",
        "dead": "are dead",
        "stuck": "are stuck at a value",
    }
    parts = [f"{counts[name]} {text}" for name, text in words.items() if counts[name]]
    lines = [
        f"{len(values[key])} complete {name}"
        for key, name in (("dead_rows", "rows"), ("dead_columns", "columns"))
        if len(values[key])
    ]
    meaning = (
        "; ".join([*parts, *lines]) or "No pixel is hot, dead, stuck or marked, compared with its neighbours"
    )
    if total:
        meaning += f". They hold, or would hold, {number(100 * share)} % of the counts"
    status: Status = worse_above(total, 0)
    if total and (share > _BAD or counts["marked"]):
        status = FAIL
    if values["unsure"]:
        meaning += f". UNSURE: {'; '.join(values['unsure'])}"
    return Item(
        name="hot and dead pixels",
        status=status,
        value=total,
        unit="px",
        limit=f"warn above 0; fail when they concern more than {100 * _BAD:g} % of the counts, or hold markers",
        meaning=f"{meaning}.{_sampled(values)}",
        what_to_do=_MASK,
    )


def _sampled(values: Mapping[str, Any]) -> str:
    """How many patterns were looked at, if these are not all."""
    looked_at, n = values["looked_at"], values["n_patterns"]
    return "" if looked_at == n else f" Looked at: {looked_at} of {n} patterns, evenly spaced."


def _saturation_item(found: Suggestion) -> Item:
    values = found.values
    share, ceiling = float(values["saturated_share"]), values["ceiling"]
    meaning = "No pile-up at the largest value, and it is not that of the data type."
    if ceiling is not None:
        meaning = (
            f"Values reach {ceiling:g}, where they pile up or the data type ends: the counter was full, and the true "
            f"counts are higher. {len(values['saturated_pixels'])} pixels, {len(values['saturated'])} patterns."
        )
    return Item(
        name="saturation",
        status=worse_above(share, 0, _SATURATED),
        value=100 * share,
        unit="%",
        limit=f"warn above 0, fail above {100 * _SATURATED:g} % of the counts",
        meaning=meaning + _sampled(values),
        what_to_do="Measure with less current. " + _MASK,
    )


def _gain_item(found: Suggestion) -> Item:
    gain, suggested = found.values["gain"], found.params.get("data_multiplier")
    return Item(
        name="gain",
        status=PASS if suggested is None else WARN,
        value="not seen" if gain is None else gain,
        unit="" if gain is None else "per electron",
        limit="warn when all counts are multiples of a number other than 1/data_multiplier",
        meaning="The number of which all counts are multiples, if they scatter as electrons that count so much.",
        what_to_do="Set data_multiplier to one over this number."
        if suggested is None
        else f"Set data_multiplier={suggested:.6g}: dose and noise model need electrons.",
    )


def good_pixels(found: Suggestion | None, shape: tuple[int, int]) -> np.ndarray:
    """(ky, kx) float weights as stored, 0 for bad pixels."""
    mask = None if found is None else found.params.get("detector_mask")
    return np.ones(shape) if mask is None else (np.asarray(mask) > 0).astype(float)
