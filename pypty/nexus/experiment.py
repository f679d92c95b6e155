"""Write the groups that NXcxi_ptycho requires: instrument, beam, detector, sample, and the links between them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from pypty.nexus.groups import array, group, link, scalar
from pypty.nexus.patterns import Patterns

NOMINAL_DISTANCE_M = 1.0
"""Nominal camera length: in the far field only angles are known. Sizes of detector pixels refer to this distance."""


class Scanned(Protocol):
    """The attributes of :class:`pypty.nexus.convert.Folder` used here."""

    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def patterns(self) -> Patterns | None: ...
    @property
    def pixel_A(self) -> tuple[float, float]: ...
    @property
    def window(self) -> tuple[int, int]: ...
    @property
    def wavelength(self) -> float: ...
    @property
    def centres_A(self) -> np.ndarray: ...
    @property
    def raster(self) -> tuple[int, int] | None: ...


def write_experiment(entry: h5py.Group, folder: Scanned, target_folder: Path, copy_data: bool) -> None:
    """instrument_1, sample_1, data, data_1; patterns are linked or copied."""
    instrument = group(entry, "instrument_1", "NXinstrument")
    instrument["name"] = "transmission electron microscope"
    _write_beam(instrument, folder)
    detector = _write_detector(instrument, folder)
    sample = _write_sample(entry, folder)
    link(group(sample, "geometry_1", "NXcollection"), "translation", detector["translation"])
    flat = group(entry, "data_1", "NXcollection")
    link(flat, "translation", detector["translation"])
    patterns = folder.patterns
    if patterns is not None:
        n = patterns.n_patterns
        raster = folder.raster if patterns.n_tail == 2 else None
        path = f"{detector.name}/data"
        patterns.write(entry.file, path, raster or (n,), target_folder, copy_data)
        detector["data"].attrs.update(units="counts", long_name="counts")
        # CXI expects a list of patterns (data_1), NeXus viewers a raster (data): both refer to the same bytes.
        if raster is None:
            link(detector, "data_1", detector["data"])
        elif copy_data:
            _flat_view(entry.file, f"{detector.name}/data_1", detector["data"])
        else:
            patterns.write(entry.file, f"{detector.name}/data_1", (n,), target_folder, copy_data)
        if raster is not None:  # NeXus readers treat the list as a link to the raster
            detector["data_1"].attrs["target"] = detector["data"].name
        link(flat, "data", detector["data_1"])
    _write_data(entry, folder, sample["transformations"], detector)


def _flat_view(file: h5py.File, name: str, raster: h5py.Dataset) -> None:
    """A virtual list of patterns (N, ky, kx) of a raster (sy, sx, ky, kx) in the same file."""
    rows, columns = raster.shape[:2]
    layout = h5py.VirtualLayout(shape=(rows * columns, *raster.shape[2:]), dtype=raster.dtype)
    source = h5py.VirtualSource(".", raster.name, shape=raster.shape, dtype=raster.dtype)
    for row in range(rows):
        layout[row * columns : (row + 1) * columns] = source[row]
    file.create_virtual_dataset(name, layout)


def _write_beam(instrument: h5py.Group, folder: Scanned) -> None:
    energy = 1e3 * float(folder.params.get("acc_voltage", 60.0))
    source = group(instrument, "source_1", "NXsource")
    source["name"], source["probe"], source["type"] = "electron gun", "electron", "Electron Source"
    scalar(source, "energy", energy, "eV")
    beam = group(instrument, "beam_1", "NXbeam")
    for name in ("energy", "incident_beam_energy", "incident_energy"):
        scalar(beam, name, energy, "eV")
    scalar(beam, "incident_energy_spread", np.nan, "eV", comment="not recorded")
    scalar(beam, "incident_wavelength", folder.wavelength, "angstrom")
    angle = folder.params.get("conv_semiangle_mrad")
    if isinstance(angle, (int, float)):
        scalar(beam, "convergence_semi_angle", 1e-3 * angle, "rad")


def _write_detector(instrument: h5py.Group, folder: Scanned) -> h5py.Group:
    detector = group(instrument, "detector_1", "NXdetector", signal="data", axes="[, data]")
    transformations = group(detector, "transformations", "NXtransformations")
    transformations["vector"] = np.array([0.0, 0.0, 1.0])
    centres = folder.centres_A
    translation = np.zeros((len(centres), 3))
    translation[:, 0], translation[:, 1] = centres[:, 1], centres[:, 0]  # [y, x] -> [x, y, z] of NeXus
    array(
        detector,
        "translation",
        translation,
        "angstrom",
        axes="translation:y:x",
        interpretation="image",
        long_name="[x, y, z] of the beam on the object, from its first pixel",
    )
    distance, sizes = _detector_pixels_m(folder)
    scalar(detector, "distance", distance, "m", comment="far field: nominal, only angles are known")
    scalar(detector, "y_pixel_size", sizes[0], "m")
    scalar(detector, "x_pixel_size", sizes[1], "m")
    return detector


def _detector_pixels_m(folder: Scanned) -> tuple[float, tuple[float, float]]:
    """Distance, and size (y, x) of a pixel of the stored patterns, m.

    Far field: a model pixel is 1/(window x pixel). A detector pixel is ``upsample_pattern`` model pixels wide, and
    consists of ``data_bin`` stored pixels on each side.
    """
    params = folder.params
    scale = int(params.get("upsample_pattern") or 1) / int(params.get("data_bin") or 1)
    if params.get("recon_type") == "near_field":
        defocus = np.ravel(np.asarray(params.get("defocus_array", [0.0]), float))
        sizes = [1e-10 * pixel * scale for pixel in folder.pixel_A]
        return 1e-10 * float(np.mean(defocus)), (sizes[0], sizes[1])
    # lambda / (field of view of the window), rad for each pixel
    angles = [
        folder.wavelength / (n * pixel) * scale
        for n, pixel in zip(folder.window, folder.pixel_A, strict=True)
    ]
    return NOMINAL_DISTANCE_M, (NOMINAL_DISTANCE_M * angles[0], NOMINAL_DISTANCE_M * angles[1])


def _write_sample(entry: h5py.Group, folder: Scanned) -> h5py.Group:
    sample = group(entry, "sample_1", "NXsample")
    sample["name"] = str(folder.params.get("sample_name") or "unknown")
    if folder.params.get("chemical_formula"):
        sample["chemical_formula"] = str(folder.params["chemical_formula"])
    thickness = folder.params.get("total_thickness")
    if isinstance(thickness, (int, float)):
        scalar(sample, "thickness", thickness, "angstrom")
    # The chain of NeXus transformations: x depends on y, and y on nothing (".").
    sample["depends_on"] = "transformations/x"
    moves = group(sample, "transformations", "NXtransformations", vector=np.array([1.0, 0.0, 0.0]))
    shape = folder.raster or (len(folder.centres_A),)
    for name, column, vector, depends in (("x", 1, (1.0, 0.0, 0.0), "y"), ("y", 0, (0.0, 1.0, 0.0), ".")):
        array(
            moves,
            name,
            folder.centres_A[:, column].reshape(shape),
            "angstrom",
            vector=np.array(vector),
            transformation_type="translation",
            depends_on=depends,
            long_name=f"{name} (Å)",
        )
    return sample


def _write_data(entry: h5py.Group, folder: Scanned, moves: h5py.Group, detector: h5py.Group) -> None:
    """Patterns over the scan; x and y are arrays over the raster, or over the list of points."""
    # Sums over virtual detectors, or no raster: one scan axis.
    n_scan = 1 if folder.raster is None or "data" in detector and detector["data"].ndim < 4 else 2
    n_detector = detector["data"].ndim - n_scan if "data" in detector else 2
    axes = ["x", *["."] * (n_scan - 1 + n_detector)]
    data = group(entry, "data", "NXdata", signal="data", axes=axes)
    if "data" in detector:
        link(data, "data", detector["data"])
    for name in "xy":
        link(data, name, moves[name])
        data.attrs[f"{name}_indices"] = np.arange(moves[name].ndim, dtype=np.int32)
        data[f"{name}_indices"] = ",".join(str(index) for index in range(moves[name].ndim))
