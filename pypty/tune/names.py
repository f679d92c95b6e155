"""Meaning of tuned names: parameters, entries of parameters, or quantities with PtyRAD's names (docs/tuning.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from pypty.errors import ParameterError
from pypty.optics.aberrations import aberration_names, krivanek_orders
from pypty.params.kinds import Kind, Number
from pypty.params.schema import SCHEMA
from pypty.tune import physics
from pypty.tune.entries import Entry, find_entry, near

_N_TERMS = 25
"""Aberrations up to fifth order."""
_any = Number()
_positive = Number(low=0, open_low=True)
_count = Number(low=1, integer=True)


class Target(Protocol):
    """The quantity that a tuned name stands for."""

    @property
    def unit(self) -> str:
        """Unit of its values."""

    @property
    def whole(self) -> bool:
        """Whether its values are integers."""

    def problem(self, value: Any) -> str | None:
        """The problem of a value, or None."""

    def change(self, params: dict[str, Any], value: Any) -> None:
        """Set it in ``params``; dicts and arrays in it are copied before they are changed."""


@dataclass(frozen=True)
class Alias:
    """A name of PtyRAD for a quantity that changes several parameters here, or has another unit.

    Attributes
    ----------
    kind : kind of its values
    unit : their unit
    function : changes the parameters
    needs : the parameter on which it acts
    """

    kind: Kind
    unit: str
    function: Callable[[dict[str, Any], Any], None]
    needs: str

    @property
    def whole(self) -> bool:
        return isinstance(self.kind, Number) and self.kind.integer

    def problem(self, value: Any) -> str | None:
        problem = self.kind.problem(value)
        return None if problem is None else f"{problem}, expected {self.kind.describe()}"

    def change(self, params: dict[str, Any], value: Any) -> None:
        self.function(params, value)


ENTRY_ALIASES: Mapping[str, str] = MappingProxyType({
    "plr": "learning_rates.probe_abs.lr",
    "oalr": "learning_rates.obja.lr",
    "oplr": "learning_rates.objp.lr",
    "slr": "learning_rates.positions.lr",
    "tlr": "learning_rates.tilts.lr",
    "dzlr": "learning_rates.slice_distances.lr",
    "z_shift": "extra_probe_defocus",
    **{name: f"aberrations.{name}" for name in aberration_names(_N_TERMS)},
})  # fmt: skip
"""Names of PtyRAD that are a single entry here."""

ALIASES: Mapping[str, Alias] = MappingProxyType({
    "dx": Alias(_positive, "Å", physics.set_pixel, "pixel_size_x_A"),
    "conv_angle": Alias(_positive, "mrad", physics.set_convergence, "aperture_mask"),
    "pmode_max": Alias(_count, "", physics.set_probe_modes, "probe"),
    "Nlayer": Alias(_count, "", physics.set_slices, "num_slices"),
    "dz": Alias(_positive, "Å", physics.set_slice_distance, "slice_distances"),
    "scale": Alias(_positive, "", physics.affine_part("scale"), "positions"),
    "asymmetry": Alias(Number(low=-2, high=2), "", physics.affine_part("asymmetry"), "positions"),
    "rotation": Alias(_any, "deg", physics.affine_part("rotation"), "positions"),
    "shear": Alias(Number(low=-89, high=89), "deg", physics.affine_part("shear"), "positions"),
    "tilt_y": Alias(Number(low=-1500, high=1500), "mrad", physics.tilt_part(0), "tilts"),
    "tilt_x": Alias(Number(low=-1500, high=1500), "mrad", physics.tilt_part(1), "tilts"),
})  # fmt: skip
"""Names of PtyRAD that change several parameters, in the order of application: others depend on the pixel size."""

_FIRST = ("pixel_size_x_A", "pixel_size_y_A", "positions", "probe")
"""Parameters that the functions above read; they are set before."""


def components(name: str) -> tuple[str, ...]:
    """The names to search for ``name``: both components of an aberration with an azimuth, else the name itself."""
    rows = zip(aberration_names(_N_TERMS), krivanek_orders(_N_TERMS), strict=True)
    components = tuple(full for full, (n, m, _) in rows if m > 0 and name == f"C{n}{m}")
    return components or (name,)


def find_target(name: str) -> Target:
    """The quantity that a name changes.

    Raises
    ------
    ParameterError
        The name is unknown, or cannot be tuned.
    """
    if name in ALIASES:
        return ALIASES[name]
    try:
        return find_entry(ENTRY_ALIASES.get(name, name))
    except ParameterError as error:
        known = [*SCHEMA, *ALIASES, *ENTRY_ALIASES, *(f"C{n}{m}" for n, m, _ in krivanek_orders(_N_TERMS))]
        hint = near(name, known) if name.partition(".")[0] not in SCHEMA else ""
        raise ParameterError(f"{error}{hint}") from error


def touched(name: str) -> str:
    """The main parameter that a name changes."""
    if name in ALIASES:
        return ALIASES[name].needs
    target = find_entry(ENTRY_ALIASES.get(name, name))
    return target.parameter.name


def with_values(params: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``params`` in which every tuned name has its value; ``params`` and its contents are not modified.

    Raises
    ------
    ParameterError
        A value cannot be set in these parameters.
    """
    changed = dict(params)
    for name in sorted(values, key=_order):
        try:
            find_target(name).change(changed, values[name])
        except ParameterError as error:
            raise ParameterError(f"tuned {name} = {values[name]!r}: {error}") from error
    return changed


def _order(name: str) -> tuple[int, str]:
    """Sort key: quantities on which others depend are set first."""
    if name in ALIASES:
        return (2 + list(ALIASES).index(name), name)
    target = find_target(name)
    first = isinstance(target, Entry) and target.parameter.name in _FIRST
    return (0 if first else 1, name)
