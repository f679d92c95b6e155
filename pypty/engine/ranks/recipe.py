"""What another rank needs to know of a reconstruction, in a form that can be sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.array import Backend, select
from pypty.data.owned import OwnedPatterns
from pypty.data.plates import PhasePlateSource
from pypty.data.preprocess import Preprocess
from pypty.data.scan import Scan
from pypty.data.sources import PatternSource, open_source
from pypty.data.survey import Survey
from pypty.data.window import Window
from pypty.engine.setup.assembly import Setup
from pypty.engine.setup.memory_plan import MemoryPlan
from pypty.optics.grid import Grid
from pypty.params.schedule import Constant
from pypty.params.settings import Settings
from pypty.ranks.link import Link
from pypty.ranks.nccl import open_route

_NOT_SENT = ("dataset", "obj", "probe")
"""Large values that only rank 0 needs."""
_PATTERNS, _HELD, _MASK = "patterns", "held", "detector_mask"
"""Large arrays of which each rank is sent its part."""


@dataclass(frozen=True)
class FirstValue:
    """Stands for a schedule that cannot be sent: it gives the value of the first epoch, and is no constant."""

    first: Any

    def at(self, epoch: int) -> Any:
        return self.first

    def record(self, first: int, last: int) -> Any:
        return self.first


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """From which another rank makes its setup. Large arrays are sent beside it.

    Attributes
    ----------
    fixed, varying : values of the settings; of schedules the value of the first epoch
    constant : names of the schedules that have one value
    backend : arguments of :func:`pypty.backend.array.select`
    owned : sorted numbers of the patterns of the rank
    patterns : those that it cannot open itself, without the array; None = it opens ``data_path``
    apart : what the arrays are that are sent beside the recipe
    """

    fixed: Mapping[str, Any]
    varying: Mapping[str, Any]
    constant: frozenset[str]
    backend: tuple[str, str, str]
    grid: Grid
    scan: Scan
    plan: MemoryPlan
    preprocess: Preprocess
    survey: Survey | None
    n_patterns: int
    window: Window
    began_in: np.dtype | None
    owned: np.ndarray
    patterns: OwnedPatterns | None
    apart: tuple[str, ...]

    @classmethod
    def of(cls, setup: Setup, owned: np.ndarray) -> tuple[Recipe, list[np.ndarray]]:
        """The recipe of a setup on rank 0 for another rank, and the arrays that are sent with it.

        Parameters
        ----------
        owned : sorted numbers of the patterns of the rank
        """
        settings = setup.settings
        first, schedules = settings.first(), settings.schedules
        patterns, fixed, arrays = patterns_to_send(setup, owned), to_send(settings), {}
        if patterns is not None:
            arrays[_PATTERNS] = patterns.patterns
        if setup.held is not None:
            arrays[_HELD] = setup.held[owned]
        mask = fixed[_MASK]
        if isinstance(mask, np.ndarray) and mask.ndim == 3:  # (N, ky, kx)
            arrays[_MASK] = mask[owned]
            fixed[_MASK] = None
        recipe = cls(
            fixed=fixed,
            varying=dict(first.items()),
            constant=frozenset(name for name in schedules if isinstance(schedules[name], Constant)),
            backend=backend_words(setup.backend, settings["fft_library"]),
            grid=setup.grid,
            scan=setup.scan,
            plan=setup.plan,
            preprocess=setup.preprocess,
            survey=setup.survey,
            n_patterns=setup.n_patterns,
            window=setup.window,
            began_in=setup.began_in,
            owned=owned,
            patterns=None if patterns is None else patterns.without_memory(),
            apart=tuple(arrays),
        )
        return recipe, list(arrays.values())

    def settings(self, mask: np.ndarray | None = None) -> Settings:
        """The settings, without what only rank 0 needs.

        Parameters
        ----------
        mask : ``detector_mask`` of the patterns of the rank, if each has its own
        """
        schedules = {
            name: Constant(value) if name in self.constant else FirstValue(value)
            for name, value in self.varying.items()
        }
        fixed = {**self.fixed, **({} if mask is None else {_MASK: mask})}
        return Settings(MappingProxyType(fixed), MappingProxyType(schedules), frozenset())

    def setup(self, arrays: Sequence[np.ndarray]) -> Setup:
        """The setup of another rank, which was sent these arrays."""
        sent = dict(zip(self.apart, arrays, strict=True))
        settings = self.settings(sent.get(_MASK))
        source: PatternSource | None = None
        if self.patterns is not None:
            source = dataclasses.replace(self.patterns, patterns=sent[_PATTERNS])
        path, trusted = settings["phase_plate_in_h5"], settings["trust_external_links"]
        return Setup(
            settings=settings,
            backend=select(*self.backend),
            source=open_source(settings) if source is None else source,
            grid=self.grid,
            scan=self.scan,
            plan=self.plan,
            preprocess=self.preprocess,
            survey=self.survey,
            n_patterns=self.n_patterns,
            window=self.window,
            plates=None if path is None else PhasePlateSource(path, trusted),
            held=sent.get(_HELD),
            began_in=self.began_in,
            owned=self.owned,
        )


def backend_words(backend: Backend, fft_library: str = "auto") -> tuple[str, str, str]:
    """The arguments of :func:`pypty.backend.array.select` that give another rank the same backend."""
    return backend.name, backend.precision, fft_library


def take_fastest_route(link: Link, backend: Backend) -> None:
    """Let arrays of GPUs travel by NCCL where that is possible; called by rank 0 while the others serve.

    Raises
    ------
    RankError
        A rank has ended or hangs.
    """
    if not backend.on_gpu:
        return
    for rank in link.others:
        link.send(rank, "route", backend_words(backend))
    open_route(link, backend)


def to_send(settings: Settings) -> dict[str, Any]:
    """The fixed values of the settings that other ranks need."""
    return {**settings.fixed, **dict.fromkeys(_NOT_SENT)}


def patterns_to_send(setup: Setup, owned: np.ndarray) -> OwnedPatterns | None:
    """The patterns of a rank that cannot open them itself, as they are in an array of rank 0."""
    source = setup.source
    if source is None or setup.settings["dataset"] is None:
        return None
    return OwnedPatterns(source.read(owned), owned, source.shape, source.name, source.scan)
