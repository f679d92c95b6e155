"""Regularisers: the penalties on the unknowns that the parameters of an epoch ask for.

They are added to the data term, and ``loss_weight`` does not multiply them. The penalties themselves are in
``penalties.py``; their masks are made here, on the host, once per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np

from pypty.backend.array import Array
from pypty.errors import ParameterError
from pypty.objective import penalties
from pypty.optics.grid import Grid


class Regularizer(Protocol):
    """A penalty on one block of unknowns."""

    @property
    def name(self) -> str:
        """Key of its weight among the parameters, and of its value in the log."""

    @property
    def block(self) -> str:
        """The block it acts on: "obj", "probe", "positions" or "tilts"."""

    def value_and_gradient(self, array: Array) -> tuple[float | Array, Array]:
        """Weighted penalty, and its gradient with the shape and dtype of ``array``, which is not modified. On a device
        the penalty is an array () there, so that nobody waits for it."""


@dataclass(frozen=True, kw_only=True)
class RegularizerContext:
    """What the regularisers need to know about the run.

    Attributes
    ----------
    grid : sampling of the probe window
    cutoff : ``damping_cutoff_multislice``
    scan_size : scan points (slow, fast), or None if the positions are not a grid
    scan_step_A : distance between scan points, Å
    slice_distance_A : first slice distance, Å
    aperture : (ky, kx) centred, not zero inside; or its radius as a fraction of Nyquist; or None
    """

    grid: Grid
    cutoff: float
    scan_size: tuple[int, int] | None
    scan_step_A: float
    slice_distance_A: float
    aperture: np.ndarray | float | None


def make_regularizers(
    now: Mapping[str, Any], context: RegularizerContext, refined: Container[str]
) -> list[Regularizer]:
    """The regularisers whose weight is not zero and whose block is refined.

    An infinite ``probe_reg_constraint_weight`` is a projection, not a penalty, and is left out.

    Parameters
    ----------
    now : this epoch's value of every parameter
    refined : names of the refined blocks

    Raises
    ------
    ParameterError
        A weight is set without the parameter that its regulariser needs (``scan_size``, ``window``, an aperture).
    """
    made: list[Regularizer] = []
    for name, row in _ROWS.items():
        weight = float(now[name])
        projection = name == "probe_reg_constraint_weight" and math.isinf(weight)
        if weight != 0 and row.block in refined and not projection:
            made.append(row.make((name, row.block, weight), context, *(now[key] for key in row.shaped_by)))
    return made


def regularizer_text(
    now: Mapping[str, Any], regularizers: Iterable[Regularizer], refined: Container[str]
) -> str:
    """The regularisers of an epoch with the parameters that they were made from: two epochs with the same text have the
    same penalties, as everything else they depend on is fixed for the run."""
    keys = [key for term in regularizers for key in (term.name, *_ROWS[term.name].shaped_by)]
    confined = "probe" in refined and math.isinf(now["probe_reg_constraint_weight"])
    return ", ".join([f"{key}={np.asarray(now[key]).tolist()}" for key in keys] + ["aperture"] * confined)


def outside_aperture(aperture: np.ndarray | float, shape: tuple[int, int]) -> np.ndarray:
    """(ky, kx) 1 outside the aperture, else 0, zero frequency first.

    Parameters
    ----------
    aperture : (ky, kx) centred, not zero inside; or the radius as a fraction of the Nyquist frequency of each axis
    """
    if isinstance(aperture, np.ndarray) and aperture.ndim > 0:
        # centred -> zero frequency first
        return 1.0 - np.fft.ifftshift(aperture).astype(bool)
    fy, fx = (np.fft.fftfreq(n) for n in shape)
    # in cycles/pixel, Nyquist is 0.5
    return (np.hypot(fy[:, None], fx[None, :]) > 0.5 * float(aperture)).astype(float)


def outside_window(shape: tuple[int, int], inner: float, outer: float) -> np.ndarray:
    """(y, x) 0 up to radius r0, 1 beyond r1, 0.5 (1 - cos(pi (r - r0)/(r1 - r0))) in between.

    The radius is r = hypot((y - ny//2)/(ny/2), (x - nx//2)/(nx/2)). PyPty 2.2 documents a circle and uses a square.

    Parameters
    ----------
    inner, outer : r0 and r1; a sharp edge at r0 if they are equal
    """
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    radius = np.hypot(y[:, None], x[None, :])
    if outer <= inner:
        return (radius > inner).astype(float)
    return 0.5 * (1 - np.cos(np.pi * np.clip((radius - inner) / (outer - inner), 0, 1)))


def scan_frequencies(grid: Grid, cutoff: float, scan_step_A: float, tolerance: float) -> np.ndarray:
    """(ky, kx) 1 where q times the scan step is within ``tolerance`` of a point (h, k) of the integer lattice, else 0.

    Zero frequency first. Lattice points have max(|h|, |k|) <= K and h^2 + k^2 <= (cutoff K)^2 with
    K = ceil(0.5 scan step / pixel size), of the coarser axis.
    """
    last = math.ceil(0.5 * scan_step_A / max(grid.pixel_size_A))
    v, u = grid.qy * scan_step_A, grid.qx * scan_step_A
    near = np.zeros(grid.shape, bool)
    # a lattice point within the tolerance is at most this far from the nearest one
    reach = min(math.floor(tolerance + 0.5), last + math.ceil(float(max(abs(v).max(), abs(u).max()))))
    for dk in range(-reach, reach + 1):
        for dh in range(-reach, reach + 1):
            # (ky, 1) and (1, kx): the lattice point nearest to each pixel, and its neighbours
            k, h = np.rint(v) + dk, np.rint(u) + dh
            exists = (abs(k) <= last) & (abs(h) <= last) & (h**2 + k**2 <= (cutoff * last) ** 2)
            near |= exists & ((v - k) ** 2 + (u - h) ** 2 <= tolerance**2)
    return near.astype(float)


_Head: TypeAlias = tuple[str, str, float]
"""Name, block and weight."""


@dataclass(frozen=True)
class _Row:
    """How a regulariser is made.

    Attributes
    ----------
    block : the block it acts on
    make : from its head, the run and the values of ``shaped_by``; it sees no other parameter of the epoch
    shaped_by : parameters that decide its value, beside its weight
    """

    block: str
    make: Callable[..., Regularizer]
    shaped_by: tuple[str, ...] = ()


def _needed(value: Any, head: _Head, key: str) -> Any:
    if value is None:
        raise ParameterError(f"{head[0]} is {head[2]:g}, which needs {key}; give it, or set the weight to 0")
    return value


def _fast_axis(head: _Head, context: RegularizerContext) -> Regularizer:
    scan_size = _needed(context.scan_size, head, "scan_size")
    return penalties.SecondDifferences(*head, scan_size, along_fast=True)


def _slow_axis(head: _Head, context: RegularizerContext) -> Regularizer:
    scan_size = _needed(context.scan_size, head, "scan_size")
    return penalties.SecondDifferences(*head, scan_size, along_fast=False)


def _deformation(head: _Head, context: RegularizerContext) -> Regularizer:
    return penalties.Deformation(*head, _needed(context.scan_size, head, "scan_size"))


def _phase(head: _Head, context: RegularizerContext) -> Regularizer:
    return penalties.PhaseNorm(*head)


def _absorption(head: _Head, context: RegularizerContext) -> Regularizer:
    return penalties.AbsorptionNorm(*head)


def _variation(head: _Head, context: RegularizerContext, q: float, p: float) -> Regularizer:
    return penalties.TotalVariation(*head, p=float(p), q=float(q))


def _variance(head: _Head, context: RegularizerContext, sigma: float) -> Regularizer:
    return penalties.ModeVariance(*head, sigma=float(sigma))


def _wedge(head: _Head, context: RegularizerContext, beta: float) -> Regularizer:
    pixels, distance = context.grid.pixel_size_A, float(context.slice_distance_A)
    return penalties.MissingWedge(*head, beta=float(beta), pixel_size_A=pixels, slice_distance_A=distance)


def _aperture(head: _Head, context: RegularizerContext) -> Regularizer:
    aperture = _needed(context.aperture, head, "probe_constraint_mask or aperture_mask")
    return penalties.ProbeAperture(*head, outside_aperture(aperture, context.grid.shape))


def _window(head: _Head, context: RegularizerContext, window: np.ndarray | None) -> Regularizer:
    window = np.asarray(_needed(window, head, "window"))
    if window.ndim == 2:
        return penalties.ProbeWindow(*head, window)
    inner, outer = window
    return penalties.ProbeWindow(*head, outside_window(context.grid.shape, float(inner), float(outer)))


def _modulation(head: _Head, context: RegularizerContext, tolerance: float) -> Regularizer:
    near = scan_frequencies(context.grid, context.cutoff, context.scan_step_A, float(tolerance))
    return penalties.ProbeModulation(*head, near)


_ROWS: Mapping[str, _Row] = MappingProxyType(
    {
        "fast_axis_reg_weight_positions": _Row("positions", _fast_axis),
        "slow_axis_reg_weight_positions": _Row("positions", _slow_axis),
        "deformation_reg_weight_positions": _Row("positions", _deformation),
        "fast_axis_reg_weight_tilts": _Row("tilts", _fast_axis),
        "slow_axis_reg_weight_tilts": _Row("tilts", _slow_axis),
        "deformation_reg_weight_tilts": _Row("tilts", _deformation),
        "phase_norm_weight": _Row("obj", _phase),
        "abs_norm_weight": _Row("obj", _absorption),
        "atv_weight": _Row("obj", _variation, ("atv_q", "atv_p")),
        "mixed_variance_weight": _Row("obj", _variance, ("mixed_variance_sigma",)),
        "wedge_mu": _Row("obj", _wedge, ("beta_wedge",)),
        "probe_reg_constraint_weight": _Row("probe", _aperture),
        "window_weight": _Row("probe", _window, ("window",)),
        "probe_mod_reg_weight": _Row("probe", _modulation, ("probe_mod_tol",)),
    }
)

REGULARIZERS = tuple(_ROWS)
"""Keys of the weights of all regularisers."""
