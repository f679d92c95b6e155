"""Write a data file for reconstructions from any 4D-STEM data, a few patterns at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.sources import ArraySource, Hdf5Source, PatternSource
from pypty.errors import DataError, ParameterError
from pypty.output.files import atomic, make_folder
from pypty.readers import Recording, open_recording

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 64 * 2**20


def create_pypty_data(
    data: Any,
    path_output: str | Path,
    swap_axes: bool = False,
    flip_ky: bool = False,
    flip_kx: bool = False,
    flip_y: bool = False,
    flip_x: bool = False,
    comcalc_len: int = 1000,
    comx: float | None = None,
    comy: float | None = None,
    bin: int = 1,
    crop_left: int | None = None,
    crop_right: int | None = None,
    crop_top: int | None = None,
    crop_bottom: int | None = None,
    normalize: bool = False,
    cutoff_ratio: float | None = None,
    pad_k: int = 0,
    data_dtype: Any = np.float32,
    rescale: float = 1,
    exist_ok: bool = True,
    data_key: str | None = None,
    scan_size: tuple[int, int] | None = None,
) -> Path:
    """Write prepared patterns into data set "data" (N, ky, kx) of an HDF5 file.

    The steps, in this order: flip; swap the two detector axes; set negative counts to 0; shift patterns by whole pixels
    so that their centre of mass is at the zero frequency, index n//2 (pixels that wrap around are set to 0); set pixels
    beyond ``cutoff_ratio`` to 0; divide by the mean number of counts (``normalize``) and by ``rescale``; crop; sum over
    bin x bin pixels (incomplete blocks at the far edges are left out); pad with zeros; cast. At most about 64 MiB of
    patterns are held in memory. The file gets its name only when it is complete.

    Parameters
    ----------
    data : array (N, ky, kx) or (slow, fast, ky, kx), h5py.Dataset, or path of a .npy, .h5 or any other file that
        ``pypty.readers`` knows
    path_output : .h5 file
    swap_axes : transpose every pattern
    flip_ky, flip_kx : reverse an axis of the patterns
    flip_y, flip_x : reverse the slow or the fast axis of the scan
    comcalc_len : number of evenly spread patterns from which the centre of mass is computed
    comx, comy : px from the zero frequency; None = measured; both 0: no shift
    bin, pad_k : px
    crop_left, crop_right, crop_top, crop_bottom : px cut off on each side, None = 0; opposite sides should be equal,
        otherwise the zero frequency is no longer at n//2
    normalize : divide by the mean over all patterns of their sum
    cutoff_ratio : pixels at this fraction of half the (smaller) pattern or farther from the zero frequency become 0
    data_dtype : type in the file
    rescale : divisor of the counts
    exist_ok : True keeps an existing file if it has the shape that would be written; False replaces it
    data_key : the array to read if a file contains several (``key`` of :func:`pypty.readers.open_recording`)
    scan_size : (slow, fast), for flip_y and flip_x of data with three axes

    Returns
    -------
    path of the file

    Raises
    ------
    DataError
        The input cannot be read, the existing file does not fit, or a value does not fit ``data_dtype``.
    ParameterError
        An argument is out of range.
    OutputError
        The file cannot be written.
    """
    path = Path(path_output).expanduser()
    crop = tuple(0 if side is None else int(side) for side in (crop_top, crop_bottom, crop_left, crop_right))
    _refuse_same_file(data, path)
    source, raster = _opened(data, data_key, scan_size)
    try:
        steps = _Steps(
            order=_scan_order(source, raster, flip_y, flip_x),
            flips=(flip_ky, flip_kx),
            swap=swap_axes,
            cutoff=cutoff_ratio,
            crop=(crop[0], crop[1], crop[2], crop[3]),
            bin=int(bin),
            pad=int(pad_k),
            dtype=np.dtype(data_dtype),
        )
        steps.check(source.shape[1:], rescale)
        shape = (source.shape[0], *steps.shape(source.shape[1:]))
        if path.exists() and exist_ok:
            _keep(path, shape)
            return path
        known = comx is not None and comy is not None
        centre = (0.0, 0.0) if known else steps.centre(source, int(comcalc_len))
        shift = [
            -round(measured if com is None else com)
            for measured, com in zip(centre, (comy, comx), strict=True)
        ]
        divisor = float(rescale) * (steps.mean_sum(source, (shift[0], shift[1])) if normalize else 1.0)
        make_folder(path.parent)
        with atomic(path) as temporary, h5py.File(temporary, "w") as file:
            out = file.create_dataset("data", shape, steps.dtype, chunks=(1, *shape[1:]))
            out.attrs["flip_ky"] = bool(flip_ky)
            if raster is not None:
                out.attrs["scan_size"] = raster
            for indices, patterns in steps.raw(source):
                out[indices[0] : indices[-1] + 1] = steps.finished(
                    patterns, (shift[0], shift[1]), divisor, source.name
                )
    finally:
        source.close()
    _log.info("%s: %d patterns of %d x %d pixels, moved by %s px", path, *shape, shift)
    return path


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """The steps of the preparation; ``order`` (N,) are the indices of the patterns in the input."""

    order: np.ndarray
    flips: tuple[bool, bool]
    swap: bool
    cutoff: float | None
    crop: tuple[int, int, int, int]
    bin: int
    pad: int
    dtype: np.dtype

    def check(self, pattern: tuple[int, ...], rescale: float) -> None:
        problems = [
            text
            for wrong, text in (
                (self.bin < 1, f"bin is {self.bin}, expected a whole number from 1"),
                (self.pad < 0, f"pad_k is {self.pad}, expected a whole number from 0"),
                (
                    min(self.crop) < 0,
                    f"crops (top, bottom, left, right) are {self.crop}, expected numbers from 0",
                ),
                (self.dtype.kind not in "iuf", f"data_dtype is {self.dtype}, expected integers or floats"),
                (
                    not (rescale > 0 and math.isfinite(rescale)),
                    f"rescale is {rescale!r}, expected a positive number",
                ),
                (
                    self.cutoff is not None and not self.cutoff > 0,
                    f"cutoff_ratio is {self.cutoff!r}, expected a positive number",
                ),
            )
            if wrong
        ]
        if not problems and min(self.shape(pattern)) - 2 * self.pad < 1:
            problems.append(
                f"crops {self.crop} and bin {self.bin} leave nothing of patterns {tuple(pattern)}"
            )
        if problems:
            raise ParameterError("; ".join(problems))
        if self.crop[0] != self.crop[1] or self.crop[2] != self.crop[3]:
            _log.warning(
                "crops (top, bottom, left, right) %s differ: the zero frequency leaves pixel n//2", self.crop
            )

    def shape(self, pattern: tuple[int, ...]) -> tuple[int, int]:
        ky, kx = pattern[::-1] if self.swap else pattern
        ky, kx = ky - self.crop[0] - self.crop[1], kx - self.crop[2] - self.crop[3]
        return (ky // self.bin + 2 * self.pad, kx // self.bin + 2 * self.pad)

    def raw(
        self, source: PatternSource, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices in the output, float64 patterns) flipped, swapped and not negative."""
        wanted = np.arange(len(self.order)) if wanted is None else wanted
        per_pattern = 8 * source.shape[1] * source.shape[2]
        step = max(1, _CHUNK_BYTES // (4 * per_pattern))
        for start in range(0, len(wanted), step):
            chosen = wanted[start : start + step]
            places = self.order[chosen]
            back = np.argsort(np.argsort(places))  # ranks: HDF5 needs sorted indices, the output their order
            data = np.asarray(source.read(np.sort(places)), np.float64)[back]
            data = data[:, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]
            if self.swap:
                data = data.transpose(0, 2, 1)
            yield chosen, np.maximum(data, 0)

    def centre(self, source: PatternSource, n: int) -> tuple[float, float]:
        """Mean centre of mass [y, x] relative to n//2 of up to n patterns; patterns without counts are ignored."""
        sample = np.unique(np.linspace(0, len(self.order) - 1, max(1, n)).round().astype(int))
        centres_of_mass = []
        for _, data in self.raw(source, sample):
            counts = np.nansum(data, axis=(1, 2))
            data = data[counts > 0]
            y, x = (np.arange(size) - size // 2 for size in data.shape[1:])
            moments = np.stack([np.nansum(data, axis=2) @ y, np.nansum(data, axis=1) @ x], axis=1)
            centres_of_mass.append(moments / counts[counts > 0, None])
        centres = np.concatenate(centres_of_mass)
        if not len(centres):
            raise DataError(f"{source.name}: no counts in any of {len(sample)} patterns")
        return (float(centres[:, 0].mean()), float(centres[:, 1].mean()))

    def moved(self, data: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
        data = Preprocess(shift=shift).patterns(data)
        if self.cutoff is None:
            return data
        y, x = (np.arange(n) - n // 2 for n in data.shape[1:])
        beyond = np.hypot(y[:, None], x[None, :]) >= self.cutoff * (min(data.shape[1:]) / 2)
        return np.where(beyond, 0, data)

    def mean_sum(self, source: PatternSource, shift: tuple[int, int]) -> float:
        total = sum(float(np.nansum(self.moved(data, shift))) for _, data in self.raw(source))
        if total <= 0:
            raise DataError(f"{source.name}: all counts are 0; they cannot be normalised")
        return total / len(self.order)

    def finished(self, data: np.ndarray, shift: tuple[int, int], divisor: float, name: str) -> np.ndarray:
        data = self.moved(data, shift) / divisor
        top, bottom, left, right = self.crop
        data = data[:, top : data.shape[1] - bottom, left : data.shape[2] - right]
        data = Preprocess(bin=self.bin, pad=self.pad).patterns(data)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            if not (np.isfinite(data).all() and data.max(initial=0) <= limits.max):
                raise DataError(
                    f"{name}: values that are NaN or above {limits.max} do not fit data_dtype {self.dtype}; choose a "
                    "larger type"
                )
            data = np.round(data)
        return data.astype(self.dtype)


def _scan_order(
    source: PatternSource, size: tuple[int, int] | None, flip_y: bool, flip_x: bool
) -> np.ndarray:
    """(N,) index in the input of each pattern of the output."""
    n = source.shape[0]
    if not (flip_y or flip_x):
        return np.arange(n)
    if size is None or size[0] * size[1] != n:
        raise ParameterError(
            f"flip_y and flip_x need the raster of the {n} patterns, but scan_size is {size}; give (slow, fast)"
        )
    order = np.arange(n).reshape(size)
    return order[:: -1 if flip_y else 1, :: -1 if flip_x else 1].ravel()


@dataclass
class _Flat:
    """A recording as patterns (N, ky, kx)."""

    recording: Recording

    @property
    def name(self) -> str:
        return self.recording.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.recording.n_patterns, *self.recording.pattern_shape)

    @property
    def scan(self) -> tuple[int, int] | None:
        return self.recording.scan_size

    @property
    def dtype(self) -> np.dtype:
        return self.recording.dtype

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.recording.read(indices)

    def close(self) -> None:
        self.recording.close()


def _refuse_same_file(data: Any, path: Path) -> None:
    """Raise ParameterError if the output would replace the input file."""
    name = data if isinstance(data, (str, Path)) else getattr(data, "filename", None)
    if name is None and isinstance(data, h5py.Dataset):
        name = data.file.filename
    if name is not None and Path(name).expanduser().resolve() == path.resolve():
        raise ParameterError(f"path_output is {str(path)!r}, which is the input file; give another path")


def _opened(
    data: Any, data_key: str | None, scan_size: tuple[int, int] | None
) -> tuple[PatternSource, tuple[int, int] | None]:
    """Patterns, and (slow, fast) if it is given, stored in the file, or known from four axes of the input."""
    if isinstance(data, (str, Path)):
        recording = open_recording(data, key=data_key, scan_size=scan_size)
        return _Flat(recording), recording.scan_size
    if isinstance(data, h5py.Dataset):
        return Hdf5Source(data), scan_size or _raster(data.shape)
    array = data if hasattr(data, "shape") else np.asarray(data)
    return ArraySource(array), scan_size or _raster(array.shape)


def _raster(shape: tuple[int, ...]) -> tuple[int, int] | None:
    return (int(shape[0]), int(shape[1])) if len(shape) == 4 else None


def _keep(path: Path, shape: tuple[int, ...]) -> None:
    """Raise DataError unless the existing file has data of the shape that would be written."""
    try:
        with h5py.File(path, "r") as file:
            existing = file["data"].shape if isinstance(file.get("data"), h5py.Dataset) else None
    except OSError as error:
        raise DataError(
            f"{str(path)!r} exists, but cannot be opened as HDF5 ({error}); delete it, or replace it with "
            "exist_ok=False"
        ) from error
    if existing != shape:
        raise DataError(
            f"{str(path)!r} exists, but its data set 'data' has shape {existing}, expected {shape}; "
            "delete it, or replace it with exist_ok=False"
        )
    _log.warning("%s exists with the expected shape %s and is kept; exist_ok=False replaces it", path, shape)
