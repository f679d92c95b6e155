"""A recorded scan: lazily read patterns, and the metadata in its file."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.data.sources import ArraySource
from pypty.errors import DataError
from pypty.readers.units import known_unit

CHUNK_BYTES = 64 * 2**20
"""Largest size of the patterns in memory at once, in bytes."""

_LOG = logging.getLogger("pypty")

_POSITIVE = (
    "acc_voltage_kV",
    "conv_semiangle_mrad",
    "rez_pixel_size_mrad",
    "rez_pixel_size_A",
    "scan_step_A",
    "fov_nm",
)
PARAMETERS: Mapping[str, str] = MappingProxyType(
    {
        "acc_voltage_kV": "acc_voltage",
        "conv_semiangle_mrad": "conv_semiangle_mrad",
        "rez_pixel_size_mrad": "rez_pixel_size_mrad",
        "rez_pixel_size_A": "rez_pixel_size_A",
        "scan_step_A": "scan_step_A",
        "scan_size": "scan_size",
        "fov_nm": "fov_nm",
        "rotation_deg": "PLRotation_deg",
        "defocus_A": "defocus",
    }
)


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of a file; None for values that the file does not contain.

    Attributes
    ----------
    acc_voltage_kV : accelerating voltage, kV
    conv_semiangle_mrad : convergence semi-angle, mrad
    rez_pixel_size_mrad, rez_pixel_size_A : pixel of the detector, mrad or 1/Å
    scan_step_A : distance between scan points, Å
    scan_size : points (slow, fast)
    fov_nm : field of view of the longer side of the scan, nm
    rotation_deg : PLRotation_deg, see :func:`pypty.optics.scan_grid.rotation_yx`
    defocus_A : nominal defocus, Å; underfocus is positive, defocus = -C10
    beam_centre_px : (ky, kx) pixel at which the detector's axes are zero in the file; reported, never applied

    Raises
    ------
    DataError
        A value is not finite, negative, or of the wrong kind.
    """

    acc_voltage_kV: float | None = None
    conv_semiangle_mrad: float | None = None
    rez_pixel_size_mrad: float | None = None
    rez_pixel_size_A: float | None = None
    scan_step_A: float | None = None
    scan_size: tuple[int, int] | None = None
    fov_nm: float | None = None
    rotation_deg: float | None = None
    defocus_A: float | None = None
    beam_centre_px: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in (*_POSITIVE, "rotation_deg", "defocus_A"):
            value = getattr(self, name)
            if value is None:
                continue
            positive = name in _POSITIVE
            number = _number(value)
            if not math.isfinite(number) or (positive and number < 0):
                raise DataError(
                    f"the metadata say {name} = {value!r}, expected a finite {'positive ' if positive else ''}number; "
                    "correct the file, or read it with ignore_metadata (--ignore-metadata) and give the value yourself"
                )
            # Many formats write 0 for unknown values.
            object.__setattr__(self, name, None if positive and number == 0 else number)
        if self.scan_size is not None:
            object.__setattr__(self, "scan_size", checked_scan_size(self.scan_size, "the metadata"))

    def params(self) -> dict[str, Any]:
        """The known values with the names of parameters; ``defocus`` has the sign of C10."""
        params = {key: getattr(self, name) for name, key in PARAMETERS.items()}
        if self.defocus_A is not None:
            params["defocus"] = -self.defocus_A
        return {key: value for key, value in params.items() if value is not None}

    def filled_from(self, other: Metadata) -> Metadata:
        """These metadata, completed by those of ``other``.

        The detector pixel in mrad and in 1/Å are the same quantity: that of ``other`` is used only if both are unknown.
        """
        changes = {
            item.name: getattr(other, item.name)
            for item in dataclasses.fields(self)
            if getattr(self, item.name) is None
        }
        if self.rez_pixel_size_A is not None or self.rez_pixel_size_mrad is not None:
            changes.pop("rez_pixel_size_A", None)
            changes.pop("rez_pixel_size_mrad", None)
        return dataclasses.replace(self, **changes)


def axis_metadata(
    scan: list[tuple[float, object]], detector: list[tuple[float, object]], name: str
) -> Metadata:
    """Scan step and detector pixel from (scale, unit) of the scan axes and of the two detector axes (ky, kx).

    An axis without a known unit counts as not calibrated.
    """
    step = _common(scan, ("length",), name, "scan")
    pixel = _common(detector, ("angle", "reciprocal"), name, "detector")
    return Metadata(
        scan_step_A=None if step is None else step[1],
        rez_pixel_size_mrad=pixel[1] if pixel is not None and pixel[0] == "angle" else None,
        rez_pixel_size_A=pixel[1] if pixel is not None and pixel[0] == "reciprocal" else None,
    )


def _common(
    axes: list[tuple[float, object]], kinds: tuple[str, ...], name: str, what: str
) -> tuple[str, float] | None:
    """(kind, size) common to all axes; None if they are not calibrated, or differ by more than 1 %."""
    calibrated = []
    for scale, unit in axes:
        known = known_unit(unit)
        if known is None or known[0] not in kinds:
            return None
        calibrated.append((known[0], abs(_number(scale)) * known[1]))  # the sign is a direction of the axis
    if not calibrated:
        return None
    sizes = [size for _, size in calibrated]
    if max(sizes) - min(sizes) > 0.01 * max(sizes) or len({kind for kind, _ in calibrated}) > 1:
        _LOG.warning(
            "%s: the %s axes have different pixels (%s); square pixels are expected, so neither is used",
            name,
            what,
            ", ".join(f"{size:.6g} ({kind})" for kind, size in calibrated),
        )
        return None
    return calibrated[0][0], sum(sizes) / len(sizes)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def checked_scan_size(value: Any, source: str) -> tuple[int, int]:
    """(slow, fast) as whole positive numbers.

    Raises
    ------
    DataError
        The value has another form.
    """
    numbers = [_number(item) for item in np.ravel(np.asarray(value, dtype=object))]
    if len(numbers) != 2 or not all(math.isfinite(n) and n >= 1 and n == int(n) for n in numbers):
        raise DataError(
            f"{source}: scan_size is {value!r}, expected two whole numbers (slow, fast), each at least 1"
        )
    return (int(numbers[0]), int(numbers[1]))


