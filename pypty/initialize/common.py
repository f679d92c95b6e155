"""Values that the functions of this package derive from a parameter dict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from pypty.data.preprocess import Preprocess
from pypty.data.sources import open_source
from pypty.data.window import Window
from pypty.errors import ParameterError
from pypty.params.reading import read_parameters
from pypty.params.report import Report
from pypty.params.schema import SCHEMA
from pypty.params.settings import Settings


def checked(params: Mapping[str, Any]) -> Settings:
    """Parameters with defaults filled in, each checked on its own; they need not be complete.

    Per-epoch parameters are left out.

    Raises
    ------
    ParameterError
        A value is wrong; the message lists all problems.
    """
    report = Report()
    fixed: dict[str, Any] = {}
    for name, parameter in SCHEMA.items():
        if parameter.per_epoch:
            continue
        value = params.get(name, parameter.default)
        problem = parameter.kind.problem(value)
        if problem:
            report.add(name, f"{problem}, expected {parameter.kind.describe()}")
        else:
            fixed[name] = parameter.kind.convert(value)
    report.raise_if_any()
    return Settings(MappingProxyType(fixed), MappingProxyType({}), frozenset(params) & frozenset(SCHEMA))


def check_all(params: Mapping[str, Any]) -> None:
    """Check parameters one by one and against each other; raises ParameterError that lists all problems."""
    report = Report()
    read_parameters(params, report)
    report.raise_if_any()


def pixel_yx_A(settings: Settings) -> np.ndarray:
    """(2,) reconstruction pixel [y, x], Å."""
    return np.array([settings["pixel_size_y_A"], settings["pixel_size_x_A"]], float)


def positions_px(settings: Settings) -> np.ndarray:
    """(N, 2) positions [y, x] in pixels, with positions_correction."""
    correction = settings["positions_correction"]
    uncorrected = np.array(settings["positions"], float)
    return uncorrected if correction is None else uncorrected + correction


def pattern_shape(settings: Settings) -> tuple[int, int]:
    """(ky, kx) of a pattern after binning, without padding, of the data or the masks.

    Raises
    ------
    ParameterError
        Neither data nor masks were given.
    """
    if settings["masks"] is not None:
        ky, kx = settings["masks"].shape[1:]
        return (int(ky), int(kx))
    source = open_source(settings)
    if source is None:
        raise ParameterError("no patterns were given; set dataset to an array, or data_path to a file")
    shape = (int(source.shape[1]), int(source.shape[2]))
    source.close()
    return Preprocess.from_settings(settings).unpadded.pattern_shape(shape)


def model_shape(settings: Settings) -> tuple[int, int]:
    """(ny, nx) of the waves: the shape of aperture_mask or probe if they are arrays, else the padded pattern's."""
    for name in ("aperture_mask", "probe"):
        array = settings.value(name)
        if isinstance(array, np.ndarray) and array.ndim >= 2:
            return (int(array.shape[0]), int(array.shape[1]))
    if settings["simu_Npix"] is not None:
        return (int(settings["simu_Npix"]), int(settings["simu_Npix"]))
    return Window.of(settings, pattern_shape(settings)).model


def raster_of(settings: Settings, params: Mapping[str, Any]) -> tuple[int, int]:
    """Scan points (slow, fast): scan_size, else the first two axes of a 4-D dataset, else a square.

    Raises
    ------
    ParameterError
        None of these.
    """
    scan_size = settings["scan_size"]
    if scan_size is not None:
        return (int(scan_size[0]), int(scan_size[1]))
    layout: tuple[int, ...] = getattr(params.get("dataset"), "shape", ())
    if len(layout) == 4:
        return (int(layout[0]), int(layout[1]))
    n = len(settings["positions"])
    side = math.isqrt(n)
    if "positions" in settings.set_by_user and n > 1 and side * side == n:
        return (side, side)
    raise ParameterError("scan_size is not given; give the scan points (slow, fast)")
