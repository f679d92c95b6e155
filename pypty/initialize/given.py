"""What a user says about the experiment, and what files beside the data say."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py

from pypty.errors import DataError, ParameterError
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
"""Keys of experimental_params that are no parameters of a reconstruction, with defaults; two as PyPty spells them."""

_COMPUTED = ("positions", "obj", "mean_pattern")
_FROM_THE_DETECTOR = ("pixel_size_x_A", "pixel_size_y_A")
_DETECTOR = ("rez_pixel_size_mrad", "rez_pixel_size_A", "conv_semiangle_mrad")


def read_given(experimental_params: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Experimental parameters with what files say filled in, and the names that the user gave a value.

    Raises
    ------
    ParameterError
        An unknown key.
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
        raise ParameterError(f"experimental_params has unknown keys: {', '.join(texts)}")
    experimental_params = _calibrated(experimental_params)
    computed = [key for key in (*_COMPUTED, *_FROM_THE_DETECTOR) if experimental_params.get(key) is not None]
    if computed:
        raise ParameterError(
            f"experimental_params has {', '.join(computed)}, which are computed here; give special_postions_A, "
            "aperture, or the detector's pixel, or change the returned dict"
        )
    found = {**OWN_KEYS, **experimental_params}
    if found["chemical_fomula"] is not None and found.get("chemical_formula") is None:
        experimental_params = {**experimental_params, "chemical_formula": found["chemical_fomula"]}
        found["chemical_formula"] = found["chemical_fomula"]
    if found["special_postions_A"] is None:
        found["special_postions_A"] = found["special_positions_A"]
    given = {key for key, value in experimental_params.items() if value is not None}
    if {"rez_pixel_size_A", "rez_pixel_size_mrad", "conv_semiangle_mrad"} & given:
        given |= {"rez_pixel_size_A", "rez_pixel_size_mrad"}  # one quantity: files do not add another value
    if "fov_nm" in given:
        given.add("scan_step_A")
    for source in (_beside(found), _in_file(found)):
        for key, value in source.items():
            if key not in given:
                _log.info(
                    "%s = %s is taken from %s", key, value, found.get("path_json") or found.get("data_path")
                )
                found[key] = value
                given.add(key)
    return found, given


def _calibrated(given: Mapping[str, Any]) -> dict[str, Any]:
    """Results of :mod:`pypty.calibrate` as they are taken here: the aperture under its own name, and no pixel of the
    reconstruction beside that of the detector, from which it is computed."""
    out = dict(given)
    mask = out.pop("aperture_mask", None)
    if out.get("aperture") is None:
        out["aperture"] = mask
    if any(out.get(key) is not None for key in _DETECTOR):
        for key in _FROM_THE_DETECTOR:
            out.pop(key, None)
    return out


def _beside(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of path_json: acc_voltage, scan_size, scan_step_A, rez_pixel_size_*, and defocus."""
    if not found.get("path_json"):
        return {}
    return read_nion_json(Path(found["path_json"]).expanduser()).params()


def _in_file(found: Mapping[str, Any]) -> dict[str, Any]:
    """What ``pypty import`` wrote beside the patterns; a nominal defocus is not applied."""
    if found.get("dataset") is not None or not found.get("data_path"):
        return {}
    path = Path(found["data_path"]).expanduser()
    if (
        path.suffix.lower() not in (".h5", ".hdf5", ".hdf", ".nxs")
        or not path.is_file()
        or not h5py.is_hdf5(path)
    ):
        return {}
    try:
        said = params_of(path)
    except DataError:  # a file of other origin says nothing of this kind
        return {}
    return {key: value for key, value in said.items() if key not in ("data_path", "data_key", "defocus")}


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
