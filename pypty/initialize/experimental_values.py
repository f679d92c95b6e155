"""Settings of an experiment: those that the user gives, and those in files beside the data."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py

from pypty.errors import DataError, ParameterError
from pypty.params.kinds import ArrayOf, FilePath, Number, brief
from pypty.params.reading import read_keys
from pypty.params.report import Report
from pypty.params.schema import SCHEMA
from pypty.readers import params_of, read_nion_json

_log = logging.getLogger(__name__)

OWN_KEYS: Mapping[str, Any] = MappingProxyType(
    {
        "aperture": None,
        "special_postions_A": None,
        "special_positions_A": None,
        "slice_thickness": "auto",
        "num_obj_modes": None,
        "obj_phase_sigma": 1.0,
        "plot": False,
        "save_preprocessing_files": True,
        "erase_probe": False,
        "transform_axis_matrix": None,
        "chemical_fomula": None,
    }
)
"""Keys of experimental_params that are not parameters of a reconstruction, with their defaults. special_postions_A and
chemical_fomula are PyPty's spelling."""

_COMPUTED = ("positions", "obj", "mean_pattern")
_FROM_THE_DETECTOR = ("pixel_size_x_A", "pixel_size_y_A")
_DETECTOR = ("rez_pixel_size_mrad", "rez_pixel_size_A", "conv_semiangle_mrad")


def read_values(experimental_params: Mapping[str, Any], report: Report) -> tuple[dict[str, Any], set[str]]:
    """Complete experimental parameters from files; also returns the names of those with a value.

    Keys that are unknown, or are computed by :func:`pypty.initialize.append_exp_params`, are problems, and are left
    out.

    Raises
    ------
    ParameterError
        The parameters are not a dict.
    """
    if not isinstance(experimental_params, Mapping):
        raise ParameterError(f"experimental_params is {type(experimental_params).__name__}, expected a dict")
    unknown = [key for key in experimental_params if key not in OWN_KEYS and key not in SCHEMA]
    if unknown:
        names = [*OWN_KEYS, *SCHEMA]
        texts = [
            f"{key!r}"
            + "".join(f" (did you mean {near!r}?)" for near in difflib.get_close_matches(str(key), names, 1))
            for key in unknown
        ]
        report.problems.append(f"experimental_params has unknown keys: {', '.join(texts)}")
    experimental_params = _calibrated(
        {key: value for key, value in experimental_params.items() if key not in unknown}
    )
    computed = [key for key in (*_COMPUTED, *_FROM_THE_DETECTOR) if experimental_params.get(key) is not None]
    if computed:
        report.problems.append(
            f"experimental_params has {', '.join(computed)}, which are computed here; give special_postions_A, "
            "aperture, or the pixel size of the detector, or edit the returned dict"
        )
        experimental_params = {
            key: value for key, value in experimental_params.items() if key not in computed
        }
    values = {**OWN_KEYS, **experimental_params}
    if values["chemical_fomula"] is not None and values.get("chemical_formula") is None:
        experimental_params = {**experimental_params, "chemical_formula": values["chemical_fomula"]}
        values["chemical_formula"] = values["chemical_fomula"]
    if values["special_postions_A"] is None:
        values["special_postions_A"] = values["special_positions_A"]
    known_keys = {key for key, value in experimental_params.items() if value is not None}
    if {"rez_pixel_size_A", "rez_pixel_size_mrad", "conv_semiangle_mrad"} & known_keys:
        known_keys |= {
            "rez_pixel_size_A",
            "rez_pixel_size_mrad",
        }  # the same quantity: ignore its value in files
    if "fov_nm" in known_keys:
        known_keys.add("scan_step_A")
    # The JSON file takes precedence over values in the data file.
    wrong = [key for key in ("path_json", "data_path") if values.get(key) and FilePath().problem(values[key])]
    for key in wrong:
        report.add(key, f"given {brief(values[key])}, expected a path")
    for source in () if wrong else (_beside(values), _in_file(values)):
        for key, value in source.items():
            if key not in known_keys:
                _log.info(
                    "%s = %s is read from %s", key, value, values.get("path_json") or values.get("data_path")
                )
                values[key] = value
                known_keys.add(key)
    return values, known_keys


