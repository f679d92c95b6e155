"""The mask that a detector wrote beside its patterns into an HDF5 file (NeXus, Dectris)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pypty.data.hdf5 import check_stored, open_hdf5
from pypty.errors import DataError
from pypty.params.settings import Settings

OUR_MASK = "detector_mask"
"""Data set with the weights of the detector pixels, in the group ``pypty`` of files of ``pypty import``."""
_NAME = "pixel_mask"
_ENDINGS = (".h5", ".hdf5", ".hdf", ".nxs")


def own_mask(settings: Settings, shape: tuple[int, int]) -> np.ndarray | None:
    """(ky, kx) bool, True where the detector's own mask says that a pixel does not count; None if there is none.

    It is looked for in the HDF5 file that the parameters name. Reconstructions use ``detector_mask`` only.

    Parameters
    ----------
    shape : (ky, kx) of the patterns as stored

    Raises
    ------
    DataError
        There is a mask, but it cannot be read.
    """
    dataset = settings["dataset"]
    if isinstance(dataset, h5py.Dataset):
        return mask_in_file(dataset.file, shape)
    path = Path(settings["data_path"] or "").expanduser()
    if dataset is not None or path.suffix.lower() not in _ENDINGS or not path.is_file():
        return None
    with open_hdf5(path) as file:
        return mask_in_file(file, shape)


def mask_in_file(file: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """(ky, kx) bool, True for bad pixels, of the first ``pixel_mask`` of this shape; None if there is none.

    In NeXus (NXdetector) and Dectris files each bit of the mask names a fault: gap, dead, hot, noisy, virtual; 0 is a
    pixel that counts. Masks behind links to other files are not looked for.

    Raises
    ------
    DataError
        There is a mask, but it cannot be read.
    """
    masks: list[Any] = []
    ours: list[Any] = []

    def visit(name: str, item: Any) -> None:
        # a mask that was never written masks nothing
        if isinstance(item, h5py.Dataset) and item.shape == tuple(shape) and _is_written(item):
            if name == f"pypty/{OUR_MASK}":
                ours.append(item)
            elif name.rsplit("/", 1)[-1] == _NAME and item.dtype.kind in "biu":
                masks.append(item)

    file.visititems(visit)  # follows no links
    if ours:
        return np.asarray(_values(ours[0]) <= 0)
    return np.asarray(_values(masks[0]) != 0) if masks else None


def _is_written(item: Any) -> bool:
    return bool(item.external or item.is_virtual or item.id.get_storage_size())


def _values(item: Any) -> np.ndarray:
    check_stored(item)
    try:
        return np.asarray(item[()])
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the detector's mask {item.name} of {item.file.filename!r} cannot be read: {error}. The file may be "
            "truncated, or a compression filter missing (pip install 'pypty[io]')"
        ) from error
