"""Self-contained HTML pages: text, tables, and figures that are embedded as PNG."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_LONGEST_TEXT = 300
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1c2530;background:#f4f6f8;margin:0}
main{max-width:1180px;margin:0 auto;padding:24px}
h1{font-size:25px;margin:0 0 4px}h2{font-size:18px;margin:30px 0 8px}
.sub{color:#5b6775;margin:0 0 18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:14px}
figure{background:#fff;border:1px solid #d9dfe5;border-radius:8px;margin:0;padding:10px}
figure img{width:100%;height:auto}figcaption{color:#5b6775;font-size:13px;padding:4px 2px}
table.plain{border-collapse:collapse;background:#fff;font-size:14px}
table.plain th,table.plain td{border:1px solid #d9dfe5;padding:5px 9px;text-align:left}
table.plain th{background:#e8edf2}
.verdict{padding:12px 16px;border-radius:8px;color:#fff;font-weight:500;margin:0 0 12px}
.good{background:#23855b}.doubtful{background:#b06a00}.bad{background:#b3261e}.untested{background:#5b6775}
pre{background:#fff;border:1px solid #d9dfe5;border-radius:8px;padding:12px;overflow-x:auto;font-size:13px}
"""


def document(title: str, subtitle: str, parts: Iterable[str]) -> str:
    """A whole page; the parts are HTML."""
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    head = f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return "".join(
        (
            head,
            f"<style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1>",
            f'<p class="sub">{html.escape(subtitle)}, {html.escape(now)}</p>',
            *parts,
            "</main></body></html>\n",
        )
    )


def headline(text: str, kind: str) -> str:
    """The sentence that matters, on a colour: kind "good", "doubtful", "bad" or "untested"."""
    return f'<div class="verdict {html.escape(kind)}">{html.escape(text)}</div>'


def cards(figures: Iterable[tuple[Figure, str]], title: str = "Figures") -> str:
    """Figures with captions, side by side; "" without any."""
    found = "".join(_card(figure, caption) for figure, caption in figures)
    return f'<h2>{html.escape(title)}</h2><div class="cards">{found}</div>' if found else ""


def _card(figure: Figure, caption: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def preformatted(title: str, text: str) -> str:
    """Text with its own line breaks under a heading; "" without any."""
    return f"<h2>{html.escape(title)}</h2><pre>{html.escape(text)}</pre>" if text else ""


def paragraphs(title: str, texts: Iterable[str]) -> str:
    """A bullet list under a heading; "" without entries."""
    entries = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    return f"<h2>{html.escape(title)}</h2><ul>{entries}</ul>" if entries else ""


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under a heading; "" without rows."""
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    if not lines:
        return ""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<h2>{html.escape(title)}</h2><table class="plain"><tr>{names}</tr>{lines}</table>'


def parameters(settings: Mapping[str, Any], title: str = "Parameters as given") -> str:
    """Parameters, one on each line."""
    return preformatted(title, "\n".join(f"{key}: {_shown(value)}" for key, value in settings.items()))


def _shown(value: Any) -> str:
    """A value on one line; arrays as shape and dtype."""
    if isinstance(value, np.ndarray) and value.size > 8 or hasattr(value, "shape") and not np.isscalar(value):
        return f"array {tuple(value.shape)} {value.dtype}"
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."
