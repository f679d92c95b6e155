"""From the settings of an experiment to the parameters of a reconstruction."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.scan import ROWS, missing_problem, points_of_patterns, size_of_layout
from pypty.data.sources import open_source
from pypty.data.window import Window
from pypty.errors import ParameterError, PyptyError
from pypty.experiment import Experiment
from pypty.initialize.common import check_all, checked
from pypty.initialize.experimental_values import OWN_KEYS, check_values, read_values, was_flipped
from pypty.initialize.rotation import measure_rotation
from pypty.initialize.slices import choose_slices, starting_object
from pypty.optics.scan_grid import scan_grid_A
from pypty.optics.wavelength import wavelength_A
from pypty.output.files import make_folder, write_array
from pypty.params.kinds import ArrayOf, brief
from pypty.params.presets import load_preset
from pypty.params.report import Report
from pypty.params.settings import Settings

_log = logging.getLogger(__name__)
_CHUNK_BYTES = 64 * 2**20
_DATA_KEYS = (
    "data_path",
    "data_key",
    "dataset",
    "masks",
    "detector_mask",
    "flip_ky",
    "data_bin",
    "data_shift_vector",
    "data_multiplier",
    "data_resample",
    "upsample_pattern",
    "simu_Npix",
    "simu_match_mode",
    "force_dataset_dtype",
    "acc_voltage",
    "algorithm",
)


def append_exp_params(
    experimental_params: Mapping[str, Any], pypty_params: Mapping[str, Any] | str | Path | None = None
) -> dict[str, Any]:
    """Calibrated parameters from the settings of an experiment.

    Parameters
    ----------
    experimental_params : any parameter of a reconstruction (``pypty explain KEY``), which is passed on, and

        * data_path or dataset; masks for sums over virtual detectors
        * path_json : metadata of Nion Swift, for values that are not given: acc_voltage, scan_size, scan step, detector
          pixel, and defocus (-1e10 times Nion's, as in PyPty 2.2). A file of ``pypty import`` provides the same except
          the defocus.
        * acc_voltage : kV, default 60 with a warning
        * one of rez_pixel_size_mrad, rez_pixel_size_A (pixel of the detector as recorded), or conv_semiangle_mrad, from
          which the bright-field disk gives the pixel; the first one given is used
        * aperture, or aperture_mask : (ky, kx) mask of the disk; default: pixels above bright_threshold (0.1) times the
          maximum of the mean pattern
        * data_pad : default a quarter of the width; upsample_pattern, flip_ky, data_bin
        * aberrations (Å, Krivanek), defocus : extra_probe_defocus if that is not given, Å, with the sign of C10
          (positive: overfocus)
        * scan_size (slow, fast), and scan_step_A, or fov_nm from the first to the last point of the fast axis
        * special_postions_A : (N, 2) [y, x] Å, instead of a raster; neither transformed nor rotated
        * transform_axis_matrix : (2, 2) on [y, x], before the rotation
        * PLRotation_deg : "auto" (default) or None measure it (:func:`pypty.initialize.rotation.measure_rotation`)
        * total_thickness Å, num_slices; slice_thickness : a number (Å) takes precedence over num_slices; "auto" is only
          used if num_slices is not given: 0.5/(convergence angle x largest frequency)
        * num_obj_modes, obj_phase_sigma : start a mixed object from normally distributed random phases
        * erase_probe : drop the probe of ``pypty_params``
        * save_preprocessing_files : write the computed arrays into output_folder/preprocessing
        * plot : PyPty's, without effect; figures are in ``pypty.plots`` and in the report of ``pypty check``
    pypty_params : dict, or preset or folder (:func:`pypty.load_preset`), whose other values are kept

    Returns
    -------
    new dict for ``pypty.run``, with mean_pattern, aperture_mask, positions, pixel sizes, slice_distances, obj, the
    calibration, and, if the rotation was measured, comx and comy (N,) (px, mean removed)

    Raises
    ------
    ParameterError
        Something is missing or contradictory; the message says what.
    DataError
        The patterns cannot be read.
    """
    report = Report()
    values, known_keys = read_values(experimental_params, report)
    base = _base(pypty_params, values)
    out = {
        **base,
        **{key: value for key, value in values.items() if key not in OWN_KEYS and key in known_keys},
    }
    if "conv_semiangle_mrad" in known_keys and values.get("rez_pixel_size_A") is None:
        out.pop("rez_pixel_size_A", None)  # it belongs to the experiment of pypty_params
    check_values(values, out, report)
    # These would contradict the calibrated values below.
    for key in ("fov_nm", "defocus", "rez_pixel_size_mrad", "PLRotation_deg"):
        out.pop(key, None)
    if "acc_voltage" not in out:
        _log.warning("acc_voltage is not given; 60 kV is assumed")
        out["acc_voltage"] = 60.0
    if out.get("flip_ky") and was_flipped(out.get("data_path"), out.get("data_key", "data")):
        _log.warning(
            "flip_ky: the patterns of %s were already flipped when it was written; they are not flipped again",
            out["data_path"],
        )
        out["flip_ky"] = False
    patterns = _read(out, values, report)
    out.update(_detector(patterns, out, values, known_keys))
    out.update(_scan(patterns, out, values, known_keys))
    window = patterns.window(**{key: out[key] for key in ("data_pad", "pixel_size_y_A", "pixel_size_x_A")})
    out.update(choose_slices(values, known_keys, out, window.edge_1A))
    out["obj"] = starting_object(values, out, window.model)
    if "aberrations" in known_keys:
        out["aberrations"] = np.array(values["aberrations"], float)
    if "defocus" in known_keys and "extra_probe_defocus" not in known_keys:
        out["extra_probe_defocus"] = float(values["defocus"])
    if values["plot"]:
        _log.warning(
            "plot: no figure is shown here; see pypty.plots, or  pypty check FILE --report report.html"
        )
    check_all(out)
    _save(out, bool(values["save_preprocessing_files"]))
    return out


def _read(out: Mapping[str, Any], values: Mapping[str, Any], report: Report) -> _Patterns:
    """The patterns, if nothing is wrong: problems with them are reported together with those found before."""
    found: list[_Patterns] = []
    known = not any(report.has(key) for key in _DATA_KEYS)
    steps: list[Callable[[], object]] = [lambda: found.append(_Patterns(out))] if known else []
    if values["aperture"] is not None:
        steps.append(lambda: _aperture(values["aperture"], found[0].prepared(found[0].mean).shape))
    if values["special_postions_A"] is not None:
        steps.append(lambda: _special_points(values["special_postions_A"], found[0].n))
    elif not report.has("scan_size"):
        steps.append(lambda: _size(found[0], out))
    errors: list[PyptyError] = []
    for step in steps if known else ():
        try:
            step()
        except PyptyError as error:
            errors.append(error)
            report.note_error(error)
            if not found:
                break
    if len(errors) == len(report.problems) == 1:
        raise errors[0]  # as it is: also errors of the data keep their type
    report.raise_if_any()
    return found[0]


def _base(pypty_params: Mapping[str, Any] | str | Path | None, values: Mapping[str, Any]) -> dict[str, Any]:
    if pypty_params is None:
        base: dict[str, Any] = {}
    else:
        base = dict(pypty_params) if isinstance(pypty_params, Mapping) else load_preset(pypty_params)
    if values.get("dataset") is not None:
        base.pop("data_path", None)
    elif values.get("data_path"):
        base.pop("dataset", None)
    for key in ("comx", "comy", "positions_correction", "obj"):  # they belong to other positions or data
        base.pop(key, None)
    if values["erase_probe"]:
        base.pop("probe", None)
    return base


class _Patterns:
    """Shape and mean of the data.

    Attributes
    ----------
    settings : checked parameters that concern the data
    mean : (ky, kx) mean as recorded, 0 on NaN and masked pixels; with masks, sum of masks weighted by their mean sums
    n : number of patterns
    layout : (slow, fast) if the data have four axes, else None
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.settings: Settings = checked({key: params[key] for key in _DATA_KEYS if key in params})
        source = open_source(self.settings)
        if source is None:
            raise ParameterError("no patterns were given; set dataset to an array, or data_path to a file")
        try:
            self.n = int(source.shape[0])
            per_pattern = 8 * source.shape[1] * source.shape[2]
            step = max(1, _CHUNK_BYTES // per_pattern)
            # Sums and numbers of valid values of each pixel, as NaN marks missing ones.
            total, seen = np.zeros(source.shape[1:]), np.zeros(source.shape[1:])
            for start in range(0, self.n, step):
                chunk = source.read(np.arange(start, min(start + step, self.n)))
                total += np.nansum(chunk, axis=0, dtype=np.float64)
                seen += np.count_nonzero(~np.isnan(chunk), axis=0)
            self.layout = source.scan
        finally:
            source.close()
        mean = self._without_dead(total / np.maximum(seen, 1))
        masks = self.settings["masks"]
        # With masks: (D,) mean sums x (D, ky, kx) -> (ky, kx)
        self.mean = mean if masks is None else np.tensordot(mean[0], masks, axes=1)
        if not (np.isfinite(self.mean).all() and self.mean.max() > 0):
            raise ParameterError("the mean pattern has no counts, or is infinite; correct the data")

    def _without_dead(self, mean: np.ndarray) -> np.ndarray:
        mask = self.settings["detector_mask"]
        if not isinstance(mask, np.ndarray):
            return mean
        if mask.shape[-2:] != mean.shape:
            raise ParameterError(f"detector_mask has shape {mask.shape}, but patterns are {mean.shape}")
        weights = mask if mask.ndim == 2 else mask.mean(axis=0)  # (N, ky, kx) -> (ky, kx)
        return np.where(weights > 0.5, mean, 0)

    def prepared(self, pattern: np.ndarray) -> np.ndarray:
        """A recorded pattern after flip, shift and binning."""
        return Preprocess.from_settings(self.settings).unpadded.patterns(pattern)

    def window(self, **changes: Any) -> Window:
        """The window of these patterns, with other values of ``data_pad`` or of the pixel sizes."""
        ky, kx = self.prepared(self.mean).shape
        return Window.of(self.settings.replaced(**changes), (ky, kx))


def _detector(
    patterns: _Patterns, out: Mapping[str, Any], values: Mapping[str, Any], known_keys: set[str]
) -> dict[str, Any]:
    """Aperture, padding, and pixel sizes of detector and reconstruction."""
    mean = patterns.prepared(patterns.mean)
    plain = patterns.window()
    threshold = float(out["bright_threshold"] if out.get("bright_threshold") is not None else 0.1)
    disk = (
        mean > threshold * mean.max()
        if values["aperture"] is None
        else _aperture(values["aperture"], mean.shape)
    )
    radius = math.sqrt(float(disk.sum()) / math.pi)  # px, of a circle with the area of the disk
    wavelength = wavelength_A(out["acc_voltage"])
    if values.get("rez_pixel_size_mrad") is not None and "rez_pixel_size_mrad" in known_keys:
        rez = float(values["rez_pixel_size_mrad"]) * 1e-3 / wavelength * plain.detector_pixels
    elif out.get("rez_pixel_size_A") is not None:
        rez = float(out["rez_pixel_size_A"]) * plain.detector_pixels
    else:  # check_values: one of the three is there
        rez = float(out["conv_semiangle_mrad"]) * 1e-3 / (radius * wavelength)
    pad = out.get("data_pad")
    if pad is None:
        up = plain.upsample
        # A quarter of the width in model pixels, a multiple of upsample_pattern.
        pad = 0 if plain.match else math.ceil(up * mean.shape[1] / 4 / up) * up
    window = patterns.window(data_pad=int(pad)).calibrated((rez, rez))
    angle = out.get("conv_semiangle_mrad")
    return {
        "mean_pattern": np.maximum(patterns.mean, 0),  # read-out noise may be negative
        "aperture_mask": window.mask_on_model(disk),
        "bright_threshold": threshold,
        "rez_pixel_size_A": rez / window.detector_pixels,
        "conv_semiangle_mrad": 1e3 * radius * rez * wavelength if angle is None else float(angle),
        "data_pad": int(pad),
        "pixel_size_y_A": window.pixel_size_A[0],
        "pixel_size_x_A": window.pixel_size_A[1],
    }


def _aperture(aperture: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.asarray(aperture)
    if mask.shape != tuple(shape) or mask.dtype.kind not in "biuf" or not (mask > 0.5).any():
        raise ParameterError(
            f"aperture has shape {mask.shape} and dtype {mask.dtype}; expected a mask {tuple(shape)}, 1 inside"
        )
    return mask > 0.5


def _scan(
    patterns: _Patterns, out: Mapping[str, Any], values: Mapping[str, Any], known_keys: set[str]
) -> dict[str, Any]:
    """Positions, scan step and rotation."""
    pixel = np.array([out["pixel_size_y_A"], out["pixel_size_x_A"]])
    special = values["special_postions_A"]
    rotation = values.get("PLRotation_deg", "auto")
    measured = rotation is None or isinstance(rotation, str)
    if special is not None:
        points = _special_points(special, patterns.n)
        return {
            "positions": (points - points.min(axis=0)) / pixel,
            "PLRotation_deg": 0.0 if measured else float(rotation),
        }
    size = _size(patterns, out)
    step = _step(size, out, values)
    changes: dict[str, Any] = {"scan_size": size, "scan_step_A": step}
    if measured:
        changes.update(_measured({**out, **changes}, values, known_keys))
    else:
        changes["PLRotation_deg"] = float(rotation)
    matrix = values["transform_axis_matrix"]
    points = scan_grid_A(size, step, changes["PLRotation_deg"], matrix)
    points = points[points_of_patterns(out.get("scan_order") or "rows", size, out.get("missing_patterns"))]
    return {**changes, "positions": (points - points.min(axis=0)) / pixel}


def _special_points(special: Any, n: int) -> np.ndarray:
    kind = ArrayOf(((str(n), "2"),))
    if kind.problem(special) is not None:
        raise ParameterError(
            f"special_postions_A: given {brief(special)}, expected ({n}, 2) finite numbers [y, x] in Å"
        )
    return np.asarray(kind.convert(special), float)


def _size(patterns: _Patterns, out: Mapping[str, Any]) -> tuple[int, int]:
    scan_size, layout = out.get("scan_size"), patterns.layout
    if layout is not None:
        layout = size_of_layout(layout, str(out.get("scan_order") or ROWS))
    if scan_size is None:
        side = math.isqrt(patterns.n)
        if layout is not None:
            scan_size = layout
        elif side * side == patterns.n:
            scan_size = (side, side)
            _log.warning(
                "scan_size is not given; the %d patterns are assumed to be a square of %d x %d",
                patterns.n,
                side,
                side,
            )
        else:
            raise ParameterError(
                f"scan_size is not given, and {patterns.n} patterns do not form a square; give (slow, fast)"
            )
    size = (int(scan_size[0]), int(scan_size[1]))
    if layout is not None and size != tuple(layout):
        _log.warning("scan_size %s is used, but the data are stored as %s points", size, layout)
    problem = missing_problem(out.get("missing_patterns"), size, patterns.n)
    if problem:
        raise ParameterError(f"{problem}; or give special_postions_A")
    return size


def _step(size: tuple[int, int], out: Mapping[str, Any], values: Mapping[str, Any]) -> float:
    """Scan step in Å: as given, else from the field of view along the fast axis."""
    step = out.get("scan_step_A")
    if step is None or (values.get("fov_nm") is not None and values.get("scan_step_A") is None):
        if size[1] < 2:
            raise ParameterError(
                "fov_nm does not define the step of a single column of points; give scan_step_A"
            )
        step = 10 * float(values["fov_nm"]) / (size[1] - 1)  # nm -> Å
    return float(step)


def _measured(out: Mapping[str, Any], values: Mapping[str, Any], known_keys: set[str]) -> dict[str, Any]:
    keys = {*_DATA_KEYS, "data_pad", "pixel_size_x_A", "pixel_size_y_A", "aperture_mask", "rez_pixel_size_A"}
    keys |= {"scan_size", "scan_order", "missing_patterns", "scan_step_A", "conv_semiangle_mrad"}
    params = {key: out[key] for key in keys if key in out}
    beam = {"aberrations": out.get("aberrations"), "extra_probe_defocus": out.get("extra_probe_defocus", 0.0)}
    if "aberrations" in known_keys:
        beam["aberrations"] = values["aberrations"]
    if "defocus" in known_keys and "extra_probe_defocus" not in known_keys:
        beam["extra_probe_defocus"] = values["defocus"]
    experiment = Experiment.from_params({**params, **beam})
    try:
        result = measure_rotation(experiment)
    finally:
        experiment.source.close()
    y, x = (result.centres - result.centres.mean(axis=0)).T
    return {"PLRotation_deg": result.angle_deg, "comx": x.copy(), "comy": y.copy()}


def _save(out: Mapping[str, Any], wanted: bool) -> None:
    if not (wanted and out.get("output_folder")):
        return
    folder = make_folder(Path(out["output_folder"]).expanduser() / "preprocessing")
    for name in ("mean_pattern", "aperture_mask", "positions", "comx", "comy"):
        if out.get(name) is not None:
            write_array(folder / f"{name}.npy", np.asarray(out[name]))
