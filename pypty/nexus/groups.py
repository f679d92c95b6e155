"""Create groups and data sets with the attributes that NeXus requires."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

_COMPRESS_FROM = 1000  # values; smaller arrays are not compressed


def group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    """A group of a NeXus class."""
    out = parent.create_group(name)
    out.attrs["NX_class"] = nx_class
    for key, value in attributes.items():
        out.attrs[key] = np.array(value, dtype=h5py.string_dtype()) if isinstance(value, list) else value
    return out


def array(parent: h5py.Group, name: str, values: np.ndarray, units: str, **attributes: Any) -> h5py.Dataset:
    """A data set with units ("" = a plain number)."""
    large = (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True}
        if values.size > _COMPRESS_FROM
        else {}
    )
    out = parent.create_dataset(name, data=values, **large)
    if units:
        out.attrs["units"] = units
    for key, value in attributes.items():
        out.attrs[key] = value
    return out


def scalar(parent: h5py.Group, name: str, value: float, units: str, **attributes: Any) -> h5py.Dataset:
    """A number with units."""
    return array(parent, name, np.asarray(float(value)), units, **attributes)


def link(parent: h5py.Group, name: str, target: h5py.Dataset | h5py.Group) -> None:
    """A hard link, with the path of the original as an attribute, as NeXus requires."""
    parent[name] = target
    if "target" not in target.attrs:
        target.attrs["target"] = target.name
