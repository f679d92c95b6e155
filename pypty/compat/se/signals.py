"""Images and apertures from 4D data, and simple corrections of patterns."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.fft

from pypty.data.preprocess import Preprocess
from pypty.data.sources import ArraySource, Hdf5Source, PatternSource
from pypty.errors import DataError, ParameterError
from pypty.experiment import CHUNK_BYTES, Experiment
from pypty.output.files import atomic, make_folder, write_array
from pypty.params.files import load_npy

_DARK_FROM = 1.5  # radii of the disk


def getvirtualhaadf(pypty_params: Mapping[str, Any], save: bool = True) -> np.ndarray:
    """Virtual dark-field image: counts beyond 1.5 radii of the bright-field disk.

    (PyPty 2.2 returns minus the sum over the whole detector.)

    Parameters
    ----------
    save : also write ``virtual_haadf.npy`` into ``output_folder``

    Returns
    -------
    (slow, fast) float64 counts

    Raises
    ------
    ParameterError
        The detector has no pixels beyond 1.5 radii, or ``save`` is set without ``output_folder``.
    """
    experiment = Experiment.from_params(pypty_params)
    with closing(experiment.source):
        _need_patterns(experiment)
        inside = experiment.aperture
        rows, columns = np.nonzero(inside)
        if not len(rows):
            raise ParameterError(
                "no pixel is inside the aperture; correct conv_semiangle_mrad or aperture_mask"
            )
        ky, kx = experiment.frequencies_1A
        radius = np.sqrt(inside.sum() * experiment.pixel_1A[0] * experiment.pixel_1A[1] / np.pi)
        distance = np.hypot(ky - ky[rows, 0].mean(), kx - kx[0, columns].mean())
        dark = distance > _DARK_FROM * radius
        if not dark.any():
            raise ParameterError(
                f"the detector ends within {_DARK_FROM} radii of the disk and records no dark field; use "
                "get_virtual_annular_detector with another ring"
            )
        return _signal(experiment, dark, "virtual_haadf" if save else "")


def get_virtual_annular_detector(
    pypty_params: Mapping[str, Any],
    inner_rad: float = 0,
    outer_rad: float = 1,
    save: bool = False,
    offset_x: float = 0,
    offset_y: float = 0,
) -> np.ndarray:
    """Counts in a ring of the detector, at every scan point.

    Parameters
    ----------
    inner_rad, outer_rad : inner (inclusive) and outer (exclusive) radius, in half widths of a pattern (1 reaches the
        nearest edge)
    save : also write ``virtual_annular_detector.npy`` into ``output_folder``
    offset_x, offset_y : centre of the ring relative to pixel n//2, in half widths

    Returns
    -------
    (slow, fast) float64 counts

    Raises
    ------
    ParameterError
        The ring has no pixels, or ``save`` is set without ``output_folder``.
    """
    if not 0 <= inner_rad < outer_rad:
        raise ParameterError(
            f"inner_rad = {inner_rad}, outer_rad = {outer_rad}; expected 0 <= inner_rad < outer_rad"
        )
    experiment = Experiment.from_params(pypty_params)
    with closing(experiment.source):
        _need_patterns(experiment)
        ny, nx = experiment.pattern_shape
        half = min(ny, nx) / 2
        y = (np.arange(ny) - ny // 2)[:, None] / half - offset_y
        x = (np.arange(nx) - nx // 2)[None, :] / half - offset_x
        distance = np.hypot(y, x)
        ring = (distance >= inner_rad) & (distance < outer_rad)
        if not ring.any():
            raise ParameterError(f"no pixel lies between radius {inner_rad} and {outer_rad}; widen the ring")
        return _signal(experiment, ring, "virtual_annular_detector" if save else "")


def _need_patterns(experiment: Experiment) -> None:
    if experiment.settings["masks"] is not None:
        raise ParameterError("masks are given: the data are sums over virtual detectors already")


def _signal(experiment: Experiment, weights: np.ndarray, name: str) -> np.ndarray:
    """(slow, fast): patterns summed with ``weights``, written to ``name``.npy if that is not empty."""
    folder = experiment.settings["output_folder"]
    if name and not folder:
        raise ParameterError("save is set, but output_folder is not; give a folder, or save=False")
    out = np.zeros(experiment.n_patterns)
    factor = weights.astype(np.float32)
    for indices, patterns in experiment.chunks():
        out[indices] = np.einsum("nyx,yx->n", patterns, factor, dtype=np.float64)
    image = out.reshape(experiment.scan_size)
    if name:
        write_array(make_folder(Path(folder)) / f"{name}.npy", image)
    return image


def get_aperture(params: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the parameters with ``aperture_mask``: 1 where the mean pattern is above ``bright_threshold`` (0.1)
    times its maximum, else 0, float64, in the padded window.

    Raises
    ------
    ParameterError
        ``bright_threshold`` is not between 0 and 1.
    """
    experiment = Experiment.from_params(params)
    with closing(experiment.source):
        _need_patterns(experiment)
        bright_threshold = experiment.settings["bright_threshold"]
        threshold = 0.1 if bright_threshold is None else float(bright_threshold)
        if not 0 < threshold < 1:
            raise ParameterError(
                f"bright_threshold is {bright_threshold!r}, expected a fraction between 0 and 1"
            )
        mean = experiment.mean_pattern
        disk = mean > threshold * mean.max()
    return {**params, "aperture_mask": experiment.window.mask_on_model(disk).astype(float)}


