"""The checked parameters: fixed values, and schedules of the values that change with the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pypty.params.schedule import Constant, Schedule
from pypty.params.schema import SCHEMA


@dataclass(frozen=True)
class Settings:
    """Checked parameters; defaults filled in.

    Attributes
    ----------
    fixed : value of every parameter that cannot vary
    schedules : schedule of every parameter that may
    given : names the user set
    notes : warnings about keys that were set but have no effect
    """

    fixed: Mapping[str, Any]
    schedules: Mapping[str, Schedule]
    given: frozenset[str]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.fixed[name]

    def at(self, epoch: int) -> Mapping[str, Any]:
        """Every per-epoch parameter at ``epoch``."""
        return MappingProxyType({name: schedule.at(epoch) for name, schedule in self.schedules.items()})

    def may_be_on(self, name: str) -> bool:
        """Whether a per-epoch switch may be on at some epoch; always true if it depends on the epoch."""
        schedule = self.schedules[name]
        return bool(schedule.value) if isinstance(schedule, Constant) else True

    def first(self) -> Mapping[str, Any]:
        """The per-epoch parameters at the first epoch of this run."""
        return self.at(self.first_epoch)

    @property
    def first_epoch(self) -> int:
        return int(self.fixed["epoch_prev"])

    def replaced(self, **values: Any) -> Settings:
        """A copy with other values of parameters that do not vary; they are not checked."""
        return Settings(MappingProxyType({**self.fixed, **values}), self.schedules, self.given, self.notes)

    def with_notes(self, notes: tuple[str, ...]) -> Settings:
        """A copy with other warnings."""
        return Settings(self.fixed, self.schedules, self.given, notes)

    def with_schedules(self, changed: Mapping[str, Schedule]) -> Settings:
        """A copy with some schedules changed."""
        return Settings(self.fixed, MappingProxyType({**self.schedules, **changed}), self.given, self.notes)

    def record(self) -> dict[str, Any]:
        """All parameters as plain values for params.yaml (arrays stay arrays)."""
        first, last = self.first_epoch, int(self.fixed["epoch_max"])
        out: dict[str, Any] = {}
        for name in SCHEMA:
            if name in self.fixed:
                out[name] = self.fixed[name]
            else:
                schedule = self.schedules[name]
                out[name] = schedule.value if isinstance(schedule, Constant) else schedule.record(first, last)
        return out
