"""The checked parameters: fixed values, and schedules of values that may change with the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast, overload

import numpy as np

from pypty.params.schedule import Constant, Schedule
from pypty.params.schema import SCHEMA
from pypty.params.schema.values import (
    ArrayOrNone,
    ArrayOrRealOrNone,
    ArrayOrWordOrNone,
    DTypeOrNone,
    Entries,
    EntriesOrNone,
    EpochValues,
    GivenArray,
    OnOff,
    OnOffOrWord,
    Real,
    RealOrNone,
    TableOrNone,
    Unchecked,
    Whole,
    WholeOrNone,
    WholeOrWord,
    Word,
    WordOrNone,
    Words,
)


@dataclass(frozen=True)
class Settings:
    """Checked parameters, with defaults filled in.

    Attributes
    ----------
    fixed : value of every parameter that cannot vary with the epoch
    schedules : schedule of every parameter that may vary
    set_by_user : names of the parameters that the user set
    notes : warnings about keys that were set but have no effect
    """

    fixed: Mapping[str, Any]
    schedules: Mapping[str, Schedule]
    set_by_user: frozenset[str]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, name: Unchecked) -> Any: ...
    @overload
    def __getitem__(self, name: GivenArray) -> np.ndarray: ...
    @overload
    def __getitem__(self, name: Entries) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, name: Words) -> list[str]: ...
    @overload
    def __getitem__(self, name: OnOff) -> bool: ...
    @overload
    def __getitem__(self, name: Whole) -> int: ...
    @overload
    def __getitem__(self, name: Real) -> float: ...
    @overload
    def __getitem__(self, name: Word) -> str: ...
    @overload
    def __getitem__(self, name: ArrayOrNone) -> np.ndarray | None: ...
    @overload
    def __getitem__(self, name: DTypeOrNone) -> np.dtype | None: ...
    @overload
    def __getitem__(self, name: EntriesOrNone) -> dict[str, Any] | None: ...
    @overload
    def __getitem__(self, name: TableOrNone) -> dict[str, dict[str, Any]] | None: ...
    @overload
    def __getitem__(self, name: OnOffOrWord) -> bool | str: ...
    @overload
    def __getitem__(self, name: WholeOrNone) -> int | None: ...
    @overload
    def __getitem__(self, name: WholeOrWord) -> int | str: ...
    @overload
    def __getitem__(self, name: RealOrNone) -> float | None: ...
    @overload
    def __getitem__(self, name: WordOrNone) -> str | None: ...
    @overload
    def __getitem__(self, name: ArrayOrWordOrNone) -> np.ndarray | str | None: ...
    @overload
    def __getitem__(self, name: ArrayOrRealOrNone) -> np.ndarray | float | None: ...
    def __getitem__(self, name: str) -> Any:
        return self.fixed[name]

    def value(self, name: str) -> Any:
        """A fixed parameter whose name is not known beforehand."""
        return self.fixed[name]

    def at(self, epoch: int) -> EpochValues:
        """Every per-epoch parameter at ``epoch``."""
        values = {name: schedule.at(epoch) for name, schedule in self.schedules.items()}
        return cast(EpochValues, MappingProxyType(values))

    def may_be_on(self, name: str) -> bool:
        """Whether a per-epoch switch may be on at some epoch; True for any value that varies with the epoch."""
        schedule = self.schedules[name]
        return bool(schedule.value) if isinstance(schedule, Constant) else True

    def first(self) -> EpochValues:
        """The per-epoch parameters at the first epoch of this run."""
        return self.at(self.first_epoch)

    @property
    def first_epoch(self) -> int:
        return int(self.fixed["epoch_prev"])

    def replaced(self, **values: Any) -> Settings:
        """A copy with other values of fixed parameters; the values are not checked."""
        return Settings(
            MappingProxyType({**self.fixed, **values}), self.schedules, self.set_by_user, self.notes
        )

    def with_notes(self, notes: tuple[str, ...]) -> Settings:
        """A copy with other warnings."""
        return Settings(self.fixed, self.schedules, self.set_by_user, notes)

    def with_schedules(self, changed: Mapping[str, Schedule]) -> Settings:
        """A copy with some schedules changed."""
        return Settings(
            self.fixed, MappingProxyType({**self.schedules, **changed}), self.set_by_user, self.notes
        )

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