@dataclass
class Recording:
    """Patterns of a file, read lazily.

    Attributes
    ----------
    data : array-like with ``shape``, ``dtype`` and slicing, (N, ky, kx) or (sy, sx, ky, kx); sy is the slow scan axis
    name : file (and data set), for messages
    metadata : of the file
    closing : called by :meth:`close`
    bad_pixels : (ky, kx) bool, True where the detector's own mask says that a pixel does not count; None without one

    Raises
    ------
    DataError
        The data are not real numbers with three or four axes, or are empty.
    """

    data: Any
    name: str
    metadata: Metadata = field(default_factory=Metadata)
    closing: tuple[Callable[[], None], ...] = ()
    bad_pixels: np.ndarray | None = None

    def __post_init__(self) -> None:
        ArraySource(self.data, self.name)  # checks shape and dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as it is read, (N, ky, kx) or (sy, sx, ky, kx)."""
        return tuple(int(n) for n in self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        """The stored dtype, in the byte order of this machine."""
        return np.dtype(self.data.dtype).newbyteorder("=")

    @property
    def n_patterns(self) -> int:
        return math.prod(self.shape[:-2])

    @property
    def pattern_shape(self) -> tuple[int, int]:
        """(ky, kx)."""
        return (self.shape[-2], self.shape[-1])

    @property
    def scan_size(self) -> tuple[int, int] | None:
        """Points (slow, fast) from the metadata, else the first two of four axes, else None."""
        if self.metadata.scan_size is not None:
            return self.metadata.scan_size
        return (self.shape[0], self.shape[1]) if len(self.shape) == 4 else None

    def read(self, indices: np.ndarray) -> np.ndarray:
        """(n, ky, kx): the patterns with these sorted indices, row-major over the scan.

        Raises
        ------
        DataError
            An index is out of range, or the file cannot be read.
        """
        wanted = np.asarray(indices)
        if len(wanted) and not (wanted[0] >= 0 and wanted[-1] < self.n_patterns):
            raise DataError(
                f"{self.name}: patterns {wanted[0]} to {wanted[-1]} were requested, but it has {self.n_patterns}"
            )
        # Runs of consecutive patterns, each read by one slice.
        edges = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        out = np.empty((len(wanted), *self.pattern_shape), self.dtype)
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            if stop > start:
                out[start:stop] = self._run(int(wanted[start]), int(wanted[stop - 1]) + 1)
        return out

    def chunks(self, largest_bytes: int = CHUNK_BYTES) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(indices, patterns) of the whole scan in order, in pieces of at most ``largest_bytes``.

        Pieces consist of whole scan rows, aligned with the chunks of the file if the limit allows it: a chunk that
        belongs to two pieces would be decompressed twice.
        """
        for start, stop in self._pieces(max(1, largest_bytes // self._pattern_bytes)):
            indices = np.arange(start, stop)
            yield indices, self.read(indices)

    @property
    def _pattern_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.pattern_shape)

    def _pieces(self, most: int) -> Iterator[tuple[int, int]]:
        row = self.shape[1] if len(self.shape) == 4 else 1
        if row > most:  # not even one row fits: parts of each row
            for first in range(0, self.n_patterns, row):
                for start in range(first, first + row, most):
                    yield start, min(start + most, first + row)
            return
        rows = most // row
        stored = stored_rows(self.data)
        step = row * (rows // stored * stored if stored <= rows else rows)
        for start in range(0, self.n_patterns, step):
            yield start, min(start + step, self.n_patterns)

    def _run(self, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(self._slice(start, stop))
        except Exception as error:  # third-party decoders raise anything on damaged bytes
            raise DataError(
                f"{self.name}: patterns {start} to {stop - 1} cannot be read ({type(error).__name__}: {error}). "
                "The file may be truncated or damaged, or a compression filter is missing (pip install 'pypty[io]')"
            ) from error

    def _slice(self, start: int, stop: int) -> Any:
        if len(self.shape) == 3:
            return self.data[start:stop]
        columns = self.shape[1]
        first, last = start // columns, (stop - 1) // columns
        if first == last:  # inside one scan row
            return self.data[first, start - first * columns : stop - first * columns]
        # Read whole scan rows, then cut: (rows, sx, ky, kx) -> (n, ky, kx)
        rows = np.asarray(self.data[first : last + 1])
        return rows.reshape(-1, *self.pattern_shape)[start - first * columns : stop - first * columns]

    def close(self) -> None:
        """Release the file."""
        for function in self.closing:
            function()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def stored_rows(data: Any, axis: int = 0) -> int:
    """Chunk size along an axis; 1 if it is unknown."""
    chunks = getattr(data, "chunks", None)
    if not chunks:
        return 1
    size = chunks[axis]
    return max(1, int(size[0] if isinstance(size, tuple) else size))  # dask gives a tuple for each axis
