"""Masked arrays of NumPy: what is masked is not compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pypty.params.kinds import brief
from pypty.params.report import Report


def unmasked(params: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """The parameters with a masked ``dataset`` as plain data and a ``detector_mask``; others are refused.

    Masked pixels are zero in ``dataset`` and have weight zero, those of one pattern (N, ky, kx) as well as those of all
    (ky, kx). A ``detector_mask`` that is given, too, is multiplied.
    """
    for name, value in params.items():
        if name != "dataset" and isinstance(value, np.ma.MaskedArray) and np.ma.getmaskarray(value).any():
            report.add(str(name), "given a masked array with masked entries, expected plain numbers")
    data = params.get("dataset")
    if not isinstance(data, np.ma.MaskedArray):
        return params
    masked = np.ma.getmaskarray(data)
    plain = {**params, "dataset": data.filled(0)}
    if not masked.any() or data.ndim not in (3, 4):
        return plain
    # (..., ky, kx) -> (N, ky, kx) -> (ky, kx) where all patterns have the same
    weights = ~masked.reshape(-1, *masked.shape[-2:])
    weights = weights[0] if (weights == weights[0]).all() else weights
    user = params.get("detector_mask")
    if isinstance(user, str):
        report.add("detector_mask", f"{user!r} given beside a masked dataset; leave one of them out")
        return plain
    if user is not None:
        fitting = (masked.shape[-2:], (len(masked.reshape(-1, *masked.shape[-2:])), *masked.shape[-2:]))
        if not isinstance(user, np.ndarray) or user.shape not in fitting or user.dtype.kind not in "biuf":
            report.add(
                "detector_mask",
                f"given {brief(user)} beside a masked dataset, expected an array of shape {fitting[0]} or {fitting[1]}",
            )
            return plain
        weights = weights * user
    plain["detector_mask"] = np.asarray(weights, float)
    return plain
