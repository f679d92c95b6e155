"""The page of a pre-flight: one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from pypty._version import __version__
from pypty.plots.figures import Figure
from pypty.preflight.item import PASS, Item

_LONGEST_TEXT = 300
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c2530;background:#f4f6f8;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:30px 0 8px}
.sub{color:#5b6775;margin:0 0 18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:14px}
figure{background:#fff;border:1px solid #d9dfe5;border-radius:8px;margin:0;padding:10px}
figure img{width:100%;height:auto}figcaption{color:#5b6775;font-size:13px;padding:4px 2px}
pre{background:#fff;border:1px solid #d9dfe5;border-radius:8px;padding:12px;overflow-x:auto;font-size:13px}
"""
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
        _list("Problems", problems)
        + _list("Warnings of the parameters", warnings)
        + _list("Not checked", not_checked)
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


def _list(title: str, texts: Iterable[str]) -> str:
    entries = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<h2>{html.escape(title)}</h2><ul>{entries}</ul>" if entries else ""


def page(
    summary: str, body: str, figures: Mapping[str, Figure], plan: str, settings: Mapping[str, Any]
) -> str:
    """The whole page, with figures embedded as PNG."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    name = _name(settings)
    captions = dict(_CAPTIONS)
    cards = "".join(_card(figure, captions[title]) for title, figure in figures.items())
    parts = [
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Pre-flight{html.escape(name)}</title>',
        f"<style>{_STYLE}</style></head><body><main><h1>Pre-flight{html.escape(name)}</h1>",
        f'<p class="sub">pypty {html.escape(__version__)}, {html.escape(now)}</p>',
        body,
        f'<h2>Figures</h2><div class="cards">{cards}</div>' if cards else "",
        f"<h2>Memory</h2><pre>{html.escape(plan)}</pre>" if plan else "",
        _settings_part(settings),
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _name(settings: Mapping[str, Any]) -> str:
    name = settings.get("sample_name")
    return f": {name}" if isinstance(name, str) and name else ""


def _card(figure: Figure, caption: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _settings_part(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    lines = "\n".join(f"{key}: {_shown(value)}" for key, value in settings.items())
    return f"<h2>Parameters as given</h2><pre>{html.escape(lines)}</pre>"


def _shown(value: Any) -> str:
    """A value on one line; arrays as shape and dtype."""
    if isinstance(value, np.ndarray) and value.size > 8 or hasattr(value, "shape") and not np.isscalar(value):
        return f"array {tuple(value.shape)} {value.dtype}"
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
