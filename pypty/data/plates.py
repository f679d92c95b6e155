"""Phase plates of individual patterns, read on demand from an HDF5 file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

from pypty.data.hdf5 import check_key, open_hdf5
from pypty.data.sources import read_runs
from pypty.errors import DataError

KEY = "configs"
_CHUNK_BYTES = 64 * 2**20


class PhasePlateSource:
    """Phase plates (N, ky, kx) complex, zero frequency first, in data set "configs" of an HDF5 file.

    Parameters
    ----------
    trusted : it may point outside of the folder of the file

    Raises
    ------
    DataError
        The file or the data set is missing, or has another shape.
    """

    def __init__(self, path: str | Path, trusted: bool = False) -> None:
        self.path = Path(path).expanduser()
        try:
            self._file = open_hdf5(self.path)
        except DataError as error:
            raise DataError(f"phase_plate_in_h5: {error}") from error
        try:
            check_key(self._file, KEY, trusted)
            self._data = self._file.get(KEY)
        except Exception as error:  # h5py raises many kinds on damaged trees
            self._file.close()
            raise DataError(f"phase_plate_in_h5: {error}") from error
        if (
            not isinstance(self._data, h5py.Dataset)
            or self._data.ndim != 3
            or self._data.dtype.kind not in "fc"
        ):
            content = "no such data set" if self._data is None else f"{self._data}"
            self._file.close()
            raise DataError(
                f"phase_plate_in_h5: {str(self.path)!r} must hold a data set {KEY!r} of shape (N, ky, kx), complex, "
                f"zero frequency first; found {content}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, ky, kx)."""
        return tuple(self._data.shape)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """(n, ky, kx) complex: the plates of the patterns with these sorted indices."""
        try:
            plates = read_runs(self._data, indices)
        except (OSError, RuntimeError) as error:
            raise DataError(f"phase_plate_in_h5: {str(self.path)!r} cannot be read: {error}") from error
        bad = np.flatnonzero(~np.isfinite(plates).all(axis=(1, 2)))
        if len(bad):
            raise DataError(
                f"phase_plate_in_h5: the plate of pattern {int(indices[bad[0]])} in {str(self.path)!r} holds NaN or "
                "infinite values; a plate is a finite complex factor"
            )
        return plates

    def survey(self) -> None:
        """Read every plate once, so that errors are reported before the start.

        Raises
        ------
        DataError
            A plate is not finite, or cannot be read.
        """
        n, ky, kx = self.shape
        step = max(1, _CHUNK_BYTES // (16 * ky * kx))  # 16 bytes per complex128
        for start in range(0, n, step):
            self.read(np.arange(start, min(start + step, n)))

    def fingerprint(self) -> str:
        """A short hash of shape, type and a few plates, by which a resumed run recognises its plates."""
        n = self.shape[0]
        digest = hashlib.sha256(f"{self.shape}{self._data.dtype}".encode())
        for index in sorted({0, n // 2, n - 1}):
            digest.update(np.ascontiguousarray(self.read(np.array([index]))).tobytes())
        return digest.hexdigest()[:16]

    def close(self) -> None:
        self._file.close()
