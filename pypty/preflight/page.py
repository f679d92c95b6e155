"""The page of a pre-flight: one self-contained HTML file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from pypty._version import __version__
from pypty.plots.figures import Figure
from pypty.plots.html_page import cards, document, paragraphs, parameters, preformatted
from pypty.preflight.item import PASS, Item

_TABLE_STYLE = """
.pf{font-family:system-ui,sans-serif}
.pf table{border-collapse:collapse;width:100%;background:#fff;color:#1c2530;font-size:14px}
.pf th,.pf td{border:1px solid #d9dfe5;padding:6px 9px;text-align:left;vertical-align:top}
.pf th{background:#e8edf2}.pf .do{font-weight:600}.pf .lim{color:#5b6775;font-size:13px}
.pf .num{white-space:nowrap}.pf .s{font-weight:700;text-transform:uppercase;color:#fff;text-align:center}
.pf .pass{background:#23855b}.pf .warn{background:#b06a00}.pf .fail{background:#b3261e}
.pf .verdict{display:inline-block;padding:7px 13px;border-radius:8px;color:#fff;font-weight:600;margin:0 0 12px}
.pf li{margin:2px 0}
"""
_CAPTIONS = (
    (
        "mean pattern",
        "Mean pattern with the detected bright-field disk and the zero frequency (cross).",
    ),
    ("starting probe", "Starting probe in the simulation window; the circle contains 90 % of its intensity."),
    ("scan", "Scan positions, and the probe's circle in the middle of the scan and at neighbouring points."),
    ("counts", "Counts of the patterns in the sample."),
    ("slices", "Beam and slices from the side, compared with the depth of focus."),
)


def fragment(
    summary: str,
    items: Iterable[Item],
    problems: Iterable[str],
    warnings: Iterable[str],
    not_checked: Iterable[str],
) -> str:
    """The table and the lists as HTML, for a notebook and for the page."""
    items = tuple(items)
    statuses = [item.status for item in items]
    worst = "fail" if "fail" in statuses else "warn" if "warn" in statuses else "pass"
    rows = "".join(_row(item) for item in items)
    lists = (
        paragraphs("Problems", problems)
        + paragraphs("Warnings of the parameters", warnings)
        + paragraphs("Not checked", not_checked)
    )
    return (
        f'<div class="pf"><style>{_TABLE_STYLE}</style><div class="verdict {worst}">{html.escape(summary)}</div>'
        "<table><thead><tr><th>status</th><th>check</th><th>value</th><th>meaning and advice</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{lists}</div>"
    )


def _row(item: Item) -> str:
    advice = ""
    if item.status != PASS and item.what_to_do:
        advice = f'<div class="do">{html.escape(item.what_to_do)}</div>'
    return (
        f'<tr><td class="s {item.status}">{item.status}</td><td>{html.escape(item.name)}</td>'
        f'<td class="num">{html.escape(item.text)}</td>'
        f'<td>{html.escape(item.meaning)}{advice}<div class="lim">{html.escape(item.limit)}</div></td></tr>'
    )


def page(
    summary: str, body: str, figures: Mapping[str, Figure], plan: str, settings: Mapping[str, Any]
) -> str:
    """The whole page, with figures embedded as PNG."""
    name, captions = settings.get("sample_name"), dict(_CAPTIONS)
    title = f"Pre-flight: {name}" if isinstance(name, str) and name else "Pre-flight"
    parts = (
        body,
        cards((figure, captions[key]) for key, figure in figures.items()),
        preformatted("Memory", plan),
        parameters(settings),
    )
    return document(title, f"pypty {__version__}", parts)
