"""The checked parameters: fixed values, and schedules of values that may change with the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from types import MappingProxyType
from typing import Any, cast, overload

import numpy as np

from pypty.params.schedule import Constant, Schedule
from pypty.params.schema import SCHEMA
from pypty.params.schema.values import (
    ArrayOrNone,
    ArrayOrRealOrNone,
    ArrayOrWordOrNone,
    DeviceNames,
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
    choices : what was chosen where the user left the choice open, with the reasons
    asked : the user's values of the parameters that were chosen
    """

    fixed: Mapping[str, Any]
    schedules: Mapping[str, Schedule]
    set_by_user: frozenset[str]
    notes: tuple[str, ...] = ()
    _: KW_ONLY
    choices: tuple[str, ...] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, name: Unchecked) -> Any: ...
    @overload
    def __getitem__(self, name: GivenArray) -> np.ndarray: ...
    @overload
    def __getitem__(self, name: DeviceNames) -> str | int | tuple[int | str, ...]: ...
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
        return replace(self, fixed=MappingProxyType({**self.fixed, **values}))

    def with_choice(self, values: Mapping[str, Any], why: str = "") -> Settings:
        """A copy in which parameters that the user left open have these values; ``why`` says so, with the reason.

        :meth:`record` still gives the values that were asked for: a run that is continued chooses again.
        """
        asked = {name: self.fixed[name] for name in values}
        return replace(
            self,
            fixed=MappingProxyType({**self.fixed, **values}),
            choices=(*self.choices, why) if why else self.choices,
            asked=MappingProxyType({**asked, **self.asked}),
        )

    def with_notes(self, notes: tuple[str, ...]) -> Settings:
        """A copy with other warnings."""
        return replace(self, notes=notes)

    def with_schedules(self, changed: Mapping[str, Schedule]) -> Settings:
        """A copy with some schedules changed."""
        return replace(self, schedules=MappingProxyType({**self.schedules, **changed}))

    def record(self) -> dict[str, Any]:
        """All parameters as plain values for params.yaml (arrays stay arrays), as the user set them."""
        first, last = self.first_epoch, int(self.fixed["epoch_max"])
        out: dict[str, Any] = {}
        for name in SCHEMA:
            if name in self.fixed:
                out[name] = self.asked.get(name, self.fixed[name])
            else:
                schedule = self.schedules[name]
                out[name] = schedule.value if isinstance(schedule, Constant) else schedule.record(first, last)
        return out
