"""A small parameter file of PtyRAD, and what its translation has to be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.importers import Translation, translate
from pypty.params.schema import SCHEMA

SCAN = (5, 6)


def patterns(negative: bool = False) -> np.ndarray:
    """30 patterns of 16^2 pixels with a disk in the middle."""
    rng = np.random.default_rng(1)
    data = rng.poisson(4, (SCAN[0] * SCAN[1], 16, 16)).astype(np.float32)
    data[:, 5:11, 5:11] += 60
    return data - 1 if negative else data


def content(**groups: Any) -> dict[str, Any]:
    """A small file; ``init_params`` of it are added to."""
    init = {
        "probe_kv": 80,
        "probe_conv_angle": 24.9,
        "meas_Npix": 16,
        "pos_N_scan_slow": SCAN[0],
        "pos_N_scan_fast": SCAN[1],
        "pos_scan_step_size": 0.4,
        "obj_Nlayer": 3,
        "obj_slice_thickness": 4.0,
        "meas_source": "custom",
        "meas_params": patterns(),
        "random_seed": 3,
        **groups.pop("init_params", {}),
    }
    return {"init_params": init, **groups}


def translated(**groups: Any) -> Translation:
    """Translate :func:`content`; all values are of the kinds that our schema asks for."""
    given = content(**groups)
    before = copy.deepcopy(given)
    found = translate(given)
    np.testing.assert_equal(given, before)
    assert_known(found.params)
    return found


def assert_known(params: Mapping[str, Any]) -> None:
    for name, value in params.items():
        kind = SCHEMA[name].kind
        if not (isinstance(value, str) and "epoch" in value):
            assert kind.problem(value) is None, f"{name}: {kind.problem(value)}"
