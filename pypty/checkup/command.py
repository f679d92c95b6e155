"""pypty check FILE --report report.html"""

from __future__ import annotations

from pathlib import Path

from pypty.checkup.checks import preflight
from pypty.checkup.result import Preflight
from pypty.engine.prepare import Params


def write_report(params: Params, path: str | Path) -> Preflight:
    """Do the pre-flight and write its page.

    Raises
    ------
    OutputError
        The page cannot be written.
    """
    found = preflight(params)
    found.write_html(path)
    return found


def report_command(params: Params, path: str | Path) -> str:
    """The same; the table to print, and where the page is."""
    return f"{write_report(params, path)}\nReport: {path}"
