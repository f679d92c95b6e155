"""Phase plates of every pattern, read from an HDF5 file when they are needed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from pypty.data.sources import read_runs
from pypty.errors import DataError

KEY = "configs"


class PhasePlateSource:
    """Phase plates (N, ky, kx) complex, zero frequency first, in data set "configs" of an HDF5 file.

    Raises
    ------
    DataError
        The file or the data set is missing, or has another shape.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(
                f"phase_plate_in_h5: there is no file {str(self.path)!r} (looked from {str(Path.cwd())!r})"
            )
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise DataError(
                f"phase_plate_in_h5: {str(self.path)!r} cannot be opened as HDF5: {error}"
            ) from error
        self._data = self._file.get(KEY)
        if (
            not isinstance(self._data, h5py.Dataset)
            or self._data.ndim != 3
            or self._data.dtype.kind not in "fc"
        ):
            found = "no such data set" if self._data is None else f"{self._data}"
            self._file.close()
            raise DataError(
                f"phase_plate_in_h5: {str(self.path)!r} must hold a data set {KEY!r} of shape (N, ky, kx), complex, "
                f"zero frequency first; found {found}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, ky, kx)."""
        return tuple(self._data.shape)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """(n, ky, kx) complex, the plates of these sorted patterns."""
        try:
            return read_runs(self._data, indices)
        except (OSError, RuntimeError) as error:
            raise DataError(f"phase_plate_in_h5: {str(self.path)!r} cannot be read: {error}") from error

    def close(self) -> None:
        self._file.close()