def create_binned_dataset(path_orig: str | Path, path_new: str | Path, bin: int) -> None:
    """Sum the patterns of a file in blocks of bin x bin pixels and write them to a new file, piece by piece.

    Parameters
    ----------
    path_orig : ``.h5`` (data set ``data``) or ``.npy`` with (N, ky, kx) or (slow, fast, ky, kx) patterns
    path_new : ``.h5`` or ``.npy``; must be another file. Rows and columns that do not fill a block are left out

    Raises
    ------
    ParameterError, DataError
        ``bin`` does not fit the patterns; the ending of a file is unknown; the data cannot be read.
    """
    source_path, target_path = Path(path_orig), Path(path_new)
    if source_path.resolve() == target_path.resolve():
        raise ParameterError(f"path_new is {str(target_path)!r}, which is the input file; give another path")
    if target_path.suffix.lower() not in (".h5", ".hdf5", ".npy"):
        raise ParameterError(f"path_new is {str(target_path)!r}; expected the ending .h5 or .npy")
    source, layout = _open_patterns(source_path)
    with closing(source):
        smallest = min(source.shape[1:])
        if not (isinstance(bin, int) and 1 <= bin <= smallest):
            raise ParameterError(f"bin is {bin!r}, expected a whole number from 1 to {smallest}")
        prepare = Preprocess(bin=bin)
        dtype = prepare.stored_dtype(source.dtype)
        shape = (*layout, *prepare.pattern_shape(source.shape[1:]))
        make_folder(target_path.parent)
        with atomic(target_path) as temporary:
            if target_path.suffix.lower() == ".npy":
                target = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
                _bin_into(target, source, prepare)
                target.flush()
            else:
                with h5py.File(temporary, "w") as file:
                    chunk = (*(1,) * len(layout), *shape[-2:])
                    _bin_into(file.create_dataset("data", shape, dtype, chunks=chunk), source, prepare)


def _open_patterns(path: Path) -> tuple[PatternSource, tuple[int, ...]]:
    """The patterns of a file, and the shape of their scan axes."""
    if not path.is_file():
        raise DataError(f"the file {str(path)!r} does not exist")
    if path.suffix.lower() in (".h5", ".hdf5", ".nxs"):
        source = Hdf5Source.open(path, "data")
        with h5py.File(path, "r") as file:
            return source, tuple(file["data"].shape[:-2])
    try:
        array = load_npy(Path(path), mapped=True)
    except DataError as error:
        raise DataError(f"{str(path)!r} cannot be read as .h5 or .npy: {error}") from error
    return ArraySource(array, str(path)), tuple(array.shape[:-2])


