"""All unknowns of a reconstruction: one table with a row for each block, and their values as one value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.backend.array import Array, Backend, array_module, to_host


@dataclass(frozen=True, kw_only=True)
class Block:
    """Everything about an unknown that is not physics.

    To add an unknown, write its row (a field of :class:`Variables`), its stage, its curvature, its entries in the
    schema, and its tests. No other code names blocks.

    Attributes
    ----------
    meaning : what it is
    axes : of the public array, as files describe them
    unit : of the public array; "" = a plain number
    order : axes of the public array, counted in the internal one; None = the same
    is_complex : complex numbers in the precision of the backend; else float64
    switch : the parameter that refines it
    start : starting value of a block that is refined without a parameter, from the number of patterns; None = the
        block exists only if its parameter is set
    per_pattern : it has a row for each pattern
    one_for_all : a single row for all patterns is allowed, too
    rates : names of its learning rates, with the abbreviation of each in folder names
    rate_unit : unit of learning rates, in units of the block
    file : name of the latest state in an output folder
    checkpoint : name in the files that are written every few epochs
    as_parameter : from the public array to the value of the parameter that starts another run
    stuck : possible reasons why its gradient promises no decrease, for a warning
    freeze : order in which blocks are frozen when updates keep being rejected, lowest first; None = never
    kept : real arrays of the shape of a pattern that its stage keeps for the adjoint
    """

    meaning: str
    axes: str
    switch: str
    rates: Mapping[str, str]
    file: str
    checkpoint: str
    stuck: str
    freeze: int | None
    unit: str = ""
    order: tuple[int, ...] | None = None
    is_complex: bool = False
    start: Callable[[int], np.ndarray] | None = None
    per_pattern: bool = False
    one_for_all: bool = False
    rate_unit: float = 1.0
    as_parameter: Callable[[np.ndarray], Any] = lambda array: array
    kept: int = 0

    def numbered(self, epoch: int) -> str:
        """Name of the file that is written at an epoch."""
        return f"checkpoint_{self.checkpoint}_epoch_{epoch}.npy"


def _row(**columns: Any) -> Any:
    """A field of :class:`Variables` with its row of the table. Blocks that a model may lack are None."""
    optional = columns.pop("optional", True)
    metadata = {"block": Block(**columns)}
    return (
        dataclasses.field(default=None, metadata=metadata)
        if optional
        else dataclasses.field(metadata=metadata)
    )


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The unknowns, in the internal layout, on one device. Blocks that the model does not have are None.

    Each has the name of the parameter that holds its starting value. They are stored and reported in this order.
    """

    # (mode, z, Y, X); slice 0 meets the beam first
    obj: Array = _row(
        meaning="transmission function of each slice",
        axes="y, x, slice, mode",
        order=(2, 3, 1, 0),
        is_complex=True,
        switch="update_obj",
        rates={"obj": "o", "obja": "oa", "objp": "op"},
        file="co.npy",
        checkpoint="obj",
        stuck="it has converged, or no electrons reach it: then check the probe and the positions",
        freeze=None,
        optional=False,
    )
    # (mode, y, x), or (subscan, mode, y, x) with probe_marker; centred at n//2 of its window
    probe: Array = _row(
        meaning="probe in real space",
        axes="y, x, mode[, subscan]",
        unit="sqrt(counts)/window pixel",
        order=(2, 3, 1, 0),
        is_complex=True,
        switch="update_probe",
        rates={"probe": "p"},
        file="cp.npy",
        checkpoint="probe",
        stuck="it has converged, or the object is opaque: then check obj",
        freeze=9,
        optional=False,
    )
    # (N, 2), or (1, 2) for all patterns; top-left corner of each patch of the object
    positions: Array = _row(
        meaning="scan positions: crop origin [y, x] of each patch",
        axes="pattern, [y x]",
        unit="px",
        switch="update_probe_pos",
        per_pattern=True,
        one_for_all=True,
        rates={"positions": "s"},
        file="cg.npy",
        checkpoint="positions",
        stuck="they have converged, or the object is still vacuum, which looks the same from everywhere: then refine "
        "the object first",
        freeze=1,
        optional=False,
    )
    # (N, 6), or (1, 6) for all patterns
    tilts: Array = _row(
        meaning="tilts [y, x] before, inside and after the specimen",
        axes="pattern, [y x before, y x inside, y x after]",
        unit="rad",
        switch="update_tilts",
        start=lambda n_patterns: np.zeros((1, 6)),
        per_pattern=True,
        one_for_all=True,
        rates={"tilts": "t"},
        rate_unit=1e-3,
        file="ct.npy",
        checkpoint="tilts",
        stuck="they have converged, or no tilt acts (tilt_mode), or nothing is propagated",
        freeze=2,
    )
    # (1,) the same for all gaps, or (gaps,)
    slice_distances: Array = _row(
        meaning="gap after each slice",
        axes="gap",
        unit="Å",
        switch="update_slice_distances",
        rates={"slice_distances": "dz"},
        file="cd.npy",  # PyPty has no name for it
        checkpoint="slice_distances",
        stuck="they have converged, or the object is still vacuum, or equal in all slices",
        freeze=3,
        optional=False,
    )
    # (groups, K)
    aberrations_array: Array = _row(
        meaning="Krivanek coefficients of each group of patterns",
        axes="group, coefficient",
        unit="Å",
        switch="update_aberrations_array",
        rates={"aberrations_array": "ab"},
        file="ca.npy",
        checkpoint="aberrations",
        stuck="they have converged",
        freeze=7,
    )
    # (ky, kx) as patterns are compared, zero frequency at n//2
    static_background: Array = _row(
        meaning="square root of an intensity that is added to every pattern",
        axes="ky, kx",
        unit="sqrt(counts)",
        switch="update_static_background",
        rates={"static_background": "bg"},
        file="cs.npy",
        checkpoint="stback",
        stuck="it has converged; where it is zero it stays zero",
        freeze=5,
    )
    # (N,)
    beam_current: Array = _row(
        meaning="factor on the probe's amplitude in each pattern",
        axes="pattern",
        switch="update_beam_current",
        start=np.ones,
        per_pattern=True,
        rates={"beam_current": "bc"},
        file="cb.npy",
        checkpoint="beam_current",
        stuck="it has converged",
        freeze=6,
        kept=1,
    )
    # (1,)
    detector_blur_std: Array = _row(
        meaning="standard deviation of the detector's Gaussian point spread",
        axes="1",
        unit="detector px",
        switch="update_detector_blur_std",
        rates={"detector_blur_std": "db"},
        file="cw.npy",  # PyPty has no name for it
        checkpoint="detector_blur_std",
        as_parameter=lambda array: abs(float(array[0])),  # its sign has no meaning
        stuck="it has converged, or the point spread is narrower than a fifth of a pixel",
        freeze=4,
        kept=2,
    )

    # (2, 2) float64
    detector_gains: Array = _row(
        meaning="gain of each quadrant of the detector",
        axes="[ky < 0, ky >= 0], [kx < 0, kx >= 0]",
        switch="update_detector_gains",
        start=lambda n_patterns: np.ones((2, 2)),
        rates={"detector_gains": "dg"},
        file="cq.npy",  # PyPty has no such unknown
        checkpoint="detector_gains",
        as_parameter=np.abs,  # their signs have no meaning
        stuck="they have converged",
        freeze=8,
        kept=1,
    )

    def block(self, name: str) -> Array:
        return getattr(self, name)

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the blocks that are not None."""
        return tuple(name for name in BLOCKS if self.block(name) is not None)

    def blocks(self, names: Iterable[str]) -> dict[str, Array]:
        """The named blocks that are not None, in the order of :data:`BLOCKS`."""
        wanted = set(names)
        return {name: self.block(name) for name in self.present if name in wanted}

    def replace(self, blocks: Mapping[str, Array]) -> Variables:
        """A copy with some blocks replaced; the other arrays are shared."""
        return dataclasses.replace(self, **blocks)

    def zeros(self, names: Iterable[str]) -> dict[str, Array]:
        """Zero gradients of the named blocks."""
        return {name: array_module(array).zeros_like(array) for name, array in self.blocks(names).items()}

    @property
    def n_slices(self) -> int:
        return int(self.obj.shape[1])


BLOCKS: Mapping[str, Block] = MappingProxyType(
    {field.name: field.metadata["block"] for field in dataclasses.fields(Variables)}
)
"""The row of every block, by name, in the order in which blocks are stored and reported."""

OPTIONAL = tuple(field.name for field in dataclasses.fields(Variables) if field.default is None)
"""Blocks that a model may lack."""

SWITCHES: Mapping[str, str] = MappingProxyType({row.switch: name for name, row in BLOCKS.items()})
"""Which parameter refines which block."""


def to_public(name: str, array: Array) -> np.ndarray:
    """A block (or its gradient) on the host in the layout of docs/conventions.md."""
    host, order = to_host(array), BLOCKS[name].order
    return host.copy() if order is None else np.ascontiguousarray(host.transpose(_of_rank(order, host.ndim)))


def from_public(name: str, array: np.ndarray, backend: Backend) -> Array:
    """Inverse of :func:`to_public`; complex blocks take the precision of the backend, real ones float64."""
    row = BLOCKS[name]
    if row.order is not None:
        array = array.transpose(np.argsort(_of_rank(row.order, array.ndim)))
    if row.is_complex:
        return backend.asarray(np.ascontiguousarray(array), backend.complex)
    return backend.asarray(np.array(array, dtype=np.float64), np.float64)


def _of_rank(order: tuple[int, ...], n_axes: int) -> tuple[int, ...]:
    """The order of axes of an array that lacks the first internal axes (a probe without subscans)."""
    # the missing axes come first in the internal layout: the others move down by their number
    missing = len(order) - n_axes
    return tuple(axis - missing for axis in order if axis >= missing)
