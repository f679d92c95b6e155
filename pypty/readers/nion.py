"""Metadata of Nion Swift: a JSON file beside the data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pypty.errors import DataError
from pypty.params.files import not_a_file
from pypty.readers.recording import Metadata, axis_metadata, checked_scan_size


def read_nion_json(path: Path) -> Metadata:
    """Voltage, defocus, scan and calibrations of a JSON file of Nion Swift.

    The following keys are read, the outermost of each in the tree: ``high_tension_v`` or ``high_tension`` (V),
    ``defocus`` (m; C10 = -1e10 times it, as in PyPty 2.2, so that ``defocus_A`` = 1e10 times it), ``scan_size`` (slow,
    fast), ``fov_nm`` with ``scan_context_size``; and at the top level ``spatial_calibrations`` (scale and units of the
    axes of the data). The scan step is ``fov_nm`` divided by the number of points of the longer side, as for the images
    of Nion Swift.

    Raises
    ------
    DataError
        The file cannot be read or is not JSON, or a value is not a number.
    """
    problem = not_a_file(path)
    if problem:
        raise DataError(problem)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"the metadata file {str(path)!r} cannot be read as JSON: {error}. Correct it, or read the data with "
            "ignore_metadata (--ignore-metadata)"
        ) from error
    if not isinstance(tree, dict):
        raise DataError(
            f"the metadata file {str(path)!r} contains a {type(tree).__name__}, expected a JSON object"
        )
    voltage = _find(tree, "high_tension_v", "high_tension")
    defocus, fov = _find(tree, "defocus"), _find(tree, "fov_nm")
    size, context = _find(tree, "scan_size"), _find(tree, "scan_context_size")
    step = None
    if fov is not None and (context is not None or size is not None):
        points = max(checked_scan_size(size if context is None else context, str(path)))
        step = 10 * _value(fov, "fov_nm", path) / points
    instrument = Metadata(
        acc_voltage_kV=None if voltage is None else 1e-3 * _value(voltage, "high_tension_v", path),
        defocus_A=None if defocus is None else 1e10 * _value(defocus, "defocus", path),
        scan_size=None if size is None else checked_scan_size(size, str(path)),
        fov_nm=None if fov is None else _value(fov, "fov_nm", path),
        scan_step_A=step,
    )
    # Calibrated axes of the data are more direct than values derived from instrument settings.
    return _calibrations(tree, path).filled_from(instrument)


def _calibrations(tree: dict[str, Any], path: Path) -> Metadata:
    listed = tree.get("spatial_calibrations")
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        return Metadata()
    axes = [(item.get("scale", 0.0), item.get("units")) for item in listed]
    if len(axes) not in (3, 4):
        return Metadata()
    return axis_metadata(axes[:-2] if len(axes) == 4 else [], axes[-2:], str(path))


def _find(tree: Any, *names: str) -> Any:
    """The value of the first of these keys, searched level by level."""
    # The same key may occur in deeper, more specialised branches: the one closest to the root is used.
    for name in names:
        for level in _levels(tree):
            for branch in level:
                if name in branch:
                    return branch[name]
    return None


def _levels(tree: Any) -> Iterator[list[dict[str, Any]]]:
    level = [tree]
    while level:
        yield level
        below = [value for branch in level for value in branch.values()]
        below += [item for value in below if isinstance(value, list) for item in value]
        level = [value for value in below if isinstance(value, dict)]


def _value(value: Any, name: str, path: Path) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{str(path)!r} has {name} = {value!r}, expected a finite number; correct it, or read the data with "
            "ignore_metadata (--ignore-metadata)"
        )
    return number
