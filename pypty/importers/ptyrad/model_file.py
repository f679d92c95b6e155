"""Model files of PtyRAD (model_iter*.hdf5, versions 0.1 and 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.errors import DataError
from pypty.importers.hdf5 import array_of, opened, plain
from pypty.importers.imported import ALL_FREQUENCIES, Imported, make_imported
from pypty.importers.ptyrad.settings import settings_of
from pypty.optics.wavelength import acc_voltage_kV, wavelength_A

NAME = "model file of PtyRAD"
_NONE = ("__NONE__",)


def is_ptyrad(file: h5py.File) -> bool:
    """Whether an HDF5 file has the groups of a model file of PtyRAD."""
    return "optimizable_tensors" in file and "model_attributes" in file


def load_ptyrad(path: Path) -> Imported:
    """Read a model file.

    PtyRAD stores |O| and arg O, a probe for an orthonormal Fourier transform, weights of object modes, and integer crop
    origins with shifts. Its propagator is exact, and a tilt shifts the wave by -z tan(tilt).

    Raises
    ------
    DataError
        The file is not a model file, or is damaged.
    """
    with opened(path, NAME) as file:
        model, tensors = _group(file, "model_attributes"), _group(file, "optimizable_tensors")
        amplitude = array_of(tensors, "obja", (4,)).astype(float)
        phase = array_of(tensors, "objp", (4,)).astype(float)
        probe = _complex(array_of(tensors, "probe", (3, 4)))
        crop_origins, shifts = array_of(model, "crop_pos", (2,)), array_of(tensors, "probe_pos_shifts", (2,))
        if amplitude.shape != phase.shape or crop_origins.shape != shifts.shape:
            raise DataError(
                f"{str(path)!r}: obja {amplitude.shape} and objp {phase.shape}, crop_pos {crop_origins.shape} and "
                f"probe_pos_shifts {shifts.shape} should have the same shapes"
            )
        tilts = (
            array_of(tensors, "obj_tilts", (2,)).astype(float) if "obj_tilts" in tensors else np.zeros((1, 2))
        )
        thickness = float(array_of(tensors, "slice_thickness")) if "slice_thickness" in tensors else None
        attributes: dict[str, Any] = plain(model, _NONE)
        written_by = str(plain(file["ptyrad_version"])) if "ptyrad_version" in file else "unknown version"
        params = plain(file["params"], _NONE) if "params" in file else {}
        loss = plain(file["loss_iters"]) if "loss_iters" in file else None
        n_done = plain(file["niter"]) if "niter" in file else None
    wavelength, pixel = _positive(attributes, "lambd", path), _positive(attributes, "dx", path)
    n_modes, n_slices = amplitude.shape[:2]
    weights = np.atleast_1d(np.asarray(attributes.get("omode_occu", np.full(n_modes, 1 / n_modes)), float))
    if weights.shape != (n_modes,) or (weights < 0).any() or not weights.any():
        raise DataError(f"{str(path)!r}: omode_occu {weights} should be {n_modes} weights of object modes")
    obj = amplitude * np.exp(1j * phase)
    pixels = probe.shape[-1] * probe.shape[-2]
    init = params.get("init_params") or {}
    settings, notes = settings_of(init, attributes, probe.shape[-1])
    if written_by.startswith("0.") and n_slices > 1:  # their propagator was off by half a frequency bin
        tilts = tilts - 1e3 * wavelength / (2 * np.array(probe.shape[-2:]) * pixel)
    if (weights != 1).any():
        settings["obj_mode_weights"] = weights
    settings.update(_tilt_settings(tilts, n_slices, len(crop_origins), path))
    return make_imported(
        obj.transpose(2, 3, 1, 0),  # (mode, z, y, x) -> (y, x, z, mode)
        probe.transpose(1, 2, 0) / np.sqrt(pixels),  # (mode, y, x) -> (y, x, mode)
        crop_origins + shifts,
        f"{str(path)!r} (PtyRAD {written_by})",
        pixel_size_A=np.full(2, pixel),
        slice_distances_A=_thickness(thickness, attributes, n_slices),
        acc_voltage=_voltage(init, wavelength),
        settings={"propmethod": "angular_spectrum", "damping_cutoff_multislice": ALL_FREQUENCIES, **settings},
        extras={
            "params": params,
            "loss_iters": loss,
            "niter": n_done,
            "omode_occu": weights,
            "version": written_by,
        },
        notes=notes,
    )


def _group(file: h5py.File, name: str) -> h5py.Group:
    if not isinstance(file.get(name), h5py.Group):
        raise KeyError(f"it has no group '/{name}'")
    return file[name]


def _complex(probe: np.ndarray) -> np.ndarray:
    """(modes, y, x) complex; older files store real and imaginary parts along a last axis."""
    if probe.ndim == 4 and probe.shape[-1] == 2 and probe.dtype.kind == "f":
        return probe[..., 0] + 1j * probe[..., 1]
    if probe.ndim != 3:
        raise DataError(f"the probe has shape {probe.shape}, expected (modes, y, x)")
    return probe


def _positive(attributes: dict[str, Any], name: str, path: Path) -> float:
    value = attributes.get(name)
    if not isinstance(value, (int, float)) or not 0 < value < np.inf:
        raise DataError(f"{str(path)!r}: model_attributes/{name} is {value!r}, expected a positive number")
    return float(value)


def _voltage(init: Mapping[str, Any], wavelength: float) -> float:
    """kV: probe_kv if it agrees with the stored wavelength (single precision), else the voltage of that wavelength."""
    voltage_kV = init.get("probe_kv")
    if (
        isinstance(voltage_kV, (int, float))
        and voltage_kV > 0
        and abs(wavelength_A(voltage_kV) / wavelength - 1) < 1e-6
    ):
        return float(voltage_kV)
    return acc_voltage_kV(wavelength)


def _thickness(refined: float | None, attributes: dict[str, Any], n_slices: int) -> np.ndarray | None:
    if n_slices == 1:
        return None
    value = attributes.get("slice_thickness") if refined is None else refined
    return None if value is None else np.array([float(value)])


def _tilt_settings(tilts_mrad: np.ndarray, n_slices: int, n_patterns: int, path: Path) -> dict[str, Any]:
    """Tilts [y, x] inside the specimen, rad, with the opposite sign: a tilt t shifts the wave by +z t here."""
    if tilts_mrad.shape not in ((1, 2), (n_patterns, 2)):
        raise DataError(
            f"{str(path)!r}: obj_tilts has shape {tilts_mrad.shape}, expected (1, 2) or ({n_patterns}, 2)"
        )
    if n_slices == 1 or not tilts_mrad.any():
        return {}
    tilts = np.zeros((len(tilts_mrad), 6))
    tilts[:, 2:4] = -np.tan(1e-3 * tilts_mrad)
    return {"tilts": tilts, "tilt_mode": 0}
