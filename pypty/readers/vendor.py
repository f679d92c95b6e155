"""Read all other formats lazily through RosettaSciIO."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.data.hdf5 import LARGEST_RATIO, check_tree, open_hdf5
from pypty.errors import DataError
from pypty.readers.axes import in_order
from pypty.readers.choose import only_one
from pypty.readers.detect import content_of
from pypty.readers.headers import check_claims
from pypty.readers.optional import optional_library
from pypty.readers.recording import Metadata, Recording, axis_metadata

_LOG = logging.getLogger("pypty")


def open_vendor(
    path: Path, key: str | None, axes: str | None, ignore_metadata: bool, trusted: bool = False
) -> Recording:
    """Open the patterns of a vendor's file, with the calibration of its axes, beam energy and convergence angle.

    Parameters
    ----------
    key : title of the signal, if the file has several
    trusted : an HDF5 file may point outside of its folder

    Raises
    ------
    DataError
        RosettaSciIO, or a library that it needs for this format, is not installed, no reader is known for the ending,
        or the file is damaged or contains no scan of patterns.
    """
    if content_of(path) == "hdf5":
        with open_hdf5(path) as file:
            check_tree(file, trusted)
    signals = _signals(path)
    try:
        return _recording(signals, path, key, axes, ignore_metadata)
    except DataError:
        raise
    except Exception as error:  # a damaged file may hold a value of any type and shape in place of any other
        raise DataError(
            f"{str(path)!r} cannot be read: {type(error).__name__}: {error}. It is damaged or truncated"
        ) from error


def _recording(
    signals: list[Mapping[str, Any]], path: Path, key: str | None, axes: str | None, ignore_metadata: bool
) -> Recording:
    named: dict[str, Mapping[str, Any]] = {}
    for number, signal in enumerate(signals):
        title = str(_branch(signal, "metadata", "General").get("title") or "signal")
        named[title if title not in named else f"{title} {number}"] = signal
    arrays = {
        name: (tuple(signal["data"].shape), np.dtype(signal["data"].dtype)) for name, signal in named.items()
    }
    chosen = named[only_one(arrays, key, str(path))]
    _check_size(path, chosen["data"])
    data, listed = _arranged(chosen, str(path))
    metadata = Metadata()
    if not ignore_metadata:
        metadata = _metadata(chosen, listed, str(path))
    return Recording(in_order(data, axes, None, str(path)), str(path), metadata)


def _check_size(path: Path, data: Any) -> None:
    """Refuse an array much larger than the file; a limit for every compression, since formats differ."""
    files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
    have = sum(item.stat().st_size for item in files)
    wanted = math.prod(int(n) for n in data.shape) * np.dtype(data.dtype).itemsize
    if wanted > LARGEST_RATIO * have:
        raise DataError(
            f"{str(path)!r}: its header says shape {tuple(data.shape)} and dtype {data.dtype}, {wanted} bytes, but the "
            f"file has {have}; it is damaged or truncated"
        )


def _signals(path: Path) -> list[Mapping[str, Any]]:
    rsciio = optional_library("rsciio", "RosettaSciIO", f"reading {str(path)!r}")
    ending = path.suffix.lower().removeprefix(".")
    plugins = [
        plugin
        for plugin in rsciio.IO_PLUGINS
        if ending in {item.lower() for item in plugin["file_extensions"]}
    ]
    if not plugins:
        raise DataError(
            f"{str(path)!r} has the ending {path.suffix!r}, for which no reader is known. Supported are .h5, .hdf5, "
            ".emd, .npy, .mat, .tif, .zarr, .raw (EMPAD) and formats of RosettaSciIO (.dm4, .mib, .blo, .hspy, ...)"
        )
    check_claims(path)
    problems = []
    for plugin in plugins:
        try:
            return _read(plugin, path)
        except DataError as error:
            problems.append(str(error))
    raise DataError(
        f"{str(path)!r} cannot be read ({'; '.join(problems)}). It is damaged, truncated or mislabelled"
    )


def _read(plugin: Mapping[str, Any], path: Path) -> list[Mapping[str, Any]]:
    """All signals that a plugin reads from the file."""
    name = f"RosettaSciIO's reader {plugin['name']}"
    try:
        module = optional_library(plugin["api"], name, f"reading {str(path)!r}")
        signals = list(module.file_reader(str(path), lazy=not _maps_the_header(plugin["api"])))
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{name} needs {error.name or error}: pip install 'pypty[io]'") from error
    except Exception as error:  # readers of damaged files raise anything
        raise DataError(f"{plugin['name']}: {type(error).__name__}: {error}") from error
    if not signals:
        raise DataError(f"{plugin['name']}: the file contains no signals")
    return signals


def _maps_the_header(api: str) -> bool:
    """Whether lazy reading would turn the header into counts: mrcz < 0.6 maps the file from its first byte."""
    if not api.endswith("mrcz"):
        return False
    try:
        release = importlib.metadata.version("mrcz").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(release[0]), int(release[1])) < (0, 6)


def _arranged(signal: Mapping[str, Any], name: str) -> tuple[Any, list[Mapping[str, Any]]]:
    """The array with the scan first and the detector last, and its axes in this order."""
    data, axes = signal["data"], list(signal["axes"])
    # RosettaSciIO lists axes in any order; index_in_array, if complete, gives that of the array.
    axes = sorted(axes, key=lambda axis: axis.get("index_in_array") or 0) if _indexed(axes) else axes
    if len(axes) != len(data.shape):
        raise DataError(
            f"{name} has shape {tuple(data.shape)}, but {len(axes)} axes are described; it is damaged"
        )
    scan = [number for number, axis in enumerate(axes) if axis.get("navigate")]
    detector = [number for number in range(len(axes)) if number not in scan]
    if len(detector) != 2:
        if scan and detector:
            raise DataError(
                f"{name} has shape {tuple(data.shape)} with {len(detector)} detector axes, expected two (ky, kx): "
                "spectra and images are not diffraction patterns"
            )
        # No axis is marked as navigation: the last two are the detector.
        scan, detector = list(range(len(axes) - 2)), list(range(len(axes) - 2, len(axes)))
    if len(scan) > 2:  # axes of length 1, such as a single time, are dropped
        scan = [number for number in scan if data.shape[number] > 1]
    order = scan + detector
    dropped = tuple(number for number in range(len(axes)) if number not in order)
    if dropped:
        data = data.squeeze(axis=dropped)
    kept = [number for number in range(len(axes)) if number not in dropped]
    position = [kept.index(number) for number in order]
    return (data if position == sorted(position) else data.transpose(position)), [
        axes[number] for number in order
    ]


def _indexed(axes: list[Mapping[str, Any]]) -> bool:
    return sorted(axis.get("index_in_array", -1) for axis in axes) == list(range(len(axes)))


def _metadata(signal: Mapping[str, Any], axes: list[Mapping[str, Any]], name: str) -> Metadata:
    microscope = _branch(signal, "metadata", "Acquisition_instrument", "TEM")
    instrument = Metadata(
        acc_voltage_kV=microscope.get("beam_energy"),  # keV
        conv_semiangle_mrad=microscope.get("convergence_angle"),  # mrad
    )
    pairs = [(axis["scale"], axis.get("units")) for axis in axes if axis.get("scale") is not None]
    if len(pairs) != len(axes):
        return instrument
    metadata = instrument.filled_from(axis_metadata(pairs[:-2] if len(pairs) == 4 else [], pairs[-2:], name))
    return dataclasses.replace(metadata, beam_centre_px=_centre(axes[-2:]))


def _centre(axes: list[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Pixel (ky, kx) at which the detector's axes are zero; None if it is not inside the detector."""
    centre = []
    for axis in axes:
        scale, offset = float(axis["scale"]), float(axis.get("offset") or 0.0)
        pixel = -offset / scale if scale else math.nan
        if not (offset and 0 < pixel < axis["size"]):  # an offset of 0 means that none was stored
            return None
        centre.append(pixel)
    return (centre[0], centre[1])


def _branch(tree: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}
