"""HDF5 files: any data set, the layout of py4DSTEM, and files that ``pypty import`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pypty.data.hdf5 import check_key, open_hdf5
from pypty.data.own_mask import mask_in_file
from pypty.errors import DataError
from pypty.readers.axes import in_order
from pypty.readers.choose import only_one
from pypty.readers.recording import Metadata, Recording, axis_metadata

# Attributes of the file or the data set that name their quantity and unit.
_ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "acc_voltage_kV": ("acc_voltage_kV", "voltage_kV"),
        "conv_semiangle_mrad": ("conv_semiangle_mrad", "semiangle_mrad"),
        "rez_pixel_size_mrad": ("rez_pixel_size_mrad", "angular_sampling_mrad"),
        "rez_pixel_size_A": ("rez_pixel_size_A",),
        "scan_step_A": ("scan_step_A",),
        "scan_size": ("scan_size", "scan_shape"),
        "fov_nm": ("fov_nm",),
        "rotation_deg": ("PLRotation_deg",),
        "defocus_A": ("defocus_A",),
    }
)
# Names of py4DSTEM: Q is the detector, R the scan.
_CALIBRATION = ("Q_pixel_size", "Q_pixel_units", "R_pixel_size", "R_pixel_units")


def open_array(
    path: Path, key: str | None, axes: str | None, ignore_metadata: bool, trusted: bool = False
) -> Recording:
    """Open a data set of an HDF5 file.

    Without ``key``: the data cube of py4DSTEM, else the only data set with three or four axes, else "data".
    ``trusted``: it may point outside of the folder of the file.

    Raises
    ------
    DataError
        The file is damaged or truncated, or the data set is not found.
    """
    file = open_hdf5(path)
    try:
        dataset = find_dataset(file, key, path, trusted)
        metadata = Metadata() if ignore_metadata else _metadata(file, dataset, path)
        name = f"{path}:{dataset.name}"
        recording = Recording(in_order(dataset, axes, None, name), name, metadata, (file.close,))
        recording.bad_pixels = None if ignore_metadata else mask_in_file(file, recording.pattern_shape)
        return recording
    except DataError:
        file.close()
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        file.close()
        raise DataError(f"{str(path)!r} cannot be read: {error}. It is damaged or truncated") from error


def find_dataset(file: Any, key: str | None, path: Path, trusted: bool = False) -> Any:
    """The data set with the patterns, see :func:`pypty.readers.choose.only_one`.

    Raises
    ------
    DataError
        No array fits, or what it points to is missing, or (not ``trusted``) outside of the folder of the file.
    """
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    cubes: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            arrays[name] = (tuple(item.shape), item.dtype)
            if name.endswith("/data") and len(item.shape) == 4 and "emd_group_type" in item.parent.attrs:
                cubes.append(name)

    file.visititems(visit)
    # visititems does not follow links; a key may name one.
    if key is not None:
        check_key(file, key, trusted)
        if isinstance(file.get(key), h5py.Dataset):
            return file[key]
    chosen = cubes[0] if key is None and len(cubes) == 1 else only_one(arrays, key, str(path))
    check_key(file, chosen, trusted)
    return file[chosen]


def is_for_rosettasciio(path: Path, key: str | None) -> bool:
    """Whether an .emd file stores its axes in an order known to RosettaSciIO: Velox, and EMD 0.2 without a key."""
    with open_hdf5(path) as file:
        if isinstance(file.get("Data"), h5py.Group) and ("Presentation" in file or "Operations" in file):
            return True
        return key is None and str(plain(file.attrs.get("version_major", ""))) == "0"


def _metadata(file: Any, dataset: Any, path: Path) -> Metadata:
    values: dict[str, Any] = {}
    for field, names in _ATTRIBUTES.items():
        for place in (dataset.attrs, file.attrs):
            for name in names:
                if name in place and field not in values:
                    values[field] = plain(place[name])
    ours = file.get("pypty")  # group of parameters that pypty import writes
    if isinstance(ours, h5py.Group) and "PLRotation_deg" in ours.attrs:
        values.setdefault("rotation_deg", plain(ours.attrs["PLRotation_deg"]))
    return Metadata(**values).filled_from(_py4dstem(file, path))


def _py4dstem(file: Any, path: Path) -> Metadata:
    """Pixels of py4DSTEM's calibration (EMD 1.0): data sets or attributes of a group "calibration"."""
    groups: list[Any] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and name.rsplit("/", 1)[-1] == "calibration":
            groups.append(item)

    file.visititems(visit)
    for group in groups:
        calibration = {
            key: plain(group.attrs[key] if key in group.attrs else group[key][()])
            for key in _CALIBRATION
            if key in group.attrs or _is_one_value(group, key)
        }
        if "Q_pixel_size" in calibration:
            # R: real space (scan), Q: reciprocal space (detector)
            scan, detector = (
                (calibration.get(f"{letter}_pixel_size", 1.0), calibration.get(f"{letter}_pixel_units"))
                for letter in "RQ"
            )
            return axis_metadata([scan], [detector], str(path))
    return Metadata()


def _is_one_value(group: Any, key: str) -> bool:
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        return False
    item = group[key]
    return isinstance(item, h5py.Dataset) and item.size == 1


def plain(value: Any) -> Any:
    """A value of NumPy or HDF5 as a number, text or tuple of Python."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim else plain(value.item())
    return value.item() if isinstance(value, np.generic) else value
