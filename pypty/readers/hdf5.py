"""HDF5 files: any data set, the layout of py4DSTEM, and files that ``pypty import`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

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


def open_hdf5(path: Path, key: str | None, axes: str | None, ignore_metadata: bool) -> Recording:
    """Open a data set of an HDF5 file.

    Without ``key``: the data cube of py4DSTEM, else the only data set with three or four axes, else "data".

    Raises
    ------
    DataError
        The file is damaged or truncated, or the data set is not found.
    """
    file = open_file(path)
    try:
        dataset = find_dataset(file, key, path)
        metadata = Metadata() if ignore_metadata else _metadata(file, dataset, path)
        name = f"{path}:{dataset.name}"
        return Recording(in_order(dataset, axes, None, name), name, metadata, (file.close,))
    except DataError:
        file.close()
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        file.close()
        raise DataError(f"{str(path)!r} cannot be read: {error}. It is damaged or truncated") from error


def open_file(path: Path) -> Any:
    """Open an HDF5 file for reading.

    Raises
    ------
    DataError
        It is not an HDF5 file, or is damaged or truncated.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be opened as HDF5: {error}. It is damaged or truncated; copy it again"
        ) from error


def find_dataset(file: Any, key: str | None, path: Path) -> Any:
    """The data set with the patterns, see :func:`pypty.readers.choose.only_one`."""
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    cubes: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            arrays[name] = (tuple(item.shape), item.dtype)
            if name.endswith("/data") and len(item.shape) == 4 and "emd_group_type" in item.parent.attrs:
                cubes.append(name)

    file.visititems(visit)
    # visititems does not follow links; a key may name one.
    if key is not None and isinstance(file.get(key), h5py.Dataset):
        return file[key]
    if key is None and len(cubes) == 1:
        return file[cubes[0]]
    return file[only_one(arrays, key, str(path))]


def is_for_rosettasciio(path: Path, key: str | None) -> bool:
    """Whether an .emd file stores its axes in an order known to RosettaSciIO: Velox, and EMD 0.2 without a key."""
    with open_file(path) as file:
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
            if key in group.attrs or isinstance(group.get(key), h5py.Dataset)
        }
        if "Q_pixel_size" in calibration:
            # R: real space (scan), Q: reciprocal space (detector)
            scan, detector = (
                (calibration.get(f"{letter}_pixel_size", 1.0), calibration.get(f"{letter}_pixel_units"))
                for letter in "RQ"
            )
            return axis_metadata([scan], [detector], str(path))
    return Metadata()


def plain(value: Any) -> Any:
    """A value of NumPy or HDF5 as a number, text or tuple of Python."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return tuple(value.tolist()) if value.ndim else plain(value.item())
    return value.item() if isinstance(value, np.generic) else value
