"""Run all checks of a pre-flight."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from pypty.calibrate.suggestion import Suggestion
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import Params, inspect, read
from pypty.engine.setup.reported import reported
from pypty.errors import PyptyError
from pypty.params.report import Report
from pypty.preflight.cost import cost_items
from pypty.preflight.data_items import data_items
from pypty.preflight.defect_items import ask_defects, defect_items, good_pixels
from pypty.preflight.facts import Facts, gather
from pypty.preflight.item import FAIL, PASS, WARN, Item
from pypty.preflight.order_items import missing_items, order_items
from pypty.preflight.pictures import Pictures, pictures_of
from pypty.preflight.probe_items import probe_items
from pypty.preflight.result import Preflight
from pypty.preflight.sample import look
from pypty.preflight.scan_items import dose_items, scan_items
from pypty.preflight.specimen_items import specimen_items

_PARTS = (dose_items, probe_items, specimen_items, data_items, cost_items)


@reported()
def preflight(params: Params) -> Preflight:
    """Check whether a reconstruction with these parameters can work. Writes no files.

    The parameters are checked as by :func:`pypty.check`. If that finds no problem, the numbers of docs/preflight.md are
    computed and compared with their limits. This reads the patterns once, analyses some of them in detail, and measures
    the time of an evaluation of a few patterns.

    Parameters
    ----------
    params : dict of parameters, or the path of a preset file or output folder

    Returns
    -------
    Preflight: printing it gives a table; ``ok`` is False if anything fails; ``write_html(path)`` writes a page with
    figures
    """
    given = _set_by_user(params)
    # Defects of the detector first: they spoil the numbers of all other checks, and even stop the reading.
    spoilt = _Detector.of(given)
    report, setup = inspect(params)
    if setup is None:
        return _refused(spoilt, report, given)
    try:
        return _of_setup(setup, report, given, spoilt)
    finally:
        setup.close()


@dataclass(frozen=True)
class _Detector:
    """What :func:`pypty.calibrate.defects` found (None if it could not look), as items, and what is not checked."""

    found: Suggestion | None
    items: tuple[Item, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, params: Mapping[str, object]) -> _Detector:
        if not (params.get("data_path") or params.get("dataset") is not None):
            return cls(None, (), ())
        found, missing = ask_defects(params)
        return cls(found, () if found is None else tuple(defect_items(found)), tuple(missing))


def _refused(spoilt: _Detector, report: Report, params: Mapping[str, object]) -> Preflight:
    """The result if the parameters have problems: the defects, the problems, and missing patterns."""
    items = [*spoilt.items, _check_item(report)]
    if report.has("scan_size"):
        items += missing_items(params)
    return Preflight(items=tuple(items), report=report, settings=dict(params))


def _set_by_user(params: Params) -> dict[str, object]:
    """The parameters that the user set, for the page; empty if they cannot be read."""
    try:
        return {str(key): value for key, value in read(params).items()}
    except (PyptyError, AttributeError):
        return {}


def _of_setup(setup: Setup, report: Report, settings: dict[str, object], spoilt: _Detector) -> Preflight:
    try:
        assert setup.source is not None
        good = good_pixels(spoilt.found, (setup.source.shape[1], setup.source.shape[2]))
        facts = gather(setup, look(setup, good))
        items, missing = _judge(facts, settings if spoilt.found is None else spoilt.found.apply(settings))
        pictures: Pictures | None = pictures_of(facts)
    except PyptyError as error:  # a damaged file, a start that cannot be made
        report.note_error(error)
        return _refused(spoilt, report, settings)
    if any(item.status == FAIL for item in spoilt.items):
        items = [_after_defects(item) for item in items]
    return Preflight(
        items=(*spoilt.items, _check_item(report), *items),
        report=report,
        not_checked=(*spoilt.missing, *missing),
        plan=str(setup.plan),
        settings=settings,
        pictures=pictures,
    )


def _after_defects(item: Item) -> Item:
    """An item that does not pass, with the advice to correct the detector's defects first."""
    if item.status == PASS:
        return item
    return dataclasses.replace(
        item,
        what_to_do=f"First correct the defects of the detector: they may be the reason. {item.what_to_do}",
    )


def _judge(facts: Facts, params: Mapping[str, object]) -> tuple[list[Item], list[str]]:
    items, missing = scan_items(facts)
    checked, left_out = order_items(facts, params)
    items, missing = items + checked, missing + left_out
    for part in _PARTS:
        checked, left_out = part(facts)
        items += checked
        missing += left_out
    return items, missing


def _check_item(report: Report) -> Item:
    problems, warnings = len(report.problems), len(report.warnings)
    return Item(
        name="parameters",
        status=FAIL if problems else WARN if warnings else PASS,
        value=f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}",
        unit="",
        limit="warn with a warning, fail with a problem",
        meaning="Problems and warnings of pypty.check; they are listed in full beside this table.",
        what_to_do="See the list of problems and warnings.",
    )
