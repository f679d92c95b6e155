"""The number of slices, and the starting object."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.optics.wavelength import wavelength_A

_log = logging.getLogger(__name__)
_OBJECT = 2
"""Index of the random stream of ``seed`` that draws the object."""


def choose_slices(
    values: Mapping[str, Any], known_keys: set[str], out: Mapping[str, Any], edge_1A: float
) -> dict[str, Any]:
    """num_slices, slice_distances (1,) Å and total_thickness.

    If slice_thickness is a number, there are ceil(total/slice_thickness) slices; otherwise num_slices; if that is not
    given, "auto" makes slices of 0.5/(alpha k_max), with the convergence semi-angle alpha and the largest frequency
    k_max = ``edge_1A`` of the (unpadded) pattern. Slice distances of ``out`` are kept if no thickness is known.
    """
    known = out.get("total_thickness") is not None
    total = float(out["total_thickness"]) if known else 1.0
    thickness = values["slice_thickness"]
    number = not (thickness is None or isinstance(thickness, str))
    wanted = out.get("num_slices")
    if number:
        n = math.ceil(total / float(thickness) * (1 - 1e-12))  # rounding must not add a slice
        if "num_slices" in known_keys and int(values["num_slices"]) != n:
            _log.warning(
                "slice_thickness %g Å gives %d slices; num_slices %s is not used", thickness, n, wanted
            )
    elif wanted is not None:
        n = int(wanted)
    elif thickness == "auto" and known:
        n = math.ceil(total / _thickest_slice_A(out, edge_1A) * (1 - 1e-12))
    else:
        n = 1
    if not known and out.get("slice_distances") is not None:
        return {"num_slices": n}
    return {"num_slices": n, "slice_distances": np.array([total / n]), "total_thickness": total}


def _thickest_slice_A(out: Mapping[str, Any], edge_1A: float) -> float:
    alpha = 1e-3 * float(out["conv_semiangle_mrad"])
    slice_A = 0.5 / (alpha * edge_1A)
    _log.info(
        "slices of at most %.3g Å (wavelength %.4g Å)", slice_A, wavelength_A(float(out["acc_voltage"]))
    )
    return slice_A


def starting_object(values: Mapping[str, Any], out: Mapping[str, Any], window: tuple[int, int]) -> np.ndarray:
    """(1, 1, z, 1) vacuum, or with num_obj_modes (y, x, z, modes) of normal random phases of obj_phase_sigma rad."""
    n, modes = int(out["num_slices"]), values["num_obj_modes"]
    if modes is None or int(modes) == 0:
        return np.ones((1, 1, n, 1), complex)
    sigma = float(values["obj_phase_sigma"])
    shape = np.round(out["positions"]).astype(int).max(axis=0) + np.array(window)
    rng = np.random.default_rng([int(out.get("seed", 0)), _OBJECT])
    return np.exp(1j * sigma * rng.standard_normal((*shape.tolist(), n, int(modes))))
