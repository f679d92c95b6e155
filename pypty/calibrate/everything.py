"""All calibrations in a fixed order, each using the results of those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pypty.calibrate.defects import defects
from pypty.calibrate.defocus import defocus
from pypty.calibrate.descan import descan
from pypty.calibrate.disk import disk
from pypty.calibrate.orientation import THICK, orientation
from pypty.calibrate.scan_order import scan_order
from pypty.calibrate.specimen import known_thickness, specimen
from pypty.calibrate.suggestion import Suggestion
from pypty.errors import ParameterError, PyptyError
from pypty.experiment import CALIBRATED, Experiment
from pypty.plots.calibration import plot_overview

_DEPTHS = 2.0
"""Thickness, in depths of focus, above which a specimen counts as thick."""
Step = Callable[[Mapping[str, Any]], Suggestion]


def everything(params: Mapping[str, Any]) -> Suggestion:
    """Defects, order of the scan, disk, orientation, descan, defocus and, if it is thick, the specimen, in this order.

    If there are fewer patterns than scan points, the missing ones are searched for first. Bad pixels would bias the
    disk; the disk gives pixel size and centre; the orientation may flip the detector, after
    which the disk is measured again; the defocus needs all of them. If more than 3 % of the counts are outside the
    disk, or ``total_thickness`` exceeds two depths of focus, multislice fits (:func:`specimen`, about a minute) decide
    about half a turn and the defocus.

    Parameters
    ----------
    params : parameters of the data with ``acc_voltage``, ``scan_size``, ``scan_step_A`` and
        ``conv_semiangle_mrad`` or a pixel size

    Returns
    -------
    Suggestion
        All suggested parameters, and the values of each calibration with its name as a prefix (``"disk.radius_px"``);
        ``failed`` names the calibrations after the disk that could not be done, and the text says why; ``unsure`` has
        all reasons why a result is not to be trusted. The figure shows all of them.

    Raises
    ------
    DataError, ParameterError
        The data cannot be read, there is no disk, which all other calibrations need, or it is not clear which patterns
        are missing.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(
            f"params is {type(params).__name__}, expected a dict; pypty.load_preset reads a file"
        )
    done: dict[str, Suggestion] = {}
    failed: dict[str, str] = {}
    now = _complete(params, done)

    def take(name: str, step: Step, needed: bool = False) -> None:
        try:
            done[name] = step(now)
        except PyptyError as error:
            if needed:
                raise
            failed[name] = str(error)
        else:
            # later calibrations start from the parameters suggested so far
            now.update(done[name].apply({}))

    take("defects", defects)
    if "scan_order" not in done:
        take("scan_order", scan_order)
    take("disk", disk, needed=True)
    take("orientation", orientation)
    # a flip of the detector moves the disk
    if "orientation" in done and "data_shift_vector" in done["orientation"].params:
        take("disk", disk, needed=True)
    take("descan", descan)
    if "pixel_mrad" in done["disk"].values:
        take("defocus", defocus)
    else:
        failed["defocus"] = "it needs the pixel size: give conv_semiangle_mrad or rez_pixel_size_mrad"
    if "defocus" in done and "orientation" in done and _is_thick(now, done):
        near = float(done["defocus"].values["C10_A"])
        take("specimen", lambda current: specimen(current, near))
    named = [
        Suggestion(result.params, {f"{name}.{key}": v for key, v in result.values.items()}, result.text)
        for name, result in done.items()
    ]
    figures = {name: result.figure for name, result in done.items() if result.figure is not None}
    notes = [f"{name}: not done: {reason}" for name, reason in failed.items()]
    doubts = [
        f"{name}: {reason}"
        for name, result in done.items()
        for key in ("unsure", "half_turn_unsure")
        for reason in result.values.get(key, ())
    ]
    doubts += [f"{name}: not done" for name in failed]
    notes += [f"{name}: UNSURE: it stays as the parameters say" for name in failed]
    last = Suggestion({}, {"failed": tuple(failed), "unsure": tuple(doubts)}, "\n".join(notes))
    return named[0].merge(*named[1:], last, figure=plot_overview(list(figures.values()), list(figures)))


def _complete(params: Mapping[str, Any], done: dict[str, Suggestion]) -> dict[str, Any]:
    """The parameters, with the points of missing patterns if there are any and it is clear which."""
    try:
        Experiment.from_params(params, needs=CALIBRATED).source.close()
    except ParameterError as error:
        if "missing_patterns" not in str(error) or params.get("missing_patterns") is not None:
            raise
        found = scan_order(params)
        if "missing_patterns" not in found.params:
            raise ParameterError(f"{error}. {found.text}") from error
        done["scan_order"] = found
        Experiment.from_params(found.apply(params), needs=CALIBRATED).source.close()
        return found.apply(params)
    return dict(params)


def _is_thick(params: Mapping[str, Any], done: Mapping[str, Suggestion]) -> bool:
    """Whether the specimen is too thick for a weak object, by its dark field or by the given thickness."""
    if done["orientation"].values["outside_disk"] > THICK:
        return True
    experiment = Experiment.from_params(params)
    experiment.source.close()
    thickness = known_thickness(experiment)
    # rad
    angle = 1e-3 * done["disk"].values["radius_px"] * done["disk"].values["pixel_mrad"]
    return thickness is not None and thickness > _DEPTHS * experiment.wavelength / angle**2
