"""Open detector files of all formats."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from pypty.errors import DataError
from pypty.params.files import not_a_file
from pypty.readers.arrays import open_npy, open_tif, open_zarr
from pypty.readers.axes import with_scan
from pypty.readers.detect import kind_of
from pypty.readers.empad import open_empad, raw_of_xml
from pypty.readers.hdf5 import is_for_rosettasciio, open_array
from pypty.readers.matlab import open_mat5, open_mat73
from pypty.readers.nion import read_nion_json
from pypty.readers.recording import Recording, checked_scan_size
from pypty.readers.vendor import open_vendor

_LOG = logging.getLogger("pypty")


def open_recording(
    path: str | Path,
    key: str | None = None,
    scan_size: Any = None,
    *,
    axes: str | None = None,
    version: int | None = None,
    dtype: str | None = None,
    metadata_file: str | Path | None = None,
    ignore_metadata: bool = False,
    trust_external_links: bool = False,
) -> Recording:
    """Open the file of a detector; patterns are read lazily.

    Formats: EMPAD .raw (or its .xml), MATLAB .mat (v5 to v7.3), .tif, .zarr, .npy, HDF5 (.h5, .hdf5, .emd: any data
    set, and the layout of py4DSTEM); all others through RosettaSciIO. The content must agree with the ending.

    Parameters
    ----------
    key : data set, variable or title, if a file holds several arrays
    scan_size : points (slow, fast); takes precedence over the file
    axes : names of the axes in the order of the file, for example "ky,kx,n" or "sx,sy,ky,kx"; for .mat as MATLAB shows
        them (see :mod:`pypty.readers.matlab` for the default)
    version, dtype : of an EMPAD file, see :func:`pypty.readers.empad.open_empad`
    metadata_file : JSON of Nion Swift; None: the .json of the same name, if it exists
    ignore_metadata : read only the patterns
    trust_external_links : links, virtual data sets and raw storage in an HDF5 file may point outside of its folder

    Raises
    ------
    DataError
        The file is missing, empty, damaged, truncated, mislabelled, or contains no scan of patterns; or an optional
        library is missing.
    """
    chosen = Path(path).expanduser()
    try:
        size = None if scan_size is None else checked_scan_size(scan_size, "the call")
        if chosen.suffix.lower() == ".xml" and not_a_file(chosen) is None:
            chosen = raw_of_xml(chosen)
        recording = _open(chosen, key, size, axes, version, dtype, ignore_metadata, trust_external_links)
        try:
            if not ignore_metadata:
                _add_json(recording, chosen, metadata_file)
            _settle_scan(recording, size)
        except DataError:
            recording.close()
            raise
    except DataError as error:
        if str(chosen.parent) in str(error):
            raise
        raise DataError(f"{str(chosen)!r}: {error}") from error
    return recording


def _add_json(recording: Recording, path: Path, metadata_file: str | Path | None) -> None:
    beside = path.with_suffix(".json") if metadata_file is None else Path(metadata_file).expanduser()
    if metadata_file is not None or beside.is_file():
        recording.metadata = recording.metadata.filled_from(read_nion_json(beside))


def _open(
    path: Path,
    key: str | None,
    scan_size: tuple[int, int] | None,
    axes: str | None,
    version: int | None,
    dtype: str | None,
    ignore_metadata: bool,
    trusted: bool,
) -> Recording:
    kind = kind_of(path)
    if kind != "raw" and (version is not None or dtype is not None):
        raise DataError(f"{str(path)!r}: version and dtype are for EMPAD .raw files only; leave them out")
    if kind == "raw":
        return open_empad(path, scan_size, version, dtype, ignore_metadata)
    if kind == "npy":
        return open_npy(path, axes)
    if kind == "tif":
        return open_tif(path, axes)
    if kind == "zarr":
        return open_zarr(path, key, axes)
    if kind == "mat5":
        return open_mat5(path, key, axes)
    if kind == "mat73":
        return open_mat73(path, key, axes, trusted)
    if kind == "hdf5" and not (path.suffix.lower() == ".emd" and is_for_rosettasciio(path, key)):
        return open_array(path, key, axes, ignore_metadata, trusted)
    return open_vendor(path, key, axes, ignore_metadata, trusted)


def _settle_scan(recording: Recording, scan: tuple[int, int] | None) -> None:
    """Set the scan size: ``scan`` if given, else that of four axes, else that of the metadata; check the patterns."""
    shape, stated = recording.shape, recording.metadata.scan_size
    if scan is None and len(shape) == 4:
        scan = (shape[0], shape[1])
        if stated is not None and stated != scan:
            _LOG.warning(
                "%s: scan_size is %s in the metadata, but the data have %s points; the latter is used",
                recording.name,
                stated,
                scan,
            )
    scan = scan or stated
    if scan is not None:
        with_scan(recording.data, recording.n_patterns, scan, recording.name)
        recording.metadata = dataclasses.replace(recording.metadata, scan_size=scan)
