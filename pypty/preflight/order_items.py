"""Checks of the order and orientation of the scan against the patterns, by :mod:`pypty.calibrate`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.calibrate.confirm import confirm
from pypty.calibrate.orientation import orientation
from pypty.calibrate.scan_order import StoredScan, scan_order
from pypty.calibrate.suggestion import ranges
from pypty.data.scan import SCAN_ORDERS
from pypty.errors import PyptyError
from pypty.preflight.facts import Facts, RasterFit, ScanFacts, raster_fit
from pypty.preflight.item import FAIL, PASS, WARN, Item

_MISFIT = 0.5  # rms distance from a raster in steps
_MOST_BYTES = 2**30  # of patterns that are read once more
_FEWER = "fail when there are fewer patterns than points of scan_size"


def order_items(facts: Facts, params: Mapping[str, Any]) -> tuple[list[Item], list[str]]:
    """Whether neighbours on the raster of ``positions`` are alike, and whether the detector is oriented as they say."""
    setup = facts.setup
    if setup.near_field or setup.settings["masks"] is not None or setup.source is None:
        return [], ["order and orientation of the scan: the data are no diffraction patterns"]
    size, scan = setup.settings["scan_size"], facts.scan
    if size is None or scan is None or min(size) < 2:
        return [], ["order and orientation of the scan: scan_size is not given, or the scan is no raster"]
    if math.prod(setup.source.shape) * setup.source.dtype.itemsize > _MOST_BYTES:
        return [], [
            "order and orientation of the scan: more than 1 GiB of patterns; see pypty.calibrate.everything"
        ]
    found = _raster(facts, scan)
    if found is None:
        return [], ["order and orientation of the scan: the positions are no raster of scan_size"]
    order, fit = found
    read = {**params, "scan_order": order}
    items: list[Item] = []
    try:
        item = _order_item(read)
        items.append(item)
        if item.status != FAIL:
            items.append(_orientation_item(read, fit.rotation_deg, fit.mirrored))
    except PyptyError as error:  # a scan that is too small, no disk
        return items, [f"order and orientation of the scan: UNSURE: {error}"]
    return items, []


def _raster(facts: Facts, scan: ScanFacts) -> tuple[str, RasterFit] | None:
    """The order of the positions, that of the parameters if it fits, and their raster."""
    now = facts.setup.settings
    size = (int(now["scan_size"][0]), int(now["scan_size"][1])) if now["scan_size"] is not None else (0, 0)
    for order in (now["scan_order"], *SCAN_ORDERS):
        fit = raster_fit(scan.positions_A, size, scan.step_A, order, now["missing_patterns"])
        if fit is not None and fit.misfit < _MISFIT:
            return order, fit
    return None


def _order_item(params: Mapping[str, Any]) -> Item:
    found = scan_order(params, quick=True)
    values = found.values
    given, best, doubts = values["given"], values["order"], values["unsure"]
    advice = "Check scan_size (slow, fast), scan_order, and the positions."
    if values["contradicts"]:
        advice = f"Set scan_order={best!r} and compute positions again"
        turned = ("columns" in best) != ("columns" in given)
        rows, columns = (int(n) for n in params["scan_size"])
        advice += f", or swap scan_size to [{columns}, {rows}]." if turned else "."
    text = "" if not doubts else f" UNSURE: {'; '.join(doubts)}."
    across = ", ".join(f"{name} {value:.2f}" for name, value in values["across"].items())
    return Item(
        name="order of the scan",
        status=(WARN if doubts else FAIL) if values["contradicts"] else WARN if doubts else PASS,
        value=f"{best}, UNSURE" if doubts else best,
        unit="",
        limit=f"warn when unsure, fail when it is evidently not {given!r}, that of the positions",
        meaning=f"Likeness of neighbouring patterns: along the lines {values['along']:.2f}, across them {across}."
        + text,
        what_to_do=advice,
    )


def _orientation_item(params: Mapping[str, Any], angle_deg: float, mirrored: bool) -> Item:
    found = confirm(params, angle_deg, mirrored)
    values = found.values
    doubts, advice = values["unsure"], "Compare with pypty.calibrate.orientation, or with a known specimen."
    if not values["agrees"]:
        best = orientation(params, quick=True)
        shown = ", ".join(f"{key}={_plain(value)}" for key, value in best.params.items())
        doubtful = f" (UNSURE: {'; '.join(best.values['unsure'])})" if best.values["unsure"] else ""
        advice = f"Set {shown}{doubtful}, and compute positions again (pypty.calibrate.orientation)."
        if best.values["exchanged_deg"] is not None:
            advice += (
                " Or slow and fast axis of the scan are exchanged: scan_order='columns' with "
                f"PLRotation_deg={best.values['exchanged_deg']:.1f} and flip_ky as it is."
            )
    text = "" if not doubts else f" UNSURE: {'; '.join(doubts)}."
    return Item(
        name="orientation of the detector",
        status=PASS if values["agrees"] and not doubts else WARN if doubts else FAIL,
        value=("agrees" if values["agrees"] else "disagrees") + (", UNSURE" if doubts else ""),
        unit="",
        limit="warn when unsure, fail when another rotation or hand fits 1.3 times as well",
        meaning=(
            f"With the positions' rotation of {angle_deg:.1f} deg{' (mirrored)' if mirrored else ''} and this flip_ky "
            f"the images of bright-field pixels coincide to {max(values['fit'], 0):.2f}, with others to "
            f"{max(values['best_other'], 0):.2f}; half a turn cannot be seen.{text}"
        ),
        what_to_do=advice,
    )


def _plain(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return str(value.tolist())
    return f"{value:.1f}" if isinstance(value, float) else repr(value)


def _not_searched_item(stored: StoredScan, problem: str) -> Item:
    return Item(
        name="missing patterns",
        status=FAIL,
        value=f"{stored.size[0] * stored.size[1] - stored.n}, UNSURE where",
        unit="",
        limit=_FEWER,
        meaning=f"{problem}.",
        what_to_do="Correct scan_size (slow, fast).",
    )


def missing_items(params: Mapping[str, Any]) -> list[Item]:
    """Where frames were dropped, if there are fewer patterns than scan points; nothing if that cannot be seen.

    If a search is not worth its time, that ``scan_size`` is probably wrong.
    """
    if params.get("missing_patterns") is not None:
        return []
    try:
        stored = StoredScan.of(params)
        if not stored.searched:
            return []
        problem = stored.problem(_MOST_BYTES)
        if problem is not None:
            return [_not_searched_item(stored, problem)]
        found = scan_order(params, quick=True)
    except PyptyError:
        return []
    values = found.values
    numbers = values["missing"]
    doubts = f" UNSURE: {'; '.join(values['unsure'])}." if values["unsure"] else ""
    return [
        Item(
            name="missing patterns",
            status=FAIL,
            value=f"{len(numbers)}, UNSURE where" if doubts else len(numbers),
            unit="",
            limit=_FEWER,
            meaning=f"Neighbours are most alike if points {ranges(numbers)} (in the order of the beam, from 0) have "
            f"no pattern, and the order of the scan is {values['order']!r}.{doubts}",
            what_to_do="Set missing_patterns to these numbers (pypty.calibrate.scan_order(params) gives them), and "
            "give positions of the other points (pypty.initialize.append_exp_params computes them).",
        )
    ]
