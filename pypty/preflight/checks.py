"""Run all checks of a pre-flight."""

from __future__ import annotations

from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.prepare import Params, inspect, read
from pypty.errors import PyptyError
from pypty.params.report import Report
from pypty.preflight.cost import cost_items
from pypty.preflight.data_items import data_items
from pypty.preflight.facts import Facts, gather
from pypty.preflight.item import FAIL, PASS, WARN, Item
from pypty.preflight.pictures import Pictures, pictures_of
from pypty.preflight.probe_items import probe_items
from pypty.preflight.result import Preflight
from pypty.preflight.sample import look
from pypty.preflight.scan_items import dose_items, scan_items
from pypty.preflight.specimen_items import specimen_items

_PARTS = (scan_items, dose_items, probe_items, specimen_items, data_items, cost_items)


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
    report, setup = inspect(params)
    settings = _set_by_user(params)
    if setup is None:
        return Preflight(items=(_check_item(report),), report=report, settings=settings)
    try:
        return _of_setup(setup, report, settings)
    finally:
        setup.close()


def _set_by_user(params: Params) -> dict[str, object]:
    """The parameters that the user set, for the page; empty if they cannot be read."""
    try:
        return {str(key): value for key, value in read(params).items()}
    except (PyptyError, AttributeError):
        return {}


def _of_setup(setup: Setup, report: Report, settings: dict[str, object]) -> Preflight:
    try:
        facts = gather(setup, look(setup))
        items, missing = _judge(facts)
        pictures: Pictures | None = pictures_of(facts)
    except PyptyError as error:  # a damaged file, a start that cannot be made
        report.note_error(error)
        return Preflight(items=(_check_item(report),), report=report, settings=settings)
    return Preflight(
        items=(_check_item(report), *items),
        report=report,
        not_checked=tuple(missing),
        plan=str(setup.plan),
        settings=settings,
        pictures=pictures,
    )


def _judge(facts: Facts) -> tuple[list[Item], list[str]]:
    items: list[Item] = []
    missing: list[str] = []
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
