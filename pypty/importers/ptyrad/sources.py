"""Results from which a PtyRAD file starts: models of PtyRAD, and of the programs that it can read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import DataError, ParameterError
from pypty.importers.hdf5 import array_of, opened, plain
from pypty.importers.load import load_result
from pypty.importers.ptyrad.data import find_path

LOADED = ("PtyRAD", "PtyShv", "py4DSTEM")


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Arrays in PtyRAD's layout.

    Attributes
    ----------
    amplitude, phase : (mode, slice, y, x)
    probe : (mode, y, x) complex, centred at n//2
    positions : (N, 2) crop origins, px
    tilts_mrad : (1, 2) or (N, 2)
    thickness_A : thickness of a slice; None if it is not in the file
    version : version of PtyRAD; "" for other programs
    """

    amplitude: np.ndarray
    phase: np.ndarray
    probe: np.ndarray
    positions: np.ndarray
    tilts_mrad: np.ndarray
    thickness_A: float | None
    version: str = ""


def load_source(source: str, file_name: Any, folder: Path, what: str) -> Loaded:
    """The result in a file; ``what`` is the key that names it (obj_params, ...), for messages.

    Raises
    ------
    DataError, ParameterError
        The file is missing, damaged, a pickle, or of another program.
    """
    path = find_path(file_name, folder, what)
    if path.suffix.lower() == ".pt":
        raise ParameterError(
            f"{what}: {str(path)!r} is a pickle of PyTorch, which is not read because it can run code when opened; "
            "open it in PtyRAD and save it as .hdf5"
        )
    if source == "PtyRAD":
        return _model(path)
    result = load_result(path)
    obj = result.obj.transpose(3, 2, 0, 1)  # (y, x, z, mode) -> (mode, z, y, x)
    probe = result.probe if result.probe.ndim == 3 else result.probe[..., 0]
    distances = result.slice_distances_A
    return Loaded(
        amplitude=np.abs(obj),
        phase=np.angle(obj),
        probe=probe.transpose(2, 0, 1),
        positions=result.positions,
        tilts_mrad=np.zeros((1, 2)),
        thickness_A=None if distances is None else float(np.mean(distances)),
    )


def _model(path: Path) -> Loaded:
    with opened(path, "model file of PtyRAD") as file:
        tensors, model = file["optimizable_tensors"], file["model_attributes"]
        amplitude = array_of(tensors, "obja", (4,)).astype(float)
        phase = array_of(tensors, "objp", (4,)).astype(float)
        probe = array_of(tensors, "probe", (3, 4))
        positions = array_of(model, "crop_pos", (2,)) + array_of(tensors, "probe_pos_shifts", (2,))
        tilts = (
            array_of(tensors, "obj_tilts", (2,)).astype(float) if "obj_tilts" in tensors else np.zeros((1, 2))
        )
        thickness = float(array_of(tensors, "slice_thickness")) if "slice_thickness" in tensors else None
        version = str(plain(file["ptyrad_version"])) if "ptyrad_version" in file else ""
        constants = [float(array_of(model, name)) for name in ("lambd", "dx")]
    if probe.dtype.kind != "c":
        if probe.shape[-1] != 2:
            raise DataError(
                f"{str(path)!r}: the probe has shape {probe.shape} and {probe.dtype}, expected complex numbers"
            )
        probe = probe[..., 0] + 1j * probe[..., 1]
    if version.startswith("0.") and amplitude.shape[1] > 1:
        # The propagator of these versions was half a frequency bin off, which acts like a tilt.
        tilts = tilts - 1e3 * constants[0] / (2 * np.array(probe.shape[-2:]) * constants[1])
    return Loaded(
        amplitude=amplitude,
        phase=phase,
        probe=probe.astype(complex),
        positions=positions.astype(float),
        tilts_mrad=tilts,
        thickness_A=thickness,
        version=version,
    )