def check_values(values: Mapping[str, Any], out: Mapping[str, Any], report: Report) -> None:
    """What can be said before the data are read: every key on its own, and values without which nothing can be
    calibrated.

    Parameters
    ----------
    values : of the experiment
    out : those of the reconstruction, with the values of the experiment that are its parameters
    """
    # None of an experiment is "not given", for any key
    read_keys({key: value for key, value in out.items() if value is not None}, report)
    if all(out.get(key) is None and values.get(key) is None for key in _DETECTOR):
        report.problems.append(
            "the pixel size of the detector is unknown; give rez_pixel_size_mrad, rez_pixel_size_A or "
            "conv_semiangle_mrad"
        )
    for key in (*_DETECTOR, "scan_step_A", "fov_nm", "total_thickness"):
        value = values.get(key) if out.get(key) is None else out[key]
        if value is not None and not report.has(key) and not _is_positive(value):
            report.add(key, f"given {brief(value)}, expected a positive number")
    thickness, modes = values["slice_thickness"], values["num_obj_modes"]
    if not (thickness is None or thickness == "auto" or _is_positive(thickness)):
        report.add(
            "slice_thickness", f"given {brief(thickness)}, expected a positive number in Å, 'auto' or None"
        )
    if modes is not None and Number(0, 2**20, integer=True).problem(modes):
        report.add("num_obj_modes", f"given {brief(modes)}, expected a number of modes, or None")
    if modes and (not _is_number(values["obj_phase_sigma"]) or values["obj_phase_sigma"] < 0):
        report.add(
            "obj_phase_sigma", f"given {brief(values['obj_phase_sigma'])}, expected a number of rad >= 0"
        )
    nominal = values.get("defocus")
    if nominal is not None and not _is_number(nominal):
        report.add("defocus", f"given {brief(nominal)}, expected a number in Å")
    if values["special_postions_A"] is None:
        if values.get("fov_nm") is None and out.get("scan_step_A") is None:
            report.problems.append("neither scan_step_A nor fov_nm is given; positions need one of them")
        rotation, matrix = values.get("PLRotation_deg", "auto"), values["transform_axis_matrix"]
        if not (rotation is None or rotation == "auto" or _is_number(rotation)):
            report.add("PLRotation_deg", f"given {brief(rotation)}, expected degrees, or 'auto'")
        if matrix is not None and not _are_numbers(matrix, (2, 2)):
            report.add("transform_axis_matrix", f"given {brief(matrix)}, expected 2 x 2 numbers")


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    return ArrayOf((tuple(str(n) for n in shape),)).problem(value) is None


def _is_number(value: Any) -> bool:
    return Number().problem(value) is None


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _calibrated(params: Mapping[str, Any]) -> dict[str, Any]:
    """Adapt results of :mod:`pypty.calibrate`: rename the aperture, and drop the pixel size of the reconstruction if
    that of the detector is known, from which it is computed."""
    out = dict(params)
    mask = out.pop("aperture_mask", None)
    if out.get("aperture") is None:
        out["aperture"] = mask
    if any(out.get(key) is not None for key in _DETECTOR):
        for key in _FROM_THE_DETECTOR:
            out.pop(key, None)
    return out


def _beside(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of path_json: acc_voltage, scan_size, scan_step_A, rez_pixel_size_*, and defocus."""
    if not values.get("path_json"):
        return {}
    return read_nion_json(Path(values["path_json"]).expanduser()).params()


def _in_file(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that ``pypty import`` wrote beside the patterns, except the nominal defocus."""
    if values.get("dataset") is not None or not values.get("data_path"):
        return {}
    path = Path(values["data_path"]).expanduser()
    if (
        path.suffix.lower() not in (".h5", ".hdf5", ".hdf", ".nxs")
        or not path.is_file()
        or not h5py.is_hdf5(path)
    ):
        return {}
    try:
        stored = params_of(path)
    except DataError:  # files of other origin hold no such values
        return {}
    return {key: value for key, value in stored.items() if key not in ("data_path", "data_key", "defocus")}


def was_flipped(path: str | Path | None, key: str) -> bool:
    """Whether :func:`pypty.initialize.create_pypty_data` already reversed ky when it wrote this file."""
    if not path:
        return False
    chosen = Path(path).expanduser()
    if not chosen.is_file() or not h5py.is_hdf5(chosen):
        return False
    with h5py.File(chosen, "r") as file:
        dataset = file.get(key)
        return isinstance(dataset, h5py.Dataset) and bool(dataset.attrs.get("flip_ky", False))
