"""Read and write parameters in an HDF5 group, with their Python types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.hdf5 import check_key, check_tree, open_hdf5
from pypty.errors import CheckpointError, OutputError

PARAMETERS = "entry_1/process_1/pypty_params"
"""Path of the group that :func:`load_nexus_params` reads."""

# Attribute of every written item: its Python type, which HDF5 alone does not preserve (tuples, None, large integers).
_KIND = "pypty_type"
_CHUNK = 2**24  # bytes of an array that are written at once
_INT64 = 2**63  # larger integers are written as text


def load_nexus_params(path_nexus: str | Path) -> dict[str, Any]:
    """The parameters in a file of :func:`pypty.nexus.convert_to_nxs`.

    Returns
    -------
    dict: None, True/False, numbers, strings (including expressions of the epoch), lists, dicts and arrays of any dtype
    as in params.yaml and the arrays beside it; tuples stay tuples

    Raises
    ------
    CheckpointError
        The file is missing or damaged, or contains no parameters.
    """
    path = Path(path_nexus).expanduser()
    try:
        with open_hdf5(path) as file:
            check_key(file, PARAMETERS)
            group = file.get(PARAMETERS)
            if not isinstance(group, h5py.Group):
                raise CheckpointError(
                    f"{str(path)!r} has no group {PARAMETERS}; was it written by convert_to_nxs?"
                )
            check_tree(group)
            seen: set[int] = set()
            return {name: read_value(item, seen) for name, item in group.items()}
    except CheckpointError:
        raise
    except Exception as error:  # h5py raises many kinds on damaged trees
        raise CheckpointError(f"{str(path)!r} cannot be read as a NeXus file of PyPty: {error}") from error


def write_value(group: h5py.Group, name: str, value: Any) -> None:
    """Write one value under ``name``, with its type as an attribute.

    Raises
    ------
    OutputError
        HDF5 cannot represent its type.
    """
    if isinstance(value, Mapping):
        inner = group.create_group(name)
        inner.attrs["NX_class"] = "NXcollection"
        _mark(inner, "dict")
        # Keys as values, because HDF5 names cannot be numbers or contain slashes.
        write_value(inner, "keys", list(value.keys()))
        write_value(inner, "values", list(value.values()))
    elif isinstance(value, (list, tuple)):
        _write_sequence(group, name, value)
    elif isinstance(value, np.ndarray):
        _mark(_write_array(group, name, value), "array")
    elif value is None:
        _mark(group.create_dataset(name, data=h5py.Empty("f")), "none")
    elif isinstance(value, np.generic):
        _mark(_write_array(group, name, np.asarray(value)), "numpy")
    elif isinstance(value, (bool, float, complex)):
        _mark(group.create_dataset(name, data=value), type(value).__name__)
    elif isinstance(value, int):
        small = -_INT64 <= value < _INT64
        _mark(group.create_dataset(name, data=value if small else str(value)), "int")
    elif isinstance(value, (str, Path)):
        _write_text(group, name, str(value))
    else:
        raise OutputError(
            f"the parameter {name!r} is a {type(value).__name__}, which cannot be written to HDF5"
        )


def read_value(item: h5py.Group | h5py.Dataset, seen: set[int] | None = None) -> Any:
    """The value that :func:`write_value` wrote; the plain values of other data sets.

    Parameters
    ----------
    seen : addresses of the groups that were read so far; each is read once

    Raises
    ------
    CheckpointError
        A group is linked twice, or to itself.
    """
    seen = set() if seen is None else seen
    if isinstance(item, h5py.Group):
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise CheckpointError(
                f"{item.file.filename!r}: the group {item.name!r} is linked twice; it is damaged"
            )
        seen.add(address)
    kind = item.attrs.get(_KIND, "")
    if kind == "dict":
        return dict(zip(read_value(item["keys"], seen), read_value(item["values"], seen), strict=True))
    if kind in ("list", "tuple"):
        values = [read_value(item[str(k)], seen) for k in range(len(item))] if isinstance(item, h5py.Group) else list(
            item[()].tolist()
        )  # fmt: skip
        return tuple(values) if kind == "tuple" else values
    if kind == "none":
        return None
    value = item[()]
    if kind == "str":
        return item.asstr()[()]
    if kind == "json":
        return json.loads(value)
    if kind == "int":
        return int(value)
    if kind in ("bool", "float", "complex"):
        return value.item()
    if kind == "array":
        return np.asarray(value)
    if kind.startswith("array of "):
        dtype = np.dtype(kind.removeprefix("array of "))
        texts = np.char.decode(value, "utf-8") if dtype.kind == "U" else np.asarray(value)
        return texts.astype(dtype)
    return value


def _write_sequence(group: h5py.Group, name: str, value: list[Any] | tuple[Any, ...]) -> None:
    kind = "tuple" if isinstance(value, tuple) else "list"
    if value and _uniform(value):
        _mark(group.create_dataset(name, data=np.array(value)), kind)
        return
    inner = group.create_group(name)
    inner.attrs["NX_class"] = "NXcollection"
    _mark(inner, kind)
    for index, item in enumerate(value):
        write_value(inner, str(index), item)


def _uniform(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether a (nested) list of numbers can be stored as one array and read back unchanged.

    That needs a rectangular shape, a single Python type of numbers, and no tuples inside.
    """
    rows = [value]
    # Descend one level of nesting at a time, as long as the first entry is a list of lists.
    while isinstance(rows[0], list | tuple) and rows[0] and isinstance(rows[0][0], list):
        if any(not isinstance(row, list | tuple) or len(row) != len(rows[0]) for row in rows):
            return False
        rows = [item for row in rows for item in row]
    if any(not isinstance(row, list | tuple) or len(row) != len(rows[0]) for row in rows):
        return False
    if any(isinstance(row, tuple) for row in rows if row is not value):
        return False
    leaves = [leaf for row in rows for leaf in row]
    kinds = {type(leaf) for leaf in leaves}
    if kinds == {int}:  # larger integers would become floats or objects
        return all(-_INT64 <= leaf < _INT64 for leaf in leaves)
    return kinds in ({float}, {bool})


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> h5py.Dataset:
    if array.dtype.kind in "US":
        wide = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        out = group.create_dataset(name, data=wide)
        _mark(out, f"array of {array.dtype.str}")
        return out
    if array.dtype.kind not in "biufc":
        raise OutputError(
            f"the parameter {name!r} is an array of {array.dtype}, which cannot be written to HDF5"
        )
    if array.nbytes <= _CHUNK:
        options = {"compression": "gzip", "shuffle": True} if array.size > 1000 else {}
        return group.create_dataset(name, data=array, **options)
    out = group.create_dataset(name, array.shape, array.dtype, chunks=True)
    rows = max(1, _CHUNK // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):  # the array may be mapped from a file larger than the memory
        out[start : start + rows] = array[start : start + rows]
    return out


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    # Strings of HDF5 end at a zero byte and must be valid UTF-8 (no lone surrogates).
    if "\x00" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        _mark(group.create_dataset(name, data=json.dumps(text)), "json")
    else:
        _mark(group.create_dataset(name, data=text), "str")


def _mark(item: h5py.Group | h5py.Dataset, kind: str) -> None:
    if _KIND not in item.attrs:
        item.attrs[_KIND] = kind
