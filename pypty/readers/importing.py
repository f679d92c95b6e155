"""Convert a detector's file to a calibrated, chunked HDF5 file, piece by piece."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.hdf5 import check_stored, open_hdf5
from pypty.data.own_mask import OUR_MASK
from pypty.data.preprocess import Preprocess
from pypty.errors import DataError, OutputError, ParameterError
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.readers.axes import with_scan
from pypty.readers.hdf5 import plain
from pypty.readers.opening import open_recording
from pypty.readers.recording import PARAMETERS, Metadata, Recording

_LOG = logging.getLogger("pypty")
_CHUNK_BYTES = 2**20
"""Size of a chunk of the file in bytes."""
_OURS = ("data_path", "data_key", "dataset")  # keys that the import sets


def import_file(
    path: str | Path | Recording,
    output: str | Path,
    *,
    swap_axes: bool = False,
    crop: tuple[int, int, int, int] | None = None,
    bin: int = 1,
    patterns_per_chunk: int | None = None,
    compression: str | None = None,
    params: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Write patterns and calibration to an HDF5 file that every command of PyPty reads.

    The file has the data set ``data``, (N, ky, kx) row-major over the scan, in the detector's own type; the calibration
    as attributes whose names give the units (``acc_voltage_kV``, ``rez_pixel_size_mrad``, ``scan_step_A``, ...); and a
    group ``pypty`` whose attributes are parameters, see :func:`params_of`, with the detector's own mask (``pixel_mask``
    of a NeXus or Dectris file) as its data set ``detector_mask``. The file is written under a temporary name
    and renamed when it is complete.

    Parameters
    ----------
    path : file, or a recording that the caller closes
    swap_axes : transpose every pattern; done first
    crop : (first ky, end ky, first kx, end kx) in detector pixels; done after swap_axes
    bin : side of blocks of pixels to sum; done last. The pixel size of the detector is scaled accordingly
    patterns_per_chunk : number of patterns in a chunk; None: about 1 MiB
    compression : None, "lzf" or "gzip"
    params : additional parameters, which take precedence over those of the file; they refer to the patterns as written
    overwrite : replace an existing file
    options : of :func:`pypty.readers.open_recording`: key, scan_size, axes, version, dtype, metadata_file,
        ignore_metadata, trust_external_links

    Returns
    -------
    The path of the file.

    Raises
    ------
    DataError
        The file cannot be read, or contains no measurement (only zeros, or no finite value).
    ParameterError
        A parameter or an argument is wrong.
    OutputError
        The output exists, or cannot be written.
    """
    target = _target(output, path, overwrite)
    _check_choices(bin, patterns_per_chunk, compression)
    if isinstance(path, Recording):
        if options:
            raise ParameterError(
                f"{', '.join(sorted(options))}: a recording is open already; pass them to open_recording"
            )
        source: contextlib.AbstractContextManager[Recording] = contextlib.nullcontext(path)
    else:
        source = open_recording(path, **options)
    with source as recording:
        change = _Change(recording, swap_axes, crop, bin)
        metadata, added = _calibration(change.metadata(recording.metadata), params or {})
        if metadata.scan_size is not None:
            with_scan(recording.data, recording.n_patterns, metadata.scan_size, recording.name)
        with _written(target) as temporary, h5py.File(temporary, "w") as file:
            # Reconstructions read patterns in random order: whole patterns per chunk, few of them.
            per_chunk = patterns_per_chunk or max(1, _CHUNK_BYTES // change.pattern_bytes)
            data = file.create_dataset(
                "data",
                (recording.n_patterns, *change.shape),
                change.dtype,
                chunks=(min(per_chunk, recording.n_patterns), *change.shape),
                compression=compression,
                shuffle=compression is not None,
            )
            _write_attributes(file, data, metadata, added)
            if recording.bad_pixels is not None and "detector_mask" not in added:
                _write_mask(file, change.mask(recording.bad_pixels), recording.name)
            file.attrs["source"] = recording.name if isinstance(path, Recording) else Path(path).name
            _copy(recording, change, data)
    return target


def params_of(path: str | Path) -> dict[str, Any]:
    """The parameters of a file that :func:`import_file` wrote: data_path, data_key, the calibration, and detector_mask
    if the detector wrote one.

    Raises
    ------
    DataError
        The file is missing or damaged, or was not written by :func:`import_file`.
    """
    chosen = Path(path).expanduser()
    with open_hdf5(chosen) as file:
        try:
            ours = {name: file.get(name, getlink=True) for name in ("pypty", "data")}
            group = (
                file.get("pypty") if all(isinstance(link, h5py.HardLink) for link in ours.values()) else None
            )
            if not isinstance(group, h5py.Group) or not isinstance(file.get("data"), h5py.Dataset):
                raise DataError(
                    f"{str(chosen)!r} was not written by  pypty import  (it has no group 'pypty'); import it first"
                )
            params = {"data_path": str(chosen), "data_key": "data"} | {
                key: plain(value) for key, value in group.attrs.items()
            }
            if OUR_MASK in group and isinstance(group.get(OUR_MASK, getlink=True), h5py.HardLink):
                check_stored(group[OUR_MASK])
                params["detector_mask"] = group[OUR_MASK][()].astype(float)
            return params
        except DataError:
            raise
        except Exception as error:  # h5py raises many kinds on damaged trees
            raise DataError(f"{str(chosen)!r} cannot be read: {error}. It is damaged or truncated") from error


class _Change:
    """Transpose, crop and bin patterns."""

    def __init__(
        self, recording: Recording, swap: bool, crop: tuple[int, int, int, int] | None, bin_: int
    ) -> None:
        ky, kx = recording.pattern_shape[::-1] if swap else recording.pattern_shape
        self._swap, self._bin = swap, bin_
        window = (0, ky, 0, kx) if crop is None else tuple(int(n) for n in crop)
        if len(window) != 4 or not (0 <= window[0] < window[1] <= ky and 0 <= window[2] < window[3] <= kx):
            raise ParameterError(
                f"crop is {crop!r}, expected (first ky, end ky, first kx, end kx) inside a pattern of {ky} x {kx} px"
            )
        self._window = (slice(window[0], window[1]), slice(window[2], window[3]))
        self._first = (window[0], window[2])
        self._work = Preprocess(bin=bin_)
        self.shape = self._work.pattern_shape((window[1] - window[0], window[3] - window[2]))
        if 0 in self.shape:
            raise ParameterError(f"bin = {bin_} leaves no pixel of patterns of {window[1] - window[0]} x "
                                 f"{window[3] - window[2]}; choose a smaller one")  # fmt: skip
        self.dtype = self._work.stored_dtype(recording.dtype)
        self.pattern_bytes = math.prod(self.shape) * self.dtype.itemsize

    def patterns(self, data: np.ndarray) -> np.ndarray:
        if self._swap:
            data = data.swapaxes(-2, -1)
        return self._work.patterns(data[:, self._window[0], self._window[1]])

    def mask(self, bad: np.ndarray) -> np.ndarray:
        """Weights (ky, kx) of the changed patterns, 0 for pixels that contain a bad one."""
        good = (~bad).astype(np.uint8)
        return self._work.weights((good.T if self._swap else good)[self._window])

    def metadata(self, metadata: Metadata) -> Metadata:
        """Metadata with the pixel size and centre of the changed patterns."""
        centre = metadata.beam_centre_px
        if centre is not None:
            swapped = centre[::-1] if self._swap else centre
            # The centre of pixel p lies at (p + 0.5)/bin - 0.5 in larger pixels.
            binned = [(c - f + 0.5) / self._bin - 0.5 for c, f in zip(swapped, self._first, strict=True)]
            centre = (binned[0], binned[1])
        pixels = {
            name: None if (value := getattr(metadata, name)) is None else value * self._bin
            for name in ("rez_pixel_size_A", "rez_pixel_size_mrad")
        }
        return dataclasses.replace(metadata, beam_centre_px=centre, **pixels)


def _calibration(metadata: Metadata, params: Mapping[str, Any]) -> tuple[Metadata, dict[str, Any]]:
    """Metadata with the values of ``params``, and the remaining parameters."""
    wrong = [key for key in _OURS if key in params]
    if wrong:
        raise ParameterError(f"{', '.join(wrong)}: set by the import itself; leave it out")
    report = Report()
    # The same checks as in a run, so that mistakes are reported before a long import.
    read_parameters(dict(params), report)
    report.raise_if_any()
    fields = {key: name for name, key in PARAMETERS.items()}
    changes = {fields[key]: value for key, value in params.items() if key in fields}
    if changes.get("defocus_A") is not None:
        changes["defocus_A"] = -changes["defocus_A"]  # the parameter has the sign of C10
    pixel = {"rez_pixel_size_A", "rez_pixel_size_mrad"}
    if pixel & set(changes):  # one quantity: the file's value in the other unit no longer holds
        metadata = dataclasses.replace(metadata, rez_pixel_size_A=None, rez_pixel_size_mrad=None)
    try:
        metadata = dataclasses.replace(metadata, **changes)
    except DataError as error:
        raise ParameterError(str(error).replace("the metadata say", "given was")) from error
    return metadata, {key: value for key, value in params.items() if key not in fields and value is not None}


def _write_attributes(file: Any, data: Any, metadata: Metadata, added: Mapping[str, Any]) -> None:
    data.attrs["axes"], data.attrs["units"] = "n,ky,kx", "counts"
    for field, key in PARAMETERS.items():
        value = getattr(metadata, field)
        if value is not None:
            file.attrs["PLRotation_deg" if key == "PLRotation_deg" else field] = value
    if metadata.beam_centre_px is not None:
        file.attrs["beam_centre_px"] = metadata.beam_centre_px
    group = file.create_group("pypty")
    for key, value in {**added, **metadata.params()}.items():
        try:
            group.attrs[key] = value
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise ParameterError(
                f"{key} cannot be stored in the file: {error}; give it later, in the parameters of the run"
            ) from error


def _write_mask(file: Any, mask: np.ndarray, name: str) -> None:
    """The detector's own mask, unless it masks nothing, or everything."""
    if mask.all():
        return
    if not mask.any():
        _LOG.warning("%s: the detector's own mask marks every pixel as bad; it is not used", name)
        return
    file["pypty"].create_dataset(OUR_MASK, data=mask)
    _LOG.info("%s: the detector's own mask is kept; it marks %d pixels as bad", name, int((mask == 0).sum()))


def _copy(recording: Recording, change: _Change, data: Any) -> None:
    not_finite, something = 0, False
    for indices, patterns in recording.chunks():
        changed = change.patterns(patterns)
        data[int(indices[0]) : int(indices[-1]) + 1] = changed
        if changed.dtype.kind == "f":
            finite = np.isfinite(changed)
            not_finite += int(finite.size - np.count_nonzero(finite))
            something = something or bool((finite & (changed != 0)).any())
        else:
            something = something or bool(changed.any())
    if not something:
        raise DataError(
            f"{recording.name}: all values are zero or not finite; it is not a measurement, or the wrong array"
        )
    if not_finite:
        _LOG.warning(
            "%s: %d values are NaN or infinite; reconstruct with detector_mask: nan, or mask those pixels",
            recording.name,
            not_finite,
        )


def _target(output: str | Path, path: str | Path | Recording, overwrite: bool) -> Path:
    target = Path(output).expanduser()
    if target.suffix.lower() not in (".h5", ".hdf5"):
        raise ParameterError(
            f"the output {str(target)!r} has the ending {target.suffix!r}, expected .h5 or .hdf5"
        )
    if target.is_dir() or not target.parent.is_dir():
        raise OutputError(f"{str(target)!r} cannot be written: it is a folder, or its folder does not exist")
    if target.exists() and not overwrite:
        raise OutputError(f"{str(target)!r} exists; choose another name, or overwrite=True (--overwrite)")
    if not isinstance(path, Recording) and target.exists() and target.samefile(Path(path).expanduser()):
        raise OutputError(f"{str(target)!r} is the file that is imported; choose another name")
    return target


def _check_choices(bin_: int, patterns_per_chunk: int | None, compression: str | None) -> None:
    for name, value in (("bin", bin_), ("patterns_per_chunk", patterns_per_chunk)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1
        ):
            raise ParameterError(f"{name} is {value!r}, expected a whole number, at least 1")
    if compression not in (None, "lzf", "gzip"):
        raise ParameterError(f"compression is {compression!r}, expected None, 'lzf' or 'gzip'")


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """Provide a temporary path that replaces ``path`` if the block ends without error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5 may notice only at the end that the disk is full
        raise OutputError(
            f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
