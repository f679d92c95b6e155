"""Record of the translation of another program's parameters, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pypty.params.kinds import brief

OURS, UNUSED, WITHOUT = "ours", "no effect", "no counterpart"


@dataclass(frozen=True)
class Line:
    """The translation of one key.

    Attributes
    ----------
    key : its dotted name in the other program
    kind : OURS, UNUSED (nothing depends on it here) or WITHOUT (it would matter, but has no counterpart)
    text : our parameters, or the reason
    """

    key: str
    kind: str
    text: str


@dataclass(frozen=True)
class Translation:
    """The parameters of another program's file, translated.

    Attributes
    ----------
    params : parameters for :func:`pypty.run`
    notes : differences between the programs, and choices made
    without_counterpart : "key: reason" of the keys that would matter but have no counterpart
    lines : the translation of every key
    """

    params: dict[str, Any]
    notes: tuple[str, ...] = ()
    without_counterpart: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()

    def report(self, every_key: bool = False) -> str:
        """Keys without counterpart and notes, as text; with ``every_key`` also the translation of every key."""
        out = []
        if every_key:
            width = max((len(line.key) for line in self.lines), default=0)
            out += [f"{line.key:<{width}}  {_text(line)}" for line in self.lines]
        if self.without_counterpart:
            out += ["Without counterpart here:", *(f"  {text}" for text in self.without_counterpart)]
        if self.notes:
            out += ["Notes:", *(f"  {text}" for text in self.notes)]
        return "\n".join(out or ["Everything has a counterpart."])


def _text(line: Line) -> str:
    return line.text if line.kind == OURS else f"({line.kind}) {line.text}"


@dataclass
class Ledger:
    """Collects translated parameters and the translation of every key.

    Attributes
    ----------
    source : file name, for messages
    set_by_user : dotted names of the keys in the file
    """

    source: str
    set_by_user: frozenset[str] = frozenset()
    params: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ours(self, key: str, text: str = "", **params: Any) -> None:
        """Record that ``key`` is translated to ``params``; ``text`` is an additional remark."""
        self.params.update(params)
        values = ", ".join(f"{name} = {brief(value)}" for name, value in params.items())
        self.lines.append(Line(key, OURS, "; ".join(part for part in (values, text) if part)))

    def unused(self, key: str, why: str) -> None:
        """Record that nothing here depends on ``key``."""
        self.lines.append(Line(key, UNUSED, why))

    def without(self, key: str, why: str) -> None:
        """Record that ``key`` has no counterpart here."""
        self.lines.append(Line(key, WITHOUT, why))

    def note(self, text: str) -> None:
        """Add a note for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def is_set(self, key: str) -> bool:
        """Whether ``key`` is in the file."""
        return key in self.set_by_user

    def close(self, extra_notes: tuple[str, ...] = ()) -> Translation:
        """The finished translation."""
        missing = tuple(f"{line.key}: {line.text}" for line in self.lines if line.kind == WITHOUT)
        return Translation(dict(self.params), (*extra_notes, *self.notes), missing, tuple(self.lines))


Group = Mapping[str, Any]
"""One of the groups, or an entry that is a mapping, with all its keys."""
