"""The outcome of a check: all problems and warnings, and what was chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from pypty.errors import ParameterError, PyptyError


@dataclass
class Report:
    """Problems and warnings of :func:`pypty.check`, and the values of parameters that are "auto". Its truth value is
    True if there are no problems."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not self.problems

    def has(self, key: str) -> bool:
        """Whether parameter ``key`` has a problem already."""
        return any(text.startswith(f"{key}: ") for text in self.problems)  # as add() writes them

    def add(self, key: str, text: str) -> None:
        """Note a problem of parameter ``key``, once."""
        if f"{key}: {text}" not in self.problems:
            self.problems.append(f"{key}: {text}")

    def note_error(self, error: PyptyError) -> None:
        """Note the message of an error, once."""
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def __str__(self) -> str:
        lines = [f"  - {text}" for text in self.problems]
        head = (
            f"{len(self.problems)} problem{'s' * (len(self.problems) != 1)} in the parameters:"
            if self.problems
            else "The parameters are usable."
        )
        notes = [f"  - {text}" for text in self.warnings]
        chosen = [] if self.problems else [f"  - {text}" for text in self.choices]
        return "\n".join(
            [
                head,
                *lines,
                *(["Warnings:", *notes] if notes else []),
                *(["Chosen:", *chosen] if chosen else []),
            ]
        )

    __repr__ = __str__

    def raise_if_any(self) -> None:
        """Raise all problems as one ParameterError."""
        if self.problems:
            raise ParameterError(str(self))
