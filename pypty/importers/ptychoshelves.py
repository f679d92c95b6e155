"""Results of PtychoShelves and its fork for electrons, fold_slice (Niter*.mat, *_recons.mat)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import DataError
from pypty.importers.imported import ALL_FREQUENCIES, Imported, make_imported
from pypty.importers.matlab import read_mat
from pypty.optics.wavelength import acc_voltage_kV

NAME = "result of PtychoShelves (.mat with object, probe, outputs, p)"
VARIABLES = ("object", "probe", "outputs", "p", "par")


def load_ptychoshelves(path: Path) -> Imported:
    """Read a result.

    ``outputs.probe_positions`` are (x, y) in pixels from the centre of the object; the crop origin of a pattern is
    ceil(object/2 - probe/2) - 1 + [y, x], counted from 0. If they are missing, ``p.positions`` are used: (y, x) from
    the first pixel. Axes y, x are those of the arrays.

    Raises
    ------
    DataError
        The file is not such a result, or is damaged.
    """
    content = read_mat(path, VARIABLES, NAME)
    outputs = _struct(content.get("outputs"))
    p = _struct(content.get("p")) or _struct(_struct(content.get("par")).get("p"))
    obj = content.get("object", outputs.get("object"))
    probe = content.get("probe", outputs.get("probe"))
    if obj is None or probe is None:
        raise DataError(f"{str(path)!r} is not a {NAME}: it has no object and probe")
    source = f"{str(path)!r} (PtychoShelves)"
    layers = _layers(obj, source)
    modes, variable = _modes(probe, p, source)
    crop_origins = _crop_origins(outputs, p, layers.shape[:2], modes.shape[:2], source)
    notes = [
        "PtychoShelves applies sub-pixel shifts to the first probe mode only, here they apply to all"
    ] * (modes.shape[2] > 1)
    if variable:
        notes.append(
            "PtychoShelves varied the probe from position to position; only its constant part is used"
        )
    pixel = _vector(p.get("dx_spec", outputs.get("pixel_size")))
    if pixel is not None and pixel.max() < 1e-6:
        pixel = pixel * 1e10  # m, as in the X-ray branch
    return make_imported(
        layers[..., None],
        modes,
        crop_origins,
        source,
        pixel_size_A=None if pixel is None else np.broadcast_to(pixel, (2,)).copy(),
        slice_distances_A=_distances(p, outputs, layers.shape[2], source),
        acc_voltage=_voltage(p),
        settings={"propmethod": "angular_spectrum", "damping_cutoff_multislice": ALL_FREQUENCIES},
        extras={
            "p": p,
            "outputs": {key: value for key, value in outputs.items() if key not in ("object", "probe")},
        },
        notes=tuple(notes),
    )


def _struct(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _layers(value: Any, source: str) -> np.ndarray:
    """(y, x, layers): an array, with or without a mode axis of length 1, or a cell for each layer."""
    if isinstance(value, list):
        if not value or len({np.shape(layer) for layer in value}) != 1 or np.ndim(value[0]) != 2:
            if len(value) == 1 and np.ndim(value[0]) > 2:  # a cell around the whole array
                return _layers(value[0], source)
            raise DataError(
                f"{source}: the cells of the object have shapes {[np.shape(layer) for layer in value]}"
            )
        return np.stack([_numbers(layer, "object", source) for layer in value], axis=2)  # (y, x, layers)
    array = _numbers(value, "object", source)
    if array.ndim == 4 and array.shape[2] == 1:
        array = array[:, :, 0]  # (y, x, 1, layers) -> (y, x, layers)
    if array.ndim == 2:
        array = array[:, :, None]  # one layer
    if array.ndim != 3:
        raise DataError(f"{source}: the object has shape {array.shape}, expected (y, x, layers)")
    return array


def _modes(value: Any, p: dict[str, Any], source: str) -> tuple[np.ndarray, bool]:
    """(y, x, modes), and whether a variable part of the probe was left out.

    Stored arrays are (y, x, modes[, variable]), or (y, x, 1, modes) as inside the engine, which p.probe_modes tells
    apart.
    """
    if isinstance(value, list):
        cells = [_numbers(cell, "probe", source) for cell in value]
        varies = any(cell.ndim > 2 and cell.size > cell.shape[0] * cell.shape[1] for cell in cells)
        return np.stack(
            [cell.reshape(*cell.shape[:2], -1, order="F")[..., 0] for cell in cells], axis=2
        ), varies
    array = _numbers(value, "probe", source)
    if array.ndim == 2:
        return array[:, :, None], False
    if array.ndim == 3:
        return array, False
    if array.ndim != 4:
        raise DataError(f"{source}: the probe has shape {array.shape}, expected (y, x, modes[, variable])")
    n_modes = _vector(p.get("probe_modes"))
    if array.shape[2] == 1 and n_modes is not None and array.shape[3] == int(n_modes[0]):
        return array[:, :, 0], False
    return array[..., 0], array.shape[3] > 1


def _crop_origins(
    outputs: dict[str, Any], p: dict[str, Any], obj: tuple[int, ...], window: tuple[int, ...], source: str
) -> np.ndarray:
    """(N, 2) crop origins [y, x] of the patches, counted from 0."""
    if "probe_positions" in outputs and np.size(outputs["probe_positions"]):
        centred = _positions(outputs["probe_positions"], "outputs.probe_positions", source)
        # (x, y) -> [y, x]; MATLAB counts from 1.
        return centred[:, ::-1] + np.ceil(np.array(obj) / 2 - np.array(window) / 2) - 1
    if "positions" in p and np.size(p["positions"]):
        return _positions(p["positions"], "p.positions", source)
    raise DataError(f"{source}: it has no outputs.probe_positions and no p.positions")


def _positions(value: Any, name: str, source: str) -> np.ndarray:
    array = _numbers(value, name, source)
    if array.ndim != 2 or array.shape[1] != 2:
        raise DataError(f"{source}: {name} has shape {array.shape}, expected (N, 2)")
    return array.astype(float)


def _distances(p: dict[str, Any], outputs: dict[str, Any], n_layers: int, source: str) -> np.ndarray | None:
    """Gaps between layers in Å: p.delta_z, or z_distance without its last entries (to the detector)."""
    if n_layers == 1:
        return None
    distances = _vector(p.get("delta_z"))
    if distances is None:
        distances = _vector(_struct(p.get("multi_slice_param")).get("z_distance", outputs.get("z_distance")))
    if distances is None:
        return None
    # The last distances lead to the detector, and may be infinite.
    distances = distances[np.isfinite(distances)][: n_layers - 1]
    if distances.size not in (1, n_layers - 1) or (distances < 0).any():
        raise DataError(
            f"{source}: {distances.size} slice distances, expected 1 or {n_layers - 1} that are not negative"
        )
    if distances.max() < 1e-6:  # m, as in the X-ray branch
        distances = distances * 1e10
    return distances


def _voltage(p: dict[str, Any]) -> float | None:
    """kV from the wavelength, which is in Å for electrons; else p.energy (keV)."""
    wavelength, energy = _vector(p.get("lambda")), _vector(p.get("energy"))
    if wavelength is not None and wavelength[0] > 0:
        length = float(wavelength[0])
        return acc_voltage_kV(length if length > 1e-8 else length * 1e10)  # below: in m
    return float(energy[0]) if energy is not None and energy[0] > 0 else None


def _vector(value: Any) -> np.ndarray | None:
    """Numbers as a flat array, or None if there are none."""
    if isinstance(value, list):
        parts = [part for part in map(_vector, value) if part is not None]
        return np.concatenate(parts) if parts else None
    if not isinstance(value, (np.ndarray, np.generic, int, float)):
        return None
    array = np.asarray(value)
    return array.astype(float).ravel(order="F") if array.size and array.dtype.kind in "iuf" else None


def _numbers(value: Any, name: str, source: str) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iufc":
        raise DataError(f"{source}: {name} is a {type(value).__name__}, expected an array of numbers")
    return value
