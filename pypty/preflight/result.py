"""Result of a pre-flight: a table for the terminal, and a page with figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pypty.output.files import write_text
from pypty.params.report import Report
from pypty.plots.figures import Figure
from pypty.preflight.item import FAIL, PASS, WARN, Item
from pypty.preflight.page import fragment, page
from pypty.preflight.pictures import Pictures

_WIDTH = 118


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """The result of :func:`pypty.preflight`. Printing it gives a table.

    Attributes
    ----------
    items : all checks, in the order of the page; ``preflight["overlap"]`` gives one by name
    report : problems and warnings of :func:`pypty.check`
    not_checked : items that could not be checked, with the reason
    plan : the memory plan as text; "" if there is none
    settings : the parameters that the user set
    """

    items: tuple[Item, ...]
    report: Report
    not_checked: tuple[str, ...] = ()
    plan: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    pictures: Pictures | None = None

    @property
    def ok(self) -> bool:
        """Whether no check fails; there may be warnings."""
        return all(item.status != FAIL for item in self.items)

    def __getitem__(self, name: str) -> Item:
        for item in self.items:
            if item.name == name:
                return item
        raise KeyError(f"{name!r} was not checked; items are: {', '.join(item.name for item in self.items)}")

    @property
    def summary(self) -> str:
        """One line: how many checks pass, warn and fail."""
        counted = [sum(item.status == status for item in self.items) for status in (PASS, WARN, FAIL)]
        verdict = "ready to fly" if self.ok else "do not start yet"
        return f"Pre-flight: {counted[0]} pass, {counted[1]} warn, {counted[2]} fail - {verdict}."

    def __str__(self) -> str:
        names = max(len(item.name) for item in self.items)
        values = max(len(item.text) for item in self.items)
        lines = [self.summary]
        for item in self.items:
            head = f"  {item.status}  {item.name:<{names}}  {item.text:<{values}}  {item.limit}"
            lines.append(head.rstrip())
            if item.status != PASS:
                lines += _wrapped(f"{item.meaning} {item.what_to_do}", " " * 8)
        lines += _listed("Problems:", self.report.problems)
        lines += _listed("Warnings:", self.report.warnings)
        lines += _listed("Not checked:", self.not_checked)
        return "\n".join(lines)

    __repr__ = __str__

    def figures(self) -> dict[str, Figure]:
        """The figures of the page, by name; empty if the parameters have problems."""
        return {} if self.pictures is None else self.pictures.figures()

    def _repr_html_(self) -> str:
        return fragment(
            self.summary, self.items, self.report.problems, self.report.warnings, self.not_checked
        )

    def write_html(self, path: str | Path) -> Path:
        """Write one self-contained HTML page, including the figures.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        target = Path(path).expanduser()
        body = self._repr_html_()
        write_text(target, page(self.summary, body, self.figures(), self.plan, self.settings))
        return target


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _listed(title: str, texts: tuple[str, ...] | list[str]) -> list[str]:
    lines = [title] if texts else []
    for text in texts:
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines
