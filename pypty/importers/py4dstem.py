"""Ptychographic reconstructions saved by py4DSTEM (0.14, EMD 1.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.errors import DataError
from pypty.importers.hdf5 import array_of, opened, plain
from pypty.importers.imported import ALL_FREQUENCIES, Imported, make_imported

NAME = "ptychographic reconstruction of py4DSTEM"
KINDS = (
    "SingleslicePtychography",
    "MultislicePtychography",
    "MixedstatePtychography",
    "MixedstateMultislicePtychography",
)
_NONE = ("_None",)


def find_reconstruction(file: h5py.File) -> h5py.Group | None:
    """The first group with a ptychographic reconstruction, or None."""
    groups: list[h5py.Group] = []

    def look(_: str, item: h5py.Group | h5py.Dataset) -> bool | None:
        if isinstance(item, h5py.Group) and _text(item.attrs.get("python_class")).endswith("Ptychography"):
            groups.append(item)
            return True  # ends the visit
        return None

    file.visititems(look)
    return groups[0] if groups else None


def load_py4dstem(path: Path) -> Imported:
    """Read a reconstruction of one of :data:`KINDS`.

    In py4DSTEM axis x is rows, the probe is centred at pixel (0, 0), positions refer to that pixel, and patches that
    extend beyond the object wrap around. Here the object is continued periodically instead.

    Raises
    ------
    DataError
        The file is of another kind, damaged, or of a class without a counterpart here.
    """
    with opened(path, NAME) as file:
        group = find_reconstruction(file)
        if group is None:
            raise DataError(f"{str(path)!r} has no group with a ptychographic reconstruction (python_class)")
        kind = _text(group.attrs["python_class"])
        if kind not in KINDS:
            raise DataError(f"{str(path)!r} contains a {kind}; supported are {', '.join(KINDS)}")
        multislice, mixed = "Multislice" in kind, kind.startswith("Mixed")
        obj = array_of(group, "_object_emd/data", (3,) if multislice else (2,))
        probe = array_of(group, "_probe_emd/data", (3,) if mixed else (2,))
        metadata: dict[str, Any] = plain(group["metadatabundle"], _NONE)
        positions = array_of(group, "metadatabundle/preprocess_metadata/positions_px", (2,)).astype(float)
    instance, preprocess = metadata.get("instantiation_metadata"), metadata.get("preprocess_metadata")
    if not isinstance(instance, dict) or not isinstance(preprocess, dict):
        raise DataError(
            f"{str(path)!r} lacks instantiation_metadata and preprocess_metadata of the reconstruction"
        )
    if _text(instance.get("object_type")) == "potential" or obj.dtype.kind == "f":
        obj = np.exp(1j * obj)  # a potential in rad
    obj, probe = (obj if multislice else obj[None]), (probe if mixed else probe[None])
    window = np.array(probe.shape[-2:])
    obj, crop_origins = _unwrapped(obj, positions - window // 2, window, path)
    sampling = np.asarray(_needed(preprocess, "sampling", path), float).ravel()
    if sampling.shape != (2,):
        raise DataError(f"{str(path)!r}: sampling is {sampling}, expected two pixel sizes in Å")
    notes = _notes(preprocess)
    return make_imported(
        obj[..., None].transpose(1, 2, 0, 3),  # (z, y, x) -> (y, x, z, 1)
        # Centre at pixel (0, 0) -> n//2; (mode, y, x) -> (y, x, mode)
        np.fft.fftshift(probe, axes=(-2, -1)).transpose(1, 2, 0),
        crop_origins,
        f"{str(path)!r} (py4DSTEM {kind})",
        pixel_size_A=sampling,
        slice_distances_A=_distances(instance, len(obj), path),
        acc_voltage=float(_needed(instance, "energy", path)) / 1e3,
        settings=_settings(instance, preprocess, len(obj)),
        extras={"metadata": metadata},
        notes=notes,
    )


def _unwrapped(
    obj: np.ndarray, crop_origins: np.ndarray, window: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The object, continued periodically to contain all patches, and crop origins on its pixels."""
    whole = np.round(crop_origins).astype(int)
    shape = np.array(obj.shape[-2:])
    # Pixels by which patches extend beyond the object, at its beginning and end.
    before = np.maximum(-whole.min(axis=0), 0)
    after = np.maximum(whole.max(axis=0) + window - shape, 0)
    if (before > shape).any() or (after > shape).any():
        raise DataError(f"{str(path)!r}: positions_px do not lie on the object of {tuple(shape)} px")
    rim = [(0, 0), (int(before[0]), int(after[0])), (int(before[1]), int(after[1]))]
    return np.pad(obj, rim, mode="wrap"), crop_origins + before


def _settings(instance: dict[str, Any], preprocess: dict[str, Any], n_slices: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"propmethod": "multislice", "damping_cutoff_multislice": ALL_FREQUENCIES}
    if instance.get("semiangle_cutoff") is not None:
        settings["conv_semiangle_mrad"] = float(instance["semiangle_cutoff"])
    if not preprocess.get("data_transpose") and preprocess.get("rotation_angle_rad") is not None:
        settings["PLRotation_deg"] = float(np.rad2deg(preprocess["rotation_angle_rad"]))
    tilts = [float(instance.get(f"theta_{axis}") or 0.0) for axis in "xy"]  # py4DSTEM's x is rows
    if n_slices > 1 and any(tilts):
        row = np.zeros((1, 6))
        row[0, 2:4] = np.tan(1e-3 * np.array(tilts))
        settings.update(tilts=row, tilt_mode=0)
    return settings


def _notes(preprocess: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if preprocess.get("positions_mask") is not None:
        notes.append("positions_mask left out patterns; give only those that were used")
    measured, window = preprocess.get("amplitudes_shape"), preprocess.get("region_of_interest_shape")
    if measured is not None and window is not None and not np.array_equal(measured, window):
        notes.append(
            f"py4DSTEM changed patterns of {tuple(measured)} pixels to {tuple(window)}; do the same to the data"
        )
    notes.append("py4DSTEM centred the patterns by a fit of their centres of mass; centre the data")
    return tuple(notes)


def _distances(instance: dict[str, Any], n_slices: int, path: Path) -> np.ndarray | None:
    if n_slices == 1:
        return None
    distances = np.atleast_1d(np.asarray(_needed(instance, "slice_thicknesses", path), float))
    if distances.shape not in ((1,), (n_slices - 1,)):
        raise DataError(f"{str(path)!r}: {distances.size} slice_thicknesses, expected 1 or {n_slices - 1}")
    return distances


def _needed(metadata: dict[str, Any], name: str, path: Path) -> Any:
    value = metadata.get(name)
    if value is None:
        raise DataError(
            f"{str(path)!r} does not contain {name!r}; expected it in the metadata of the reconstruction"
        )
    return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
