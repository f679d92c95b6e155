"""What became of every key of another program's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pypty.params.kinds import brief

OURS, UNUSED, WITHOUT = "ours", "no effect", "no counterpart"


@dataclass(frozen=True)
class Line:
    """What became of one key.

    Attributes
    ----------
    key : dotted name there
    kind : OURS, UNUSED (nothing depends on it here) or WITHOUT (it would matter, but there is nothing like it)
    text : parameters here, or why not
    """

    key: str
    kind: str
    text: str


@dataclass(frozen=True)
class Translation:
    """Parameters of another program's file in ours.

    Attributes
    ----------
    params : ready for :func:`pypty.run`
    notes : what differs, or was decided
    without_counterpart : "key: why" of what the file asks for and there is nothing like here
    lines : what became of every key
    """

    params: dict[str, Any]
    notes: tuple[str, ...] = ()
    without_counterpart: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()

    def report(self, every_key: bool = False) -> str:
        """Text: what has no counterpart, and notes; with ``every_key`` also what became of every key."""
        out = []
        if every_key:
            width = max((len(line.key) for line in self.lines), default=0)
            out += [f"{line.key:<{width}}  {_told(line)}" for line in self.lines]
        if self.without_counterpart:
            out += ["Without counterpart here:", *(f"  {text}" for text in self.without_counterpart)]
        if self.notes:
            out += ["Notes:", *(f"  {text}" for text in self.notes)]
        return "\n".join(out or ["Everything has a counterpart."])


def _told(line: Line) -> str:
    return line.text if line.kind == OURS else f"({line.kind}) {line.text}"


@dataclass
class Ledger:
    """Parameters as they are collected.

    Attributes
    ----------
    source : file name, for messages
    given : dotted names of what the file says itself
    """

    source: str
    given: frozenset[str] = frozenset()
    params: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ours(self, key: str, text: str = "", **params: Any) -> None:
        """``key`` means these parameters; ``text`` where the values are not the whole story."""
        self.params.update(params)
        values = ", ".join(f"{name} = {brief(value)}" for name, value in params.items())
        self.lines.append(Line(key, OURS, "; ".join(part for part in (values, text) if part)))

    def unused(self, key: str, why: str) -> None:
        """Nothing here depends on ``key``."""
        self.lines.append(Line(key, UNUSED, why))

    def without(self, key: str, why: str) -> None:
        """``key`` asks for something that there is not."""
        self.lines.append(Line(key, WITHOUT, why))

    def note(self, text: str) -> None:
        """Something to know."""
        if text not in self.notes:
            self.notes.append(text)

    def says(self, key: str) -> bool:
        """Whether the file itself gives ``key``."""
        return key in self.given

    def close(self, extra_notes: tuple[str, ...] = ()) -> Translation:
        """The result."""
        missing = tuple(f"{line.key}: {line.text}" for line in self.lines if line.kind == WITHOUT)
        return Translation(dict(self.params), (*extra_notes, *self.notes), missing, tuple(self.lines))


Group = Mapping[str, Any]
"""One of the groups, complete."""
