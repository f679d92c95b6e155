"""Translate init_params of PtyRAD: calibration, probe, positions, object and tilts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pypty.errors import ParameterError
from pypty.importers.imported import ALL_FREQUENCIES
from pypty.importers.ptyrad import scan as scans
from pypty.importers.ptyrad.data import open_array
from pypty.importers.ptyrad.defaults import XRAY
from pypty.importers.ptyrad.measured import Measured, measured
from pypty.importers.ptyrad.names import Shown
from pypty.importers.ptyrad.patterns import bright_field_radius_px
from pypty.importers.ptyrad.sources import LOADED, load_source
from pypty.importers.ptyrad.start import start_object, start_probe
from pypty.importers.ptyrad.translation import Group, Ledger
from pypty.optics.grid import Grid
from pypty.optics.wavelength import wavelength_A

_KEY = "init_params."


@dataclass(frozen=True, kw_only=True)
class Start:
    """Properties of the starting state that the other groups need.

    Attributes
    ----------
    window : N, side of the simulated pattern
    scan_size : (slow, fast)
    n_slices, n_object_modes : numbers of slices and modes of the starting object
    shown : numbers in the names of output folders
    """

    window: int
    scan_size: tuple[int, int]
    n_slices: int
    n_object_modes: int
    shown: Shown


def translate_init(
    init: Group, folder: Path, tuned: frozenset[str], ledger: Ledger, *, keep_phases: bool = False
) -> Start:
    """Translate all keys of init_params.

    Parameters
    ----------
    folder : folder of the parameter file
    tuned : names that hypertune searches; the starting state leaves them out
    keep_phases : of orthogonal modes of the probe, to which the moments of a loaded optimiser belong

    Raises
    ------
    ParameterError, DataError
        A value cannot be used, a file cannot be read, or it is an X-ray experiment.
    """
    _electrons(init, ledger)
    # The generator of PtyRAD: the same seed gives the same noise.
    rng = np.random.RandomState(_seed(init["random_seed"], ledger))
    data = measured(init, folder, rng, ledger)
    grid = _grid(init, data, ledger)
    start_probe(init, folder, grid, data, tuned, ledger, keep_phases=keep_phases)
    positions, canvas = _positions(init, folder, grid, data, rng, tuned, ledger)
    layers = start_object(init, folder, canvas, rng, tuned, ledger)
    tilts = _tilts(init, folder, layers.n_slices, len(positions), ledger)
    ledger.params.update(
        positions=positions,
        scan_size=list(data.scan_size),
        skip_preprocessing=True,
        obj_parametrization="amplitude_phase",
        propmethod="angular_spectrum",
        damping_cutoff_multislice=ALL_FREQUENCIES,
        default_dtype="single",
        backend="auto",
        warmup_epochs=0,
    )
    return Start(
        window=grid.shape[0],
        scan_size=data.scan_size,
        n_slices=layers.n_slices,
        n_object_modes=len(layers.amplitude),
        shown=Shown(
            pattern_px=data.n_read,
            simulated_px=grid.shape[0],
            tilt_mrad=tilts.mean(axis=0),
            wavelength_A=grid.wavelength,
        ),
    )


def _electrons(init: Group, ledger: Ledger) -> None:
    if init["probe_illum_type"] != "electron":
        raise ParameterError(
            f"{ledger.source}: probe_illum_type is {init['probe_illum_type']!r}; only electrons are supported "
            "(PtyRAD's X-ray mode does not run to the end either)"
        )
    ledger.unused(_KEY + "probe_illum_type", "only electrons are supported")
    for name in XRAY:
        ledger.unused(_KEY + name, "for X-ray experiments only")


def _seed(seed: Any, ledger: Ledger) -> int:
    if seed is None:
        ledger.note("random_seed is null: PtyRAD uses a new seed in every run; here it is 0")
    ledger.ours(_KEY + "random_seed", seed=0 if seed is None else int(seed))
    return int(ledger.params["seed"])


def _grid(init: Group, data: Measured, ledger: Ledger) -> Grid:
    """The window and pixel of the reconstruction."""
    voltage = float(init["probe_kv"])
    wavelength = wavelength_A(voltage)
    ledger.ours(_KEY + "probe_kv", acc_voltage=voltage)
    raw = _raw_pixel_A(init, wavelength, data, ledger)
    pixel = raw * data.n_raw / data.n_padded  # cropped patterns have larger pixels, padded ones smaller
    window, mode = init["simu_Npix"] or data.n_pixels, init["simu_match_mode"]
    window = int(window)
    if window != data.n_pixels:
        if mode not in ("crop", "resample"):
            raise ParameterError(
                f"{ledger.source}: simu_Npix is {window}, but patterns have {data.n_pixels} pixels; give "
                "simu_match_mode crop or resample"
            )
        if mode == "crop":
            pixel *= data.n_pixels / window
        ledger.ours(_KEY + "simu_Npix", simu_Npix=window)
        ledger.ours(_KEY + "simu_match_mode", simu_match_mode=mode)
    else:
        ledger.unused(_KEY + "simu_Npix", "equal to the size of the patterns")
        ledger.unused(_KEY + "simu_match_mode", "the simulated patterns have the measured size")
    ledger.params.update(pixel_size_y_A=pixel, pixel_size_x_A=pixel, rez_pixel_size_A=1 / (raw * data.n_raw))
    ledger.ours(_KEY + "meas_Npix", "the size of the patterns is read from the data")
    for name in ("pos_N_scan_slow", "pos_N_scan_fast", "pos_N_scans"):
        ledger.ours(_KEY + name, "scan_size" if name != "pos_N_scans" else "number of positions")
    ledger.ours(_KEY + "pos_scan_step_size", scan_step_A=float(init["pos_scan_step_size"]))
    return Grid((window, window), (pixel, pixel), wavelength)


def _raw_pixel_A(init: Group, wavelength: float, data: Measured, ledger: Ledger) -> float:
    """Real-space pixel of the raw patterns."""
    n, angle = data.n_raw, float(init["probe_conv_angle"])
    mode, value = init["meas_calibration"]["mode"], init["meas_calibration"]["value"]
    if mode == "fitRBF":
        value = bright_field_radius_px(data.raw_mean)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ParameterError(
            f"{ledger.source}: meas_calibration: mode {mode} needs a positive value, given {value!r}"
        )
    value = float(value)
    # value: pixel (Å), detector pixel (1/Å), largest frequency (1/Å), detector pixel (mrad), largest angle (mrad),
    # largest angle in semi-angles, or radius of the disk (px).
    pixels_A = {
        "dx": value,
        "dk": 1 / (n * value),
        "kMax": 1 / (2 * value),
        "da": 1e3 * wavelength / (n * value),
        "angleMax": 1e3 * wavelength / (2 * value),
        "n_alpha": 1e3 * wavelength / (2 * value * angle),
        "RBF": 1e3 * wavelength * value / (n * angle),
        "fitRBF": 1e3 * wavelength * value / (n * angle),
    }
    if mode not in pixels_A:
        raise ParameterError(
            f"{ledger.source}: meas_calibration.mode is {mode!r}, expected one of {', '.join(pixels_A)}"
        )
    measured_radius = f", radius of the disk {value:.4g} px" if mode == "fitRBF" else ""
    ledger.ours(_KEY + "meas_calibration", f"pixel_size_y_A, pixel_size_x_A, from {mode}{measured_radius}")
    return pixels_A[mode]


def _positions(
    init: Group,
    folder: Path,
    grid: Grid,
    data: Measured,
    rng: np.random.RandomState,
    tuned: frozenset[str],
    ledger: Ledger,
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) crop origins on the canvas, and the (2,) sides of the canvas, computed from positions with their noise."""
    source, window = init["pos_source"], grid.shape
    positions = _raw_positions(init, folder, grid, data, ledger)
    if len(positions) != data.scan_size[0] * data.scan_size[1]:
        raise ParameterError(
            f"{ledger.source}: pos_params has {len(positions)} positions for {data.scan_size} patterns"
        )
    flips, affine, noise = init["pos_scan_flipT"], init["pos_scan_affine"], init["pos_scan_rand_std"]
    ledger.ours(_KEY + "pos_source", "positions")
    ledger.ours(_KEY + "pos_params", "positions")
    names = ("pos_scan_flipT", "pos_scan_affine", "pos_scan_rand_std")
    if source == "PtyRAD":
        for name in names:
            ledger.unused(_KEY + name, "already contained in the positions of a PtyRAD model")
        if any((flips, affine, noise)):
            ledger.note(
                "pos_source PtyRAD: flips, affine map and noise are not applied again (PtyRAD does so)"
            )
        return positions, np.maximum(scans.canvas_of(positions, window), _reach(positions, window))
    if flips is not None and any(flips):
        positions = scans.flipped(positions, data.scan_size, [int(flag) for flag in flips])
    affine = _untuned(affine, tuned)
    if affine != [1, 0, 0, 0]:
        positions = scans.affine(positions, affine, window)
        ledger.params["PLRotation_deg"] = -affine[2]  # PtyRAD's rotation has the opposite sign
    if noise and (source == "simu" or ledger.is_set(_KEY + names[2])):
        positions = scans.jittered(positions, float(noise), rng)
    elif noise:
        ledger.note(
            f"pos_source {source}: the default pos_scan_rand_std of {noise} px is not applied to given positions"
        )
    for name in names:
        ledger.ours(_KEY + name, "positions")
    return positions, np.maximum(scans.canvas_of(positions, window), _reach(positions, window))


