"""PtyRAD's starting object: amplitude and phase (mode, slice, y, x), and operations along the beam."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pypty.errors import ParameterError

_AMPLITUDE_SPREAD, _PHASE_SPREAD = 5e-4, 0.2
"""Standard deviation of an added mode, relative to the single mode that is given."""
_NOISE = 1e-8
RESAMPLING = ("scale_Nlayer", "scale_slice_thickness", "target_Nlayer", "target_slice_thickness")


@dataclass(frozen=True)
class Layers:
    """A stack of slices.

    Attributes
    ----------
    amplitude, phase : (mode, slice, y, x)
    thickness_A : thickness of a slice
    """

    amplitude: np.ndarray
    phase: np.ndarray
    thickness_A: float

    @property
    def n_slices(self) -> int:
        return self.amplitude.shape[1]

    def transmission(self) -> np.ndarray:
        """(y, x, slice, mode) complex, the layout of docs/conventions.md."""
        return (self.amplitude * np.exp(1j * self.phase)).transpose(2, 3, 1, 0)


def random_phase(shape: Sequence[int], thickness_A: float, rng: np.random.RandomState) -> Layers:
    """Vacuum with a random phase from 0 to 1e-8 rad, (mode, slice, y, x)."""
    return Layers(np.ones(shape), _NOISE * rng.random_sample(tuple(shape)), thickness_A)


def cropped(layers: Layers, first: int, end: int) -> Layers:
    """Slices ``first`` to ``end`` - 1."""
    part = slice(first, end)
    out = dataclasses.replace(layers, amplitude=layers.amplitude[:, part], phase=layers.phase[:, part])
    if out.n_slices == 0:
        raise ParameterError(
            f"obj_z_crop: {[first, end]} contains none of the {layers.n_slices} slices; give [first, end) within them"
        )
    return out


def padded(layers: Layers, counts: Sequence[int], kinds: Sequence[str]) -> Layers:
    """Add slices above and below: vacuum, the mean over all slices, or copies of the outermost slice."""

    def around(values: np.ndarray, vacuum: float) -> np.ndarray:
        edges = (values[:, :1], values[:, -1:])
        rims = []
        for count, kind, edge in zip(counts, kinds, edges, strict=True):
            fill = {"vacuum": np.full_like(edge, vacuum), "edge": edge}.get(kind)
            rims.append(
                np.repeat(values.mean(axis=1, keepdims=True) if fill is None else fill, count, axis=1)
            )
        return np.concatenate([rims[0], values, rims[1]], axis=1)

    return dataclasses.replace(
        layers, amplitude=around(layers.amplitude, 1.0), phase=around(layers.phase, 0.0)
    )


def resampled(layers: Layers, mode: str, value: float) -> Layers:
    """Change the number of slices; the total thickness is kept.

    Integrals of ln(amplitude) and phase along the beam are kept for every number of slices. (PtyRAD keeps them only
    for integer ratios.)
    """
    n, old = layers.n_slices, layers.thickness_A
    wanted = {
        "scale_Nlayer": n * value,
        "scale_slice_thickness": n / value,
        "target_Nlayer": value,
        "target_slice_thickness": n * old / value,
    }[mode]
    new = max(1, int(np.floor(wanted + 1e-9)))
    return Layers(
        np.exp(_integral(np.log(layers.amplitude), new)), _integral(layers.phase, new), old * n / new
    )


def _integral(values: np.ndarray, new: int) -> np.ndarray:
    """(mode, new, y, x): integrals between equidistant cuts through slices of constant density."""
    n = values.shape[1]
    cuts = np.arange(new + 1) * n / new
    # (mode, n + 1, y, x): integral up to each old boundary, then interpolated linearly at the new cuts
    total = np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(values, axis=1)], axis=1)
    below = np.minimum(cuts.astype(int), n - 1)
    share = (cuts - below)[:, None, None]
    at_cuts = total[:, below] * (1 - share) + total[:, below + 1] * share
    return np.diff(at_cuts, axis=1)


def with_modes(layers: Layers, n_modes: int, rng: np.random.RandomState) -> Layers:
    """The first ``n_modes`` modes; missing ones are the mean with Gaussian noise, clipped to the range of values."""
    have = len(layers.amplitude)
    if have >= n_modes:
        return dataclasses.replace(layers, amplitude=layers.amplitude[:n_modes], phase=layers.phase[:n_modes])
    noise = rng.standard_normal((n_modes - have, *layers.amplitude.shape[1:]))
    return dataclasses.replace(
        layers,
        amplitude=_more(layers.amplitude, noise, _AMPLITUDE_SPREAD),
        phase=_more(layers.phase, noise, _PHASE_SPREAD),
    )


def _more(values: np.ndarray, noise: np.ndarray, relative: float) -> np.ndarray:
    mean = values.mean(axis=0)
    spread = values.std(axis=0) if len(values) > 1 else relative * mean
    return np.concatenate([values, np.clip(mean + noise * spread, values.min(), values.max())])


def occupancies(entry: Mapping[str, Any], n_modes: int) -> np.ndarray:
    """(modes,) weights of the object modes; ``entry`` is obj_omode_init_occu.

    Raises
    ------
    ParameterError
        init_occu does not have one non-negative number per mode.
    """
    if entry.get("occu_type", "uniform") == "uniform":
        return np.full(n_modes, 1 / n_modes)
    try:
        weights = np.asarray(entry.get("init_occu"), float)
    except (TypeError, ValueError):
        weights = np.zeros(0)
    if weights.shape != (n_modes,) or not (weights >= 0).all() or not weights.any():
        raise ParameterError(
            f"obj_omode_init_occu: init_occu is {entry.get('init_occu')!r}; expected {n_modes} numbers >= 0"
        )
    return weights