def _bin_into(target: Any, source: PatternSource, prepare: Preprocess) -> None:
    n = source.shape[0]
    columns = target.shape[1] if len(target.shape) == 4 else 0
    step = max(1, CHUNK_BYTES // (source.shape[1] * source.shape[2] * max(4, source.dtype.itemsize)))
    for start, stop in _runs(n, step, columns):
        binned = prepare.patterns(source.read(np.arange(start, stop)))
        if columns:
            row, column = divmod(start, columns)
            target[row, column : column + stop - start] = binned
        else:
            target[start:stop] = binned


def _runs(n: int, step: int, columns: int) -> list[tuple[int, int]]:
    """(start, stop) of runs of at most ``step`` patterns that do not cross the end of a scan row."""
    edges = set(range(0, n, step)) | ({*range(0, n, columns)} if columns else set()) | {n}
    ordered = sorted(edges)
    return list(zip(ordered[:-1], ordered[1:], strict=True))


def compensate_pattern_drift(aperture: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """Shift patterns by whole pixels so that their disk coincides with ``aperture``; pixels that move in are 0.

    The shift is the maximum of the cross-correlation, in whose spectrum the amplitude is replaced by its square root:
    this sharpens the peak of a flat disk, and weights noise less than a phase correlation.

    Parameters
    ----------
    aperture : (ky, kx) mask or mean pattern
    patterns : (..., ky, kx) real; not modified

    Returns
    -------
    (..., ky, kx) in the dtype of ``patterns``
    """
    aperture, patterns = np.asarray(aperture, float), np.asarray(patterns)
    if aperture.ndim != 2 or patterns.ndim < 3 or patterns.shape[-2:] != aperture.shape:
        raise ParameterError(
            f"aperture {aperture.shape} and patterns {patterns.shape}: expected (ky, kx), (..., ky, kx)"
        )
    if not aperture.any():
        raise ParameterError("the aperture is 0 everywhere; give the mask of the bright-field disk")
    shape = aperture.shape
    reference = np.conj(scipy.fft.rfft2(aperture))
    flat = patterns.reshape(-1, *shape)
    out = np.zeros_like(flat)
    for index, pattern in enumerate(flat):
        cross = scipy.fft.rfft2(pattern.astype(float)) * reference
        # |cross| -> sqrt|cross|; the lower limit avoids a division by zero.
        sharp = cross / np.sqrt(np.maximum(np.abs(cross), 1e-12 * np.abs(cross).max() + 1e-300))
        peak = np.unravel_index(np.argmax(scipy.fft.irfft2(sharp, s=shape)), shape)
        _move(pattern, out[index], [int((p + n // 2) % n - n // 2) for p, n in zip(peak, shape, strict=True)])
    return out.reshape(patterns.shape)


def _move(pattern: np.ndarray, out: np.ndarray, shift: list[int]) -> None:
    """Set out[k] = pattern[k + shift] where k + shift is inside."""
    source, target = [], []
    for s, n in zip(shift, pattern.shape, strict=True):
        source.append(slice(max(s, 0), n + min(s, 0)))
        target.append(slice(max(-s, 0), n + min(-s, 0)))
    out[tuple(target)] = pattern[tuple(source)]


def remove_hot_pixels(data: np.ndarray, percentile: float = 99.99) -> np.ndarray:
    """A copy in which values above a percentile of all values are replaced by the median of their neighbours.

    Neighbours are the (up to) eight adjacent pixels of the same pattern that are not above the percentile; if there are
    none, all other pixels of the pattern.

    Parameters
    ----------
    data : (..., ky, kx) real
    percentile : 0 to 100; 99.99 replaces one value in ten thousand, so it must spare truly bright pixels

    Returns
    -------
    (..., ky, kx) in the dtype of ``data``
    """
    data = np.asarray(data)
    if data.ndim < 2 or data.dtype.kind not in "uif":
        raise ParameterError(
            f"data of shape {data.shape} and type {data.dtype}, expected real patterns (..., ky, kx)"
        )
    if not 0 < percentile < 100:
        raise ParameterError(f"percentile is {percentile!r}, expected a number between 0 and 100")
    out = data.copy()
    planes = out.reshape(-1, *data.shape[-2:])
    limit = np.percentile(data, percentile)
    hot = planes > limit
    ny, nx = data.shape[-2:]
    for plane, row, column in np.argwhere(hot):
        near = (slice(max(row - 1, 0), min(row + 2, ny)), slice(max(column - 1, 0), min(column + 2, nx)))
        good = ~hot[plane][near]
        values = data.reshape(planes.shape)[plane][near][good]
        if not values.size:
            values = data.reshape(planes.shape)[plane][~hot[plane]]
        planes[plane, row, column] = np.median(values) if values.size else limit
    return out