def _reach(positions: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """(2,) sides of the smallest object that contains all patches."""
    return np.round(positions.max(axis=0)).astype(int) + np.asarray(window)


def _untuned(affine: Any, tuned: frozenset[str]) -> list[float]:
    """[scale, asymmetry, rotation, shear], with neutral values for those that hypertune searches."""
    values = [1.0, 0.0, 0.0, 0.0] if affine is None else [float(value) for value in affine]
    neutral = (("scale", 1.0), ("asymmetry", 0.0), ("rotation", 0.0), ("shear", 0.0))
    return [
        default if name in tuned else value for value, (name, default) in zip(values, neutral, strict=True)
    ]


def _raw_positions(init: Group, folder: Path, grid: Grid, data: Measured, ledger: Ledger) -> np.ndarray:
    source, entry, window = init["pos_source"], init["pos_params"], grid.shape
    if source == "simu":
        step = float(init["pos_scan_step_size"]) / grid.pixel_size_A[0]
        return scans.centred(scans.raster(data.scan_size, step), window)
    if source in LOADED:
        return load_source(source, entry, folder, "pos_params").positions
    if source == "custom":
        positions = np.array(open_array(entry, folder, "pos_params").data, float)
        if positions.ndim != 2 or positions.shape[1] != 2 or (positions < 0).any():
            raise ParameterError(
                f"pos_params has shape {positions.shape}, expected (N, 2) crop origins [y, x] >= 0, px"
            )
        return positions
    if source == "foldslice_hdf5":
        y, x = (
            np.ravel(np.asarray(open_array({"path": entry, "key": name}, folder, "pos_params").data, float))
            for name in ("ppY", "ppX")
        )
        # ppY, ppX are in Å; the order of the points and both signs are reversed, as in PtyRAD.
        return scans.centred(-np.stack([y, x], axis=1)[::-1] / grid.pixel_size_A[0], window)
    raise ParameterError(
        f"{ledger.source}: pos_source is {source!r}, expected simu, PtyRAD, PtyShv, py4DSTEM, foldslice_hdf5 or custom"
    )


def _tilts(init: Group, folder: Path, n_slices: int, n_patterns: int, ledger: Ledger) -> np.ndarray:
    """``tilts`` inside the specimen, with the opposite sign: a tilt t shifts the wave by +z t here. Returns PtyRAD's
    (1, 2) or (N, 2), mrad."""
    source, entry = init["tilt_source"], init["tilt_params"]
    if source == "simu":
        tilts = np.atleast_2d(np.asarray((entry or {}).get("init_tilts", [[0, 0]]), float))
        if (entry or {}).get("tilt_type", "all") == "each":
            tilts = np.broadcast_to(tilts, (n_patterns, 2)).copy()
    elif source == "PtyRAD":
        tilts = load_source(source, entry, folder, "tilt_params").tilts_mrad
    elif source in ("file", "custom"):
        tilts = np.atleast_2d(np.asarray(open_array(entry, folder, "tilt_params").data, float))
    else:
        raise ParameterError(
            f"{ledger.source}: tilt_source is {source!r}, expected simu, PtyRAD, file or custom"
        )
    if tilts.shape not in ((1, 2), (n_patterns, 2)):
        raise ParameterError(
            f"{ledger.source}: tilt_params has shape {tilts.shape}, expected (1, 2) or ({n_patterns}, 2), mrad"
        )
    ledger.ours(_KEY + "tilt_source", "tilts")
    if n_slices == 1:
        ledger.unused(
            _KEY + "tilt_params", "tilts act on the propagation between slices, and there is one slice"
        )
        return tilts
    if len(tilts) > 1 or tilts.any():
        ours = np.zeros((len(tilts), 6))
        ours[:, 2:4] = -np.tan(1e-3 * tilts)  # columns 2, 3: [y, x] inside the specimen
        ledger.ours(_KEY + "tilt_params", "-tan of PtyRAD's, in rad", tilts=ours, tilt_mode=0)
    else:
        ledger.ours(_KEY + "tilt_params", "no tilts")
    return tilts
