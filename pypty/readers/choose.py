"""Choose the array of a file that contains the patterns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pypty.errors import DataError


def only_one(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]], key: str | None, name: str) -> str:
    """The array ``key``; without a key the only array of numbers with three or four axes, else the array "data".

    Parameters
    ----------
    arrays : shape and dtype of each array of the file

    Raises
    ------
    DataError
        No array fits, or several do; the message lists the arrays.
    """
    if key is not None:
        wanted = key.strip("/")
        if wanted in arrays:
            return wanted
        # The name of a group selects its only array of patterns.
        below = [
            array for array in arrays if array.startswith(wanted + "/") and len(arrays[array][0]) in (3, 4)
        ]
        if len(below) == 1:
            return below[0]
        raise DataError(f"{name} has no array {key!r}; {_list(arrays)}")
    fitting = [
        array for array, (shape, dtype) in arrays.items() if len(shape) in (3, 4) and dtype.kind in "biufc"
    ]
    if len(fitting) == 1:
        return fitting[0]
    if "data" in fitting:  # the name that pypty import and most programs use
        return "data"
    if not fitting:
        raise DataError(
            f"{name} has no array of numbers with three or four axes, (N, ky, kx) or (sy, sx, ky, kx); {_list(arrays)}"
        )
    raise DataError(
        f"{name} has {len(fitting)} arrays that may be patterns; name one with key (--key). "
        + _list({array: arrays[array] for array in fitting})
    )


def _list(arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    if not arrays:
        return "it contains no arrays"
    shown = [f"{array} {shape} {dtype}" for array, (shape, dtype) in sorted(arrays.items())[:12]]
    more = f", and {len(arrays) - 12} more" if len(arrays) > 12 else ""
    return "its arrays are: " + ", ".join(shown) + more
