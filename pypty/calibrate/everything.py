"""All calibrations in their order, each with what the ones before it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pypty.calibrate.defects import defects
from pypty.calibrate.defocus import defocus
from pypty.calibrate.descan import descan
from pypty.calibrate.disk import disk
from pypty.calibrate.orientation import THICK, orientation
from pypty.calibrate.specimen import known_thickness, specimen
from pypty.calibrate.suggestion import Suggestion
from pypty.errors import ParameterError, PyptyError
from pypty.experiment import CALIBRATED, Experiment
from pypty.plots.calibration import plot_overview

_DEPTHS = 2.0
"""Depths of focus from which a given thickness is called thick."""
Step = Callable[[Mapping[str, Any]], Suggestion]


def everything(params: Mapping[str, Any]) -> Suggestion:
    """Defects, disk, orientation, descan, defocus and, if it is thick, the specimen, in this order.

    Bad pixels would pull at the disk; the disk gives pixel size and centre; the orientation may flip the
    detector, and then the disk is measured again; the defocus needs all of them. Where more than 3 % of the counts are
    outside the disk, or ``total_thickness`` is more than two depths of focus, multislice fits (:func:`specimen`, about
    a minute) decide about half a turn and the defocus.

    Parameters
    ----------
    params : parameters of the data with ``acc_voltage``, ``scan_size``, ``scan_step_A`` and
        ``conv_semiangle_mrad`` or a pixel size

    Returns
    -------
    Suggestion
        All suggested parameters, and the values of each calibration with its name before them
        (``"disk.radius_px"``); ``failed`` names those, after the disk, that could not be done; the text says
        why. The figure shows all of them.

    Raises
    ------
    DataError, ParameterError
        The data cannot be read, or there is no disk: nothing else makes sense then.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(
            f"params is {type(params).__name__}, expected a dict; pypty.load_preset reads a file"
        )
    Experiment.from_params(params, needs=CALIBRATED).source.close()
    found: dict[str, Suggestion] = {}
    failed: dict[str, str] = {}
    now = dict(params)

    def take(name: str, step: Step, needed: bool = False) -> None:
        try:
            found[name] = step(now)
        except PyptyError as error:
            if needed:
                raise
            failed[name] = str(error)
        else:
            now.update(found[name].apply({}))

    take("defects", defects)
    take("disk", disk, needed=True)
    take("orientation", orientation)
    if "orientation" in found and "data_shift_vector" in found["orientation"].params:
        take("disk", disk, needed=True)
    take("descan", descan)
    if "pixel_mrad" in found["disk"].values:
        take("defocus", defocus)
    else:
        failed["defocus"] = "it needs the pixel size: give conv_semiangle_mrad or rez_pixel_size_mrad"
    if "defocus" in found and "orientation" in found and _is_thick(now, found):
        near = float(found["defocus"].values["C10_A"])
        take("specimen", lambda given: specimen(given, near))
    named = [
        Suggestion(one.params, {f"{name}.{key}": value for key, value in one.values.items()}, one.text)
        for name, one in found.items()
    ]
    figures = {name: one.figure for name, one in found.items() if one.figure is not None}
    notes = [f"{name}: not done: {reason}" for name, reason in failed.items()]
    last = Suggestion({}, {"failed": tuple(failed)}, "\n".join(notes))
    return named[0].merge(*named[1:], last, figure=plot_overview(list(figures.values()), list(figures)))


def _is_thick(params: Mapping[str, Any], found: Mapping[str, Suggestion]) -> bool:
    """Whether a weak object is no model of the specimen, by the dark field or by the given thickness."""
    if found["orientation"].values["outside_disk"] > THICK:
        return True
    experiment = Experiment.from_params(params)
    experiment.source.close()
    thickness = known_thickness(experiment)
    angle = 1e-3 * found["disk"].values["radius_px"] * found["disk"].values["pixel_mrad"]
    return thickness is not None and thickness > _DEPTHS * experiment.wavelength / angle**2
