"""Convert an output folder to a NeXus file: experiment, object, probe, positions, parameters."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from pypty.errors import CheckpointError, OutputError, ParameterError
from pypty.model.blocks import BLOCKS
from pypty.nexus.experiment import write_experiment
from pypty.nexus.groups import array, group, scalar
from pypty.nexus.parameters import write_value
from pypty.nexus.patterns import Patterns, find_patterns
from pypty.optics.wavelength import wavelength_A
from pypty.output.checkpoints import load_checkpoint
from pypty.output.files import atomic, make_folder
from pypty.output.loss_log import read_loss_log
from pypty.params.presets import read_yaml, resolve_files

CXI_VERSION = 160  # of the CXI file format, 1.60
_UNITS: Mapping[str, str] = MappingProxyType({"Å": "angstrom", "rad": "rad"})
"""Units of unknowns as NeXus spells them; other unknowns are written without units."""


@dataclass(frozen=True)
class Folder:
    """The content of an output folder.

    Attributes
    ----------
    arrays : blocks by name, in the public layout
    params : all parameters, including arrays
    version : version of the program that wrote the folder
    patterns : location of the measured patterns, or None
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    params: Mapping[str, Any]
    version: str
    patterns: Patterns | None

    @property
    def pixel_A(self) -> tuple[float, float]:
        """Pixel size (y, x) of the reconstruction."""
        return (float(self.params.get("pixel_size_y_A", 1.0)), float(self.params.get("pixel_size_x_A", 1.0)))

    @property
    def window(self) -> tuple[int, int]:
        """(y, x) pixels of the probe."""
        return (self.arrays["probe"].shape[0], self.arrays["probe"].shape[1])

    @property
    def wavelength(self) -> float:
        """Å."""
        return wavelength_A(float(self.params.get("acc_voltage", 60.0)))

    @property
    def centres_A(self) -> np.ndarray:
        """(N, 2) [y, x] centre of the probe, relative to the first pixel of the object."""
        crop_origins = self.arrays.get("positions")
        if crop_origins is None:
            crop_origins = np.atleast_2d(np.asarray(self.params.get("positions", [[0.0, 0.0]]), float))
        n = len(crop_origins) if self.patterns is None else self.patterns.n_patterns
        if len(crop_origins) not in (1, n):
            raise CheckpointError(
                f"{str(self.path)!r} has {len(crop_origins)} positions, but its data have {n} patterns; do they belong "
                "together?"
            )
        # One position for all patterns (a focal series): (1, 2) -> (N, 2)
        crop_origins = np.repeat(crop_origins, n, axis=0) if len(crop_origins) == 1 else crop_origins
        # Stored positions are crop origins of patches; the probe is centred at pixel n//2.
        return (crop_origins + np.array(self.window) // 2) * np.array(self.pixel_A)

    @property
    def raster(self) -> tuple[int, int] | None:
        """(slow, fast), if ``scan_size`` fits the number of patterns."""
        scan_size, n = self.params.get("scan_size"), len(self.centres_A)
        if scan_size is None or len(scan_size) != 2 or int(scan_size[0]) * int(scan_size[1]) != n:
            return None
        return (int(scan_size[0]), int(scan_size[1]))


def convert_to_nxs(
    folder_path: str | Path, output_file: str | Path, overwrite: bool = False, copy_data: bool = False
) -> Path:
    """Write an output folder as a NeXus file of the application definition NXcxi_ptycho.

    In addition to what the definition covers, the file contains the object, the probe and the summed phase as NXdata
    (lengths in Å, with axes), the loss, and all parameters (:func:`load_nexus_params` reads them).

    Parameters
    ----------
    folder_path : output folder, with params.yaml, co.npy, cp.npy
    output_file : .nxs
    overwrite : replace an existing file
    copy_data : copy the measured patterns into the file (compressed), instead of linking to them

    Returns
    -------
    path of the file

    Raises
    ------
    CheckpointError
        The folder lacks its arrays or parameters, or they are damaged.
    DataError
        The patterns that its parameters name are damaged.
    OutputError
        The file exists, or cannot be written.
    """
    target = Path(output_file).expanduser()
    if target.exists() and not overwrite:
        raise OutputError(f"{str(target)!r} exists; give another name, or overwrite=True")
    folder = _read_folder(Path(folder_path).expanduser())
    make_folder(target.resolve().parent)
    with atomic(target) as temporary, h5py.File(temporary, "w") as file:
        _write_root(file, target)
        entry = group(file, "entry_1", "NXentry")
        _write_head(entry, folder)
        write_experiment(entry, folder, target.resolve().parent, copy_data)
        _write_process(entry, folder)
        _write_object(entry, folder)
        _write_probe(entry, folder)
        _write_blocks(entry, folder)
    return target


def _read_folder(path: Path) -> Folder:
    loaded = load_checkpoint(path)
    settings = path / "params.yaml"
    if not settings.is_file():
        raise CheckpointError(
            f"{str(path)!r} has no params.yaml, which contains the calibration; import a folder of PyPty 2.2 with "
            "pypty.importers, and run it"
        )
    content = read_yaml(settings)
    # Functions of the epoch are recorded as {"callable": name} and kept in this form.
    functions = {
        key: value for key, value in content.items() if isinstance(value, Mapping) and "callable" in value
    }
    try:
        params = resolve_files({key: value for key, value in content.items() if key not in functions}, path)
    except ParameterError as error:
        raise CheckpointError(f"{str(settings)!r}: {error}") from error
    arrays = {name: np.asarray(loaded[name]) for name in BLOCKS if name in loaded}
    if arrays["probe"].ndim == 2:
        arrays["probe"] = arrays["probe"][..., None]  # (y, x) -> (y, x, modes)
    # The first comment of params.yaml names the program.
    match = re.search(r"\(PyPty ([^)]+)\)", settings.read_text(encoding="utf-8")[:500])
    version = match[1] if match else "unknown"
    return Folder(path, arrays, {**params, **functions}, version, find_patterns(params, path))


def _write_root(file: h5py.File, target: Path) -> None:
    file.attrs.update(NX_class="NXroot", default="entry_1", file_name=target.name, creator="PyPty")
    file.attrs["file_time"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    file["cxi_version"] = CXI_VERSION


def _write_head(entry: h5py.Group, folder: Folder) -> None:
    entry.attrs["default"] = "phase_1"
    entry["definition"] = "NXcxi_ptycho"
    name = folder.params.get("sample_name") or folder.path.resolve().name
    entry["title"] = f"Electron ptychography of {name}"


def _write_process(entry: h5py.Group, folder: Folder) -> None:
    process = group(entry, "process_1", "NXprocess")
    process["program"], process["version"] = "PyPty", folder.version
    end = datetime.datetime.fromtimestamp(
        (folder.path / BLOCKS["obj"].file).stat().st_mtime, datetime.timezone.utc
    )
    process["date"] = end.isoformat(timespec="seconds")
    process["command"] = "pypty run"
    process["folder"] = str(folder.path.resolve())
    params = group(process, "pypty_params", "NXcollection")
    for name, value in folder.params.items():
        write_value(params, str(name), value)
    log = folder.path / "loss.csv"
    if not log.is_file():
        return
    try:
        rows = read_loss_log(log)
        table = {name: [float(row[name]) for row in rows] for name in ("epoch", "loss", "sse")}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{str(log)!r} cannot be read: {error}") from error
    loss = group(process, "loss", "NXdata", signal="loss", axes=["epoch"])
    for name, values in table.items():
        array(loss, name, np.array(values), "")


def _axes(data: h5py.Group, folder: Folder, shape: tuple[int, int], centre: tuple[int, int] = (0, 0)) -> None:
    """y and x in Å, zero at pixel ``centre``."""
    for name, n, zero, size in zip("yx", shape, centre, folder.pixel_A, strict=True):
        array(data, name, (np.arange(n) - zero) * size, "angstrom", long_name=f"{name} (Å)")


def _write_object(entry: h5py.Group, folder: Folder) -> None:
    """object_1 (mode, z, y, x), its summed phase, and image_1 as CXI names it."""
    obj = folder.arrays["obj"]
    # (y, x, z, mode) -> (mode, z, y, x): viewers show the last two axes as an image
    modes_first = np.ascontiguousarray(obj.transpose(3, 2, 0, 1))
    axes = ["mode", "z", "y", "x"]
    data = group(entry, "object_1", "NXdata", signal="phase", axes=axes, auxiliary_signals=["amplitude"])
    data["title"] = "Transmission function of each slice; slice 0 meets the beam first"
    array(data, "data", modes_first, "", long_name="transmission function")
    array(data, "phase", np.angle(modes_first), "rad", long_name="phase (rad)")
    array(data, "amplitude", np.abs(modes_first), "", long_name="amplitude")
    array(data, "mode", np.arange(obj.shape[3]), "")
    array(data, "z", _depths(folder), "angstrom", long_name="depth (Å)")
    _axes(data, folder, (obj.shape[0], obj.shape[1]))
    phase = group(entry, "phase_1", "NXdata", signal="data", axes=["y", "x"])
    phase["title"] = "Phase, summed over slices, averaged over object modes"
    summed = np.angle(obj).sum(axis=2).mean(axis=2)  # (y, x, z, mode) -> (y, x)
    array(phase, "data", summed, "rad", long_name="phase (rad)", interpretation="image")
    _axes(phase, folder, (obj.shape[0], obj.shape[1]))
    image = group(entry, "image_1", "NXcollection")
    image["data"] = data["data"]
    image["data_type"], image["data_space"] = "transmission function", "real"
    image["process_1"] = entry["process_1"]


def _depths(folder: Folder) -> np.ndarray:
    """(slices,) depth of each slice below the first, Å."""
    n_slices = folder.arrays["obj"].shape[2]
    distances = folder.arrays.get("slice_distances", folder.params.get("slice_distances", [0.0]))
    gaps = np.atleast_1d(np.asarray(distances, float))
    # (1,) or (slices - 1,) -> (slices - 1,): a single distance applies to all gaps
    gaps = np.append(gaps, np.repeat(gaps[-1:], max(0, n_slices - 1 - len(gaps))))
    return np.append(0.0, np.cumsum(gaps[: n_slices - 1]))


def _write_probe(entry: h5py.Group, folder: Folder) -> None:
    """probe_1 ([subscan,] mode, y, x), intensities of modes add."""
    probe = folder.arrays["probe"]
    # (y, x, mode) -> (mode, y, x); (y, x, mode, subscan) -> (subscan, mode, y, x)
    order = (2, 0, 1) if probe.ndim == 3 else (3, 2, 0, 1)
    wave = np.ascontiguousarray(probe.transpose(order))
    axes = [*(["subscan"] if probe.ndim == 4 else []), "mode", "y", "x"]
    data = group(entry, "probe_1", "NXdata", signal="intensity", axes=axes)
    data["title"] = "Modes of the illumination; their intensities add"
    array(data, "data", wave, "")
    array(data, "intensity", np.abs(wave) ** 2, "")
    for name, n in zip(axes[:-2], wave.shape[:-2], strict=True):
        array(data, name, np.arange(n), "")
    _axes(data, folder, folder.window, (folder.window[0] // 2, folder.window[1] // 2))


def _write_blocks(entry: h5py.Group, folder: Folder) -> None:
    """The other refined unknowns, and positions in pixels."""
    blocks = group(entry["process_1"], "refined", "NXcollection")
    for name, values in folder.arrays.items():
        if name in ("obj", "probe"):
            continue
        array(blocks, name, values, _UNITS.get(BLOCKS[name].unit, ""))
    scalar(blocks, "pixel_size_y", folder.pixel_A[0], "angstrom")
    scalar(blocks, "pixel_size_x", folder.pixel_A[1], "angstrom")
