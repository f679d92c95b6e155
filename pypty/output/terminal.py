"""Text for people: on terminals that know only ASCII, and on terminals that are gone."""

from __future__ import annotations

from typing import IO

_ASCII = str.maketrans({
    "Å": "A", "²": "^2", "³": "^3", "⁻": "-", "¹": "1", "×": "x", "·": "*", "±": "+-", "°": " deg", "–": "-", "—": "-",
    "−": "-", "…": "...", "µ": "u", "μ": "u", "α": "alpha", "λ": "lambda", "π": "pi", "σ": "sigma", "Δ": "delta ",
    "→": "->", "≥": ">=", "≤": "<=", "≈": "about ", "√": "sqrt", "’": "'", "‘": "'", "“": '"', "”": '"', "é": "e",
    "✓": "ok", "✗": "x", "█": "#", "ö": "oe", "ü": "ue", "ä": "ae",
})  # fmt: skip


def fitting(text: str, encoding: str | None) -> str:
    """``text``, with what ``encoding`` cannot express written in ASCII."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return text


class Terminal:
    """A stream that never fails: it adapts to the encoding, and is silent once nobody listens any more.

    A closed terminal, or a pipe whose reader has ended, must not end a run of hours.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def __eq__(self, other: object) -> bool:
        """It is its stream: tqdm clears its bar for lines that go to the same terminal."""
        return self._stream is (other._stream if isinstance(other, Terminal) else other)

    __hash__ = object.__hash__

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(fitting(text, self.encoding))
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._stream = None
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Of the stream, for its width."""
        if self._stream is None:
            raise OSError("there is no stream")
        return self._stream.fileno()
